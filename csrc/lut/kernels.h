/* SPDX-License-Identifier: MIT
 * A query's look-up tables. A contract per kernel; lut/scalar.inc is its specification. */
#ifndef FPQ_LUT_KERNELS_H
#define FPQ_LUT_KERNELS_H

#include "fpq.h"
#include "portable.h"

/* The code group of an 8-bit code. Of 64 groups, each has the four codes that differ in bits 4 and 5 only. Of 32, each
 * is a pair of these, whose codes differ in bits 4 to 6. */
#define FPQ_CODE_GROUP(code, groups) \
    ((groups) == 32 ? ((code) & 15) | ((code) >> 3 & 16) : (groups) == 64 ? ((code) & 15) | ((code) >> 2 & 48) : (code))

#define FPQ_LUT_KERNELS(X)                                                                                    \
    /* The minimum, the maximum and the sum, added in any order, of n >= 1 numbers. */                        \
    X(void, min_max_sum, (const float *x, int n, float *out))                                                 \
    /* out[i] = floor((x[i] - min) * scale), at most 255; x[i] >= min. */                                     \
    X(void, quantize_u8, (const float *x, int n, float min, float scale, uint8_t *out))                       \
    /* out[i] = floor((x[i] - min) * scale), at most 32767; x[i] >= min. */                                   \
    X(void, quantize_u16, (const float *x, int n, float min, float scale, uint16_t *out))                     \
    /* out[FPQ_CODE_GROUP(c)] = the minimum x[c] of the code group of 4 members; stats as by min_max_sum. */  \
    X(void, group_min, (const float *x, int groups, float *out, float *stats))                                \
    /* The same of x[c] + y[c], sums below 65536, of groups of 4 members or 1; returns the minimum of all. */ \
    X(int, group_min_of_sums, (const uint16_t *x, const uint16_t *y, int groups, int members, uint16_t *out)) \
    /* out[i] = (x[i] - min) * factor / 65536 rounded down, at most 255; x[i] >= min, factor < 65536. */      \
    X(void, quantize_u16_to_u8, (const uint16_t *x, int n, int min, int factor, uint8_t *out))

#endif
