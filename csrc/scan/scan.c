/* SPDX-License-Identifier: MIT */
#include "scan/scan.h"

#include <string.h>

#include "portable.h"

/* BATCH: rows that are scored together. FEW: rows that are not worth a table of floats, MANY: that are worth one of
 * bytes. CROWD: rows of a block that are worth a look at their own bytes. */
enum { BATCH = 128, FEW = 32, MANY = 64, CROWD = 10, SAMPLE = 8, WIDE = 8 };

fpq_scan fpq_scan_of(const fpq_adc *adc, const uint8_t *blocks) {
    const fpq_kernels *kern = fpq_active();
    return (fpq_scan){.kern = kern,
                      .adc = adc,
                      .blocks = blocks,
                      .code_size = fpq_code_size(adc->m, adc->nbits),
                      .prunes = kern->fast_prune && (adc->nbits == 8 || adc->nbits == 4)};
}

/* Exact sums of all 64 rows of a block. */
static void scan_block(const fpq_scan *s, const fpq_lut *query, int64_t block, uint64_t rows, fpq_topk *top) {
    FPQ_ALIGN(64) float sums[64];
    s->kern->adc(query->table, fpq_ld_table(s->adc), s->adc->m, s->adc->nbits, s->blocks + block * 64 * s->code_size,
                 sums);
    if (query->offset != 0)
        for (int r = 0; r < 64; r++) sums[r] += query->offset;
    for (uint64_t hits = rows & s->kern->at_most(sums, fpq_topk_threshold(top)); hits; hits &= hits - 1) {
        const int r = fpq_lowest_bit(hits);
        if (sums[r] <= fpq_topk_threshold(top)) fpq_topk_push(top, sums[r], block * 64 + r);
    }
}

static int count(const uint64_t *rows, int n) {
    int sum = 0;
    for (int b = 0; b < n; b++) sum += fpq_popcount(rows[b]);
    return sum;
}

/* Of n rows, those whose number is at most limit; in place. */
static int keep_near(int64_t *row, float *x, int n, float limit) {
    int kept = 0;
    for (int i = 0; i < n; i++) {
        const float here = x[i];
        row[kept] = row[i];
        x[kept] = here;
        kept += here <= limit;
    }
    return kept;
}

/* Exact sums of a few rows, all before the first is offered, so that none waits for another; of rough tables after a
 * look at their estimates. */
static void scan_rows(const fpq_scan *s, fpq_lut *query, int64_t *row, int n, fpq_topk *top) {
    float distance[BATCH];
    const float limit = fpq_topk_threshold(top);
    if (query->rough_of && limit < INFINITY) {
        fpq_lut_estimates(s->adc, query, s->blocks, row, n, distance);
        n = keep_near(row, distance, n, fpq_lut_approx_threshold(s->adc, query, limit));
    }
    if (query->rough_of && n > FEW) fpq_lut_make_exact(s->adc, query);
    (query->rough_of ? fpq_lut_distances : fpq_lut_estimates)(s->adc, query, s->blocks, row, n, distance);
    n = keep_near(row, distance, n, limit);
    for (int i = 0; i < n; i++)
        if (distance[i] <= fpq_topk_threshold(top)) fpq_topk_push(top, distance[i], row[i]);
}

/* Exact sums of what the sieve has left. */
static void scan_left(const fpq_scan *s, fpq_lut *query, const int32_t *which, const uint64_t *rows, int n,
                      fpq_topk *top) {
    int64_t row[BATCH];
    int waiting = 0;
    for (int b = 0; b < n; b++)
        for (uint64_t left = rows[b]; left; left &= left - 1) {
            row[waiting++] = (int64_t)which[b] * 64 + fpq_lowest_bit(left);
            if (waiting == BATCH) {
                scan_rows(s, query, row, waiting, top);
                waiting = 0;
            }
        }
    if (waiting) scan_rows(s, query, row, waiting, top);
}

static void add_bytes(const fpq_scan *s, const fpq_lut *query, int from, int to, const int32_t *which, int n,
                      uint8_t *sums, uint64_t *near) {
    const fpq_lut8 tables = {query->entries, fpq_code_groups(s->adc), query->order + from, to - from};
    (s->adc->nbits == 8 ? s->kern->prune_lut8 : s->kern->prune_lut4)(&tables, s->blocks, s->code_size, which, n, sums,
                                                                     near);
}

/* Sums of the codes' own bytes instead of their groups'. */
static void add_all_bytes(const fpq_scan *s, fpq_lut *query, const int32_t *which, int n, uint8_t *sums,
                          uint64_t *near) {
    const fpq_lut8 tables = {query->all, fpq_ld_table(s->adc), query->order, s->adc->m};
    fpq_lut_quantize_full(s->kern, s->adc, query);
    memset(sums, 0, (size_t)n * 64);
    s->kern->prune_lut8(&tables, s->blocks, s->code_size, which, n, sums, near);
}

/* Leaves out blocks without rows. */
static int keep_blocks(int32_t *which, uint64_t *rows, uint8_t *sums, int n) {
    int kept = 0;
    for (int i = 0; i < n; i++) {
        which[kept] = which[i];
        rows[kept] = rows[i];
        if (kept < i) memcpy(sums + kept * 64, sums + i * 64, 64);
        kept += rows[i] != 0;
    }
    return kept;
}

/* Of crowded blocks, rows go that their own bytes rule out. */
static void thin_out(const fpq_scan *s, fpq_lut *query, const int32_t *which, uint64_t *rows, int n, int most) {
    FPQ_ALIGN(64) uint8_t sums[FPQ_BLOCK_RUN * 64];
    uint64_t near[FPQ_BLOCK_RUN];
    int32_t crowded[FPQ_BLOCK_RUN], at[FPQ_BLOCK_RUN];
    int n_crowded = 0, n_rows = 0;
    if (query->all == query->entries) return;
    for (int b = 0; b < n; b++) {
        const int here = fpq_popcount(rows[b]);
        if (here < CROWD) continue;
        at[n_crowded] = b;
        crowded[n_crowded++] = which[b];
        n_rows += here;
    }
    if (!query->has_all && n_rows < MANY) return;
    add_all_bytes(s, query, crowded, n_crowded, sums, near);
    for (int c = 0; c < n_crowded; c++) rows[at[c]] &= s->kern->bytes_at_most(sums + c * 64, most);
}

/* In stages, as many blocks have no near row left after some of the subquantizers. */
static int sieve(const fpq_scan *s, fpq_lut *query, int32_t *which, uint64_t *rows, int n, float limit) {
    FPQ_ALIGN(64) uint8_t sums[FPQ_BLOCK_RUN * 64];
    uint64_t near[FPQ_BLOCK_RUN];
    const int m = s->adc->m, ends[] = {0, m / 2, m * 3 / 4, m}, most = fpq_lut_byte_threshold(query, limit);
    memset(sums, 0, (size_t)n * 64);
    for (int stage = 0; stage < 3; stage++) {
        if (ends[stage] == ends[stage + 1]) continue;
        add_bytes(s, query, ends[stage], ends[stage + 1], which, n, sums, near);
        for (int i = 0; i < n; i++) rows[i] &= stage < 2 ? near[i] : s->kern->bytes_at_most(sums + i * 64, most);
        n = keep_blocks(which, rows, sums, n);
    }
    thin_out(s, query, which, rows, n, most);
    return n;
}

/* A distance within which there may be WIDE times k of so many rows, going by a few of each block. */
static float guess(const fpq_scan *s, const fpq_lut *query, const int32_t *which, const uint64_t *rows, int n_blocks,
                   int of, int k) {
    float sample[SAMPLE];
    int64_t row[SAMPLE] = {0};
    int n = 0;
    for (int each = (SAMPLE + n_blocks - 1) / n_blocks, b = 0; b < n_blocks; b++)
        for (uint64_t left = rows[b], taken = 0; left && (int)taken < each && n < SAMPLE; left &= left - 1, taken++)
            row[n++] = (int64_t)which[b] * 64 + fpq_lowest_bit(left);
    fpq_lut_estimates(s->adc, query, s->blocks, row, n, sample);
    for (int i = 1; i < n; i++) {
        const float here = sample[i];
        int at = i;
        for (; at && sample[at - 1] > here; at--) sample[at] = sample[at - 1];
        sample[at] = here;
    }
    const int64_t rank = (int64_t)WIDE * k * n / of;
    return sample[rank < n ? rank : n - 1];
}

/* While k rows are not known: scores those with the k least sums of bytes, then those that may still be among the k
 * nearest. Rows that need the sieve stay; 0 if there are none. */
static int begin(const fpq_scan *s, fpq_lut *query, const int32_t *which, uint64_t *rows, int n, fpq_topk *top) {
    FPQ_ALIGN(64) uint8_t sums[FPQ_BLOCK_RUN * 64];
    uint64_t near[FPQ_BLOCK_RUN], least[FPQ_BLOCK_RUN];
    int32_t near_which[FPQ_BLOCK_RUN];
    const int of = count(rows, n);
    if (of < top->k) return n;
    const float limit = guess(s, query, which, rows, n, of, top->k);
    if (!(limit < INFINITY)) return n; /* no byte tells distances beyond float32 apart */
    if (!fpq_lut_quantize(s->kern, s->adc, limit, query)) return n;
    memset(sums, 0, (size_t)n * 64);
    add_bytes(s, query, 0, s->adc->m, which, n, sums, near);
    for (int b = 0; b < n; b++) near[b] &= rows[b];
    memcpy(near_which, which, (size_t)n * sizeof *which);
    int left = keep_blocks(near_which, near, sums, n);
    if (query->all != query->entries) {
        add_all_bytes(s, query, near_which, left, sums, least);
        for (int b = 0; b < left; b++) near[b] &= least[b];
    }
    if (count(near, left) < top->k) return n;
    const int byte = s->kern->kth_byte(sums, near, left, top->k);
    for (int b = 0; b < left; b++) {
        least[b] = near[b] & s->kern->bytes_at_most(sums + b * 64, byte);
        near[b] ^= least[b];
    }
    scan_left(s, query, near_which, least, left, top);
    if (fpq_topk_threshold(top) > limit) {
        for (int b = 0, l = 0; b < n && l < left; b++)
            if (which[b] == near_which[l]) rows[b] ^= least[l++];
        return n;
    }
    const int most = fpq_lut_byte_threshold(query, fpq_topk_threshold(top));
    for (int b = 0; b < left; b++) near[b] &= s->kern->bytes_at_most(sums + b * 64, most);
    scan_left(s, query, near_which, near, left, top);
    return 0;
}

void fpq_scan_blocks(const fpq_scan *s, fpq_lut *query, int32_t *which, uint64_t *rows, int n, fpq_topk *top) {
    int i = 0;
    if (n && s->prunes && fpq_topk_threshold(top) == INFINITY) n = begin(s, query, which, rows, n, top);
    if (n && (!s->prunes || fpq_topk_threshold(top) == INFINITY)) fpq_lut_make_exact(s->adc, query);
    for (; i < n && (!s->prunes || fpq_topk_threshold(top) == INFINITY); i++)
        scan_block(s, query, which[i], rows[i], top);
    if (i == n) return;
    const float limit = fpq_topk_threshold(top);
    /* The bytes are made anew when the limit has come a good way down. */
    if (limit > query->limit || limit < query->limit - (query->limit - query->zero) / 16)
        if (!fpq_lut_quantize(s->kern, s->adc, limit, query)) return;
    n = i + sieve(s, query, which + i, rows + i, n - i, limit);
    scan_left(s, query, which + i, rows + i, n - i, top);
}
