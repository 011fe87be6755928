/* SPDX-License-Identifier: MIT
 * Exact search over stored vectors. A batch of queries is multiplied with a batch of rows like a matrix product. Only a
 * row whose product says that it may be within the threshold, rounding errors included, gets its distance, from the
 * same kernel for one query as for many. So an answer and its bits do not depend on the batch. */
#include <float.h>

#include "assign/int8.h"
#include "exact/stored.h"
#include "isa/kernels.h"
#include "parallel.h"
#include "portable.h"
#include "results.h"

enum {
    ROW_BATCH = 96,
    QUERY_BATCH = 64,       /* the numbers that at_least compares: one word says which queries a row may answer */
    DIRECT_BATCH = 4,       /* fewer queries than these are compared row by row */
    MIN_RANGE_ROWS = 1024,  /* per task, where the rows are shared among threads */
    MIN_SMALL_QUERIES = 64, /* a small index is packed for no fewer queries, */
    MIN_SMALL_K = 8,        /* and without int8 products for no fewer neighbours */
    POLL_ROWS = 1 << 12     /* between two questions whether to stop */
};

typedef struct {
    const fpq_kernels *kern;
    const fpq_matrix *x;
    const float *norms, *queries;
    int64_t nq, batch;
    const fpq_selector *selector;
    fpq_metric metric;
    float slack; /* twice the relative error of a sum of d products */
    int64_t ranges, range_rows;
    const fpq_answers *answers; /* of query i in range r: number i * ranges + r */
} search;

/* The scratch memory holds packed queries, rows, products and one row. */
static size_t scratch_size(int64_t d) {
    return ((size_t)d * (ROW_BATCH + QUERY_BATCH + 1) + (size_t)ROW_BATCH * QUERY_BATCH) * sizeof(float);
}

static void search_direct(const search *s, const float *queries, int n, int64_t from, int64_t to, fpq_results *results,
                          float *scratch, fpq_poll *poll) {
    for (int64_t r = from; r < to; r++) {
        if (r % POLL_ROWS == 0 && fpq_stopped(poll)) return;
        for (int i = 0; i < n && fpq_is_allowed(s->selector, r); i++)
            fpq_offer_row(results + i, fpq_distance_to(s->kern, s->x, r, queries + i * s->x->d, s->metric, scratch), r);
    }
}

/* With |x.q - computed| <= slack/2 * (|x|^2 + |q|^2) / 2 + what underflows, a row is within the threshold only if
 *   l2: x.q - |x|^2/2 + slack*|x|^2 >= (|q|^2 - threshold*(1 + slack))/2 - slack*|q|^2,
 *   ip: x.q + slack*|x|^2 >= -threshold - slack*|q|^2. */
static float least_product(const search *s, float q_norm, float threshold) {
    const float underflow = (float)(s->x->d + 16) * 0x1p-120f;
    if (!(fabsf(threshold) < INFINITY)) return -INFINITY;
    if (s->metric == FPQ_IP) return -threshold - s->slack * (q_norm + fabsf(threshold)) - underflow;
    return (q_norm - threshold * (1 + s->slack)) / 2 - s->slack * q_norm - underflow;
}

static void search_by_products(const search *s, const float *queries, int n, int64_t from, int64_t to,
                               fpq_results *results, float *scratch, fpq_poll *poll) {
    const int d = (int)s->x->d;
    float *packed = scratch, *rows = packed + (ptrdiff_t)d * QUERY_BATCH, *products = rows + (ptrdiff_t)d * ROW_BATCH;
    float *row = products + (ptrdiff_t)ROW_BATCH * QUERY_BATCH;
    const uint64_t present = n < QUERY_BATCH ? ((uint64_t)1 << n) - 1 : ~(uint64_t)0;
    FPQ_ALIGN(64) float least[QUERY_BATCH];
    float q_norm[QUERY_BATCH];
    uint64_t overflows = 0; /* queries whose products say nothing, as their squared length is not finite */
    fpq_pack(queries, n, d, d, NULL, packed);
    for (int i = 0; i < QUERY_BATCH; i++) {
        q_norm[i] = i < n ? s->kern->ip_f32(queries + (ptrdiff_t)i * d, queries + (ptrdiff_t)i * d, d) : 0;
        least[i] = i < n ? least_product(s, q_norm[i], results[i].threshold) : INFINITY;
        overflows |= (uint64_t)!(q_norm[i] < INFINITY) << i;
    }
    for (int64_t r0 = from; r0 < to && !fpq_stopped(poll); r0 += ROW_BATCH) {
        const int count = fpq_batch_size(to - r0, ROW_BATCH, 0);
        s->kern->read_rows(s->x, NULL, r0, count, 0, d, NULL, rows);
        s->kern->project(rows, count, d, packed, NULL, FPQ_COLUMN_BLOCKS(n), products, QUERY_BATCH);
        for (int i = 0; i < count; i++) {
            if (!fpq_is_allowed(s->selector, r0 + i)) continue;
            const float norm = s->norms[r0 + i];
            const float shift = s->slack * norm - (s->metric == FPQ_IP ? 0 : norm / 2);
            uint64_t near = present;
            if (norm < INFINITY)
                near &= overflows | s->kern->at_least(products + (ptrdiff_t)i * QUERY_BATCH, shift, least);
            for (; near; near &= near - 1) {
                const int q = fpq_lowest_bit(near);
                const float *query = queries + (ptrdiff_t)q * d;
                fpq_offer_row(results + q, fpq_distance_to(s->kern, s->x, r0 + i, query, s->metric, row), r0 + i);
                least[q] = least_product(s, q_norm[q], results[q].threshold);
            }
        }
    }
}

static void search_batch(void *context, int64_t task, fpq_worker *worker) {
    const search *s = context;
    const int64_t batch = task / s->ranges, range = task % s->ranges, first = batch * s->batch;
    const int64_t from = range * s->range_rows, to = from + s->range_rows < s->x->n ? from + s->range_rows : s->x->n;
    const int n = fpq_batch_size(s->nq, s->batch, batch);
    fpq_results results[QUERY_BATCH];
    for (int i = 0; i < n; i++)
        results[i] = fpq_results_of(s->answers, (first + i) * s->ranges + range, s->selector->ids);
    (s->batch == DIRECT_BATCH ? search_direct : search_by_products)(
        s, s->queries + first * s->x->d, n, from, to, results, (float *)(void *)worker->scratch, worker->poll);
    for (int i = 0; i < n; i++)
        if (fpq_results_finish(results + i, s->answers, (first + i) * s->ranges + range)) fpq_fail(worker);
}

static int search_small(const fpq_matrix *x, const float *queries, int64_t nq, const fpq_selector *selector,
                        fpq_metric metric, const fpq_answers *answers, int threads) {
    fpq_small_flat *small = fpq_small_flat_make(x, metric);
    const int status = small ? fpq_small_flat_search(small, queries, nq, selector, answers, threads) : -1;
    fpq_small_flat_free(small);
    return status;
}

static int small_is_faster(const fpq_matrix *x, fpq_metric metric, int64_t nq, const fpq_selector *selector,
                           int64_t k) {
    return nq >= MIN_SMALL_QUERIES && !selector->allowed && fpq_small_flat_applies(x, metric, k) &&
           (k >= MIN_SMALL_K || fpq_int8_is_faster(fpq_active(), (int)x->n, (int)x->d));
}

int fpq_flat_search(const fpq_matrix *x, const float *norms, const float *queries, int64_t nq,
                    const fpq_selector *selector, fpq_metric metric, const fpq_answers *answers, int threads) {
    if (small_is_faster(x, metric, nq, selector, answers->k))
        return search_small(x, queries, nq, selector, metric, answers, threads);
    const int by_products = norms && !x->exponent && fpq_has_products(metric);
    search s = {.kern = fpq_active(),
                .x = x,
                .norms = norms,
                .queries = queries,
                .nq = nq,
                .batch = nq < DIRECT_BATCH || !by_products ? DIRECT_BATCH : QUERY_BATCH,
                .selector = selector,
                .metric = metric,
                .slack = (float)(x->d + 16) * FLT_EPSILON};
    const int64_t batches = fpq_batches(nq, s.batch);
    s.ranges = batches >= 2 * threads ? 1 : 2 * threads; /* few batches of queries share the rows among the threads */
    if (s.ranges > x->n / MIN_RANGE_ROWS) s.ranges = x->n / MIN_RANGE_ROWS;
    if (s.ranges < 1) s.ranges = 1;
    s.range_rows = fpq_batches(x->n, s.ranges);
    return fpq_search_ranges(answers, nq, s.ranges, &s.answers, batches * s.ranges, scratch_size(x->d), threads,
                             search_batch, &s);
}

typedef struct {
    const fpq_kernels *kern;
    const fpq_matrix *x;
    float *norms;
} norms_job;

static void norms_of_batch(void *context, int64_t task, fpq_worker *worker) {
    const norms_job *job = context;
    const int d = (int)job->x->d, n = fpq_batch_size(job->x->n, ROW_BATCH, task);
    float *row = (float *)(void *)worker->scratch;
    for (int64_t i = task * ROW_BATCH; i < task * ROW_BATCH + n; i++) {
        job->kern->read_rows(job->x, NULL, i, 1, 0, d, NULL, row);
        job->norms[i] = job->kern->ip_f32(row, row, d);
    }
}

int fpq_flat_norms(const fpq_matrix *x, float *norms, int threads) {
    norms_job job = {fpq_active(), x, norms};
    return fpq_parallel(fpq_batches(x->n, ROW_BATCH), (size_t)x->d * sizeof(float), threads, norms_of_batch, &job);
}
