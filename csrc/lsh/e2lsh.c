/* SPDX-License-Identifier: MIT
 * Search in hash tables. Buckets are probed in groups, so that the loads of one group run at the same time: first
 * their places in the directories, then their entries, then their sketches. */
#include "lsh/probe.h"
#include "portable.h"
#include "threads.h"

enum { GROUP = 32 };

typedef struct {
    const fpq_lsh_tables *tables;
    fpq_verifier *verifier;
    int32_t table[GROUP];
    uint32_t key[GROUP];
    int size;
    int64_t buckets, candidates;
} group;

/* The bucket of a key: entries are sorted, so it is a run of equal keys. */
static int64_t run_of(const uint64_t *entries, int64_t *at, int64_t end, uint32_t key) {
    while (*at < end && (uint32_t)(entries[*at] >> 32) < key) ++*at;
    int64_t stop = *at;
    while (stop < end && (uint32_t)(entries[stop] >> 32) == key) stop++;
    return stop;
}

static void probe_group(group *g) {
    const fpq_lsh_tables *tables = g->tables;
    fpq_verifier *v = g->verifier;
    const int64_t slots = ((int64_t)1 << tables->bits) + 1, n = v->rows->pop.n;
    const int size = tables->sketches ? v->rows->sketcher->size : 0;
    int64_t at[GROUP], end[GROUP];
    for (int i = 0; i < g->size; i++) {
        const uint32_t *start = tables->starts + g->table[i] * slots + (g->key[i] >> (32 - tables->bits));
        at[i] = start[0];
        end[i] = start[1];
        if (at[i] < end[i]) FPQ_PREFETCH(tables->entries + g->table[i] * n + at[i]);
    }
    for (int i = 0; i < g->size; i++) {
        end[i] = run_of(tables->entries + g->table[i] * n, at + i, end[i], g->key[i]);
        if (at[i] < end[i] && size) FPQ_PREFETCH(tables->sketches + (g->table[i] * n + at[i]) * size);
    }
    for (int i = 0; i < g->size; i++) {
        g->buckets += at[i] < end[i];
        g->candidates += end[i] - at[i];
        for (int64_t e = g->table[i] * n + at[i], stop = g->table[i] * n + end[i]; e < stop; e += 64)
            fpq_verify_near(v, tables->entries + e, size ? tables->sketches + e * size : NULL,
                            stop - e < 64 ? (int)(stop - e) : 64);
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
                       int64_t n_probe, fpq_lsh_stats *stats) {
    group g = {.tables = tables, .verifier = v};
    int64_t left = n_probe;
    for (int32_t t = 0; t < hashes->n_tables && left > 0; t++, left--)
        add_probe(&g, t, (uint32_t)(fpq_lsh_sum(hashes, t, v->values) >> 32));
    if (left > 0) {
        int32_t table;
        uint32_t key;
        for (fpq_prober_start(prober, hashes, v->values); left > 0 && fpq_prober_next(prober, &table, &key); left--)
            add_probe(&g, table, key);
    }
    probe_group(&g);
    fpq_verify_waiting(v);
    fpq_topk_sort(&v->top);
    *stats = (fpq_lsh_stats){g.buckets, g.candidates, v->verified};
}

int fpq_e2lsh_search(const fpq_hashes *hashes, const fpq_lsh_tables *tables, const fpq_lsh_rows *rows,
                     const float *queries, int64_t nq, int64_t n_probe, int k, float *distances, int64_t *ids,
                     fpq_lsh_stats *stats, int threads) {
    const int n = (int)nq;
    int failed = 0;
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
            if (!ready) continue;
            fpq_verify_start(&v, hashes, queries + (ptrdiff_t)i * hashes->d, distances + (ptrdiff_t)i * k,
                             ids + (ptrdiff_t)i * k, k);
            search_one(&v, &prober, hashes, tables, n_probe, stats + i);
        }
        fpq_free(v.seen);
        fpq_free(prober.sums);
    }
    return failed ? -1 : 0;
}
