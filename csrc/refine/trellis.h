/* SPDX-License-Identifier: MIT
 * Trellis-coded quantization (Marcellin and Fischer 1990) of 4-bit codes: the level of a code depends on the code of
 * the next dimension too, so that four times as many levels are within reach; a search over a chain of dimensions finds
 * the codes of least squared error.
 *
 * The dimensions 16 i to 16 i + 15, eight bytes of plane A, are a chain. The state of a dimension is the upper two bits
 * of the code of the next dimension in its chain, 0 for the last; its level is that of number 16 state + code. */
#ifndef FPQ_TRELLIS_H
#define FPQ_TRELLIS_H

#include "fpq_refinement.h"
#include "portable.h"

FPQ_INLINE int fpq_nibble(const uint8_t *a, int j) { return a[j / 2] >> (j % 2 * 4) & 15; }

/* The number of the level of dimension j in a row of plane A. */
FPQ_INLINE int fpq_level_number(const uint8_t *a, int j) {
    const int state = (j + 1) % FPQ_CHAIN ? fpq_nibble(a, j + 1) >> 2 : 0;
    return state << 4 | fpq_nibble(a, j);
}

#endif
