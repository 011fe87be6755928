/* SPDX-License-Identifier: MIT
 * Hash tables from ids to places, with open addressing and linear probing. An entry of 4 or 8 bytes holds a place and,
 * in its other bits, bits of the hash. Where these bits agree, the id is read from the array of ids by place, which
 * seldom happens for a wrong entry. Deletion moves later entries back instead of leaving tombstones, so the cost of a
 * look-up does not grow with the number of deleted ids. */
#include "ids.h"

enum {
    AHEAD = 16 /* Ids from a prefetch to the use of its memory: a table of 1,000,000 ids lies outside most caches. */
};

/* Two rounds of multiplication are needed: after one, ids with equal low bits have close hashes. */
FPQ_INLINE uint64_t hash(int64_t id) {
    uint64_t x = (uint64_t)id * 0x9e3779b97f4a7c15u;
    x ^= x >> 32;
    return x * 0x9e3779b97f4a7c15u;
}

/* The entry at which the search for an id begins. */
FPQ_INLINE uint64_t home(const fpq_id_table *t, uint64_t h) { return h >> (64 - t->bits); }

FPQ_INLINE uint64_t next(const fpq_id_table *t, uint64_t at) { return (at + 1) & (((uint64_t)1 << t->bits) - 1); }

FPQ_INLINE uint64_t get(const fpq_id_table *t, uint64_t at) {
    return t->wide ? ((const uint64_t *)t->entries)[at] : ((const uint32_t *)t->entries)[at];
}

FPQ_INLINE void put(const fpq_id_table *t, uint64_t at, uint64_t entry) {
    if (t->wide)
        ((uint64_t *)t->entries)[at] = entry;
    else
        ((uint32_t *)t->entries)[at] = (uint32_t)entry;
}

FPQ_INLINE int64_t place_of(const fpq_id_table *t, uint64_t entry) {
    return (int64_t)(entry & (((uint64_t)1 << t->place_bits) - 1)) - 1;
}

FPQ_INLINE uint64_t entry_of(const fpq_id_table *t, uint64_t h, int64_t place) {
    const uint64_t entry = h << t->place_bits | (uint64_t)(place + 1);
    return t->wide ? entry : (uint32_t)entry;
}

FPQ_INLINE void fetch(const fpq_id_table *t, int64_t id) {
    FPQ_PREFETCH((const char *)t->entries + home(t, hash(id)) * (t->wide ? sizeof(uint64_t) : sizeof(uint32_t)));
}

/* The entry of an id, or the empty entry that ends the search for it. */
FPQ_INLINE uint64_t locate(const fpq_id_table *t, int64_t id) {
    const uint64_t h = hash(id), pattern = entry_of(t, h, 0);
    uint64_t at = home(t, h);
    for (uint64_t entry; (entry = get(t, at)); at = next(t, at))
        if ((entry ^ pattern) >> t->place_bits == 0 && fpq_id_of(t->ids, place_of(t, entry)) == id) break;
    return at;
}

void fpq_ids_find(const fpq_id_table *t, const int64_t *ids, int64_t n, int64_t *places) {
    for (int64_t i = 0; i < n && i < AHEAD; i++) fetch(t, ids[i]);
    for (int64_t i = 0; i < n; i++) {
        if (i + AHEAD < n) fetch(t, ids[i + AHEAD]);
        if (i + AHEAD / 2 < n) {
            const uint64_t entry = get(t, home(t, hash(ids[i + AHEAD / 2])));
            if (entry) fpq_prefetch_id(t->ids, place_of(t, entry));
        }
        places[i] = place_of(t, get(t, locate(t, ids[i])));
    }
}

void fpq_ids_insert(const fpq_id_table *t, const int64_t *places, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (i + AHEAD < n) fetch(t, fpq_id_of(t->ids, places[i + AHEAD]));
        const int64_t id = fpq_id_of(t->ids, places[i]);
        put(t, locate(t, id), entry_of(t, hash(id), places[i]));
    }
}

/* Empties an entry, and moves back later entries that a search would no longer find. */
static void erase(const fpq_id_table *t, uint64_t hole) {
    const uint64_t mask = ((uint64_t)1 << t->bits) - 1;
    uint64_t entry;
    for (uint64_t at = next(t, hole); (entry = get(t, at)); at = next(t, at))
        if (((at - home(t, hash(fpq_id_of(t->ids, place_of(t, entry))))) & mask) >= ((at - hole) & mask)) {
            put(t, hole, entry);
            hole = at;
        }
    put(t, hole, 0);
}

void fpq_ids_remove(const fpq_id_table *t, fpq_ids ids, const int64_t *gone, int64_t n_gone, const int64_t *sources,
                    const int64_t *targets, int64_t n_moved) {
    for (int64_t i = 0; i < n_gone && t; i++) {
        const uint64_t at = locate(t, fpq_id_of(ids, gone[i]));
        if (place_of(t, get(t, at)) == gone[i]) erase(t, at); /* else the id has another place */
    }
    for (int64_t i = 0; i < n_gone; i++) fpq_put_id(ids, gone[i], 0);
    for (int64_t i = 0; i < n_moved; i++) { /* in step with the table, as locate reads ids */
        const int64_t id = fpq_id_of(ids, sources[i]);
        const uint64_t at = t ? locate(t, id) : 0;
        if (t && place_of(t, get(t, at)) == sources[i]) put(t, at, entry_of(t, hash(id), targets[i]));
        fpq_put_id(ids, targets[i], id);
        fpq_put_id(ids, sources[i], 0);
    }
}

void fpq_set_bits(const int64_t *places, int64_t n, uint64_t *bits) {
    for (int64_t i = 0; i < n; i++)
        if (places[i] >= 0) bits[places[i] / 64] |= (uint64_t)1 << places[i] % 64;
}
