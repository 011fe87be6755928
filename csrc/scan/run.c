/* SPDX-License-Identifier: MIT */
#include "scan/run.h"

#include <string.h>

#include "portable.h"

/* MANY: rows of a block that are worth looking at all. FEW: rows that are not worth a table. SAMPLE: blocks. */
enum { MANY = 24, FEW = 16, SAMPLE = 4 };

fpq_scan fpq_scan_of(const fpq_adc *adc, const uint8_t *blocks, const int64_t *ids) {
    const fpq_kernels *kern = fpq_active();
    return (fpq_scan){.kern = kern, .adc = adc, .blocks = blocks, .ids = ids, .code_size = fpq_code_size(adc->m, adc->nbits),
                      .sieves = kern->fast_sieve && (adc->nbits == 8 || adc->nbits == 4),
                      .counts = adc->nbits == 4 || !kern->sieve_minima};
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
    const int ld = fpq_ld_table(s->adc), nbits = s->adc->nbits;
    for (; rows; rows &= rows - 1) {
        const int r = fpq_lowest_bit(rows);
        float sum = 0;
        if (query->rough_of) sum = fpq_query_distance(s->adc, query, codes + r);
        for (int j = 0; j < s->adc->m && !query->rough_of; j++) {
            const int code = nbits == 8 ? codes[j * 64 + r] : codes[j / 2 * 64 + r] >> j % 2 * 4 & 15;
            sum += query->table[(ptrdiff_t)j * ld + code];
        }
        push(s, top, sum + query->offset, block * 64 + r);
    }
}

static void add_bytes(const fpq_scan *s, const fpq_sieve *tables, const int32_t *which, int n, uint8_t *sums, uint64_t *near) {
    (s->adc->nbits == 8 ? s->kern->sieve8 : s->kern->sieve4)(tables, s->blocks, s->code_size, which, n, sums, near);
}

/* In stages, as many blocks have no near row left after some of the subquantizers. */
static int sieve(const fpq_scan *s, const fpq_query *query, int32_t *which, uint64_t *rows, int n) {
    FPQ_ALIGN(64) uint8_t sums[FPQ_RUN * 64];
    uint64_t near[FPQ_RUN];
    const int m = s->adc->m, ends[] = {0, m * 3 / 8, m * 5 / 8, m};
    memset(sums, 0, (size_t)n * 64);
    for (int stage = 0; stage < 3; stage++) {
        const fpq_sieve tables = {.entries = query->entries, .minima = query->minima, .order = query->order + ends[stage],
                                  .n = ends[stage + 1] - ends[stage]};
        if (!tables.n) continue;
        add_bytes(s, &tables, which, n, sums, near);
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

/* A distance that at least k rows of the first blocks do not exceed, and not many more; INFINITY if there are too few rows. */
static float within(const fpq_scan *s, const fpq_query *query, const int32_t *which, const uint64_t *rows, int n, int k) {
    FPQ_ALIGN(64) float sums[SAMPLE * 64];
    float survey[3];
    int sampled = 0, blocks = 0;
    for (; sampled < 2 * k; blocks++) {
        if (blocks == n / 2 || blocks == SAMPLE) return INFINITY;
        const uint8_t *codes = s->blocks + (ptrdiff_t)which[blocks] * 64 * s->code_size;
        s->kern->adc(query->table, fpq_ld_table(s->adc), s->adc->m, s->adc->nbits, codes, sums + blocks * 64);
        sampled += fpq_popcount(rows[blocks]);
    }
    s->kern->survey(sums, blocks * 64, survey);
    float low = survey[0], high = survey[1];
    for (int step = 0; step < 8; step++) {
        const float middle = low + (high - low) / 2;
        int count = 0;
        for (int b = 0; b < blocks; b++) count += fpq_popcount(rows[b] & s->kern->at_most(sums + b * 64, middle));
        if (count < k)
            low = middle;
        else
            high = middle;
        if (count >= k && count <= k + k / 8) break;
    }
    return high + query->offset;
}

/* While k rows are not known: leaves in rows those that may be among the k nearest, by bytes alone. 0: too few rows. */
static int choose(const fpq_scan *s, fpq_query *query, const int32_t *which, uint64_t *rows, int n, int k) {
    FPQ_ALIGN(64) uint8_t sums[FPQ_RUN * 64];
    uint64_t near[FPQ_RUN];
    const fpq_sieve tables = {.entries = query->entries, .minima = query->minima, .order = query->order, .n = s->adc->m};
    const float limit = s->counts ? within(s, query, which, rows, n, k) : INFINITY;
    if (!(limit < INFINITY) || !fpq_query_tighten(s->kern, s->adc, limit, query)) return 0;
    memset(sums, 0, (size_t)n * 64);
    add_bytes(s, &tables, which, n, sums, near);
    int most = s->kern->kth_byte(sums, rows, n, k) + fpq_query_spare(s->adc, query);
    if (most > FPQ_SIEVE_LIMIT) most = FPQ_SIEVE_LIMIT; /* as limit says */
    for (int b = 0; b < n; b++) rows[b] &= s->kern->bytes_at_most(sums + b * 64, most);
    return 1;
}

/* Exact sums of what the sieve has left. */
static void scan_left(const fpq_scan *s, const fpq_query *query, const int32_t *which, const uint64_t *rows, int n, fpq_topk *top) {
    for (int i = 0; i < n && s->ids; i++)
        for (uint64_t left = rows[i]; left; left &= left - 1) FPQ_PREFETCH(s->ids + (ptrdiff_t)which[i] * 64 + fpq_lowest_bit(left));
    for (int i = 0; i < n; i++) (fpq_popcount(rows[i]) > MANY ? scan_block : scan_rows)(s, query, which[i], rows[i], top);
}

void fpq_scan_run(const fpq_scan *s, fpq_query *query, int32_t *which, uint64_t *rows, int n, fpq_topk *top) {
    int i = 0;
    if (n && (!s->sieves || fpq_topk_limit(top) == INFINITY)) {
        fpq_query_make_exact(s->adc, query);
        if (s->sieves && choose(s, query, which, rows, n, top->k)) {
            scan_left(s, query, which, rows, n, top);
            return;
        }
    }
    for (; i < n && (!s->sieves || fpq_topk_limit(top) == INFINITY); i++) scan_block(s, query, which[i], rows[i], top);
    if (i == n) return;
    const float limit = fpq_topk_limit(top);
    /* The bytes are made anew when the limit has come a good way down. */
    if (query->limit == INFINITY || limit < query->limit - (query->limit - query->offset - query->base) / 16)
        if (!fpq_query_tighten(s->kern, s->adc, limit, query)) return;
    n = i + sieve(s, query, which + i, rows + i, n - i);
    int left = 0;
    for (int b = i; b < n; b++) left += fpq_popcount(rows[b]);
    if (left > FEW) fpq_query_make_exact(s->adc, query);
    scan_left(s, query, which + i, rows + i, n - i, top);
}
