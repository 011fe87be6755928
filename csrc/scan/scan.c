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
    MIN_ROWS_SUMS = 5, /* rows to be scored first per block from which the sums of their codes' bytes are cheaper */
    SAMPLE = 8,        /* rows from which the first threshold is estimated */
    SAMPLE_K = 8,      /* times k rows are to have a distance of at most the first threshold */
    GROUP_SUMS_K = 3   /* times k rows have the smallest sums of code groups: among them are k near ones */
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
static void scan_block(const fpq_scan *s, const fpq_lut *lut, int64_t block, uint64_t rows, float offset,
                       fpq_results *results) {
    FPQ_ALIGN(64) float sums[64];
    s->kern->adc(lut->table, fpq_ld_table(s->adc), s->adc->m, s->adc->nbits, s->blocks + block * 64 * s->code_size,
                 sums);
    if (offset != 0)
        for (int r = 0; r < 64; r++) sums[r] += offset;
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

typedef struct {
    int n;
    int64_t row[ROW_BATCH];
    float offset[ROW_BATCH]; /* that of the row's block */
} row_batch;

/* Score: exact distances of a batch of rows. Tables that are not exact prune once more before. */
static void score_rows(const fpq_scan *s, fpq_lut *lut, row_batch *batch, int has_offsets, fpq_results *results) {
    float distance[ROW_BATCH];
    int64_t *row = batch->row;
    int n = batch->n;
    const float threshold = results->threshold;
    batch->n = 0;
    if (lut->kind != FPQ_LUT_EXACT && threshold < INFINITY) {
        fpq_lut_sums(lut, s->blocks, row, n, distance);
        n = keep_rows(row, distance, n, fpq_lut_approx_threshold(lut, threshold));
    }
    if (n > MIN_ROWS_EXACT_LUT) fpq_lut_make_exact(lut);
    (lut->kind == FPQ_LUT_EXACT ? fpq_lut_sums : fpq_lut_distances)(lut, s->blocks, row, n, distance);
    for (int i = 0; i < n && has_offsets; i++) distance[i] += batch->offset[i];
    n = keep_rows(row, distance, n, threshold);
    for (int i = 0; i < n; i++)
        if (distance[i] <= results->threshold) fpq_results_offer(results, distance[i], row[i]);
}

static void score(const fpq_scan *s, fpq_lut *lut, const fpq_run *run, fpq_results *results) {
    row_batch batch;
    batch.n = 0;
    for (int b = 0; b < run->n; b++)
        for (uint64_t left = run->rows[b]; left; left &= left - 1) {
            batch.row[batch.n] = (int64_t)run->block_ids[b] * 64 + fpq_lowest_bit(left);
            if (run->has_offsets) batch.offset[batch.n] = run->offsets[b];
            if (++batch.n == ROW_BATCH) score_rows(s, lut, &batch, run->has_offsets, results);
        }
    if (batch.n) score_rows(s, lut, &batch, run->has_offsets, results);
}

/* Keeps the rows whose bytes add up to at most the limit of their block. */
static void keep_by_bytes(const fpq_scan *s, const fpq_prune_lut *bytes, const int32_t *block_ids, int n,
                          const uint16_t *limits, uint8_t *sums, uint64_t *rows) {
    (s->adc->nbits == 8 ? s->kern->prune_lut8 : s->kern->prune_lut4)(bytes, s->blocks, s->code_size, block_ids, n,
                                                                     limits, sums, rows);
}

static fpq_prune_lut prune_lut_of(const fpq_scan *s, const fpq_lut8 *lut8, const uint8_t *entries, int code_groups) {
    int shift = 0;
    while (lut8->max_sum >> shift > FPQ_MAX_BYTE_SUM) shift++;
    return (fpq_prune_lut){entries, code_groups, s->code_size, lut8->partial_sums, shift};
}

static fpq_prune_lut bytes_of_groups(const fpq_scan *s, const fpq_lut *lut) {
    return prune_lut_of(s, &lut->lut8, lut->lut8.group, fpq_code_groups(s->kern, s->adc));
}

static fpq_prune_lut bytes_of_pairs(const fpq_scan *s, fpq_lut *lut) {
    fpq_lut_quantize_pairs(lut);
    return prune_lut_of(s, &lut->lut8, lut->lut8.pair, fpq_code_groups(s->kern, s->adc) / 2);
}

static fpq_prune_lut bytes_of_codes(const fpq_scan *s, fpq_lut *lut) {
    fpq_lut_quantize_full(lut);
    return prune_lut_of(s, &lut->lut8, lut->lut8.full, fpq_ld_table(s->adc));
}

/* Prunes the blocks with at least min_rows survivors once more. */
static void prune_again(const fpq_scan *s, const fpq_prune_lut *bytes, int min_rows, fpq_run *run,
                        const uint16_t *limits) {
    uint64_t rows[FPQ_BLOCK_RUN];
    int32_t block_ids[FPQ_BLOCK_RUN], at[FPQ_BLOCK_RUN];
    uint16_t their_limits[FPQ_BLOCK_RUN];
    int n = 0;
    for (int b = 0; b < run->n; b++) {
        at[n] = b;
        block_ids[n] = run->block_ids[b];
        their_limits[n] = limits[b];
        rows[n] = run->rows[b];
        n += fpq_popcount(run->rows[b]) >= min_rows;
    }
    if (!n) return;
    keep_by_bytes(s, bytes, block_ids, n, their_limits, NULL, rows);
    for (int i = 0; i < n; i++) run->rows[at[i]] = rows[i];
}

/* Prunes by small tables, then blocks with many survivors by larger ones. */
static void prune(const fpq_scan *s, fpq_lut *lut, fpq_run *run, float threshold) {
    const fpq_prune_lut groups = bytes_of_groups(s, lut), first = s->by_pairs ? bytes_of_pairs(s, lut) : groups;
    const uint16_t same = (uint16_t)fpq_lut_byte_threshold(lut, threshold);
    uint16_t limits[FPQ_BLOCK_RUN];
    for (int b = 0; b < run->n; b++)
        limits[b] = run->has_offsets ? (uint16_t)fpq_lut_byte_threshold(lut, threshold - run->offsets[b]) : same;
    keep_by_bytes(s, &first, run->block_ids, run->n, limits, NULL, run->rows);
    if (s->by_pairs) prune_again(s, &groups, MIN_ROWS_GROUPS, run, limits);
    const int min_rows = s->kern->prunes_by_pairs ? MIN_ROWS_FULL_AVX2 : MIN_ROWS_FULL;
    if (lut->lut8.full != lut->lut8.group &&
        (lut->lut8.has_full || count(run->rows, run->n) >= BLOCKS_BUILD_FULL * min_rows)) {
        const fpq_prune_lut codes = bytes_of_codes(s, lut);
        prune_again(s, &codes, min_rows, run, limits);
    }
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

/* Prunes for one threshold, and keeps the blocks that have rows left, with the sums of their rows. */
static void prune_for_sums(const fpq_scan *s, const fpq_prune_lut *bytes, int limit, fpq_run *run, uint8_t *sums) {
    uint16_t limits[FPQ_BLOCK_RUN];
    int kept = 0;
    for (int b = 0; b < run->n; b++) limits[b] = (uint16_t)limit;
    keep_by_bytes(s, bytes, run->block_ids, run->n, limits, sums, run->rows);
    for (int i = 0; i < run->n; i++) {
        const int has_rows = run->rows[i] != 0;
        if (kept < i && has_rows) memcpy(sums + kept * 64, sums + i * 64, 64);
        run->block_ids[kept] = run->block_ids[i];
        run->rows[kept] = run->rows[i];
        kept += has_rows;
    }
    run->n = kept;
}

/* The first blocks of a top-k search, while there is no threshold: scores the rows with the k smallest sums of bytes,
 * and by the threshold that they give the others. For a small k, sums of code groups do: to score three times as many
 * rows costs less than the sums of codes. Rows that have not been offered stay. */
static void find_first_k(const fpq_scan *s, fpq_lut *lut, fpq_run *run, fpq_results *results) {
    FPQ_ALIGN(64) uint8_t sums[FPQ_BLOCK_RUN * 64];
    fpq_run left = *run, smallest;
    const int n_rows = count(run->rows, run->n);
    if (n_rows < results->k) return;
    const float threshold = sample_threshold(s, lut, run->block_ids, run->rows, run->n, n_rows, results->k);
    if (!(threshold < INFINITY)) return; /* bytes cannot tell distances beyond float32 apart */
    if (!fpq_lut_quantize(lut, threshold)) return;
    const fpq_prune_lut groups = bytes_of_groups(s, lut);
    prune_for_sums(s, &groups, lut->lut8.max_sum, &left, sums);
    int64_t n_first = results->k;
    if (lut->lut8.full != lut->lut8.group) {
        if (lut->kind == FPQ_LUT_EXACT && GROUP_SUMS_K * n_first < MIN_ROWS_SUMS * left.n) {
            n_first *= GROUP_SUMS_K;
        } else {
            const fpq_prune_lut codes = bytes_of_codes(s, lut);
            prune_for_sums(s, &codes, lut->lut8.max_sum, &left, sums);
        }
    }
    const int n_left = count(left.rows, left.n);
    if (n_left < results->k) return;
    const int byte = s->kern->kth_byte(sums, left.rows, left.n, n_first < n_left ? (int)n_first : n_left);
    smallest = left;
    for (int b = 0; b < left.n; b++) {
        smallest.rows[b] &= s->kern->bytes_at_most(sums + b * 64, byte);
        left.rows[b] ^= smallest.rows[b];
    }
    score(s, lut, &smallest, results);
    if (results->threshold > threshold) {
        for (int b = 0, l = 0; b < run->n && l < left.n; b++)
            if (run->block_ids[b] == left.block_ids[l]) run->rows[b] ^= smallest.rows[l++];
        return;
    }
    const int byte_threshold = fpq_lut_byte_threshold(lut, results->threshold) >> groups.shift;
    for (int b = 0; b < left.n; b++) left.rows[b] &= s->kern->bytes_at_most(sums + b * 64, byte_threshold);
    score(s, lut, &left, results);
    run->n = 0;
}

/* Makes the tables in bytes for a threshold of sums of entries, or takes those there are if these are for at most 1/16
 * of their range more: making them costs m * 256 entries. Returns 0 if no row can meet the threshold. */
static int quantize(fpq_lut *lut, float threshold) {
    const fpq_lut8 *lut8 = &lut->lut8;
    const float range = lut8->threshold - lut8->zero;
    if (threshold <= lut8->threshold && threshold >= lut8->threshold - range / 16) return 1;
    return fpq_lut_quantize(lut, threshold);
}

void fpq_scan_run(const fpq_scan *s, fpq_lut *lut, fpq_run *run, fpq_results *results) {
    int i = 0;
    if (run->n && s->prunes && results->threshold == INFINITY && !results->grows && !run->has_offsets)
        find_first_k(s, lut, run, results);
    if (run->n && (!s->prunes || results->threshold == INFINITY)) fpq_lut_make_exact(lut);
    for (; i < run->n && (!s->prunes || results->threshold == INFINITY); i++) {
        scan_block(s, lut, run->block_ids[i], run->rows[i], run->has_offsets ? run->offsets[i] : lut->offset, results);
        run->rows[i] = 0;
    }
    if (i < run->n) {
        const float threshold = results->threshold;
        float least = 0;
        for (int b = i; b < run->n && run->has_offsets; b++)
            least = b == i || run->offsets[b] < least ? run->offsets[b] : least;
        if (quantize(lut, threshold - least)) {
            prune(s, lut, run, threshold);
            score(s, lut, run, results);
        }
    }
    run->n = 0;
}
