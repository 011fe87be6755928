/* SPDX-License-Identifier: MIT
 * Distances to stored vectors. A contract per kernel; exact/scalar.inc is its specification. */
#ifndef FPQ_EXACT_KERNELS_H
#define FPQ_EXACT_KERNELS_H

#include "fpq.h"
#include "portable.h"

#define FPQ_EXACT_KERNELS(X)                                                            \
    /* Bit i is set where x[i] + shift >= least[i], 64 numbers. */                      \
    X(uint64_t, at_least, (const float *x, float shift, const float *least))            \
    /* Squared L2 distance and inner product of a float32 query with one stored row. */ \
    X(float, l2_f32, (const float *q, const float *x, int d))                           \
    X(float, l2_u8, (const float *q, const uint8_t *x, int d))                          \
    X(float, ip_f32, (const float *q, const float *x, int d))                           \
    X(float, ip_u8, (const float *q, const uint8_t *x, int d))

#endif
