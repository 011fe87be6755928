/* SPDX-License-Identifier: MIT
 * Exact search over all codes by asymmetric distances. A task is a batch of queries over a range of code blocks; a tile
 * of blocks stays in the L2 cache while all queries of the batch pass over it. Where there are fewer queries than
 * threads, each query's rows are cut into ranges, and the answers of the ranges are merged.
 *
 * Blocks are scanned in parts, the first ones spread over all: by the nearest rows of a part, the threshold of the next
 * one is estimated, which leaves out most of what a top-k would hold for a while. A query whose results are fewer than
 * k in the end had too low an estimate, and is searched once more without one: answers are exact. */
#include <string.h>

#include "isa/kernels.h"
#include "parallel.h"
#include "portable.h"
#include "scan/scan.h"

/* The look-up tables of a batch stay in the L2 cache beside a tile; codes come from memory once for the whole batch. */
enum { QUERY_BATCH = 64, QUERY_BATCH_BYTES = 2 << 20, TILE_BYTES = 128 << 10, MAX_TILE = 256, MIN_RANGE_BLOCKS = 64 };

/* Every 9th block at most is in a part that is spread: codes of blocks in a row are faster to load. */
enum { STEP = 3, LEAST_STRIDE = 9 };
#ifdef FPQ_SELFTEST
enum { MIN_PART_BLOCKS = 2 };
#else
enum { MIN_PART_BLOCKS = FPQ_BLOCK_RUN };
#endif

typedef struct {
    fpq_scan scan;
    const float *queries;
    int64_t nq, batch;
    const fpq_selector *selector;
    int64_t n_blocks, ranges, range_blocks;
    int tile;                   /* blocks */
    const fpq_answers *answers; /* of query i in range r: number i * ranges + r */
    size_t lut_size;
} search;

/* As many queries per batch for every thread, and no more than fit. */
static int64_t batch_size(int64_t nq, size_t lut_size, int threads) {
    int64_t most = QUERY_BATCH_BYTES / (int64_t)lut_size;
    most = most < 1 ? 1 : most > QUERY_BATCH ? QUERY_BATCH : most;
    const int64_t rounds = fpq_batches(nq, most * threads);
    return rounds ? fpq_batches(nq, rounds * threads) : 1;
}

/* Rows of a block that exist and are allowed. */
static uint64_t rows_of_block(const fpq_selector *selector, int64_t block) {
    const int64_t left = selector->n - block * 64;
    const uint64_t present = left < 64 ? ((uint64_t)1 << left) - 1 : ~(uint64_t)0;
    return selector->allowed ? present & selector->allowed[block] : present;
}

/* Every stride-th block of a range, without those of an earlier part: every `before`-th, if that is not 0. */
typedef struct {
    int64_t first, end, stride, before;
} part;

/* The blocks of a tile that have rows. */
typedef struct {
    int n;
    int32_t block_ids[MAX_TILE];
    uint64_t rows[MAX_TILE];
} tile;

/* Appends blocks of a part, from *at on, while there is room. */
static void fill(const search *s, const part *p, int64_t *at, tile *t) {
    int64_t block = *at, skipped = p->before ? (block - p->first) % p->before : 1;
    for (t->n = 0; block < p->end && t->n < s->tile; block += p->stride) {
        const uint64_t rows = skipped ? rows_of_block(s->selector, block) : 0;
        t->block_ids[t->n] = (int32_t)block;
        t->rows[t->n] = rows;
        t->n += rows != 0;
        if (p->before && (skipped += p->stride) == p->before) skipped = 0;
    }
    *at = block;
}

static void scan_tile(const search *s, const tile *t, fpq_lut *lut, fpq_results *results) {
    fpq_run run;
    run.has_offsets = 0;
    for (int from = 0; from < t->n; from += FPQ_BLOCK_RUN) {
        run.n = t->n - from < FPQ_BLOCK_RUN ? t->n - from : FPQ_BLOCK_RUN;
        memcpy(run.block_ids, t->block_ids + from, (size_t)run.n * sizeof *run.block_ids);
        memcpy(run.rows, t->rows + from, (size_t)run.n * sizeof *run.rows);
        fpq_scan_run(&s->scan, lut, &run, results);
    }
}

static void scan_part(const search *s, const part *p, int n, fpq_lut *lut, fpq_results *results, fpq_poll *poll) {
    tile blocks;
    for (int64_t at = p->first; at < p->end && !fpq_stopped(poll);) {
        fill(s, p, &at, &blocks);
        for (int i = 0; i < n; i++) scan_tile(s, &blocks, lut + i, results + i);
    }
}

static int64_t first_stride(int64_t blocks) {
    int64_t stride = 1;
    while (blocks / (stride * STEP) >= MIN_PART_BLOCKS) stride *= STEP;
    return stride < LEAST_STRIDE ? 1 : stride;
}

/* Scans blocks first..end for n queries, part by part. */
static void scan_range(const search *s, int64_t first, int64_t end, int n, fpq_lut *lut, fpq_results *results,
                       fpq_poll *poll) {
    part here = {first, end, s->answers->k ? first_stride(end - first) : 1, 0};
    scan_part(s, &here, n, lut, results, poll);
    while (here.stride > 1) {
        for (int i = 0; i < n; i++) {
            const float expected = fpq_results_expected(results + i, 1 / (float)here.stride);
            if (expected < results[i].threshold) fpq_results_lower(results + i, expected);
        }
        here.before = here.stride;
        here.stride = here.stride > LEAST_STRIDE ? here.stride / STEP : 1;
        scan_part(s, &here, n, lut, results, poll);
    }
    here.before = 0;
    for (int i = 0; i < n; i++) {
        if (!s->answers->k || results[i].n >= results[i].k || results[i].threshold == INFINITY) continue;
        fpq_results_restart(results + i);
        scan_part(s, &here, 1, lut + i, results + i, poll);
    }
}

static void search_batch(void *context, int64_t task, fpq_worker *worker) {
    const search *s = context;
    const fpq_adc *adc = s->scan.adc;
    const int64_t batch = task / s->ranges, range = task % s->ranges, first_query = batch * s->batch;
    const int n = fpq_batch_size(s->nq, s->batch, batch), d = adc->offsets[adc->m];
    fpq_lut lut[QUERY_BATCH], *luts[QUERY_BATCH];
    fpq_results results[QUERY_BATCH];
    for (int i = 0; i < n; i++) {
        fpq_lut_place(s->scan.kern, adc, worker->scratch + (size_t)i * s->lut_size, lut + i);
        luts[i] = lut + i;
        results[i] = fpq_results_of(s->answers, (first_query + i) * s->ranges + range, s->selector->ids);
    }
    for (int i = 0; i < n; i += FPQ_LUT_QUERIES)
        fpq_lut_make(s->queries + (first_query + i) * d, n - i < FPQ_LUT_QUERIES ? n - i : FPQ_LUT_QUERIES, luts + i);
    const int64_t first = range * s->range_blocks, end = first + s->range_blocks;
    scan_range(s, first, end < s->n_blocks ? end : s->n_blocks, n, lut, results, worker->poll);
    for (int i = 0; i < n; i++) {
        results[i].failed |= fpq_stopped(worker->poll);
        if (fpq_results_finish(results + i, s->answers, (first_query + i) * s->ranges + range)) fpq_fail(worker);
    }
}

int fpq_adc_search(const fpq_adc *adc, const float *queries, int64_t nq, const uint8_t *blocks,
                   const fpq_selector *selector, const fpq_answers *answers, int threads) {
    search s = {.scan = fpq_scan_of(adc, blocks), .queries = queries, .nq = nq, .selector = selector};
    s.scan.by_pairs = s.scan.kern->prunes_by_pairs && adc->nbits == 8;
    s.lut_size = fpq_lut_size(s.scan.kern, adc);
    threads = fpq_worth_threads(threads, nq * fpq_batches(selector->n, 64) * 64 * s.scan.code_size, FPQ_THREAD_BYTES);
    s.batch = batch_size(nq, s.lut_size, threads);
    s.n_blocks = fpq_batches(selector->n, 64);
    s.ranges = nq >= threads ? 1 : 2 * threads;
    if (s.ranges > s.n_blocks / MIN_RANGE_BLOCKS) s.ranges = s.n_blocks / MIN_RANGE_BLOCKS;
    if (s.ranges < 1) s.ranges = 1;
    s.range_blocks = fpq_batches(s.n_blocks, s.ranges);
    s.tile = TILE_BYTES / (64 * s.scan.code_size);
    s.tile = s.tile < 1 ? 1 : s.tile > MAX_TILE ? MAX_TILE : s.tile;
    return fpq_search_ranges(answers, nq, s.ranges, &s.answers, fpq_batches(nq, s.batch) * s.ranges,
                             (size_t)s.batch * s.lut_size, threads, search_batch, &s);
}
