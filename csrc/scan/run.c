/* SPDX-License-Identifier: MIT */
#include "scan/run.h"

#include <string.h>

#include "portable.h"

/* MANY: rows of a block that are worth looking at all. FEW: rows that are not worth a table. */
enum { MANY = 24, FEW = 32, SAMPLE = 32, WIDE = 8 };

fpq_scan fpq_scan_of(const fpq_adc *adc, const uint8_t *blocks, const int64_t *ids) {
    const fpq_kernels *kern = fpq_active();
    return (fpq_scan){.kern = kern, .adc = adc, .blocks = blocks, .ids = ids, .code_size = fpq_code_size(adc->m, adc->nbits),
                      .sieves = kern->fast_sieve && (adc->nbits == 8 || adc->nbits == 4)};
}

static void push(const fpq_scan *s, fpq_topk *top, float distance, int64_t row) {
    if (distance <= fpq_topk_limit(top)) fpq_topk_push(top, distance, s->ids ? s->ids[row] : row);
}

/* Exact sums of all 64 rows of a block. */
static void scan_block(const fpq_scan *s, const fpq_query *query, int64_t block, uint64_t rows, fpq_topk *top) {
    FPQ_ALIGN(64) float sums[64];
    s->kern->adc(query->table, fpq_ld_table(s->adc), s->adc->m, s->adc->nbits, s->blocks + block * 64 * s->code_size, sums);
    if (query->offset != 0)
        for (int r = 0; r < 64; r++) sums[r] += query->offset;
    for (uint64_t hits = rows & s->kern->at_most(sums, fpq_topk_limit(top)); hits; hits &= hits - 1) {
        const int r = fpq_lowest_bit(hits);
        push(s, top, sums[r], block * 64 + r);
    }
}

/* Exact sums of a few rows of a block. */
static void scan_rows(const fpq_scan *s, const fpq_query *query, int64_t block, uint64_t rows, fpq_topk *top) {
    const uint8_t *codes = s->blocks + block * 64 * s->code_size;
    for (; rows; rows &= rows - 1) {
        const int r = fpq_lowest_bit(rows);
        push(s, top, (query->rough_of ? fpq_query_distance : fpq_query_estimate)(s->adc, query, codes + r), block * 64 + r);
    }
}

static int count(const uint64_t *rows, int n) {
    int sum = 0;
    for (int b = 0; b < n; b++) sum += fpq_popcount(rows[b]);
    return sum;
}

/* Exact sums of what the sieve has left; of rough tables after a look at their estimates. */
static void scan_left(const fpq_scan *s, fpq_query *query, const int32_t *which, uint64_t *rows, int n, fpq_topk *top) {
    const float limit = fpq_topk_limit(top), most = fpq_query_most(s->adc, query, limit);
    for (int b = 0; b < n && query->rough_of && limit < INFINITY; b++)
        for (uint64_t left = rows[b]; left; left &= left - 1) {
            const uint8_t *codes = s->blocks + (ptrdiff_t)which[b] * 64 * s->code_size + fpq_lowest_bit(left);
            if (fpq_query_estimate(s->adc, query, codes) > most) rows[b] ^= left & (0 - left);
        }
    for (int b = 0; b < n && s->ids; b++)
        for (uint64_t left = rows[b]; left; left &= left - 1) FPQ_PREFETCH(s->ids + (ptrdiff_t)which[b] * 64 + fpq_lowest_bit(left));
    if (query->rough_of && count(rows, n) > FEW) fpq_query_make_exact(s->adc, query);
    for (int b = 0; b < n; b++)
        (!query->rough_of && fpq_popcount(rows[b]) > MANY ? scan_block : scan_rows)(s, query, which[b], rows[b], top);
}

static void add_bytes(const fpq_scan *s, const fpq_query *query, int from, int to, const int32_t *which, int n, uint8_t *sums,
                      uint64_t *near) {
    const fpq_sieve tables = {query->entries, fpq_groups(s->adc), query->order + from, to - from};
    (s->adc->nbits == 8 ? s->kern->sieve8 : s->kern->sieve4)(&tables, s->blocks, s->code_size, which, n, sums, near);
}

/* In stages, as many blocks have no near row left after some of the subquantizers. */
static int sieve(const fpq_scan *s, const fpq_query *query, int32_t *which, uint64_t *rows, int n) {
    FPQ_ALIGN(64) uint8_t sums[FPQ_RUN * 64];
    uint64_t near[FPQ_RUN];
    const int m = s->adc->m, ends[] = {0, m * 3 / 8, m * 5 / 8, m};
    memset(sums, 0, (size_t)n * 64);
    for (int stage = 0; stage < 3; stage++) {
        if (ends[stage] == ends[stage + 1]) continue;
        add_bytes(s, query, ends[stage], ends[stage + 1], which, n, sums, near);
        int alive = 0;
        for (int i = 0; i < n; i++) {
            which[alive] = which[i];
            rows[alive] = near[i] & rows[i];
            memmove(sums + alive * 64, sums + i * 64, 64);
            alive += rows[alive] != 0;
        }
        n = alive;
    }
    return n;
}

/* A distance within which there may be WIDE times k of so many rows, going by a few of the first block. */
static float guess(const fpq_scan *s, const fpq_query *query, int32_t block, uint64_t rows, int of, int k) {
    const uint8_t *codes = s->blocks + (ptrdiff_t)block * 64 * s->code_size;
    float sample[SAMPLE];
    int n = 0;
    for (; rows && n < SAMPLE; rows &= rows - 1, n++) {
        const float estimate = fpq_query_estimate(s->adc, query, codes + fpq_lowest_bit(rows));
        int at = n;
        for (; at && sample[at - 1] > estimate; at--) sample[at] = sample[at - 1];
        sample[at] = estimate;
    }
    const int64_t rank = (int64_t)WIDE * k * n / of;
    return sample[rank < n ? rank : n - 1];
}

/* While k rows are not known: scores those with the k least sums of bytes, then those that may still be among the k nearest.
 * Rows that need the sieve stay; 0 if there are none. */
static int begin(const fpq_scan *s, fpq_query *query, const int32_t *which, uint64_t *rows, int n, fpq_topk *top) {
    FPQ_ALIGN(64) uint8_t sums[FPQ_RUN * 64];
    uint64_t near[FPQ_RUN];
    const int of = count(rows, n);
    if (of < top->k) return n;
    const float limit = guess(s, query, which[0], rows[0], of, top->k);
    if (!fpq_query_tighten(s->kern, s->adc, limit, query)) return n;
    memset(sums, 0, (size_t)n * 64);
    add_bytes(s, query, 0, s->adc->m, which, n, sums, near);
    const int byte = s->kern->kth_byte(sums, rows, n, top->k);
    if (byte > FPQ_SIEVE_LIMIT) return n;
    for (int b = 0; b < n; b++) {
        near[b] = rows[b] & s->kern->bytes_at_most(sums + b * 64, byte);
        rows[b] ^= near[b];
    }
    scan_left(s, query, which, near, n, top);
    if (fpq_topk_limit(top) > limit) return n;
    for (int b = 0; b < n; b++) {
        rows[b] &= s->kern->bytes_at_most(sums + b * 64, fpq_query_bytes(query, fpq_topk_limit(top)));
        scan_left(s, query, which + b, rows + b, 1, top);
    }
    return 0;
}

void fpq_scan_run(const fpq_scan *s, fpq_query *query, int32_t *which, uint64_t *rows, int n, fpq_topk *top) {
    int i = 0;
    if (n && s->sieves && fpq_topk_limit(top) == INFINITY) n = begin(s, query, which, rows, n, top);
    if (n && (!s->sieves || fpq_topk_limit(top) == INFINITY)) fpq_query_make_exact(s->adc, query);
    for (; i < n && (!s->sieves || fpq_topk_limit(top) == INFINITY); i++) scan_block(s, query, which[i], rows[i], top);
    if (i == n) return;
    const float limit = fpq_topk_limit(top);
    /* The bytes are made anew when the limit has come a good way down. */
    if (limit > query->limit || limit < query->limit - (query->limit - query->zero) / 16)
        if (!fpq_query_tighten(s->kern, s->adc, limit, query)) return;
    n = i + sieve(s, query, which + i, rows + i, n - i);
    scan_left(s, query, which + i, rows + i, n - i, top);
}
