/* SPDX-License-Identifier: MIT
 * Collision counting (C2LSH, Gan et al., SIGMOD 2012) in windows centred on the query (QALSH, Huang et al., VLDB 2015).
 * A row's hash values stand in one byte each, 64 rows to a block; a count over all rows is a few instructions for 64
 * values, so that no sorted lists are needed. A few queries go through the blocks together. */
#include <string.h>

#include "lsh/lsh.h"
#include "portable.h"
#include "parallel.h"

/* PIECE: rows between two questions whether to stop. */
enum { QUERIES = 8, TILE_BYTES = 1 << 18, PIECE = 1 << 12 };

/* The `budget` rows with the most collisions so far, ties to the lower row; rows come in ascending order. */
typedef struct {
    uint32_t *rows, *order; /* (2 * budget + 64), (budget) */
    uint8_t *counts;        /* (2 * budget + 64) */
    int64_t n, budget;
    int least; /* what a row must have to enter */
} collector;

/* The count of the worst of the `budget` best, and how many with that very count are among them. */
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
    c->least = worst + 1;
}

/* One query's state. */
typedef struct {
    fpq_verifier verifier;
    collector best;
    int level, done;
    int64_t found;               /* rows that were candidates */
    uint8_t low[256], high[256]; /* the windows of the present level */
} search;

/* Half a window at a level, in base buckets. From here on it holds every code, and tells no rows apart. */
#define EVERYTHING 127.

static double window_at(const fpq_c2lsh *c, int level) { return c->window * pow(c->ratio, level); }

static void start_level(search *s, const fpq_c2lsh *c, const fpq_hashes *hashes) {
    const float half = (float)window_at(c, s->level);
    for (int j = 0; j < hashes->n_hashes; j++) {
        s->low[j] = fpq_lsh_code(s->verifier.values[j] - half);
        s->high[j] = fpq_lsh_code(s->verifier.values[j] + half);
    }
    s->best.n = 0;
    s->best.budget = c->budget - s->found;
    s->best.least = c->threshold;
}

static void count_block(search *s, const uint8_t *codes, int m, int64_t block, int present) {
    FPQ_ALIGN(64) uint8_t counts[64];
    const fpq_verifier *v = &s->verifier;
    uint64_t near = v->kern->collisions(codes, m, s->low, s->high, s->best.least, counts);
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

/* One level of the queries that are not done: tiles of blocks that stay in the cache, all queries over a tile. */
static void count_level(search *group, int n, const fpq_c2lsh *c, int m, fpq_poll *poll) {
    const int64_t rows = group->verifier.rows->selector.n, blocks = (rows + 63) / 64;
    const int64_t step = TILE_BYTES / (64 * m);
    for (int64_t tile = 0; tile < blocks && !fpq_stopped(poll); tile += step)
        for (int i = 0; i < n; i++)
            for (int64_t b = tile; b < tile + step && b < blocks && !group[i].done; b++)
                count_block(group + i, c->codes + b * 64 * m, m, b, rows - b * 64 < 64 ? (int)(rows - b * 64) : 64);
}

/* Rows by falling count into best.order. */
static void sort_by_count(collector *c, int m) {
    int64_t starts[257] = {0};
    for (int64_t i = 0; i < c->n; i++) starts[m - c->counts[i] + 1]++;
    for (int count = 0; count < m; count++) starts[count + 1] += starts[count];
    for (int64_t i = 0; i < c->n; i++) c->order[starts[m - c->counts[i]]++] = c->rows[i];
}

static void offer(fpq_verifier *v, uint32_t row) {
    const int size = v->rows->sketcher ? v->rows->sketcher->size : 0;
    const uint8_t *sketch = v->rows->sketches + (size_t)row * (size_t)size;
    if (!size || v->kern->sketches_within(v->sketch, sketch, size, 1, v->reach))
        fpq_verify(v, row);
    else
        v->seen[row / 64] |= (uint64_t)1 << row % 64;
}

/* Verifies the collected rows, those with the most collisions first, and applies the stop rules. */
static void end_level(search *s, const fpq_c2lsh *c, int m, fpq_poll *poll) {
    fpq_verifier *v = &s->verifier;
    collector *best = &s->best;
    const size_t size = v->rows->sketcher ? (size_t)v->rows->sketcher->size : 0;
    if (best->n > best->budget) keep_best(best);
    sort_by_count(best, m);
    for (int64_t i = 0; i < best->n; i++) {
        if (i % PIECE == PIECE - 1 && fpq_stopped(poll)) break;
        if (size && i + 16 < best->n) FPQ_PREFETCH(v->rows->sketches + best->order[i + 16] * size);
        offer(v, best->order[i]);
    }
    fpq_verify_waiting(v);
    s->found += best->n;
    const double radius = c->radius * pow(c->ratio, s->level + 1);
    s->done = s->found >= c->budget || (c->stop_early && fpq_verify_limit(v) <= radius * radius);
    s->level++;
}

/* What is left when no window tells rows apart any more: all of them. */
static void verify_all(search *s, fpq_poll *poll) {
    fpq_verifier *v = &s->verifier;
    s->found = v->rows->selector.n;
    for (int64_t row = 0; row < v->rows->selector.n; row++) {
        if (row % PIECE == PIECE - 1 && fpq_stopped(poll)) break;
        if (!fpq_is_seen(v, (uint32_t)row)) offer(v, (uint32_t)row);
    }
    fpq_verify_waiting(v);
    s->done = 1;
}

static int init_search(search *s, const fpq_hashes *hashes, const fpq_c2lsh *c, const fpq_lsh_rows *rows) {
    const size_t room = 2 * (size_t)c->budget + 64;
    if (fpq_verifier_init(&s->verifier, hashes, rows)) return -1;
    s->best.rows = fpq_alloc((room + (size_t)c->budget) * sizeof(uint32_t) + room);
    if (!s->best.rows) return -1;
    s->best.order = s->best.rows + room;
    s->best.counts = (uint8_t *)(s->best.order + c->budget);
    return 0;
}

int fpq_c2lsh_search(const fpq_hashes *hashes, const fpq_c2lsh *c, const fpq_lsh_rows *rows, const float *queries,
                     int64_t nq, int k, float *distances, int64_t *ids, fpq_lsh_stats *stats, int threads) {
    const int m = hashes->n_hashes, d = hashes->d;
    const int64_t even = (nq + threads - 1) / threads, size = even < QUERIES ? even : QUERIES;
    const int groups = (int)((nq + size - 1) / size);
    int failed = 0;
    fpq_poll poll = {0};
    threads = fpq_threads(threads, groups);
#pragma omp parallel num_threads(threads)
    {
        search group[QUERIES] = {0};
        int ready = 1;
        for (int i = 0; i < size && ready; i++) ready = !init_search(group + i, hashes, c, rows);
        if (!ready) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int g = 0; g < groups; g++) {
            const int64_t first = g * size;
            const int n = nq - first < size ? (int)(nq - first) : (int)size;
            int left = ready && !fpq_stopped(&poll) ? n : 0;
            for (int i = 0; i < left; i++) {
                search *s = group + i;
                const int64_t q = first + i;
                fpq_verify_start(&s->verifier, hashes, queries + q * d, distances + q * k, ids + q * k, k);
                s->level = s->done = 0;
                s->found = 0;
            }
            while (left && !fpq_stopped(&poll)) {
                for (int i = 0; i < n; i++) {
                    if (group[i].done) continue;
                    if (window_at(c, group[i].level) < EVERYTHING) {
                        start_level(group + i, c, hashes);
                    } else {
                        verify_all(group + i, &poll);
                        left--;
                    }
                }
                count_level(group, n, c, m, &poll);
                for (int i = 0; i < n; i++)
                    if (!group[i].done) {
                        end_level(group + i, c, m, &poll);
                        left -= group[i].done;
                    }
            }
            for (int i = 0; i < n && ready && !FPQ_READ_SHARED(&poll.stop); i++) {
                fpq_results_finish(&group[i].verifier.top, NULL, 0);
                stats[first + i] = (fpq_lsh_stats){group[i].level, group[i].found, group[i].verifier.verified};
            }
        }
        for (int i = 0; i < size; i++) {
            fpq_free(group[i].verifier.seen);
            fpq_free(group[i].best.rows);
        }
    }
    return failed || poll.stop ? -1 : 0;
}
