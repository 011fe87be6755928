/* SPDX-License-Identifier: MIT
 * The nearest centroids of few rows, without packed codebooks: to make these takes longer than the squared differences,
 * in float32, to all centroids. With u = 2^-24, such a sum is off by at most (d + 3) u of itself, and by a multiple of
 * 2^-126 where differences are tiny. Exact distances decide among the centroids that may be the nearest. */
#include <math.h>

#include "assign/assign.h"
#include "dot.h"
#include "parallel.h"

enum {
    MIN_FEW = 8,            /* Packed codebooks take longer for so many rows of 8 dimensions, */
    MAX_FEW = 64,           /* for half as many as dimensions, and up to this many. */
    THREAD_FLOATS = 1 << 17 /* of centroids: less is done before another thread has begun */
};

int fpq_are_few(const fpq_codebooks *cb, int64_t rows) {
    return rows <= MIN_FEW || (rows <= MAX_FEW && rows <= cb->dsub / 2);
}

typedef struct {
    const fpq_kernels *kern;
    const fpq_codebooks *cb;
    const fpq_rows *data;
    int32_t *ids;
} job;

static void assign_row(void *context, int64_t task, fpq_worker *worker) {
    const job *s = context;
    const fpq_codebooks *cb = s->cb;
    const int64_t i = task % s->data->n, j = task / s->data->n;
    const int from = cb->offsets[j], end = cb->offsets[j + 1], d = end - from;
    const float *centroids = cb->centroids + j * cb->k * cb->dsub;
    float *row = (float *)(void *)worker->scratch, *squared = row + cb->dsub, least = INFINITY;
    double nearest = INFINITY;
    s->kern->read_rows(&s->data->x, s->data->rows, i, 1, from, end, NULL, row);
    for (int c = 0; c < cb->k; c++) {
        squared[c] = s->kern->l2_f32(row, centroids + (ptrdiff_t)c * cb->dsub, d);
        least = fminf(least, squared[c]);
    }
    /* Twice the error, and more: the product is rounded. +inf lets all centroids pass. */
    const float threshold = (float)((double)least * (1 + (d + 8) * 0x1p-23)) + FPQ_UNDERFLOW(d);
    for (int c = 0; c < cb->k; c++) {
        if (squared[c] > threshold) continue;
        const double here = fpq_squared_distance(row, centroids + (ptrdiff_t)c * cb->dsub, d);
        if (here >= nearest) continue;
        nearest = here;
        s->ids[task] = c;
    }
}

int fpq_assign_few_rows(const fpq_codebooks *cb, const fpq_rows *data, int32_t *ids, int threads) {
    job s = {fpq_active(), cb, data, ids};
    const int64_t tasks = cb->m * data->n;
    const size_t scratch = ((size_t)cb->dsub + (size_t)cb->k) * sizeof(float);
    return fpq_parallel(tasks, scratch, fpq_worth_threads(threads, tasks * cb->k * cb->dsub, THREAD_FLOATS), assign_row,
                        &s);
}
