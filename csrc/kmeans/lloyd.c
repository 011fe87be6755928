/* SPDX-License-Identifier: MIT
 * Lloyd iterations of all subspaces at once (PKMeans of the FPQ paper), as a map over chunks of rows and a reduction.
 * Each chunk has its own sums, which are added in the order of chunks; where chunks begin depends on the data alone. So
 * any number of threads, and any machines that share the chunks, give the same bits. */
#include <math.h>
#include <string.h>

#include "kmeans/yinyang.h"
#include "parallel.h"
#include "portable.h"

enum {
    MIN_CHUNK_ROWS = 1536,         /* Smaller chunks balance threads better, and take more memory for sums. */
    MAX_SUMS_BYTES = 16 << 20,     /* The sums of all chunks; more memory gives more chunks. */
    TASK_ROWS = 4 * FPQ_ROW_BATCH, /* Rows per task where rows are assigned before chunks are summed. */
};

/* An iteration. Rows are assigned and summed by chunks if these give every thread a task and no limit holds. Otherwise
 * tasks of TASK_ROWS rows assign them first, and tasks of one chunk and one subspace sum them afterwards. */
typedef struct {
    const fpq_codebooks *cb;
    const fpq_rows *data;
    const fpq_packed_codebook *packed;
    const fpq_grouped_codebook *grouped; /* NULL without bounds */
    fpq_bounds *bounds;
    const uint8_t *active;
    int chunks, limited;
    int64_t chunk_rows, ld;
    float *sums;      /* NULL: assignment only */
    int64_t *changed; /* (m, chunks) */
    int32_t *ids;
    const int32_t *before; /* the ids of the previous iteration, where sums follow the assignment; NULL otherwise */
    float *errors;
} iteration;

int64_t fpq_kmeans_chunk_rows(int m, int k, int dsub, int64_t n) {
    const int64_t bytes = (int64_t)m * k * (dsub + 1) * (int64_t)sizeof(float);
    int64_t chunks = fpq_batches(n, MIN_CHUNK_ROWS);
    if (chunks > MAX_SUMS_BYTES / bytes) chunks = MAX_SUMS_BYTES / bytes;
    if (chunks < 2) chunks = 2;
    return fpq_batches(fpq_batches(n, chunks), FPQ_ROW_BATCH) * FPQ_ROW_BATCH;
}

/* The table of a chunk and subspace: sums (k, d) of the differences of rows to their centroids, and from k * dsub on
 * the k cluster sizes as int32. */
static size_t table_floats(const fpq_codebooks *cb) { return (size_t)cb->k * (size_t)(cb->dsub + 1); }

static int32_t *cluster_sizes(const fpq_codebooks *cb, float *table) {
    return (int32_t *)(void *)(table + (ptrdiff_t)cb->k * cb->dsub);
}

static float *table_of(const iteration *s, int64_t chunk, int j) {
    return s->sums + ((size_t)j * (size_t)s->chunks + (size_t)chunk) * table_floats(s->cb);
}

static float squared_distance(const fpq_packed_codebook *packed, const float *x, int32_t id) {
    const float *c = packed->packed + (ptrdiff_t)(id / FPQ_COLUMN_BLOCK) * packed->d * FPQ_COLUMN_BLOCK +
                     id % FPQ_COLUMN_BLOCK;
    float sum = 0;
    for (int t = 0; t < packed->d; t++) sum += (x[t] - c[t * FPQ_COLUMN_BLOCK]) * (x[t] - c[t * FPQ_COLUMN_BLOCK]);
    return sum;
}

/* Adds n assigned rows, which are centred, to the sums of their chunk, and counts those that changed their centroid. */
static void sum_rows(const iteration *s, int64_t chunk, int j, const float *x, ptrdiff_t ldx, int n, const int32_t *ids,
                     const int32_t *before) {
    const fpq_packed_codebook *packed = s->packed + j;
    float *table = table_of(s, chunk, j);
    int64_t changed = 0;
    for (int r = 0; r < n; r++) changed += ids[r] != before[r];
    s->changed[j * s->chunks + chunk] += changed;
    fpq_active()->accumulate(x, ldx, n, packed->d, packed->rows, ids, table, cluster_sizes(s->cb, table));
}

/* Assigns the rows of a task of task_rows rows in all active subspaces; with `sum`, the task is a chunk, and its sums
 * are made too. */
static void assign_rows(const iteration *s, int64_t task, int64_t task_rows, int sum, fpq_worker *worker) {
    const ptrdiff_t d = s->data->x.d;
    const int64_t from = task * task_rows, rows = s->data->n - from < task_rows ? s->data->n - from : task_rows;
    float *x = (float *)(void *)worker->scratch;
    char *scratch = worker->scratch + (size_t)FPQ_ROW_BATCH * (size_t)d * sizeof(float);
    int32_t before[FPQ_ROW_BATCH];
    for (int64_t b = 0; b < fpq_batches(rows, FPQ_ROW_BATCH); b++) {
        const int64_t first = from + b * FPQ_ROW_BATCH;
        const int n = fpq_batch_size(rows, FPQ_ROW_BATCH, b);
        fpq_read_centred(fpq_active(), s->packed, s->data, first, n, x);
        for (int j = 0; j < s->cb->m; j++) {
            int32_t *ids = s->ids + j * s->ld + first;
            float *errors = s->errors + j * s->ld + first;
            if (!s->active[j]) continue;
            if (fpq_stopped(worker->poll)) return;
            const fpq_assignment a = {fpq_active(), s->packed + j, s->data, first, x + s->packed[j].from, d, n,
                                      scratch};
            memcpy(before, ids, (size_t)n * sizeof *ids);
            if (s->grouped)
                fpq_yinyang_nearest(&a, s->grouped + j, ids, errors,
                                    s->bounds->bounds + (j * s->ld + first) * s->bounds->groups,
                                    s->bounds->drift + (ptrdiff_t)j * s->bounds->groups);
            else
                fpq_nearest_rows(&a, ids, errors);
            if (sum) sum_rows(s, task, j, a.x, d, n, ids, before);
        }
    }
}

static void assign_task(void *context, int64_t i, fpq_worker *worker) { assign_rows(context, i, TASK_ROWS, 0, worker); }

static void assign_chunk(void *context, int64_t i, fpq_worker *worker) {
    const iteration *s = context;
    assign_rows(s, i, s->chunk_rows, 1, worker);
}

/* The sums of one chunk of assigned rows in one subspace. */
static void sum_chunk(void *context, int64_t task, fpq_worker *worker) {
    const iteration *s = context;
    const int64_t chunk = task / s->cb->m, from = chunk * s->chunk_rows,
                  rows = s->data->n - from < s->chunk_rows ? s->data->n - from : s->chunk_rows;
    const int j = (int)(task % s->cb->m);
    const fpq_packed_codebook *packed = s->packed + j;
    float *x = (float *)(void *)worker->scratch;
    for (int64_t b = 0; s->active[j] && b < fpq_batches(rows, FPQ_ROW_BATCH) && !fpq_stopped(worker->poll); b++) {
        const int64_t first = from + b * FPQ_ROW_BATCH, at = j * s->ld + first;
        const int n = fpq_batch_size(rows, FPQ_ROW_BATCH, b);
        fpq_active()->read_rows(&s->data->x, s->data->rows, first, n, packed->from, packed->from + packed->d,
                                packed->offset, x);
        for (int r = 0; r < n && s->limited; r++)
            s->errors[at + r] = squared_distance(packed, x + (ptrdiff_t)r * packed->d, s->ids[at + r]);
        sum_rows(s, chunk, j, x, packed->d, n, s->ids + at, s->before + at);
    }
}

/* Assignment, then the choice of OpenIndexing if there is a limit, then sums. */
static int assign_then_sum(iteration *s, double limit, size_t scratch, int threads) {
    const int m = s->cb->m, k = s->cb->k;
    const size_t n_ids = (size_t)m * (size_t)s->ld, n_counts = (size_t)m * (size_t)k;
    int32_t *before = fpq_alloc(n_ids * sizeof *before);
    int64_t *counts = fpq_alloc(n_counts * sizeof *counts);
    int status = before && counts ? 0 : -1;
    if (!status) {
        memcpy(before, s->ids, n_ids * sizeof *before);
        memset(counts, 0, n_counts * sizeof *counts);
        s->before = before;
        status = fpq_parallel(fpq_batches(s->data->n, TASK_ROWS), scratch, threads, assign_task, s);
    }
    if (!status && s->limited) status = fpq_open_index(s->cb, s->data, limit, k, 0, s->ids, counts, threads);
    if (!status && s->sums) status = fpq_parallel((int64_t)s->chunks * m, scratch, threads, sum_chunk, s);
    fpq_free(before);
    fpq_free(counts);
    return status;
}

int fpq_kmeans_sums(const fpq_codebooks *cb, const fpq_rows *data, const uint8_t *active, double limit,
                    int64_t chunk_rows, int64_t ld, int32_t *ids, float *errors, fpq_bounds *bounds,
                    const float *drifted, float *sums, int64_t *changed, int threads) {
    const int m = cb->m, chunks = (int)fpq_batches(data->n, chunk_rows);
    const size_t tables = (size_t)m * (size_t)chunks, subspace = (size_t)cb->k * (size_t)cb->dsub;
    const size_t scratch = (size_t)FPQ_ROW_BATCH * (size_t)data->x.d * sizeof(float) + fpq_yinyang_scratch(cb);
    fpq_packed_codebook *packed = fpq_pack_codebooks(cb, threads);
    fpq_grouped_codebook *grouped = bounds->groups && packed ? fpq_group_codebooks(cb, packed, bounds, threads) : NULL;
    int status = packed && (grouped || !bounds->groups) ? 0 : -1;
    iteration s = {.cb = cb,
                   .data = data,
                   .packed = packed,
                   .grouped = grouped,
                   .bounds = bounds,
                   .active = active,
                   .chunks = chunks,
                   .limited = limit > 0,
                   .chunk_rows = chunk_rows,
                   .ld = ld,
                   .sums = sums,
                   .changed = changed,
                   .ids = ids,
                   .errors = errors};
    if (sums) {
        memset(sums, 0, tables * table_floats(cb) * sizeof(float));
        memset(changed, 0, tables * sizeof *changed);
    }
    for (int j = 0; j < m && grouped && drifted; j++)
        fpq_add_drift(grouped + j, drifted + (size_t)j * subspace, cb->centroids + (size_t)j * subspace, cb->dsub,
                      bounds->drift + j * bounds->groups);
    if (!status && sums && !s.limited && chunks >= threads)
        status = fpq_parallel(chunks, scratch, threads, assign_chunk, &s);
    else if (!status)
        status = assign_then_sum(&s, limit, scratch, threads);
    fpq_free(packed);
    fpq_free(grouped);
    return status;
}

typedef struct {
    const fpq_codebooks *cb;
    const uint8_t *active;
    int chunks;
    float *sums;
    int64_t *counts;
} reduction;

/* The means of one block of centroids in one subspace. */
static void reduce_block(void *context, int64_t task, fpq_worker *worker) {
    const reduction *r = context;
    const fpq_codebooks *cb = r->cb;
    const int blocks = FPQ_COLUMN_BLOCKS(cb->k), j = (int)(task / blocks),
              first = (int)(task % blocks) * FPQ_COLUMN_BLOCK;
    const int d = cb->offsets[j + 1] - cb->offsets[j];
    float *tables = r->sums + (size_t)j * (size_t)r->chunks * table_floats(cb);
    (void)worker;
    for (int c = first; r->active[j] && c < first + FPQ_COLUMN_BLOCK && c < cb->k; c++) {
        float *centroid = cb->centroids + ((ptrdiff_t)j * cb->k + c) * cb->dsub;
        int64_t count = 0;
        for (int chunk = 0; chunk < r->chunks; chunk++)
            count += cluster_sizes(cb, tables + (size_t)chunk * table_floats(cb))[c];
        r->counts[(ptrdiff_t)j * cb->k + c] = count;
        for (int t = 0; count && t < d; t++) {
            double sum = 0;
            for (int chunk = 0; chunk < r->chunks; chunk++)
                sum += tables[(size_t)chunk * table_floats(cb) + (size_t)c * (size_t)d + (size_t)t];
            centroid[t] = (float)(centroid[t] + sum / (double)count);
        }
    }
}

int fpq_kmeans_means(const fpq_codebooks *cb, const uint8_t *active, int chunks, float *sums, int64_t *counts,
                     int threads) {
    reduction r = {cb, active, chunks, sums, counts};
    return fpq_parallel((int64_t)cb->m * FPQ_COLUMN_BLOCKS(cb->k), 0, threads, reduce_block, &r);
}

int fpq_kmeans_donors(int k, int64_t n, const int32_t *ids, const float *errors, const int64_t *counts, int64_t *rows) {
    double *error = fpq_alloc((size_t)k * sizeof *error);
    int64_t *worst = fpq_alloc((size_t)k * sizeof *worst);
    const int status = error && worst ? 0 : -1;
    for (int c = 0; !status && c < k; c++) {
        error[c] = 0;
        worst[c] = rows[c] = -1;
    }
    for (int64_t i = 0; !status && i < n; i++) {
        const int32_t c = ids[i];
        error[c] += errors[i];
        if (worst[c] < 0 || errors[i] > errors[worst[c]]) worst[c] = i;
    }
    for (int c = 0; !status && c < k; c++) {
        if (counts[c]) continue;
        int donor = 0;
        for (int other = 1; other < k; other++)
            if (error[other] > error[donor]) donor = other;
        if (!(error[donor] > 0)) break;
        error[donor] = 0;
        rows[c] = worst[donor];
    }
    fpq_free(error);
    fpq_free(worst);
    return status;
}
