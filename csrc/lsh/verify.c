/* SPDX-License-Identifier: MIT
 * Candidates to answers. A sketch is a map of the vectors that lengthens no distance: principal coordinates, and the
 * length of what they leave out, each clipped to a range and rounded to a byte. So the distance of two sketches, less
 * what rounding may add, is at most the distance of the vectors, and rows that a sketch turns away are never in the
 * answer: results do not depend on sketches. */
#include <float.h>
#include <string.h>

#include "lsh/lsh.h"
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

int fpq_verifier_init(fpq_verifier *v, const fpq_hashes *hashes, const fpq_lsh_rows *rows) {
    const size_t seen = (size_t)((rows->selector.n + 63) / 64), d = (size_t)hashes->d;
    const size_t columns = (size_t)fpq_columns(hashes->n_tables * hashes->n_hashes);
    const size_t sketch = rows->sketcher ? FPQ_SKETCH_MAX + fpq_sketch_scratch(rows->sketcher, 1) : 0;
    uint64_t *memory = fpq_alloc(seen * sizeof *memory + (d + columns + d + sketch) * sizeof(float));
    if (!memory) return -1;
    *v = (fpq_verifier){.kern = fpq_active(), .rows = rows, .seen = memory};
    v->centred = (float *)(void *)(memory + seen);
    v->values = v->centred + d;
    v->scratch = v->values + columns;
    return 0;
}

/* Relative error of a sum of d products. */
static float sum_error(const fpq_verifier *v) { return (float)(v->rows->x.d + 16) * FLT_EPSILON; }

/* For the inner product: |q - x|^2 = |q|^2 + |x|^2 - 2 q.x, where lengths are 1 or 0 but for rounding. */
float fpq_verify_limit(const fpq_verifier *v) {
    const float limit = v->top.threshold;
    return v->rows->inner_product ? fmaxf(2 + 2 * limit, 0) + 4 * sum_error(v) : limit;
}

/* A row within a distance r has a sketch within
 *   scale * r + sqrt(size) * (1/2 + 1/8)                           the rounding of the row's codes and the query's
 *             + 2 sqrt(size) * scale * sum_error * (|q - c| + r)   that of their coordinates: |x - c| <= |q - c| + r
 * codes; 1 more covers the rest. */
static int32_t reach_of(const fpq_verifier *v) {
    const fpq_sketcher *s = v->rows->sketcher;
    const float squared = fpq_verify_limit(v);
    if (!s || !(squared < INFINITY)) return INT32_MAX;
    const float r = sqrtf(squared), sides = sqrtf((float)s->size);
    const float units = s->scale * (r + 2 * sides * sum_error(v) * (v->length + r)) + 0.625f * sides + 1;
    return (int32_t)fpq_clamp(16 * units * units, 0, 1e9f);
}

void fpq_verify_start(fpq_verifier *v, const fpq_hashes *hashes, const float *query, float *distances, int64_t *ids,
                      int k) {
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
    v->top = fpq_results_of(&(fpq_answers){.k = k, .distances = distances, .ids = ids}, 0, NULL);
    v->reach = INT32_MAX;
    v->n = 0;
    v->verified = 0;
    memset(v->seen, 0, (size_t)((v->rows->selector.n + 63) / 64) * sizeof *v->seen);
}

void fpq_verify_waiting(fpq_verifier *v) {
    for (int i = 0; i < v->n; i++) {
        const uint32_t row = v->waiting[i];
        const float distance = fpq_distance_to(v->kern, &v->rows->x, row, v->query, v->rows->inner_product, v->scratch);
        fpq_push_row(&v->rows->selector, &v->top, distance, row);
    }
    v->verified += v->n;
    v->n = 0;
    v->reach = reach_of(v);
}
