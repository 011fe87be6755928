/* SPDX-License-Identifier: MIT
 * Refinement codes of rows: encoding and decoding. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "isa/kernels.h"
#include "parallel.h"
#include "portable.h"
#include "refine/gain.h"
#include "refine/trellis.h"

enum { ROW_BATCH = 96 };

static const float FARTHEST = 1e9f; /* error in steps */

static int bits_of_plane(int bits, int plane) { return plane ? bits - 4 : 4; }

int fpq_refinement_plane_bytes(int w, int bits, int plane) {
    return (int)(((int64_t)w * bits_of_plane(bits, plane) + 255) / 256 * 32);
}

/* Clamped before the conversion, as x may be larger than any int. */
static int clamped(double x, int most) { return (int)(x < 0 ? 0 : x > most ? most : x); }

static int code_of(const fpq_refinement *r, double e, double step) {
    const int middle = 1 << (r->bits - 1);
    return step == 0 ? middle : clamped(e / step + middle, 2 * middle - 1);
}

/* What codes of plane A, with the others below, are multiplied by steps. */
static double value_of(const fpq_refinement *r, int code) { return code - (1 << (r->bits - 1)) + 0.5; }
static double value_of_a(const fpq_refinement *r, int a) { return (1 << (r->bits - 4)) * (a - 7.5); }
static double value_of_level(const fpq_refinement *r, int number) { return r->levels[number] - FPQ_LEVEL_OF_0; }

/* Dimension j stands in byte j >> byte_shift of a row of a plane. */
static int byte_shift(int of_plane) { return of_plane == 4 ? 1 : 2; }

/* What `codes` has to hold: the codes of all bytes of both planes, padding too. */
static size_t padded_codes(const fpq_refinement *r) {
    const int of_a = fpq_refinement_plane_bytes(r->w, r->bits, 0) * 2;
    const int of_b = fpq_refinement_plane_bytes(r->w, r->bits, 1) * (r->bits == 6 ? 4 : 2);
    return (size_t)(of_a > of_b ? of_a : of_b);
}

/* A row of a plane from the bits `shift` .. of codes, lowest bits first. */
static void pack_nibbles(const uint8_t *codes, int shift, int row_bytes, uint8_t *out) {
    for (int p = 0; p < row_bytes; p++)
        out[p] = (uint8_t)((codes[2 * p] >> shift & 15) | (codes[2 * p + 1] >> shift & 15) << 4);
}

static void pack_pairs(const uint8_t *codes, int row_bytes, uint8_t *out) {
    for (int p = 0; p < row_bytes; p++) {
        const uint8_t *c = codes + 4 * p;
        out[p] = (uint8_t)((c[0] & 3) | (c[1] & 3) << 2 | (c[2] & 3) << 4 | (c[3] & 3) << 6);
    }
}

typedef struct {
    const fpq_refinement *r;
    fpq_trellis trellis; /* of the levels */
    const fpq_gain_errors *errors;
    const float *e, *base, *centre;
    float scale;
    int64_t n;
    uint8_t *a, *b, *gain_codes;
    float *norms;
} encoding;

static void put_row(const encoding *x, int64_t i, const uint8_t *codes) {
    const int w = x->r->w, bits = x->r->bits, lower = bits - 4;
    const int bytes_a = fpq_refinement_plane_bytes(w, bits, 0), bytes_b = fpq_refinement_plane_bytes(w, bits, 1);
    const float *base = x->base + i * w, *steps = x->r->steps;
    const double gain = x->r->gains ? (double)x->r->gains[x->gain_codes[i]] : 1;
    double norm_a = 0, norm = 0;
    uint8_t *a = x->a + i * bytes_a;
    pack_nibbles(codes, lower, bytes_a, a);
    if (lower == 4) pack_nibbles(codes, 0, bytes_b, x->b + i * bytes_b);
    if (lower == 2) pack_pairs(codes, bytes_b, x->b + i * bytes_b);
    for (int j = 0; j < w; j++) {
        const double step = gain * (double)steps[j], twice = 2 * (double)(base[j] * x->scale - x->centre[j]);
        const double of_a = x->r->levels ? value_of_level(x->r, fpq_level_number(a, j))
                                         : value_of_a(x->r, codes[j] >> lower);
        const double part = step * of_a, whole = step * value_of(x->r, codes[j]);
        norm_a += part * (part + twice);
        norm += whole * (whole + twice);
    }
    float *norms = x->norms + i * (lower ? 2 : 1);
    norms[0] = (float)norm_a;
    if (lower) norms[1] = (float)norm;
}

static void encode_row(const encoding *x, int64_t i, uint8_t *codes) {
    const float *e = x->e + i * x->r->w;
    for (int j = 0; j < x->r->w; j++)
        codes[j] = (uint8_t)code_of(x->r, (double)(e[j] * x->scale), (double)x->r->steps[j]);
    put_row(x, i, codes);
}

/* The more dimensions, the less the best of many gains differs from the others. */
static int gains_tried(int w) {
    return w <= 128 ? FPQ_GAINS_TRIED : w <= 256 ? FPQ_GAINS_TRIED / 2 : FPQ_GAINS_TRIED / 4;
}

static void make_trellis(const uint8_t *levels, fpq_trellis *t) {
    for (int from = 0; from < FPQ_STATES; from++)
        for (int to = 0; to < FPQ_STATES; to++) {
            const uint8_t *four = levels + 16 * from + 4 * to;
            for (int l = 0; l < 4; l++) t->levels[from][to][l] = (float)(four[l] - FPQ_LEVEL_OF_0);
            for (int l = 0; l < 3; l++) t->midpoints[from][to][l] = (float)(four[l] + four[l + 1]) / 2 - FPQ_LEVEL_OF_0;
        }
}

/* Errors of dimensions count by the squares of their steps, beside the largest one. */
static void prepare(const fpq_refinement *r, float *inverse, float *weights) {
    float largest = FLT_MIN;
    for (int j = 0; j < r->w; j++) largest = fmaxf(largest, r->steps[j]);
    for (int j = 0; j < r->w; j++) {
        inverse[j] = r->steps[j] >= FLT_MIN ? 1 / r->steps[j] : 0;
        weights[j] = (r->steps[j] / largest) * (r->steps[j] / largest);
    }
}

/* Scratch memory of a thread that codes rows with levels, FPQ_TRELLIS_ROWS at a time. */
typedef struct {
    float *of_row;       /* w: the errors of a row, in steps */
    float *quotients;    /* (w, FPQ_TRELLIS_ROWS): those of all rows */
    float *inverse;      /* w: 1 / steps, 0 for those below the normal range */
    float *weights;      /* w: of the errors of dimensions */
    uint8_t *transposed; /* (w, FPQ_TRELLIS_ROWS): codes */
    uint8_t *codes;      /* padded_codes */
} level_scratch;

static size_t place_scratch(const fpq_refinement *r, char *memory, level_scratch *s) {
    const size_t w = (size_t)r->w, of_rows = w * FPQ_TRELLIS_ROWS, floats = of_rows + 3 * w;
    if (memory) {
        s->quotients = (float *)(void *)memory;
        s->of_row = s->quotients + of_rows;
        s->inverse = s->of_row + w;
        s->weights = s->inverse + w;
        s->transposed = (uint8_t *)memory + fpq_lines(floats * sizeof(float));
        s->codes = s->transposed + fpq_lines(of_rows);
    }
    return fpq_lines(floats * sizeof(float)) + fpq_lines(of_rows) + fpq_lines(padded_codes(r));
}

/* The costs (FPQ_TRELLIS_ROWS) of rows with these gains; and their codes, (w, FPQ_TRELLIS_ROWS), unless NULL. */
static void code_with_gains(const encoding *x, const float *gains, const level_scratch *s, float *costs,
                            uint8_t *codes) {
    const int w = x->r->w;
    float part[FPQ_TRELLIS_ROWS], inverse[FPQ_TRELLIS_ROWS];
    for (int i = 0; i < FPQ_TRELLIS_ROWS; i++) inverse[i] = 1 / gains[i];
    memset(costs, 0, FPQ_TRELLIS_ROWS * sizeof *costs);
    for (int j = 0; j < w; j += FPQ_CHAIN) {
        const int n = w - j < FPQ_CHAIN ? w - j : FPQ_CHAIN, at = j * FPQ_TRELLIS_ROWS;
        fpq_active()->trellis(s->quotients + at, inverse, s->weights + j, &x->trellis, n, part,
                              codes ? codes + at : NULL);
        for (int i = 0; i < FPQ_TRELLIS_ROWS; i++) costs[i] += part[i];
    }
    for (int i = 0; i < FPQ_TRELLIS_ROWS; i++) costs[i] *= gains[i] * gains[i];
}

/* Puts the errors of row i of those that are coded together, and finds the gains to try for it. */
static void put_quotients(const encoding *x, const float *e, int i, const level_scratch *s, uint8_t *gains) {
    const int w = x->r->w;
    for (int j = 0; j < w; j++) s->of_row[j] = e[j] * x->scale * s->inverse[j];
    if (x->r->gains) fpq_best_gains(x->errors, x->r, s->of_row, gains);
    for (int j = 0; j < w; j++) { /* those beyond all levels are clamped, as squares may overflow */
        const float quotient = s->of_row[j];
        s->quotients[j * FPQ_TRELLIS_ROWS + i] = quotient < -FARTHEST  ? -FARTHEST
                                                 : quotient > FARTHEST ? FARTHEST
                                                                       : quotient;
    }
}

/* Codes at most FPQ_TRELLIS_ROWS rows from `first` on. */
static void encode_with_levels(const encoding *x, int64_t first, int n, const level_scratch *s) {
    const fpq_refinement *r = x->r;
    const int w = r->w, n_tried = r->gains ? gains_tried(w) : 0;
    uint8_t tried[FPQ_TRELLIS_ROWS][FPQ_GAINS_TRIED] = {{0}};
    float gains[FPQ_TRELLIS_ROWS], costs[FPQ_TRELLIS_ROWS], least[FPQ_TRELLIS_ROWS], now[FPQ_TRELLIS_ROWS];
    for (int i = 0; i < FPQ_TRELLIS_ROWS; i++) gains[i] = 1;
    for (int i = 0; i < n; i++) put_quotients(x, x->e + (first + i) * w, i, s, tried[i]);
    for (int t = 0; t < n_tried; t++) {
        for (int i = 0; i < FPQ_TRELLIS_ROWS; i++) now[i] = r->gains[tried[i][t]];
        code_with_gains(x, now, s, costs, NULL);
        for (int i = 0; i < n; i++)
            if (!t || costs[i] < least[i]) {
                least[i] = costs[i];
                gains[i] = now[i];
                x->gain_codes[first + i] = tried[i][t];
            }
    }
    code_with_gains(x, gains, s, costs, s->transposed);
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < w; j++) s->codes[j] = s->transposed[j * FPQ_TRELLIS_ROWS + i];
        put_row(x, first + i, s->codes);
    }
}

static void encode_batch(void *context, int64_t task, fpq_worker *worker) {
    const encoding *x = context;
    const int n = fpq_batch_size(x->n, ROW_BATCH, task);
    const int64_t first = task * ROW_BATCH;
    if (!x->r->levels) {
        memset(worker->scratch, 0, padded_codes(x->r));
        for (int i = 0; i < n; i++) encode_row(x, first + i, (uint8_t *)worker->scratch);
        return;
    }
    level_scratch s = {0};
    memset(worker->scratch, 0, place_scratch(x->r, worker->scratch, &s));
    prepare(x->r, s.inverse, s.weights);
    for (int i = 0; i < n; i += FPQ_TRELLIS_ROWS)
        encode_with_levels(x, first + i, n - i < FPQ_TRELLIS_ROWS ? n - i : FPQ_TRELLIS_ROWS, &s);
}

int fpq_refinement_encode(const fpq_refinement *r, const float *e, const float *base, float scale, const float *centre,
                          int64_t n, uint8_t *a, uint8_t *b, uint8_t *gain_codes, float *norms, int threads) {
    encoding x = {.r = r,
                  .e = e,
                  .base = base,
                  .centre = centre,
                  .scale = scale,
                  .n = n,
                  .a = a,
                  .b = b,
                  .gain_codes = gain_codes,
                  .norms = norms};
    fpq_gain_errors errors;
    if (r->levels) make_trellis(r->levels, &x.trellis);
    if (r->gains) {
        fpq_gain_errors_make(r, &errors);
        x.errors = &errors;
    }
    const size_t scratch = r->levels ? place_scratch(r, NULL, NULL) : padded_codes(r);
    return fpq_parallel(fpq_batches(n, ROW_BATCH), scratch, threads, encode_batch, &x);
}

void fpq_refinement_decode(const fpq_refinement *r, const uint8_t *a, const uint8_t *b, const uint8_t *gain_codes,
                           int64_t n, float *out) {
    const int lower = r->bits - 4, shift = byte_shift(lower), in_byte = (1 << shift) - 1;
    const int bytes_a = fpq_refinement_plane_bytes(r->w, r->bits, 0),
              bytes_b = fpq_refinement_plane_bytes(r->w, r->bits, 1);
    for (int64_t i = 0; i < n; i++, a += bytes_a, out += r->w) {
        const double gain = r->gains ? (double)r->gains[gain_codes[i]] : 1;
        for (int j = 0; j < r->w; j++) {
            int c = fpq_nibble(a, j);
            if (lower) c = c << lower | (b[i * bytes_b + (j >> shift)] >> ((j & in_byte) * lower) & ((1 << lower) - 1));
            const double value = r->levels ? value_of_level(r, fpq_level_number(a, j)) : value_of(r, c);
            out[j] = (float)(gain * (double)r->steps[j] * value);
        }
    }
}
