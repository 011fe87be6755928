/* SPDX-License-Identifier: MIT
 * Exact search over stored vectors. A block of queries is multiplied with a block of rows like a matrix product; only
 * rows whose product says they might be near enough, rounding errors included, get their distance worked out, by the
 * same kernel for one query and for many. So the answer and its bits do not depend on the batch. */
#include <float.h>

#include "assign/int8.h"
#include "exact/stored.h"
#include "isa/kernels.h"
#include "portable.h"
#include "parallel.h"
#include "results.h"

/* SMALL: distances that one thread looks through before another has begun. LEAST_...: that columns are made for. */
enum { ROWS = 96, QUERIES = 64, DIRECT = 4, SMALL = 1 << 14, LEAST_QUERIES = 64, LEAST_K = 8 };

typedef struct {
    const fpq_kernels *kern;
    const fpq_matrix *x;
    const float *norms, *queries;
    const fpq_selector *selector;
    int inner_product;
    float slack; /* relative error of a sum of d products, doubled */
} flat;

/* Floats of scratch a thread needs: packed queries, rows, products, one row. */
static size_t scratch_size(int d) { return (size_t)d * (ROWS + QUERIES + 1) + (size_t)ROWS * QUERIES; }

static void search_direct(const flat *f, int64_t first_query, int n, int64_t from, int64_t to, fpq_topk *top,
                          float *row) {
    for (int64_t r = from; r < to; r++)
        for (int i = 0; i < n && fpq_is_allowed(f->selector, r); i++) {
            const float *q = f->queries + (first_query + i) * f->x->d;
            fpq_push_row(f->selector, top + i, fpq_distance_to(f->kern, f->x, r, q, f->inner_product, row), r);
        }
}

/* With |x.q - computed| <= slack/2 * (|x|^2 + |q|^2) / 2 + what underflows, a row can only enter if
 *   l2: x.q - |x|^2/2 + slack*|x|^2 >= (|q|^2 - limit*(1 + slack))/2 - slack*|q|^2,
 *   ip: x.q + slack*|x|^2 >= -limit - slack*|q|^2. */
static float least_product(const flat *f, float q_norm, float limit) {
    const float underflow = (float)(f->x->d + 16) * 0x1p-120f;
    if (!(fabsf(limit) < INFINITY)) return -INFINITY;
    if (f->inner_product) return -limit - f->slack * (q_norm + fabsf(limit)) - underflow;
    return (q_norm - limit * (1 + f->slack)) / 2 - f->slack * q_norm - underflow;
}

static void search_block(const flat *f, int64_t first_query, int n, int64_t from, int64_t to, fpq_topk *top,
                         float *scratch) {
    const int d = (int)f->x->d;
    float *packed = scratch, *rows = packed + (ptrdiff_t)d * QUERIES, *products = rows + (ptrdiff_t)d * ROWS;
    float *row = products + (ptrdiff_t)ROWS * QUERIES;
    const float *queries = f->queries + first_query * d;
    const uint64_t present = n < QUERIES ? ((uint64_t)1 << n) - 1 : ~(uint64_t)0;
    FPQ_ALIGN(64) float least[QUERIES];
    float q_norm[QUERIES];
    uint64_t overflows = 0; /* queries whose products say nothing, as their squared length is not finite */
    fpq_pack(queries, n, d, d, NULL, packed);
    for (int i = 0; i < QUERIES; i++) {
        q_norm[i] = i < n ? f->kern->ip_f32(queries + (ptrdiff_t)i * d, queries + (ptrdiff_t)i * d, d) : 0;
        least[i] = i < n ? -INFINITY : INFINITY;
        overflows |= (uint64_t)!(q_norm[i] < INFINITY) << i;
    }
    for (int64_t r0 = from; r0 < to; r0 += ROWS) {
        const int count = to - r0 < ROWS ? (int)(to - r0) : ROWS;
        f->kern->read_rows(f->x, NULL, r0, count, 0, d, NULL, rows);
        f->kern->project(rows, count, d, packed, NULL, FPQ_COLUMN_BLOCKS(n), products, QUERIES);
        for (int i = 0; i < count; i++) {
            if (!fpq_is_allowed(f->selector, r0 + i)) continue;
            const float norm = f->norms[r0 + i];
            const float shift = f->slack * norm - (f->inner_product ? 0 : norm / 2);
            uint64_t near_enough = present;
            if (norm < INFINITY)
                near_enough &= overflows | f->kern->at_least(products + (ptrdiff_t)i * QUERIES, shift, least);
            for (; near_enough; near_enough &= near_enough - 1) {
                const int q = fpq_lowest_bit(near_enough);
                const float *query = queries + (ptrdiff_t)q * d;
                fpq_push_row(f->selector, top + q, fpq_distance_to(f->kern, f->x, r0 + i, query, f->inner_product, row),
                             r0 + i);
                least[q] = least_product(f, q_norm[q], fpq_topk_threshold(top + q));
            }
        }
    }
}

static int search_columns(const fpq_matrix *x, const float *queries, int64_t nq, const fpq_selector *selector,
                          int inner_product, int k, float *distances, int64_t *ids, int threads) {
    fpq_small_flat *columns = fpq_small_flat_make(x, inner_product);
    const int status = columns ? fpq_small_flat_search(columns, queries, nq, selector, k, distances, ids, threads) : -1;
    fpq_small_flat_free(columns);
    return status;
}

int fpq_flat_search(const fpq_matrix *x, const float *norms, const float *queries, int64_t nq,
                    const fpq_selector *selector, int inner_product, int k, float *distances, int64_t *ids,
                    int threads) {
    const int few = fpq_small_flat_applies(x, k) &&
                    (k >= LEAST_K || fpq_int8_is_faster(fpq_active(), (int)x->n, (int)x->d));
    if (few && nq >= LEAST_QUERIES && !selector->allowed)
        return search_columns(x, queries, nq, selector, inner_product, k, distances, ids, threads);
    const int d = (int)x->d, group = nq < DIRECT || x->exponent ? DIRECT : QUERIES;
    const flat f = {.kern = fpq_active(),
                    .x = x,
                    .norms = norms,
                    .queries = queries,
                    .selector = selector,
                    .inner_product = inner_product,
                    .slack = (float)(d + 16) * FLT_EPSILON};
    const int64_t groups = (nq + group - 1) / group;
    /* Ranges of rows, so that few groups of queries occupy all threads too; the answers are merged. */
    int64_t ranges = groups >= 2 * threads ? 1 : 2 * threads;
    if (ranges > x->n / 1024) ranges = x->n / 1024;
    if (ranges < 1) ranges = 1;
    const int64_t range_rows = (x->n + ranges - 1) / ranges;
    const int tasks = (int)(groups * ranges);
    threads = fpq_threads(threads, tasks);

    float *scratch = fpq_alloc((size_t)threads * scratch_size(d) * sizeof(float));
    int64_t *parts = ranges > 1 ? fpq_alloc((size_t)(ranges * nq * k) * (sizeof(int64_t) + sizeof(float))) : NULL;
    int status = scratch && (parts || ranges == 1) ? 0 : -1;
    if (status) goto done;
    float *part_distances = (float *)(void *)(parts + (parts ? ranges * nq * k : 0));
    fpq_poll poll = {0};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int task = 0; task < tasks; task++) {
        if (fpq_stopped(&poll)) continue;
        const int64_t first_query = task / ranges * group, range = task % ranges;
        const int64_t from = range * range_rows, to = from + range_rows < x->n ? from + range_rows : x->n;
        const int n = nq - first_query < group ? (int)(nq - first_query) : group;
        float *mine = scratch + (size_t)FPQ_THREAD_NUMBER() * scratch_size(d);
        fpq_topk top[QUERIES];
        for (int i = 0; i < n; i++) {
            const int64_t at = ((parts ? range * nq : 0) + first_query + i) * k;
            top[i] = parts ? (fpq_topk){.distance = part_distances + at, .id = parts + at, .k = k}
                           : (fpq_topk){.distance = distances + at, .id = ids + at, .k = k};
            fpq_topk_init(top + i);
        }
        if (group == DIRECT)
            search_direct(&f, first_query, n, from, to, top, mine);
        else
            search_block(&f, first_query, n, from, to, top, mine);
        for (int i = 0; i < n && !parts; i++) fpq_topk_sort(top + i);
    }
    for (int64_t i = 0; i < nq && parts; i++) {
        fpq_topk top = {.distance = distances + i * k, .id = ids + i * k, .k = k};
        fpq_topk_init(&top);
        for (int64_t range = 0; range < ranges; range++)
            for (int64_t p = (range * nq + i) * k; p < (range * nq + i + 1) * k; p++)
                if (parts[p] >= 0) fpq_topk_push(&top, part_distances[p], parts[p]);
        fpq_topk_sort(&top);
    }
    if (poll.stop) status = -1;
done:
    fpq_free(scratch);
    fpq_free(parts);
    return status;
}

int fpq_flat_norms(const fpq_matrix *x, float *norms, int threads) {
    const fpq_kernels *kern = fpq_active();
    const int d = (int)x->d, blocks = (int)((x->n + ROWS - 1) / ROWS);
    threads = fpq_threads(threads, blocks);
    float *scratch = fpq_alloc((size_t)threads * (size_t)d * sizeof(float));
    fpq_poll poll = {0};
    if (!scratch) return -1;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int b = 0; b < blocks; b++) {
        if (fpq_stopped(&poll)) continue;
        float *row = scratch + (size_t)FPQ_THREAD_NUMBER() * (size_t)d;
        for (int64_t i = (int64_t)b * ROWS; i < x->n && i < (int64_t)(b + 1) * ROWS; i++) {
            kern->read_rows(x, NULL, i, 1, 0, d, NULL, row);
            norms[i] = kern->ip_f32(row, row, d);
        }
    }
    fpq_free(scratch);
    return poll.stop ? -1 : 0;
}

/* Distances of a query to n rows; row: d floats of scratch. */
static void distances_to(const fpq_matrix *x, const float *query, const int64_t *rows, int64_t n, int inner_product,
                         float *out, float *row, fpq_poll *poll) {
    const fpq_kernels *kern = fpq_active();
    for (int64_t r = 0; r < n; r++) {
        if (r % 256 == 0 && fpq_stopped(poll)) return;
        if (r + 8 < n && rows[r + 8] >= 0) FPQ_PREFETCH(x->data + rows[r + 8] * x->row_stride);
        out[r] = rows[r] < 0 ? INFINITY : fpq_distance_to(kern, x, rows[r], query, inner_product, row);
    }
}

int fpq_flat_distances(const fpq_matrix *x, const float *queries, int64_t nq, const int64_t *rows, int64_t n,
                       int inner_product, float *out, int threads) {
    const int d = (int)x->d, tasks = (int)nq;
    threads = fpq_threads(threads, tasks);
    float *scratch = fpq_alloc((size_t)threads * (size_t)d * sizeof(float));
    fpq_poll poll = {0};
    if (!scratch) return -1;
    if (tasks == 1) {
        distances_to(x, queries, rows, n, inner_product, out, scratch, &poll);
    } else {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int i = 0; i < tasks; i++)
            distances_to(x, queries + (ptrdiff_t)i * d, rows + i * n, n, inner_product, out + i * n,
                         scratch + (size_t)FPQ_THREAD_NUMBER() * (size_t)d, &poll);
    }
    fpq_free(scratch);
    return poll.stop ? -1 : 0;
}

/* Asks whether to stop every so many pairs. */
static void smallest_of(const float *distances, const int64_t *ids, int64_t n, fpq_topk top, fpq_poll *poll) {
    fpq_topk_init(&top);
    for (int64_t p = 0; p < n; p++) {
        if (p % (1 << 12) == 0 && fpq_stopped(poll)) return;
        if (ids[p] >= 0) fpq_topk_push(&top, distances[p] <= INFINITY ? distances[p] : INFINITY, ids[p]);
    }
    fpq_topk_sort(&top);
}

int fpq_smallest(const float *distances, const int64_t *ids, int64_t nq, int64_t n, int k, float *out, int64_t *out_ids,
                 int threads) {
    const int tasks = (int)nq;
    fpq_poll poll = {0};
    threads = fpq_threads(nq * n < SMALL ? 1 : threads, tasks);
    if (tasks == 1) {
        smallest_of(distances, ids, n, (fpq_topk){.distance = out, .id = out_ids, .k = k}, &poll);
    } else {
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int i = 0; i < tasks; i++) {
            const ptrdiff_t from = (ptrdiff_t)i * n, at = (ptrdiff_t)i * k;
            smallest_of(distances + from, ids + from, n, (fpq_topk){.distance = out + at, .id = out_ids + at, .k = k},
                        &poll);
        }
    }
    return poll.stop ? -1 : 0;
}
