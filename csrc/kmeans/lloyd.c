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
    MIN_CHUNK_ROWS = 1536,     /* Smaller chunks balance threads better, and take more memory for sums. */
    MAX_SUMS_BYTES = 16 << 20, /* The sums of all chunks; more memory gives more chunks. */
    MAX_TASK_BATCHES = 4,      /* Row batches per task where rows are assigned before chunks are summed. */
};

/* An iteration. If the chunks and the subspaces give every thread enough tasks, a task assigns the rows of a chunk in
 * some subspaces and makes their sums. Otherwise tasks of fewer rows and some subspaces assign rows first, unless the
 * ids are given; then a task makes the sums of a chunk and some centroids of a subspace. */
typedef struct {
    const fpq_codebooks *cb;
    const fpq_rows *data;
    const fpq_packed_codebook *packed;
    const fpq_grouped_codebook *grouped; /* NULL without bounds */
    fpq_bounds *bounds;
    const uint8_t *active;
    int chunks, given; /* ids: their errors are to be computed */
    int parts;         /* of the subspaces or, in sum_centroids, of the centroids of a subspace: one per task */
    int64_t task_rows; /* of an assignment */
    int64_t chunk_rows, ld;
    float *sums;      /* NULL: assignment only */
    int64_t *changed; /* (m, chunks) */
    int32_t *ids;
    int32_t *before; /* where sums follow the assignment: gets the ids of the previous iteration; NULL otherwise */
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

static int64_t count_changed(const int32_t *ids, const int32_t *before, int64_t n) {
    int64_t changed = 0;
    for (int64_t i = 0; i < n; i++) changed += ids[i] != before[i];
    return changed;
}

static float squared_distance(const fpq_packed_codebook *packed, const float *x, int32_t id) {
    const float *c = packed->packed + (ptrdiff_t)(id / FPQ_COLUMN_BLOCK) * packed->d * FPQ_COLUMN_BLOCK +
                     id % FPQ_COLUMN_BLOCK;
    float sum = 0;
    for (int t = 0; t < packed->d; t++) sum += (x[t] - c[t * FPQ_COLUMN_BLOCK]) * (x[t] - c[t * FPQ_COLUMN_BLOCK]);
    return sum;
}

/* Makes the sums of some centroids of a chunk zero. */
static void clear_sums(const iteration *s, int64_t chunk, int j, int first, int end) {
    float *table = table_of(s, chunk, j);
    const size_t d = (size_t)s->packed[j].d, n = (size_t)(end - first);
    memset(table + (size_t)first * d, 0, n * d * sizeof *table);
    memset(cluster_sizes(s->cb, table) + first, 0, n * sizeof(int32_t));
}

/* Assigns the rows of a task in its subspaces. With sums, the rows of the task are a chunk. */
static void assign_rows(const iteration *s, int64_t task, int sum, fpq_worker *worker) {
    const fpq_kernels *kern = fpq_active();
    const int64_t rows_task = task / s->parts, part = task % s->parts, from = rows_task * s->task_rows,
                  rows = s->data->n - from < s->task_rows ? s->data->n - from : s->task_rows;
    const int first_j = (int)(s->cb->m * part / s->parts), end_j = (int)(s->cb->m * (part + 1) / s->parts);
    const int from_d = s->packed[first_j].from, d = s->packed[end_j - 1].from + s->packed[end_j - 1].d - from_d;
    float *x = (float *)(void *)worker->scratch;
    char *scratch = worker->scratch + fpq_lines((size_t)FPQ_ROW_BATCH * (size_t)d * sizeof(float));
    int32_t of_batch[FPQ_ROW_BATCH];
    for (int j = first_j; sum && j < end_j; j++) clear_sums(s, rows_task, j, 0, s->cb->k);
    for (int64_t b = 0; b < fpq_batches(rows, FPQ_ROW_BATCH); b++) {
        const int64_t first = from + b * FPQ_ROW_BATCH;
        const int n = fpq_batch_size(rows, FPQ_ROW_BATCH, b);
        kern->read_rows(&s->data->x, s->data->rows, first, n, from_d, from_d + d, s->packed[first_j].offset, x);
        for (int j = first_j; j < end_j; j++) {
            const fpq_packed_codebook *packed = s->packed + j;
            int32_t *ids = s->ids + j * s->ld + first, *before = s->before ? s->before + j * s->ld + first : of_batch;
            float *errors = s->errors + j * s->ld + first;
            if (!s->active[j]) continue;
            if (fpq_stopped(worker->poll)) return;
            const fpq_assignment a = {kern, packed, s->data, first, x + (packed->from - from_d), d, n, scratch};
            memcpy(before, ids, (size_t)n * sizeof *ids);
            if (s->grouped)
                fpq_yinyang_nearest(&a, s->grouped + j, ids, errors,
                                    s->bounds->bounds + (j * s->ld + first) * s->bounds->groups,
                                    s->bounds->drift + (ptrdiff_t)j * s->bounds->groups);
            else
                fpq_nearest_rows(&a, ids, errors);
            if (!sum) continue;
            float *table = table_of(s, rows_task, j);
            kern->accumulate(a.x, d, n, packed->d, packed->rows, ids, table, cluster_sizes(s->cb, table));
            s->changed[j * s->chunks + rows_task] += count_changed(ids, before, n);
        }
    }
}

static void assign_task(void *context, int64_t i, fpq_worker *worker) { assign_rows(context, i, 0, worker); }

static void assign_chunk(void *context, int64_t i, fpq_worker *worker) { assign_rows(context, i, 1, worker); }

/* The sums of some centroids of a subspace over a chunk of assigned rows. */
static void sum_centroids(void *context, int64_t task, fpq_worker *worker) {
    const iteration *s = context;
    const int64_t chunk = task / s->parts / s->cb->m, from = chunk * s->chunk_rows,
                  end = s->data->n - from < s->chunk_rows ? s->data->n : from + s->chunk_rows;
    const int j = (int)(task / s->parts % s->cb->m), part = (int)(task % s->parts);
    const int32_t first_c = (int32_t)((int64_t)s->cb->k * part / s->parts),
                  end_c = (int32_t)((int64_t)s->cb->k * (part + 1) / s->parts);
    const fpq_packed_codebook *packed = s->packed + j;
    const int32_t *ids = s->ids + j * s->ld;
    float *x = (float *)(void *)worker->scratch, *errors = s->errors + j * s->ld, *table = table_of(s, chunk, j);
    int64_t rows[FPQ_ROW_BATCH];
    int32_t ids_of_rows[FPQ_ROW_BATCH];
    clear_sums(s, chunk, j, first_c, end_c);
    if (!s->active[j]) return;
    if (!part) s->changed[j * s->chunks + chunk] = count_changed(ids + from, s->before + j * s->ld + from, end - from);
    for (int64_t i = from; i < end && !fpq_stopped(worker->poll);) {
        int n = 0;
        for (; i < end && n < FPQ_ROW_BATCH; i++) { /* without branches, as which rows follow is not predictable */
            rows[n] = i;
            ids_of_rows[n] = ids[i];
            n += (ids[i] >= first_c) & (ids[i] < end_c);
        }
        if (!n) continue;
        int64_t numbers[FPQ_ROW_BATCH];
        for (int r = 0; r < n; r++) numbers[r] = s->data->rows ? s->data->rows[rows[r]] : rows[r];
        fpq_active()->read_rows(&s->data->x, numbers, 0, n, packed->from, packed->from + packed->d, packed->offset, x);
        for (int r = 0; r < n && s->given; r++)
            errors[rows[r]] = squared_distance(packed, x + (ptrdiff_t)r * packed->d, ids_of_rows[r]);
        fpq_active()->accumulate(x, packed->d, n, packed->d, packed->rows, ids_of_rows, table,
                                 cluster_sizes(s->cb, table));
    }
}

static int sum_assigned(iteration *s, size_t scratch, int threads) {
    const int m = s->cb->m;
    s->parts = fpq_parts((int64_t)s->chunks * m, s->cb->k, threads);
    return fpq_parallel((int64_t)s->chunks * m * s->parts, scratch, threads, sum_centroids, s);
}

static int assign_then_sum(iteration *s, size_t scratch, int threads) {
    const int m = s->cb->m;
    const int64_t large_tasks = fpq_batches(s->data->n, MAX_TASK_BATCHES * FPQ_ROW_BATCH);
    int32_t *before = fpq_alloc((size_t)m * (size_t)s->ld * sizeof *before);
    int status = before ? 0 : -1;
    if (!status) {
        /* Smaller tasks only where they are needed, as neighbouring batches share the codebooks in the cache. */
        s->task_rows = MAX_TASK_BATCHES / fpq_parts(large_tasks, MAX_TASK_BATCHES, threads) * FPQ_ROW_BATCH;
        const int64_t row_tasks = fpq_batches(s->data->n, s->task_rows);
        s->parts = fpq_parts(row_tasks, m, threads);
        s->before = before;
        status = fpq_parallel(row_tasks * s->parts, scratch, threads, assign_task, s);
    }
    if (!status && s->sums) status = sum_assigned(s, scratch, threads);
    fpq_free(before);
    return status;
}

int fpq_kmeans_sums(const fpq_codebooks *cb, const fpq_rows *data, const uint8_t *active, int64_t chunk_rows,
                    int64_t ld, int32_t *ids, float *errors, fpq_bounds *bounds, const float *drifted, float *sums,
                    int64_t *changed, int threads) {
    const int m = cb->m, chunks = (int)fpq_batches(data->n, chunk_rows);
    const size_t scratch = (size_t)FPQ_ROW_BATCH * (size_t)data->x.d * sizeof(float) + fpq_yinyang_scratch(cb);
    const int parts = fpq_parts(chunks, m, threads);
    fpq_packed_codebook *packed = fpq_pack_codebooks(cb, threads);
    fpq_grouped_codebook *grouped = bounds->groups && packed ? fpq_group_codebooks(cb, packed, bounds, drifted, threads)
                                                             : NULL;
    int status = packed && (grouped || !bounds->groups) ? 0 : -1;
    iteration s = {.cb = cb,
                   .data = data,
                   .packed = packed,
                   .grouped = grouped,
                   .bounds = bounds,
                   .active = active,
                   .chunks = chunks,
                   .parts = parts,
                   .task_rows = chunk_rows,
                   .chunk_rows = chunk_rows,
                   .ld = ld,
                   .sums = sums,
                   .changed = changed,
                   .ids = ids,
                   .errors = errors};
    if (sums) memset(changed, 0, (size_t)m * (size_t)chunks * sizeof *changed);
    if (!status && sums && fpq_parts((int64_t)chunks * parts, 2, threads) == 1)
        status = fpq_parallel((int64_t)chunks * parts, scratch, threads, assign_chunk, &s);
    else if (!status)
        status = assign_then_sum(&s, scratch, threads);
    fpq_free(packed);
    fpq_free(grouped);
    return status;
}

int fpq_kmeans_sums_of(const fpq_codebooks *cb, const fpq_rows *data, const uint8_t *active, int64_t chunk_rows,
                       int64_t ld, int32_t *ids, int32_t *before, float *errors, float *sums, int64_t *changed,
                       int threads) {
    fpq_packed_codebook *packed = fpq_pack_codebooks(cb, threads);
    iteration s = {.cb = cb,
                   .data = data,
                   .packed = packed,
                   .active = active,
                   .chunks = (int)fpq_batches(data->n, chunk_rows),
                   .given = 1,
                   .chunk_rows = chunk_rows,
                   .ld = ld,
                   .sums = sums,
                   .changed = changed,
                   .ids = ids,
                   .before = before,
                   .errors = errors};
    memset(changed, 0, (size_t)cb->m * (size_t)s.chunks * sizeof *changed);
    const size_t scratch = (size_t)FPQ_ROW_BATCH * (size_t)data->x.d * sizeof(float);
    const int status = packed ? sum_assigned(&s, scratch, threads) : -1;
    fpq_free(packed);
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
