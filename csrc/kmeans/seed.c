/* SPDX-License-Identifier: MIT
 * Starting centroids by greedy k-means++ (Arthur and Vassilvitskii 2007). A round draws CANDIDATES rows, each with a
 * probability proportional to its squared distance to the nearest centroid so far. One after another, the candidate
 * that leaves the lowest potential, the sum of these squared distances, becomes a centroid, CENTROIDS_PER_ROUND per
 * round: one matrix product of all rows with the candidates serves the whole round. */
#include <math.h>

#include "assign/assign.h"
#include "isa/kernels.h"
#include "parallel.h"
#include "portable.h"

enum {
    CANDIDATES = FPQ_CANDIDATES_PER_ROUND,
    CENTROIDS_PER_ROUND = FPQ_CENTROIDS_PER_ROUND,
    TASK_BATCHES = 16, /* Row batches per task: fewer cost more in scheduling, more leave threads idle at the end. */
    MIN_THREAD_ROWS = 4096 /* Rows per thread: a round over fewer rows is over before another thread has begun. */
};

/* The memory of one subspace. */
typedef struct {
    float *x, *norm, *min_distance; /* (n, d) centred rows, (n) squared norms, (n) squared distances to centroids */
    float *packed, *candidates;     /* (d, CANDIDATES) and (CANDIDATES, d) */
    float *distance;                /* (n, CANDIDATES), squared */
    float *potential;               /* (row batches, CANDIDATES): the sums over a row batch */
} seed_memory;

/* The size in floats; all parts are multiples of 16. */
static size_t memory_floats(size_t n, size_t d) {
    return fpq_float_lines(n * d) + 2 * fpq_float_lines(n) + 2 * d * CANDIDATES + n * CANDIDATES +
           (n / FPQ_ROW_BATCH + 1) * CANDIDATES;
}

static seed_memory layout(float *memory, size_t n, size_t d) {
    seed_memory s = {.x = memory};
    s.norm = s.x + fpq_float_lines(n * d);
    s.min_distance = s.norm + fpq_float_lines(n);
    s.packed = s.min_distance + fpq_float_lines(n);
    s.candidates = s.packed + d * CANDIDATES;
    s.distance = s.candidates + d * CANDIDATES;
    s.potential = s.distance + n * CANDIDATES;
    return s;
}

/* Row t is the first whose running sum of distances exceeds draws[t], in [0, 1), times the total. When the total is 0,
 * all rows have the same probability. */
static void draw_rows(const float *min_distance, int64_t n, double total, const double *draws, int64_t *rows) {
    int order[CANDIDATES];
    for (int t = 0; t < CANDIDATES; t++) {
        int at = t;
        for (; at > 0 && draws[order[at - 1]] > draws[t]; at--) order[at] = order[at - 1];
        order[at] = t;
        rows[t] = total > 0 ? n - 1 : (int64_t)(draws[t] * (double)n);
    }
    double sum = 0;
    for (int64_t i = 0, t = 0; total > 0 && i < n && t < CANDIDATES; i++) {
        sum += min_distance[i];
        for (; t < CANDIDATES && sum > draws[order[t]] * total; t++) rows[order[t]] = i;
    }
}

/* Moves rows near the origin, and scales them by a power of two where squares would overflow or underflow, which keeps
 * all probabilities. */
static void centre(seed_memory s, int64_t n, int d) {
    float max_abs = 0, *middle = s.packed;
    fpq_find_centre(s.x, n, d, d, middle);
    for (int64_t i = 0; i < n; i++)
        for (int t = 0; t < d; t++) {
            s.x[i * d + t] -= middle[t];
            max_abs = fmaxf(max_abs, fabsf(s.x[i * d + t]));
        }
    if (!(max_abs > 0) || (max_abs > 0x1p-40f && max_abs < 0x1p40f)) return;
    const float scale = ldexpf(1, max_abs < 1 ? (int)fmin(-ilogbf(max_abs), 126) : -ilogbf(max_abs));
    for (int64_t i = 0; i < n * d; i++) s.x[i] *= scale;
}

/* A pass over all rows of a subspace in a round. */
typedef struct {
    const fpq_kernels *kern;
    const seed_memory *memory;
    int64_t n;
    int d;
    const float *bias; /* of the candidates: half their negated squared norms */
    int chosen;        /* the candidate that became a centroid; -1 in the first pass, which computes the distances */
} pass;

/* Squared distances of a row batch to the candidates, from products. Where a distance is small beside the norms, its
 * product has lost too many digits, and the differences of the vectors give it. */
static void candidate_distances(const pass *p, int64_t first, int rows) {
    const seed_memory *s = p->memory;
    const int d = p->d;
    const float share = (float)(d + 8) * 0x1p-18f;
    float *distance = s->distance + first * CANDIDATES;
    p->kern->project(s->x + first * d, rows, d, s->packed, p->bias, 1, distance, CANDIDATES);
    for (int i = 0; i < rows; i++, distance += CANDIDATES) {
        const float norm = s->norm[first + i];
        int accurate = 0;
        for (int t = 0; t < CANDIDATES; t++) {
            distance[t] = norm - 2 * distance[t];
            accurate += distance[t] >= (norm - 2 * p->bias[t]) * share;
        }
        for (int t = 0; t < CANDIDATES && accurate < CANDIDATES; t++)
            if (!(distance[t] >= (norm - 2 * p->bias[t]) * share))
                distance[t] = p->kern->l2_f32(s->x + (first + i) * d, s->candidates + (ptrdiff_t)t * d, d);
    }
}

/* Sums stay apart for each row batch, so their total does not depend on the number of threads. */
static void pass_over_rows(void *context, int64_t task, fpq_worker *worker) {
    const pass *p = context;
    const seed_memory *s = p->memory;
    const int64_t batches = fpq_batches(p->n, FPQ_ROW_BATCH), end = (task + 1) * TASK_BATCHES;
    (void)worker;
    for (int64_t b = task * TASK_BATCHES; b < end && b < batches; b++) {
        const int64_t first = b * FPQ_ROW_BATCH;
        const int rows = fpq_batch_size(p->n, FPQ_ROW_BATCH, b);
        if (p->chosen < 0) candidate_distances(p, first, rows);
        p->kern->kmeanspp_potential(s->distance + first * CANDIDATES, rows, p->chosen, s->min_distance + first,
                                    s->potential + b * CANDIDATES);
    }
}

typedef struct {
    const fpq_codebooks *cb;
    const fpq_rows *data;
    const double *draws;
    int pass_threads; /* more than 1 only where the subspaces are not spread over threads */
} seeding;

static void seed_subspace(void *context, int64_t j, fpq_worker *worker) {
    const seeding *g = context;
    const fpq_kernels *kern = fpq_active();
    const fpq_codebooks *cb = g->cb;
    const fpq_rows *data = g->data;
    const int from = cb->offsets[j], d = cb->offsets[j + 1] - from;
    const int64_t n = data->n, batches = fpq_batches(n, FPQ_ROW_BATCH), tasks = fpq_batches(batches, TASK_BATCHES);
    const double *draws = g->draws + j * fpq_batches(cb->k, CENTROIDS_PER_ROUND) * CANDIDATES;
    const seed_memory s = layout((float *)(void *)worker->scratch, (size_t)n, (size_t)cb->dsub);
    for (int64_t b = 0; b < batches; b++) {
        if (fpq_stopped(worker->poll)) return;
        kern->read_rows(&data->x, data->rows, b * FPQ_ROW_BATCH, fpq_batch_size(n, FPQ_ROW_BATCH, b), from, from + d,
                        NULL, s.x + b * FPQ_ROW_BATCH * d);
    }
    centre(s, n, d);
    for (int64_t i = 0; i < n; i++) {
        s.norm[i] = kern->ip_f32(s.x + i * d, s.x + i * d, d);
        s.min_distance[i] = INFINITY;
    }
    double potential = 0; /* of no centroid, 0 makes all rows equally probable */
    for (int c = 0; c < cb->k && !fpq_stopped(worker->poll); draws += CANDIDATES) {
        int64_t rows[CANDIDATES];
        float bias[CANDIDATES];
        int taken[CANDIDATES] = {0};
        pass p = {kern, &s, n, d, bias, -1};
        draw_rows(s.min_distance, n, potential, draws, rows);
        for (int t = 0; t < CANDIDATES; t++) {
            for (int i = 0; i < d; i++) s.packed[i * CANDIDATES + t] = s.candidates[t * d + i] = s.x[rows[t] * d + i];
            bias[t] = -s.norm[rows[t]] / 2;
        }
        int status = fpq_parallel(tasks, 0, g->pass_threads, pass_over_rows, &p);
        for (int i = 0; i < CENTROIDS_PER_ROUND && c < cb->k && !status; i++, c++) {
            double sum[CANDIDATES] = {0};
            p.chosen = -1;
            for (int64_t b = 0; b < batches; b++)
                for (int t = 0; t < CANDIDATES; t++) sum[t] += s.potential[b * CANDIDATES + t];
            for (int t = 0; t < CANDIDATES; t++)
                if (!taken[t] && (p.chosen < 0 || sum[t] < sum[p.chosen])) p.chosen = t;
            taken[p.chosen] = 1;
            potential = sum[p.chosen];
            kern->read_rows(&data->x, data->rows, rows[p.chosen], 1, from, from + d, NULL,
                            cb->centroids + (j * cb->k + c) * cb->dsub);
            status = fpq_parallel(tasks, 0, g->pass_threads, pass_over_rows, &p);
        }
        if (status) fpq_fail(worker);
    }
}

int fpq_seed(const fpq_codebooks *cb, const fpq_rows *data, const double *draws, int threads) {
    const size_t scratch = memory_floats((size_t)data->n, (size_t)cb->dsub) * sizeof(float);
    const int spread = fpq_threads(threads, cb->m) > 1;
    seeding g = {cb, data, draws, spread ? 1 : fpq_threads(threads, data->n / MIN_THREAD_ROWS)};
    return fpq_parallel(cb->m, scratch, threads, seed_subspace, &g);
}
