/* SPDX-License-Identifier: MIT
 * OpenIndexing (FPQ paper, Algorithm 1): a centroid takes rows up to its capacity limit, and later rows go to their
 * next nearest centroid. The order of the rows decides, so one task goes through the rows of each array of counters.
 * The other centroids of a row are ranked only when its nearest centroid is full. */
#include <math.h>

#include "assign/assign.h"
#include "parallel.h"
#include "portable.h"

typedef struct {
    const fpq_codebooks *cb;
    const fpq_packed_codebook *packed;
    const fpq_rows *data;
    double limit;
    int candidates, shared;
    int32_t *ids;
    int64_t *counts;
} open_index;

/* A thread's scratch, in floats: squared distances, a row as it came, the same row centred. */
static size_t scratch_floats(const fpq_codebooks *cb) {
    return (size_t)fpq_products_ld(cb->k) + 2 * fpq_float_lines((size_t)cb->dsub);
}

/* The centroid for row i, whose nearest centroid is full: the next nearest one below the limit, or the last candidate.
 * Where all centroids are candidates, the full ones are left out at once. */
static int32_t next_below_limit(const open_index *o, int j, int64_t i, int32_t nearest, const int64_t *count,
                                float *squared) {
    const fpq_packed_codebook *codebook = o->packed + j;
    const int k = codebook->k, d = codebook->d;
    float *row = squared + fpq_products_ld(k), *centred = row + fpq_float_lines((size_t)o->cb->dsub);
    const fpq_assignment a = {
        .kern = fpq_active(), .codebook = codebook, .data = o->data, .first = i, .x = centred, .n = 1};
    a.kern->read_rows(&o->data->x, o->data->rows, i, 1, codebook->from, codebook->from + d, codebook->offset, centred);
    fpq_read_row(&a, 0, row);
    a.kern->table_l2(centred, 0, 1, d, codebook->packed, FPQ_COLUMN_BLOCKS(k), &squared);
    for (int c = k; c < fpq_products_ld(k); c++) squared[c] = INFINITY;
    const float square = a.kern->ip_f32(centred, centred, d);
    squared[nearest] = INFINITY;
    if (o->candidates >= k) {
        int below_limit = 0;
        for (int c = 0; c < k; c++) below_limit += (double)count[c] < o->limit;
        for (int c = 0; c < k && below_limit; c++)
            if ((double)count[c] >= o->limit) squared[c] = INFINITY;
    }
    for (int tried = 1; tried < o->candidates; tried++) {
        const int32_t next = fpq_nearest_of_squared(&a, square, squared, row);
        if (next < 0) break;
        nearest = next;
        if ((double)count[nearest] < o->limit) break;
        squared[nearest] = INFINITY;
    }
    return nearest;
}

/* Task t has the counters of subspace t, or all subspaces if they share their counters. */
static void assign_in_order(void *context, int64_t task, fpq_worker *worker) {
    const open_index *o = context;
    const int first = o->shared ? 0 : (int)task, end = o->shared ? o->cb->m : first + 1;
    int64_t *count = o->counts + task * o->cb->k;
    for (int64_t i = 0; i < o->data->n; i++) {
        if (i % FPQ_ROW_BATCH == 0 && fpq_stopped(worker->poll)) return;
        for (int j = first; j < end; j++) {
            int32_t *id = o->ids + j * o->data->n + i;
            if ((double)count[*id] >= o->limit && o->candidates >= 2 && !fpq_stopped(worker->poll))
                *id = next_below_limit(o, j, i, *id, count, (float *)(void *)worker->scratch);
            count[*id]++;
        }
    }
}

int fpq_open_index(const fpq_codebooks *cb, const fpq_rows *data, double limit, int candidates, int shared,
                   int32_t *ids, int64_t *counts, int threads) {
    fpq_packed_codebook *packed = fpq_pack_codebooks(cb, threads);
    open_index o = {cb, packed, data, limit, candidates, shared, ids, counts};
    const int status = packed ? fpq_parallel(shared ? 1 : cb->m, scratch_floats(cb) * sizeof(float), threads,
                                             assign_in_order, &o)
                              : -1;
    fpq_free(packed);
    return status;
}
