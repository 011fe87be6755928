/* SPDX-License-Identifier: MIT
 * Numbers in order: the items of each set, the entries of each table. */
#include <stdlib.h>
#include <string.h>

#include "minhash/minhash.h"

enum {
    SET_BATCH = 64,
    POLL_ENTRIES = 1 << 16 /* between two questions whether to stop */
};

static int by_value(const void *x, const void *y) {
    const uint64_t a = *(const uint64_t *)x, b = *(const uint64_t *)y;
    return (a > b) - (a < b);
}

static void order(uint64_t *numbers, int64_t n) {
    if (n > 32) {
        qsort(numbers, (size_t)n, sizeof *numbers, by_value);
        return;
    }
    for (int64_t i = 1; i < n; i++) {
        const uint64_t number = numbers[i];
        int64_t at = i;
        for (; at > 0 && numbers[at - 1] > number; at--) numbers[at] = numbers[at - 1];
        numbers[at] = number;
    }
}

/* ---- items ---- */
typedef struct {
    const int64_t *first;
    uint64_t *items;
    int64_t n, *sizes;
} ordering;

static void order_batch(void *context, int64_t task, fpq_worker *worker) {
    const ordering *o = context;
    const int64_t start = task * SET_BATCH, end = start + fpq_batch_size(o->n, SET_BATCH, task);
    for (int64_t i = start; i < end && !fpq_stopped(worker->poll); i++) {
        uint64_t *items = o->items + o->first[i];
        const int64_t n = o->first[i + 1] - o->first[i];
        int64_t kept = n > 0;
        order(items, n);
        for (int64_t t = 1; t < n; t++)
            if (items[t] != items[kept - 1]) items[kept++] = items[t];
        o->sizes[i] = kept;
    }
}

int fpq_order_items(const int64_t *first, int64_t n, uint64_t *items, int64_t *sizes, int threads) {
    ordering o = {first, items, n, sizes};
    return fpq_parallel(fpq_batches(n, SET_BATCH), 0, threads, order_batch, &o);
}

/* ---- tables ---- */
typedef struct {
    const uint32_t *keys;
    int64_t n, first_row;
    int n_bands, first_band, bits;
    uint64_t *entries;
    uint32_t *starts;
} tabulating;

/* Entries go to their slots, then each slot is put in order. */
static void fill_table(void *context, int64_t table, fpq_worker *worker) {
    const tabulating *t = context;
    const uint32_t *keys = t->keys + t->first_band + table;
    const int64_t n = t->n, slots = (int64_t)1 << t->bits;
    const int shift = 32 - t->bits;
    uint64_t *entries = t->entries + table * n;
    uint32_t *starts = t->starts + table * (slots + 1), *ends = (uint32_t *)(void *)worker->scratch, at = 0;
    uint32_t *own = ends + slots; /* the keys of this band */
    memset(ends, 0, (size_t)slots * sizeof *ends);
    for (int64_t i = 0; i < n; i++) {
        own[i] = keys[i * t->n_bands];
        ends[own[i] >> shift]++;
        if (i % POLL_ENTRIES == 0 && fpq_stopped(worker->poll)) return;
    }
    for (int64_t slot = 0; slot < slots; slot++) {
        starts[slot] = at;
        at += ends[slot];
        ends[slot] = starts[slot];
    }
    starts[slots] = at;
    for (int64_t i = 0; i < n; i++) {
        entries[ends[own[i] >> shift]++] = (uint64_t)own[i] << 32 | (uint64_t)(t->first_row + i);
        if (i % POLL_ENTRIES == 0 && fpq_stopped(worker->poll)) return;
    }
    for (int64_t slot = 0; slot < slots; slot++) {
        order(entries + starts[slot], starts[slot + 1] - starts[slot]);
        if (slot % POLL_ENTRIES == 0 && fpq_stopped(worker->poll)) return;
    }
}

int fpq_minhash_tables(const uint32_t *keys, int64_t n, int n_bands, int first_band, int n_tables, int64_t first_row,
                       int bits, uint64_t *entries, uint32_t *starts, int threads) {
    tabulating t = {keys, n, first_row, n_bands, first_band, bits, entries, starts};
    const size_t scratch = (((size_t)1 << bits) + (size_t)n) * sizeof(uint32_t);
    return fpq_parallel(n_tables, scratch, threads, fill_table, &t);
}
