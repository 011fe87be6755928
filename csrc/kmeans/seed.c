/* SPDX-License-Identifier: MIT
 * Where k-means starts: k-means++ (Arthur, Vassilvitskii 2007) in a greedy form. A round draws FPQ_CANDIDATES_PER_ROUND
 * rows, each with a chance proportional to its squared distance to the centroids so far. One after another, the drawn
 * row that lowers the sum of squared distances most becomes a centroid, FPQ_CENTROIDS_PER_ROUND a round: one product
 * with the rows serves them all. */
#include <math.h>

#include "assign/assign.h"
#include "isa/kernels.h"
#include "portable.h"
#include "parallel.h"

enum { DRAWS = FPQ_CANDIDATES_PER_ROUND, PICKS = FPQ_CENTROIDS_PER_ROUND, STRIPE = 96 };

typedef struct {
    float *x, *norm, *left;           /* (n, d), (n), (n) squared distances to the nearest centroid so far */
    float *packed, *drawn, *distance; /* (d, DRAWS) and (DRAWS, d): the drawn rows; (n, DRAWS) distances to them */
    float *sum;                       /* (stripes, DRAWS) of the distances that would be left */
} work;

static size_t work_size(size_t n, size_t d) {
    return fpq_float_lines(n * d) + 2 * fpq_float_lines(n) + 2 * d * DRAWS + n * DRAWS +
           (n / STRIPE + 1) * DRAWS; /* multiples of 16 */
}

static work layout(float *memory, size_t n, size_t d) {
    work w = {.x = memory};
    w.norm = w.x + fpq_float_lines(n * d);
    w.left = w.norm + fpq_float_lines(n);
    w.packed = w.left + fpq_float_lines(n);
    w.drawn = w.packed + d * DRAWS;
    w.distance = w.drawn + d * DRAWS;
    w.sum = w.distance + n * DRAWS;
    return w;
}

/* The first rows whose running sums of distances exceed the draws (0..1) times the total; any rows when that is 0. */
static void draw_rows(const float *left, int64_t n, double total, const double *draws, int64_t *rows) {
    int order[DRAWS];
    for (int t = 0; t < DRAWS; t++) {
        int at = t;
        for (; at > 0 && draws[order[at - 1]] > draws[t]; at--) order[at] = order[at - 1];
        order[at] = t;
        rows[t] = total > 0 ? n - 1 : (int64_t)(draws[t] * (double)n);
    }
    double sum = 0;
    for (int64_t i = 0, t = 0; total > 0 && i < n && t < DRAWS; i++) {
        sum += left[i];
        for (; t < DRAWS && sum > draws[order[t]] * total; t++) rows[order[t]] = i;
    }
}

/* Rows are moved near the origin and scaled by a power of two where squares would overflow or underflow: chances stay.
 */
static void centre(work w, int64_t n, int d) {
    float largest = 0, *middle = w.packed;
    fpq_find_centre(w.x, n, d, d, middle);
    for (int64_t i = 0; i < n; i++)
        for (int t = 0; t < d; t++) {
            w.x[i * d + t] -= middle[t];
            largest = fmaxf(largest, fabsf(w.x[i * d + t]));
        }
    if (!(largest > 0) || (largest > 0x1p-40f && largest < 0x1p40f)) return;
    const float scale = ldexpf(1, largest < 1 ? (int)fmin(-ilogbf(largest), 126) : -ilogbf(largest));
    for (int64_t i = 0; i < n * d; i++) w.x[i] *= scale;
}

/* Squared distances of a stripe of rows to the drawn rows, by their products; by differences where products leave few
 * digits. */
static void measure(const fpq_kernels *kern, const work *w, int64_t n, int d, int64_t s, const float *bias) {
    const int64_t first = s * STRIPE;
    const int rows = n - first < STRIPE ? (int)(n - first) : STRIPE;
    float *distance = w->distance + first * DRAWS;
    kern->project(w->x + first * d, rows, d, w->packed, bias, 1, distance, DRAWS);
    for (int i = 0; i < rows; i++, distance += DRAWS) {
        const float norm = w->norm[first + i], share = (float)(d + 8) * 0x1p-18f;
        int sure = 0;
        for (int t = 0; t < DRAWS; t++) {
            distance[t] = norm - 2 * distance[t];
            sure += distance[t] >= (norm - 2 * bias[t]) * share;
        }
        for (int t = 0; t < DRAWS && sure < DRAWS; t++)
            if (!(distance[t] >= (norm - 2 * bias[t]) * share))
                distance[t] = kern->l2_f32(w->x + (first + i) * d, w->drawn + (ptrdiff_t)t * d, d);
    }
    kern->kmeanspp_potential(w->distance + first * DRAWS, rows, -1, w->left + first, w->sum + s * DRAWS);
}

static void seed_one(const fpq_codebooks *cb, const fpq_rows *data, int j, const double *draws, work w, int threads,
                     fpq_poll *poll) {
    const fpq_kernels *kern = fpq_active();
    const int from = cb->offsets[j], d = cb->offsets[j + 1] - from;
    const int64_t n = data->n, stripes = (n + STRIPE - 1) / STRIPE;
    for (int64_t i = 0; i < n; i += STRIPE)
        kern->read_rows(&data->x, data->rows, i, n - i < STRIPE ? (int)(n - i) : STRIPE, from, from + d, NULL,
                        w.x + i * d);
    centre(w, n, d);
    for (int64_t i = 0; i < n; i++) {
        w.norm[i] = kern->ip_f32(w.x + i * d, w.x + i * d, d);
        w.left[i] = INFINITY;
    }
    double total = 0; /* no centroid yet: any rows */
    for (int c = 0; c < cb->k && !fpq_stopped(poll); draws += DRAWS) {
        int64_t rows[DRAWS];
        float bias[DRAWS];
        int free[DRAWS];
        draw_rows(w.left, n, total, draws, rows);
        for (int t = 0; t < DRAWS; t++) {
            for (int i = 0; i < d; i++) w.packed[i * DRAWS + t] = w.drawn[t * d + i] = w.x[rows[t] * d + i];
            bias[t] = -w.norm[rows[t]] / 2;
            free[t] = 1;
        }
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t s = 0; s < stripes; s++) measure(kern, &w, n, d, s, bias);
        for (int picked = 0; picked < PICKS && c < cb->k; picked++, c++) {
            double left[DRAWS] = {0};
            int best = -1;
            for (int64_t s = 0; s < stripes; s++)
                for (int t = 0; t < DRAWS; t++) left[t] += w.sum[s * DRAWS + t];
            for (int t = 0; t < DRAWS; t++)
                if (free[t] && (best < 0 || left[t] < left[best])) best = t;
            free[best] = 0;
            total = left[best];
            kern->read_rows(&data->x, data->rows, rows[best], 1, from, from + d, NULL,
                            cb->centroids + ((ptrdiff_t)j * cb->k + c) * cb->dsub);
#pragma omp parallel for schedule(static) num_threads(threads)
            for (int64_t s = 0; s < stripes; s++) {
                const int64_t first = s * STRIPE;
                kern->kmeanspp_potential(w.distance + first * DRAWS, n - first < STRIPE ? (int)(n - first) : STRIPE,
                                         best, w.left + first, w.sum + s * DRAWS);
            }
        }
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
        seed_one(cb, data, j, draws + (ptrdiff_t)j * ((cb->k + PICKS - 1) / PICKS) * DRAWS,
                 layout(memory + (size_t)FPQ_THREAD_NUMBER() * each, (size_t)data->n, (size_t)cb->dsub), inner, &poll);
    fpq_free(memory);
    return poll.stop ? -1 : 0;
}
