/* SPDX-License-Identifier: MIT
 * The part of fpq.h for centroids in two levels (assign/cells.c). */
#ifndef FPQ_CELLS_H
#define FPQ_CELLS_H

#include "fpq.h"

/* Centroids in cells: cell c holds the centroids members[first[c]] .. members[first[c + 1] - 1], ascending. */
typedef struct {
    const float *centroids; /* (., d) */
    int d, n;               /* n: how many cells */
    const int64_t *first, *members;
} fpq_cells;

/* ids (n): of the centroids in the cells (n, per_row) of each row of x (n, d), the nearest; -1 if there is none. */
int fpq_assign_in_cells(const fpq_cells *cells, const float *x, int64_t n, const int64_t *of_rows, int per_row,
                        int32_t *ids, int threads);
/* Moves each of k centroids (k, d) to the mean of its rows first[i] .. first[i + 1] - 1 of x, if there are any. */
int fpq_move_to_means(const float *x, const int64_t *first, int64_t k, int d, float *centroids, int threads);

#endif
