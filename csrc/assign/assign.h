/* SPDX-License-Identifier: MIT
 * Nearest centroids of blocks of rows, for the drivers of assignment, k-means and OpenIndexing.
 *
 * ||x - c||^2 = ||x||^2 - 2 (x.c - ||c||^2 / 2), so the nearest centroid has the largest x.c + bias. Rows and centroids
 * are first moved by the centroids' mean: distances stay, and data far from the origin loses no precision. */
#ifndef FPQ_ASSIGN_H
#define FPQ_ASSIGN_H

#include "kernels.h"

enum { FPQ_ASSIGN_ROWS = 96 };             /* rows a call of fpq_nearest_rows handles at most */

typedef struct {
    int from, d, k;                        /* the subspace is dimensions from .. from + d - 1 */
    float *offset, *packed, *bias;
} fpq_packed_codebook;

/* One packed codebook a subspace, in one piece of memory: free it with fpq_free. NULL when memory ran out. */
fpq_packed_codebook *fpq_pack_codebooks(const fpq_codebooks *cb, int threads);

int fpq_assign_blocks(int64_t n);          /* blocks of FPQ_ASSIGN_ROWS rows in n rows */

/* Rows first .. first + n - 1 of data, centred, to x (n, d); their nearest centroids to ids and the squared distances to
 * errors. */
void fpq_nearest_rows(const fpq_kernels *kern, const fpq_packed_codebook *codebook, const fpq_rows *data, int64_t first,
                      int n, float *x, int32_t *ids, float *errors);

#endif
