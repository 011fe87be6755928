/* SPDX-License-Identifier: MIT
 * Distances of the tokens of a document to the tokens of a query. A contract per kernel; maxsim/scalar.inc is its
 * specification. */
#ifndef FPQ_MAXSIM_KERNELS_H
#define FPQ_MAXSIM_KERNELS_H

#include "fpq.h"
#include "portable.h"

#define FPQ_MAXSIM_KERNELS(X)                                                                                        \
    /* out[i], i < width, is the minimum over the tokens t < n of base[lists[t] * width + i] plus the sum over j < m \
     * of tables[(j * 256 + codes[t * m + j]) * width + i], added in the order of j. Without a base (NULL), sums     \
     * begin at 0. A NaN is no minimum; without tokens, out[i] is +inf. width is a multiple of 16. */                \
    X(void, token_minima,                                                                                            \
      (const float *base, const float *tables, const int32_t *lists, const uint8_t *codes, int m, int64_t n,         \
       int width, float *out))

#endif
