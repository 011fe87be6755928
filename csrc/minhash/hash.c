/* SPDX-License-Identifier: MIT
 * Sets to signatures and keys of bands, a batch of sets per task. */
#include <stdlib.h>
#include <string.h>

#include "minhash/minhash.h"

enum {
    SET_BATCH = 64,
    PIECE = 512 /* items of a set that are hashed at a time */
};

void fpq_least(const fpq_minhash *h, fpq_one_set set, uint32_t *least, fpq_poll *poll) {
    const fpq_kernels *kern = fpq_active();
    uint32_t upper[PIECE];
    memset(least, 0xff, (size_t)h->n_hashes * sizeof *least);
    for (int64_t start = 0; start < set.n; start += PIECE) {
        const int n = fpq_batch_size(set.n, PIECE, start / PIECE);
        for (int i = 0; i < n; i++) upper[i] = (uint32_t)(fpq_mix(set.items[start + i] ^ h->salt) >> 32);
        kern->least_hashes(upper, n, h->factors, h->shifts, h->n_hashes, least);
        if (fpq_stopped(poll)) return;
    }
}

/* Low bits of a least hash depend on few bits of the item, high bits are 0 in large sets: a product spreads both. */
void fpq_put_signature(const fpq_minhash *h, const uint32_t *least, void *signature) {
    for (int j = 0; j < h->n_hashes; j++) {
        const uint32_t spread = least[j] * 0x9e3779b1u;
        if (h->bits == 8)
            ((uint8_t *)signature)[j] = (uint8_t)(spread >> 24);
        else if (h->bits == 16)
            ((uint16_t *)signature)[j] = (uint16_t)(spread >> 16);
        else
            ((uint32_t *)signature)[j] = spread;
    }
}

uint32_t fpq_band_key(const fpq_minhash *h, const uint32_t *least, int band) {
    uint64_t sum = 0;
    for (int j = band * h->n_rows; j < (band + 1) * h->n_rows; j++) sum += least[j] * h->mixers[j];
    return (uint32_t)(sum >> 32);
}

static float exact(fpq_one_set a, fpq_one_set b) {
    int64_t i = 0, j = 0, shared = 0;
    while (i < a.n && j < b.n) {
        const uint64_t x = a.items[i], y = b.items[j];
        shared += x == y;
        i += x <= y;
        j += y <= x;
    }
    return shared ? (float)((double)shared / (double)(a.n + b.n - shared)) : 0;
}

float fpq_jaccard(const fpq_minhash *h, fpq_one_set a, fpq_one_set b) {
    if (!a.signature) return exact(a, b);
    /* Different least hashes have equal signatures by chance: Li, König, 2010. */
    const double chance = h->bits == 8 ? 0x1p-8 : h->bits == 16 ? 0x1p-16 : 0x1p-32;
    const int equal = fpq_active()->equal_numbers(a.signature, b.signature, h->n_hashes, h->bits);
    const double estimate = ((double)equal / h->n_hashes - chance) / (1 - chance);
    return estimate > 0 ? (float)estimate : 0;
}

typedef struct {
    const fpq_minhash *h;
    const fpq_sets *sets;
    char *signatures;
    uint32_t *keys;
} signing;

static void sign_batch(void *context, int64_t task, fpq_worker *worker) {
    const signing *s = context;
    uint32_t *least = (uint32_t *)(void *)worker->scratch;
    const int64_t start = task * SET_BATCH, end = start + fpq_batch_size(s->sets->n, SET_BATCH, task);
    for (int64_t i = start; i < end; i++) {
        fpq_least(s->h, fpq_set_at(s->sets, i), least, worker->poll);
        if (s->signatures) fpq_put_signature(s->h, least, s->signatures + i * s->h->n_hashes * (s->h->bits / 8));
        for (int band = 0; band < s->h->n_bands; band++)
            s->keys[band * s->sets->n + i] = fpq_band_key(s->h, least, band);
    }
}

int fpq_minhash_sign(const fpq_minhash *h, const fpq_sets *sets, void *signatures, uint32_t *keys, int threads) {
    signing s = {h, sets, signatures, keys};
    return fpq_parallel(fpq_batches(sets->n, SET_BATCH), (size_t)h->n_hashes * sizeof(uint32_t), threads, sign_batch,
                        &s);
}

/* ---- items in order ---- */
typedef struct {
    const int64_t *first;
    uint64_t *items;
    int64_t n, *sizes;
} ordering;

static int by_value(const void *x, const void *y) {
    const uint64_t a = *(const uint64_t *)x, b = *(const uint64_t *)y;
    return (a > b) - (a < b);
}

static void order(uint64_t *items, int64_t n) {
    if (n > 32) {
        qsort(items, (size_t)n, sizeof *items, by_value);
        return;
    }
    for (int64_t i = 1; i < n; i++) {
        const uint64_t item = items[i];
        int64_t at = i;
        for (; at > 0 && items[at - 1] > item; at--) items[at] = items[at - 1];
        items[at] = item;
    }
}

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
