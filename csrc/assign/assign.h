/* SPDX-License-Identifier: MIT
 * Nearest centroids of blocks of rows, for the drivers of assignment, k-means and OpenIndexing.
 *
 * ||x - c||^2 = ||x||^2 - 2 (x.c - ||c||^2 / 2), so the nearest centroid has the largest score x.c + bias. Rows and
 * centroids are first moved by a mean of the centroids without the extreme ones: distances stay, and neither data far
 * from the origin nor outliers cost precision. What rounding may do to a score has a bound. Where the two largest are
 * closer than the bound, squared differences of the vectors as they came decide, so every instruction set chooses the
 * nearest centroid. */
#ifndef FPQ_ASSIGN_H
#define FPQ_ASSIGN_H

#include "assign/int8.h"
#include "isa/kernels.h"
#include "portable.h"

typedef struct {
    int from, d, k;                /* the subspace is dimensions from .. from + d - 1 */
    float *offset, *packed, *bias; /* the offsets of all subspaces lie one behind the other */
    float *rows;                   /* (k, d), centred */
    const float *centroids;        /* (k, d) as they came, ld apart */
    ptrdiff_t ld;
    int overflows; /* whether a squared length is beyond float32 */
    int has_int8;
    fpq_int8_codebook bytes;
} fpq_packed_codebook;

/* One packed codebook a subspace, in one piece of memory: free it with fpq_free. NULL when memory ran out. */
fpq_packed_codebook *fpq_pack_codebooks(const fpq_codebooks *cb, int threads);

/* What rounding may do to the score x.c + bias of a centred row and a centroid. With u = 2^-24, the sum is off by at
 * most (d + 3) u (|x| |c| + |c|^2 / 2), the bias by (d + 2) u |c|^2 / 2, and centring moves x and c by u |x| and u |c|,
 * half the squared distance by u (|x| + |c|)^2. Together that is at most FPQ_ROW_ERROR |x|^2 + FPQ_CENTROID_ERROR
 * |c|^2, and FPQ_UNDERFLOW where numbers are too small for float32. The bias holds the centroid's share: a score is
 * then never less than the true one by more than the row's share. */
#define FPQ_ROW_ERROR(d) ((float)((d) + 8) * 0x1p-24f)
#define FPQ_CENTROID_ERROR(d) ((float)(2 * (d) + 8) * 0x1p-24f)
#define FPQ_UNDERFLOW(d) ((float)((d) + 8) * 0x1p-120f)

/* How far the score of the nearest centroid may lie below that of another; square: |x|^2 of the centred row. */
FPQ_INLINE float fpq_score_margin(int d, float square, float bias) {
    return 2 * (FPQ_ROW_ERROR(d) * square - 2.1f * FPQ_CENTROID_ERROR(d) * bias + FPQ_UNDERFLOW(d));
}

/* A point (d) near most of n rows (n, d), ld apart, whatever outliers there are: the interquartile mean of some of them
 * in each dimension. */
void fpq_find_centre(const float *x, int64_t n, int d, ptrdiff_t ld, float *centre);

int fpq_assign_blocks(int64_t n); /* blocks of FPQ_ROW_BATCH rows in n rows */

/* Rows first .. first + n - 1 of data (at most FPQ_ROW_BATCH), all dimensions, centred, to x (n, d). */
void fpq_read_centred(const fpq_kernels *kern, const fpq_packed_codebook *packed, const fpq_rows *data, int64_t first,
                      int n, float *x);

/* Rows of one subspace on their way to their nearest centroids. */
typedef struct {
    const fpq_kernels *kern;
    const fpq_packed_codebook *codebook;
    const fpq_rows *data; /* the rows as they came, */
    int64_t first;        /* from this one on */
    const float *x;       /* centred, ldx apart, in this subspace */
    ptrdiff_t ldx;
    int n;
    char *scratch; /* fpq_nearest_scratch(cb) bytes */
} fpq_assignment;

/* ids (n) of the nearest centroids; errors (n), squared distances, may be NULL. */
size_t fpq_nearest_scratch(const fpq_codebooks *cb);
void fpq_nearest_rows(const fpq_assignment *a, int32_t *ids, float *errors);

/* The nearest to row i of the centroids with a score of at least `least`: by squared differences of the vectors as they
 * came, in double precision, ties to the lower id. Those of the centred vectors, in float32, leave few to be compared
 * so. Takes the first fpq_decide_scratch(k, d) bytes of the scratch. */
size_t fpq_decide_scratch(int k, int d);
int32_t fpq_nearest_by_differences(const fpq_assignment *a, int i, float square, float least);

/* The same of the centroids whose entry in squared (fpq_products_ld(k)) is finite, -1 if there is none: squared
 * differences of the centred vectors. row: the row as it came, from fpq_read_row. */
int32_t fpq_nearest_of_squared(const fpq_assignment *a, float square, const float *squared, const float *row);
void fpq_read_row(const fpq_assignment *a, int i, float *row);

/* The squared distance of row i to a centroid. That of the centred vectors, `error`, has lost digits where centring
 * left the row far from the origin: 4 u |x| beside |x - c|. */
float fpq_exact_error(const fpq_assignment *a, int i, int32_t id);
FPQ_INLINE float fpq_sure_error(const fpq_assignment *a, int i, int32_t id, float square, float error) {
    return error >= square * 0x1p-22f ? error : fpq_exact_error(a, i, id);
}

/* The nearest centroid of row i: id, which has the largest score, unless the second largest comes within the margin. */
FPQ_INLINE int32_t fpq_decide(const fpq_assignment *a, int i, float square, float best, float second, int32_t id) {
    const float least = best - fpq_score_margin(a->codebook->d, square, a->codebook->bias[id]);
    return second < least && !a->codebook->overflows ? id : fpq_nearest_by_differences(a, i, square, least);
}

/* The nearest centroid of row `at` of rows, which is row i, from its products: FPQ_BYTE_TILE rows of
 * fpq_products_ld(k), -inf behind what project_int8 writes. */
enum { FPQ_BYTE_TILE = 12 }; /* rows whose products are kept at a time */
FPQ_INLINE int fpq_products_ld(int k) { return (k + 63) / 64 * 64; }
void fpq_products_start(float *products, int k);
int32_t fpq_nearest_by_int8(const fpq_assignment *a, const fpq_int8_rows *rows, int i, const float *products);

#endif
