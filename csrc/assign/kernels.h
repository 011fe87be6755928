/* SPDX-License-Identifier: MIT
 * The nearest centroids of rows. A contract per kernel; assign/scalar.inc is its specification. */
#ifndef FPQ_ASSIGN_KERNELS_H
#define FPQ_ASSIGN_KERNELS_H

#include "fpq.h"
#include "portable.h"

/* Rows that are assigned at a time; rows that nearest_of_rows takes together. */
enum { FPQ_ROW_BATCH = 96, FPQ_ROWS_TILE = 48 };

/* Columns in bytes: scale times whole numbers up to 127 in size. */
typedef struct {
    const int8_t *packed; /* (blocks, d / 4, 16, 4) */
    const int32_t *start; /* -128 times the sum of a column's numbers */
    const float *scale, *bias;
    int d; /* a multiple of 4 */
} fpq_int8_columns;

#define FPQ_ASSIGN_KERNELS(X)                                                                                          \
    /* The column with the largest x.c + bias of each of n rows of d numbers, ldx apart, and the second largest x.c +  \
     * bias. best, second (start at -inf) and id are updated, so panels of columns can follow one another. Ties go to  \
     * any of the columns. lanes (n, 16) unless NULL: raised to x.c + bias of every column = lane modulo 16; may be    \
     * higher. */                                                                                                      \
    X(void, nearest,                                                                                                   \
      (const float *x, ptrdiff_t ldx, int n, int d, const float *packed, const float *bias, int n_blocks,              \
       int32_t first_id, float *best, float *second, int32_t *id, float *lanes))                                       \
    /* out (d, ldo) = x (n, d), rows ldx apart, as columns; columns n .. ldo - 1 are zero. ldo is a multiple of 16. */ \
    X(void, transpose, (const float *x, ptrdiff_t ldx, int n, int d, float *out, int ldo))                             \
    /* The same of n rows that stand in columns, x (d, n): n is a multiple of FPQ_ROWS_TILE,                           \
     * n is at most FPQ_ROW_BATCH. square[i] is the squared length of row i. */                                        \
    X(void, nearest_of_rows,                                                                                           \
      (const float *x, int n, int d, const float *packed, const float *bias, int n_blocks, int32_t first_id,           \
       float *best, float *second, int32_t *id, float *square))                                                        \
    /* out[i] = the squared length of row i, added in any order. */                                                    \
    X(void, squares, (const float *x, ptrdiff_t ldx, int n, int d, float *out))                                        \
    /* out[i][c] = x.c + bias[c]: the same sums, bit for bit, that nearest compares. */                                \
    X(void, project,                                                                                                   \
      (const float *x, int n, int d, const float *packed, const float *bias, int n_blocks, float *out,                 \
       ptrdiff_t ld_out))                                                                                              \
    /* out[r * 16] = the largest x.c + bias of row r of x, ldx apart, for the n listed r; column own[r] - first is     \
     * left out. */                                                                                                    \
    X(void, max_other,                                                                                                 \
      (const float *x, ptrdiff_t ldx, const uint8_t *rows, int n, int d, const float *packed, const float *bias,       \
       int n_blocks, const int32_t *own, int32_t first, float *out))                                                   \
    /* x[t] = step * (bytes[t] - 128) + rest[t] but for rounding, bytes from 1 to 255; returns step. */                \
    X(float, quantize_int8, (const float *x, int d, uint8_t *bytes, float *rest))                                      \
    /* Products of the n listed rows r of bytes, x[r * d], with the columns of n_blocks blocks: out[i * ld_out + c] =  \
     * the sum over t of (x[r][t] - 128) * c[t], times scale, times step[r], plus bias. lanes[r * 16 + l] is raised to \
     * those of columns c = l modulo 16. */                                                                            \
    X(void, project_int8,                                                                                              \
      (const uint8_t *x, const float *step, const uint8_t *rows, int n, const fpq_int8_columns *columns, int block,    \
       int n_blocks, float *out, ptrdiff_t ld_out, float *lanes))                                                      \
    /* Of the same products of n_blocks <= 4 blocks, but for column own[r] - first: bit c of near[i] is set where the  \
     * one of column c is at least least[r]; out[r * 16] = the largest of the others. */                               \
    X(void, max_other_int8,                                                                                            \
      (const uint8_t *x, const float *step, const uint8_t *rows, int n, const fpq_int8_columns *columns, int block,    \
       int n_blocks, const int32_t *own, int32_t first, const float *least, float *out, uint64_t *near))

#endif
