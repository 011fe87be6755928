/* SPDX-License-Identifier: MIT
 * Products of a query and refinement codes. A contract per kernel; refine/scalar.inc is its specification. */
#ifndef FPQ_REFINE_KERNELS_H
#define FPQ_REFINE_KERNELS_H

#include "fpq.h"
#include "portable.h"

#define FPQ_REFINE_KERNELS(X)                                                                                         \
    /* out[2 * i + h], h = 0, 1, is the sum over parts v < 8 / bits and bytes p < row_bytes of the bits v * bits ..   \
     * of plane[rows[i] * row_bytes + p] times query[(v * 2 + h) * row_bytes + p], exactly. bits is 4 or 2, row_bytes \
     * a multiple of 32; the query is on a 64-byte boundary. With levels (16, below 128), four bits stand for their   \
     * level, and the numbers of the query are from -64 to 64. */                                                     \
    X(void, plane_sums,                                                                                               \
      (const uint8_t *plane, int row_bytes, int bits, const uint8_t *levels, const int64_t *rows, int n,              \
       const int8_t *query, int32_t *out))

#endif
