/* SPDX-License-Identifier: MIT
 * The codes of PM-LSH: where they lie, and what a query is among them. */
#ifndef FPQ_LSH_PMLSH_H
#define FPQ_LSH_PMLSH_H

#include "fpq.h"
#include "portable.h"

enum {
    FPQ_MAX_PROJECTIONS = 64,
    FPQ_STEPS = 16 /* of a query's projection within a bucket */
};

/* Buckets by which a projection of a query less that of a row is rounded: half a bucket of the row, half a step of the
 * query; the rest covers float32. */
#define FPQ_ROUNDING 0.6

/* A query among the projections. The kernel near_projections turns q into the sum for a row: a sum divided by
 * FPQ_STEPS / 2, plus length, is the squared distance in buckets. clipped: it may be larger in truth. */
typedef struct {
    uint8_t q[2 * FPQ_MAX_PROJECTIONS];
    double length;
    int clipped;
} fpq_place;

fpq_place fpq_place_of(const float *values, int m);

FPQ_INLINE size_t fpq_block_numbers(int m) { return (size_t)64 * (size_t)(m / 4 + 1); }

#endif
