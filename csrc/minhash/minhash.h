/* SPDX-License-Identifier: MIT
 * What the drivers of MinHash share: signatures, keys of bands, the similarity of two sets. */
#ifndef FPQ_MINHASH_H
#define FPQ_MINHASH_H

#include "isa/kernels.h"
#include "parallel.h"

/* The finalizer of SplitMix64 (Steele, Lea, Flood, 2014): a bijection, whose every output bit depends on all bits. */
FPQ_INLINE uint64_t fpq_mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* One set as it is compared: its signature, or its items. */
typedef struct {
    const void *signature;
    const uint64_t *items;
    int64_t n;
} fpq_one_set;

FPQ_INLINE fpq_one_set fpq_set_at(const fpq_sets *sets, int64_t i) {
    return (fpq_one_set){NULL, sets->items + sets->first[i], sets->first[i + 1] - sets->first[i]};
}

FPQ_INLINE int fpq_signature_bytes(const fpq_minhash *h) { return h->n_hashes * (h->bits / 8); }

FPQ_INLINE fpq_one_set fpq_set_of_row(const fpq_minhash *h, const fpq_minhash_rows *rows, int64_t row) {
    if (rows->sets) return fpq_set_at(rows->sets, row);
    return (fpq_one_set){.signature = (const char *)rows->signatures + row * fpq_signature_bytes(h)};
}

/* Fetches what the set of a row is compared by: its signature or its first items. */
FPQ_INLINE void fpq_prefetch_set(const fpq_minhash *h, const fpq_minhash_rows *rows, int64_t row) {
    const fpq_one_set set = fpq_set_of_row(h, rows, row);
    if (set.signature)
        fpq_prefetch_lines(set.signature, fpq_signature_bytes(h));
    else if (set.n)
        fpq_prefetch_lines(set.items, (set.n < 32 ? set.n : 32) * (ptrdiff_t)sizeof *set.items);
}

/* least (n_hashes): the least of each hash over the items of a set, all ones for an empty set. */
void fpq_least(const fpq_minhash *h, fpq_one_set set, uint32_t *least, fpq_poll *poll);
uint32_t fpq_band_key(const fpq_minhash *h, const uint32_t *least, int band);
/* The similarity of two sets, from their items or estimated from their signatures. */
float fpq_jaccard(const fpq_minhash *h, fpq_one_set a, fpq_one_set b);

#endif
