/* SPDX-License-Identifier: MIT
 * The exact distances of candidates to stored vectors, and the nearest by these. */
#include "exact/stored.h"
#include "isa/kernels.h"
#include "parallel.h"
#include "portable.h"
#include "results.h"

enum {
    AHEAD = 8,                /* rows that are on their way from memory */
    MIN_TASK_PAIRS = 1 << 14, /* one thread is through with fewer distances before another has begun */
    POLL_ROWS = 1 << 12       /* between two questions whether to stop */
};

static int is_row(const fpq_matrix *x, int64_t row) { return row >= 0 && row < x->n; }

/* out[p]: of the query and row rows[p]; +inf for a number that no row has. scratch: d floats. */
static void distances_to(const fpq_kernels *kern, const fpq_matrix *x, const float *query, fpq_metric metric,
                         const int64_t *rows, int64_t n, float *scratch, float *out) {
    const ptrdiff_t apart = x->col_stride; /* where numbers do not follow each other, the first one must do */
    const ptrdiff_t bytes = apart > 0 && apart <= (ptrdiff_t)sizeof(double) ? x->d * apart : 1;
    for (int64_t r = 0; r < AHEAD && r < n; r++)
        if (is_row(x, rows[r])) fpq_prefetch_lines(x->data + rows[r] * x->row_stride, bytes);
    for (int64_t r = 0; r < n; r++) {
        if (r + AHEAD < n && is_row(x, rows[r + AHEAD]))
            fpq_prefetch_lines(x->data + rows[r + AHEAD] * x->row_stride, bytes);
        out[r] = is_row(x, rows[r]) ? fpq_distance_to(kern, x, rows[r], query, metric, scratch) : INFINITY;
    }
}

/* NaN counts as +inf. */
static void offer(fpq_results *results, float distance, int64_t id) {
    fpq_offer_row(results, distance <= INFINITY ? distance : INFINITY, id);
}

int fpq_rank(const fpq_ranking *ranking, const fpq_answers *answers, int64_t i, const int64_t *ids, int64_t n,
             float *distances) {
    const fpq_matrix *x = &ranking->x;
    const float *query = ranking->queries + (answers->first_query + i) * x->d;
    int64_t *found = fpq_alloc((size_t)n * sizeof(int64_t) + (size_t)x->d * sizeof(float));
    if (!found) return -1;
    if (ranking->rows) fpq_ids_find(ranking->rows, ids, n, found);
    const int64_t *rows = ranking->rows ? found : ids;
    distances_to(fpq_active(), x, query, ranking->metric, rows, n, (float *)(void *)(found + n), distances);
    fpq_answers nearest = *answers;
    nearest.ranking = NULL;
    fpq_results results = fpq_results_of(&nearest, i, (fpq_ids){0});
    for (int64_t p = 0; p < n; p++)
        if (is_row(x, rows[p])) offer(&results, distances[p], ids[p]);
    fpq_free(found);
    return fpq_results_finish(&results, &nearest, i);
}

typedef struct {
    const fpq_kernels *kern;
    const fpq_matrix *x;
    const float *queries;
    const int64_t *rows;
    int64_t n;
    fpq_metric metric;
    float *out;
} distances_job;

static void distances_of_query(void *context, int64_t task, fpq_worker *worker) {
    const distances_job *job = context;
    const float *query = job->queries + task * job->x->d;
    for (int64_t from = task * job->n, end = from + job->n; from < end && !fpq_stopped(worker->poll);) {
        const int64_t n = end - from < POLL_ROWS ? end - from : POLL_ROWS;
        distances_to(job->kern, job->x, query, job->metric, job->rows + from, n, (float *)(void *)worker->scratch,
                     job->out + from);
        from += n;
    }
}

int fpq_flat_distances(const fpq_matrix *x, const float *queries, int64_t nq, const int64_t *rows, int64_t n,
                       fpq_metric metric, float *out, int threads) {
    distances_job job = {fpq_active(), x, queries, rows, n, metric, out};
    return fpq_parallel(nq, (size_t)x->d * sizeof(float), threads, distances_of_query, &job);
}

typedef struct {
    const float *distances;
    const int64_t *ids;
    int64_t nq, n, batch;
    fpq_answers answers;
} smallest_job;

static void smallest_of_batch(void *context, int64_t task, fpq_worker *worker) {
    const smallest_job *job = context;
    const int64_t end = task * job->batch + fpq_batch_size(job->nq, job->batch, task);
    for (int64_t i = task * job->batch; i < end; i++) {
        const float *distances = job->distances + i * job->n;
        const int64_t *ids = job->ids + i * job->n;
        fpq_results results = fpq_results_of(&job->answers, i, (fpq_ids){0});
        for (int64_t p = 0; p < job->n; p++) {
            if (p % POLL_ROWS == 0 && fpq_stopped(worker->poll)) break;
            if (ids[p] >= 0) offer(&results, distances[p], ids[p]);
        }
        fpq_results_finish(&results, &job->answers, i);
    }
}

int fpq_smallest(const float *distances, const int64_t *ids, int64_t nq, int64_t n, int k, float *out, int64_t *out_ids,
                 int threads) {
    smallest_job job = {
        distances, ids, nq, n, MIN_TASK_PAIRS / (n + 1) + 1, {.k = k, .distances = out, .ids = out_ids}};
    return fpq_parallel(fpq_batches(nq, job.batch), 0, threads, smallest_of_batch, &job);
}
