/* SPDX-License-Identifier: MIT
 * The phases of a scan: quantize the tables for the threshold, prune rows by sums of bytes, score the survivors by
 * exact distances, offer them to the results. */
#include "scan/scan.h"

#include <string.h>

#include "portable.h"

enum {
    ROW_BATCH = 128,         /* rows whose distances are taken together, so that none waits for another */
    MIN_ROWS_EXACT_LUT = 32, /* from so many rows on, exact tables are cheaper than distances by code_l2 */
    MIN_ROWS_GROUPS = 8,     /* survivors per block from which code groups, after pairs, are cheaper than scoring */
    MIN_ROWS_FULL = 10, /* survivors per block from which pruning by the codes' own bytes is cheaper than scoring, */
    MIN_ROWS_FULL_AVX2 = 32, /* and where 16 shuffles look up 32 codes */
    BLOCKS_BUILD_FULL = 6,   /* so many blocks with so many survivors pay for making the codes' own bytes first */
    SAMPLE = 8,              /* rows from which the first threshold is estimated */
    SAMPLE_K = 8             /* times k rows are to have a distance of at most the first threshold */
};

fpq_scan fpq_scan_of(const fpq_adc *adc, const uint8_t *blocks) {
    const fpq_kernels *kern = fpq_active();
    return (fpq_scan){.kern = kern,
                      .adc = adc,
                      .blocks = blocks,
                      .code_size = fpq_code_size(adc->m, adc->nbits),
                      .prunes = kern->fast_prune && (adc->nbits == 8 || adc->nbits == 4)};
}

/* Exact distances of all 64 rows of a block. */
static void scan_block(const fpq_scan *s, const fpq_lut *lut, int64_t block, uint64_t rows, fpq_results *results) {
    FPQ_ALIGN(64) float sums[64];
    s->kern->adc(lut->table, fpq_ld_table(s->adc), s->adc->m, s->adc->nbits, s->blocks + block * 64 * s->code_size,
                 sums);
    if (lut->offset != 0)
        for (int r = 0; r < 64; r++) sums[r] += lut->offset;
    for (uint64_t hits = rows & s->kern->at_most(sums, results->threshold); hits; hits &= hits - 1) {
        const int r = fpq_lowest_bit(hits);
        if (sums[r] <= results->threshold) fpq_results_offer(results, sums[r], block * 64 + r);
    }
}

static int count(const uint64_t *rows, int n) {
    int sum = 0;
    for (int b = 0; b < n; b++) sum += fpq_popcount(rows[b]);
    return sum;
}

/* Keeps the rows whose x is at most the threshold, in place. */
static int keep_rows(int64_t *row, float *x, int n, float threshold) {
    int kept = 0;
    for (int i = 0; i < n; i++) {
        const float here = x[i];
        row[kept] = row[i];
        x[kept] = here;
        kept += here <= threshold;
    }
    return kept;
}

/* Score: exact distances of up to ROW_BATCH rows. Tables that are not exact prune once more before. */
static void score_rows(const fpq_scan *s, fpq_lut *lut, int64_t *row, int n, fpq_results *results) {
    float distance[ROW_BATCH];
    const float threshold = results->threshold;
    if (lut->kind != FPQ_LUT_EXACT && threshold < INFINITY) {
        fpq_lut_sums(lut, s->blocks, row, n, distance);
        n = keep_rows(row, distance, n, fpq_lut_approx_threshold(lut, threshold));
    }
    if (n > MIN_ROWS_EXACT_LUT) fpq_lut_make_exact(lut);
    (lut->kind == FPQ_LUT_EXACT ? fpq_lut_sums : fpq_lut_distances)(lut, s->blocks, row, n, distance);
    n = keep_rows(row, distance, n, threshold);
    for (int i = 0; i < n; i++)
        if (distance[i] <= results->threshold) fpq_results_offer(results, distance[i], row[i]);
}

static void score(const fpq_scan *s, fpq_lut *lut, const int32_t *block_ids, const uint64_t *rows, int n,
                  fpq_results *results) {
    int64_t row[ROW_BATCH];
    int waiting = 0;
    for (int b = 0; b < n; b++)
        for (uint64_t left = rows[b]; left; left &= left - 1) {
            row[waiting++] = (int64_t)block_ids[b] * 64 + fpq_lowest_bit(left);
            if (waiting == ROW_BATCH) {
                score_rows(s, lut, row, waiting, results);
                waiting = 0;
            }
        }
    if (waiting) score_rows(s, lut, row, waiting, results);
}

/* Adds bytes to the sums; survivors: rows whose sums do not exceed FPQ_BYTE_THRESHOLD. */
static void add_bytes(const fpq_scan *s, const fpq_prune_lut *bytes, const int32_t *block_ids, int n, uint8_t *sums,
                      uint64_t *survivors) {
    (s->adc->nbits == 8 ? s->kern->prune_lut8 : s->kern->prune_lut4)(bytes, s->blocks, s->code_size, block_ids, n, sums,
                                                                     survivors);
}

static fpq_prune_lut bytes_of_groups(const fpq_scan *s, const fpq_lut *lut) {
    return (fpq_prune_lut){lut->lut8.group, fpq_code_groups(s->kern, s->adc), lut->order, s->code_size};
}

static fpq_prune_lut bytes_of_pairs(const fpq_scan *s, fpq_lut *lut) {
    fpq_lut_quantize_pairs(lut);
    return (fpq_prune_lut){lut->lut8.pair, fpq_code_groups(s->kern, s->adc) / 2, lut->order, s->code_size};
}

static fpq_prune_lut bytes_of_codes(const fpq_scan *s, fpq_lut *lut) {
    fpq_lut_quantize_full(lut);
    return (fpq_prune_lut){lut->lut8.full, fpq_ld_table(s->adc), lut->order, s->code_size};
}

/* Keeps the blocks that have rows left. */
static int keep_blocks(int32_t *block_ids, uint64_t *rows, uint8_t *sums, int n) {
    int kept = 0;
    for (int i = 0; i < n; i++) {
        block_ids[kept] = block_ids[i];
        rows[kept] = rows[i];
        if (kept < i) memcpy(sums + kept * 64, sums + i * 64, 64);
        kept += rows[i] != 0;
    }
    return kept;
}

/* Prunes the blocks with at least min_rows survivors once more. */
static void prune_again(const fpq_scan *s, const fpq_prune_lut *bytes, int min_rows, const int32_t *block_ids,
                        uint64_t *rows, int n, int byte_threshold) {
    FPQ_ALIGN(64) uint8_t sums[FPQ_BLOCK_RUN * 64];
    uint64_t survivors[FPQ_BLOCK_RUN];
    int32_t chosen[FPQ_BLOCK_RUN], at[FPQ_BLOCK_RUN];
    int n_chosen = 0;
    for (int b = 0; b < n; b++) {
        at[n_chosen] = b;
        chosen[n_chosen] = block_ids[b];
        n_chosen += fpq_popcount(rows[b]) >= min_rows;
    }
    if (!n_chosen) return;
    memset(sums, 0, (size_t)n_chosen * 64);
    add_bytes(s, bytes, chosen, n_chosen, sums, survivors);
    for (int i = 0; i < n_chosen; i++) rows[at[i]] &= s->kern->bytes_at_most(sums + i * 64, byte_threshold);
}

/* Prunes rows whose bytes add up to more than the threshold's. Most blocks lose all rows after half or three quarters
 * of the planes, so there are three stages. Returns how many blocks are left. */
static int prune_in_stages(const fpq_scan *s, const fpq_prune_lut *bytes, int32_t *block_ids, uint64_t *rows, int n,
                           int byte_threshold) {
    FPQ_ALIGN(64) uint8_t sums[FPQ_BLOCK_RUN * 64];
    uint64_t survivors[FPQ_BLOCK_RUN];
    const int planes = bytes->n, ends[] = {0, planes / 2, planes * 3 / 4, planes};
    memset(sums, 0, (size_t)n * 64);
    for (int stage = 0; stage < 3; stage++) {
        if (ends[stage] == ends[stage + 1]) continue;
        fpq_prune_lut here = *bytes;
        here.order += ends[stage];
        here.n = ends[stage + 1] - ends[stage];
        add_bytes(s, &here, block_ids, n, sums, survivors);
        for (int i = 0; i < n; i++)
            rows[i] &= stage < 2 ? survivors[i] : s->kern->bytes_at_most(sums + i * 64, byte_threshold);
        n = keep_blocks(block_ids, rows, sums, n);
    }
    return n;
}

/* Prunes by small tables, then blocks with many survivors by larger ones. Returns how many blocks are left. */
static int prune(const fpq_scan *s, fpq_lut *lut, int32_t *block_ids, uint64_t *rows, int n, float threshold) {
    const int byte_threshold = fpq_lut_byte_threshold(lut, threshold);
    const fpq_prune_lut groups = bytes_of_groups(s, lut), first = s->by_pairs ? bytes_of_pairs(s, lut) : groups;
    n = prune_in_stages(s, &first, block_ids, rows, n, byte_threshold);
    if (s->by_pairs) prune_again(s, &groups, MIN_ROWS_GROUPS, block_ids, rows, n, byte_threshold);
    const int min_rows = s->kern->prunes_by_pairs ? MIN_ROWS_FULL_AVX2 : MIN_ROWS_FULL;
    if (lut->lut8.full != lut->lut8.group && (lut->lut8.has_full || count(rows, n) >= BLOCKS_BUILD_FULL * min_rows)) {
        const fpq_prune_lut codes = bytes_of_codes(s, lut);
        prune_again(s, &codes, min_rows, block_ids, rows, n, byte_threshold);
    }
    return n;
}

/* A threshold that about SAMPLE_K * k of n_rows rows meet, estimated from SAMPLE rows spread over the blocks. */
static float sample_threshold(const fpq_scan *s, const fpq_lut *lut, const int32_t *block_ids, const uint64_t *rows,
                              int n_blocks, int n_rows, int64_t k) {
    float sample[SAMPLE];
    int64_t row[SAMPLE] = {0};
    int n = 0;
    for (int each = (SAMPLE + n_blocks - 1) / n_blocks, b = 0; b < n_blocks; b++)
        for (uint64_t left = rows[b], taken = 0; left && (int)taken < each && n < SAMPLE; left &= left - 1, taken++)
            row[n++] = (int64_t)block_ids[b] * 64 + fpq_lowest_bit(left);
    fpq_lut_sums(lut, s->blocks, row, n, sample);
    for (int i = 1; i < n; i++) {
        const float here = sample[i];
        int at = i;
        for (; at && sample[at - 1] > here; at--) sample[at] = sample[at - 1];
        sample[at] = here;
    }
    const int64_t rank = SAMPLE_K * k * n / n_rows;
    return sample[rank < n ? rank : n - 1];
}

/* The first blocks of a top-k search, while there is no threshold: scores the rows with the k smallest sums of bytes,
 * and by the threshold that they give the others. Returns 0 if that was all, else n, and rows that have not been
 * offered stay. */
static int find_first_k(const fpq_scan *s, fpq_lut *lut, const int32_t *block_ids, uint64_t *rows, int n,
                        fpq_results *results) {
    FPQ_ALIGN(64) uint8_t sums[FPQ_BLOCK_RUN * 64];
    uint64_t survivors[FPQ_BLOCK_RUN], smallest[FPQ_BLOCK_RUN];
    int32_t left_ids[FPQ_BLOCK_RUN];
    const int n_rows = count(rows, n);
    if (n_rows < results->k) return n;
    const float threshold = sample_threshold(s, lut, block_ids, rows, n, n_rows, results->k);
    if (!(threshold < INFINITY)) return n; /* bytes cannot tell distances beyond float32 apart */
    if (!fpq_lut_quantize(lut, threshold)) return n;
    memset(sums, 0, (size_t)n * 64);
    const fpq_prune_lut groups = bytes_of_groups(s, lut);
    add_bytes(s, &groups, block_ids, n, sums, survivors);
    for (int b = 0; b < n; b++) survivors[b] &= rows[b];
    memcpy(left_ids, block_ids, (size_t)n * sizeof *block_ids);
    const int left = keep_blocks(left_ids, survivors, sums, n);
    if (lut->lut8.full != lut->lut8.group) {
        const fpq_prune_lut codes = bytes_of_codes(s, lut);
        memset(sums, 0, (size_t)left * 64);
        add_bytes(s, &codes, left_ids, left, sums, smallest);
        for (int b = 0; b < left; b++) survivors[b] &= smallest[b];
    }
    if (count(survivors, left) < results->k) return n;
    const int byte = s->kern->kth_byte(sums, survivors, left, (int)results->k);
    for (int b = 0; b < left; b++) {
        smallest[b] = survivors[b] & s->kern->bytes_at_most(sums + b * 64, byte);
        survivors[b] ^= smallest[b];
    }
    score(s, lut, left_ids, smallest, left, results);
    if (results->threshold > threshold) {
        for (int b = 0, l = 0; b < n && l < left; b++)
            if (block_ids[b] == left_ids[l]) rows[b] ^= smallest[l++];
        return n;
    }
    const int byte_threshold = fpq_lut_byte_threshold(lut, results->threshold);
    for (int b = 0; b < left; b++) survivors[b] &= s->kern->bytes_at_most(sums + b * 64, byte_threshold);
    score(s, lut, left_ids, survivors, left, results);
    return 0;
}

void fpq_scan_blocks(const fpq_scan *s, fpq_lut *lut, int32_t *block_ids, uint64_t *rows, int n, fpq_results *results) {
    const fpq_lut8 *lut8 = &lut->lut8;
    int i = 0;
    if (n && s->prunes && results->threshold == INFINITY && !results->grows)
        n = find_first_k(s, lut, block_ids, rows, n, results);
    if (n && (!s->prunes || results->threshold == INFINITY)) fpq_lut_make_exact(lut);
    for (; i < n && (!s->prunes || results->threshold == INFINITY); i++)
        scan_block(s, lut, block_ids[i], rows[i], results);
    if (i == n) return;
    const float threshold = results->threshold;
    /* The tables are quantized anew when the threshold has fallen by 1/16 of their range: that costs m * 256 entries.
     */
    if (threshold > lut8->threshold || threshold < lut8->threshold - (lut8->threshold - lut8->zero) / 16)
        if (!fpq_lut_quantize(lut, threshold)) return;
    n = i + prune(s, lut, block_ids + i, rows + i, n - i, threshold);
    score(s, lut, block_ids + i, rows + i, n - i, results);
}
