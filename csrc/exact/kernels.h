/* SPDX-License-Identifier: MIT
 * Search over stored vectors. A contract per kernel; exact/scalar.inc is its specification. */
#ifndef FPQ_EXACT_KERNELS_H
#define FPQ_EXACT_KERNELS_H

#include "fpq.h"
#include "portable.h"

#define FPQ_EXACT_KERNELS(X)                                       \
    /* Bit i is set where x[i] + shift >= least[i], 64 numbers. */ \
    X(uint64_t, at_least, (const float *x, float shift, const float *least))

#endif
