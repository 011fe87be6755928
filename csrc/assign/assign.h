/* SPDX-License-Identifier: MIT
 * Nearest centroids of blocks of rows, for the drivers of assignment, k-means and OpenIndexing.
 *
 * ||x - c||^2 = ||x||^2 - 2 (x.c - ||c||^2 / 2), so the nearest centroid has the largest x.c + bias. Rows and centroids
 * are first moved by the centroids' mean: distances stay, and data far from the origin loses no precision. */
#ifndef FPQ_ASSIGN_H
#define FPQ_ASSIGN_H

#include "assign/bytes.h"
#include "kernels.h"
#include "portable.h"

enum { FPQ_ASSIGN_ROWS = 96 };             /* rows that are handled at a time */

typedef struct {
    int from, d, k;                        /* the subspace is dimensions from .. from + d - 1 */
    float *offset, *packed, *bias;         /* the offsets of all subspaces lie one behind the other */
    float *rows;                           /* (k, d) */
    int has_bytes;
    fpq_byte_codebook bytes;
} fpq_packed_codebook;

/* One packed codebook a subspace, in one piece of memory: free it with fpq_free. NULL when memory ran out. */
fpq_packed_codebook *fpq_pack_codebooks(const fpq_codebooks *cb, int threads);

/* The mean of the centroids of a subspace, which rows and centroids are moved by. */
void fpq_centre(const fpq_codebooks *cb, int j, float *centre);

int fpq_assign_blocks(int64_t n);          /* blocks of FPQ_ASSIGN_ROWS rows in n rows */

/* Rows first .. first + n - 1 of data (at most FPQ_ASSIGN_ROWS), all dimensions, centred, to x (n, d). */
void fpq_read_centred(const fpq_kernels *kern, const fpq_packed_codebook *packed, const fpq_rows *data, int64_t first, int n,
                      float *x);

/* Nearest centroids and squared distances of n centred rows x (n, d) in one subspace; scratch: fpq_nearest_scratch(cb) bytes. */
size_t fpq_nearest_scratch(const fpq_codebooks *cb);
void fpq_nearest_rows(const fpq_kernels *kern, const fpq_packed_codebook *codebook, const float *x, ptrdiff_t d, int n,
                      int32_t *ids, float *errors, char *scratch);

/* The nearest centroid of row `at` of rows, whose vector is x, from its products: FPQ_BYTE_TILE rows of fpq_products_ld(k),
 * -inf behind what project_bytes writes. */
enum { FPQ_BYTE_TILE = 12 };               /* rows whose products are kept at a time */
FPQ_INLINE int fpq_products_ld(int k) { return (k + 63) / 64 * 64; }
void fpq_products_start(float *products, int k);
int32_t fpq_nearest_by_bytes(const fpq_kernels *kern, const fpq_packed_codebook *codebook, const fpq_byte_rows *rows, int at,
                             const float *x, const float *products);

#endif
