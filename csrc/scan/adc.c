/* SPDX-License-Identifier: MIT
 * Exact search over codes: the k smallest sums of table entries. A piece of work is a group of queries over a range of
 * blocks; a tile of blocks stays in the L2 cache while all queries of the group pass over it. Few queries share the rows
 * among the threads, and their answers are merged. */
#include <string.h>

#include "kernels.h"
#include "portable.h"
#include "scan/sieve.h"
#include "threads.h"
#include "topk.h"

enum { GROUP = 8, TILE_BYTES = 128 << 10, RANGE_BLOCKS = 64, RUN = 32, MANY = 12 };

typedef struct {
    const fpq_kernels *kern;
    const fpq_adc *adc;
    const uint8_t *blocks;
    const fpq_population *pop;
    int code_size;
} scan;

/* Rows of a block that exist and are allowed. */
static uint64_t rows_of_block(const fpq_population *pop, int64_t block) {
    const int64_t left = pop->n - block * 64;
    const uint64_t present = left < 64 ? ((uint64_t)1 << left) - 1 : ~(uint64_t)0;
    return pop->allowed ? present & pop->allowed[block] : present;
}

static void push(const scan *s, fpq_topk *top, float distance, int64_t row) {
    if (distance <= fpq_topk_limit(top)) fpq_topk_push(top, distance, s->pop->ids ? s->pop->ids[row] : row);
}

/* Exact sums of all 64 rows of a block. */
static void scan_block(const scan *s, const fpq_query *query, int64_t block, uint64_t rows, fpq_topk *top) {
    FPQ_ALIGN(64) float sums[64];
    s->kern->adc(query->table, fpq_ld_table(s->adc), s->adc->m, s->adc->nbits, s->blocks + block * 64 * s->code_size, sums);
    for (uint64_t hits = rows & s->kern->at_most(sums, fpq_topk_limit(top)); hits; hits &= hits - 1) {
        const int r = fpq_lowest_bit(hits);
        push(s, top, sums[r], block * 64 + r);
    }
}

/* Exact sums of a few rows of a block. */
static void scan_rows(const scan *s, const fpq_query *query, int64_t block, uint64_t rows, fpq_topk *top) {
    const uint8_t *codes = s->blocks + block * 64 * s->code_size;
    const int ld = fpq_ld_table(s->adc), nbits = s->adc->nbits;
    for (; rows; rows &= rows - 1) {
        const int r = fpq_lowest_bit(rows);
        float sum = 0;
        for (int j = 0; j < s->adc->m; j++) {
            const int code = nbits == 8 ? codes[j * 64 + r] : codes[j / 2 * 64 + r] >> j % 2 * 4 & 15;
            sum += query->table[(ptrdiff_t)j * ld + code];
        }
        push(s, top, sum, block * 64 + r);
    }
}

/* A run of blocks through the sieve, in two stages: most blocks have no near row left after half of the subquantizers. */
static int64_t sieve_run(const scan *s, fpq_query *query, int64_t first, int64_t end, fpq_topk *top) {
    FPQ_ALIGN(64) uint8_t sums[RUN * 64];
    uint64_t near[RUN], rows[RUN];
    int32_t which[RUN];
    int n = 0;
    int64_t block = first;
    for (; block < end && n < RUN; block++) {
        rows[n] = rows_of_block(s->pop, block);
        which[n] = (int32_t)(block - first);
        n += rows[n] != 0;
    }
    const float limit = fpq_topk_limit(top);
    if (limit < query->limit - (query->limit - query->base) / 16 || query->limit == INFINITY)
        fpq_query_tighten(s->kern, s->adc, limit, query);
    const int m = s->adc->m, stages[] = {0, m < 8 ? 0 : m / 2, m};
    memset(sums, 0, (size_t)n * 64);
    for (int stage = 0; stage < 2; stage++) {
        const fpq_sieve sieve = {.entries = query->entries, .minima = query->minima, .order = query->order + stages[stage],
                                 .n = stages[stage + 1] - stages[stage]};
        if (!sieve.n) continue;
        (s->adc->nbits == 8 ? s->kern->sieve8 : s->kern->sieve4)(&sieve, s->blocks + first * 64 * s->code_size, s->code_size,
                                                                 which, n, sums, near);
        int alive = 0;
        for (int i = 0; i < n; i++) {
            if (!(near[i] & rows[i])) continue;
            which[alive] = which[i];
            rows[alive] = near[i] & rows[i];
            if (alive != i) memcpy(sums + alive * 64, sums + i * 64, 64);
            alive++;
        }
        n = alive;
    }
    for (int i = 0; i < n; i++)
        (fpq_popcount(rows[i]) > MANY ? scan_block : scan_rows)(s, query, first + which[i], rows[i], top);
    return block;
}

static void scan_blocks(const scan *s, fpq_query *query, int64_t first, int64_t end, fpq_topk *top) {
    const int sieves = s->kern->fast_sieve && (s->adc->nbits == 8 || s->adc->nbits == 4);
    while (first < end) {
        const uint64_t rows = rows_of_block(s->pop, first);
        if (sieves && fpq_topk_limit(top) < INFINITY) {
            first = sieve_run(s, query, first, end, top);
        } else {
            if (rows) scan_block(s, query, first, rows, top);
            first++;
        }
    }
}

int fpq_adc_search(const fpq_adc *adc, const float *queries, int64_t nq, const uint8_t *blocks, const fpq_population *pop,
                   int k, float *distances, int64_t *ids, int threads) {
    const scan s = {.kern = fpq_active(), .adc = adc, .blocks = blocks, .pop = pop,
                    .code_size = fpq_code_size(adc->m, adc->nbits)};
    const int d = adc->offsets[adc->m];
    const int64_t n_blocks = (pop->n + 63) / 64;
    const size_t query_size = fpq_query_size(adc);
    /* Queries are grouped when there are enough of them to go round, otherwise each query's rows are cut into ranges. */
    const int group = nq >= (int64_t)GROUP * threads ? GROUP : nq >= threads ? (int)(nq / threads) : 1;
    int64_t ranges = nq >= threads ? 1 : 2 * threads;
    if (ranges > n_blocks / RANGE_BLOCKS) ranges = n_blocks / RANGE_BLOCKS;
    if (ranges < 1) ranges = 1;
    const int64_t groups = (nq + group - 1) / group, range_blocks = (n_blocks + ranges - 1) / ranges;
    const int64_t tile = TILE_BYTES / (64 * s.code_size) + 1;
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
        fpq_query query[GROUP];
        fpq_topk top[GROUP];
        for (int i = 0; i < n; i++) {
            fpq_query_init(adc, queries + (first_query + i) * d, mine + (size_t)i * query_size, query + i);
            top[i] = ranges == 1 ? (fpq_topk){distances + (first_query + i) * k, ids + (first_query + i) * k, k}
                                 : (fpq_topk){part_distances + (ptrdiff_t)task * k, parts + (ptrdiff_t)task * k, k};
            fpq_topk_init(top + i);
        }
        int64_t end = (range + 1) * range_blocks;
        if (end > n_blocks) end = n_blocks;
        for (int64_t first = range * range_blocks; first < end; first += tile)
            for (int i = 0; i < n; i++)
                scan_blocks(&s, query + i, first, first + tile < end ? first + tile : end, top + i);
        for (int i = 0; i < n && ranges == 1; i++) fpq_topk_sort(top + i);
    }
    for (int64_t i = 0; i < nq && ranges > 1; i++) {
        fpq_topk top = {distances + i * k, ids + i * k, k};
        fpq_topk_init(&top);
        for (int64_t p = i * ranges * k; p < (i + 1) * ranges * k; p++)
            if (parts[p] >= 0) fpq_topk_push(&top, part_distances[p], parts[p]);
        fpq_topk_sort(&top);
    }
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
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int i = 0; i < tasks; i++) {
        FPQ_ALIGN(64) float sums[64];
        float *mine = tables + (size_t)FPQ_THREAD_NUMBER() * table;
        fpq_adc_table(adc, queries + (ptrdiff_t)i * d, mine);
        for (int64_t row = 0; row < n; row += 64) {
            kern->adc(mine, fpq_ld_table(adc), adc->m, adc->nbits, blocks + (first + row) * code_size, sums);
            for (int64_t r = row; r < n && r < row + 64; r++) out[i * n + r] = sums[r - row];
        }
    }
    fpq_free(tables);
    return 0;
}
