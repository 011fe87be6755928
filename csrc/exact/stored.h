/* SPDX-License-Identifier: MIT
 * One stored row: its distance, whether it may be returned, its way into an answer. */
#ifndef FPQ_STORED_H
#define FPQ_STORED_H

#include <float.h>
#include <math.h>

#include "dot.h"
#include "isa/kernels.h"
#include "portable.h"
#include "results.h"

/* Whether products and lengths tell the distance. */
FPQ_INLINE int fpq_has_products(fpq_metric metric) { return metric == FPQ_L2 || metric == FPQ_IP; }

/* The negated inner product; where its sum in float32 is not finite, from a sum in double precision. */
FPQ_INLINE float fpq_negated_product(float sum, const fpq_kernels *kern, const fpq_matrix *x, int64_t row,
                                     const float *q, float *scratch) {
    if (sum - sum == 0) return 0 - sum;
    kern->read_rows(x, NULL, row, 1, 0, (int)x->d, NULL, scratch);
    const double product = fpq_dot(q, scratch, (int)x->d);
    return product > FLT_MAX ? -INFINITY : product < -FLT_MAX ? INFINITY : (float)-product;
}

/* The distance of one stored row. A row of other numbers than those of the kernels, or one that is scaled, is first
 * read into scratch (d floats). */
FPQ_INLINE float fpq_distance_to(const fpq_kernels *kern, const fpq_matrix *x, int64_t row, const float *q,
                                 fpq_metric metric, float *scratch) {
    const fpq_metric_kernels *distance_of = kern->metric + metric;
    const int d = (int)x->d;
    const void *at = x->data + row * x->row_stride;
    float distance;
    if (x->dtype == FPQ_F32 && x->col_stride == sizeof(float) && !x->exponent) {
        distance = distance_of->f32(q, at, d);
    } else if (x->dtype == FPQ_U8 && x->col_stride == 1 && !x->exponent) {
        distance = distance_of->u8(q, at, d);
    } else if (x->dtype == FPQ_F16 && x->col_stride == sizeof(uint16_t) && !x->exponent) {
        distance = distance_of->f16(q, at, d);
    } else if (x->dtype == FPQ_BF16 && x->col_stride == sizeof(uint16_t) && !x->exponent) {
        distance = distance_of->bf16(q, at, d);
    } else {
        kern->read_rows(x, NULL, row, 1, 0, d, NULL, scratch);
        distance = distance_of->f32(q, scratch, d);
    }
    return metric == FPQ_IP ? fpq_negated_product(distance, kern, x, row, q, scratch) : distance;
}

FPQ_INLINE int fpq_is_allowed(const fpq_selector *selector, int64_t row) {
    return !selector->allowed || (selector->allowed[row / 64] >> row % 64 & 1);
}

/* Offers a row, whose id the results know. */
FPQ_INLINE void fpq_offer_row(fpq_results *results, float distance, int64_t row) {
    if (distance <= results->threshold) fpq_results_offer(results, distance, row);
}

#endif
