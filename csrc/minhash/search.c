/* SPDX-License-Identifier: MIT
 * Search for similar sets in the tables of the bands. */
#include <string.h>

#include "exact/stored.h"
#include "lsh/lsh.h"
#include "minhash/minhash.h"

enum {
    QUERY_BATCH = 32,         /* queries per task, for which the bitmap is cleared once */
    AHEAD = 8,                /* candidates that are fetched before they are compared */
    POLL_CANDIDATES = 1 << 10 /* between two questions whether to stop */
};

typedef struct {
    const fpq_minhash *h;
    const fpq_minhash_rows *rows;
    const fpq_lsh_tables *tables;
    const fpq_sets *queries;
    const fpq_answers *answers;
    int64_t *found;
} search;

/* What a thread has for a query. */
typedef struct {
    uint64_t *seen;       /* bit r: row r is a candidate */
    uint32_t *candidates; /* n */
    uint32_t *least;      /* n_hashes */
    void *signature;
    int64_t n; /* candidates */
} desk;

static size_t seen_bytes(int64_t n) { return fpq_lines((size_t)fpq_batches(n, 64) * sizeof(uint64_t)); }

static desk desk_at(char *memory, const search *s) {
    const int64_t n = s->rows->selector.n;
    desk d = {.seen = (uint64_t *)(void *)memory};
    d.least = (uint32_t *)(void *)(memory + seen_bytes(n));
    d.signature = d.least + s->h->n_hashes;
    d.candidates = (uint32_t *)(void *)((uint32_t *)d.signature + s->h->n_hashes);
    memset(d.seen, 0, seen_bytes(n));
    return d;
}

/* The rows in the buckets of the query's bands. Entries may come from a file, whose content is not checked. */
static void collect(const search *s, desk *d) {
    const fpq_lsh_tables *tables = s->tables;
    const int64_t n = s->rows->selector.n, slots = ((int64_t)1 << tables->bits) + 1;
    d->n = 0;
    for (int band = 0; band < s->h->n_bands; band++) {
        const uint32_t key = fpq_band_key(s->h, d->least, band);
        const uint32_t *start = tables->starts + band * slots + (key >> (32 - tables->bits));
        const uint64_t *entries = tables->entries + band * n;
        int64_t at = start[0], end = start[1];
        fpq_find_run(entries, &at, &end, key);
        for (; at < end; at++) {
            const uint32_t row = (uint32_t)entries[at];
            if (row >= n || (d->seen[row / 64] >> row % 64 & 1)) continue;
            d->seen[row / 64] |= (uint64_t)1 << row % 64;
            d->candidates[d->n++] = row;
        }
    }
}

static int search_one(const search *s, int64_t query, desk *d, fpq_poll *poll) {
    fpq_one_set set = fpq_set_at(s->queries, query);
    fpq_results results = fpq_results_of(s->answers, query, s->rows->selector.ids);
    s->found[query] = 0;
    if (set.n == 0) return fpq_results_finish(&results, s->answers, query);
    fpq_least(s->h, set, d->least, poll);
    collect(s, d);
    if (!s->rows->sets) {
        fpq_active()->put_signature(d->least, s->h->n_hashes, s->h->bits, d->signature);
        set.signature = d->signature;
    }
    for (int64_t i = 0; i < d->n && i < AHEAD; i++) fpq_prefetch_set(s->h, s->rows, d->candidates[i]);
    for (int64_t i = 0; i < d->n; i++) {
        const uint32_t row = d->candidates[i];
        d->seen[row / 64] = 0;
        if (i + AHEAD < d->n) fpq_prefetch_set(s->h, s->rows, d->candidates[i + AHEAD]);
        if (i % POLL_CANDIDATES == POLL_CANDIDATES - 1 && fpq_stopped(poll)) break;
        if (!fpq_is_allowed(&s->rows->selector, row)) continue;
        fpq_offer_row(&results, -fpq_jaccard(s->h, set, fpq_set_of_row(s->h, s->rows, row)), row);
        s->found[query]++;
    }
    return fpq_results_finish(&results, s->answers, query);
}

static void search_batch(void *context, int64_t task, fpq_worker *worker) {
    const search *s = context;
    desk d = desk_at(worker->scratch, s);
    const int64_t start = task * QUERY_BATCH, end = start + fpq_batch_size(s->queries->n, QUERY_BATCH, task);
    for (int64_t i = start; i < end && !fpq_stopped(worker->poll); i++)
        if (search_one(s, i, &d, worker->poll)) fpq_fail(worker);
}

int fpq_minhash_search(const fpq_minhash *h, const fpq_minhash_rows *rows, const fpq_lsh_tables *tables,
                       const fpq_sets *queries, const fpq_answers *answers, int64_t *found, int threads) {
    search s = {h, rows, tables, queries, answers, found};
    const size_t n = (size_t)rows->selector.n;
    const size_t scratch = seen_bytes(rows->selector.n) + (2 * (size_t)h->n_hashes + n) * sizeof(uint32_t);
    return fpq_parallel(fpq_batches(queries->n, QUERY_BATCH), scratch, threads, search_batch, &s);
}
