/* SPDX-License-Identifier: MIT
 * The distances of each metric of FPQ_METRICS (fpq.h): of a query to one stored row, and to the codewords of a
 * subquantizer. Smaller is nearer. A contract per kernel; metric/scalar.inc is its specification. */
#ifndef FPQ_METRIC_KERNELS_H
#define FPQ_METRIC_KERNELS_H

#include "fpq.h"
#include "portable.h"

enum { FPQ_LUT_QUERIES = 4 }; /* queries whose tables are made in one pass over a codebook */

#define FPQ_METRIC_KERNELS(X)                                                                                          \
    /* L2: the squared distance of a float32 query and a stored row. Numbers of 16 bits give the bits of float32. */   \
    X(float, l2_f32, (const float *q, const float *x, int d))                                                          \
    X(float, l2_u8, (const float *q, const uint8_t *x, int d))                                                         \
    X(float, l2_f16, (const float *q, const uint16_t *x, int d))                                                       \
    X(float, l2_bf16, (const float *q, const uint16_t *x, int d))                                                      \
    /* Tables of n <= FPQ_LUT_QUERIES queries, ldq apart: out[i][c] = sum over t of (q[i][t] - c[t])^2, added in the   \
     * order of t, each product rounded (no fused multiply-add), so that every instruction set gives the same bits. */ \
    X(void, table_l2,                                                                                                  \
      (const float *q, ptrdiff_t ldq, int n, int d, const float *packed, int n_blocks, float *const *out))             \
    /* Inner product: not negated for a stored row, whose sum may have to be taken again (exact/stored.h). */          \
    X(float, ip_f32, (const float *q, const float *x, int d))                                                          \
    X(float, ip_u8, (const float *q, const uint8_t *x, int d))                                                         \
    X(float, ip_f16, (const float *q, const uint16_t *x, int d))                                                       \
    X(float, ip_bf16, (const float *q, const uint16_t *x, int d))                                                      \
    /* out[i][c] = -(sum over t of q[i][t] * c[t]), in the order of t, with rounded products. */                       \
    X(void, table_ip,                                                                                                  \
      (const float *q, ptrdiff_t ldq, int n, int d, const float *packed, int n_blocks, float *const *out))             \
    /* Approximate L2 tables: out[i][c] = 2 (half[c] - the sum over t of q[i][t] * c[t]), in any order and with fused  \
     * multiply-adds, and the minimum of each table. With half[c] = |c|^2 / 2 these are table_l2 less |q[i]|^2, but    \
     * for rounding. A half that is NULL is 0. */                                                                      \
    X(void, approx_l2,                                                                                                 \
      (const float *q, ptrdiff_t ldq, int n, int d, const float *packed, const float *half, int n_blocks,              \
       float *const *out, float *min))

/* The kernels of one metric. */
typedef struct {
    float (*f32)(const float *q, const float *x, int d);
    float (*u8)(const float *q, const uint8_t *x, int d);
    float (*f16)(const float *q, const uint16_t *x, int d);
    float (*bf16)(const float *q, const uint16_t *x, int d);
    void (*table)(const float *q, ptrdiff_t ldq, int n, int d, const float *packed, int n_blocks, float *const *out);
} fpq_metric_kernels;

#endif
