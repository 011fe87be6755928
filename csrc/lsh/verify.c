/* SPDX-License-Identifier: MIT
 * Verification of candidates. A sketch is a map of the vectors that lengthens no distance: principal coordinates, and
 * the length of the rest, each clipped to a range and rounded to a byte. So the distance of two sketches, less what
 * rounding may add, is at most the distance of the vectors, and a row that its sketch excludes is not in the answer:
 * results do not depend on sketches. */
#include <float.h>
#include <string.h>

#include "lsh/lsh.h"
#include "parallel.h"
#include "portable.h"

size_t fpq_sketch_scratch(const fpq_sketcher *s, int n) {
    return (size_t)n * (size_t)(fpq_columns(s->size - 1) + s->size - 1) + (size_t)fpq_columns(s->d);
}

void fpq_sketch_rows(const fpq_kernels *kern, const fpq_sketcher *s, const float *centred, int n, float *scratch,
                     float *out) {
    const int r = s->size - 1, width = fpq_columns(r);
    float *wide = scratch, *packed = wide + (ptrdiff_t)n * width, *back = packed + (ptrdiff_t)n * r;
    kern->project(centred, n, s->d, s->packed, NULL, FPQ_COLUMN_BLOCKS(r), wide, width);
    for (int i = 0; i < n; i++) {
        float *y = packed + (ptrdiff_t)i * r, *to = out + (ptrdiff_t)i * s->size;
        memcpy(y, wide + (ptrdiff_t)i * width, (size_t)r * sizeof(float));
        kern->project(y, 1, r, s->back, NULL, FPQ_COLUMN_BLOCKS(s->d), back, fpq_columns(s->d));
        const float rest = sqrtf(kern->l2_f32(back, centred + (ptrdiff_t)i * s->d, s->d));
        for (int t = 0; t < r; t++) to[t] = fpq_clamp((y[t] - s->least[t]) * s->scale, 0, 255);
        to[r] = fpq_clamp((rest - s->least[r]) * s->scale, 0, 255);
    }
}

/* Floats behind the bitmap of seen rows: the centred query, its values, and scratch. */
static size_t floats_size(const fpq_hashes *hashes, const fpq_lsh_rows *rows) {
    const size_t sketch = rows->sketcher ? FPQ_SKETCH_MAX + fpq_sketch_scratch(rows->sketcher, 1) : 0;
    return (2 * (size_t)hashes->d + (size_t)fpq_columns(hashes->n_tables * hashes->n_hashes) + sketch) * sizeof(float);
}

size_t fpq_verifier_size(const fpq_hashes *hashes, const fpq_lsh_rows *rows) {
    return fpq_lines((size_t)fpq_batches(rows->selector.n, 64) * sizeof(uint64_t)) +
           fpq_lines(floats_size(hashes, rows));
}

fpq_verifier fpq_verifier_at(char *memory, const fpq_hashes *hashes, const fpq_lsh_rows *rows) {
    fpq_verifier v = {.kern = fpq_active(), .hashes = hashes, .rows = rows, .seen = (uint64_t *)(void *)memory};
    memory += fpq_lines((size_t)fpq_batches(rows->selector.n, 64) * sizeof(uint64_t));
    v.centred = (float *)(void *)memory;
    v.values = v.centred + hashes->d;
    v.scratch = v.values + fpq_columns(hashes->n_tables * hashes->n_hashes);
    return v;
}

/* Relative error of a sum of d products. */
static float sum_error(const fpq_verifier *v) { return (float)(v->rows->x.d + 16) * FLT_EPSILON; }

/* For the inner product: |q - x|^2 = |q|^2 + |x|^2 - 2 q.x, where lengths are 1 or 0 but for rounding. */
float fpq_verify_threshold(const fpq_verifier *v) {
    const float threshold = v->results.threshold;
    return v->rows->metric == FPQ_IP ? fmaxf(2 + 2 * threshold, 0) + 4 * sum_error(v) : threshold;
}

/* A row within a distance r has a sketch within
 *   scale * r + sqrt(size) * (1/2 + 1/8)                           the rounding of the row's codes and the query's
 *             + 2 sqrt(size) * scale * sum_error * (|q - c| + r)   that of their coordinates: |x - c| <= |q - c| + r
 * codes; 1 more covers the rest. */
static int32_t sketch_threshold(const fpq_verifier *v) {
    const fpq_sketcher *s = v->rows->sketcher;
    const float squared = fpq_verify_threshold(v);
    if (!s || !(squared < INFINITY)) return INT32_MAX;
    const float r = sqrtf(squared), sides = sqrtf((float)s->size);
    const float width = s->scale * (r + 2 * sides * sum_error(v) * (v->length + r)) + 0.625f * sides + 1;
    return (int32_t)fpq_clamp(16 * width * width, 0, 1e9f);
}

void fpq_verify_start(fpq_verifier *v, const float *query, const fpq_answers *answers, int64_t i) {
    const fpq_hashes *hashes = v->hashes;
    const fpq_sketcher *s = v->rows->sketcher;
    const int columns = hashes->n_tables * hashes->n_hashes, d = hashes->d;
    if (s) {
        for (int t = 0; t < d; t++) v->centred[t] = query[t] - s->centre[t];
        v->length = sqrtf(v->kern->ip_f32(v->centred, v->centred, d));
        float *sketch = v->scratch + d;
        fpq_sketch_rows(v->kern, s, v->centred, 1, sketch + FPQ_SKETCH_MAX, sketch);
        for (int t = 0; t < s->size; t++) v->sketch[t] = (int16_t)(4 * sketch[t] + 0.5f);
    }
    for (int t = 0; t < d; t++) v->centred[t] = query[t] - hashes->centre[t];
    v->kern->project(v->centred, 1, d, hashes->packed, hashes->shifts, FPQ_COLUMN_BLOCKS(columns), v->values,
                     fpq_columns(columns));
    v->query = query;
    v->results = fpq_results_of(answers, i, v->rows->selector.ids);
    v->sketch_threshold = INT32_MAX;
    v->n = 0;
    v->verified = 0;
    memset(v->seen, 0, (size_t)fpq_batches(v->rows->selector.n, 64) * sizeof *v->seen);
}

void fpq_verify_waiting(fpq_verifier *v) {
    for (int i = 0; i < v->n; i++) {
        const uint32_t row = v->waiting[i];
        fpq_offer_row(&v->results, fpq_distance_to(v->kern, &v->rows->x, row, v->query, v->rows->metric, v->scratch),
                      row);
    }
    v->verified += v->n;
    v->n = 0;
    v->sketch_threshold = sketch_threshold(v);
}
