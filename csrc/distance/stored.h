/* SPDX-License-Identifier: MIT
 * One stored row: its distance, whether it may be returned, its way into an answer. */
#ifndef FPQ_STORED_H
#define FPQ_STORED_H

#include "kernels.h"
#include "portable.h"
#include "topk.h"

/* The distance of one stored row; rows that are neither float32 nor uint8 are first read into scratch (d floats). */
FPQ_INLINE float fpq_distance_to(const fpq_kernels *kern, const fpq_matrix *x, int64_t row, const float *q,
                                 int inner_product, float *scratch) {
    const int d = (int)x->d;
    const char *at = x->data + row * x->row_stride;
    if (x->dtype == FPQ_U8 && x->col_stride == 1) {
        const uint8_t *bytes = (const uint8_t *)at;
        return inner_product ? 0 - kern->ip_u8(q, bytes, d) : kern->l2_u8(q, bytes, d);
    }
    const float *floats = (const float *)(const void *)at;
    if (x->dtype != FPQ_F32 || x->col_stride != (ptrdiff_t)sizeof(float)) {
        kern->read_rows(x, NULL, row, 1, 0, d, NULL, scratch);
        floats = scratch;
    }
    return inner_product ? 0 - kern->ip_f32(q, floats, d) : kern->l2_f32(q, floats, d);
}

FPQ_INLINE int fpq_is_allowed(const fpq_population *pop, int64_t row) {
    return !pop->allowed || (pop->allowed[row / 64] >> row % 64 & 1);
}

FPQ_INLINE void fpq_push_row(const fpq_population *pop, fpq_topk *top, float distance, int64_t row) {
    if (distance <= fpq_topk_limit(top)) fpq_topk_push(top, distance, pop->ids ? pop->ids[row] : row);
}

#endif
