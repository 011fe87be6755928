/* SPDX-License-Identifier: MIT
 * A query's look-up tables. A contract per kernel; lut/scalar.inc is its specification. */
#ifndef FPQ_LUT_KERNELS_H
#define FPQ_LUT_KERNELS_H

#include "fpq.h"
#include "portable.h"

/* Queries whose tables are made in one pass over the codebooks. */
enum { FPQ_LUT_QUERIES = 4 };

/* The group of an 8-bit code: the four that are alike but for bits 4 and 5 may share an entry. */
#define FPQ_CODE_GROUP(code, groups) ((groups) == 64 ? ((code) & 15) | ((code) >> 2 & 48) : (code))

#define FPQ_LUT_KERNELS(X)                                                                                             \
    /* Tables of n <= FPQ_LUT_QUERIES queries, ldq apart: out[i][c] = sum over t of (q[i][t] - c[t])^2, added in the   \
     * order of t, each product rounded (no fused multiply-add), so that every instruction set gives the same bits. */ \
    X(void, table_l2,                                                                                                  \
      (const float *q, ptrdiff_t ldq, int n, int d, const float *packed, int n_blocks, float *const *out))             \
    /* out[i][c] = -(sum over t of q[i][t] * c[t]), in the same way. */                                                \
    X(void, table_ip,                                                                                                  \
      (const float *q, ptrdiff_t ldq, int n, int d, const float *packed, int n_blocks, float *const *out))             \
    /* out[i][c] = 2 (half[c] - the sum over t of q[i][t] * c[t]), in any order and with fused multiply-adds; and the  \
     * least of each: where half[c] = |c|^2 / 2, table_l2 less |q[i]|^2 but for rounding. A half that is NULL is 0. */ \
    X(void, approx_l2,                                                                                                 \
      (const float *q, ptrdiff_t ldq, int n, int d, const float *packed, const float *half, int n_blocks,              \
       float *const *out, float *least))                                                                               \
    /* The least and the largest of n >= 1 numbers, and their sum, added in any order. */                              \
    X(void, min_max_sum, (const float *x, int n, float *least_largest_sum))                                            \
    /* out[i] = floor((x[i] - least) * scale), at most 255; x[i] >= least. */                                          \
    X(void, quantize_u8, (const float *x, int n, float least, float scale, uint8_t *out))                              \
    /* out[i] = floor((x[i] - least) * scale), at most 32767; x[i] >= least. */                                        \
    X(void, quantize_u16, (const float *x, int n, float least, float scale, uint16_t *out))                            \
    /* out[FPQ_CODE_GROUP(c)] = the least x[c] of the group; 4 members a group, or 1. */                               \
    X(void, group_min, (const float *x, int groups, int members, float *out))                                          \
    /* The same of x[c] + y[c], sums below 65536; the least of all is returned. */                                     \
    X(int, group_min_of_sums, (const uint16_t *x, const uint16_t *y, int groups, int members, uint16_t *out))          \
    /* out[i] = (x[i] - least) * factor / 65536 rounded down, at most 255; x[i] >= least, factor < 65536. */           \
    X(void, quantize_u16_to_u8, (const uint16_t *x, int n, int least, int factor, uint8_t *out))

#endif
