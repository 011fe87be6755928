/* SPDX-License-Identifier: MIT
 * The part of fpq.h for sets of integers: MinHash, and items from texts. */
#ifndef FPQ_SETS_H
#define FPQ_SETS_H

#include "fpq.h"

/* ---- MinHash of sets ---- */
/* Set i has the items items[first[i]] .. items[first[i + 1] - 1]. */
typedef struct {
    const int64_t *first; /* n + 1 */
    const uint64_t *items;
    int64_t n;
} fpq_sets;

/* Hash j of an item is factors[j] u + shifts[j] modulo 2^32, u the upper half of fpq_mix(item ^ salt). A signature is
 * the upper `bits` bits of the least of each hash times 0x9e3779b1 modulo 2^32. Band b has the hashes n_rows b ..
 * n_rows (b + 1) - 1; its key is the upper half of the sum of least hash times mixer modulo 2^64. */
typedef struct {
    int n_hashes, n_bands, n_rows, bits; /* n_hashes: a multiple of 16; bits: 8, 16 or 32 */
    uint64_t salt;
    const uint32_t *factors, *shifts; /* n_hashes */
    const uint64_t *mixers;           /* n_bands * n_rows */
} fpq_minhash;

/* What sets are compared by: items, of each set different and ascending, or if `sets` is NULL signatures. */
typedef struct {
    const void *signatures; /* (n, n_hashes) */
    const fpq_sets *sets;
    fpq_selector selector; /* of n < 2^31 sets */
} fpq_minhash_rows;

/* signatures (n, n_hashes), NULL: none; keys (n, n_bands). */
int fpq_minhash_sign(const fpq_minhash *h, const fpq_sets *sets, void *signatures, uint32_t *keys, int threads);
/* The tables of bands first_band .. first_band + n_tables - 1, as those of E2LSH, of n rows from first_row on with
 * these keys (n, n_bands): entries (n_tables, n), starts (n_tables, 2^bits + 1). */
int fpq_minhash_tables(const uint32_t *keys, int64_t n, int n_bands, int first_band, int n_tables, int64_t first_row,
                       int bits, uint64_t *entries, uint32_t *starts, int threads);
/* Among the sets that have the key of a band in common with a query; distances are negated similarities. The tables
 * are those of E2LSH, one a band. An empty query finds nothing. found (nq): how many sets were compared. */
int fpq_minhash_search(const fpq_minhash *h, const fpq_minhash_rows *rows, const fpq_lsh_tables *tables,
                       const fpq_sets *queries, const fpq_answers *answers, int64_t *found, int threads);
/* Pairs of sets i < j that have the key (n, n_bands) of one of these bands in common, and of no band before: ids i <<
 * 32 | j. entries (n_tables, n): the tables of the bands. answers: within a radius, those of part p of table t have
 * number t ceil(n / FPQ_PAIR_BATCH) + p. */
enum { FPQ_PAIR_BATCH = 1 << 12 };
int fpq_minhash_pairs(const fpq_minhash *h, const fpq_minhash_rows *rows, const uint32_t *keys, int first_band,
                      int n_tables, const uint64_t *entries, const fpq_answers *answers, int threads);
/* The items of each set in ascending order, each of them once, the first sizes[i] of the set's place. */
int fpq_order_items(const int64_t *first, int64_t n, uint64_t *items, int64_t *sizes, int threads);

/* Items from strings, and from tuples of items. */
enum { FPQ_HASH_STR = 1, FPQ_HASH_BYTES, FPQ_HASH_TUPLE };
uint64_t fpq_hash_text(const char *text, int64_t n, uint64_t kind);
uint64_t fpq_hash_tuple(const uint64_t *items, int64_t n);
typedef struct {
    const char *const *texts; /* UTF-8 */
    const int64_t *sizes;     /* in bytes */
    int64_t n;
} fpq_texts;
/* Shingles: tuples of `width` words (of one word: the word), or strings of `width` characters; all of a shorter text.
 * Words are what ASCII white space separates. */
int fpq_shingle_counts(const fpq_texts *texts, int width, int words, int64_t *counts, int threads);
int fpq_shingles(const fpq_texts *texts, int width, int words, const int64_t *first, uint64_t *items, int threads);

#endif
