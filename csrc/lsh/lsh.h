/* SPDX-License-Identifier: MIT
 * What the LSH indexes share: hash values, and the verification of candidates, which finds the k nearest of them. */
#ifndef FPQ_LSH_H
#define FPQ_LSH_H

#include "exact/stored.h"
#include "isa/kernels.h"

/* Bucket numbers are clamped to +-this: larger floats cannot be converted, and no such bucket holds many rows. */
#define FPQ_LSH_FARTHEST 1e9f

/* The number of columns, padded to whole column blocks. */
FPQ_INLINE int fpq_columns(int k) { return FPQ_COLUMN_BLOCKS(k) * FPQ_COLUMN_BLOCK; }

FPQ_INLINE float fpq_clamp(float x, float low, float high) { return x > low ? (x < high ? x : high) : low; }

FPQ_INLINE int64_t fpq_lsh_bucket(float value) {
    return (int64_t)fpq_clamp(floorf(value), -FPQ_LSH_FARTHEST, FPQ_LSH_FARTHEST);
}

/* A bucket's number modulo 256. */
FPQ_INLINE uint8_t fpq_lsh_code(float value) { return (uint8_t)(fpq_lsh_bucket(value) & 255); }

/* A row's sum of hash times mixer in one table, from its values in all tables. */
FPQ_INLINE uint64_t fpq_lsh_sum(const fpq_hashes *hashes, int table, const float *values) {
    uint64_t sum = 0;
    for (int j = table * hashes->n_hashes; j < (table + 1) * hashes->n_hashes; j++)
        sum += (uint64_t)fpq_lsh_bucket(values[j]) * hashes->mixers[j];
    return sum;
}

/* The bucket of a key among the entries of its slot: entries are sorted, so the bucket is a run of equal keys. A slot
 * holds few other entries, so a search from both ends is short. */
FPQ_INLINE void fpq_find_run(const uint64_t *entries, int64_t *at, int64_t *end, uint32_t key) {
    while (*at < *end && (uint32_t)(entries[*at] >> 32) != key) ++*at;
    while (*at < *end && (uint32_t)(entries[*end - 1] >> 32) != key) --*end;
}

/* The sketches of n centred rows as floats in units of codes, clipped to 0..255; out (n, size). */
void fpq_sketch_rows(const fpq_kernels *kern, const fpq_sketcher *s, const float *centred, int n, float *scratch,
                     float *out);
size_t fpq_sketch_scratch(const fpq_sketcher *s, int n);

enum {
    FPQ_WAITING = 32, /* rows that wait at most */
    FPQ_SKETCH_MAX = 64
};

/* One query's search. Rows wait until there are enough of them to hide the latency of memory. */
typedef struct {
    const fpq_kernels *kern;
    const fpq_hashes *hashes;
    const fpq_lsh_rows *rows;
    const float *query;
    fpq_results results;
    int32_t sketch_threshold; /* squared, in quarters of a code: a row whose sketch is farther is not in the answer */
    uint64_t *seen;           /* bit r: row r has been offered */
    float *centred, *values, *scratch; /* the query less the centre, its hash values */
    float length;                      /* of the query less the centre of the sketches */
    int n;                             /* rows that wait */
    int64_t verified;
    int16_t sketch[FPQ_SKETCH_MAX]; /* of the query, in quarters of a code */
    uint32_t waiting[FPQ_WAITING];
} fpq_verifier;

/* The verifier's parts in fpq_verifier_size bytes of memory. */
size_t fpq_verifier_size(const fpq_hashes *hashes, const fpq_lsh_rows *rows);
fpq_verifier fpq_verifier_at(char *memory, const fpq_hashes *hashes, const fpq_lsh_rows *rows);
/* Begins the search of query i: its hash values and sketch; no row has been seen. */
void fpq_verify_start(fpq_verifier *v, const float *query, const fpq_answers *answers, int64_t i);
void fpq_verify_waiting(fpq_verifier *v);
/* The squared L2 distance of the k-th nearest row so far. */
float fpq_verify_threshold(const fpq_verifier *v);

FPQ_INLINE int fpq_is_seen(const fpq_verifier *v, uint32_t row) { return v->seen[row / 64] >> row % 64 & 1; }

/* Queues a row to be verified, unless it has been seen, is not allowed, or does not exist: entries may come from a
 * file, whose content is not checked. */
FPQ_INLINE void fpq_verify(fpq_verifier *v, uint32_t row) {
    if (row >= v->rows->selector.n || fpq_is_seen(v, row)) return;
    v->seen[row / 64] |= (uint64_t)1 << row % 64;
    if (!fpq_is_allowed(&v->rows->selector, row)) return;
    const char *at = v->rows->x.data + row * v->rows->x.row_stride;
    FPQ_PREFETCH(at);
    FPQ_PREFETCH(at + 64);
    v->waiting[v->n++] = row;
    if (v->n == FPQ_WAITING) fpq_verify_waiting(v);
}

/* Queues a row unless its sketch, one of (n, size), is beyond the threshold. */
FPQ_INLINE void fpq_verify_by_sketch(fpq_verifier *v, uint32_t row) {
    const int size = v->rows->sketcher ? v->rows->sketcher->size : 0;
    const uint8_t *sketch = v->rows->sketches + (size_t)row * (size_t)size;
    if (!size || v->kern->sketches_within(v->sketch, sketch, size, 1, v->sketch_threshold))
        fpq_verify(v, row);
    else
        v->seen[row / 64] |= (uint64_t)1 << row % 64;
}

/* Queues those of n <= 64 rows whose sketches are within the threshold. */
FPQ_INLINE void fpq_verify_near(fpq_verifier *v, const uint64_t *entries, const uint8_t *sketches, int n) {
    uint64_t near = n < 64 ? ((uint64_t)1 << n) - 1 : ~(uint64_t)0;
    if (sketches) near = v->kern->sketches_within(v->sketch, sketches, v->rows->sketcher->size, n, v->sketch_threshold);
    for (; near; near &= near - 1) fpq_verify(v, (uint32_t)entries[fpq_lowest_bit(near)]);
}

#endif
