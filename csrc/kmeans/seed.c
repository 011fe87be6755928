/* SPDX-License-Identifier: MIT
 * Where k-means starts: k-means++ (Arthur, Vassilvitskii 2007), for the second half of the centroids in its greedy form, which
 * finds what the first half has left out. A row is drawn with a chance
 * proportional to its squared distance to the centroids so far; of FPQ_SEED_TRIES rows drawn the one that lowers the sum of
 * squared distances most becomes a centroid. */
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "portable.h"
#include "threads.h"

enum { TRIES = FPQ_SEED_TRIES, STRIPE = 96 };

typedef struct {
    float *x, *norm, *distance, *packed;      /* (n, d), (n), (n), (d, FPQ_BLOCK) */
    double *gain;                             /* (stripes, FPQ_BLOCK) sums of the distances that would be left */
} work;

static size_t up(size_t floats) { return (floats + 15) / 16 * 16; }

static size_t work_size(size_t n, size_t d) {
    return up(n * d) + 2 * up(n) + up(d * FPQ_BLOCK) + 2 * (n / STRIPE + 1) * FPQ_BLOCK; /* multiples of 16 */
}

static work layout(float *memory, size_t n, size_t d) {
    work w = {.x = memory};
    w.norm = w.x + up(n * d);
    w.distance = w.norm + up(n);
    w.packed = w.distance + up(n);
    w.gain = (double *)(void *)(w.packed + up(d * FPQ_BLOCK));
    return w;
}

/* The first row whose running sum of distances exceeds `draw` (0..1) times the total; some row when all distances are 0. */
static int64_t pick(const float *distance, int64_t n, double total, double draw) {
    double sum = 0;
    if (!(total > 0)) return (int64_t)(draw * (double)n);
    for (int64_t i = 0; i < n; i++) {
        sum += distance[i];
        if (sum > draw * total) return i;
    }
    return n - 1;
}

/* Squared distances of the rows of a stripe to the candidates, or, in column `keep`, to the chosen one. */
static void stripe(const fpq_kernels *kern, const work *w, int64_t n, int d, int64_t s, const float *bias, int keep) {
    float products[STRIPE * FPQ_BLOCK];
    const int64_t first = s * STRIPE;
    const int rows = n - first < STRIPE ? (int)(n - first) : STRIPE;
    double *gain = w->gain + s * FPQ_BLOCK;
    kern->project(w->x + first * d, rows, d, w->packed, bias, 1, products, FPQ_BLOCK);
    float sums[FPQ_BLOCK] = {0};
    for (int i = 0; i < rows; i++) {
        const float norm = w->norm[first + i], now = w->distance[first + i], *row = products + i * FPQ_BLOCK;
        if (keep >= 0) {
            const float distance = norm - 2 * row[keep];
            w->distance[first + i] = distance < now ? (distance > 0 ? distance : 0) : now;
        } else {
            for (int c = 0; c < FPQ_BLOCK; c++) {
                const float distance = norm - 2 * row[c];
                sums[c] += distance < now ? distance : now;
            }
        }
    }
    for (int c = 0; c < FPQ_BLOCK; c++) gain[c] = sums[c];
}

static void seed_one(const fpq_codebooks *cb, const fpq_rows *data, int j, const double *draws, work w, int threads,
                     fpq_poll *poll) {
    const fpq_kernels *kern = fpq_active();
    const int from = cb->offsets[j], d = cb->offsets[j + 1] - from;
    const int64_t n = data->n, stripes = (n + STRIPE - 1) / STRIPE;
    float bias[FPQ_BLOCK];
    for (int64_t i = 0; i < n; i += STRIPE)
        kern->read_rows(&data->x, data->rows, i, n - i < STRIPE ? (int)(n - i) : STRIPE, from, from + d, NULL, w.x + i * d);
    for (int64_t i = 0; i < n; i++) {
        w.norm[i] = kern->ip_f32(w.x + i * d, w.x + i * d, d);
        w.distance[i] = INFINITY;
    }
    double total = 0; /* no centroid yet: the first is any row */
    for (int c = 0; c < cb->k && !fpq_stopped(poll); c++) {
        const int tries = c > cb->k / 2 ? TRIES : 1;
        int64_t rows[TRIES];
        memset(w.packed, 0, (size_t)d * FPQ_BLOCK * sizeof(float));
        for (int t = 0; t < FPQ_BLOCK; t++) bias[t] = 0;
        for (int t = 0; t < tries; t++) {
            rows[t] = pick(w.distance, n, total, draws[(ptrdiff_t)c * TRIES + t]);
            for (int i = 0; i < d; i++) w.packed[(ptrdiff_t)i * FPQ_BLOCK + t] = w.x[rows[t] * d + i];
            bias[t] = -w.norm[rows[t]] / 2;
        }
        double left[FPQ_BLOCK] = {0};
        int best = 0;
        if (tries > 1) {
#pragma omp parallel for schedule(static) num_threads(threads)
            for (int64_t s = 0; s < stripes; s++) stripe(kern, &w, n, d, s, bias, -1);
            for (int64_t s = 0; s < stripes; s++)
                for (int t = 0; t < tries; t++) left[t] += w.gain[s * FPQ_BLOCK + t];
            for (int t = 1; t < tries; t++)
                if (left[t] < left[best]) best = t;
        }
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t s = 0; s < stripes; s++) stripe(kern, &w, n, d, s, bias, best);
        total = 0;
        for (int64_t i = 0; i < n; i++) total += w.distance[i];
        memcpy(cb->centroids + ((ptrdiff_t)j * cb->k + c) * cb->dsub, w.x + rows[best] * d, (size_t)d * sizeof(float));
    }
}

int fpq_seed(const fpq_codebooks *cb, const fpq_rows *data, const double *draws, int threads) {
    const size_t each = work_size((size_t)data->n, (size_t)cb->dsub);
    const int outer = fpq_threads(threads, cb->m), inner = outer > 1 ? 1 : fpq_threads(threads, data->n / 4096);
    float *memory = fpq_alloc((size_t)outer * each * sizeof(float));
    fpq_poll poll = {0};
    if (!memory) return -1;
#pragma omp parallel for schedule(dynamic) num_threads(outer)
    for (int j = 0; j < cb->m; j++)
        seed_one(cb, data, j, draws + (ptrdiff_t)j * cb->k * TRIES,
                 layout(memory + (size_t)FPQ_THREAD_NUMBER() * each, (size_t)data->n, (size_t)cb->dsub), inner, &poll);
    fpq_free(memory);
    return poll.stop ? -1 : 0;
}
