/* SPDX-License-Identifier: MIT
 * Hashes and sketches. A contract per kernel; lsh/scalar.inc is its specification. */
#ifndef FPQ_LSH_KERNELS_H
#define FPQ_LSH_KERNELS_H

#include "fpq.h"
#include "portable.h"

#define FPQ_LSH_KERNELS(X)                                                                                             \
    /* Bit i of n <= 64 is set where the sum over t of (q[t] - 4 codes[i * size + t])^2 is at most threshold.  q: in   \
     * quarters, 0 to 1020; size: 16, 32, 48 or 64. */                                                                 \
    X(uint64_t, sketches_within, (const int16_t *q, const uint8_t *codes, int size, int n, int32_t threshold))         \
    /* counts[r] = how many of the m < 256 codes of row r are low[j], low[j] + 1, ... or high[j] modulo 256, one block \
     * (m, 64); bit r is set where it is at least `least`. */                                                          \
    X(uint64_t, collisions,                                                                                            \
      (const uint8_t *codes, int m, const uint8_t *low, const uint8_t *high, int least, uint8_t *counts))              \
    /* sums[r] = norm r plus the sum over j of (q[j] + 128 q[m + j]) times code j of row r, rounded to float, of the   \
     * 64 rows of a block: norms (64) as int32, then codes (m / 4, 64, 4) as int8; bit r is set where it is at most    \
     * threshold.  q below 128, codes from -127; m: a multiple of 4, at most 64; norms so that sums fit into int32. */ \
    X(uint64_t, near_projections, (const int32_t *block, const uint8_t *q, int m, float threshold, float *sums))

#endif
