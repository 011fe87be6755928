/* SPDX-License-Identifier: MIT
 * Items of sets from texts: hashes of strings, and shingles (n-grams of words or characters), a batch of texts per
 * task. Texts are UTF-8. The hashes are the same on every machine. */
#include "minhash/minhash.h"

#define ODD 0x9e3779b97f4a7c15u

enum {
    TEXT_BATCH = 64,
    POLL_UNITS = 1 << 12 /* between two questions whether to stop */
};

/* Kinds and lengths begin far apart, as words that differ in few bits may follow. */
FPQ_INLINE uint64_t begin(int64_t n, uint64_t kind) { return ((uint64_t)n * 4 + kind) * ODD; }

FPQ_INLINE uint64_t step(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * ODD;
    return hash ^ hash >> 32;
}

uint64_t fpq_hash_text(const char *text, int64_t n, uint64_t kind) {
    const unsigned char *p = (const unsigned char *)text;
    uint64_t hash = begin(n, kind);
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t word = 0;
        for (int i = 0; i < 8; i++) word |= (uint64_t)p[i] << 8 * i;
        hash = step(hash, word);
    }
    uint64_t word = 0;
    for (int i = 0; i < (int)n; i++) word |= (uint64_t)p[i] << 8 * i;
    return fpq_mix(step(hash, word));
}

uint64_t fpq_hash_tuple(const uint64_t *items, int64_t n) {
    uint64_t hash = begin(n, FPQ_HASH_TUPLE);
    for (int64_t i = 0; i < n; i++) hash = step(hash, items[i]);
    return fpq_mix(hash);
}

typedef struct {
    const fpq_texts *texts;
    int width, words;
    int64_t *counts;      /* counting: receives the number of shingles of each text */
    const int64_t *first; /* writing: where the shingles of each text begin */
    uint64_t *items;
} shingling;

static int is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
static int goes_on(char c) { return ((unsigned char)c & 0xc0) == 0x80; } /* within a character of UTF-8 */

/* A unit is a word or a character. */
static const char *unit_begin(const char *at, const char *end, int words) {
    while (words && at < end && is_space(*at)) at++;
    return at;
}

static const char *unit_end(const char *at, const char *end, int words) {
    if (words)
        while (at < end && !is_space(*at)) at++;
    else
        for (at++; at < end && goes_on(*at);) at++;
    return at;
}

static void count_shingles(void *context, int64_t task, fpq_worker *worker) {
    const shingling *s = context;
    const int64_t start = task * TEXT_BATCH, stop = start + fpq_batch_size(s->texts->n, TEXT_BATCH, task);
    for (int64_t i = start; i < stop; i++) {
        const char *at = s->texts->texts[i], *const end = at + s->texts->sizes[i];
        int64_t units = 0;
        while ((at = unit_begin(at, end, s->words)) < end) {
            at = unit_end(at, end, s->words);
            if (++units % POLL_UNITS == 0 && fpq_stopped(worker->poll)) return;
        }
        s->counts[i] = units < s->width ? units > 0 : units - s->width + 1;
    }
}

/* ring: of the last `width` units, the hash of each word, or where each character begins; then room for `width` more.
 */
static void write_text(const shingling *s, int64_t text, uint64_t *ring, fpq_poll *poll) {
    const char *const from = s->texts->texts[text], *const end = from + s->texts->sizes[text], *at = from;
    uint64_t *items = s->items + s->first[text], *const ordered = ring + s->width;
    const int64_t n_items = s->first[text + 1] - s->first[text];
    for (int64_t units = 0, n = 0; n < n_items;) {
        at = unit_begin(at, end, s->words);
        const char *const stop = unit_end(at, end, s->words);
        ring[units++ % s->width] = s->words ? fpq_hash_text(at, stop - at, FPQ_HASH_STR) : (uint64_t)(at - from);
        at = stop;
        const int64_t first = units < s->width ? 0 : units - s->width;
        if (units < s->width && unit_begin(at, end, s->words) < end) continue;
        if (s->words && s->width > 1) {
            for (int64_t u = first; u < units; u++) ordered[u - first] = ring[u % s->width];
            items[n++] = fpq_hash_tuple(ordered, units - first);
        } else if (s->words) {
            items[n++] = ring[first % s->width];
        } else {
            const char *const start = from + ring[first % s->width];
            items[n++] = fpq_hash_text(start, stop - start, FPQ_HASH_STR);
        }
        if (n % POLL_UNITS == 0 && fpq_stopped(poll)) return;
    }
}

static void write_shingles(void *context, int64_t task, fpq_worker *worker) {
    const shingling *s = context;
    const int64_t start = task * TEXT_BATCH, stop = start + fpq_batch_size(s->texts->n, TEXT_BATCH, task);
    for (int64_t i = start; i < stop; i++) write_text(s, i, (uint64_t *)(void *)worker->scratch, worker->poll);
}

int fpq_shingle_counts(const fpq_texts *texts, int width, int words, int64_t *counts, int threads) {
    shingling s = {.texts = texts, .width = width, .words = words, .counts = counts};
    return fpq_parallel(fpq_batches(texts->n, TEXT_BATCH), 0, threads, count_shingles, &s);
}

int fpq_shingles(const fpq_texts *texts, int width, int words, const int64_t *first, uint64_t *items, int threads) {
    shingling s = {.texts = texts, .width = width, .words = words, .first = first, .items = items};
    return fpq_parallel(fpq_batches(texts->n, TEXT_BATCH), 2 * (size_t)width * sizeof(uint64_t), threads,
                        write_shingles, &s);
}
