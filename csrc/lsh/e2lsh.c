/* SPDX-License-Identifier: MIT
 * Search in hash tables. Buckets are probed in batches, so that the loads of a batch run at the same time: first the
 * directories, then the entries, then the sketches. */
#include "lsh/probe.h"
#include "parallel.h"
#include "portable.h"

enum {
    PROBE_BATCH = 32,      /* probes whose loads run at the same time */
    PREFETCH_LINES = 16,   /* of a bucket: the CPU's own prefetching goes on from there */
    PREFETCH_BUCKETS = 2,  /* ahead of the bucket that is verified */
    POLL_ENTRIES = 1 << 12 /* between two questions whether to stop */
};

typedef struct {
    const fpq_lsh_tables *tables;
    fpq_verifier *verifier;
    fpq_poll *poll;
    int32_t table[PROBE_BATCH];
    uint32_t key[PROBE_BATCH];
    int size;
    int64_t buckets, candidates;
} probe_batch;

static void prefetch(const void *from, int64_t bytes) {
    for (int64_t at = 0; at < bytes && at < PREFETCH_LINES * 64; at += 64) FPQ_PREFETCH((const char *)from + at);
}

static void run_batch(probe_batch *b) {
    const fpq_lsh_tables *tables = b->tables;
    fpq_verifier *v = b->verifier;
    const int64_t slots = ((int64_t)1 << tables->bits) + 1, n = v->rows->selector.n;
    const int64_t size = tables->sketches ? v->rows->sketcher->size : 0;
    int64_t at[PROBE_BATCH], end[PROBE_BATCH];
    int found = 0;
    if (fpq_stopped(b->poll)) b->size = 0;
    for (int i = 0; i < b->size; i++) {
        const uint32_t *start = tables->starts + b->table[i] * slots + (b->key[i] >> (32 - tables->bits));
        at[i] = start[0];
        end[i] = start[1];
        if (at[i] == end[i]) continue;
        FPQ_PREFETCH(tables->entries + b->table[i] * n + at[i]);
        FPQ_PREFETCH(tables->entries + b->table[i] * n + end[i] - 1);
    }
    for (int i = 0; i < b->size; i++) {
        fpq_find_run(tables->entries + b->table[i] * n, at + i, end + i, b->key[i]);
        if (at[i] == end[i]) continue;
        const int64_t first = b->table[i] * n + at[i], last = b->table[i] * n + end[i];
        b->buckets++;
        b->candidates += last - first;
        at[found] = first;
        end[found++] = last;
    }
    for (int i = 0; i < found; i++) {
        for (int next = i ? i + PREFETCH_BUCKETS : 0; size && next <= i + PREFETCH_BUCKETS && next < found; next++)
            prefetch(tables->sketches + at[next] * size, (end[next] - at[next]) * size);
        for (int64_t e = at[i]; e < end[i]; e += 64) {
            if ((e - at[i]) % POLL_ENTRIES == POLL_ENTRIES - 64 && fpq_stopped(b->poll)) break;
            fpq_verify_near(v, tables->entries + e, size ? tables->sketches + e * size : NULL,
                            end[i] - e < 64 ? (int)(end[i] - e) : 64);
        }
    }
    b->size = 0;
}

static void add_probe(probe_batch *b, int32_t table, uint32_t key) {
    const int bits = b->tables->bits;
    FPQ_PREFETCH(b->tables->starts + table * (((int64_t)1 << bits) + 1) + (key >> (32 - bits)));
    b->table[b->size] = table;
    b->key[b->size++] = key;
    if (b->size == PROBE_BATCH) run_batch(b);
}

typedef struct {
    const fpq_hashes *hashes;
    const fpq_lsh_tables *tables;
    const fpq_lsh_rows *rows;
    const float *queries;
    int64_t n_probe;
    fpq_answers answers;
    fpq_lsh_stats *stats;
} search;

static void search_query(void *context, int64_t i, fpq_worker *worker) {
    const search *s = context;
    fpq_verifier v = fpq_verifier_at(worker->scratch, s->hashes, s->rows);
    probe_batch b = {.tables = s->tables, .verifier = &v, .poll = worker->poll};
    int64_t left = s->n_probe;
    fpq_verify_start(&v, s->queries + i * s->hashes->d, &s->answers, i);
    for (int32_t t = 0; t < s->hashes->n_tables && left > 0; t++, left--)
        add_probe(&b, t, (uint32_t)(fpq_lsh_sum(s->hashes, t, v.values) >> 32));
    if (left > 0) {
        int32_t table;
        uint32_t key;
        fpq_prober prober = fpq_prober_at(worker->scratch + fpq_verifier_size(s->hashes, s->rows), s->hashes,
                                          s->n_probe);
        fpq_prober_start(&prober, s->hashes, v.values);
        for (; left > 0 && !FPQ_READ_SHARED(&worker->poll->stop) && fpq_prober_next(&prober, &table, &key); left--)
            add_probe(&b, table, key);
    }
    run_batch(&b);
    fpq_verify_waiting(&v);
    fpq_results_finish(&v.results, &s->answers, i);
    s->stats[i] = (fpq_lsh_stats){b.buckets, b.candidates, v.verified};
}

int fpq_e2lsh_search(const fpq_hashes *hashes, const fpq_lsh_tables *tables, const fpq_lsh_rows *rows,
                     const float *queries, int64_t nq, int64_t n_probe, int k, float *distances, int64_t *ids,
                     fpq_lsh_stats *stats, int threads) {
    search s = {hashes, tables, rows, queries, n_probe, {.k = k, .distances = distances, .ids = ids}, stats};
    const size_t scratch = fpq_verifier_size(hashes, rows) + fpq_prober_size(hashes, n_probe);
    return fpq_parallel(nq, scratch, threads, search_query, &s);
}
