/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "lut/lut.h"
#include "portable.h"

/* Partial sums are worth their time from MIN_TABLES on. 255 times MAX_PARTIAL_SUMS is far below 65536. */
#ifdef FPQ_SELFTEST
enum { MIN_TABLES = 5, TABLES_PER_SUM = 2, MAX_PARTIAL_SUMS = 128 };
#else
enum { MIN_TABLES = 40, TABLES_PER_SUM = 8, MAX_PARTIAL_SUMS = 128 };
#endif
static const float HEADROOM = 1.5f; /* a partial sum of a near row may be so much larger than its share */

int fpq_ld_table(const fpq_adc *adc) { return 1 << adc->nbits < FPQ_COLUMN_BLOCK ? FPQ_COLUMN_BLOCK : 1 << adc->nbits; }

int fpq_code_groups(const fpq_kernels *kern, const fpq_adc *adc) {
    return adc->nbits == 8 ? kern->code_groups : fpq_ld_table(adc);
}

/* Subquantizers per plane of codes. */
static int per_plane(const fpq_adc *adc) { return adc->nbits == 4 ? 2 : 1; }

/* Entries of all tables: one per code, one per code group. */
static size_t n_entries(const fpq_adc *adc) { return (size_t)adc->m * (size_t)fpq_ld_table(adc); }
static size_t n_groups(const fpq_kernels *kern, const fpq_adc *adc) {
    return (size_t)adc->m * (size_t)fpq_code_groups(kern, adc);
}

size_t fpq_lut_size(const fpq_kernels *kern, const fpq_adc *adc) {
    const size_t m = (size_t)adc->m, entries = n_entries(adc), groups = n_groups(kern, adc);
    const size_t of_groups = fpq_lines(groups * sizeof(float)) + fpq_lines(groups / 2) + fpq_lines(entries);
    return fpq_lines(entries * sizeof(float)) + fpq_lines(groups) + (groups < entries ? of_groups : 0) +
           fpq_lines(m * sizeof(float)) + fpq_lines(m * sizeof(int32_t));
}

/* The next `bytes` of memory, in whole cache lines. */
static void *cut(char **memory, size_t bytes) {
    void *piece = *memory;
    *memory += fpq_lines(bytes);
    return piece;
}

void fpq_lut_place(const fpq_kernels *kern, const fpq_adc *adc, char *memory, fpq_lut *lut) {
    const size_t m = (size_t)adc->m, entries = n_entries(adc), groups = n_groups(kern, adc);
    *lut = (fpq_lut){.kern = kern, .adc = adc, .table = cut(&memory, entries * sizeof(float))};
    lut->group = groups < entries ? cut(&memory, groups * sizeof(float)) : lut->table;
    lut->min = cut(&memory, m * sizeof(float));
    lut->lut8.group = cut(&memory, groups);
    if (adc->m % per_plane(adc)) memset(lut->lut8.group + groups, 0, 16); /* the cache line has room */
    lut->lut8.full = groups < entries ? cut(&memory, entries) : lut->lut8.group;
    lut->lut8.pair = groups < entries && kern->prunes_by_pairs ? cut(&memory, groups / 2) : NULL;
    lut->min16 = cut(&memory, m * sizeof(int32_t));
}

/* Tables of n <= FPQ_LUT_QUERIES queries q (n, d). */
static void make_tables(const fpq_kernels *kern, const fpq_adc *adc, const float *q, int n, float *const *tables) {
    const int k = 1 << adc->nbits, d = adc->offsets[adc->m];
    const int64_t each = fpq_packed_size(k, adc->dsub);
    for (int j = 0; j < adc->m; j++) {
        const int from = adc->offsets[j];
        float *out[FPQ_LUT_QUERIES];
        for (int i = 0; i < n; i++) out[i] = tables[i] + (ptrdiff_t)j * fpq_ld_table(adc);
        kern->metric[adc->metric].table(q + from, d, n, adc->offsets[j + 1] - from, adc->packed + j * each,
                                        FPQ_COLUMN_BLOCKS(k), out);
    }
}

void fpq_adc_tables(const fpq_adc *adc, const float *queries, int64_t nq, float *tables) {
    for (int64_t i = 0; i < nq; i++, tables += n_entries(adc))
        make_tables(fpq_active(), adc, queries + i * adc->offsets[adc->m], 1, &tables);
}

/* The code groups of table j, and the minimum, the maximum and the sum of its entries. */
static void make_groups(fpq_lut *lut, int j, float *stats) {
    const int groups = fpq_code_groups(lut->kern, lut->adc);
    const float *table = lut->table + (ptrdiff_t)j * fpq_ld_table(lut->adc);
    if (lut->group == lut->table)
        lut->kern->min_max_sum(table, 1 << lut->adc->nbits, stats);
    else
        lut->kern->group_min(table, groups, lut->group + (ptrdiff_t)j * groups, stats);
}

void fpq_lut8_clear(fpq_lut8 *lut8, int partial_sums, int max_sum) {
    lut8->partial_sums = partial_sums;
    lut8->max_sum = max_sum;
    lut8->threshold = -INFINITY;
}

static int count_partial_sums(const fpq_adc *adc) {
    const int n = (adc->m + TABLES_PER_SUM - 1) / TABLES_PER_SUM;
    return adc->m < MIN_TABLES ? 1 : n < MAX_PARTIAL_SUMS ? n : MAX_PARTIAL_SUMS;
}

/* excess: the means of the tables of each partial sum less their minima. The larger the largest is beside the others,
 * the smaller is the scale at which few partial sums of near rows are saturated. */
static void choose_max_sum(fpq_lut *lut, const float *excess, int partial_sums) {
    float largest = 0, all = 0;
    for (int i = 0; i < partial_sums; i++) {
        largest = fmaxf(largest, excess[i]);
        all += excess[i];
    }
    const float room = all / (largest * HEADROOM); /* NaN where tables are not finite */
    if (partial_sums > 1 && room > 1)
        fpq_lut8_clear(&lut->lut8, partial_sums, (int)(FPQ_MAX_BYTE_SUM * room));
    else
        fpq_lut8_clear(&lut->lut8, 1, FPQ_MAX_BYTE_SUM);
}

/* Minima, means and bounds of exact tables. */
static void finish_exact(fpq_lut *lut) {
    const fpq_adc *adc = lut->adc;
    const int k = 1 << adc->nbits, per = per_plane(adc), partial_sums = count_partial_sums(adc);
    float excess[MAX_PARTIAL_SUMS] = {0};
    double base = 0, magnitude = 0;
    for (int j = 0; j < adc->m; j++) {
        float stats[3];
        make_groups(lut, j, stats);
        lut->min[j] = stats[0];
        excess[j / per % partial_sums] += stats[2] / (float)k - stats[0];
        base += (double)stats[0];
        magnitude += fmax(fabs((double)stats[0]), fabs((double)stats[1]));
    }
    lut->kind = FPQ_LUT_EXACT;
    lut->offset = 0;
    lut->base = (float)base;
    /* L2 entries are not negative: the partial sums of a row within the threshold are within the threshold too. */
    lut->magnitude = adc->metric == FPQ_L2 ? 0 : (float)magnitude;
    choose_max_sum(lut, excess, partial_sums);
}

void fpq_lut_make(const float *q, int n, fpq_lut *const *luts) {
    float *tables[FPQ_LUT_QUERIES] = {NULL};
    for (int i = 0; i < n; i++) tables[i] = luts[i]->table;
    make_tables(luts[0]->kern, luts[0]->adc, q, n, tables);
    for (int i = 0; i < n; i++) finish_exact(luts[i]);
}

size_t fpq_codeword_norms_size(const fpq_adc *adc) { return n_entries(adc) + (size_t)adc->offsets[adc->m]; }

/* The exact tables of the origin are the squared lengths. */
fpq_codeword_norms fpq_codeword_norms_of(const fpq_kernels *kern, const fpq_adc *adc, float *memory) {
    const int ld = fpq_ld_table(adc);
    fpq_codeword_norms norms = {.half = memory};
    float *origin = memory + adc->m * ld;
    memset(origin, 0, (size_t)adc->offsets[adc->m] * sizeof(float));
    make_tables(kern, adc, origin, 1, &memory);
    for (int j = 0; j < adc->m; j++) {
        float stats[3];
        kern->min_max_sum(memory + (ptrdiff_t)j * ld, 1 << adc->nbits, stats);
        norms.longest += stats[1];
    }
    for (int e = 0; e < adc->m * ld; e++) memory[e] /= 2;
    return norms;
}

void fpq_lut_make_approx(const fpq_codeword_norms *norms, const float *q, int n, fpq_lut *luts) {
    const fpq_kernels *kern = luts[0].kern;
    const fpq_adc *adc = luts[0].adc;
    const int blocks = FPQ_COLUMN_BLOCKS(1 << adc->nbits), ld = fpq_ld_table(adc), d = adc->offsets[adc->m];
    const int64_t each = fpq_packed_size(1 << adc->nbits, adc->dsub);
    for (int i = 0; i < n; i++) {
        luts[i].kind = FPQ_LUT_APPROX;
        luts[i].query = q + (ptrdiff_t)i * d;
        luts[i].offset = kern->ip_f32(luts[i].query, luts[i].query, d);
        luts[i].base = 0;
        /* The parts of an entry add up to at most (|q| + |p|)^2 <= 2 |q|^2 + 2 |p|^2 in absolute value. */
        luts[i].magnitude = 3 * (luts[i].offset + norms->longest);
        fpq_lut8_clear(&luts[i].lut8, 1, FPQ_MAX_BYTE_SUM);
    }
    for (int j = 0; j < adc->m; j++) {
        const int from = adc->offsets[j];
        float *out[FPQ_LUT_QUERIES], min[FPQ_LUT_QUERIES];
        for (int i = 0; i < n; i++) out[i] = luts[i].table + (ptrdiff_t)j * ld;
        kern->approx_l2(q + from, d, n, adc->offsets[j + 1] - from, adc->packed + j * each,
                        norms->half + (ptrdiff_t)j * ld, blocks, out, min);
        for (int i = 0; i < n; i++) {
            float stats[3];
            luts[i].min[j] = min[i];
            luts[i].base += min[i];
            if (luts[i].group != luts[i].table) make_groups(luts + i, j, stats);
        }
    }
    for (int i = 0; i < n; i++)
        if (!fpq_lut_is_bounded(luts + i)) fpq_lut_make_exact(luts + i);
}

int fpq_lut_is_bounded(const fpq_lut *lut) { return lut->magnitude < 0x1p120f; }

void fpq_lut_make_exact(fpq_lut *lut) {
    const fpq_lut8 lut8 = lut->lut8;
    if (lut->kind == FPQ_LUT_EXACT) return;
    fpq_lut_make(lut->query, 1, &lut);
    lut->lut8 = lut8;
}
