/* SPDX-License-Identifier: MIT
 * Collision counting (C2LSH, Gan et al., SIGMOD 2012) in windows centred on the query (QALSH, Huang et al., VLDB 2015).
 * A row's hash values take one byte each, in code blocks of 64 rows; counting takes a few instructions per 64 values,
 * so that no sorted lists are needed. A batch of queries goes through the blocks together. */
#include <string.h>

#include "lsh/lsh.h"
#include "parallel.h"
#include "portable.h"

enum {
    QUERY_BATCH = 8,      /* queries that share the reading of codes */
    TILE_BYTES = 1 << 18, /* of codes that stay in the L2 cache while the queries of a batch pass over them */
    POLL_ROWS = 1 << 12   /* between two questions whether to stop */
};

/* The `budget` rows with the most collisions so far, ties to the lower row; rows come in ascending order. */
typedef struct {
    uint32_t *rows, *order; /* (2 * budget + 64), (budget) */
    uint8_t *counts;        /* (2 * budget + 64) */
    int64_t n, budget;
    int threshold; /* collisions that a row needs to enter */
} collector;

/* The count of the last of the `budget` best rows; of_worst: how many rows with this count are among them. */
static int worst_kept(const collector *c, int64_t *of_worst) {
    int64_t histogram[256] = {0}, better = 0;
    for (int64_t i = 0; i < c->n; i++) histogram[c->counts[i]]++;
    int count = 255;
    for (; count > 0 && better + histogram[count] < c->budget; count--) better += histogram[count];
    *of_worst = c->budget - better;
    return count;
}

static void keep_best(collector *c) {
    int64_t of_worst, left = 0;
    if (c->n < c->budget) return;
    const int worst = worst_kept(c, &of_worst);
    for (int64_t i = 0; i < c->n; i++)
        if (c->counts[i] > worst || (c->counts[i] == worst && of_worst-- > 0)) {
            c->rows[left] = c->rows[i];
            c->counts[left++] = c->counts[i];
        }
    c->n = left;
    c->threshold = worst + 1;
}

typedef struct {
    fpq_verifier verifier;
    collector best;
    int level, done;
    int64_t found;               /* rows that were candidates */
    uint8_t low[256], high[256]; /* the windows of the present level */
} query_state;

/* Half a window that holds all 256 codes, so that every row collides in every hash. */
#define FULL_WINDOW 127.

/* Half a window, in base buckets. */
static double window_at(const fpq_c2lsh *c, int level) { return c->window * pow(c->ratio, level); }

static void start_level(query_state *s, const fpq_c2lsh *c, const fpq_hashes *hashes) {
    const float half = (float)window_at(c, s->level);
    for (int j = 0; j < hashes->n_hashes; j++) {
        s->low[j] = fpq_lsh_code(s->verifier.values[j] - half);
        s->high[j] = fpq_lsh_code(s->verifier.values[j] + half);
    }
    s->best.n = 0;
    s->best.budget = c->budget - s->found;
    s->best.threshold = c->threshold;
}

static void count_block(query_state *s, const uint8_t *codes, int m, int64_t block, int present) {
    FPQ_ALIGN(64) uint8_t counts[64];
    const fpq_verifier *v = &s->verifier;
    uint64_t near = v->kern->collisions(codes, m, s->low, s->high, s->best.threshold, counts);
    near &= ~v->seen[block];
    if (v->rows->selector.allowed) near &= v->rows->selector.allowed[block];
    if (present < 64) near &= ((uint64_t)1 << present) - 1;
    for (; near; near &= near - 1) {
        const int r = fpq_lowest_bit(near);
        s->best.rows[s->best.n] = (uint32_t)(block * 64 + r);
        s->best.counts[s->best.n++] = counts[r];
    }
    if (s->best.n >= 2 * s->best.budget) keep_best(&s->best);
}

/* One level of the queries of a batch that are not done. */
static void count_level(query_state *batch, int n, const fpq_c2lsh *c, int m, fpq_poll *poll) {
    const int64_t rows = batch->verifier.rows->selector.n, blocks = (rows + 63) / 64;
    const int64_t step = TILE_BYTES / (64 * m);
    for (int64_t tile = 0; tile < blocks && !fpq_stopped(poll); tile += step)
        for (int i = 0; i < n; i++)
            for (int64_t b = tile; b < tile + step && b < blocks && !batch[i].done; b++)
                count_block(batch + i, c->codes + b * 64 * m, m, b, rows - b * 64 < 64 ? (int)(rows - b * 64) : 64);
}

/* order: the rows by falling count. */
static void sort_by_count(collector *c, int m) {
    int64_t starts[257] = {0};
    for (int64_t i = 0; i < c->n; i++) starts[m - c->counts[i] + 1]++;
    for (int count = 0; count < m; count++) starts[count + 1] += starts[count];
    for (int64_t i = 0; i < c->n; i++) c->order[starts[m - c->counts[i]]++] = c->rows[i];
}

/* Verifies the collected rows in the order of falling count, and applies the stop rules. */
static void end_level(query_state *s, const fpq_c2lsh *c, int m, fpq_poll *poll) {
    fpq_verifier *v = &s->verifier;
    collector *best = &s->best;
    const size_t size = v->rows->sketcher ? (size_t)v->rows->sketcher->size : 0;
    if (best->n > best->budget) keep_best(best);
    sort_by_count(best, m);
    for (int64_t i = 0; i < best->n; i++) {
        if (i % POLL_ROWS == POLL_ROWS - 1 && fpq_stopped(poll)) break;
        if (size && i + 16 < best->n) FPQ_PREFETCH(v->rows->sketches + best->order[i + 16] * size);
        fpq_verify_by_sketch(v, best->order[i]);
    }
    fpq_verify_waiting(v);
    s->found += best->n;
    const double radius = c->radius * pow(c->ratio, s->level + 1);
    s->done = s->found >= c->budget || (c->stop_early && fpq_verify_threshold(v) <= radius * radius);
    s->level++;
}

/* Verifies all rows, where the windows hold all codes. */
static void verify_all(query_state *s, fpq_poll *poll) {
    fpq_verifier *v = &s->verifier;
    s->found = v->rows->selector.n;
    for (int64_t row = 0; row < v->rows->selector.n; row++) {
        if (row % POLL_ROWS == POLL_ROWS - 1 && fpq_stopped(poll)) break;
        if (!fpq_is_seen(v, (uint32_t)row)) fpq_verify_by_sketch(v, (uint32_t)row);
    }
    fpq_verify_waiting(v);
    s->done = 1;
}

typedef struct {
    const fpq_hashes *hashes;
    const fpq_c2lsh *c;
    const fpq_lsh_rows *rows;
    const float *queries;
    int64_t nq, batch;
    fpq_answers answers;
    fpq_lsh_stats *stats;
    size_t verifier_size, state_size;
} search;

static int64_t collector_room(const fpq_c2lsh *c) { return 2 * c->budget + 64; }

static void start_query(const search *s, query_state *state, int64_t i, char *memory) {
    *state = (query_state){.verifier = fpq_verifier_at(memory, s->hashes, s->rows)};
    state->best.rows = (uint32_t *)(void *)(memory + s->verifier_size);
    state->best.order = state->best.rows + collector_room(s->c);
    state->best.counts = (uint8_t *)(state->best.order + s->c->budget);
    fpq_verify_start(&state->verifier, s->queries + i * s->hashes->d, &s->answers, i);
}

static void search_batch(void *context, int64_t task, fpq_worker *worker) {
    const search *s = context;
    const int n = fpq_batch_size(s->nq, s->batch, task), m = s->hashes->n_hashes;
    const int64_t first = task * s->batch;
    query_state batch[QUERY_BATCH];
    for (int i = 0; i < n; i++) start_query(s, batch + i, first + i, worker->scratch + (size_t)i * s->state_size);
    for (int left = n; left && !fpq_stopped(worker->poll);) {
        for (int i = 0; i < n; i++) {
            if (batch[i].done) continue;
            if (window_at(s->c, batch[i].level) < FULL_WINDOW) {
                start_level(batch + i, s->c, s->hashes);
            } else {
                verify_all(batch + i, worker->poll);
                left--;
            }
        }
        count_level(batch, n, s->c, m, worker->poll);
        for (int i = 0; i < n; i++)
            if (!batch[i].done) {
                end_level(batch + i, s->c, m, worker->poll);
                left -= batch[i].done;
            }
    }
    for (int i = 0; i < n; i++) {
        fpq_results_finish(&batch[i].verifier.results, &s->answers, first + i);
        s->stats[first + i] = (fpq_lsh_stats){batch[i].level, batch[i].found, batch[i].verifier.verified};
    }
}

int fpq_c2lsh_search(const fpq_hashes *hashes, const fpq_c2lsh *c, const fpq_lsh_rows *rows, const float *queries,
                     int64_t nq, int k, float *distances, int64_t *ids, fpq_lsh_stats *stats, int threads) {
    const int64_t even = fpq_batches(nq, threads), batch = even < QUERY_BATCH ? even : QUERY_BATCH;
    search s = {hashes,
                c,
                rows,
                queries,
                nq,
                batch,
                {.k = k, .distances = distances, .ids = ids},
                stats,
                .verifier_size = fpq_verifier_size(hashes, rows)};
    const size_t room = (size_t)collector_room(c);
    s.state_size = s.verifier_size + fpq_lines((room + (size_t)c->budget) * sizeof(uint32_t) + room);
    return nq ? fpq_parallel(fpq_batches(nq, batch), (size_t)batch * s.state_size, threads, search_batch, &s) : 0;
}
