/* SPDX-License-Identifier: MIT
 * What the tests of all families share: checks, random data, guarded memory, naive loops.
 *
 * A test is one random problem. Data are small INTEGERS, whose sums are exact so that all must agree bit for bit and
 * ties are many, or REALS, whose sums may differ by rounding where the contracts of the kernels allow it. */
#ifndef FPQ_HARNESS_H
#define FPQ_HARNESS_H

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "assign/assign.h"
#include "dot.h"
#include "ids.h"
#include "isa/kernels.h"
#include "kmeans/quantized_distance.h"
#include "portable.h"

#ifndef FPQ_ROUNDS
#define FPQ_ROUNDS 40
#endif
enum { ROUNDS = FPQ_ROUNDS, THREADS = 3 };
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
enum { TYPES = FPQ_I8 + 1 };

static double half(unsigned bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double magnitude = exponent == 31 ? (fraction ? (double)NAN : (double)INFINITY)
                                            : ldexp(fraction + (exponent ? 1024 : 0), (exponent ? exponent : 1) - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
}

static double bfloat16(unsigned bits) {
    const int exponent = bits >> 7 & 255, fraction = bits & 127;
    const double magnitude = exponent == 255 ? (fraction ? (double)NAN : (double)INFINITY)
                                             : ldexp(fraction + (exponent ? 128 : 0), (exponent ? exponent : 1) - 134);
    return bits & 0x8000 ? -magnitude : magnitude;
}

static const ptrdiff_t item_size[TYPES] = {4, 8, 2, 2, 1, 1}; /* by dtype */

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
    case FPQ_BF16:
        return bfloat16(*(const uint16_t *)at);
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
    case FPQ_BF16: {
        const float x = number();
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        *(uint16_t *)at = (uint16_t)(bits >> 16);
        break;
    }
    case FPQ_U8:
        *(uint8_t *)at = (uint8_t)below(kind == REALS ? 256 : 9);
        break;
    default:
        *(int8_t *)at = (int8_t)(kind == REALS ? below(256) - 128 : below(9) - 4);
    }
}

static fpq_matrix matrix(int64_t n, int64_t d, int dtype) {
    const ptrdiff_t bytes = item_size[dtype], all = n * d * bytes;
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

static uint8_t *some_of(int n, int *count) {
    uint8_t *rows = INPUT(uint8_t, n);
    *count = 0;
    for (int i = 0; i < n; i++)
        if (below(2)) rows[(*count)++] = (uint8_t)i;
    return rows;
}

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
    return (problem){{m, k, dsub, offsets, centroids},      {matrix(n_all, offsets[m], below(TYPES)), rows, n}, m, k, n,
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

/* Room for n ids of 8 or 4 bytes. */
static fpq_ids random_ids(int n) {
    return below(2) ? (fpq_ids){.wide = INPUT(int64_t, n)} : (fpq_ids){.narrow = INPUT(int32_t, n)};
}

static fpq_selector random_selector(int n) {
    const fpq_ids ids = below(2) ? random_ids(n) : (fpq_ids){0};
    uint64_t *allowed = below(2) ? INPUT(uint64_t, (n + 63) / 64) : NULL;
    for (int i = 0; fpq_has_ids(ids) && i < n; i++) fpq_put_id(ids, i, 3 * (n - i));
    for (int i = 0; allowed && i < (n + 63) / 64; i++) allowed[i] = below(3) ? next() : 0;
    return (fpq_selector){ids, allowed, n};
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

/* The k smallest of all (nq, selector->n), or with k = 0 all up to radius: what a search must find. */
static int is_answer(const float *all, int nq, const fpq_selector *selector, const fpq_answers *answers) {
    pair *pairs = INPUT(pair, selector->n);
    int right = 1;
    for (int q = 0; q < nq; q++, all += selector->n) {
        const int64_t k = answers->k;
        int n = 0;
        for (int64_t i = 0; i < selector->n; i++)
            if ((!selector->allowed || (selector->allowed[i / 64] >> i % 64 & 1)) && (k || all[i] <= answers->radius))
                pairs[n++] = (pair){all[i], fpq_id_of(selector->ids, i)};
        qsort(pairs, (size_t)n, sizeof *pairs, by_distance);
        const fpq_hits got = k ? (fpq_hits){answers->distances + q * k, answers->ids + q * k, k} : answers->hits[q];
        if (!k && got.n != n) return 0;
        for (int i = 0; i < got.n; i++) {
            const pair expected = i < n ? pairs[i] : (pair){INFINITY, -1};
            right &= got.distances[i] == expected.distance && got.ids[i] == expected.id;
        }
    }
    return right;
}

/* The k nearest of nq queries, or all within a radius, drawn from all (nq, n) distances. */
static fpq_answers nearest_answers(int nq, int k) {
    return (fpq_answers){.k = k, .distances = OUTPUT(float, nq *k), .ids = OUTPUT(int64_t, nq *k)};
}
static fpq_answers radius_answers(int nq, const float *all, int n) {
    return (fpq_answers){.radius = n ? all[below(nq * n)] : 1, .hits = fpq_hits_make(nq)};
}

static const fpq_id_table *table_of(fpq_ids ids, int n) {
    enum { BITS = 14, PLACE_BITS = 20 };
    int64_t *places = INPUT(int64_t, n);
    fpq_id_table *table = INPUT(fpq_id_table, 1);
    *table = (fpq_id_table){OUTPUT(uint32_t, 1 << BITS), BITS, PLACE_BITS, 0, ids};
    memset(table->entries, 0, sizeof(uint32_t) << BITS);
    for (int i = 0; i < n; i++) places[i] = i;
    fpq_ids_insert(table, places, n);
    return table;
}

/* Re-ranking of some candidates by made-up vectors. Rows are found in a table of the ids, or are the ids, of which some
 * are no row then. */
static fpq_ranking random_ranking(const fpq_selector *selector, int nq, int64_t candidates) {
    const int n = (int)selector->n, d = ANY_OF(1, 9, 40), by_table = fpq_has_ids(selector->ids) && below(2);
    fpq_ranking ranking = {.x = matrix(by_table ? n : 2 * n, d, below(TYPES)),
                           .metric = below(FPQ_N_METRICS),
                           .queries = numbers(nq * d),
                           .candidates = candidates};
    if (by_table) ranking.rows = table_of(selector->ids, n);
    return ranking;
}

/* Whether answers are the nearest of the candidates `found` by their distances to the vectors. */
static int is_ranked(const fpq_ranking *ranking, const fpq_answers *found, const fpq_answers *answers, int nq) {
    pair *pairs = INPUT(pair, found->k);
    int right = 1;
    for (int q = 0; q < nq; q++) {
        int n = 0;
        for (int64_t i = q * found->k; i < (q + 1) * found->k; i++) {
            int64_t row = found->ids[i];
            if (row >= 0 && ranking->rows) fpq_ids_find(ranking->rows, found->ids + i, 1, &row);
            if (row < 0 || row >= ranking->x.n) continue;
            pairs[n].id = found->ids[i];
            right &= !fpq_flat_distances(&ranking->x, ranking->queries + q * ranking->x.d, 1, &row, 1, ranking->metric,
                                         &pairs[n++].distance, 1);
        }
        qsort(pairs, (size_t)n, sizeof *pairs, by_distance);
        for (int i = 0; i < answers->k; i++) {
            const pair expected = i < n ? pairs[i] : (pair){INFINITY, -1};
            right &= answers->distances[q * answers->k + i] == expected.distance;
            right &= answers->ids[q * answers->k + i] == expected.id;
        }
    }
    return right;
}

typedef struct {
    const char *name;
    void (*run)(void);
    int rounds;
} test;

#define TEST(type, name, args) {#name, test_##name, ROUNDS},

#endif
