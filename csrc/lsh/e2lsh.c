/* SPDX-License-Identifier: MIT
 * Search in hash tables. Buckets are probed in groups, so that the loads of one group run at the same time: first
 * their places in the directories, then their entries, then their sketches. */
#include "lsh/probe.h"
#include "portable.h"
#include "parallel.h"

/* Probes a group, lines and buckets to prefetch, entries between two questions whether to stop. */
enum { GROUP = 32, AHEAD = 16, DEPTH = 2, PIECE = 1 << 12 };

typedef struct {
    const fpq_lsh_tables *tables;
    fpq_verifier *verifier;
    fpq_poll *poll;
    int32_t table[GROUP];
    uint32_t key[GROUP];
    int size;
    int64_t buckets, candidates;
} group;

/* The bucket of a key among the entries of its slot: entries are sorted, so it is a run of equal keys. What else is in
 * the slot is little, so the run is narrowed down from both ends. */
static void find_run(const uint64_t *entries, int64_t *at, int64_t *end, uint32_t key) {
    while (*at < *end && (uint32_t)(entries[*at] >> 32) != key) ++*at;
    while (*at < *end && (uint32_t)(entries[*end - 1] >> 32) != key) --*end;
}

/* The first lines; the processor's own prefetching goes on. */
static void prefetch(const void *from, int64_t bytes) {
    for (int64_t at = 0; at < bytes && at < AHEAD * 64; at += 64) FPQ_PREFETCH((const char *)from + at);
}

static void probe_group(group *g) {
    const fpq_lsh_tables *tables = g->tables;
    fpq_verifier *v = g->verifier;
    const int64_t slots = ((int64_t)1 << tables->bits) + 1, n = v->rows->selector.n;
    const int64_t size = tables->sketches ? v->rows->sketcher->size : 0;
    int64_t at[GROUP], end[GROUP];
    int found = 0;
    if (fpq_stopped(g->poll)) g->size = 0;
    for (int i = 0; i < g->size; i++) {
        const uint32_t *start = tables->starts + g->table[i] * slots + (g->key[i] >> (32 - tables->bits));
        at[i] = start[0];
        end[i] = start[1];
        if (at[i] == end[i]) continue;
        FPQ_PREFETCH(tables->entries + g->table[i] * n + at[i]);
        FPQ_PREFETCH(tables->entries + g->table[i] * n + end[i] - 1);
    }
    for (int i = 0; i < g->size; i++) {
        find_run(tables->entries + g->table[i] * n, at + i, end + i, g->key[i]);
        if (at[i] == end[i]) continue;
        const int64_t first = g->table[i] * n + at[i], last = g->table[i] * n + end[i];
        g->buckets++;
        g->candidates += last - first;
        at[found] = first;
        end[found++] = last;
    }
    for (int i = 0; i < found; i++) {
        for (int next = i ? i + DEPTH : 0; size && next <= i + DEPTH && next < found; next++)
            prefetch(tables->sketches + at[next] * size, (end[next] - at[next]) * size);
        for (int64_t e = at[i]; e < end[i]; e += 64) {
            if ((e - at[i]) % PIECE == PIECE - 64 && fpq_stopped(g->poll)) break;
            fpq_verify_near(v, tables->entries + e, size ? tables->sketches + e * size : NULL,
                            end[i] - e < 64 ? (int)(end[i] - e) : 64);
        }
    }
    g->size = 0;
}

static void add_probe(group *g, int32_t table, uint32_t key) {
    const int bits = g->tables->bits;
    FPQ_PREFETCH(g->tables->starts + table * (((int64_t)1 << bits) + 1) + (key >> (32 - bits)));
    g->table[g->size] = table;
    g->key[g->size++] = key;
    if (g->size == GROUP) probe_group(g);
}

static void search_one(fpq_verifier *v, fpq_prober *prober, const fpq_hashes *hashes, const fpq_lsh_tables *tables,
                       int64_t n_probe, fpq_lsh_stats *stats, fpq_poll *poll) {
    group g = {.tables = tables, .verifier = v, .poll = poll};
    int64_t left = n_probe;
    for (int32_t t = 0; t < hashes->n_tables && left > 0; t++, left--)
        add_probe(&g, t, (uint32_t)(fpq_lsh_sum(hashes, t, v->values) >> 32));
    if (left > 0) {
        int32_t table;
        uint32_t key;
        fpq_prober_start(prober, hashes, v->values);
        for (; left > 0 && !FPQ_READ_SHARED(&poll->stop) && fpq_prober_next(prober, &table, &key); left--)
            add_probe(&g, table, key);
    }
    probe_group(&g);
    fpq_verify_waiting(v);
    fpq_results_finish(&v->top, NULL, 0);
    *stats = (fpq_lsh_stats){g.buckets, g.candidates, v->verified};
}

int fpq_e2lsh_search(const fpq_hashes *hashes, const fpq_lsh_tables *tables, const fpq_lsh_rows *rows,
                     const float *queries, int64_t nq, int64_t n_probe, int k, float *distances, int64_t *ids,
                     fpq_lsh_stats *stats, int threads) {
    const int n = (int)nq;
    int failed = 0;
    fpq_poll poll = {0};
    threads = fpq_threads(threads, nq);
#pragma omp parallel num_threads(threads)
    {
        fpq_verifier v = {0};
        fpq_prober prober = {0};
        const int ready = !fpq_verifier_init(&v, hashes, rows) && !fpq_prober_init(&prober, hashes, n_probe);
        if (!ready) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int i = 0; i < n; i++) {
            if (!ready || fpq_stopped(&poll)) continue;
            fpq_verify_start(&v, hashes, queries + (ptrdiff_t)i * hashes->d, distances + (ptrdiff_t)i * k,
                             ids + (ptrdiff_t)i * k, k);
            search_one(&v, &prober, hashes, tables, n_probe, stats + i, &poll);
        }
        fpq_free(v.seen);
        fpq_free(prober.sums);
    }
    return failed || poll.stop ? -1 : 0;
}
