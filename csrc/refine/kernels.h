/* SPDX-License-Identifier: MIT
 * Products of a query and refinement codes, and the search for 4-bit codes. A contract per kernel; refine/scalar.inc is
 * its specification. */
#ifndef FPQ_REFINE_KERNELS_H
#define FPQ_REFINE_KERNELS_H

#include "fpq.h"
#include "portable.h"

enum {
    FPQ_TRELLIS_ROWS = 16,
    FPQ_STATES = 4 /* of a trellis: the upper two bits of a code */
};

/* From a state to the next there are four levels, here less that of 0; numbers above a midpoint are nearer to those
 * above. */
typedef struct {
    float levels[FPQ_STATES][FPQ_STATES][4], midpoints[FPQ_STATES][FPQ_STATES][3]; /* ascending */
} fpq_trellis;

#define FPQ_REFINE_KERNELS(X)                                                                                         \
    /* out[2 * i + h], h = 0, 1, is the sum over parts v < 8 / bits and bytes p < row_bytes of the bits v * bits ..   \
     * of plane[rows[i] * row_bytes + p] times query[(v * 2 + h) * row_bytes + p], exactly. bits is 4 or 2, row_bytes \
     * a multiple of 32; the query is on a 64-byte boundary. With levels (FPQ_LEVELS, below 128), four bits stand for \
     * their level (refine/trellis.h), and the numbers of the query are from -64 to 64. */                            \
    X(void, plane_sums,                                                                                               \
      (const uint8_t *plane, int row_bytes, int bits, const uint8_t *levels, const int64_t *rows, int n,              \
       const int8_t *query, int32_t *out))                                                                            \
    /* Of a chain of n <= FPQ_CHAIN dimensions of each row r (refine/trellis.h): the least sums of weights[j]         \
     * (scale[r] x[j][r] - level)^2, as float32 computes them (Viterbi 1967), costs (FPQ_TRELLIS_ROWS); and the codes \
     * (n, FPQ_TRELLIS_ROWS) that reach them, unless NULL. x is (n, FPQ_TRELLIS_ROWS); numbers are below 1e15 in      \
     * absolute value, weights from 0 to 1. */                                                                        \
    X(void, trellis,                                                                                                  \
      (const float *x, const float *scale, const float *weights, const fpq_trellis *t, int n, float *costs,           \
       uint8_t *codes))

#endif
