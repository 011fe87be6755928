/* SPDX-License-Identifier: MIT
 * Lloyd iterations of all subspaces at once (PKMeans of the FPQ paper), as a map over chunks of rows and a reduction.
 * Sums are kept for each chunk and added in the order of chunks; where chunks begin depends on the data alone, so any
 * number of threads, and any machines that share the chunks, give the same bits. */
#include <math.h>
#include <string.h>

#include "kmeans/yinyang.h"
#include "portable.h"
#include "parallel.h"

/* Where there are fewer chunks than threads, rows are assigned in pieces of PIECE_ROWS and summed by chunks afterwards.
 */
enum { CHUNK_ROWS = 1536, SUMS_BYTES = 16 << 20, PIECE_ROWS = 4 * FPQ_ROW_BATCH };

typedef struct {
    const fpq_codebooks *cb;
    const fpq_rows *data;
    const fpq_packed_codebook *packed;
    const fpq_grouped_codebook *grouped; /* NULL: without bounds */
    fpq_bounds *bounds;
    const uint8_t *active;
    int chunks;
    int64_t chunk_rows;
    float *sums;      /* NULL: assignment only */
    int64_t *changed; /* (m, chunks) */
    int64_t ld;
    int32_t *ids;
    const int32_t *before; /* the ids of the iteration before, where assignment and sums are apart */
    int limited;
    float *errors;
    fpq_poll *poll;
} step;

int64_t fpq_kmeans_chunk_rows(int m, int k, int dsub, int64_t n) {
    const int64_t bytes = (int64_t)m * k * (dsub + 1) * (int64_t)sizeof(float);
    int64_t chunks = (n + CHUNK_ROWS - 1) / CHUNK_ROWS;
    if (chunks > SUMS_BYTES / bytes) chunks = SUMS_BYTES / bytes;
    if (chunks < 2) chunks = 2;
    const int64_t rows = (n + chunks - 1) / chunks;
    return (rows + FPQ_ROW_BATCH - 1) / FPQ_ROW_BATCH * FPQ_ROW_BATCH;
}

static int count_chunks(int64_t n, int64_t chunk_rows) { return (int)((n + chunk_rows - 1) / chunk_rows); }

/* The table of a chunk: sums (k, d) of the rows' differences to their centroids, and from k * dsub on k sizes of
 * clusters as int32. */
static size_t table_floats(const fpq_codebooks *cb) { return (size_t)cb->k * (size_t)(cb->dsub + 1); }

static int32_t *sizes_in(const fpq_codebooks *cb, float *table) {
    return (int32_t *)(void *)(table + (ptrdiff_t)cb->k * cb->dsub);
}

static int64_t chunk_end(const step *s, int chunk) {
    const int64_t end = (chunk + 1) * s->chunk_rows;
    return end < s->data->n ? end : s->data->n;
}

static float squared_distance(const fpq_packed_codebook *packed, const float *x, int32_t id) {
    const float *c = packed->packed + (ptrdiff_t)(id / FPQ_COLUMN_BLOCK) * packed->d * FPQ_COLUMN_BLOCK +
                     id % FPQ_COLUMN_BLOCK;
    float sum = 0;
    for (int t = 0; t < packed->d; t++) sum += (x[t] - c[t * FPQ_COLUMN_BLOCK]) * (x[t] - c[t * FPQ_COLUMN_BLOCK]);
    return sum;
}

static void count_changed(const step *s, size_t pair, const int32_t *ids, const int32_t *before, int n) {
    int64_t changed = 0;
    for (int r = 0; r < n; r++) changed += ids[r] != before[r];
    s->changed[pair] += changed;
}

/* Assignment of rows from .. end - 1 in all active subspaces, and, if a chunk is named that they belong to, their sums.
 * x is scratch for FPQ_ROW_BATCH rows, scratch for the search. */
static void assign_rows(const step *s, int64_t from, int64_t end, int chunk, float *x, char *scratch) {
    const fpq_kernels *kern = fpq_active();
    const ptrdiff_t d = s->data->x.d;
    int32_t before[FPQ_ROW_BATCH];
    for (int64_t i = from; i < end && !fpq_stopped(s->poll); i += FPQ_ROW_BATCH) {
        const int n = end - i < FPQ_ROW_BATCH ? (int)(end - i) : FPQ_ROW_BATCH;
        fpq_read_centred(kern, s->packed, s->data, i, n, x);
        for (int j = 0; j < s->cb->m; j++) {
            const fpq_packed_codebook *packed = s->packed + j;
            int32_t *ids = s->ids + j * s->ld + i;
            if (!s->active[j]) continue;
            float *errors = s->errors + j * s->ld + i;
            const fpq_assignment a = {kern, packed, s->data, i, x + packed->from, d, n, scratch};
            memcpy(before, ids, (size_t)n * sizeof *ids);
            if (s->grouped)
                fpq_yinyang_nearest(&a, s->grouped + j, ids, errors,
                                    s->bounds->bounds + (j * s->ld + i) * s->bounds->groups,
                                    s->bounds->drift + (ptrdiff_t)j * s->bounds->groups);
            else
                fpq_nearest_rows(&a, ids, errors);
            if (chunk < 0) continue;
            const size_t pair = (size_t)j * (size_t)s->chunks + (size_t)chunk;
            float *table = s->sums + pair * table_floats(s->cb);
            count_changed(s, pair, ids, before, n);
            kern->accumulate(x + packed->from, d, n, packed->d, packed->rows, ids, table, sizes_in(s->cb, table));
        }
    }
}

/* The sums of a chunk of assigned rows in one subspace. */
static void sum_chunk(const step *s, int chunk, int j, float *x) {
    const fpq_kernels *kern = fpq_active();
    const fpq_packed_codebook *packed = s->packed + j;
    const int64_t end = chunk_end(s, chunk);
    const size_t pair = (size_t)j * (size_t)s->chunks + (size_t)chunk;
    float *table = s->sums + pair * table_floats(s->cb);
    for (int64_t i = chunk * s->chunk_rows; i < end && !fpq_stopped(s->poll); i += FPQ_ROW_BATCH) {
        const int n = end - i < FPQ_ROW_BATCH ? (int)(end - i) : FPQ_ROW_BATCH;
        const int32_t *ids = s->ids + j * s->ld + i;
        kern->read_rows(&s->data->x, s->data->rows, i, n, packed->from, packed->from + packed->d, packed->offset, x);
        for (int r = 0; r < n && s->limited; r++)
            s->errors[j * s->ld + i + r] = squared_distance(packed, x + (ptrdiff_t)r * packed->d, ids[r]);
        count_changed(s, pair, ids, s->before + j * s->ld + i, n);
        kern->accumulate(x, packed->d, n, packed->d, packed->rows, ids, table, sizes_in(s->cb, table));
    }
}

static size_t rows_size(const fpq_rows *data) { return (size_t)FPQ_ROW_BATCH * (size_t)data->x.d * sizeof(float); }

static size_t scratch_size(const step *s) { return rows_size(s->data) + fpq_yinyang_scratch(s->cb); }

static void assign_and_sum(const step *s, char *scratch, int threads) {
    const size_t rows = rows_size(s->data), each = scratch_size(s);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int chunk = 0; chunk < s->chunks; chunk++) {
        char *mine = scratch + (size_t)FPQ_THREAD_NUMBER() * each;
        assign_rows(s, chunk * s->chunk_rows, chunk_end(s, chunk), chunk, (float *)(void *)mine, mine + rows);
    }
}

static void assign_pieces(const step *s, int pieces, char *scratch, int threads) {
    const size_t rows = rows_size(s->data), each = scratch_size(s);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int piece = 0; piece < pieces; piece++) {
        char *mine = scratch + (size_t)FPQ_THREAD_NUMBER() * each;
        const int64_t from = (int64_t)piece * PIECE_ROWS, left = s->data->n - from;
        assign_rows(s, from, from + (left < PIECE_ROWS ? left : PIECE_ROWS), -1, (float *)(void *)mine, mine + rows);
    }
}

static void sum_chunks(const step *s, char *scratch, int threads) {
    const size_t each = scratch_size(s);
    const int tasks = s->chunks * s->cb->m;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int task = 0; task < tasks; task++)
        if (s->active[task % s->cb->m])
            sum_chunk(s, task / s->cb->m, task % s->cb->m,
                      (float *)(void *)(scratch + (size_t)FPQ_THREAD_NUMBER() * each));
}

int fpq_kmeans_sums(const fpq_codebooks *cb, const fpq_rows *data, const uint8_t *active, double limit,
                    int64_t chunk_rows, int64_t ld, int32_t *ids, float *errors, fpq_bounds *bounds,
                    const float *drifted, float *sums, int64_t *changed, int threads) {
    const int m = cb->m, k = cb->k, chunks = count_chunks(data->n, chunk_rows);
    const size_t pairs = (size_t)m * (size_t)chunks, each = (size_t)k * (size_t)cb->dsub;
    const int pieces = (int)((data->n + PIECE_ROWS - 1) / PIECE_ROWS), apart = limit > 0 || !sums || chunks < threads;
    fpq_poll poll = {0};
    int status = -1;
    threads = fpq_threads(threads, apart && pieces > chunks * m ? pieces : chunks * m);
    fpq_packed_codebook *packed = fpq_pack_codebooks(cb, threads);
    fpq_grouped_codebook *grouped = bounds->groups && packed ? fpq_group_codebooks(cb, packed, bounds, threads) : NULL;
    int32_t *before = apart ? fpq_alloc((size_t)m * (size_t)ld * sizeof *ids) : NULL;
    int64_t *counts = fpq_alloc((size_t)m * (size_t)k * sizeof *counts);
    step s = {.cb = cb,
              .data = data,
              .packed = packed,
              .grouped = grouped,
              .bounds = bounds,
              .active = active,
              .chunks = chunks,
              .chunk_rows = chunk_rows,
              .sums = sums,
              .changed = changed,
              .ld = ld,
              .ids = ids,
              .before = before,
              .limited = limit > 0,
              .errors = errors,
              .poll = &poll};
    char *scratch = fpq_alloc((size_t)threads * scratch_size(&s));
    if (!packed || !scratch || !counts || (apart && !before) || (bounds->groups && !grouped)) goto done;
    if (sums) {
        memset(sums, 0, pairs * table_floats(cb) * sizeof(float));
        memset(changed, 0, pairs * sizeof *changed);
    }
    for (int j = 0; j < m && grouped && drifted; j++)
        fpq_add_drift(grouped + j, drifted + (size_t)j * each, cb->centroids + (size_t)j * each, cb->dsub,
                      bounds->drift + j * bounds->groups);
    if (!apart) {
        assign_and_sum(&s, scratch, threads);
    } else {
        if (sums) memcpy(before, ids, (size_t)m * (size_t)ld * sizeof *ids);
        assign_pieces(&s, pieces, scratch, threads);
        memset(counts, 0, (size_t)m * (size_t)k * sizeof *counts);
        if (poll.stop || (limit > 0 && fpq_open_index(cb, data, limit, k, 0, ids, counts, threads))) goto done;
        if (sums) sum_chunks(&s, scratch, threads);
    }
    if (!poll.stop) status = 0;
done:
    fpq_free(packed);
    fpq_free(grouped);
    fpq_free(scratch);
    fpq_free(before);
    fpq_free(counts);
    return status;
}

static void mean(const fpq_codebooks *cb, int j, int c, int chunks, float *sums, int64_t *count) {
    const size_t each = table_floats(cb);
    const int d = cb->offsets[j + 1] - cb->offsets[j];
    float *centroid = cb->centroids + ((ptrdiff_t)j * cb->k + c) * cb->dsub;
    *count = 0;
    for (int chunk = 0; chunk < chunks; chunk++) *count += sizes_in(cb, sums + (size_t)chunk * each)[c];
    for (int t = 0; *count && t < d; t++) {
        double sum = 0;
        for (int chunk = 0; chunk < chunks; chunk++)
            sum += sums[(size_t)chunk * each + (size_t)c * (size_t)d + (size_t)t];
        centroid[t] = (float)(centroid[t] + sum / (double)*count);
    }
}

int fpq_kmeans_means(const fpq_codebooks *cb, const uint8_t *active, int chunks, float *sums, int64_t *counts,
                     int threads) {
    const int all = cb->m * cb->k;
    threads = fpq_threads(threads, all);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int p = 0; p < all; p++) {
        const int j = p / cb->k;
        if (active[j]) mean(cb, j, p % cb->k, chunks, sums + (size_t)j * (size_t)chunks * table_floats(cb), counts + p);
    }
    return 0;
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
