/* SPDX-License-Identifier: MIT
 * OpenIndexing (FPQ paper, Algorithm 1): a centroid takes rows up to a limit, later rows go to their next nearest.
 * The rows' order decides, so each counter runs through the rows in turn; subspaces with counters of their own run in
 * parallel. The other candidates of a row are worked out only when its nearest centroid is full. */
#include <math.h>

#include "assign/assign.h"
#include "portable.h"
#include "parallel.h"

typedef struct {
    const fpq_codebooks *cb;
    const fpq_packed_codebook *packed;
    const fpq_rows *data;
    double limit;
    int candidates;
    fpq_poll poll;
} indexing;

/* A thread's memory: squared differences, a row as it came, the same centred. */
static size_t scratch_size(const fpq_codebooks *cb) {
    return (size_t)fpq_products_ld(cb->k) + 2 * fpq_float_lines((size_t)cb->dsub);
}

/* The centroid for row i: the first with room of those after the nearest in the order of distance, or the last that is
 * tried. Where all may be tried, the full ones are left out at once. */
static int32_t choose(indexing *x, int j, int64_t i, int32_t nearest, const int64_t *count, float *squared) {
    const fpq_packed_codebook *codebook = x->packed + j;
    const int k = codebook->k, d = codebook->d;
    float *row = squared + fpq_products_ld(k), *centred = row + fpq_float_lines((size_t)x->cb->dsub);
    if ((double)count[nearest] < x->limit || x->candidates < 2 || fpq_stopped(&x->poll)) return nearest;
    const fpq_assignment a = {
        .kern = fpq_active(), .codebook = codebook, .data = x->data, .first = i, .x = centred, .n = 1};
    a.kern->read_rows(&x->data->x, x->data->rows, i, 1, codebook->from, codebook->from + d, codebook->offset, centred);
    fpq_read_row(&a, 0, row);
    a.kern->table_l2(centred, 0, 1, d, codebook->packed, FPQ_COLUMN_BLOCKS(k), &squared);
    for (int c = k; c < fpq_products_ld(k); c++) squared[c] = INFINITY;
    const float square = a.kern->ip_f32(centred, centred, d);
    squared[nearest] = INFINITY;
    if (x->candidates >= k) {
        int left = 0;
        for (int c = 0; c < k; c++) left += (double)count[c] < x->limit;
        for (int c = 0; c < k && left; c++)
            if ((double)count[c] >= x->limit) squared[c] = INFINITY;
    }
    for (int tried = 1; tried < x->candidates; tried++) {
        const int32_t next = fpq_nearest_of_squared(&a, square, squared, row);
        if (next < 0) break;
        nearest = next;
        if ((double)count[nearest] < x->limit) break;
        squared[nearest] = INFINITY;
    }
    return nearest;
}

int fpq_open_index(const fpq_codebooks *cb, const fpq_rows *data, double limit, int candidates, int shared,
                   int32_t *ids, int64_t *counts, int threads) {
    const size_t scratch = scratch_size(cb);
    threads = shared ? 1 : fpq_threads(threads, cb->m);
    float *memory = fpq_alloc((size_t)threads * scratch * sizeof(float));
    indexing x = {
        .cb = cb, .packed = fpq_pack_codebooks(cb, threads), .data = data, .limit = limit, .candidates = candidates};
    int status = x.packed && memory ? 0 : -1;
    if (!status && shared) {
        for (int64_t i = 0; i < data->n; i++)
            for (int j = 0; j < cb->m; j++) {
                int32_t *id = ids + j * data->n + i;
                *id = choose(&x, j, i, *id, counts, memory);
                counts[*id]++;
            }
    } else if (!status) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int j = 0; j < cb->m; j++) {
            int64_t *count = counts + (ptrdiff_t)j * cb->k;
            for (int64_t i = 0; i < data->n; i++) {
                int32_t *id = ids + j * data->n + i;
                *id = choose(&x, j, i, *id, count, memory + (size_t)FPQ_THREAD_NUMBER() * scratch);
                count[*id]++;
            }
        }
    }
    if (x.poll.stop) status = -1;
    fpq_free((void *)x.packed);
    fpq_free(memory);
    return status;
}
