/* SPDX-License-Identifier: MIT
 * The nearest centroids of rows. A contract per kernel; assign/scalar.inc is its specification. A score is
 * x.c + bias, the product of a row and a column plus the bias of the column: assign/assign.h. */
#ifndef FPQ_ASSIGN_KERNELS_H
#define FPQ_ASSIGN_KERNELS_H

#include "fpq.h"
#include "portable.h"

enum {
    FPQ_ROW_BATCH = 96, /* Rows of a row batch: more share each load of a centroid, fewer need less scratch memory. */
    FPQ_ROWS_TILE = 48, /* nearest_of_rows takes multiples of 48 rows, which every instruction set cuts evenly. */
};

/* Columns as int8: a column is its scale times whole numbers. A row is its scale times whole numbers, stored with the
 * `int8_offset` of the instruction set added, 64 or 128. All numbers are below int8_offset in absolute value. */
typedef struct {
    const int8_t *packed;     /* (blocks, d / 4, 16, 4) */
    const int32_t *minus_sum; /* minus the sum of a column's numbers */
    const float *scale, *bias;
    int d; /* a multiple of 8 */
} fpq_int8_columns;

#define FPQ_ASSIGN_KERNELS(X)                                                                                          \
    /* The column with the largest score for each of n rows of d numbers, ldx apart, and the second largest score.     \
     * The kernel updates best, second (-inf at first) and id, so calls for consecutive columns can follow one         \
     * another. Ties go to any of the columns. lane_max (n, 16) may be NULL; each entry is raised to at least the      \
     * largest score of the columns = lane modulo 16, and may be higher. */                                            \
    X(void, nearest,                                                                                                   \
      (const float *x, ptrdiff_t ldx, int n, int d, const float *packed, const float *bias, int n_blocks,              \
       int32_t first_id, float *best, float *second, int32_t *id, float *lane_max))                                    \
    /* out (d, ldo) is the transpose of x (n, d), rows ldx apart; columns n .. ldo - 1 are zero. ldo is a multiple of  \
     * 16 and at least n. */                                                                                           \
    X(void, transpose, (const float *x, ptrdiff_t ldx, int n, int d, float *out, int ldo))                             \
    /* `nearest` of n transposed rows, x (d, n). n is a multiple of FPQ_ROWS_TILE and at most FPQ_ROW_BATCH.           \
     * square[i] receives the squared norm of row i. */                                                                \
    X(void, nearest_of_rows,                                                                                           \
      (const float *x, int n, int d, const float *packed, const float *bias, int n_blocks, int32_t first_id,           \
       float *best, float *second, int32_t *id, float *square))                                                        \
    /* out[i] is the squared norm of row i, summed in any order. */                                                    \
    X(void, squares, (const float *x, ptrdiff_t ldx, int n, int d, float *out))                                        \
    /* out[i][c] is the score of row i and column c, with the same bits that `nearest` compares. A bias of NULL is 0.  \
     * Rows of out are ld_out apart. */                                                                                \
    X(void, project,                                                                                                   \
      (const float *x, int n, int d, const float *packed, const float *bias, int n_blocks, float *out,                 \
       ptrdiff_t ld_out))                                                                                              \
    /* The largest of products[c] + (a - b along[c]) along[c] over the columns of n_blocks column blocks, the second   \
     * largest, and the column of the largest. Ties go to any of the columns. */                                       \
    X(void, nearest_anisotropic,                                                                                       \
      (const float *products, const float *along, float a, float b, int n_blocks, float *best, float *second,          \
       int32_t *id))                                                                                                   \
    /* out[r * 16] is the largest score of row r without its assigned column, assigned[r] - first_id, for the n        \
     * listed rows r. */                                                                                               \
    X(void, max_other,                                                                                                 \
      (const float *x, ptrdiff_t ldx, const uint8_t *rows, int n, int d, const float *packed, const float *bias,       \
       int n_blocks, const int32_t *assigned, int32_t first_id, float *out))                                           \
    /* Quantizes a row: x[t] = scale * (quantized[t] - max - 1) + residual[t] but for rounding, quantized[t] from 1 to \
     * 2 max + 1; max is 63 or 127. Returns the scale, 0 for rows of zeros, tiny or huge numbers, whose residual is x. \
     */                                                                                                                \
    X(float, quantize_int8, (const float *x, int d, int max, uint8_t *quantized, float *residual))                     \
    /* Scores of the n listed quantized rows r, x[r * d], with the columns of n_blocks column blocks: out[i * ld_out   \
     * + c] is the sum over t of (x[r][t] - int8_offset) * c[t], times the column's scale, times scale[r], plus bias.  \
     * lane_max[r * 16 + l] is raised to the largest of the columns c = l modulo 16. */                                \
    X(void, project_int8,                                                                                              \
      (const uint8_t *x, const float *scale, const uint8_t *rows, int n, const fpq_int8_columns *columns, int block,   \
       int n_blocks, float *out, ptrdiff_t ld_out, float *lane_max))                                                   \
    /* The same scores of n_blocks <= 4 column blocks without the column assigned[r] - first_id. Bit c of              \
     * candidates[i] is set where the score of column c is at least threshold[r]; out[r * 16] is the largest of the    \
     * other scores. */                                                                                                \
    X(void, max_other_int8,                                                                                            \
      (const uint8_t *x, const float *scale, const uint8_t *rows, int n, const fpq_int8_columns *columns, int block,   \
       int n_blocks, const int32_t *assigned, int32_t first_id, const float *threshold, float *out,                    \
       uint64_t *candidates))

#endif
