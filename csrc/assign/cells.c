/* SPDX-License-Identifier: MIT
 * Centroids in cells: the nearest centroid of a row is searched in the cells that are near the row. And centroids as
 * the means of rows in order. */
#include <math.h>
#include <string.h>

#include "assign/assign.h"
#include "parallel.h"
#include "portable.h"

enum { MEANS_BATCH = 16 /* centroids per task */ };

/* A pair is a row and one of its cells: number p is that of row p / per_row. */
typedef struct {
    const fpq_cells *cells;
    const float *x;
    int64_t n;
    int per_row, parts; /* the pairs of a cell are cut into so many tasks */
    int64_t *first;     /* (cells + 1): where the pairs of a cell begin in `pairs` */
    int64_t *pairs;     /* by cell */
    int32_t *found;     /* (n, per_row): the nearest centroid in the cell, -1 if the cell has none */
    int32_t *ids;
} search;

static void sort_pairs(const search *s, const int64_t *of_rows) {
    const int64_t n = s->n * s->per_row;
    for (int c = 0; c <= s->cells->n; c++) s->first[c] = 0;
    for (int64_t p = 0; p < n; p++) s->first[of_rows[p] + 1]++;
    for (int c = 0; c < s->cells->n; c++) s->first[c + 1] += s->first[c];
    for (int64_t p = 0; p < n; p++) s->pairs[s->first[of_rows[p]]++] = p;
    for (int c = s->cells->n; c > 0; c--) s->first[c] = s->first[c - 1];
    s->first[0] = 0;
}

/* Assigns pairs from .. to - 1, which are of one cell, to its k centroids. */
static int assign_pairs(const search *s, const int64_t *members, int k, int64_t from, int64_t to) {
    const int d = s->cells->d;
    const int32_t offsets[] = {0, d};
    const int64_t n = to - from;
    const size_t gathered = fpq_lines((size_t)k * (size_t)d * sizeof(float));
    char *memory = fpq_alloc(gathered + (size_t)n * (sizeof(int64_t) + sizeof(int32_t)));
    if (!memory) return -1;
    const fpq_codebooks cb = {1, k, d, offsets, (float *)(void *)memory};
    int64_t *rows = (int64_t *)(void *)(memory + gathered);
    int32_t *ids = (int32_t *)(void *)(rows + n);
    for (int i = 0; i < k; i++)
        memcpy(cb.centroids + (ptrdiff_t)i * d, s->cells->centroids + members[i] * d, (size_t)d * sizeof(float));
    for (int64_t i = 0; i < n; i++) rows[i] = s->pairs[from + i] / s->per_row;
    const fpq_rows data = {
        {(const char *)s->x, s->n, d, d * (ptrdiff_t)sizeof(float), sizeof(float), FPQ_F32, 0}, rows, n};
    const int status = fpq_assign(&cb, &data, ids, NULL, 1);
    for (int64_t i = 0; i < n && !status; i++) s->found[s->pairs[from + i]] = (int32_t)members[ids[i]];
    fpq_free(memory);
    return status;
}

static void search_cell(void *context, int64_t task, fpq_worker *worker) {
    const search *s = context;
    const int64_t cell = task / s->parts, part = task % s->parts, n = s->first[cell + 1] - s->first[cell];
    const int64_t from = s->first[cell] + n * part / s->parts, to = s->first[cell] + n * (part + 1) / s->parts;
    const int64_t *members = s->cells->members + s->cells->first[cell];
    const int k = (int)(s->cells->first[cell + 1] - s->cells->first[cell]);
    if (!k)
        for (int64_t at = from; at < to; at++) s->found[s->pairs[at]] = -1;
    else if (from < to && assign_pairs(s, members, k, from, to))
        fpq_fail(worker);
}

/* The nearest of the centroids that the cells of a row give. */
static void choose(void *context, int64_t task, fpq_worker *worker) {
    const search *s = context;
    const int d = s->cells->d;
    const fpq_kernels *kern = fpq_active();
    const int64_t end = task * FPQ_ROW_BATCH + fpq_batch_size(s->n, FPQ_ROW_BATCH, task);
    (void)worker;
    for (int64_t i = task * FPQ_ROW_BATCH; i < end; i++) {
        float least = INFINITY;
        int32_t nearest = -1;
        for (int p = 0; p < s->per_row; p++) {
            const int32_t c = s->found[i * s->per_row + p];
            if (c < 0) continue;
            const float squared = kern->l2_f32(s->x + i * d, s->cells->centroids + (ptrdiff_t)c * d, d);
            if (nearest >= 0 && (squared > least || (squared == least && c > nearest))) continue;
            least = squared;
            nearest = c;
        }
        s->ids[i] = nearest;
    }
}

int fpq_assign_in_cells(const fpq_cells *cells, const float *x, int64_t n, const int64_t *of_rows, int per_row,
                        int32_t *ids, int threads) {
    const int64_t n_pairs = n * per_row;
    int64_t *memory = fpq_alloc((size_t)(cells->n + 1 + n_pairs) * sizeof(int64_t) + (size_t)n_pairs * sizeof(int32_t));
    if (!memory) return -1;
    search s = {.cells = cells,
                .x = x,
                .n = n,
                .per_row = per_row,
                .parts = fpq_parts(cells->n, fpq_batches(n_pairs, (int64_t)cells->n * FPQ_ROW_BATCH), threads),
                .first = memory,
                .pairs = memory + cells->n + 1,
                .found = (int32_t *)(void *)(memory + cells->n + 1 + n_pairs),
                .ids = ids};
    sort_pairs(&s, of_rows);
    int status = fpq_parallel((int64_t)cells->n * s.parts, 0, threads, search_cell, &s);
    if (!status) status = fpq_parallel(fpq_batches(n, FPQ_ROW_BATCH), 0, threads, choose, &s);
    fpq_free(memory);
    return status;
}

typedef struct {
    const float *x;
    const int64_t *first; /* (k + 1): the rows of a centroid */
    int64_t k;
    int d;
    float *centroids;
} means_call;

static void move_batch(void *context, int64_t task, fpq_worker *worker) {
    const means_call *c = context;
    const int64_t end = task * MEANS_BATCH + fpq_batch_size(c->k, MEANS_BATCH, task);
    double *sums = (double *)(void *)worker->scratch;
    for (int64_t i = task * MEANS_BATCH; i < end; i++) {
        const int64_t n = c->first[i + 1] - c->first[i];
        float *centroid = c->centroids + i * c->d;
        for (int t = 0; t < c->d; t++) sums[t] = 0;
        for (int64_t r = c->first[i]; r < c->first[i + 1] && !fpq_stopped(worker->poll); r++)
            for (int t = 0; t < c->d; t++) sums[t] += (double)(c->x[r * c->d + t] - centroid[t]);
        for (int t = 0; t < c->d && n; t++) centroid[t] += (float)(sums[t] / (double)n);
    }
}

int fpq_move_to_means(const float *x, const int64_t *first, int64_t k, int d, float *centroids, int threads) {
    means_call c = {x, first, k, d, centroids};
    return fpq_parallel(fpq_batches(k, MEANS_BATCH), (size_t)d * sizeof(double), threads, move_batch, &c);
}
