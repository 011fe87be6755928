/* SPDX-License-Identifier: MIT
 * A program without Python that tests every kernel under every instruction set that runs here, or under the one that
 * FPQ_ISA names, against isa/scalar.c and sums in double precision, then the drivers against naive loops.
 *
 * A test is one random problem. Data are small INTEGERS, whose sums are exact so that all must agree bit for bit and
 * ties are many, or REALS, whose sums may differ by rounding where kernels.h allows it. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "assign/assign.h"
#include "kernels.h"
#include "kmeans/units.h"
#include "portable.h"

enum { ROUNDS = 40, THREADS = 3 };
enum { INTEGERS, REALS };

static const fpq_kernels *const spec = &fpq_kernels_scalar, *kern;
static const char *testing;
static int kind;
static long checks, failed;

static void check(int ok, const char *what, int line) {
    checks++;
    if (!ok && failed++ < 20) printf("%s: %s: line %d: %s\n", kern->isa, testing, line, what);
}
#define CHECK(ok) check(ok, #ok, __LINE__)

/* ---- random numbers: splitmix64 ---- */
static uint64_t state;

static uint64_t next(void) {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static int below(int n) { return (int)(next() >> 33) % n; }
static int any_of(const int *from, size_t n) { return from[below((int)n)]; }
#define ANY_OF(...) any_of((const int[]){__VA_ARGS__}, sizeof((const int[]){__VA_ARGS__}) / sizeof(int))
/* Sizes at the edges of tiles, blocks, vectors and words. */
static int size(void) { return ANY_OF(0, 1, 5, 6, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 95, 96, 97); }
static float origin; /* of reals */
static float number(void) {
    return kind == REALS ? (float)(next() >> 40) * 0x1p-23f - 1 + origin : (float)(below(9) - 4);
}

/* ---- memory: inputs have the exact size, for the sanitizers; behind outputs stands a pattern that must stay ---- */
enum { GUARD = 64, PATTERN = 0xa5, MOST = 256 };
static struct {
    unsigned char *memory;
    size_t bytes;
    int is_output;
} taken[MOST];
static int n_taken;

static void *take(size_t bytes, int is_output) {
    unsigned char *memory = is_output ? fpq_alloc(bytes + GUARD) : malloc(bytes ? bytes : 1);
    if (!memory || n_taken == MOST) abort();
    memset(memory, PATTERN, bytes + (is_output ? GUARD : 0));
    taken[n_taken].memory = memory;
    taken[n_taken].bytes = bytes;
    taken[n_taken++].is_output = is_output;
    return memory;
}

static void release(void) {
    while (n_taken--) {
        unsigned char *memory = taken[n_taken].memory;
        int nothing_past_the_end = 1;
        for (int i = 0; taken[n_taken].is_output && i < GUARD; i++)
            nothing_past_the_end &= memory[taken[n_taken].bytes + (size_t)i] == PATTERN;
        if (taken[n_taken].is_output) CHECK(nothing_past_the_end);
        taken[n_taken].is_output ? fpq_free(memory) : free(memory);
    }
    n_taken = 0;
}

#define INPUT(type, n) ((type *)take((size_t)(n) * sizeof(type), 0))
#define OUTPUT(type, n) ((type *)take((size_t)(n) * sizeof(type), 1))
#define SAME(a, b, n) (!memcmp(a, b, (size_t)(n) * sizeof *(a)))

static float *numbers(int64_t n) {
    float *x = INPUT(float, n);
    for (int64_t i = 0; i < n; i++) x[i] = number();
    return x;
}

/* Whether `got` is the squared distance or the negated inner product of q and x within its rounding error, which is
 * none for INTEGERS. */
static int is_distance(float got, int inner_product, const float *q, const float *x, int d) {
    double sum = 0, scale = 0;
    for (int t = 0; t < d; t++) {
        const double product = (double)q[t] * (double)x[t], difference = (double)q[t] - (double)x[t];
        sum += inner_product ? -product : difference * difference;
        scale += inner_product ? fabs(product) : difference * difference;
    }
    return fabs((double)got - sum) <= (kind == REALS ? (d + 8) * (double)FLT_EPSILON * scale : 0);
}

/* ---- matrices of any type and layout ---- */
static double half(unsigned bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double magnitude = exponent == 31 ? (fraction ? (double)NAN : (double)INFINITY)
                                            : ldexp(fraction + (exponent ? 1024 : 0), (exponent ? exponent : 1) - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
}

static const char *element(const fpq_matrix *x, int64_t i, int64_t t) {
    return x->data + i * x->row_stride + t * x->col_stride;
}

static double value(const fpq_matrix *x, int64_t i, int64_t t) {
    const void *at = element(x, i, t);
    switch (x->dtype) {
    case FPQ_F32:
        return (double)*(const float *)at;
    case FPQ_F64:
        return *(const double *)at;
    case FPQ_F16:
        return half(*(const uint16_t *)at);
    case FPQ_U8:
        return *(const uint8_t *)at;
    default:
        return *(const int8_t *)at;
    }
}

static void draw(int dtype, void *at) {
    static const uint16_t halves[] = {0, 0x3c00, 0x4000, 0x4200, 0x4400, 0xbc00, 0xc000, 0xc200, 0xc400};
    switch (dtype) {
    case FPQ_F32:
        *(float *)at = number();
        break;
    case FPQ_F64:
        *(double *)at = (double)number() * (kind == REALS ? 1.000000001 : 1);
        break;
    case FPQ_F16:
        *(uint16_t *)at = kind == REALS ? (uint16_t)(next() & 0xbfff) : halves[below(9)];
        break;
    case FPQ_U8:
        *(uint8_t *)at = (uint8_t)below(kind == REALS ? 256 : 9);
        break;
    default:
        *(int8_t *)at = (int8_t)(kind == REALS ? below(256) - 128 : below(9) - 4);
    }
}

static fpq_matrix matrix(int64_t n, int64_t d, int dtype) {
    const ptrdiff_t bytes = (ptrdiff_t[]){4, 8, 2, 1, 1}[dtype], all = n * d * bytes;
    char *data = INPUT(char, all);
    for (ptrdiff_t i = 0; i < all; i += bytes) draw(dtype, data + i);
    fpq_matrix x = {data, n, d, d * bytes, bytes, dtype, 0};
    const int layout = below(5);
    if (layout == 1) x.row_stride = bytes, x.col_stride = n * bytes;
    if (layout == 2 && all) x.data = element(&x, n - 1, 0), x.row_stride = -d * bytes;
    if (layout == 3 && all) x.data += all - bytes, x.row_stride = -d * bytes, x.col_stride = -bytes;
    return x;
}

static float *row_of(const fpq_matrix *x, int64_t i, float *row) {
    for (int t = 0; t < x->d; t++) row[t] = (float)value(x, i, t);
    return row;
}

static float *packed(const float *c, int k, int d, int ld) {
    float *out = OUTPUT(float, fpq_packed_size(k, d));
    fpq_pack(c, k, d, ld, NULL, out);
    return out;
}

/* For each pair of arrays of equal outputs: one piece of work, done in two ways. */
#define OUTPUTS(type, name, n) type *name[2] = {OUTPUT(type, n), OUTPUT(type, n)}
#define FOR_BOTH for (const fpq_kernels *both[2] = {kern, spec}, **use = both; use < both + 2; use++)
#define WAY (use - both)

/* ---- the kernels: test_NAME for each NAME of FPQ_KERNELS, or this file does not compile ---- */
static void test_read_rows(void) {
    const int n_all = size() + 1, d_all = size() + 1, n = below(n_all + 1), from = below(d_all),
              d = below(d_all - from + 1);
    const int first = below(n_all - n + 1);
    fpq_matrix x = matrix(n_all, d_all, below(5));
    x.exponent = ANY_OF(0, 0, 5, -7);
    const float *offset = below(2) ? numbers(d) : NULL;
    int64_t *rows = below(2) ? INPUT(int64_t, n_all) : NULL;
    OUTPUTS(float, out, n *d);
    for (int i = 0; rows && i < n_all; i++) rows[i] = below(n_all);
    FOR_BOTH(*use)->read_rows(&x, rows, first, n, from, from + d, offset, out[WAY]);
    CHECK(SAME(out[0], out[1], n * d));
    for (int i = 0; i < n * d; i++)
        out[1][i] = ldexpf((float)value(&x, rows ? rows[first + i / d] : first + i / d, from + i % d), x.exponent) -
                    (offset ? offset[i % d] : 0);
    CHECK(SAME(out[0], out[1], n * d));
}

static void test_has_nonfinite(void) {
    const int n = size();
    float *x = numbers(n);
    if (n) x[below(n)] = FLT_MAX;
    CHECK(!kern->has_nonfinite(x, n));
    if (n) x[below(n)] = (float[]){INFINITY, -INFINITY, NAN}[below(3)];
    CHECK(!kern->has_nonfinite(x, n) == !n);
}

/* Whether id names a column with the largest of k scores, best is that score and second the largest of the others. */
static int are_largest(const float *score, int k, int id, float best, float second) {
    float other = -INFINITY;
    int largest = id >= 0 && id < k && SAME(&best, score + id, 1);
    for (int c = 0; largest && c < k; c++) {
        largest &= score[c] <= best;
        if (c != id && score[c] > other) other = score[c];
    }
    return largest && second == other;
}

static void test_nearest(void) {
    const int n = size(), d = size() + 1, k = size() + 1, blocks = FPQ_BLOCKS(k), first = below(99),
              cut = below(blocks + 1);
    const int ld = d + below(3);
    const float *x = numbers(n * ld), *columns = packed(numbers(k * d), k, d, d);
    float *bias = numbers(blocks * 16), *scores = OUTPUT(float, n * blocks * 16);
    OUTPUTS(float, best, n);
    OUTPUTS(float, second, n);
    OUTPUTS(int32_t, id, n);
    OUTPUTS(float, lanes, n * 16);
    for (int c = k; c < blocks * 16; c++) bias[c] = -INFINITY;
    for (int i = 0; i < n; i++) best[0][i] = best[1][i] = second[0][i] = second[1][i] = -INFINITY;
    for (int i = 0; i < n * 16; i++) lanes[0][i] = lanes[1][i] = -INFINITY;
    FOR_BOTH(*use)->nearest(x, ld, n, d, columns, bias, blocks, first, best[WAY], second[WAY], id[WAY], lanes[WAY]);
    CHECK(kind == REALS || (SAME(best[0], best[1], n) && SAME(second[0], second[1], n)));
    for (int i = 0; i < n; i++) kern->project(x + i * ld, 1, d, columns, bias, blocks, scores + i * blocks * 16, 0);
    int largest = 1;
    for (int i = 0; i < n; i++) {
        const float *score = scores + i * blocks * 16;
        for (int c = 0; c < k; c++) largest &= score[c] <= lanes[0][i * 16 + c % 16];
        largest &= are_largest(score, k, id[0][i] - first, best[0][i], second[0][i]);
    }
    CHECK(largest);
    for (int i = 0; i < n; i++) { /* a row at a time, the columns in two panels */
        best[1][i] = second[1][i] = -INFINITY;
        kern->nearest(x + i * ld, ld, 1, d, columns, bias, cut, first, best[1] + i, second[1] + i, id[1] + i, NULL);
        kern->nearest(x + i * ld, ld, 1, d, columns + cut * d * 16, bias + cut * 16, blocks - cut, first + cut * 16,
                      best[1] + i, second[1] + i, id[1] + i, NULL);
        largest &= are_largest(scores + i * blocks * 16, k, id[1][i] - first, best[1][i], second[1][i]);
    }
    CHECK(largest);
}

static void test_transpose(void) {
    const int n = size(), d = size() + 1, ldx = d + below(3), ldo = 16 * ((n + 15) / 16 + below(2));
    const float *x = numbers(n * ldx);
    int right = 1;
    OUTPUTS(float, out, d *ldo);
    FOR_BOTH(*use)->transpose(x, ldx, n, d, out[WAY], ldo);
    CHECK(SAME(out[0], out[1], d * ldo));
    for (int i = 0; i < ldo; i++)
        for (int t = 0; t < d; t++) right &= out[0][t * ldo + i] == (i < n ? x[i * ldx + t] : 0);
    CHECK(right);
}

static void test_squares(void) {
    const int n = size(), d = size() + 1, ldx = d + below(3);
    const float *x = numbers(n * ldx);
    float *square = OUTPUT(float, n);
    int near = 1;
    kern->squares(x, ldx, n, d, square);
    for (int i = 0; i < n; i++) near &= is_distance(-square[i], 1, x + i * ldx, x + i * ldx, d);
    CHECK(near);
}

static void test_nearest_of_rows(void) {
    const int n = FPQ_ROWS_TILE * (1 + below(2)), d = size() + 1, k = size() + 1, blocks = FPQ_BLOCKS(k),
              first = below(99);
    const int cut = below(blocks + 1);
    const float *rows = numbers(n * d), *columns = packed(numbers(k * d), k, d, d);
    float *bias = numbers(blocks * 16), *score = OUTPUT(float, blocks * 16), *square = OUTPUT(float, n),
          *x = OUTPUT(float, n *d);
    float *best = OUTPUT(float, n), *second = OUTPUT(float, n);
    int32_t *id = OUTPUT(int32_t, n);
    int largest = 1, near = 1;
    kern->transpose(rows, d, n, d, x, n);
    for (int c = k; c < blocks * 16; c++) bias[c] = -INFINITY;
    for (int i = 0; i < n; i++) best[i] = second[i] = -INFINITY;
    kern->nearest_of_rows(x, n, d, columns, bias, cut, first, best, second, id, square);
    kern->nearest_of_rows(x, n, d, columns + cut * d * 16, bias + cut * 16, blocks - cut, first + cut * 16, best,
                          second, id, square);
    for (int i = 0; i < n; i++) {
        kern->project(rows + i * d, 1, d, columns, bias, blocks, score, 0);
        largest &= are_largest(score, k, id[i] - first, best[i], second[i]);
        near &= is_distance(-square[i], 1, rows + i * d, rows + i * d, d);
    }
    CHECK(largest && near);
}

static uint8_t *some_of(int n, int *count) {
    uint8_t *rows = INPUT(uint8_t, n);
    *count = 0;
    for (int i = 0; i < n; i++)
        if (below(2)) rows[(*count)++] = (uint8_t)i;
    return rows;
}

static void test_largest(void) {
    const int n = size(), d = size() + 1, k = 1 + below(40), blocks = FPQ_BLOCKS(k), ld = d + below(3),
              first = below(99);
    const float *x = numbers(n * ld), *columns = packed(numbers(k * d), k, d, d);
    float *bias = numbers(blocks * 16), *scores = OUTPUT(float, blocks * 16);
    int32_t *own = INPUT(int32_t, n);
    int count, right = 1;
    const uint8_t *rows = some_of(n, &count);
    OUTPUTS(float, out, n * 16);
    for (int c = k; c < blocks * 16; c++) bias[c] = -INFINITY;
    for (int i = 0; i < n; i++) own[i] = first + below(k + 4) - 2;
    FOR_BOTH(*use)->largest(x, ld, rows, count, d, columns, bias, blocks, own, first, out[WAY]);
    CHECK(kind == REALS || SAME(out[0], out[1], n * 16));
    for (int i = 0; i < count; i++) {
        float most = -INFINITY;
        kern->project(x + rows[i] * ld, 1, d, columns, bias, blocks, scores, 0);
        for (int c = 0; c < k; c++) most = c != own[rows[i]] - first && scores[c] > most ? scores[c] : most;
        right &= out[0][rows[i] * 16] == most;
    }
    CHECK(right);
}

static void test_to_bytes(void) {
    const int d = size() + 1;
    float *x = numbers(d), largest = 0;
    if (!below(8)) memset(x, 0, (size_t)d * sizeof *x);
    OUTPUTS(uint8_t, bytes, d);
    OUTPUTS(float, rest, d);
    float step[2];
    FOR_BOTH step[WAY] = (*use)->to_bytes(x, d, bytes[WAY], rest[WAY]);
    CHECK(step[0] == step[1] && SAME(bytes[0], bytes[1], d) && SAME(rest[0], rest[1], d));
    int right = 1;
    for (int t = 0; t < d; t++) largest = fmaxf(largest, fabsf(x[t]));
    for (int t = 0; t < d; t++) {
        right &= bytes[0][t] >= 1 && fabsf(rest[0][t]) <= step[0] * 0.5001f;
        right &= fabsf(step[0] * (float)(bytes[0][t] - 128) + rest[0][t] - x[t]) <= 4 * FLT_EPSILON * largest;
    }
    CHECK(right);
}

/* Rows (rows, d) and columns of bytes, any steps and scales. */
typedef struct {
    fpq_byte_columns columns;
    uint8_t *x;
    float *step;
} byte_problem;

static byte_problem random_bytes(int rows, int blocks) {
    const int d = 4 * (1 + size() / 4), k = blocks * 16;
    int8_t *packed = INPUT(int8_t, k *d);
    int32_t *start = INPUT(int32_t, k);
    const byte_problem p = {{packed, start, numbers(k), numbers(k), d}, INPUT(uint8_t, rows *d), numbers(rows)};
    for (int i = 0; i < rows * d; i++) p.x[i] = (uint8_t)(1 + below(255));
    for (int c = 0; c < k; c++) {
        start[c] = 0;
        for (int t = 0; t < d; t++) {
            const int number = below(255) - 127;
            packed[(c / 16 * d + t / 4 * 4) * 16 + c % 16 * 4 + t % 4] = (int8_t)number;
            start[c] -= 128 * number;
        }
    }
    return p;
}

static float byte_product_of(const byte_problem *p, int row, int c) {
    int sum = 0;
    for (int t = 0; t < p->columns.d; t++)
        sum += (p->x[row * p->columns.d + t] - 128) *
               p->columns.packed[(c / 16 * p->columns.d + t / 4 * 4) * 16 + c % 16 * 4 + t % 4];
    return (float)sum * p->columns.scale[c] * p->step[row] + p->columns.bias[c];
}

static void test_project_bytes(void) {
    const int n = size(), blocks = 1 + below(9), from = below(blocks), some = 1 + below(blocks - from),
              ld = some * 16 + below(3);
    const byte_problem p = random_bytes(n, blocks);
    int count, right = 1;
    const uint8_t *rows = some_of(n, &count);
    OUTPUTS(float, out, n *ld);
    OUTPUTS(float, lanes, n * 16);
    for (int i = 0; i < n * 16; i++) lanes[0][i] = lanes[1][i] = below(2) ? -INFINITY : 1;
    FOR_BOTH(*use)->project_bytes(p.x, p.step, rows, count, &p.columns, from, some, out[WAY], ld, lanes[WAY]);
    CHECK(SAME(out[0], out[1], n * ld) && SAME(lanes[0], lanes[1], n * 16));
    for (int i = 0; i < count; i++)
        for (int c = 0; c < some * 16; c++) {
            right &= out[0][i * ld + c] == byte_product_of(&p, rows[i], from * 16 + c);
            right &= lanes[0][rows[i] * 16 + c % 16] >= out[0][i * ld + c];
        }
    CHECK(right);
}

static void test_largest_bytes(void) {
    const int n = size(), blocks = 1 + below(6), from = below(blocks), most = blocks - from < 4 ? blocks - from : 4,
              first = below(99);
    const int some = 1 + below(most);
    const byte_problem p = random_bytes(n, blocks);
    const float *least = numbers(n);
    int32_t *own = INPUT(int32_t, n);
    int count, right = 1;
    const uint8_t *rows = some_of(n, &count);
    for (int i = 0; i < n; i++) own[i] = first + below(some * 16 + 4) - 2;
    OUTPUTS(float, out, n * 16);
    OUTPUTS(uint64_t, near, n);
    FOR_BOTH(*use)->largest_bytes(p.x, p.step, rows, count, &p.columns, from, some, own, first, least, out[WAY],
                                  near[WAY]);
    CHECK(SAME(out[0], out[1], n * 16) && SAME(near[0], near[1], n));
    for (int i = 0; i < count; i++) {
        const int r = rows[i];
        float largest = -INFINITY;
        for (int c = 0; c < some * 16; c++) {
            const float product = byte_product_of(&p, r, from * 16 + c);
            const int is_near = c != own[r] - first && product >= least[r];
            right &= (near[0][i] >> c & 1) == (uint64_t)is_near;
            if (c != own[r] - first && !is_near && product > largest) largest = product;
        }
        right &= out[0][r * 16] == largest;
    }
    CHECK(right);
}

static void test_doubt(void) {
    const int n = size(), d = size() + 1, k = 1 + below(20), groups = ANY_OF(16, 32, 64), ld = d + below(3);
    const float *x = numbers(n * ld), *centroids = numbers(k * d);
    const fpq_ruler ruler = {(float)d, 65535.f / 8 / sqrtf((float)d)};
    int32_t *id = INPUT(int32_t, n);
    uint16_t *bounds = INPUT(uint16_t, n *groups), *drift = INPUT(uint16_t, groups);
    float *square = OUTPUT(float, n), *error = OUTPUT(float, n);
    uint64_t *doubts = OUTPUT(uint64_t, n);
    int near = 1, right = 1;
    for (int i = 0; i < n; i++) id[i] = below(k);
    for (int i = 0; i < n * groups; i++) bounds[i] = (uint16_t)below(65536);
    for (int g = 0; g < groups; g++) drift[g] = (uint16_t)below(ANY_OF(1, 9000, 65536));
    kern->doubt(x, ld, n, d, &ruler, centroids, id, bounds, drift, groups, square, error, doubts);
    for (int i = 0; i < n; i++) {
        const float reach = sqrtf(error[i] + fpq_slack(square[i], d, &ruler)) * ruler.per_unit + 2;
        near &= is_distance(-square[i], 1, x + i * ld, x + i * ld, d);
        near &= is_distance(error[i], 0, x + i * ld, centroids + id[i] * d, d);
        for (int g = 0; g < groups; g++) {
            const int limit = drift[g] + fpq_units(reach);
            right &= (doubts[i] >> g & 1) == (bounds[i * groups + g] <= (limit < 65535 ? limit : 65535));
        }
        right &= groups == 64 || !(doubts[i] >> groups);
    }
    CHECK(near);
    CHECK(right);
}

static void test_bound(void) {
    const int n = size(), d = size() + 1, ld = 16 * (1 + below(4));
    const float *lanes = numbers(n * 16);
    const fpq_ruler ruler = {4, ANY_OF(0, 100, 30000)};
    float *square = numbers(n);
    uint16_t *searched = INPUT(uint16_t, n), *drift = INPUT(uint16_t, 16);
    int count, near = 1, kept = 1;
    const uint8_t *rows = some_of(n, &count);
    OUTPUTS(uint16_t, bounds, n *ld);
    OUTPUTS(float, most, n);
    for (int i = 0; i < n; i++) {
        searched[i] = (uint16_t)below(65536);
        square[i] *= square[i];
        most[0][i] = most[1][i] = (float)below(3) - 2;
    }
    for (int g = 0; g < 16; g++) drift[g] = (uint16_t)below(ANY_OF(1, 9000, 65536));
    FOR_BOTH(*use)->bound(lanes, rows, count, d, &ruler, square, searched, drift, bounds[WAY], ld, most[WAY]);
    CHECK(SAME(most[0], most[1], n));
    for (int i = 0; i < n * ld; i++) near &= abs(bounds[0][i] - bounds[1][i]) <= 1;
    for (int i = 0; i < count; i++)
        for (int g = 0; g < 16; g++) kept &= searched[rows[i]] >> g & 1 || bounds[0][rows[i] * ld + g] == PATTERN * 257;
    CHECK(near);
    CHECK(kept);
}

static void test_lower(void) {
    const int n = size(), keep = below(17) - 1;
    const float *distance = numbers(n * 16), *from = numbers(n);
    float sum[2][16];
    OUTPUTS(float, left, n);
    FOR_BOTH {
        memcpy(left[WAY], from, (size_t)n * sizeof *from);
        (*use)->lower(distance, n, keep, left[WAY], sum[WAY]);
    }
    CHECK(SAME(left[0], left[1], n));
    int right = 1;
    for (int t = 0; t < 16; t++) {
        double expected = 0;
        for (int i = 0; i < n; i++) expected += fmin((double)left[0][i], (double)distance[i * 16 + t]);
        right &= fabs((double)sum[0][t] - expected) <= (kind == REALS ? 1e-3 : 0);
    }
    CHECK(right);
}

static void test_project(void) {
    const int n = size(), d = size() + 1, k = size() + 1, width = FPQ_BLOCKS(k) * 16, ld = width + below(3);
    const float *x = numbers(n * d), *c = numbers(k * d), *columns = packed(c, k, d, d),
                *bias = below(2) ? numbers(width) : NULL;
    OUTPUTS(float, out, n *ld);
    FOR_BOTH(*use)->project(x, n, d, columns, bias, FPQ_BLOCKS(k), out[WAY], ld);
    CHECK(kind == REALS || SAME(out[0], out[1], n * ld));
    int near = 1, gaps = 1;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < width; j++) /* terms and sums stay below d + 1 */
            near &= fabsf(out[0][i * ld + j] - out[1][i * ld + j]) <= (float)((d + 1) * (d + 1)) * FLT_EPSILON;
        for (int j = 0; !bias && j < k; j++) near &= is_distance(-out[0][i * ld + j], 1, x + i * d, c + j * d, d);
        gaps &= SAME(out[0] + i * ld + width, out[1] + i * ld + width, ld - width);
    }
    CHECK(near && gaps);
}

static void test_accumulate(void) {
    const int n = size(), d = size() + 1, k = size() + 1, ld = d + below(3);
    const float *x = numbers(n * ld), *start = numbers(k * d), *centroids = numbers(k * d);
    int32_t *id = INPUT(int32_t, n);
    OUTPUTS(float, sum, k *d);
    OUTPUTS(int32_t, count, k);
    for (int i = 0; i < n; i++) id[i] = below(k);
    FOR_BOTH {
        memcpy(sum[WAY], start, (size_t)(k * d) * sizeof *start);
        for (int c = 0; c < k; c++) count[WAY][c] = c;
        (*use)->accumulate(x, ld, n, d, centroids, id, sum[WAY], count[WAY]);
    }
    CHECK(SAME(sum[0], sum[1], k * d) && SAME(count[0], count[1], k));
}

#define TEST_TABLE(name, inner_product)                                                                             \
    static void test_##name(void) {                                                                                 \
        const int d = size() + 1, k = size() + 1, width = FPQ_BLOCKS(k) * 16, n = 1 + below(FPQ_TABLES),            \
                  ldq = d + below(3);                                                                               \
        const float *q = numbers(n * ldq), *c = numbers(k * d), *columns = packed(c, k, d, d);                      \
        float *out[2][FPQ_TABLES];                                                                                  \
        for (int i = 0; i < n; i++) out[0][i] = OUTPUT(float, width), out[1][i] = OUTPUT(float, width);             \
        FOR_BOTH(*use)->name(q, ldq, n, d, columns, FPQ_BLOCKS(k), out[WAY]);                                       \
        for (int i = 0; i < n; i++) {                                                                               \
            CHECK(SAME(out[0][i], out[1][i], width));                                                               \
            for (int j = 0; j < k; j++) CHECK(is_distance(out[0][i][j], inner_product, q + i * ldq, c + j * d, d)); \
        }                                                                                                           \
    }
TEST_TABLE(table_l2, 0)
TEST_TABLE(table_ip, 1)

/* Sub-code j of a code whose bytes are `step` apart. */
static int sub_code(const uint8_t *code, int step, int j, int nbits) {
    int id = 0;
    for (int b = 0, at = j * nbits; b < nbits; b++, at++) id |= (code[at / 8 * step] >> at % 8 & 1) << b;
    return id;
}

static void test_adc(void) {
    const int m = size() + 1, nbits = 1 + below(8), ld = (1 << nbits < 16 ? 16 : 1 << nbits) + below(2);
    const int bytes = fpq_code_size(m, nbits) * 64;
    const float *table = numbers(m * ld);
    uint8_t *codes = INPUT(uint8_t, bytes);
    OUTPUTS(float, out, 64);
    for (int i = 0; i < bytes; i++) codes[i] = (uint8_t)next();
    FOR_BOTH(*use)->adc(table, ld, m, nbits, codes, out[WAY]);
    CHECK(SAME(out[0], out[1], 64));
    for (int i = 0; i < 64; i++) {
        out[1][i] = 0;
        for (int j = 0; j < m; j++) out[1][i] += table[j * ld + sub_code(codes + i, 64, j, nbits)];
    }
    CHECK(SAME(out[0], out[1], 64));
}

static void test_code_l2(void) {
    const int m = ANY_OF(1, 7, 8, 9, 16, 19), nbits = below(2) ? 8 : 4, k = 1 << nbits, even = below(2),
              most = even ? ANY_OF(4, 8, 16, 24) : 1 + below(11);
    int32_t *offsets = INPUT(int32_t, m + 1);
    offsets[0] = 0;
    for (int j = 0; j < m; j++) offsets[j + 1] = offsets[j] + (j && !even ? 1 + below(most) : most);
    const float *codebooks = numbers(m * k * most), *q = numbers(offsets[m]);
    const fpq_adc adc = {NULL, codebooks, offsets, m, nbits, most, 0};
    uint8_t *codes = INPUT(uint8_t, fpq_code_size(m, nbits) * 64);
    for (int i = 0; i < fpq_code_size(m, nbits) * 64; i++) codes[i] = (uint8_t)next();
    for (int r = 0; r < 64; r += 21) {
        const float out = kern->code_l2(&adc, q, codes + r);
        float sum = 0;
        for (int j = 0; j < m; j++) {
            const float *p = codebooks + (j * k + sub_code(codes + r, 64, j, nbits)) * most;
            float entry = 0;
            for (int t = offsets[j]; t < offsets[j + 1]; t++)
                entry += (q[t] - p[t - offsets[j]]) * (q[t] - p[t - offsets[j]]);
            sum += entry;
        }
        CHECK(SAME(&out, &sum, 1) && out == spec->code_l2(&adc, q, codes + r));
    }
}

static void test_quantize(void) {
    const int n = size();
    float *x = numbers(n), least = INFINITY, scale = (float[]){1, 37.5f, 1000, 1e30f}[below(4)];
    for (int i = 0; i < n; i++) least = x[i] < least ? x[i] : least;
    OUTPUTS(uint8_t, out, n);
    FOR_BOTH(*use)->quantize(x, n, least, scale, out[WAY]);
    CHECK(SAME(out[0], out[1], n));
    for (int i = 0; i < n; i++) CHECK(out[0][i] == (int)fminf(floorf((x[i] - least) * scale), 255));
}

static void test_steps(void) {
    const int n = size();
    float *x = numbers(n), least = INFINITY, scale = (float[]){1, 37.5f, 20000, 1e30f}[below(4)];
    for (int i = 0; i < n; i++) least = x[i] < least ? x[i] : least;
    OUTPUTS(uint16_t, out, n);
    FOR_BOTH(*use)->steps(x, n, least, scale, out[WAY]);
    CHECK(SAME(out[0], out[1], n));
    for (int i = 0; i < n; i++) CHECK(out[0][i] == (int)fminf(floorf((x[i] - least) * scale), 32767));
}

static void test_group_least(void) {
    const int members = ANY_OF(1, 4, 4), groups = members == 4 ? 64 : ANY_OF(16, 256, 256), n = groups * members;
    const float *x = numbers(n);
    OUTPUTS(float, out, groups);
    FOR_BOTH(*use)->group_least(x, groups, members, out[WAY]);
    CHECK(SAME(out[0], out[1], groups));
    for (int c = 0; c < n; c++) CHECK(x[c] >= out[0][FPQ_GROUP(c, groups)]);
}

static void test_group_sums(void) {
    const int members = ANY_OF(1, 4, 4), groups = members == 4 ? 64 : ANY_OF(16, 256, 256), n = groups * members;
    uint16_t *x = INPUT(uint16_t, n), *y = INPUT(uint16_t, n);
    int least = 65535;
    for (int i = 0; i < n; i++) {
        x[i] = (uint16_t)below(32768), y[i] = (uint16_t)below(32768);
        least = x[i] + y[i] < least ? x[i] + y[i] : least;
    }
    OUTPUTS(uint16_t, out, groups);
    FOR_BOTH CHECK((*use)->group_sums(x, y, groups, members, out[WAY]) == least);
    CHECK(SAME(out[0], out[1], groups));
}

static void test_quantize_steps(void) {
    const int n = size(), least = below(100), factor = ANY_OF(0, 1, 300, 40000, 65535);
    uint16_t *x = INPUT(uint16_t, n);
    for (int i = 0; i < n; i++) x[i] = (uint16_t)(100 + below(65436));
    OUTPUTS(uint8_t, out, n);
    FOR_BOTH(*use)->quantize_steps(x, n, least, factor, out[WAY]);
    CHECK(SAME(out[0], out[1], n));
    for (int i = 0; i < n; i++) CHECK(out[0][i] == fmin(floor((double)(x[i] - least) * factor / 65536), 255));
}

static void test_rough_l2(void) {
    const int d = size(), blocks = 1 + below(17), columns = blocks * FPQ_BLOCK, n = 1 + below(FPQ_TABLES),
              ldq = d + below(3);
    const float *q = numbers(n * ldq), *half = below(2) ? numbers(columns) : NULL,
                *c = packed(numbers(columns * d), columns, d, d);
    float *exact = OUTPUT(float, columns), *sizes = OUTPUT(float, columns), *out[FPQ_TABLES], *least = OUTPUT(float, n);
    int right = 1;
    for (int i = 0; i < n; i++) out[i] = OUTPUT(float, columns);
    kern->rough_l2(q, ldq, n, d, c, half, blocks, out, least);
    for (int i = 0; i < n; i++) {
        float lowest = INFINITY;
        spec->rough_l2(q + i * ldq, ldq, 1, d, c, half, blocks, &exact, &lowest);
        for (int e = 0; e < columns; e++) {
            sizes[e] = half ? fabsf(half[e]) : 0;
            for (int t = 0; t < d; t++)
                sizes[e] += fabsf(q[i * ldq + t] * c[(e / FPQ_BLOCK * d + t) * FPQ_BLOCK + e % FPQ_BLOCK]);
            right &= fabsf(out[i][e] - exact[e]) <= (kind == REALS ? 2 * (float)(d + 2) * FLT_EPSILON * sizes[e] : 0);
        }
        lowest = INFINITY;
        for (int e = 0; e < columns; e++) lowest = out[i][e] < lowest ? out[i][e] : lowest;
        right &= lowest == least[i];
    }
    CHECK(right);
}

static void test_survey(void) {
    const int n = size() + 1;
    const float *x = numbers(n);
    OUTPUTS(float, out, 3);
    double sum = 0, scale = 0;
    FOR_BOTH(*use)->survey(x, n, out[WAY]);
    for (int i = 0; i < n; i++) sum += (double)x[i], scale += fabs((double)x[i]);
    CHECK(out[0][0] == out[1][0] && out[0][1] == out[1][1]);
    CHECK(fabs((double)out[0][2] - sum) <= n * (double)FLT_EPSILON * scale);
}

static void test_sieve(int nbits) {
    const int m = size() + 1,
              groups = nbits == 4 ? 16
                       : below(2) ? 256
                                  : kern->groups,
              size_of_code = fpq_code_size(m, nbits), n_blocks = 9, n = below(n_blocks + 1);
    uint8_t *entries = INPUT(uint8_t, m *groups), *blocks = INPUT(uint8_t, n_blocks * 64 * size_of_code),
            *start = INPUT(uint8_t, n * 64);
    int32_t *order = INPUT(int32_t, m), which[9];
    OUTPUTS(uint8_t, sums, n * 64);
    OUTPUTS(uint64_t, near, n);
    for (int i = 0; i < m * groups; i++) entries[i] = (uint8_t)below(m < 20 ? 40 : 9);
    for (int i = 0; i < n_blocks * 64 * size_of_code; i++) blocks[i] = (uint8_t)next();
    for (int i = 0; i < n * 64; i++) start[i] = (uint8_t)below(60);
    for (int i = 0; i < n; i++) which[i] = below(n_blocks);
    for (int j = 0; j < m; j++) order[j] = below(m);
    const fpq_sieve sieve = {entries, groups, order, below(m + 1)};
    FOR_BOTH {
        if (n) memcpy(sums[WAY], start, (size_t)n * 64);
        (nbits == 8 ? (*use)->sieve8 : (*use)->sieve4)(&sieve, blocks, size_of_code, which, n, sums[WAY], near[WAY]);
    }
    CHECK(SAME(sums[0], sums[1], n * 64) && SAME(near[0], near[1], n));
}

static void test_sieve8(void) { test_sieve(8); }
static void test_sieve4(void) { test_sieve(4); }

static void test_at_most(void) {
    float *x = numbers(64);
    x[below(64)] = INFINITY;
    const float limit = below(8) ? x[below(64)] : -INFINITY;
    CHECK(kern->at_most(x, limit) == spec->at_most(x, limit));
    for (int i = 0; i < 64; i++) CHECK((kern->at_most(x, limit) >> i & 1) == (x[i] <= limit));
}

static void test_bytes_at_most(void) {
    uint8_t *x = INPUT(uint8_t, 64);
    const int limit = below(255);
    for (int i = 0; i < 64; i++) x[i] = (uint8_t)(below(2) ? below(256) : limit + below(2));
    CHECK(kern->bytes_at_most(x, limit) == spec->bytes_at_most(x, limit));
}

static void test_kth_byte(void) {
    const int n = 1 + below(9), range = 1 + below(256);
    uint8_t *x = INPUT(uint8_t, 64 * n);
    uint64_t *rows = INPUT(uint64_t, n);
    int wanted = 0;
    for (int b = 0; b < n; b++) wanted += fpq_popcount(rows[b] = below(3) ? next() : ~(uint64_t)0);
    for (int i = 0; i < 64 * n; i++) x[i] = (uint8_t)below(range);
    if (!wanted) return;
    const int k = 1 + below(wanted);
    CHECK(kern->kth_byte(x, rows, n, k) == spec->kth_byte(x, rows, n, k));
}

static void test_at_least(void) {
    float *x = numbers(64), *least = numbers(64), shift = number();
    for (int i = 0; i < 16; i++) least[i] = x[i] + shift;
    least[below(64)] = -INFINITY;
    least[below(64)] = INFINITY;
    CHECK(kern->at_least(x, shift, least) == spec->at_least(x, shift, least));
    for (int i = 0; i < 64; i++) CHECK((kern->at_least(x, shift, least) >> i & 1) == (x[i] + shift >= least[i]));
}

static void test_near_sketches(void) {
    const int size = 16 * (1 + below(4)), n = below(65);
    int16_t *q = INPUT(int16_t, size);
    uint8_t *codes = INPUT(uint8_t, n *size);
    for (int t = 0; t < size; t++) q[t] = (int16_t)below(1021);
    for (int i = 0; i < n * size; i++) codes[i] = (uint8_t)(below(3) ? q[i % size] / 4 : below(256));
    const int32_t limit = below(8) ? below(size * 100000) : below(2) ? INT32_MAX : 0;
    const uint64_t got = kern->near_sketches(q, codes, size, n, limit);
    for (int i = 0; i < n; i++) {
        int64_t sum = 0;
        for (int t = 0; t < size; t++) sum += (q[t] - 4 * codes[i * size + t]) * (q[t] - 4 * codes[i * size + t]);
        CHECK((got >> i & 1) == (sum <= limit));
    }
    CHECK(got == spec->near_sketches(q, codes, size, n, limit));
}

static void test_collisions(void) {
    const int m = 1 + below(255), least = below(m + 2);
    uint8_t *codes = INPUT(uint8_t, m * 64), *low = INPUT(uint8_t, m), *high = INPUT(uint8_t, m);
    uint8_t *counts[2] = {OUTPUT(uint8_t, 64), OUTPUT(uint8_t, 64)};
    for (int i = 0; i < m * 64; i++) codes[i] = (uint8_t)next();
    for (int j = 0; j < m; j++) low[j] = (uint8_t)next(), high[j] = (uint8_t)next();
    const uint64_t got = kern->collisions(codes, m, low, high, least, counts[0]);
    CHECK(got == spec->collisions(codes, m, low, high, least, counts[1]) && SAME(counts[0], counts[1], 64));
    for (int r = 0; r < 64; r++) {
        int count = 0;
        for (int j = 0; j < m; j++) {
            const int code = codes[j * 64 + r];
            count += low[j] <= high[j] ? low[j] <= code && code <= high[j] : code >= low[j] || code <= high[j];
        }
        CHECK(counts[0][r] == count && (got >> r & 1) == (count >= least));
    }
}

#define TEST_PAIR(name, type, number_type, inner_product)                                                    \
    static void test_##name(void) {                                                                          \
        const int d = size() + ANY_OF(0, 0, 200);                                                            \
        const fpq_matrix x = {(const char *)INPUT(type, d), 1, d, 0, sizeof(type), number_type, 0};          \
        const float *q = numbers(d);                                                                         \
        type *row = (type *)taken[0].memory;                                                                 \
        for (int t = 0; t < d; t++) draw(number_type, row + t);                                              \
        const float got = kern->name(q, row, d), expected = spec->name(q, row, d);                           \
        CHECK(is_distance(inner_product ? -got : got, inner_product, q, row_of(&x, 0, INPUT(float, d)), d)); \
        CHECK(kind == REALS || SAME(&got, &expected, 1));                                                    \
    }
TEST_PAIR(l2_f32, float, FPQ_F32, 0)
TEST_PAIR(l2_u8, uint8_t, FPQ_U8, 0)
TEST_PAIR(ip_f32, float, FPQ_F32, 1)
TEST_PAIR(ip_u8, uint8_t, FPQ_U8, 1)

static void test_every_half(void) {
    uint16_t *halves = INPUT(uint16_t, 65536);
    float *got = OUTPUT(float, 65536);
    const fpq_matrix x = {(const char *)halves, 1, 65536, 131072, 2, FPQ_F16, 0};
    int right = 1;
    for (int i = 0; i < 65536; i++) halves[i] = (uint16_t)i;
    kern->read_rows(&x, NULL, 0, 1, 0, 65536, NULL, got);
    for (unsigned i = 0; i < 65536; i++) {
        const float expected = (float)half(i);
        right &= isnan(expected) ? isnan(got[i]) : SAME(got + i, &expected, 1);
    }
    CHECK(right);
}

/* ---- the drivers ---- */
#define FOR_THREADS for (int t = 0, threads = 1; t < 2; t++, threads = THREADS)

typedef struct {
    fpq_codebooks cb;
    fpq_rows data;
    int m, k, n, exact; /* exact: no rounding, as means of 2^i integers have none */
} problem;

static problem random_problem(int k, int n) {
    const int m = 1 + below(3), n_all = n + below(3), by_rows = n_all > n || below(2);
    int32_t *offsets = INPUT(int32_t, m + 1), dsub = 0;
    int64_t *rows = by_rows ? INPUT(int64_t, n) : NULL;
    offsets[0] = 0;
    for (int j = 0; j < m; j++) {
        const int width = below(4) ? 1 + below(7) : 50 + below(50); /* products of bytes from 64 on */
        offsets[j + 1] = offsets[j] + width;
        dsub = width > dsub ? width : dsub;
    }
    float *centroids = numbers(m * k * dsub);
    for (int i = 0; i < m * k * dsub; i++) /* padding */
        if (i % dsub >= offsets[i / dsub / k + 1] - offsets[i / dsub / k]) centroids[i] = 0;
    for (int i = 0; by_rows && i < n; i++) rows[i] = below(n_all);
    return (problem){{m, k, dsub, offsets, centroids},      {matrix(n_all, offsets[m], below(5)), rows, n}, m, k, n,
                     kind == INTEGERS && (k & (k - 1)) == 0};
}

/* As float32, which is what is assigned. */
static double at(const problem *p, int64_t i, int t) {
    return (double)(float)value(&p->data.x, p->data.rows ? p->data.rows[i] : i, t);
}

static double distance(const problem *p, int j, int64_t i, int c) {
    double sum = 0;
    for (int t = p->cb.offsets[j]; t < p->cb.offsets[j + 1]; t++) {
        const double centroid = (double)p->cb.centroids[(j * p->k + c) * p->cb.dsub + t - p->cb.offsets[j]];
        sum += (at(p, i, t) - centroid) * (at(p, i, t) - centroid);
    }
    return sum;
}

/* The centroid that follows `last` in the order of distance, then id; after -1 comes the nearest. */
static int32_t following(const problem *p, int j, int64_t i, int32_t last) {
    const double passed = last < 0 ? -1 : distance(p, j, i, last);
    double least = INFINITY;
    int32_t best = last;
    for (int32_t c = 0; c < p->k; c++) {
        const double here = distance(p, j, i, c);
        if ((here > passed || (here == passed && c > last)) && here < least) least = here, best = c;
    }
    return best;
}

static void test_assign(void) {
    const problem p = random_problem(ANY_OF(1, 2, 5, 16, 17, 32, 64), size());
    const int all = p.m * p.n;
    OUTPUTS(int32_t, ids, all);
    OUTPUTS(float, errors, all);
    FOR_THREADS CHECK(!fpq_assign(&p.cb, &p.data, ids[t], errors[t], threads));
    CHECK(SAME(ids[0], ids[1], all) && SAME(errors[0], errors[1], all));
    CHECK(!fpq_assign(&p.cb, &p.data, ids[1], NULL, 1) && SAME(ids[0], ids[1], all));
    int right = 1;
    for (int i = 0; i < all; i++) {
        const int32_t expected = following(&p, i / p.n, i % p.n, -1);
        const double least = distance(&p, i / p.n, i % p.n, expected), slack = p.exact ? 0 : 1e-5 * (1 + least);
        right &= fabs(distance(&p, i / p.n, i % p.n, ids[0][i]) - least) <= slack;
        right &= fabs((double)errors[0][i] - least) <= slack && (!p.exact || ids[0][i] == expected);
    }
    CHECK(right);
}

/* Whether the ids name the nearest centroids, but for what sums in double precision may differ by. */
static int are_nearest(const problem *p, const int32_t *ids) {
    int nearest = 1;
    for (int i = 0; i < p->m * p->n; i++) {
        const double least = distance(p, i / p->n, i % p->n, following(p, i / p->n, i % p->n, -1));
        nearest &= distance(p, i / p->n, i % p->n, ids[i]) <= least * (1 + 1e-12);
    }
    return nearest;
}

/* Rows and centroids where products of floats say little: outliers, far groups, columns of two far values, a common
 * offset, numbers whose squares overflow or underflow, centroids that repeat. */
static void test_assign_far(void) {
    problem p = random_problem(ANY_OF(1, 2, 17, 64, 65, 300), size());
    const int all = p.m * p.n, d = (int)p.data.x.d, n = (int)p.data.x.n, floats = p.m * p.k * p.cb.dsub;
    const float scale = (float[]){1, 1, 1, 1e-22f, 1e-38f, 1e17f, 3e19f}[below(7)],
                offset = (float[]){0, 0, 1e4f, 1e7f}[below(4)];
    float *x = INPUT(float, n *d);
    OUTPUTS(int32_t, ids, all);
    OUTPUTS(float, errors, all);
    p.data.x = (fpq_matrix){(const char *)x, n, d, d * (ptrdiff_t)sizeof(float), sizeof(float), FPQ_F32, 0};
    for (int i = 0; i < n * d; i++) x[i] = number() * (below(40) ? 1 : 1e6f) + (below(2) ? 0 : offset);
    for (int c = 0; c < floats; c++) {
        if (below(3)) continue; /* zero, or as it was drawn */
        const int j = c / (p.k * p.cb.dsub), t = c % p.cb.dsub, from = p.cb.offsets[j];
        if (n && from + t < p.cb.offsets[j + 1]) p.cb.centroids[c] = x[below(n) * d + from + t];
    }
    for (int c = 1; c < p.k; c++) /* some are equal */
        if (!below(5)) memcpy(p.cb.centroids + c * p.cb.dsub, p.cb.centroids, (size_t)p.cb.dsub * sizeof(float));
    for (int i = 0; i < n * d; i++) x[i] *= scale;
    for (int c = 0; c < floats; c++) p.cb.centroids[c] *= scale;
    FOR_THREADS CHECK(!fpq_assign(&p.cb, &p.data, ids[t], errors[t], threads));
    CHECK(SAME(ids[0], ids[1], all) && are_nearest(&p, ids[0]));
    fpq_use_isa("scalar");
    CHECK(!fpq_assign(&p.cb, &p.data, ids[1], NULL, 1));
    fpq_use_isa(kern->isa);
    CHECK(SAME(ids[0], ids[1], all));
}

/* Also where rows go by bytes. */
static void test_bytes(void) {
    const problem p = random_problem(ANY_OF(64, 65, 100, 256, 300), size());
    int32_t *ids = OUTPUT(int32_t, p.m *p.n);
    CHECK(!fpq_assign(&p.cb, &p.data, ids, NULL, 1) && are_nearest(&p, ids));
}

static void test_open_index(void) {
    const problem p = random_problem(ANY_OF(1, 2, 5, 16, 17, 64), size());
    const int shared = below(2), candidates = below(2) ? p.k : 1 + below(p.k), all = p.m * p.n;
    const double limit = p.n * (shared ? p.m : 1) * ANY_OF(1, 2, 3) / (double)p.k;
    OUTPUTS(int32_t, ids, all);
    OUTPUTS(int64_t, counts, p.m *p.k);
    FOR_THREADS {
        memset(counts[t], 0, (size_t)(p.m * p.k) * sizeof **counts);
        CHECK(!fpq_assign(&p.cb, &p.data, ids[t], NULL, 1));
        CHECK(!fpq_open_index(&p.cb, &p.data, limit, candidates, shared, ids[t], counts[t], threads));
    }
    CHECK(SAME(ids[0], ids[1], all) && SAME(counts[0], counts[1], p.m * p.k));
    int64_t *count = INPUT(int64_t, p.m *p.k);
    int right = 1, within = 1;
    memset(count, 0, (size_t)(p.m * p.k) * sizeof *count);
    for (int i = 0; i < p.n; i++)
        for (int j = 0; j < p.m; j++) {
            int64_t *counter = count + (shared ? 0 : j * p.k);
            int32_t id = following(&p, j, i, -1);
            for (int c = 1; c < candidates && (double)counter[id] >= limit; c++) id = following(&p, j, i, id);
            if (p.exact) right &= ids[0][j * p.n + i] == id;
            counter[ids[0][j * p.n + i]]++;
        }
    for (int c = 0; c < p.m * p.k; c++) within &= candidates < p.k || (double)count[c] < limit + 1;
    CHECK(right && within && SAME(counts[0], count, p.m * p.k));
}

/* A Lloyd iteration in its two halves; an empty cluster takes a row. drifted: NULL without bounds. */
static int lloyd(const fpq_codebooks *cb, const fpq_rows *data, const uint8_t *active, double limit, int update,
                 int64_t ld, int32_t *ids, float *errors, fpq_bounds *bounds, float *drifted, int first,
                 int64_t *changed, int64_t *counts, int threads) {
    const int64_t n = data->n, chunk_rows = fpq_kmeans_chunk_rows(cb->m, cb->k, cb->dsub, n);
    const int m = cb->m, k = cb->k, chunks = (int)((n + chunk_rows - 1) / chunk_rows), floats = m * k * cb->dsub;
    float *sums = OUTPUT(float, m * chunks * k * (cb->dsub + 1)), *start = INPUT(float, floats);
    int64_t *moved = OUTPUT(int64_t, m *chunks), *rows = OUTPUT(int64_t, k);
    memcpy(start, cb->centroids, (size_t)floats * sizeof(float));
    int status = fpq_kmeans_sums(cb, data, active, limit, chunk_rows, ld, ids, errors, bounds, first ? NULL : drifted,
                                 sums, moved, threads);
    if (drifted) memcpy(drifted, start, (size_t)floats * sizeof(float));
    status |= fpq_kmeans_means(cb, active, chunks, sums, counts, threads);
    for (int j = 0; j < m; j++) {
        if (!active[j]) continue;
        changed[j] = 0;
        for (int chunk = 0; chunk < chunks; chunk++) changed[j] += moved[j * chunks + chunk];
        status |= fpq_kmeans_donors(k, n, ids + j * ld, errors + j * ld, counts + j * k, rows);
        for (int c = 0; c < k; c++)
            if (rows[c] >= 0)
                fpq_active()->read_rows(&data->x, data->rows, rows[c], 1, cb->offsets[j], cb->offsets[j + 1], NULL,
                                        cb->centroids + (j * k + c) * cb->dsub);
    }
    if (!update) memcpy(cb->centroids, start, (size_t)floats * sizeof(float));
    return status;
}

static void test_kmeans_step(void) {
    const int large = !below(8);
    const problem p = random_problem(large ? 3 : ANY_OF(1, 2, 5, 16, 17), large ? 7000 : size() + 1);
    const int n = p.n, m = p.m, k = p.k, all = m * n, floats = m * k * p.cb.dsub, update = below(4) > 0;
    const double limit = below(2) ? 0 : 1.2 * n / k;
    uint8_t active[3];
    int32_t *before = INPUT(int32_t, all), *expected = INPUT(int32_t, all);
    OUTPUTS(float, centroids, floats);
    OUTPUTS(int32_t, ids, all);
    OUTPUTS(float, errors, all);
    OUTPUTS(int64_t, changed, m);
    OUTPUTS(int64_t, counts, m *k);
    int64_t *chosen = INPUT(int64_t, m *k);
    memset(chosen, 0, (size_t)(m * k) * sizeof *chosen);
    CHECK(!fpq_assign(&p.cb, &p.data, expected, NULL, 1));
    if (limit > 0) CHECK(!fpq_open_index(&p.cb, &p.data, limit, k, 0, expected, chosen, 1));
    for (int j = 0; j < m; j++) active[j] = (uint8_t)(below(4) > 0);
    for (int i = 0; i < all; i++) before[i] = below(2) || !active[i / n] ? expected[i] : below(k);
    FOR_THREADS {
        fpq_codebooks cb = p.cb;
        fpq_bounds none = {0, NULL, NULL, NULL};
        cb.centroids = memcpy(centroids[t], p.cb.centroids, (size_t)floats * sizeof(float));
        memcpy(ids[t], before, (size_t)all * sizeof(int32_t));
        CHECK(!lloyd(&cb, &p.data, active, limit, update, n, ids[t], errors[t], &none, NULL, 1, changed[t], counts[t],
                     threads));
    }
    CHECK(SAME(centroids[0], centroids[1], floats) && SAME(ids[0], ids[1], all) && SAME(errors[0], errors[1], all));
    CHECK(SAME(changed[0], changed[1], m) && SAME(counts[0], counts[1], m * k) && SAME(ids[0], expected, all));
    for (int j = 0; j < m; j++) {
        const int from = p.cb.offsets[j], d = p.cb.offsets[j + 1] - from;
        const float *got = centroids[0] + j * k * p.cb.dsub, *start = p.cb.centroids + j * k * p.cb.dsub;
        if (!active[j] || !update) CHECK(SAME(got, start, k * p.cb.dsub));
        if (!active[j]) continue;
        double sum[17][100] = {{0}}, error[17] = {0};
        int count[17] = {0}, worst[17] = {0}, differ = 0, near_errors = 1, right_counts = 1, right = 1;
        for (int i = 0; i < n; i++) {
            const int id = ids[0][j * n + i];
            const float e = errors[0][j * n + i];
            differ += id != before[j * n + i];
            near_errors &= fabs((double)e - distance(&p, j, i, id)) <= 1e-5 * (1 + (double)e);
            if (!count[id]++ || e > errors[0][j * n + worst[id]]) worst[id] = i;
            error[id] += (double)e;
            for (int t = 0; t < d; t++) sum[id][t] += at(&p, i, from + t);
        }
        CHECK(changed[0][j] == differ);
        CHECK(near_errors);
        for (int c = 0, refill = 1; c < k; c++) {
            right_counts &= counts[0][j * k + c] == count[c];
            int donor = 0;
            for (int other = 1; other < k; other++) donor = error[other] > error[donor] ? other : donor;
            if (!count[c] && !(error[donor] > 0)) refill = 0;
            for (int t = 0; update && t < d; t++) {
                const double expect = count[c] ? sum[c][t] / count[c]
                                      : refill ? at(&p, worst[donor], from + t)
                                               : (double)start[c * p.cb.dsub + t];
                right &= fabs((double)got[c * p.cb.dsub + t] - expect) <= 1e-4 * (1 + fabs(expect));
            }
            if (!count[c]) error[donor] = 0;
        }
        CHECK(right_counts);
        CHECK(right);
    }
}

/* Some iterations with bounds and without: the same bits, as long as no cluster is empty. */
static void test_bounds(void) {
    const problem p = random_problem(ANY_OF(8, 16, 17, 40, 65, 130, 600), below(4) ? size() + 700 : 2000);
    const int n = p.n, m = p.m, k = p.k, ld = n + below(3), all = m * ld, floats = m * k * p.cb.dsub;
    const int groups = 16 * (1 + below(FPQ_BLOCKS(k) < 4 ? FPQ_BLOCKS(k) : 4)), known = below(n + 1);
    fpq_bounds bounds[3];
    const uint8_t active[3] = {1, 1, 1};
    int32_t *ids[3];
    float *centroids[3], *drifted[3], *errors = OUTPUT(float, all);
    int64_t *changed[3], *counts[3];
    int filled = 1, same = 1;
    for (int t = 0; t < 3; t++) { /* without, with, with and more threads */
        bounds[t] = (fpq_bounds){t ? groups : 0, OUTPUT(uint16_t, all *groups), OUTPUT(uint16_t, m *groups),
                                 OUTPUT(float, m)};
        memset(bounds[t].bounds, 0, (size_t)(all * groups) * sizeof(uint16_t));
        memset(bounds[t].drift, 0, (size_t)(m * groups) * sizeof(uint16_t));
        memset(bounds[t].units, 0, (size_t)m * sizeof(float));
        ids[t] = memset(OUTPUT(int32_t, all), -1, (size_t)all * sizeof(int32_t));
        centroids[t] = memcpy(OUTPUT(float, floats), p.cb.centroids, (size_t)floats * sizeof(float));
        drifted[t] = OUTPUT(float, floats);
        changed[t] = OUTPUT(int64_t, m);
        counts[t] = OUTPUT(int64_t, m *k);
    }
    for (int round = 0; round < 6 && filled; round++) {
        fpq_rows data = p.data;
        if (round < 2) data.n = known; /* the other rows are new in the third round */
        for (int t = 0; t < 3; t++) {
            fpq_codebooks cb = p.cb;
            cb.centroids = centroids[t];
            CHECK(!lloyd(&cb, &data, active, 0, round < 5, ld, ids[t], errors, bounds + t, drifted[t], !round,
                         changed[t], counts[t], t == 2 ? THREADS : 1));
            if (!t) continue;
            same &= SAME(ids[0], ids[t], all) && SAME(changed[0], changed[t], m) && SAME(counts[0], counts[t], m * k);
        }
        for (int c = 0; c < m * k; c++) filled &= counts[0][c] > 0;
        for (int t = 1; filled && t < 3; t++) same &= SAME(centroids[0], centroids[t], floats);
    }
    CHECK(same);
}

static void test_seed(void) {
    const int large = !below(8), draws_each = FPQ_SEED_DRAWS, picks = FPQ_SEED_PICKS;
    const problem p = random_problem(large ? 3 : 1 + below(20), large ? 9000 : size() + 1);
    const int n = p.n, floats = p.m * p.k * p.cb.dsub, each = (p.k + picks - 1) / picks * draws_each;
    double *draws = INPUT(double, p.m *each), *left = INPUT(double, n);
    OUTPUTS(float, centroids, floats);
    for (int i = 0; i < p.m * each; i++) draws[i] = (double)(next() >> 11) * 0x1p-53;
    FOR_THREADS {
        fpq_codebooks cb = p.cb;
        cb.centroids = memcpy(centroids[t], p.cb.centroids, (size_t)floats * sizeof(float));
        CHECK(!fpq_seed(&cb, &p.data, draws, threads));
    }
    CHECK(SAME(centroids[0], centroids[1], floats));
    for (int j = 0; kind == INTEGERS && j < p.m; j++) { /* p's centroids become the expected ones, one after another */
        const int from = p.cb.offsets[j], d = p.cb.offsets[j + 1] - from;
        double total = 0;
        int rows[FPQ_SEED_DRAWS];
        for (int i = 0; i < n; i++) left[i] = INFINITY;
        for (int c = 0; c < p.k; c++) {
            float *centroid = p.cb.centroids + (j * p.k + c) * p.cb.dsub;
            double least = INFINITY;
            int best = 0;
            for (int try = 0; try < draws_each; try++) {
                if (c % picks == 0) {
                    const double draw = draws[j * each + c / picks * draws_each + try];
                    double running = 0;
                    rows[try] = total > 0 ? 0 : (int)(draw * n);
                    for (; total > 0 && (running += left[rows[try]]) <= draw * total; rows[try]++) continue;
                }
                double sum = 0;
                for (int t = 0; rows[try] >= 0 && t < d; t++) centroid[t] = (float)at(&p, rows[try], from + t);
                for (int i = 0; rows[try] >= 0 && i < n; i++) sum += fmin(left[i], distance(&p, j, i, c));
                if (rows[try] >= 0 && sum < least) least = sum, best = try;
            }
            for (int t = 0; t < d; t++) centroid[t] = (float)at(&p, rows[best], from + t);
            for (int i = 0; i < n; i++) left[i] = fmin(left[i], distance(&p, j, i, c));
            rows[best] = -1; /* taken */
            total = least;
        }
    }
    CHECK(kind == REALS || SAME(centroids[0], p.cb.centroids, floats));
}

static void test_codes(void) {
    const int n = size(), m = 1 + below(20), nbits = 1 + below(8), bytes = fpq_code_size(m, nbits);
    int32_t *ids = INPUT(int32_t, m *n), *unpacked = OUTPUT(int32_t, m *n);
    uint8_t *codes = OUTPUT(uint8_t, n *bytes), *blocks = OUTPUT(uint8_t, (n + 63) / 64 * 64 * bytes);
    uint8_t *got = OUTPUT(uint8_t, n *bytes);
    int64_t *rows = INPUT(int64_t, n);
    int right = 1;
    for (int i = 0; i < m * n; i++) ids[i] = below(1 << nbits);
    for (int i = 0; i < n; i++) rows[i] = n - 1 - i;
    fpq_pack_codes(ids, n, m, nbits, codes);
    fpq_unpack_codes(codes, n, m, nbits, unpacked);
    CHECK(SAME(ids, unpacked, m * n));
    fpq_put_codes(codes, rows, n, bytes, blocks);
    fpq_get_codes(blocks, rows, n, bytes, got);
    CHECK(SAME(codes, got, n * bytes));
    for (int i = 0; i < m * n; i++) {
        const int row = n - 1 - i % n;
        right &= sub_code(codes + i % n * bytes, 1, i / n, nbits) == ids[i];
        right &= sub_code(blocks + row / 64 * 64 * bytes + row % 64, 64, i / n, nbits) == ids[i];
    }
    CHECK(right && bytes == (m * nbits + 7) / 8);
}

/* A table of ids through changes, beside the array of ids by place. */
static void test_ids(void) {
    enum { MOST_IDS = 300, CHANGES = 40 };
    const int bits = 10, wide = below(2), stride = ANY_OF(0, 3, 20, 32, 50);
    int64_t *ids = OUTPUT(int64_t, MOST_IDS), *places = OUTPUT(int64_t, MOST_IDS), *wanted = INPUT(int64_t, MOST_IDS);
    uint64_t *entries = OUTPUT(uint64_t, wide ? 1 << bits : 1 << bits >> 1);
    uint64_t *set = OUTPUT(uint64_t, (MOST_IDS + 63) / 64);
    const fpq_id_table t = {entries, bits, wide ? 40 : ANY_OF(10, 20, 32), wide, ids};
    int n = 0, right = 1;
    memset(entries, 0, ((size_t)1 << bits) * (wide ? sizeof(uint64_t) : sizeof(uint32_t)));
    for (int change = 0; change < CHANGES; change++) {
        int64_t gone[MOST_IDS], sources[MOST_IDS], targets[MOST_IDS];
        int n_gone = 0, n_moved = 0, left = n;
        if (below(2)) {
            for (; left < n + 40 && left < MOST_IDS; left++) {
                ids[left] = (int64_t)(change * 64 + left - n) << stride;
                places[left - n] = left;
            }
            fpq_ids_find(&t, ids + n, left - n, wanted);
            for (int i = n; i < left; i++) right &= wanted[i - n] < 0;
            fpq_ids_insert(&t, places, left - n);
        } else {
            for (int i = 0; i < n; i++) /* of the rows that go, those before the new end are holes */
                if (!below(4)) gone[n_gone++] = i;
            left = n - n_gone;
            for (int i = 0; i < n_gone && gone[i] < left; i++) targets[n_moved++] = gone[i];
            for (int i = left, g = 0, m = 0; i < n; i++) {
                while (g < n_gone && gone[g] < i) g++;
                if (g == n_gone || gone[g] != i) sources[m++] = i;
            }
            for (int i = 0; i < n_gone; i++) wanted[i] = ids[gone[i]];
            fpq_ids_remove(&t, ids, gone, n_gone, sources, targets, n_moved);
            fpq_ids_find(&t, wanted, n_gone, places);
            for (int i = 0; i < n_gone; i++) right &= places[i] < 0;
            for (int i = left; i < n; i++) right &= ids[i] == 0;
        }
        n = left;
        fpq_ids_find(&t, ids, n, places);
        for (int i = 0; i < n; i++) right &= places[i] == i;
    }
    CHECK(right);
    memset(set, 0, (MOST_IDS + 63) / 64 * sizeof *set);
    for (int i = 0; i < n; i++) places[i] = i % 3 ? i : -1;
    fpq_set_bits(places, n, set);
    for (int i = 0; i < MOST_IDS; i++) right &= (int)(set[i / 64] >> i % 64 & 1) == (i < n && i % 3 != 0);
    CHECK(right);
}

static fpq_population random_population(int n) {
    int64_t *ids = below(2) ? INPUT(int64_t, n) : NULL;
    uint64_t *allowed = below(2) ? INPUT(uint64_t, (n + 63) / 64) : NULL;
    for (int i = 0; ids && i < n; i++) ids[i] = 3 * (n - i);
    for (int i = 0; allowed && i < (n + 63) / 64; i++) allowed[i] = below(3) ? next() : 0;
    return (fpq_population){ids, allowed, n};
}

typedef struct {
    float distance;
    int64_t id;
} pair;

static int by_distance(const void *x, const void *y) {
    const pair *a = x, *b = y;
    return a->distance != b->distance ? (a->distance > b->distance) - (a->distance < b->distance)
                                      : (a->id > b->id) - (a->id < b->id);
}

/* Whether distances and ids (nq, k) are the k smallest of all (nq, pop->n). */
static int are_smallest(const float *all, int nq, const fpq_population *pop, int k, const float *distances,
                        const int64_t *ids) {
    pair *pairs = INPUT(pair, pop->n);
    int right = 1;
    for (int q = 0; q < nq; q++, all += pop->n) {
        int n = 0;
        for (int64_t i = 0; i < pop->n; i++)
            if (!pop->allowed || (pop->allowed[i / 64] >> i % 64 & 1))
                pairs[n++] = (pair){all[i], pop->ids ? pop->ids[i] : i};
        qsort(pairs, (size_t)n, sizeof *pairs, by_distance);
        for (int i = 0; i < k; i++, distances++, ids++) {
            const pair expected = i < n ? pairs[i] : (pair){INFINITY, -1};
            right &= *distances == expected.distance && *ids == expected.id;
        }
    }
    return right;
}

static void test_adc_search(void) {
    const int nbits = 1 + below(8), k = 1 << nbits, width = k < 16 ? 16 : k, n = ANY_OF(0, 1, 63, 64, 65, 1000, 9000);
    const int nq = ANY_OF(1, 2, 3, 9, 30), top = ANY_OF(1, 3, 10, 100), first = n > 64 ? 64 : 0;
    const problem p = random_problem(k, nq);
    const int d = p.cb.offsets[p.m], bytes = fpq_code_size(p.m, nbits), each = (int)fpq_packed_size(k, p.cb.dsub);
    float *columns = OUTPUT(float, p.m *each), *table = OUTPUT(float, p.m *width), *queries = numbers(nq * d);
    uint8_t *blocks = INPUT(uint8_t, (n + 63) / 64 * 64 * bytes);
    const fpq_population pop = random_population(n);
    const fpq_adc adc = {columns, p.cb.centroids, p.cb.offsets, p.m, nbits, p.cb.dsub, below(2)};
    float *expected = INPUT(float, nq *n);
    OUTPUTS(float, all, nq *n);
    OUTPUTS(float, part, nq *(n - first));
    OUTPUTS(float, distances, nq *top);
    OUTPUTS(int64_t, ids, nq *top);
    for (int i = 0; i < (n + 63) / 64 * 64 * bytes; i++) blocks[i] = (uint8_t)next();
    for (int j = 0; j < p.m; j++)
        fpq_pack(p.cb.centroids + j * k * p.cb.dsub, k, p.cb.offsets[j + 1] - p.cb.offsets[j], p.cb.dsub, NULL,
                 columns + j * each);
    int right = 1;
    for (int q = 0; q < nq; q++) {
        fpq_adc_table(&adc, queries + q * d, table);
        for (int e = 0; e < p.m * k; e++) {
            const int from = p.cb.offsets[e / k];
            right &= is_distance(table[e / k * width + e % k], adc.inner_product, queries + q * d + from,
                                 p.cb.centroids + e * p.cb.dsub, p.cb.offsets[e / k + 1] - from);
        }
        for (int i = 0; i < n; i++) {
            float *sum = expected + q * n + i;
            *sum = 0;
            for (int j = 0; j < p.m; j++)
                *sum += table[j * width + sub_code(blocks + i / 64 * 64 * bytes + i % 64, 64, j, nbits)];
        }
    }
    CHECK(right);
    FOR_THREADS {
        CHECK(!fpq_adc_all(&adc, queries, nq, blocks, 0, n, all[t], threads) && SAME(all[t], expected, nq * n));
        CHECK(!fpq_adc_all(&adc, queries, nq, blocks, first, n - first, part[t], threads));
        for (int q = 0; q < nq; q++) CHECK(SAME(part[t] + q * (n - first), all[t] + q * n + first, n - first));
        CHECK(!fpq_adc_search(&adc, queries, nq, blocks, &pop, top, distances[t], ids[t], threads));
        CHECK(are_smallest(all[t], nq, &pop, top, distances[t], ids[t]));
    }
}

/* All lists probed, in a random order: distances to the lists' codes by definition, and the smallest of them. */
static void test_ivf_search(void) {
    const int nbits = ANY_OF(8, 4, 1 + below(8)), k = 1 << nbits, width = k < 16 ? 16 : k,
              n_blocks = ANY_OF(1, 2, 7, 60);
    const int nq = ANY_OF(1, 2, 9, 70), top = ANY_OF(1, 10, 100), n_lists = 1 + below(n_blocks + 2), n = n_blocks * 64;
    const problem p = random_problem(k, nq);
    const int d = p.cb.offsets[p.m], bytes = fpq_code_size(p.m, nbits), each = (int)fpq_packed_size(k, p.cb.dsub);
    float *columns = OUTPUT(float, p.m *each), *table = OUTPUT(float, p.m *width), *queries = numbers(nq * d);
    float *centroids = numbers(n_lists * d), *radius = INPUT(float, n_lists), *residual = INPUT(float, d);
    uint8_t *blocks = INPUT(uint8_t, n *bytes);
    int64_t *first = INPUT(int64_t, n_lists + 1), *probes = INPUT(int64_t, nq *n_lists), *starts = INPUT(int64_t, nq);
    int64_t *slot_ids = INPUT(int64_t, n);
    int32_t *chain = INPUT(int32_t, n_blocks);
    uint64_t *rows = INPUT(uint64_t, n_blocks);
    OUTPUTS(float, all, nq *n);
    OUTPUTS(float, distances, nq *top);
    OUTPUTS(int64_t, ids, nq *top);
    float *by_slot = INPUT(float, nq *n);
    const fpq_adc adc = {columns, p.cb.centroids, p.cb.offsets, p.m, nbits, p.cb.dsub, below(2)};
    const fpq_lists lists = {centroids, first, chain, rows, below(2) ? radius : NULL, below(2), n_lists};
    for (int i = 0; i < n * bytes; i++) blocks[i] = (uint8_t)next();
    for (int i = 0; i < n; i++) slot_ids[i] = (int64_t)(n - i) * 3;
    for (int b = 0; b < n_blocks; b++) chain[b] = (b + 1) % n_blocks, rows[b] = ANY_OF(0, 1, 1) ? next() : 0;
    for (int l = 0; l <= n_lists; l++) first[l] = l == n_lists ? n_blocks : (int64_t)l * n_blocks / n_lists;
    for (int q = 0; q < nq; q++) starts[q] = (int64_t)q * n_blocks;
    for (int i = 0; i < nq * n_lists; i++) probes[i] = (i / n_lists + i) % n_lists;
    for (int j = 0; j < p.m; j++)
        fpq_pack(p.cb.centroids + j * k * p.cb.dsub, k, p.cb.offsets[j + 1] - p.cb.offsets[j], p.cb.dsub, NULL,
                 columns + j * each);
    for (int l = 0; l < n_lists; l++) {
        double longest = 0;
        for (int64_t b = first[l]; b < first[l + 1]; b++)
            for (int r = 0; r < 64; r++) {
                double square = 0;
                for (int j = 0; j < p.m; j++) {
                    const float *c = p.cb.centroids +
                                     (j * k + sub_code(blocks + chain[b] * 64 * bytes + r, 64, j, nbits)) * p.cb.dsub;
                    for (int t = 0; t < p.cb.offsets[j + 1] - p.cb.offsets[j]; t++)
                        square += (double)c[t] * (double)c[t];
                }
                longest = square > longest ? square : longest;
            }
        radius[l] = lists.residual ? (float)(sqrt(longest) * 1.000001) : INFINITY;
    }
    FOR_THREADS {
        CHECK(!fpq_ivf_all(&adc, &lists, queries, nq, probes, n_lists, blocks, starts, all[t], threads));
        CHECK(SAME(all[t], all[0], nq * n));
        CHECK(!fpq_ivf_search(&adc, &lists, queries, nq, probes, n_lists, blocks, slot_ids, top, distances[t], ids[t],
                              threads));
        int right = 1, at = 0;
        for (int i = 0; i < nq * n_lists; i++) {
            const int64_t list = probes[i];
            const float *q = queries + i / n_lists * d, *centre = centroids + list * d;
            double offset = 0;
            for (int x = 0; x < d; x++) {
                residual[x] = lists.residual && !adc.inner_product ? q[x] - centre[x] : q[x];
                offset -= lists.residual && adc.inner_product ? (double)q[x] * (double)centre[x] : 0;
            }
            fpq_adc_table(&adc, residual, table);
            for (int64_t b = first[list]; b < first[list + 1]; b++)
                for (int r = 0; r < 64; r++, at++) {
                    float sum = 0;
                    for (int j = 0; j < p.m; j++)
                        sum += table[j * width + sub_code(blocks + chain[b] * 64 * bytes + r, 64, j, nbits)];
                    right &= fabs((double)all[t][at] - ((double)sum + offset)) <=
                             1e-5 * (fabs((double)sum) + fabs(offset));
                    by_slot[i / n_lists * n + chain[b] * 64 + r] = all[t][at];
                }
        }
        CHECK(right);
        const fpq_population pop = {slot_ids, rows, n};
        CHECK(are_smallest(by_slot, nq, &pop, top, distances[t], ids[t]));
    }
}

static void test_flat(void) {
    origin = (float)ANY_OF(0, 0, 100);
    const int n = ANY_OF(0, 1, 63, 64, 65, 200, 3000), d = ANY_OF(1, 7, 16, 33, 70),
              nq = ANY_OF(1, 3, 4, 5, 64, 65, 130);
    const int top = ANY_OF(1, 3, 10, 100), inner_product = below(2);
    const fpq_matrix x = matrix(n, d, below(5));
    const fpq_population pop = random_population(n);
    float *queries = numbers(nq * d), *row = INPUT(float, d);
    int64_t *rows = INPUT(int64_t, nq *(n + 1));
    OUTPUTS(float, norms, n);
    OUTPUTS(float, all, nq *(n + 1));
    OUTPUTS(float, distances, nq *top);
    OUTPUTS(int64_t, ids, nq *top);
    for (int i = 0; i < nq * (n + 1); i++) rows[i] = i < nq * n ? i % n : -1; /* and one of -1 for each query */
    origin = 0;
    FOR_THREADS {
        CHECK(!fpq_flat_norms(&x, norms[t], threads));
        CHECK(!fpq_flat_distances(&x, queries, nq, rows, n, inner_product, all[t], threads));
        CHECK(!fpq_flat_distances(&x, queries, 1, rows + nq * n, nq, inner_product, all[t] + nq * n, threads));
        CHECK(!fpq_flat_search(&x, norms[t], queries, nq, &pop, inner_product, top, distances[t], ids[t], threads));
        CHECK(are_smallest(all[t], nq, &pop, top, distances[t], ids[t]));
        if (!n || pop.allowed || !fpq_flat_columns_pay(&x, 1)) continue;
        fpq_flat_columns *columns = fpq_flat_columns_make(&x, inner_product);
        CHECK(columns && fpq_flat_columns_bytes(columns) > 0);
        CHECK(!fpq_flat_columns_search(columns, queries, nq, &pop, top, distances[t], ids[t], threads));
        CHECK(are_smallest(all[t], nq, &pop, top, distances[t], ids[t]));
        fpq_flat_columns_free(columns);
    }
    CHECK(SAME(norms[0], norms[1], n) && SAME(all[0], all[1], nq * (n + 1)));
    int right = 1;
    for (int i = 0; i < n; i++) {
        row_of(&x, i, row);
        right &= is_distance(-norms[0][i], 1, row, row, d);
        for (int q = 0; q < nq; q++) right &= is_distance(all[0][q * n + i], inner_product, queries + q * d, row, d);
    }
    for (int q = 0; q < nq; q++) right &= all[0][nq * n + q] == INFINITY;
    CHECK(right);
}

static void test_matrix(void) {
    const int n = size(), d = size() + 1, k = size() + 1;
    const fpq_matrix x = matrix(n, d, below(5));
    float *c = numbers(k * d), *columns = packed(c, k, d, d), *row = INPUT(float, d);
    OUTPUTS(float, normal, n *d);
    OUTPUTS(float, product, n *k);
    FOR_THREADS {
        CHECK(!fpq_normalize(&x, normal[t], threads));
        CHECK(!fpq_project(&x, columns, k, product[t], threads));
    }
    CHECK(SAME(normal[0], normal[1], n * d) && SAME(product[0], product[1], n * k));
    int right = 1;
    for (int i = 0; i < n; i++) {
        double length = 0;
        row_of(&x, i, row);
        for (int t = 0; t < d; t++) length += (double)row[t] * (double)row[t];
        for (int t = 0; t < d; t++) {
            const double expected = length > 0 ? (double)row[t] / sqrt(length) : 0;
            right &= fabs((double)normal[0][i * d + t] - expected) <= (d + 8) * (double)FLT_EPSILON * fabs(expected);
        }
        for (int j = 0; j < k; j++) right &= is_distance(-product[0][i * k + j], 1, row, c + j * d, d);
    }
    CHECK(right);
}

static void test_first_nonfinite_row(void) {
    const int n = ANY_OF(0, 1, 95, 96, 97, 300), d = ANY_OF(1, 7, 1023, 1024, 1025);
    const fpq_matrix x = matrix(n, d, below(5));
    int64_t expected = -1;
    for (int bad = n && x.dtype <= FPQ_F16 ? below(3) : 0; bad > 0; bad--) {
        const int row = below(n);
        void *to = (void *)(uintptr_t)element(&x, row, below(d));
        if (x.dtype == FPQ_F32) *(float *)to = NAN;
        if (x.dtype == FPQ_F64) *(double *)to = 1e300; /* infinite as float32 */
        if (x.dtype == FPQ_F16) *(uint16_t *)to = 0xfc00;
        expected = expected < 0 || row < expected ? row : expected;
    }
    FOR_THREADS CHECK(fpq_first_nonfinite_row(&x, threads) == expected);
}

static void test_smallest(void) {
    const int n = ANY_OF(1, 5, 64, 400), nq = ANY_OF(1, 3, 70), k = 1 + below(n);
    float *distances = INPUT(float, nq *n);
    int64_t *ids = INPUT(int64_t, nq *n);
    OUTPUTS(float, least, nq *k);
    OUTPUTS(int64_t, least_ids, nq *k);
    for (int i = 0; i < nq * n; i++) {
        distances[i] = below(9) ? number() : below(2) ? INFINITY : NAN;
        ids[i] = below(5) ? below(4) * n + i % n : -1;
    }
    FOR_THREADS CHECK(!fpq_smallest(distances, ids, nq, n, k, least[t], least_ids[t], threads));
    CHECK(SAME(least[0], least[1], nq * k) && SAME(least_ids[0], least_ids[1], nq * k));
    pair *pairs = INPUT(pair, n);
    int right = 1;
    for (int q = 0; q < nq; q++) {
        int there = 0;
        for (int i = q * n; i < (q + 1) * n; i++)
            if (ids[i] >= 0) pairs[there++] = (pair){distances[i] <= INFINITY ? distances[i] : INFINITY, ids[i]};
        qsort(pairs, (size_t)there, sizeof *pairs, by_distance);
        for (int i = 0; i < k; i++) {
            const pair expected = i < there ? pairs[i] : (pair){INFINITY, -1};
            right &= least[0][q * k + i] == expected.distance && least_ids[0][q * k + i] == expected.id;
        }
    }
    CHECK(right);
}

/* ---- LSH: the drivers against the definitions in fpq.h ---- */
static fpq_hashes random_hashes(int n_tables, int n_hashes, int d) {
    const int columns = n_tables * n_hashes, room = (columns + 15) / 16 * 16;
    float *shifts = INPUT(float, room), *directions = numbers(columns * d);
    uint64_t *mixers = INPUT(uint64_t, columns);
    for (int j = 0; j < columns; j++) mixers[j] = next();
    for (int j = 0; j < room; j++) shifts[j] = j < columns ? (float)below(8) / 8 : 0;
    for (int i = 0; i < columns * d; i++) directions[i] /= 4;
    return (fpq_hashes){d, n_tables, n_hashes, numbers(d), packed(directions, columns, d, d), shifts, mixers};
}

/* Directions are those of coordinates, so the length of the rest is that of the others. */
static fpq_sketcher random_sketcher(int size, int d) {
    float *directions = INPUT(float, (size - 1) * d), *back = INPUT(float, d *(size - 1)), *least = INPUT(float, size);
    for (int j = 0; j < size - 1; j++)
        for (int t = 0; t < d; t++) directions[j * d + t] = back[t * (size - 1) + j] = (float)(t == d - 1 - j);
    for (int t = 0; t < size; t++) least[t] = (float)below(5) - 4;
    return (fpq_sketcher){d,
                          size,
                          numbers(d),
                          packed(directions, size - 1, d, d),
                          packed(back, d, size - 1, size - 1),
                          least,
                          (float)ANY_OF(1, 20, 100)};
}

static int64_t bucket(float value) { return (int64_t)(value < -1e9f ? -1e9f : value > 1e9f ? 1e9f : floorf(value)); }

static int by_number(const void *x, const void *y) {
    const uint64_t a = *(const uint64_t *)x, b = *(const uint64_t *)y;
    return (a > b) - (a < b);
}

static void test_lsh_hashing(void) {
    const int n = ANY_OF(1, 95, 96, 97, 300), n_tables = 1 + below(4), n_hashes = 1 + below(20),
              k = n_tables * n_hashes;
    const int size = 16 * (1 + below(4)), d = size - 1 + below(20), first = below(1000), bits = 1 + below(9);
    const fpq_matrix x = matrix(n, d, below(5));
    const fpq_hashes hashes = random_hashes(n_tables, n_hashes, d);
    const fpq_hashes one = {d, 1, n_hashes, hashes.centre, hashes.packed, hashes.shifts, hashes.mixers};
    const fpq_sketcher s = random_sketcher(size, d);
    float *row = INPUT(float, d);
    OUTPUTS(float, values, n *k);
    OUTPUTS(uint64_t, entries, n *n_tables);
    OUTPUTS(uint8_t, codes, n *n_hashes);
    OUTPUTS(uint8_t, sketches, n *size);
    OUTPUTS(float, firsts, n *n_hashes);
    uint32_t *starts = OUTPUT(uint32_t, (1 << bits) + 1);
    FOR_THREADS {
        CHECK(!fpq_lsh_values(&hashes, &x, values[t], threads) &&
              !fpq_lsh_entries(&hashes, &x, first, entries[t], threads));
        CHECK(!fpq_lsh_buckets(&one, &x, codes[t], threads) && !fpq_lsh_sketch(&s, &x, sketches[t], threads));
        CHECK(!fpq_lsh_values(&one, &x, firsts[t], threads));
    }
    CHECK(SAME(values[0], values[1], n * k) && SAME(entries[0], entries[1], n * n_tables));
    CHECK(SAME(codes[0], codes[1], n * n_hashes) && SAME(sketches[0], sketches[1], n * size));
    int right = 1, near = 1;
    for (int i = 0; i < n; i++) {
        row_of(&x, i, row);
        for (int table = 0; table < n_tables; table++) {
            uint64_t sum = 0;
            for (int j = table * n_hashes; j < (table + 1) * n_hashes; j++)
                sum += (uint64_t)bucket(values[0][i * k + j]) * hashes.mixers[j];
            right &= entries[0][table * n + i] == ((sum >> 32 << 32) | (uint64_t)(first + i));
        }
        for (int j = 0; j < n_hashes; j++)
            right &= codes[0][i * n_hashes + j] == (bucket(firsts[0][i * n_hashes + j]) & 255);
        double rest = 0;
        for (int t = 0; t < d; t++) {
            const double y = (double)row[t] - (double)s.centre[t];
            const int c = d - 1 - t;
            if (c >= size - 1) rest += y * y;
            const double code = (y - (double)s.least[c < size - 1 ? c : 0]) * (double)s.scale;
            if (c < size - 1) near &= fabs(fmin(fmax(code, 0), 255) - sketches[0][i * size + c]) <= 0.51;
        }
        const double code = (sqrt(rest) - (double)s.least[size - 1]) * (double)s.scale;
        near &= fabs(fmin(fmax(code, 0), 255) - sketches[0][i * size + size - 1]) <= 0.51;
    }
    CHECK(right);
    CHECK(near);
    qsort(entries[0], (size_t)n, sizeof *entries[0], by_number);
    fpq_lsh_starts(entries[0], n, bits, starts);
    for (int slot = 0; slot <= 1 << bits; slot++) {
        int before = 0;
        while (before < n && (int64_t)(entries[0][before] >> (64 - bits)) < slot) before++;
        right &= starts[slot] == (uint32_t)before;
    }
    CHECK(right);
}

/* Whether distances and ids (k) are the smallest of those candidates that may be returned. */
static int are_smallest_of(const float *all, const uint8_t *candidate, const fpq_population *pop, int k,
                           const float *distances, const int64_t *ids) {
    uint64_t *allowed = INPUT(uint64_t, (pop->n + 63) / 64);
    for (int64_t i = 0; i < (pop->n + 63) / 64; i++) allowed[i] = 0;
    for (int64_t i = 0; i < pop->n; i++)
        if (candidate[i] && (!pop->allowed || (pop->allowed[i / 64] >> i % 64 & 1)))
            allowed[i / 64] |= (uint64_t)1 << i % 64;
    const fpq_population some = {pop->ids, allowed, pop->n};
    return are_smallest(all, 1, &some, k, distances, ids);
}

static void test_e2lsh_search(void) {
    const int n = ANY_OF(1, 63, 64, 300), nq = ANY_OF(1, 5, 20), k = ANY_OF(1, 10, 70), bits = 1 + below(8);
    const int n_tables = 1 + below(4), n_hashes = 1 + below(3), columns = n_tables * n_hashes;
    const int size = 16 * (1 + below(4)), d = size - 1 + below(20), all_probes = below(2), sketched = below(2);
    const fpq_matrix x = matrix(n, d, below(5));
    const fpq_population pop = random_population(n);
    const fpq_hashes hashes = random_hashes(n_tables, n_hashes, d);
    const fpq_sketcher s = random_sketcher(size, d);
    float *queries = numbers(nq * d);
    const fpq_matrix q = {(const char *)queries, nq, d, d * (ptrdiff_t)sizeof(float), sizeof(float), FPQ_F32, 0};
    float *of_rows = OUTPUT(float, n *columns), *of_queries = OUTPUT(float, nq *columns), *exact = OUTPUT(float, nq *n);
    uint64_t *entries = OUTPUT(uint64_t, n_tables *n);
    uint32_t *starts = OUTPUT(uint32_t, n_tables * ((1 << bits) + 1));
    uint8_t *by_row = OUTPUT(uint8_t, n *size), *sketches = INPUT(uint8_t, n_tables * n * size),
            *candidate = INPUT(uint8_t, n);
    int64_t *rows = INPUT(int64_t, nq *n);
    OUTPUTS(float, distances, nq *k);
    OUTPUTS(int64_t, ids, nq *k);
    OUTPUTS(fpq_lsh_stats, stats, nq);
    for (int i = 0; i < nq * n; i++) rows[i] = i % n;
    CHECK(!fpq_flat_distances(&x, queries, nq, rows, n, 0, exact, 1) && !fpq_lsh_sketch(&s, &x, by_row, 1));
    CHECK(!fpq_lsh_values(&hashes, &x, of_rows, 1) && !fpq_lsh_values(&hashes, &q, of_queries, 1));
    CHECK(!fpq_lsh_entries(&hashes, &x, 0, entries, 1));
    for (int table = 0; table < n_tables; table++) {
        qsort(entries + table * n, (size_t)n, sizeof *entries, by_number);
        fpq_lsh_starts(entries + table * n, n, bits, starts + table * ((1 << bits) + 1));
    }
    for (int e = 0; e < n_tables * n; e++)
        memcpy(sketches + e * size, by_row + (entries[e] & 0xffffffffu) * (uint64_t)size, (size_t)size);
    const fpq_lsh_rows held = {x, sketched ? &s : NULL, NULL, pop, 0};
    const fpq_lsh_tables tables = {entries, sketched ? sketches : NULL, starts, bits};
    FOR_THREADS CHECK(!fpq_e2lsh_search(&hashes, &tables, &held, queries, nq, all_probes ? 1000 : n_tables, k,
                                        distances[t], ids[t], stats[t], threads));
    CHECK(SAME(distances[0], distances[1], nq * k) && SAME(ids[0], ids[1], nq * k) && SAME(stats[0], stats[1], nq));
    int right = 1;
    for (int i = 0; i < nq; i++) { /* a probe changes each of the numbers by 1 at most */
        int64_t candidates = 0;
        memset(candidate, 0, (size_t)n);
        for (int r = 0; r < n; r++)
            for (int table = 0; table < n_tables; table++) {
                int64_t most = 0;
                for (int j = table * n_hashes; j < (table + 1) * n_hashes; j++) {
                    const int64_t apart = bucket(of_rows[r * columns + j]) - bucket(of_queries[i * columns + j]);
                    if (most < llabs(apart)) most = llabs(apart);
                }
                candidates += most <= all_probes;
                candidate[r] |= most <= all_probes;
            }
        right &= stats[0][i].candidates == candidates;
        right &= are_smallest_of(exact + i * n, candidate, &pop, k, distances[0] + i * k, ids[0] + i * k);
    }
    CHECK(right);
}

typedef struct {
    int count, row;
} collided;

static int by_count(const void *x, const void *y) {
    const collided *a = x, *b = y;
    return a->count != b->count ? b->count - a->count : a->row - b->row;
}

static void test_c2lsh_search(void) {
    const int n = ANY_OF(1, 63, 64, 65, 300), nq = ANY_OF(1, 7, 8, 9, 30), k = ANY_OF(1, 10), m = 1 + below(30);
    const int size = 16 * (1 + below(4)), d = size - 1 + below(20), sketched = below(2);
    const fpq_matrix x = matrix(n, d, below(5));
    const fpq_population pop = random_population(n);
    const fpq_hashes hashes = random_hashes(1, m, d);
    const fpq_sketcher s = random_sketcher(size, d);
    float *queries = numbers(nq * d);
    const fpq_matrix q = {(const char *)queries, nq, d, d * (ptrdiff_t)sizeof(float), sizeof(float), FPQ_F32, 0};
    float *values = OUTPUT(float, nq *m), *exact = OUTPUT(float, nq *n);
    uint8_t *codes = OUTPUT(uint8_t, n *m), *blocks = OUTPUT(uint8_t, (n + 63) / 64 * 64 * m),
            *sketches = OUTPUT(uint8_t, n *size);
    uint8_t *candidate = INPUT(uint8_t, n);
    int64_t *rows = INPUT(int64_t, nq *n);
    collided *found = INPUT(collided, n);
    OUTPUTS(float, distances, nq *k);
    OUTPUTS(int64_t, ids, nq *k);
    OUTPUTS(fpq_lsh_stats, stats, nq);
    for (int i = 0; i < nq * n; i++) rows[i] = i % n;
    CHECK(!fpq_flat_distances(&x, queries, nq, rows, n, 0, exact, 1) && !fpq_lsh_sketch(&s, &x, sketches, 1));
    CHECK(!fpq_lsh_buckets(&hashes, &x, codes, 1) && !fpq_lsh_values(&hashes, &q, values, 1));
    memset(blocks, 0, (size_t)((n + 63) / 64 * 64 * m));
    fpq_put_codes(codes, rows, n, m, blocks);
    const fpq_c2lsh c = {.codes = blocks,
                         .window = 0.5,
                         .radius = ANY_OF(1, 4, 30),
                         .ratio = ANY_OF(2, 3),
                         .threshold = 1 + below(m),
                         .budget = 1 + below(n),
                         .stop_early = below(2)};
    const fpq_lsh_rows held = {x, sketched ? &s : NULL, sketched ? sketches : NULL, pop, 0};
    FOR_THREADS CHECK(!fpq_c2lsh_search(&hashes, &c, &held, queries, nq, k, distances[t], ids[t], stats[t], threads));
    CHECK(SAME(distances[0], distances[1], nq * k) && SAME(ids[0], ids[1], nq * k) && SAME(stats[0], stats[1], nq));
    int right = 1;
    for (int i = 0; i < nq; i++) {
        int64_t left = c.budget;
        memset(candidate, 0, (size_t)n);
        for (int level = 0, done = 0; !done; level++) {
            const float half = (float)(c.window * pow(c.ratio, level));
            if (half >= 127) {
                memset(candidate, 1, (size_t)n);
                break;
            }
            int there = 0, near = 0;
            for (int r = 0; r < n; r++) {
                int count = 0;
                for (int j = 0; j < m; j++) {
                    const uint8_t low = (uint8_t)bucket(values[i * m + j] - half),
                                  high = (uint8_t)bucket(values[i * m + j] + half);
                    count += (uint8_t)(codes[r * m + j] - low) <= (uint8_t)(high - low);
                }
                const int may = !pop.allowed || (pop.allowed[r / 64] >> r % 64 & 1);
                if (may && !candidate[r] && count >= c.threshold) found[there++] = (collided){count, r};
            }
            qsort(found, (size_t)there, sizeof *found, by_count);
            for (int r = 0; r < there && left > 0; r++, left--) candidate[found[r].row] = 1;
            const double radius = c.radius * pow(c.ratio, level + 1);
            for (int r = 0; r < n; r++) near += candidate[r] && (double)exact[i * n + r] <= radius * radius;
            done = left <= 0 || (c.stop_early && near >= k);
        }
        right &= are_smallest_of(exact + i * n, candidate, &pop, k, distances[0] + i * k, ids[0] + i * k);
    }
    CHECK(right);
}

typedef struct {
    const char *name;
    void (*run)(void);
    int rounds;
} test;
#define TEST(type, name, args) {#name, test_##name, ROUNDS},

int main(void) {
    static const test tests[] = {
        FPQ_KERNELS(TEST){"halves", test_every_half, 1},
        {"fpq_assign", test_assign, ROUNDS},
        {"far", test_assign_far, ROUNDS},
        {"bytes", test_bytes, ROUNDS},
        {"fpq_open_index", test_open_index, ROUNDS},
        {"k-means", test_kmeans_step, ROUNDS},
        {"bounds", test_bounds, ROUNDS},
        {"fpq_seed", test_seed, ROUNDS},
        {"codes", test_codes, ROUNDS},
        {"ids", test_ids, ROUNDS},
        {"fpq_adc_search", test_adc_search, ROUNDS},
        {"fpq_ivf_search", test_ivf_search, ROUNDS},
        {"fpq_flat_search", test_flat, ROUNDS},
        {"fpq_normalize, fpq_project", test_matrix, ROUNDS},
        {"fpq_first_nonfinite_row", test_first_nonfinite_row, ROUNDS},
        {"fpq_smallest", test_smallest, ROUNDS},
        {"LSH hashing", test_lsh_hashing, ROUNDS},
        {"fpq_e2lsh_search", test_e2lsh_search, ROUNDS},
        {"fpq_c2lsh_search", test_c2lsh_search, ROUNDS},
    };
    const char *only = getenv("FPQ_ISA");
    long all = 0, all_failed = 0;
    for (int i = 0; fpq_isa_at(i); i++) {
        if (only && *only && strcmp(only, fpq_isa_at(i))) continue;
        checks = failed = 0;
        const int status = fpq_use_isa(fpq_isa_at(i));
        kern = fpq_active();
        testing = "fpq_use_isa";
        CHECK(!status && !strcmp(fpq_isa(), fpq_isa_at(i)) && fpq_use_isa("none"));
        for (size_t t = 0; t < sizeof tests / sizeof *tests; t++)
            for (int round = 0; round < 2 * tests[t].rounds; round++) {
                testing = tests[t].name;
                kind = round % 2 ? REALS : INTEGERS;
                state = (uint64_t)round;
                tests[t].run();
                release();
            }
        printf("%s: %ld checks, %ld failed\n", fpq_isa(), checks, failed);
        all += checks;
        all_failed += failed;
    }
    if (!all) printf("FPQ_ISA=%s does not run here\n", only);
    printf("%ld passed, %ld failed\n", all - all_failed, all_failed);
    return !all || all_failed;
}
