/* SPDX-License-Identifier: MIT
 * Distances in the whole units of kmeans/yinyang.h, on the safe side of what rounding does to them. */
#ifndef FPQ_UNITS_H
#define FPQ_UNITS_H

#include <math.h>

#include "isa/kernels.h"
#include "portable.h"

/* More than rounding makes of the squared distance of a row to a centroid, and of the difference of two. */
FPQ_INLINE float fpq_slack(float square, int d, const fpq_bound_scale *bound_scale) {
    return (square + bound_scale->radius) * (float)(d + 4) * 0x1p-20f;
}

FPQ_INLINE uint16_t fpq_quantized_distance(float x) { return (uint16_t)(x < 65535.f ? x : 65535.f); }

/* Rounded down, after the drift so far; least: the squared norm of the row less the slack. */
FPQ_INLINE uint16_t fpq_quantized_bound(float least, float product, float per_unit, uint16_t drift) {
    const float left = least - 2 * product;
    return fpq_quantized_distance(sqrtf(left > 0 ? left : 0) * per_unit + (float)drift);
}

#endif
