/* SPDX-License-Identifier: MIT
 * Exact search over all codes by asymmetric distances. A task is a batch of queries over a range of code blocks; a tile
 * of blocks stays in the L2 cache while all queries of the batch pass over it. Where there are fewer queries than
 * threads, each query's rows are cut into ranges, and the answers of the ranges are merged. */
#include "isa/kernels.h"
#include "parallel.h"
#include "portable.h"
#include "scan/scan.h"

/* The look-up tables of a batch stay in the L2 cache beside a tile; codes come from memory once for the whole batch. */
enum { QUERY_BATCH = 64, QUERY_BATCH_BYTES = 2 << 20, TILE_BYTES = 128 << 10, MIN_RANGE_BLOCKS = 64 };

typedef struct {
    fpq_scan scan;
    const float *queries;
    int64_t nq, batch;
    const fpq_selector *selector;
    int64_t n_blocks, ranges, range_blocks, tile;
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

static void scan_range(const search *s, fpq_lut *lut, int64_t first, int64_t end, fpq_results *results) {
    fpq_run run;
    run.n = run.has_offsets = 0;
    while (first < end) {
        for (; first < end && run.n < FPQ_BLOCK_RUN; first++) {
            run.rows[run.n] = rows_of_block(s->selector, first);
            run.block_ids[run.n] = (int32_t)first;
            run.n += run.rows[run.n] != 0;
        }
        fpq_scan_run(&s->scan, lut, &run, results);
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
    int64_t end = (range + 1) * s->range_blocks;
    if (end > s->n_blocks) end = s->n_blocks;
    for (int64_t first = range * s->range_blocks; first < end && !fpq_stopped(worker->poll); first += s->tile)
        for (int i = 0; i < n; i++)
            scan_range(s, lut + i, first, first + s->tile < end ? first + s->tile : end, results + i);
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
    if (s.tile < 1) s.tile = 1;
    return fpq_search_ranges(answers, nq, s.ranges, &s.answers, fpq_batches(nq, s.batch) * s.ranges,
                             (size_t)s.batch * s.lut_size, threads, search_batch, &s);
}
