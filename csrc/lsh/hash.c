/* SPDX-License-Identifier: MIT
 * Rows to hash values, table entries, codes and sketches, a batch of rows per task. */
#include <string.h>

#include "lsh/lsh.h"
#include "parallel.h"
#include "portable.h"

enum { ROW_BATCH = 96 };

/* hashes, or sketcher, gives each row its numbers, ld apart; put writes what becomes of them. */
typedef struct job {
    const fpq_matrix *x;
    const fpq_hashes *hashes;
    const fpq_sketcher *sketcher;
    int ld;
    void (*put)(const struct job *job, const float *numbers, int64_t first, int n);
    int64_t first_row;
    void *out;
} job;

static void hash_batch(void *context, int64_t task, fpq_worker *worker) {
    const job *j = context;
    const fpq_kernels *kern = fpq_active();
    const int n = fpq_batch_size(j->x->n, ROW_BATCH, task), d = (int)j->x->d;
    float *centred = (float *)(void *)worker->scratch, *numbers = centred + (ptrdiff_t)ROW_BATCH * d;
    kern->read_rows(j->x, NULL, task * ROW_BATCH, n, 0, d, j->hashes ? j->hashes->centre : j->sketcher->centre,
                    centred);
    if (j->hashes)
        kern->project(centred, n, d, j->hashes->packed, j->hashes->shifts, j->ld / FPQ_COLUMN_BLOCK, numbers, j->ld);
    else
        fpq_sketch_rows(kern, j->sketcher, centred, n, numbers + (ptrdiff_t)ROW_BATCH * j->ld, numbers);
    j->put(j, numbers, task * ROW_BATCH, n);
}

static int run(job j, int threads) {
    size_t scratch = (size_t)ROW_BATCH * (size_t)(j.x->d + j.ld);
    if (j.sketcher) scratch += fpq_sketch_scratch(j.sketcher, ROW_BATCH);
    return fpq_parallel(fpq_batches(j.x->n, ROW_BATCH), scratch * sizeof(float), threads, hash_batch, &j);
}

static void put_sketches(const job *j, const float *numbers, int64_t first, int n) {
    uint8_t *out = (uint8_t *)j->out + first * j->ld;
    for (int i = 0; i < n * j->ld; i++) out[i] = (uint8_t)(numbers[i] + 0.5f);
}

int fpq_lsh_sketch(const fpq_sketcher *s, const fpq_matrix *x, uint8_t *out, int threads) {
    return run((job){.x = x, .sketcher = s, .ld = s->size, .put = put_sketches, .out = out}, threads);
}

static int hash_rows(const fpq_hashes *hashes, const fpq_matrix *x,
                     void (*put)(const job *, const float *, int64_t, int), int64_t first_row, void *out, int threads) {
    const int ld = fpq_columns(hashes->n_tables * hashes->n_hashes);
    return run((job){.x = x, .hashes = hashes, .ld = ld, .put = put, .first_row = first_row, .out = out}, threads);
}

static void put_values(const job *j, const float *numbers, int64_t first, int n) {
    const int k = j->hashes->n_tables * j->hashes->n_hashes;
    for (int i = 0; i < n; i++)
        memcpy((float *)j->out + (first + i) * k, numbers + (ptrdiff_t)i * j->ld, (size_t)k * sizeof(float));
}

int fpq_lsh_values(const fpq_hashes *hashes, const fpq_matrix *x, float *out, int threads) {
    return hash_rows(hashes, x, put_values, 0, out, threads);
}

static void put_entries(const job *j, const float *numbers, int64_t first, int n) {
    uint64_t *entries = (uint64_t *)j->out + first;
    for (int t = 0; t < j->hashes->n_tables; t++, entries += j->x->n)
        for (int i = 0; i < n; i++) {
            const uint64_t sum = fpq_lsh_sum(j->hashes, t, numbers + (ptrdiff_t)i * j->ld);
            entries[i] = (sum >> 32 << 32) | (uint64_t)(j->first_row + first + i);
        }
}

int fpq_lsh_entries(const fpq_hashes *hashes, const fpq_matrix *x, int64_t first_row, uint64_t *entries, int threads) {
    return hash_rows(hashes, x, put_entries, first_row, entries, threads);
}

static void put_codes(const job *j, const float *numbers, int64_t first, int n) {
    const int m = j->hashes->n_hashes;
    uint8_t *codes = (uint8_t *)j->out + first * m;
    for (int i = 0; i < n; i++, codes += m, numbers += j->ld)
        for (int t = 0; t < m; t++) codes[t] = fpq_lsh_code(numbers[t]);
}

int fpq_lsh_buckets(const fpq_hashes *hashes, const fpq_matrix *x, uint8_t *codes, int threads) {
    return hash_rows(hashes, x, put_codes, 0, codes, threads);
}

static void put_clamped(const job *j, const float *numbers, int64_t first, int n) {
    const int m = j->hashes->n_hashes;
    int8_t *codes = (int8_t *)j->out + first * m;
    for (int i = 0; i < n; i++, codes += m, numbers += j->ld)
        for (int t = 0; t < m; t++)
            codes[t] = (int8_t)fpq_clamp(floorf(numbers[t]), -FPQ_PMLSH_SIDE, FPQ_PMLSH_SIDE - 1);
}

int fpq_pmlsh_codes(const fpq_hashes *hashes, const fpq_matrix *x, int8_t *codes, int threads) {
    return hash_rows(hashes, x, put_clamped, 0, codes, threads);
}

void fpq_lsh_starts(const uint64_t *entries, int64_t n, int bits, uint32_t *starts) {
    int64_t at = 0;
    for (int64_t slot = 0; slot <= (int64_t)1 << bits; slot++) {
        while (at < n && (int64_t)(entries[at] >> (64 - bits)) < slot) at++;
        starts[slot] = (uint32_t)at;
    }
}
