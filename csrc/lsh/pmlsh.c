/* SPDX-License-Identifier: MIT
 * PM-LSH (Zheng et al., VLDB 2020) with scans of all codes in place of a tree. A row's codes are so short that a
 * scan takes less time than the verification of its candidates. The first scan finds the rows with the nearest codes.
 * Their distances tell how far the stop rules let the search go at most, and the second scan verifies all rows within.
 * Both sets of rows follow from the query alone, so that the answer does not depend on the order of the scan. */
#include <string.h>

#include "lsh/lsh.h"
#include "lsh/pmlsh.h"
#include "parallel.h"
#include "portable.h"

enum {
    QUERY_BATCH = 8,           /* queries that share the reading of codes */
    CHUNK_BYTES = 1 << 26,     /* of the nearest codes of the queries that are searched at a time */
    TILE_BYTES = 1 << 18,      /* of codes that stay in the L2 cache while the queries of a batch pass over them */
    MIN_RANGE_BLOCKS = 1 << 8, /* per task, where the rows are shared among threads */
    FIRST_ROWS = 1 << 10,      /* rows that the first scan finds, or 4 k if this is more */
    BISECTIONS = 12,           /* steps in which the second rule finds how far the search goes */
    POLL_ROWS = 1 << 12,       /* between two questions whether to stop */
    POLL_BLOCKS = 1 << 12,
    AHEAD = 16 /* sketches that are on their way from memory */
};

typedef struct {
    int64_t query;
    float found, limit,
        kth; /* sums of codes: of the last row verified, and to which the search goes; results' threshold */
} progress;

typedef struct {
    const fpq_hashes *hashes;
    const fpq_pmlsh *p;
    const fpq_lsh_rows *rows;
    const float *queries, *values; /* values (nq, n_hashes): the projections */
    fpq_answers answers;
    fpq_lsh_stats *stats;
    progress *left; /* the queries that are searched, n_left of them */
    int64_t n_left;
    fpq_answers found; /* of left[i]: first the nearest rows by codes, then the answer */
    int64_t batch, ranges, range_blocks;
    const fpq_answers *of_ranges;
    fpq_lsh_stats *range_stats; /* of the second scan */
} search;

/* Cuts a scan of all rows for the queries left into tasks; few queries share the rows among the threads. */
static int64_t make_tasks(search *s, int threads) {
    const int64_t blocks = fpq_batches(s->rows->selector.n, 64), even = fpq_batches(s->n_left, threads);
    s->batch = even < QUERY_BATCH ? even : QUERY_BATCH;
    const int64_t batches = fpq_batches(s->n_left, s->batch);
    s->ranges = batches >= threads ? 1 : threads;
    if (s->ranges > blocks / MIN_RANGE_BLOCKS) s->ranges = blocks / MIN_RANGE_BLOCKS;
    if (s->ranges < 1) s->ranges = 1;
    s->range_blocks = fpq_batches(blocks, s->ranges);
    return batches * s->ranges;
}

/* The queries and blocks of a task; a step is a tile. */
typedef struct {
    int64_t first, range, from, to, step;
    int n;
} part;

static part part_of(const search *s, int64_t task) {
    const int64_t batch = task / s->ranges, range = task % s->ranges, from = range * s->range_blocks;
    const int64_t blocks = fpq_batches(s->rows->selector.n, 64);
    const int64_t step = TILE_BYTES / (int64_t)(fpq_block_numbers(s->hashes->n_hashes) * sizeof(int32_t));
    const int64_t to = from + s->range_blocks < blocks ? from + s->range_blocks : blocks;
    return (part){batch * s->batch, range, from, to, step, fpq_batch_size(s->n_left, s->batch, batch)};
}

static fpq_place place_of_left(const search *s, int64_t task) {
    return fpq_place_of(s->values + s->left[task].query * s->hashes->n_hashes, s->hashes->n_hashes);
}

/* Which rows of a block may be returned and have a sum of at most `limit`. */
static uint64_t near_in_block(const search *s, const fpq_kernels *kern, const fpq_place *at, int64_t block, float limit,
                              float *sums) {
    const fpq_selector *selector = &s->rows->selector;
    const int m = s->hashes->n_hashes;
    const int64_t present = selector->n - block * 64;
    uint64_t near = kern->near_projections(s->p->blocks + (size_t)block * fpq_block_numbers(m), at->q, m, limit, sums);
    if (selector->allowed) near &= selector->allowed[block];
    return present < 64 ? near & (((uint64_t)1 << present) - 1) : near;
}

/* ---- the first scan ---- */
static void find_nearest(void *context, int64_t task, fpq_worker *worker) {
    const search *s = context;
    const fpq_kernels *kern = fpq_active();
    const part here = part_of(s, task);
    FPQ_ALIGN(64) float sums[64];
    fpq_results results[QUERY_BATCH];
    fpq_place places[QUERY_BATCH];
    for (int i = 0; i < here.n; i++) {
        results[i] = fpq_results_of(s->of_ranges, (here.first + i) * s->ranges + here.range, (fpq_ids){0});
        places[i] = place_of_left(s, here.first + i);
    }
    for (int64_t tile = here.from; tile < here.to && !fpq_stopped(worker->poll); tile += here.step)
        for (int i = 0; i < here.n; i++)
            for (int64_t b = tile; b < tile + here.step && b < here.to; b++) {
                uint64_t near = near_in_block(s, kern, places + i, b, results[i].threshold, sums);
                for (; near; near &= near - 1) {
                    const int r = fpq_lowest_bit(near);
                    fpq_offer_row(results + i, sums[r], b * 64 + r);
                }
            }
    for (int i = 0; i < here.n; i++)
        if (fpq_results_finish(results + i, s->of_ranges, (here.first + i) * s->ranges + here.range)) fpq_fail(worker);
}

/* The radius, in buckets, that a sum stands for, and the sum for a radius. */
static double error_of(const search *s) { return sqrt(s->hashes->n_hashes) * FPQ_ROUNDING; }

static double radius_of(const search *s, const fpq_place *at, float sum) {
    return (sqrt(fmax(sum / (FPQ_STEPS / 2) + at->length, 0)) - error_of(s)) / s->p->reach;
}

static float sum_of(const search *s, const fpq_place *at, double radius) {
    const double projected = radius * s->p->reach + error_of(s);
    return (float)fmin((projected * projected - at->length) * (FPQ_STEPS / 2) + 1, 1e30);
}

/* Verifies the rows found, and puts down how far the first stop rule lets the search go. */
static void verify_found(void *context, int64_t task, fpq_worker *worker) {
    const search *s = context;
    progress *left = s->left + task;
    const int64_t i = left->query, n = s->found.k, *rows = s->found.ids + task * n;
    const size_t size = s->rows->sketcher ? (size_t)s->rows->sketcher->size : 0;
    const fpq_place at = place_of_left(s, task);
    fpq_verifier v = fpq_verifier_at(worker->scratch, s->hashes, s->rows);
    int64_t row = 0;
    fpq_verify_start(&v, s->queries + i * s->hashes->d, &s->answers, i);
    for (; row < n && rows[row] >= 0; row++) {
        if (row % POLL_ROWS == 0 && fpq_stopped(worker->poll)) break;
        if (size && row + AHEAD < n && rows[row + AHEAD] >= 0)
            FPQ_PREFETCH(s->rows->sketches + (size_t)rows[row + AHEAD] * size);
        fpq_verify_by_sketch(&v, (uint32_t)rows[row]);
    }
    fpq_verify_waiting(&v);
    left->found = left->limit = -INFINITY;
    left->kth = v.results.threshold;
    if (!s->p->n_candidates && row == n && n < s->rows->selector.n) {
        left->found = s->found.distances[(task + 1) * n - 1];
        left->limit = sum_of(s, &at, sqrt(fpq_verify_threshold(&v)) / (s->p->ratio * s->p->width));
    }
    if (fpq_results_finish(&v.results, &s->answers, i)) fpq_fail(worker);
    s->stats[i] = (fpq_lsh_stats){1, row, v.verified};
}

/* The queries whose search goes on. */
static void drop_ended(search *s) {
    int64_t n = 0;
    for (int64_t task = 0; task < s->n_left; task++)
        if (s->left[task].found < s->left[task].limit) s->left[n++] = s->left[task];
    s->n_left = n;
}

/* ---- the second stop rule ---- */
/* After how many rows the search may end, where a radius is reached. */
static double budget_at(const search *s, double radius) {
    const double n = (double)s->rows->selector.n;
    if (radius <= 0) return INFINITY;
    const double far = (s->p->reach + 2 * error_of(s) / radius) / s->p->ratio;
    return (double)(s->answers.k + s->p->n_clipped) + 2 * fpq_chi_squared(far * far, s->hashes->n_hashes) * n;
}

static int is_over_budget(const search *s, const fpq_place *at, float limit, fpq_poll *poll) {
    const fpq_kernels *kern = fpq_active();
    FPQ_ALIGN(64) float sums[64];
    int64_t count = 0;
    for (int64_t b = 0; b < fpq_batches(s->rows->selector.n, 64); b++) {
        if (b % POLL_BLOCKS == 0 && fpq_stopped(poll)) break;
        count += fpq_popcount(near_in_block(s, kern, at, b, limit, sums));
    }
    return (double)count >= budget_at(s, radius_of(s, at, limit));
}

static void apply_budget(void *context, int64_t task, fpq_worker *worker) {
    const search *s = context;
    progress *left = s->left + task;
    const fpq_place at = place_of_left(s, task);
    float low = left->found, high = left->limit;
    if (at.clipped || !is_over_budget(s, &at, high, worker->poll)) return;
    for (int i = 0; i < BISECTIONS; i++) {
        const float middle = low + (high - low) / 2;
        if (is_over_budget(s, &at, middle, worker->poll))
            high = middle;
        else
            low = middle;
    }
    left->limit = high;
}

/* ---- the second scan ---- */
/* One query in a task; rows wait while their sketches come from memory. The sketch threshold stays, so that it does not
 * depend on the ranges which rows are verified. */
typedef struct {
    fpq_verifier v;
    fpq_place at;
    int64_t candidates;
    int32_t sketch_threshold;
    uint32_t waiting[128];
    int n;
} scanned;

static void verify_scanned(scanned *q) {
    for (int i = 0; i < q->n; i++) {
        q->v.sketch_threshold = q->sketch_threshold;
        fpq_verify_by_sketch(&q->v, q->waiting[i]);
    }
    q->candidates += q->n;
    q->n = 0;
}

static void scan_block(const search *s, scanned *q, int64_t block, float limit, size_t size) {
    FPQ_ALIGN(64) float sums[64];
    uint64_t near = near_in_block(s, q->v.kern, &q->at, block, limit, sums);
    for (; near; near &= near - 1) {
        const uint32_t row = (uint32_t)(block * 64 + fpq_lowest_bit(near));
        if (size) FPQ_PREFETCH(s->rows->sketches + (size_t)row * size);
        q->waiting[q->n++] = row;
    }
    if (q->n >= 64) verify_scanned(q);
}

static void verify_within(void *context, int64_t task, fpq_worker *worker) {
    const search *s = context;
    const part here = part_of(s, task);
    const size_t verifier = fpq_verifier_size(s->hashes, s->rows);
    const size_t size = s->rows->sketcher ? (size_t)s->rows->sketcher->size : 0;
    scanned *batch = (scanned *)(void *)(worker->scratch + QUERY_BATCH * verifier);
    for (int i = 0; i < here.n; i++) {
        const progress *left = s->left + here.first + i;
        batch[i] = (scanned){.v = fpq_verifier_at(worker->scratch + (size_t)i * verifier, s->hashes, s->rows)};
        batch[i].at = place_of_left(s, here.first + i);
        fpq_verify_start(&batch[i].v, s->queries + left->query * s->hashes->d, s->of_ranges,
                         (here.first + i) * s->ranges + here.range);
        batch[i].v.results.threshold = left->kth;
        fpq_verify_waiting(&batch[i].v);
        batch[i].sketch_threshold = batch[i].v.sketch_threshold;
    }
    for (int64_t tile = here.from; tile < here.to && !fpq_stopped(worker->poll); tile += here.step)
        for (int i = 0; i < here.n; i++)
            for (int64_t b = tile; b < tile + here.step && b < here.to; b++)
                scan_block(s, batch + i, b, s->left[here.first + i].limit, size);
    for (int i = 0; i < here.n; i++) {
        const int64_t at = (here.first + i) * s->ranges + here.range;
        verify_scanned(batch + i);
        fpq_verify_waiting(&batch[i].v);
        if (fpq_results_finish(&batch[i].v.results, s->of_ranges, at)) fpq_fail(worker);
        s->range_stats[at] = (fpq_lsh_stats){1, batch[i].candidates, batch[i].v.verified};
    }
}

/* ---- both ---- */
static void take_answers(const search *s) {
    const int64_t k = s->answers.k;
    for (int64_t task = 0; task < s->n_left; task++) {
        const int64_t i = s->left[task].query;
        memcpy(s->answers.distances + i * k, s->found.distances + task * k, (size_t)k * sizeof(float));
        memcpy(s->answers.ids + i * k, s->found.ids + task * k, (size_t)k * sizeof(int64_t));
        s->stats[i].buckets++;
        s->stats[i].candidates = 0;
        for (int64_t at = task * s->ranges; at < (task + 1) * s->ranges; at++) {
            s->stats[i].candidates += s->range_stats[at].candidates;
            s->stats[i].verified += s->range_stats[at].verified;
        }
    }
}

/* Searches the queries left by both scans; the first finds n_found rows. */
static int search_chunk(search *s, int64_t n_found, int threads) {
    const size_t verifier = fpq_verifier_size(s->hashes, s->rows);
    const int64_t k = s->answers.k, most = n_found > k ? n_found : k, pairs = s->n_left * most;
    int64_t *ids = fpq_alloc((size_t)pairs * (sizeof(int64_t) + sizeof(float)) +
                             (size_t)(s->n_left * threads) * sizeof(fpq_lsh_stats));
    if (!ids) return -1;
    s->range_stats = (fpq_lsh_stats *)(void *)(ids + pairs);
    s->found = (fpq_answers){
        .k = n_found, .distances = (float *)(void *)(s->range_stats + s->n_left * threads), .ids = ids};
    int64_t tasks = make_tasks(s, threads);
    int status = fpq_search_ranges(&s->found, s->n_left, s->ranges, &s->of_ranges, tasks, 0, threads, find_nearest, s);
    if (!status) status = fpq_parallel(s->n_left, verifier, threads, verify_found, s);
    drop_ended(s);
    if (!status && s->n_left && budget_at(s, INFINITY) < (double)s->rows->selector.n) {
        status = fpq_parallel(s->n_left, 0, threads, apply_budget, s);
        drop_ended(s);
    }
    if (!status && s->n_left) {
        s->found.k = k;
        tasks = make_tasks(s, threads);
        status = fpq_search_ranges(&s->found, s->n_left, s->ranges, &s->of_ranges, tasks,
                                   QUERY_BATCH * (verifier + sizeof(scanned)), threads, verify_within, s);
        if (!status) take_answers(s);
    }
    fpq_free(ids);
    return status;
}

/* How many rows the first scan finds. */
static int64_t first_rows(const search *s) {
    const int64_t n = s->rows->selector.n, k = s->answers.k;
    int64_t rows = 4 * k > FIRST_ROWS ? 4 * k : FIRST_ROWS;
    const double budget = ceil(budget_at(s, INFINITY));
    if (budget < (double)rows) rows = (int64_t)budget;
    if (s->p->n_candidates) rows = s->p->n_candidates;
    return rows < n ? rows : n;
}

int fpq_pmlsh_search(const fpq_hashes *hashes, const fpq_pmlsh *p, const fpq_lsh_rows *rows, const float *queries,
                     int64_t nq, int k, float *distances, int64_t *ids, fpq_lsh_stats *stats, int threads) {
    const int64_t m = hashes->n_hashes, ld = hashes->d * (int64_t)sizeof(float);
    const fpq_matrix q = {(const char *)queries, nq, hashes->d, ld, sizeof(float), FPQ_F32, 0};
    search s = {.hashes = hashes,
                .p = p,
                .rows = rows,
                .queries = queries,
                .stats = stats,
                .answers = {.k = k, .distances = distances, .ids = ids}};
    const int64_t n_found = first_rows(&s), pair = sizeof(int64_t) + sizeof(float);
    const int64_t fits = CHUNK_BYTES / ((n_found > k ? n_found : k) * pair), least = (int64_t)QUERY_BATCH * threads;
    const int64_t chunk = fits > least ? fits : least;
    if (!nq) return 0;
    s.left = fpq_alloc((size_t)nq * (sizeof(progress) + (size_t)m * sizeof(float)));
    if (!s.left) return -1;
    progress *all = s.left;
    float *values = (float *)(void *)(all + nq);
    s.values = values;
    int status = fpq_lsh_values(hashes, &q, values, threads);
    for (int64_t first = 0; first < nq && !status; first += chunk) {
        s.n_left = nq - first < chunk ? nq - first : chunk;
        for (int64_t i = 0; i < s.n_left; i++) s.left[i].query = first + i;
        status = search_chunk(&s, n_found, threads);
    }
    fpq_free(all);
    return status;
}
