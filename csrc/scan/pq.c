/* SPDX-License-Identifier: MIT
 * Exact search over all codes: the k smallest sums of table entries. A piece of work is a group of queries over a range
 * of blocks; a tile of blocks stays in the L2 cache while all queries of the group pass over it. Few queries share the
 * rows among the threads, and their answers are merged. */
#include "isa/kernels.h"
#include "portable.h"
#include "scan/scan.h"
#include "parallel.h"

/* Tables of a group stay in the L2 cache beside a tile, where codes come from memory once for the whole group. */
enum { GROUP = 64, GROUP_BYTES = 2 << 20, TILE_BYTES = 128 << 10, RANGE_BLOCKS = 64 };

/* How many queries pass over a tile together, so that every thread has as many. */
static int group_size(int64_t nq, size_t query_size, int threads) {
    int64_t most = GROUP_BYTES / (int64_t)query_size;
    most = most < 1 ? 1 : most > GROUP ? GROUP : most;
    const int64_t rounds = (nq + most * threads - 1) / (most * threads);
    return rounds ? (int)((nq + rounds * threads - 1) / (rounds * threads)) : 1;
}

/* Rows of a block that exist and are allowed. */
static uint64_t rows_of_block(const fpq_selector *selector, int64_t block) {
    const int64_t left = selector->n - block * 64;
    const uint64_t present = left < 64 ? ((uint64_t)1 << left) - 1 : ~(uint64_t)0;
    return selector->allowed ? present & selector->allowed[block] : present;
}

static void scan_blocks(const fpq_scan *s, const fpq_selector *selector, fpq_lut *query, int64_t first, int64_t end,
                        fpq_topk *top) {
    uint64_t rows[FPQ_BLOCK_RUN];
    int32_t which[FPQ_BLOCK_RUN];
    while (first < end) {
        int n = 0;
        for (; first < end && n < FPQ_BLOCK_RUN; first++) {
            rows[n] = rows_of_block(selector, first);
            which[n] = (int32_t)first;
            n += rows[n] != 0;
        }
        fpq_scan_blocks(s, query, which, rows, n, top);
    }
}

int fpq_adc_search(const fpq_adc *adc, const float *queries, int64_t nq, const uint8_t *blocks,
                   const fpq_selector *selector, int k, float *distances, int64_t *ids, int threads) {
    const fpq_scan s = fpq_scan_of(adc, blocks);
    const int d = adc->offsets[adc->m];
    const int64_t n_blocks = (selector->n + 63) / 64;
    const size_t query_size = fpq_lut_size(adc);
    /* Too few queries to go round: the rows are cut into ranges. */
    const int group = group_size(nq, query_size, threads);
    int64_t ranges = nq >= threads ? 1 : 2 * threads;
    if (ranges > n_blocks / RANGE_BLOCKS) ranges = n_blocks / RANGE_BLOCKS;
    if (ranges < 1) ranges = 1;
    const int64_t groups = (nq + group - 1) / group, range_blocks = (n_blocks + ranges - 1) / ranges;
    const int64_t fitting = TILE_BYTES / (64 * s.code_size), tile = fitting > 1 ? fitting : 1;
    const int tasks = (int)(groups * ranges);
    threads = fpq_threads(threads, tasks);

    char *memory = fpq_alloc((size_t)threads * (size_t)group * query_size);
    int64_t *parts = ranges > 1 ? fpq_alloc((size_t)tasks * (size_t)k * (sizeof(int64_t) + sizeof(float))) : NULL;
    int status = memory && (parts || ranges == 1) ? 0 : -1;
    if (status) goto done;
    float *part_distances = (float *)(void *)(parts + (parts ? (int64_t)tasks * k : 0));
    fpq_poll poll = {0};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int task = 0; task < tasks; task++) {
        if (fpq_stopped(&poll)) continue;
        const int64_t first_query = task / ranges * group, range = task % ranges;
        const int n = nq - first_query < group ? (int)(nq - first_query) : group;
        char *mine = memory + (size_t)FPQ_THREAD_NUMBER() * (size_t)group * query_size;
        fpq_lut query[GROUP];
        fpq_topk top[GROUP];
        for (int i = 0; i < n; i++) {
            fpq_lut_place(adc, mine + (size_t)i * query_size, query + i);
            top[i] = ranges == 1 ? (fpq_topk){.distance = distances + (first_query + i) * k,
                                              .id = ids + (first_query + i) * k,
                                              .k = k}
                                 : (fpq_topk){.distance = part_distances + (ptrdiff_t)task * k,
                                              .id = parts + (ptrdiff_t)task * k,
                                              .k = k};
            fpq_topk_init(top + i);
            top[i].ids = selector->ids;
        }
        fpq_lut *of[GROUP];
        for (int i = 0; i < n; i++) of[i] = query + i;
        for (int i = 0; i < n; i += FPQ_LUT_QUERIES)
            fpq_lut_make(adc, queries + (first_query + i) * d, n - i < FPQ_LUT_QUERIES ? n - i : FPQ_LUT_QUERIES,
                         of + i);
        for (int i = 0; i < n; i++) fpq_lut_order(adc, query + i);
        int64_t end = (range + 1) * range_blocks;
        if (end > n_blocks) end = n_blocks;
        for (int64_t first = range * range_blocks; first < end && !fpq_stopped(&poll); first += tile)
            for (int i = 0; i < n; i++)
                scan_blocks(&s, selector, query + i, first, first + tile < end ? first + tile : end, top + i);
        for (int i = 0; i < n; i++) {
            fpq_topk_rows_to_ids(top + i);
            if (ranges == 1) fpq_topk_sort(top + i);
        }
    }
    for (int64_t i = 0; i < nq && ranges > 1; i++)
        fpq_topk_merge((fpq_topk){.distance = distances + i * k, .id = ids + i * k, .k = k},
                       part_distances + i * ranges * k, parts + i * ranges * k, ranges * k);
    if (poll.stop) status = -1;
done:
    fpq_free(memory);
    fpq_free(parts);
    return status;
}

int fpq_adc_all(const fpq_adc *adc, const float *queries, int64_t nq, const uint8_t *blocks, int64_t first, int64_t n,
                float *out, int threads) {
    const fpq_kernels *kern = fpq_active();
    const int d = adc->offsets[adc->m], code_size = fpq_code_size(adc->m, adc->nbits), tasks = (int)nq;
    const size_t table = (size_t)adc->m * (size_t)fpq_ld_table(adc);
    threads = fpq_threads(threads, tasks);
    float *tables = fpq_alloc((size_t)threads * table * sizeof(float));
    if (!tables) return -1;
    fpq_poll poll = {0};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int i = 0; i < tasks; i++) {
        FPQ_ALIGN(64) float sums[64];
        float *mine = tables + (size_t)FPQ_THREAD_NUMBER() * table;
        fpq_adc_table(adc, queries + (ptrdiff_t)i * d, mine);
        for (int64_t row = 0; row < n; row += 64) {
            if (row % (1 << 14) == 0 && fpq_stopped(&poll)) break;
            kern->adc(mine, fpq_ld_table(adc), adc->m, adc->nbits, blocks + (first + row) * code_size, sums);
            for (int64_t r = row; r < n && r < row + 64; r++) out[i * n + r] = sums[r - row];
        }
    }
    fpq_free(tables);
    return poll.stop ? -1 : 0;
}
