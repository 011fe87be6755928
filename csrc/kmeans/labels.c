/* SPDX-License-Identifier: MIT
 * Passes over the assignment of training rows, a task per subspace. */
#include <string.h>

#include "fpq.h"
#include "parallel.h"

typedef struct {
    const int64_t *order;
    int64_t n;
    int32_t *ids;
    float *errors;
} reordering;

/* Task 2 j reorders the ids of subspace j, task 2 j + 1 the errors. */
static void reorder(void *context, int64_t task, fpq_worker *worker) {
    const reordering *r = context;
    const int64_t at = task / 2 * r->n;
    if (task % 2) {
        float *before = (float *)(void *)worker->scratch;
        memcpy(before, r->errors + at, (size_t)r->n * sizeof *before);
        for (int64_t i = 0; i < r->n; i++) r->errors[at + r->order[i]] = before[i];
    } else {
        int32_t *before = (int32_t *)(void *)worker->scratch;
        memcpy(before, r->ids + at, (size_t)r->n * sizeof *before);
        for (int64_t i = 0; i < r->n; i++) r->ids[at + r->order[i]] = before[i];
    }
}

int fpq_reorder(const int64_t *order, int64_t n, int m, int32_t *ids, float *errors, int threads) {
    reordering r = {order, n, ids, errors};
    return fpq_parallel(2 * (int64_t)m, (size_t)n * sizeof *ids, threads, reorder, &r);
}

typedef struct {
    int k;
    int64_t n;
    const int32_t *numbers;
    int32_t *ids;
    int64_t *counts;
} counting;

static void renumber_and_count(void *context, int64_t j, fpq_worker *worker) {
    const counting *c = context;
    const int32_t *numbers = c->numbers ? c->numbers + j * c->k : NULL;
    int32_t *ids = c->ids + j * c->n;
    int64_t *counts = c->counts + j * c->k;
    (void)worker;
    memset(counts, 0, (size_t)c->k * sizeof *counts);
    for (int64_t i = 0; i < c->n; i++) {
        if (numbers) ids[i] = numbers[ids[i]];
        counts[ids[i]]++;
    }
}

int fpq_renumber(int m, int k, int64_t n, const int32_t *numbers, int32_t *ids, int64_t *counts, int threads) {
    counting c = {k, n, numbers, ids, counts};
    return fpq_parallel(m, 0, threads, renumber_and_count, &c);
}
