/* SPDX-License-Identifier: MIT
 * The codes of PM-LSH in blocks, and queries among them. */
#include <math.h>

#include "lsh/lsh.h"
#include "lsh/pmlsh.h"
#include "parallel.h"

enum {
    TASK_ROWS = 1 << 11,
    OFFSET = 2048 /* makes the numbers of a query positive */
};

static size_t code_at(int64_t row, int m, int j) {
    return ((size_t)(row / 64) * fpq_block_numbers(m) + 64) * 4 + (size_t)(j / 4 * 256 + row % 64 * 4 + j % 4);
}

typedef struct {
    const int8_t *codes;
    const int64_t *rows;
    int64_t n;
    int m;
    int32_t *blocks;
} putting;

/* A row's norm is FPQ_STEPS / 2 |c|^2 - OFFSET sum(c). */
static void put_rows(void *context, int64_t task, fpq_worker *worker) {
    const putting *p = context;
    const int64_t first = task * TASK_ROWS, end = first + fpq_batch_size(p->n, TASK_ROWS, task);
    (void)worker;
    for (int64_t i = first; i < end; i++) {
        const int8_t *codes = p->codes + i * p->m;
        int32_t norm = 0;
        for (int j = 0; j < p->m; j++) {
            norm += FPQ_STEPS / 2 * codes[j] * codes[j] - OFFSET * codes[j];
            ((int8_t *)p->blocks)[code_at(p->rows[i], p->m, j)] = codes[j];
        }
        p->blocks[(size_t)(p->rows[i] / 64) * fpq_block_numbers(p->m) + (size_t)(p->rows[i] % 64)] = norm;
    }
}

int fpq_pmlsh_put(const int8_t *codes, const int64_t *rows, int64_t n, int m, int32_t *blocks, int threads) {
    putting p = {codes, rows, n, m, blocks};
    return fpq_parallel_or_loop(fpq_batches(n, TASK_ROWS), threads, put_rows, &p);
}

void fpq_pmlsh_get(const int32_t *blocks, const int64_t *rows, int64_t n, int m, int8_t *codes) {
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < m; j++) codes[i * m + j] = ((const int8_t *)blocks)[code_at(rows[i], m, j)];
}

int64_t fpq_pmlsh_clipped(const int32_t *blocks, int64_t n, int m) {
    int64_t count = 0;
    for (int64_t row = 0; row < n; row++) {
        int clipped = 0;
        for (int j = 0; j < m; j++) {
            const int code = ((const int8_t *)blocks)[code_at(row, m, j)];
            clipped |= code <= -FPQ_PMLSH_SIDE || code >= FPQ_PMLSH_SIDE - 1;
        }
        count += clipped;
    }
    return count;
}

double fpq_chi_squared(double x, int m) {
    if (x > 1e6) return 1; /* to within the precision of double; an infinite x would give NaN */
    double term = exp(-x / 2), tail = 0;
    for (int i = 0; i < m / 2; i++) {
        tail += term;
        term *= x / 2 / (i + 1);
    }
    return 1 - tail;
}

fpq_place fpq_place_of(const float *values, int m) {
    fpq_place at = {.length = 0};
    for (int j = 0; j < m; j++) {
        const float value = fpq_clamp(values[j], -FPQ_PMLSH_SIDE, FPQ_PMLSH_SIDE);
        const int steps = (int)floorf(value * FPQ_STEPS + 0.5f) - FPQ_STEPS / 2;
        at.clipped |= !(value == values[j]);
        at.length += (double)steps * steps / (FPQ_STEPS * FPQ_STEPS);
        at.q[j] = (uint8_t)((OFFSET - steps) & 127);
        at.q[m + j] = (uint8_t)((OFFSET - steps) >> 7);
    }
    return at;
}
