/* SPDX-License-Identifier: MIT
 * Sets to signatures and keys of bands, a batch of sets per task. */
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
        if (s->signatures)
            fpq_active()->put_signature(least, s->h->n_hashes, s->h->bits,
                                        s->signatures + i * fpq_signature_bytes(s->h));
        for (int band = 0; band < s->h->n_bands; band++)
            s->keys[i * s->h->n_bands + band] = fpq_band_key(s->h, least, band);
    }
}

int fpq_minhash_sign(const fpq_minhash *h, const fpq_sets *sets, void *signatures, uint32_t *keys, int threads) {
    signing s = {h, sets, signatures, keys};
    return fpq_parallel(fpq_batches(sets->n, SET_BATCH), (size_t)h->n_hashes * sizeof(uint32_t), threads, sign_batch,
                        &s);
}
