/* SPDX-License-Identifier: MIT
 * Distances quantized to 16 bits, which round to the safe side: the bounds of kmeans/yinyang.h stay lower bounds. */
#ifndef FPQ_QUANTIZED_DISTANCE_H
#define FPQ_QUANTIZED_DISTANCE_H

#include <math.h>

#include "isa/kernels.h"
#include "portable.h"

/* A bound of the rounding error of a squared distance between a row and a centroid, and of the difference of two such
 * distances. `square` is the squared norm of the row. */
FPQ_INLINE float fpq_rounding_error(float square, int d, const fpq_bound_scale *bound_scale) {
    return (square + bound_scale->radius) * (float)(d + 4) * 0x1p-20f;
}

/* Rounds down; distances above 65535 steps become 65535. */
FPQ_INLINE uint16_t fpq_quantized_distance(float steps) { return (uint16_t)(steps < 65535.f ? steps : 65535.f); }

/* The bound of a group from the largest score of its centroids: |x - c|^2 = |x|^2 - 2 score, rounded down, plus the
 * drift of the group. square_below: the squared norm of the row less its rounding error. */
FPQ_INLINE uint16_t fpq_quantized_bound(float square_below, float score, float steps_per_distance, uint16_t drift) {
    const float squared = square_below - 2 * score;
    return fpq_quantized_distance(sqrtf(squared > 0 ? squared : 0) * steps_per_distance + (float)drift);
}

#endif
