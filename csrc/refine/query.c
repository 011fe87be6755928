/* SPDX-License-Identifier: MIT
 * Refinement codes: what a search makes of a query, and the products of queries and codes. */
#include <math.h>
#include <string.h>

#include "isa/kernels.h"
#include "portable.h"

enum {
    LARGEST_NUMBER = 8063, /* of a query; hi and lo fit int8 then */
    OFFSET = 64 * 128 + 64 /* makes all numbers positive, and hi and lo the upper and the lower bits */
};

static const float LEAST_PRODUCT = 1e-30f; /* smaller ones are 0 */

/* Of the numbers for a plane; those of 8-bit codes are for both. */
static size_t query_bytes(const fpq_refinement *r, int plane) {
    if (plane && r->bits != 6) return 0;
    return (size_t)fpq_refinement_plane_bytes(r->w, r->bits, plane) * (size_t)(plane ? 8 : 4);
}

/* Behind the numbers of the planes: y steps (w floats), and the numbers before they are cut (w uint16). */
size_t fpq_refinement_query_size(const fpq_refinement *r) {
    const size_t w = (size_t)r->w;
    return query_bytes(r, 0) + query_bytes(r, 1) + fpq_lines(w * sizeof(float)) + fpq_lines(w * sizeof(uint16_t));
}

/* The numbers of a plane with `parts` dimensions in a byte: for each part all hi, then all lo. */
FPQ_INLINE void put_numbers(const uint16_t *numbers, int w, const int parts, int row_bytes, int8_t *out) {
    for (int v = 0; v < parts; v++, out += 2 * row_bytes)
        for (int p = 0; p * parts + v < w; p++) {
            out[p] = (int8_t)((numbers[p * parts + v] >> 7) - 64);
            out[row_bytes + p] = (int8_t)((numbers[p * parts + v] & 127) - 64);
        }
}

/* y is scaled by a power of two, so that tiny and huge queries have as many digits as others. */
void fpq_refinement_query_make(const fpq_refinement *r, const float *y, char *memory, fpq_refinement_query *query) {
    const fpq_kernels *kern = fpq_active();
    const int w = r->w, bytes_a = fpq_refinement_plane_bytes(w, r->bits, 0);
    int8_t *a = (int8_t *)memory, *b = a + query_bytes(r, 0);
    float *x = (float *)(void *)(b + query_bytes(r, 1)), stats[3];
    uint16_t *numbers = (uint16_t *)(void *)((char *)x + fpq_lines((size_t)w * sizeof *x));
    int exponent;
    kern->min_max_sum(y, w, stats);
    frexpf(fmaxf(-stats[0], stats[1]), &exponent);
    const float power = ldexpf(1, exponent < -126 ? 126 : -exponent);
    for (int j = 0; j < w; j++) x[j] = y[j] * power * r->steps[j];
    kern->min_max_sum(x, w, stats);
    const float largest = fmaxf(-stats[0], stats[1]), scale = largest > LEAST_PRODUCT ? LARGEST_NUMBER / largest : 1;
    kern->quantize_u16(x, w, -(OFFSET + 0.5f) / scale, scale, numbers);
    memset(memory, 0, query_bytes(r, 0) + query_bytes(r, 1));
    put_numbers(numbers, w, 2, bytes_a, a);
    if (r->bits == 6) put_numbers(numbers, w, 4, fpq_refinement_plane_bytes(w, r->bits, 1), b);
    *query = (fpq_refinement_query){.a = a, .unit = 1 / ((double)scale * (double)power), .sum = -(int64_t)OFFSET * w};
    if (r->bits > 4) query->b = r->bits == 8 ? a : b;
    for (int j = 0; j < w; j++) query->sum += numbers[j];
}

static double sum_of(const int32_t *sums) { return 128 * (double)sums[0] + (double)sums[1]; }

double fpq_refinement_product_a(const fpq_refinement *r, const fpq_refinement_query *query, const int32_t *sums_a) {
    if (r->levels) return query->unit * (sum_of(sums_a) - FPQ_LEVEL_OF_0 * (double)query->sum);
    return query->unit * (1 << (r->bits - 4)) * (sum_of(sums_a) - 7.5 * (double)query->sum);
}

double fpq_refinement_product(const fpq_refinement *r, const fpq_refinement_query *query, const int32_t *sums_a,
                              const int32_t *sums_b) {
    if (r->levels) return fpq_refinement_product_a(r, query, sums_a);
    const double codes = (1 << (r->bits - 4)) * sum_of(sums_a) + sum_of(sums_b);
    return query->unit * (codes - ((1 << (r->bits - 1)) - 0.5) * (double)query->sum);
}
