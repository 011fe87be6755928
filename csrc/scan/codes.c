/* SPDX-License-Identifier: MIT
 * Layouts of codes. Sub-code j of a row occupies bits j*nbits and up of the code, low bits first, as in faiss. In an
 * index 64 rows form a code block [code_size][64]: byte b of 64 rows lies side by side. */
#include <string.h>

#include "fpq.h"
#include "parallel.h"

enum { TASK_ROWS = 1 << 11 };

int fpq_code_size(int m, int nbits) { return (m * nbits + 7) / 8; }

/* Where sub-code j stands. */
typedef struct {
    int at, shift, spills;
} place;

static place place_of(int j, int nbits) {
    const int shift = j * nbits % 8;
    return (place){j * nbits / 8, shift, shift + nbits > 8};
}

static int sub_code(const uint8_t *code, place p, int nbits) {
    unsigned bits = code[p.at];
    if (p.spills) bits |= (unsigned)code[p.at + 1] << 8;
    return (int)(bits >> p.shift & ((1u << nbits) - 1));
}

typedef struct {
    const int32_t *ids;
    int64_t n;
    int m, nbits;
    uint8_t *codes;
} packing;

static void pack_rows(void *context, int64_t task, fpq_worker *worker) {
    const packing *p = context;
    const int64_t first = task * TASK_ROWS, end = first + fpq_batch_size(p->n, TASK_ROWS, task);
    const int size = fpq_code_size(p->m, p->nbits);
    (void)worker;
    memset(p->codes + first * size, 0, (size_t)(end - first) * (size_t)size);
    for (int j = 0; j < p->m; j++) {
        const place to = place_of(j, p->nbits);
        for (int64_t i = first; i < end; i++) {
            const unsigned code = (unsigned)p->ids[j * p->n + i] << to.shift;
            p->codes[i * size + to.at] |= (uint8_t)code;
            if (to.spills) p->codes[i * size + to.at + 1] |= (uint8_t)(code >> 8);
        }
    }
}

int fpq_pack_codes(const int32_t *ids, int64_t n, int m, int nbits, uint8_t *codes, int threads) {
    packing p = {ids, n, m, nbits, codes};
    return fpq_parallel(fpq_batches(n, TASK_ROWS), 0, threads, pack_rows, &p);
}

void fpq_unpack_codes(const uint8_t *codes, int64_t n, int m, int nbits, int32_t *ids) {
    const int size = fpq_code_size(m, nbits);
    for (int j = 0; j < m; j++) {
        const place from = place_of(j, nbits);
        for (int64_t i = 0; i < n; i++) ids[j * n + i] = sub_code(codes + i * size, from, nbits);
    }
}

typedef struct {
    const uint8_t *codes;
    const int64_t *rows;
    int64_t n;
    int code_size;
    uint8_t *blocks;
} putting;

static void put_rows(void *context, int64_t task, fpq_worker *worker) {
    const putting *p = context;
    const int64_t first = task * TASK_ROWS, end = first + fpq_batch_size(p->n, TASK_ROWS, task);
    (void)worker;
    for (int64_t i = first; i < end; i++) {
        uint8_t *to = p->blocks + p->rows[i] / 64 * 64 * p->code_size + p->rows[i] % 64;
        for (int b = 0; b < p->code_size; b++) to[b * 64] = p->codes[i * p->code_size + b];
    }
}

int fpq_put_codes(const uint8_t *codes, const int64_t *rows, int64_t n, int code_size, uint8_t *blocks, int threads) {
    putting p = {codes, rows, n, code_size, blocks};
    return fpq_parallel_or_loop(fpq_batches(n, TASK_ROWS), threads, put_rows, &p);
}

void fpq_get_codes(const uint8_t *blocks, const int64_t *rows, int64_t n, int code_size, uint8_t *codes) {
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *from = blocks + rows[i] / 64 * 64 * code_size + rows[i] % 64;
        for (int b = 0; b < code_size; b++) codes[i * code_size + b] = from[b * 64];
    }
}

typedef struct {
    const fpq_codebooks *cb;
    int nbits;
    const uint8_t *codes;
    int64_t n;
    float *out;
} decoding;

static void decode_rows(void *context, int64_t task, fpq_worker *worker) {
    const decoding *p = context;
    const fpq_codebooks *cb = p->cb;
    const int64_t first = task * TASK_ROWS, end = first + fpq_batch_size(p->n, TASK_ROWS, task);
    const int size = fpq_code_size(cb->m, p->nbits), d = cb->offsets[cb->m];
    (void)worker;
    for (int64_t i = first; i < end; i++)
        for (int j = 0; j < cb->m; j++) {
            const int c = sub_code(p->codes + i * size, place_of(j, p->nbits), p->nbits), from = cb->offsets[j];
            memcpy(p->out + i * d + from, cb->centroids + ((ptrdiff_t)j * cb->k + c) * cb->dsub,
                   (size_t)(cb->offsets[j + 1] - from) * sizeof(float));
        }
}

int fpq_decode(const fpq_codebooks *cb, int nbits, const uint8_t *codes, int64_t n, float *out, int threads) {
    decoding p = {cb, nbits, codes, n, out};
    return fpq_parallel(fpq_batches(n, TASK_ROWS), 0, threads, decode_rows, &p);
}

typedef struct {
    const double *entries;
    int m, nbits;
    const uint8_t *codes;
    int64_t n;
    double *sums;
} summing;

static void sum_rows(void *context, int64_t task, fpq_worker *worker) {
    const summing *p = context;
    const int64_t first = task * TASK_ROWS, end = first + fpq_batch_size(p->n, TASK_ROWS, task);
    const int size = fpq_code_size(p->m, p->nbits);
    (void)worker;
    for (int64_t i = first; i < end; i++) {
        double sum = 0;
        for (int j = 0; j < p->m; j++)
            sum +=
                p->entries[((ptrdiff_t)j << p->nbits) + sub_code(p->codes + i * size, place_of(j, p->nbits), p->nbits)];
        p->sums[i] = sum;
    }
}

int fpq_sum_entries(const double *entries, int m, int nbits, const uint8_t *codes, int64_t n, double *sums,
                    int threads) {
    summing p = {entries, m, nbits, codes, n, sums};
    return fpq_parallel(fpq_batches(n, TASK_ROWS), 0, threads, sum_rows, &p);
}
