/* SPDX-License-Identifier: MIT
 * Rows to hash values, table entries and sketches, in blocks of rows. */
#include "lsh/lsh.h"
#include "portable.h"
#include "parallel.h"

enum { ROWS = 96 };

static int blocks_of(int64_t n) { return (int)((n + ROWS - 1) / ROWS); }
static int rows_in(int64_t n, int64_t first) { return n - first < ROWS ? (int)(n - first) : ROWS; }

int fpq_lsh_sketch(const fpq_sketcher *s, const fpq_matrix *x, uint8_t *out, int threads) {
    const fpq_kernels *kern = fpq_active();
    const int blocks = blocks_of(x->n);
    const size_t codes = (size_t)ROWS * (size_t)s->size, rows = (size_t)ROWS * (size_t)s->d;
    const size_t scratch = fpq_sketch_scratch(s, ROWS) + codes + rows;
    threads = fpq_threads(threads, blocks);
    float *memory = fpq_alloc((size_t)threads * scratch * sizeof(float));
    if (!memory) return -1;
    fpq_poll poll = {0};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int b = 0; b < blocks; b++) {
        if (fpq_stopped(&poll)) continue;
        float *centred = memory + (size_t)FPQ_THREAD_NUMBER() * scratch, *sketch = centred + rows;
        const int64_t first = (int64_t)b * ROWS;
        const int n = rows_in(x->n, first);
        kern->read_rows(x, NULL, first, n, 0, s->d, s->centre, centred);
        fpq_sketch_rows(kern, s, centred, n, sketch + codes, sketch);
        for (int i = 0; i < n * s->size; i++) out[first * s->size + i] = (uint8_t)(sketch[i] + 0.5f);
    }
    fpq_free(memory);
    return poll.stop ? -1 : 0;
}

/* The values of one block of rows, fpq_columns apart, into scratch behind the rows themselves. */
static size_t values_scratch(const fpq_hashes *hashes) {
    return (size_t)ROWS * (size_t)(hashes->d + fpq_columns(hashes->n_tables * hashes->n_hashes));
}

static const float *values_of(const fpq_hashes *hashes, const fpq_matrix *x, int64_t first, int n, float *scratch) {
    const fpq_kernels *kern = fpq_active();
    const int k = hashes->n_tables * hashes->n_hashes;
    float *values = scratch + (ptrdiff_t)ROWS * hashes->d;
    kern->read_rows(x, NULL, first, n, 0, hashes->d, hashes->centre, scratch);
    kern->project(scratch, n, hashes->d, hashes->packed, hashes->shifts, FPQ_COLUMN_BLOCKS(k), values, fpq_columns(k));
    return values;
}

int fpq_lsh_values(const fpq_hashes *hashes, const fpq_matrix *x, float *out, int threads) {
    const int blocks = blocks_of(x->n), k = hashes->n_tables * hashes->n_hashes;
    threads = fpq_threads(threads, blocks);
    float *memory = fpq_alloc((size_t)threads * values_scratch(hashes) * sizeof(float));
    if (!memory) return -1;
    fpq_poll poll = {0};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int b = 0; b < blocks; b++) {
        if (fpq_stopped(&poll)) continue;
        const int64_t first = (int64_t)b * ROWS;
        const int n = rows_in(x->n, first);
        const float *values = values_of(hashes, x, first, n,
                                        memory + (size_t)FPQ_THREAD_NUMBER() * values_scratch(hashes));
        for (int i = 0; i < n; i++)
            for (int c = 0; c < k; c++) out[(first + i) * k + c] = values[(ptrdiff_t)i * fpq_columns(k) + c];
    }
    fpq_free(memory);
    return poll.stop ? -1 : 0;
}

int fpq_lsh_entries(const fpq_hashes *hashes, const fpq_matrix *x, int64_t first_row, uint64_t *entries, int threads) {
    const int blocks = blocks_of(x->n), width = fpq_columns(hashes->n_tables * hashes->n_hashes);
    threads = fpq_threads(threads, blocks);
    float *memory = fpq_alloc((size_t)threads * values_scratch(hashes) * sizeof(float));
    if (!memory) return -1;
    fpq_poll poll = {0};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int b = 0; b < blocks; b++) {
        if (fpq_stopped(&poll)) continue;
        const int64_t first = (int64_t)b * ROWS;
        const int n = rows_in(x->n, first);
        const float *values = values_of(hashes, x, first, n,
                                        memory + (size_t)FPQ_THREAD_NUMBER() * values_scratch(hashes));
        for (int t = 0; t < hashes->n_tables; t++)
            for (int i = 0; i < n; i++) {
                const uint64_t sum = fpq_lsh_sum(hashes, t, values + (ptrdiff_t)i * width);
                entries[t * x->n + first + i] = (sum >> 32 << 32) | (uint64_t)(first_row + first + i);
            }
    }
    fpq_free(memory);
    return poll.stop ? -1 : 0;
}

int fpq_lsh_buckets(const fpq_hashes *hashes, const fpq_matrix *x, uint8_t *codes, int threads) {
    const int blocks = blocks_of(x->n), m = hashes->n_hashes;
    threads = fpq_threads(threads, blocks);
    float *memory = fpq_alloc((size_t)threads * values_scratch(hashes) * sizeof(float));
    if (!memory) return -1;
    fpq_poll poll = {0};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int b = 0; b < blocks; b++) {
        if (fpq_stopped(&poll)) continue;
        const int64_t first = (int64_t)b * ROWS;
        const int n = rows_in(x->n, first);
        const float *values = values_of(hashes, x, first, n,
                                        memory + (size_t)FPQ_THREAD_NUMBER() * values_scratch(hashes));
        for (int i = 0; i < n; i++)
            for (int j = 0; j < m; j++)
                codes[(first + i) * m + j] = fpq_lsh_code(values[(ptrdiff_t)i * fpq_columns(m) + j]);
    }
    fpq_free(memory);
    return poll.stop ? -1 : 0;
}

void fpq_lsh_starts(const uint64_t *entries, int64_t n, int bits, uint32_t *starts) {
    int64_t at = 0;
    for (int64_t slot = 0; slot <= (int64_t)1 << bits; slot++) {
        while (at < n && (int64_t)(entries[at] >> (64 - bits)) < slot) at++;
        starts[slot] = (uint32_t)at;
    }
}
