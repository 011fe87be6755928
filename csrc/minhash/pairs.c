/* SPDX-License-Identifier: MIT
 * Pairs of similar sets: those within the buckets of the bands. */
#include "exact/stored.h"
#include "minhash/minhash.h"

enum {
    KEYS_AHEAD = 32,     /* entries ahead whose keys are fetched */
    SETS_AHEAD = 12,     /* entries ahead whose sets are fetched */
    POLL_PAIRS = 1 << 10 /* between two questions whether to stop */
};

typedef struct {
    const fpq_minhash *h;
    const fpq_minhash_rows *rows;
    const uint32_t *keys;
    int first_band;
    const uint64_t *entries;
    const fpq_answers *answers;
} pairing;

/* Similar sets mostly meet in one of the first bands, where the loop ends. */
static int met_before(const uint32_t *a, const uint32_t *b, int bands) {
    for (int band = 0; band < bands; band++)
        if (a[band] == b[band]) return 1;
    return 0;
}

/* The pairs of a bucket, whose rows ascend. */
static void pair_up(const pairing *p, int band, const uint64_t *bucket, int64_t n, fpq_results *results,
                    fpq_poll *poll) {
    const int n_bands = p->h->n_bands;
    for (int64_t a = 0; a < n; a++) {
        const int64_t i = (int64_t)(uint32_t)bucket[a];
        const fpq_one_set set = fpq_set_of_row(p->h, p->rows, i);
        for (int64_t b = a + 1; b < n; b++) {
            const int64_t j = (int64_t)(uint32_t)bucket[b];
            if ((b - a) % POLL_PAIRS == 0 && fpq_stopped(poll)) return;
            if (met_before(p->keys + i * n_bands, p->keys + j * n_bands, band)) continue;
            const float distance = -fpq_jaccard(p->h, set, fpq_set_of_row(p->h, p->rows, j));
            if (distance <= results->threshold) fpq_results_offer(results, distance, i << 32 | j);
        }
        if (n > KEYS_AHEAD && fpq_stopped(poll)) return;
    }
}

static int shares_bucket(const uint64_t *entries, int64_t at, int64_t n) {
    return at + 1 < n &&
           ((entries[at] >> 32 == entries[at + 1] >> 32) || (at && entries[at] >> 32 == entries[at - 1] >> 32));
}

static void prefetch(const pairing *p, const uint64_t *entries, int64_t at, int64_t n) {
    if (shares_bucket(entries, at + KEYS_AHEAD, n)) {
        const int64_t row = (int64_t)(uint32_t)entries[at + KEYS_AHEAD];
        fpq_prefetch_lines(p->keys + row * p->h->n_bands, p->h->n_bands * (ptrdiff_t)sizeof *p->keys);
        if (p->rows->sets) FPQ_PREFETCH(p->rows->sets->first + row);
    }
    if (shares_bucket(entries, at + SETS_AHEAD, n))
        fpq_prefetch_set(p->h, p->rows, (int64_t)(uint32_t)entries[at + SETS_AHEAD]);
}

/* A task has the buckets that begin in its part of a table. */
static void pair_part(void *context, int64_t task, fpq_worker *worker) {
    const pairing *p = context;
    const int64_t n = p->rows->selector.n, parts = fpq_batches(n, FPQ_PAIR_BATCH),
                  start = task % parts * FPQ_PAIR_BATCH;
    const int64_t stop = start + fpq_batch_size(n, FPQ_PAIR_BATCH, task % parts);
    const int table = (int)(task / parts), band = p->first_band + table;
    const uint64_t *entries = p->entries + table * n;
    fpq_results results = fpq_results_of(p->answers, task, (fpq_ids){0});
    int64_t at = start, end;
    while (start > 0 && at < stop && entries[at] >> 32 == entries[at - 1] >> 32) at++;
    for (; at < stop; at = end) {
        for (end = at; end < n && entries[end] >> 32 == entries[at] >> 32; end++) prefetch(p, entries, end, n);
        if (end - at > 1) pair_up(p, band, entries + at, end - at, &results, worker->poll);
    }
    if (fpq_results_finish(&results, p->answers, task)) fpq_fail(worker);
}

int fpq_minhash_pairs(const fpq_minhash *h, const fpq_minhash_rows *rows, const uint32_t *keys, int first_band,
                      int n_tables, const uint64_t *entries, const fpq_answers *answers, int threads) {
    pairing p = {h, rows, keys, first_band, entries, answers};
    return fpq_parallel(n_tables * fpq_batches(rows->selector.n, FPQ_PAIR_BATCH), 0, threads, pair_part, &p);
}
