/* SPDX-License-Identifier: MIT
 * Whole matrices in blocks of rows: checks, normalisation, packing, products. */
#include <math.h>

#include "dot.h"
#include "isa/kernels.h"
#include "portable.h"
#include "parallel.h"

enum { ROWS = 96 };

static int blocks_of(int64_t n) { return (int)((n + ROWS - 1) / ROWS); }

static int rows_in(int64_t n, int64_t first) { return n - first < ROWS ? (int)(n - first) : ROWS; }

/* A row at a time: finding no row is the rule, and then all is read once. x->n if all rows of a block are finite. */
static int64_t first_nonfinite_of(const fpq_matrix *x, int64_t first) {
    enum { PIECE = 1024 };
    FPQ_ALIGN(64) float piece[PIECE];
    const fpq_kernels *kern = fpq_active();
    for (int64_t row = first; row < first + rows_in(x->n, first); row++)
        for (int from = 0; from < x->d; from += PIECE) {
            const int to = x->d - from < PIECE ? (int)x->d : from + PIECE;
            kern->read_rows(x, NULL, row, 1, from, to, NULL, piece);
            if (kern->has_nonfinite(piece, to - from)) return row;
        }
    return x->n;
}

int64_t fpq_first_nonfinite_row(const fpq_matrix *x, int threads) {
    if (x->dtype == FPQ_U8 || x->dtype == FPQ_I8) return -1;
    const int blocks = blocks_of(x->n);
    int64_t found = x->n;
    fpq_poll poll = {0};
    threads = fpq_threads(threads, blocks);
    if (blocks == 1) { /* a query alone is checked before OpenMP would have begun */
        found = first_nonfinite_of(x, 0);
    } else {
#pragma omp parallel for schedule(dynamic, 16) num_threads(threads)
        for (int b = 0; b < blocks; b++) {
            if (fpq_stopped(&poll)) continue;
            const int64_t row = first_nonfinite_of(x, (int64_t)b * ROWS);
            if (row < x->n) {
#pragma omp critical(fpq_nonfinite)
                if (row < found) found = row;
            }
        }
    }
    return poll.stop ? -2 : found < x->n ? found : -1;
}

int fpq_largest(const fpq_matrix *x, float *out, int threads) {
    enum { PIECE = 1024 };
    const fpq_kernels *kern = fpq_active();
    const int blocks = blocks_of(x->n);
    float largest = 0;
    fpq_poll poll = {0};
    threads = fpq_threads(threads, blocks);
#pragma omp parallel for schedule(dynamic, 16) num_threads(threads) reduction(max : largest)
    for (int b = 0; b < blocks; b++) {
        const int64_t first = (int64_t)b * ROWS;
        for (int64_t row = first; row < first + rows_in(x->n, first) && !fpq_stopped(&poll); row++)
            for (int from = 0; from < x->d; from += PIECE) {
                FPQ_ALIGN(64) float piece[PIECE], min_max_sum[3];
                const int n = x->d - from < PIECE ? (int)x->d - from : PIECE;
                kern->read_rows(x, NULL, row, 1, from, from + n, NULL, piece);
                kern->min_max_sum(piece, n, min_max_sum);
                largest = fmaxf(largest, fmaxf(-min_max_sum[0], min_max_sum[1]));
            }
    }
    *out = largest;
    return poll.stop ? -1 : 0;
}

int fpq_normalize(const fpq_matrix *x, float *out, int threads) {
    const fpq_kernels *kern = fpq_active();
    const int blocks = blocks_of(x->n), d = (int)x->d;
    fpq_poll poll = {0};
    threads = fpq_threads(threads, blocks);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int b = 0; b < blocks; b++) {
        const int64_t first = (int64_t)b * ROWS;
        const int n = rows_in(x->n, first);
        if (fpq_stopped(&poll)) continue;
        kern->read_rows(x, NULL, first, n, 0, d, NULL, out + first * d);
        for (int i = 0; i < n; i++) {
            float *row = out + (first + i) * d;
            const double length = sqrt(fpq_dot(row, row, d));
            for (int t = 0; t < d; t++) row[t] = length > 0 ? (float)(row[t] / length) : 0;
        }
    }
    return poll.stop ? -1 : 0;
}

int64_t fpq_packed_size(int k, int d) { return (int64_t)FPQ_COLUMN_BLOCKS(k) * FPQ_COLUMN_BLOCK * d; }

void fpq_pack(const float *c, int k, int d, ptrdiff_t ld, const float *offset, float *out) {
    for (int column = 0; column < FPQ_COLUMN_BLOCKS(k) * FPQ_COLUMN_BLOCK; column++) {
        float *to = out + (ptrdiff_t)(column / FPQ_COLUMN_BLOCK) * d * FPQ_COLUMN_BLOCK + column % FPQ_COLUMN_BLOCK;
        for (int t = 0; t < d; t++)
            to[(ptrdiff_t)t * FPQ_COLUMN_BLOCK] = column < k ? c[column * ld + t] - (offset ? offset[t] : 0) : 0;
    }
}

int fpq_project(const fpq_matrix *x, const float *packed, int k, float *out, int threads) {
    const fpq_kernels *kern = fpq_active();
    const int blocks = blocks_of(x->n), d = (int)x->d;
    const ptrdiff_t width = FPQ_COLUMN_BLOCKS(k) * FPQ_COLUMN_BLOCK;
    const size_t scratch = (size_t)ROWS * (size_t)(d + width);
    threads = fpq_threads(threads, blocks);
    float *memory = fpq_alloc((size_t)threads * scratch * sizeof(float));
    fpq_poll poll = {0};
    if (!memory) return -1;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int b = 0; b < blocks; b++) {
        if (fpq_stopped(&poll)) continue;
        float *rows = memory + (size_t)FPQ_THREAD_NUMBER() * scratch, *products = rows + (size_t)ROWS * (size_t)d;
        const int64_t first = (int64_t)b * ROWS;
        const int n = rows_in(x->n, first);
        kern->read_rows(x, NULL, first, n, 0, d, NULL, rows);
        if (width == k) {
            kern->project(rows, n, d, packed, NULL, FPQ_COLUMN_BLOCKS(k), out + first * k, k);
            continue;
        }
        kern->project(rows, n, d, packed, NULL, FPQ_COLUMN_BLOCKS(k), products, width);
        for (int i = 0; i < n; i++)
            for (int c = 0; c < k; c++) out[(first + i) * k + c] = products[i * width + c];
    }
    fpq_free(memory);
    return poll.stop ? -1 : 0;
}
