/* SPDX-License-Identifier: MIT
 * Look-up tables in bytes, and the error bounds that make pruning by them safe. */
#include <float.h>
#include <math.h>

#include "lut/lut.h"

/* Steps per precomputed term: the term is rounded in float32, which may lift an entry a little above its step. */
#define STEP_ERROR 0.05f

static float step_error(const fpq_lut *lut) {
    return lut->kind == FPQ_LUT_PRECOMPUTED ? STEP_ERROR * lut->step * (float)lut->adc->m : 0;
}

/* Bounds the rounding errors of a float32 distance of at most the threshold. */
static float rounding_error(const fpq_lut *lut, float threshold) {
    return (lut->magnitude + fabsf(threshold)) * (float)(2 * lut->adc->m + lut->adc->dsub + 8) * FLT_EPSILON;
}

float fpq_lut_approx_threshold(const fpq_lut *lut, float threshold) {
    return threshold + rounding_error(lut, threshold) + step_error(lut);
}

/* A row with a float32 distance of at most the threshold has, in exact arithmetic and by approximate tables, entries
 * above the minima of their tables that add up to at most threshold - offset - base + error. Its bytes are rounded
 * down, so their sum is at most max_sum. */
int fpq_lut_quantize(fpq_lut *lut, float threshold) {
    const int groups = fpq_code_groups(lut->kern, lut->adc);
    const float zero = lut->offset + lut->base - step_error(lut) - rounding_error(lut, threshold),
                width = threshold - zero;
    const float max_sum = (float)lut->lut8.max_sum;
    const float scale = width > 1e-30f    ? max_sum / 2 / (fminf(width / 2, FLT_MAX / 1.001f) * 1.0001f)
                        : width <= 1e-30f ? 1e30f
                                          : 0;
    fpq_lut8 *lut8 = &lut->lut8;
    if (width < 0) return 0;
    lut8->factor = (int)fminf(scale * lut->step * 65536, 65535);
    for (int j = 0; j < lut->adc->m; j++) {
        const ptrdiff_t at = (ptrdiff_t)j * groups;
        if (lut->kind == FPQ_LUT_PRECOMPUTED)
            lut->kern->quantize_u16_to_u8(lut->group16 + at, groups, lut->min16[j], lut8->factor, lut8->group + at);
        else
            lut->kern->quantize_u8(lut->group + at, groups, lut->min[j], scale, lut8->group + at);
    }
    lut8->threshold = threshold;
    lut8->zero = zero;
    lut8->scale = scale;
    lut8->has_full = lut8->full == lut8->group;
    lut8->has_pair = 0;
    return 1;
}

/* The groups of a pair lie 16 apart. */
void fpq_lut_quantize_pairs(fpq_lut *lut) {
    const int n = lut->adc->m * fpq_code_groups(lut->kern, lut->adc) / 32;
    const uint8_t *group = lut->lut8.group;
    uint8_t *pair = lut->lut8.pair;
    if (lut->lut8.has_pair) return;
    for (int p = 0; p < n; p++, group += 32, pair += 16)
        for (int i = 0; i < 16; i++) pair[i] = group[i] < group[i + 16] ? group[i] : group[i + 16];
    lut->lut8.has_pair = 1;
}

void fpq_lut_quantize_full(fpq_lut *lut) {
    const int ld = fpq_ld_table(lut->adc);
    fpq_lut8 *lut8 = &lut->lut8;
    uint16_t sums[FPQ_MAX_ENTRIES];
    if (lut8->has_full) return;
    for (int j = 0; j < lut->adc->m; j++) {
        const ptrdiff_t at = (ptrdiff_t)j * ld;
        if (lut->kind == FPQ_LUT_PRECOMPUTED) {
            lut->kern->group_min_of_sums(lut->list_term + at, lut->query_term + at, ld, 1, sums);
            lut->kern->quantize_u16_to_u8(sums, ld, lut->min16[j], lut8->factor, lut8->full + at);
        } else
            lut->kern->quantize_u8(lut->table + at, ld, lut->min[j], lut8->scale, lut8->full + at);
    }
    lut8->has_full = 1;
}

int fpq_lut_byte_threshold(const fpq_lut *lut, float x) {
    const float sum = lut->lut8.scale * (x - lut->lut8.zero) * 1.0001f;
    return sum < (float)lut->lut8.max_sum ? (int)fmaxf(sum, 0) : lut->lut8.max_sum;
}
