/* SPDX-License-Identifier: MIT
 * Lloyd iterations of all subspaces at once (PKMeans of the FPQ paper). The unit of work is a chunk of rows. Sums are kept for each chunk and added in the order of chunks; the number of chunks depends on the data alone,
 * so any number of threads gives the same bits. */
#include <math.h>
#include <string.h>

#include "kmeans/bounds.h"
#include "portable.h"
#include "threads.h"

enum { CHUNK_ROWS = 1536, SUMS_BYTES = 16 << 20 };

typedef struct {
    float *sum;       /* (k, d), centred */
    int32_t *count;   /* (k) */
    int64_t changed;
} chunk_sums;

typedef struct {
    const fpq_codebooks *cb;
    const fpq_rows *data;
    const fpq_packed_codebook *packed;
    const fpq_grouped_codebook *grouped; /* NULL: without bounds */
    fpq_bounds *bounds;
    const uint8_t *active;
    int chunks;
    int64_t chunk_rows;
    chunk_sums *sums; /* (m, chunks) */
    int64_t ld;
    int32_t *ids;
    const int32_t *before; /* with a limit: the ids of the iteration before */
    float *errors;
    fpq_poll *poll;
} step;

static void plan_chunks(step *s) {
    const int64_t bytes = (int64_t)s->cb->m * s->cb->k * (s->cb->dsub + 1) * (int64_t)sizeof(float), n = s->data->n;
    int64_t chunks = (n + CHUNK_ROWS - 1) / CHUNK_ROWS;
    if (chunks > SUMS_BYTES / bytes) chunks = SUMS_BYTES / bytes;
    if (chunks < 2) chunks = 2;
    s->chunk_rows = (n + chunks - 1) / chunks;
    s->chunk_rows = (s->chunk_rows + FPQ_ASSIGN_ROWS - 1) / FPQ_ASSIGN_ROWS * FPQ_ASSIGN_ROWS;
    s->chunks = (int)((n + s->chunk_rows - 1) / s->chunk_rows);
}

static int64_t chunk_end(const step *s, int chunk) {
    const int64_t end = (chunk + 1) * s->chunk_rows;
    return end < s->data->n ? end : s->data->n;
}

static float squared_distance(const fpq_packed_codebook *packed, const float *x, int32_t id) {
    const float *c = packed->packed + (ptrdiff_t)(id / FPQ_BLOCK) * packed->d * FPQ_BLOCK + id % FPQ_BLOCK;
    float sum = 0;
    for (int t = 0; t < packed->d; t++) sum += (x[t] - c[t * FPQ_BLOCK]) * (x[t] - c[t * FPQ_BLOCK]);
    return sum;
}

/* What a chunk of rows goes through in all active subspaces: assignment to the nearest centroids and sums at once or, when a
 * limit moves rows in between, one after the other. x is scratch for 2 FPQ_ASSIGN_ROWS rows. */
enum { ASSIGN = 1, SUM = 2 };

static void do_chunk(const step *s, int chunk, int work, float *x) {
    const fpq_kernels *kern = fpq_active();
    const ptrdiff_t d = s->data->x.d;
    const int64_t end = chunk_end(s, chunk);
    int32_t before[FPQ_ASSIGN_ROWS];
    for (int64_t i = chunk * s->chunk_rows; i < end && !fpq_stopped(s->poll); i += FPQ_ASSIGN_ROWS) {
        const int n = end - i < FPQ_ASSIGN_ROWS ? (int)(end - i) : FPQ_ASSIGN_ROWS;
        fpq_read_centred(kern, s->packed, s->data, i, n, x);
        for (int j = 0; j < s->cb->m; j++) {
            const fpq_packed_codebook *packed = s->packed + j;
            chunk_sums *sums = s->sums + (ptrdiff_t)j * s->chunks + chunk;
            int32_t *ids = s->ids + j * s->ld + i;
            if (!s->active[j]) continue;
            float *errors = s->errors + j * s->ld + i;
            if (work & ASSIGN) {
                memcpy(before, ids, (size_t)n * sizeof *ids);
                if (s->grouped)
                    fpq_nearest_in_doubt(kern, s->grouped + j, x, d, n, ids, errors,
                                         s->bounds->bounds + (j * s->ld + i) * s->bounds->groups,
                                         s->bounds->drift + (ptrdiff_t)j * s->bounds->groups, x + FPQ_ASSIGN_ROWS * d);
                else
                    fpq_nearest_rows(kern, packed, x, d, n, ids, errors);
            } else {
                memcpy(before, s->before + j * s->ld + i, (size_t)n * sizeof *ids);
                for (int r = 0; r < n; r++) errors[r] = squared_distance(packed, x + r * d + packed->from, ids[r]);
            }
            if (!(work & SUM)) continue;
            for (int r = 0; r < n; r++) sums->changed += ids[r] != before[r];
            kern->accumulate(x + packed->from, d, n, packed->d, ids, sums->sum, sums->count);
        }
    }
}

static void do_chunks(const step *s, int work, float *scratch, int threads) {
    const size_t each = 2 * (size_t)FPQ_ASSIGN_ROWS * (size_t)s->data->x.d;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int chunk = 0; chunk < s->chunks; chunk++)
        do_chunk(s, chunk, work, scratch + (size_t)FPQ_THREAD_NUMBER() * each);
}

/* An empty cluster takes the worst row of the cluster with the largest squared error; a cluster gives once an iteration.
 * When every row sits on a centroid there is nothing to gain, and the centroid stays where it is. */
static void refill_empty(const step *s, int j, const int64_t *counts, double *error, int64_t *worst) {
    const fpq_packed_codebook *packed = s->packed + j;
    const int k = packed->k;
    const int32_t *ids = s->ids + j * s->ld;
    const float *errors = s->errors + j * s->ld;
    for (int c = 0; c < k; c++) {
        error[c] = 0;
        worst[c] = -1;
    }
    for (int64_t i = 0; i < s->data->n; i++) {
        const int32_t c = ids[i];
        error[c] += errors[i];
        if (worst[c] < 0 || errors[i] > errors[worst[c]]) worst[c] = i;
    }
    for (int c = 0; c < k; c++) {
        if (counts[c]) continue;
        int donor = 0;
        for (int other = 1; other < k; other++)
            if (error[other] > error[donor]) donor = other;
        if (!(error[donor] > 0)) return;
        error[donor] = 0;
        fpq_active()->read_rows(&s->data->x, s->data->rows, worst[donor], 1, packed->from, packed->from + packed->d, NULL,
                                s->cb->centroids + ((ptrdiff_t)j * k + c) * s->cb->dsub);
    }
}

static void means(const step *s, int j, int update, int64_t *changed, int64_t *counts, double *error, int64_t *worst) {
    const fpq_codebooks *cb = s->cb;
    const int d = s->packed[j].d;
    const chunk_sums *sums = s->sums + (ptrdiff_t)j * s->chunks;
    int empty = 0;
    *changed = 0;
    for (int chunk = 0; chunk < s->chunks; chunk++) *changed += sums[chunk].changed;
    for (int c = 0; c < cb->k; c++) {
        float *centroid = cb->centroids + ((ptrdiff_t)j * cb->k + c) * cb->dsub;
        counts[c] = 0;
        for (int chunk = 0; chunk < s->chunks; chunk++) counts[c] += sums[chunk].count[c];
        empty += !counts[c];
        for (int t = 0; update && counts[c] && t < d; t++) {
            double sum = 0;
            for (int chunk = 0; chunk < s->chunks; chunk++) sum += sums[chunk].sum[(ptrdiff_t)c * d + t];
            centroid[t] = (float)(s->packed[j].offset[t] + sum / (double)counts[c]);
        }
    }
    if (update && empty) refill_empty(s, j, counts, error, worst);
}

int fpq_kmeans_step(const fpq_codebooks *cb, const fpq_rows *data, const uint8_t *active, double limit, int update,
                    int64_t ld, int32_t *ids, float *errors, fpq_bounds *bounds, int64_t *changed, int64_t *counts,
                    int threads) {
    fpq_poll poll = {0};
    step s = {.cb = cb, .data = data, .active = active, .ld = ld, .ids = ids, .errors = errors, .bounds = bounds, .poll = &poll};
    const int m = cb->m, k = cb->k;
    int status = -1;
    plan_chunks(&s);
    threads = fpq_threads(threads, s.chunks > m ? s.chunks : m);
    fpq_packed_codebook *packed = fpq_pack_codebooks(cb, threads);
    const size_t table = (size_t)k * (size_t)(cb->dsub + 1), pairs = (size_t)m * (size_t)s.chunks;
    float *tables = fpq_alloc(pairs * table * sizeof(float));
    float *scratch = fpq_alloc(2 * (size_t)threads * FPQ_ASSIGN_ROWS * (size_t)data->x.d * sizeof(float));
    double *refill = fpq_alloc((size_t)threads * (size_t)k * 2 * sizeof(double));
    s.sums = fpq_alloc(pairs * sizeof *s.sums);
    int32_t *before = limit > 0 ? fpq_alloc((size_t)m * (size_t)data->n * sizeof *ids) : NULL;
    const size_t size = (size_t)m * (size_t)k * (size_t)cb->dsub;
    float *old = bounds->groups ? fpq_alloc(size * sizeof(float)) : NULL;
    fpq_grouped_codebook *grouped = bounds->groups && packed ? fpq_group_codebooks(cb, packed, bounds, threads) : NULL;
    s.packed = packed;
    s.grouped = grouped;
    s.before = before;
    if ((limit > 0 && !before) || !packed || !tables || !scratch || !refill || !s.sums) goto done;
    if (bounds->groups && (!old || !grouped)) goto done;
    if (old) memcpy(old, cb->centroids, size * sizeof(float));
    memset(tables, 0, pairs * table * sizeof(float));
    for (size_t p = 0; p < pairs; p++)
        s.sums[p] = (chunk_sums){.sum = tables + p * table, .count = (int32_t *)(void *)(tables + p * table + table - k)};

    if (limit > 0) {
        memcpy(before, ids, (size_t)m * (size_t)data->n * sizeof *ids);
        do_chunks(&s, ASSIGN, scratch, threads);
        memset(counts, 0, (size_t)m * (size_t)k * sizeof *counts);
        if (poll.stop || fpq_open_index(cb, data, limit, k, 0, ids, counts, threads)) goto done;
        do_chunks(&s, SUM, scratch, threads);
    } else {
        do_chunks(&s, ASSIGN | SUM, scratch, threads);
    }
    if (poll.stop) goto done;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int j = 0; j < m; j++)
        if (active[j]) {
            double *error = refill + (size_t)FPQ_THREAD_NUMBER() * (size_t)k * 2;
            means(&s, j, update, changed + j, counts + (ptrdiff_t)j * k, error, (int64_t *)(void *)(error + k));
            const ptrdiff_t first = (ptrdiff_t)j * k * cb->dsub;
            if (grouped) fpq_add_drift(grouped + j, old + first, cb->centroids + first, cb->dsub, bounds->drift + j * bounds->groups);
        }
    status = 0;
done:
    fpq_free(packed);
    fpq_free(grouped);
    fpq_free(old);
    fpq_free(before);
    fpq_free(tables);
    fpq_free(scratch);
    fpq_free(refill);
    fpq_free(s.sums);
    return status;
}
