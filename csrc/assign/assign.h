/* SPDX-License-Identifier: MIT
 * Nearest centroids of row batches, for the drivers of assignment, k-means and OpenIndexing.
 *
 * Scores. |x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2), so the nearest centroid has the largest score x.c + bias, where bias
 * is about -|c|^2 / 2.
 *
 * Centring. Rows and centroids are first moved by an interquartile mean of the centroids. Distances stay, and neither
 * an origin far from the data nor outliers cost precision.
 *
 * Exactness. The rounding error of a score has a bound (below). Where the two largest scores of a row are closer than
 * that bound, exact distances decide: squared differences of the vectors as they came, in double precision, ties to the
 * lower id. So every instruction set chooses the nearest centroid. Repeated centroids are left out by a bias of -inf.
 */
#ifndef FPQ_ASSIGN_H
#define FPQ_ASSIGN_H

#include "assign/int8.h"
#include "isa/kernels.h"
#include "portable.h"

/* The centroids of one subspace, the dimensions from .. from + d - 1, made ready for many rows. */
typedef struct {
    int from, d, k;
    float *offset, *packed, *bias; /* offset: what centring subtracts; the offsets of all subspaces are consecutive */
    float *rows;                   /* (k, d), centred */
    const float *centroids;        /* (k, d) as they came, ld apart */
    ptrdiff_t ld;
    int overflows; /* 1 if a squared norm exceeds float32: exact distances decide everywhere */
    int has_int8;
    fpq_int8_codebook int8;
} fpq_packed_codebook;

/* The packed codebooks of all subspaces, in one allocation for fpq_free. NULL when memory ran out or the call was
 * stopped. */
fpq_packed_codebook *fpq_pack_codebooks(const fpq_codebooks *cb, int threads);

/* As fpq_assign, without errors, and faster where `fpq_are_few`. */
int fpq_are_few(const fpq_codebooks *cb, int64_t rows);
int fpq_assign_few_rows(const fpq_codebooks *cb, const fpq_rows *data, int32_t *ids, int threads);

/* Into how many parts, at most `max`, the work on the centroids of each subspace is to be cut. */
int fpq_codebook_parts(const fpq_codebooks *cb, int64_t max, int threads);

/* The rounding error of the score x.c + bias of a centred row and a centroid. With u = 2^-24, the sum is off by at most
 * (d + 3) u (|x| |c| + |c|^2 / 2), the bias by (d + 2) u |c|^2 / 2, and centring moves x and c by u |x| and u |c|, half
 * the squared distance by u (|x| + |c|)^2. Together that is at most FPQ_ROW_ERROR |x|^2 + FPQ_CENTROID_ERROR |c|^2, and
 * FPQ_UNDERFLOW where numbers are too small for float32. The bias holds the centroid's share, so a score is never less
 * than the true one by more than the row's share. */
#define FPQ_ROW_ERROR(d) ((float)((d) + 8) * 0x1p-24f)
#define FPQ_CENTROID_ERROR(d) ((float)(2 * (d) + 8) * 0x1p-24f)
#define FPQ_UNDERFLOW(d) ((float)((d) + 8) * 0x1p-120f)

/* How far the score of the nearest centroid may lie below that of another; square: |x|^2 of the centred row. */
FPQ_INLINE float fpq_score_margin(int d, float square, float bias) {
    return 2 * (FPQ_ROW_ERROR(d) * square - 2.1f * FPQ_CENTROID_ERROR(d) * bias + FPQ_UNDERFLOW(d));
}

/* A point (d) near most of n rows (n, d), ld apart, in spite of outliers: in each dimension the interquartile mean of
 * up to 33 of the rows. */
void fpq_find_centre(const float *x, int64_t n, int d, ptrdiff_t ld, float *centre);

/* Column blocks of d numbers that stay in the L2 cache while all rows of a batch pass over them. */
int fpq_cached_blocks(int d);

/* Reads rows first .. first + n - 1 of data, at most FPQ_ROW_BATCH, in all dimensions, centred, to x (n, d). */
void fpq_read_centred(const fpq_kernels *kern, const fpq_packed_codebook *packed, const fpq_rows *data, int64_t first,
                      int n, float *x);

/* The rows of a row batch in one subspace. */
typedef struct {
    const fpq_kernels *kern;
    const fpq_packed_codebook *codebook;
    const fpq_rows *data; /* the rows as they came; row i of the batch is row first + i */
    int64_t first;
    const float *x; /* the rows centred, in this subspace, ldx apart */
    ptrdiff_t ldx;
    int n;
    char *scratch; /* fpq_nearest_scratch(cb) bytes */
} fpq_assignment;

/* ids (n) receive the nearest centroids, errors (n) the squared distances; errors may be NULL. */
size_t fpq_nearest_scratch(const fpq_codebooks *cb);
void fpq_nearest_rows(const fpq_assignment *a, int32_t *ids, float *errors);

/* The nearest centroid of row i by exact distances, among those with a score of at least `threshold`. Squared
 * differences of the centred vectors, in float32, leave few candidates for double precision. The function takes the
 * first fpq_decide_scratch(k, d) bytes of the scratch. */
size_t fpq_decide_scratch(int k, int d);
int32_t fpq_nearest_by_differences(const fpq_assignment *a, int i, float square, float threshold);

/* The nearest centroid by exact distances, among those whose entry in squared (fpq_products_ld(k)), the squared
 * difference of the centred vectors, is finite; -1 if none is. row: the row as it came, from fpq_read_row. */
int32_t fpq_nearest_of_squared(const fpq_assignment *a, float square, const float *squared, const float *row);
void fpq_read_row(const fpq_assignment *a, int i, float *row);

/* The squared distance of row i to a centroid. `error`, that of the centred vectors, has lost digits where the centred
 * row is far from the origin, 4 u |x| beside |x - c|; then the vectors as they came give it. */
float fpq_exact_error(const fpq_assignment *a, int i, int32_t id);
FPQ_INLINE float fpq_refined_error(const fpq_assignment *a, int i, int32_t id, float square, float error) {
    return error >= square * 0x1p-22f ? error : fpq_exact_error(a, i, id);
}

/* The nearest centroid of row i: id, which has the largest score, unless the second largest score is within the margin
 * and exact distances decide. */
FPQ_INLINE int32_t fpq_decide(const fpq_assignment *a, int i, float square, float best, float second, int32_t id) {
    const float threshold = best - fpq_score_margin(a->codebook->d, square, a->codebook->bias[id]);
    return second < threshold && !a->codebook->overflows ? id : fpq_nearest_by_differences(a, i, square, threshold);
}

/* Rows whose int8 scores are kept at a time: whole tiles of project_int8, of 6 or 4 rows. */
enum { FPQ_INT8_TILE = 12 };

/* The nearest centroid of row i of the batch from its int8 scores, `products` (fpq_products_ld(k)): centroids whose
 * int8 score is within the error margin of the largest are compared by float32 scores. fpq_products_start sets what
 * follows the k scores of FPQ_INT8_TILE rows to -inf, once before project_int8 writes the scores. */
FPQ_INLINE int fpq_products_ld(int k) { return (k + 63) / 64 * 64; }
void fpq_products_start(float *products, int k);
int32_t fpq_nearest_by_int8(const fpq_assignment *a, const fpq_int8_rows *rows, int i, const float *products);

#endif
