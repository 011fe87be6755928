/* SPDX-License-Identifier: MIT */
#include "lut/lut.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "portable.h"

int fpq_ld_table(const fpq_adc *adc) { return 1 << adc->nbits < FPQ_COLUMN_BLOCK ? FPQ_COLUMN_BLOCK : 1 << adc->nbits; }

int fpq_code_groups(const fpq_adc *adc) { return adc->nbits == 8 ? fpq_active()->code_groups : fpq_ld_table(adc); }

size_t fpq_lut_size(const fpq_adc *adc) {
    const size_t m = (size_t)adc->m, entries = m * (size_t)fpq_ld_table(adc),
                 grouped = m * (size_t)fpq_code_groups(adc);
    return fpq_lines(entries * sizeof(float)) + (grouped < entries ? fpq_lines(grouped * sizeof(float)) : 0) +
           2 * fpq_lines(m * sizeof(float)) + fpq_lines(grouped) + (grouped < entries ? fpq_lines(entries) : 0) +
           2 * fpq_lines(m * sizeof(int32_t));
}

/* Tables of n <= FPQ_LUT_QUERIES queries q (n, d). */
static void make_tables(const fpq_adc *adc, const float *q, int n, float *const *tables) {
    const fpq_kernels *kern = fpq_active();
    const int k = 1 << adc->nbits, d = adc->offsets[adc->m];
    const int64_t each = fpq_packed_size(k, adc->dsub);
    for (int j = 0; j < adc->m; j++) {
        const int from = adc->offsets[j];
        float *out[FPQ_LUT_QUERIES];
        for (int i = 0; i < n; i++) out[i] = tables[i] + (ptrdiff_t)j * fpq_ld_table(adc);
        (adc->inner_product ? kern->table_ip : kern->table_l2)(q + from, d, n, adc->offsets[j + 1] - from,
                                                               adc->packed + j * each, FPQ_COLUMN_BLOCKS(k), out);
    }
}

void fpq_adc_table(const fpq_adc *adc, const float *q, float *table) { make_tables(adc, q, 1, &table); }

void fpq_lut_place(const fpq_adc *adc, char *memory, fpq_lut *query) {
    const size_t m = (size_t)adc->m, entries = m * (size_t)fpq_ld_table(adc),
                 grouped = m * (size_t)fpq_code_groups(adc);
    *query = (fpq_lut){.table = (float *)(void *)memory, .grouped = (float *)(void *)memory};
    memory += fpq_lines(entries * sizeof(float));
    if (grouped < entries) {
        query->grouped = (float *)(void *)memory;
        memory += fpq_lines(grouped * sizeof(float));
    }
    query->steps = (uint16_t *)(void *)query->grouped;
    query->least = (float *)(void *)memory;
    query->spread = (float *)(void *)(memory += fpq_lines(m * sizeof(float)));
    query->entries = (uint8_t *)(memory += fpq_lines(m * sizeof(float)));
    memory += fpq_lines(grouped);
    query->all = query->entries;
    if (grouped < entries) {
        query->all = (uint8_t *)memory;
        memory += fpq_lines(entries);
    }
    query->order = (int32_t *)(void *)memory;
    query->lowest = (int32_t *)(void *)(memory + fpq_lines(m * sizeof(int32_t)));
    for (int j = 0; j < adc->m; j++) query->order[j] = j;
}

static void group_tables(const fpq_adc *adc, fpq_lut *query) {
    const int groups = fpq_code_groups(adc), ld = fpq_ld_table(adc);
    for (int j = 0; j < adc->m && query->grouped != query->table; j++)
        fpq_active()->group_min(query->table + (ptrdiff_t)j * ld, groups, ld / groups,
                                query->grouped + (ptrdiff_t)j * groups);
}

/* What there is to know of its exact tables. */
static void min_max_sum(const fpq_adc *adc, fpq_lut *query) {
    const int k = 1 << adc->nbits, ld = fpq_ld_table(adc);
    double base = 0, magnitude = 0;
    for (int j = 0; j < adc->m; j++) {
        float min_max_sum[3];
        fpq_active()->min_max_sum(query->table + (ptrdiff_t)j * ld, k, min_max_sum);
        query->least[j] = min_max_sum[0];
        query->spread[j] = fmaxf(min_max_sum[2] / (float)k - min_max_sum[0], 0); /* not NaN */
        base += (double)min_max_sum[0];
        magnitude += fmax(fabs((double)min_max_sum[0]), fabs((double)min_max_sum[1]));
    }
    query->offset = 0;
    query->base = (float)base;
    /* Entries that are not negative never add up to more than the limit in a row within the limit. */
    query->magnitude = adc->inner_product ? (float)magnitude : 0;
    query->limit = -INFINITY;
    query->rough_of = NULL;
    query->terms[0] = NULL;
    group_tables(adc, query);
}

void fpq_lut_make(const fpq_adc *adc, const float *q, int n, fpq_lut *const *queries) {
    float *tables[FPQ_LUT_QUERIES] = {NULL};
    for (int i = 0; i < n; i++) tables[i] = queries[i]->table;
    make_tables(adc, q, n, tables);
    for (int i = 0; i < n; i++) min_max_sum(adc, queries[i]);
}

size_t fpq_codeword_norms_size(const fpq_adc *adc) {
    return (size_t)adc->m * (size_t)fpq_ld_table(adc) + (size_t)adc->offsets[adc->m];
}

fpq_codeword_norms fpq_codeword_norms_of(const fpq_adc *adc, float *memory) {
    const int ld = fpq_ld_table(adc);
    fpq_codeword_norms squares = {.half = memory};
    float *origin = memory + adc->m * ld;
    memset(origin, 0, (size_t)adc->offsets[adc->m] * sizeof(float));
    fpq_adc_table(adc, origin, memory);
    for (int j = 0; j < adc->m; j++) {
        float min_max_sum[3];
        fpq_active()->min_max_sum(memory + (ptrdiff_t)j * ld, 1 << adc->nbits, min_max_sum);
        squares.longest += min_max_sum[1];
    }
    for (int e = 0; e < adc->m * ld; e++) memory[e] /= 2;
    return squares;
}

void fpq_lut_make_approx(const fpq_adc *adc, const fpq_codeword_norms *squares, const float *q, int n,
                         fpq_lut *queries) {
    const fpq_kernels *kern = fpq_active();
    const int blocks = FPQ_COLUMN_BLOCKS(1 << adc->nbits), ld = fpq_ld_table(adc), d = adc->offsets[adc->m];
    const int64_t each = fpq_packed_size(1 << adc->nbits, adc->dsub);
    for (int i = 0; i < n; i++) {
        queries[i].offset = kern->ip_f32(q + (ptrdiff_t)i * d, q + (ptrdiff_t)i * d, d);
        queries[i].base = 0;
        /* Bounds what the parts of an entry add up to in size: (|q| + |p|)^2, with what the root would take. */
        queries[i].magnitude = 3 * (queries[i].offset + squares->longest);
        queries[i].limit = -INFINITY;
        queries[i].rough_of = q + (ptrdiff_t)i * d;
        queries[i].terms[0] = NULL;
    }
    for (int j = 0; j < adc->m; j++) {
        const int from = adc->offsets[j];
        float *out[FPQ_LUT_QUERIES], least[FPQ_LUT_QUERIES];
        for (int i = 0; i < n; i++) out[i] = queries[i].table + (ptrdiff_t)j * ld;
        kern->approx_l2(q + from, d, n, adc->offsets[j + 1] - from, adc->packed + j * each,
                        squares->half + (ptrdiff_t)j * ld, blocks, out, least);
        for (int i = 0; i < n; i++) {
            queries[i].least[j] = least[i];
            queries[i].base += least[i];
        }
    }
    for (int i = 0; i < n; i++) group_tables(adc, queries + i);
    for (int i = 0; i < n; i++)
        if (!fpq_lut_is_bounded(queries + i)) fpq_lut_make_exact(adc, queries + i);
}

int fpq_lut_is_bounded(const fpq_lut *query) { return query->magnitude < 0x1p120f; }

void fpq_lut_make_exact(const fpq_adc *adc, fpq_lut *query) {
    const float limit = query->limit;
    if (!query->rough_of) return;
    fpq_lut_make(adc, query->rough_of, 1, &query);
    query->limit = limit;
}

FPQ_INLINE float estimate(const fpq_lut *query, const int m, const int nbits, const uint8_t *codes) {
    const int ld = nbits == 8 ? 256 : FPQ_COLUMN_BLOCK;
    float sum = 0;
    int32_t steps = 0;
    if (!query->terms[0]) {
        const float *table = query->table;
        for (int j = 0; j < m; j++, table += ld) sum += table[fpq_sub_code(nbits, codes, j)];
        return sum + query->offset;
    }
    const uint16_t *a = query->terms[0], *b = query->terms[1];
    for (int j = 0; j < m; j++, a += ld, b += ld)
        steps += a[fpq_sub_code(nbits, codes, j)] + b[fpq_sub_code(nbits, codes, j)];
    return query->offset + query->step * (float)steps;
}

FPQ_INLINE const uint8_t *codes_of(const uint8_t *blocks, int code_size, int64_t row) {
    return blocks + row / 64 * 64 * code_size + row % 64;
}

FPQ_INLINE void estimates(const fpq_lut *query, const int m, const int nbits, const uint8_t *blocks, int code_size,
                          const int64_t *rows, int n, float *out) {
    for (int i = 0; i < n; i++) out[i] = estimate(query, m, nbits, codes_of(blocks, code_size, rows[i]));
}

void fpq_lut_estimates(const fpq_adc *adc, const fpq_lut *query, const uint8_t *blocks, const int64_t *rows, int n,
                       float *out) {
    const int code_size = fpq_code_size(adc->m, adc->nbits);
    /* The usual m, for a loop of known length. */
    if (adc->nbits == 8 && adc->m == 16)
        estimates(query, 16, 8, blocks, 16, rows, n, out);
    else if (adc->nbits == 4 && adc->m == 32)
        estimates(query, 32, 4, blocks, 16, rows, n, out);
    else if (adc->nbits == 8)
        estimates(query, adc->m, 8, blocks, code_size, rows, n, out);
    else
        estimates(query, adc->m, 4, blocks, code_size, rows, n, out);
}

void fpq_lut_distances(const fpq_adc *adc, const fpq_lut *query, const uint8_t *blocks, const int64_t *rows, int n,
                       float *out) {
    const fpq_kernels *kern = fpq_active();
    const int code_size = fpq_code_size(adc->m, adc->nbits);
    for (int i = 0; i < n; i++) out[i] = kern->code_l2(adc, query->rough_of, codes_of(blocks, code_size, rows[i]));
}

void fpq_lut_order(const fpq_adc *adc, fpq_lut *query) {
    for (int j = 0; j < adc->m; j++) {
        const float spread = query->spread[j];
        int rank = 0; /* without branches, as no guess of them would be right */
        for (int i = 0; i < j; i++) rank += query->spread[i] >= spread;
        for (int i = j + 1; i < adc->m; i++) rank += query->spread[i] > spread;
        query->order[rank] = j;
    }
}

/* Terms are rounded in float32, which may put each of two a little above the number of steps that it has. */
#define STEP_ERROR 0.05f

static float step_error(const fpq_adc *adc, const fpq_lut *query) {
    return query->terms[0] ? STEP_ERROR * query->step * (float)adc->m : 0;
}

/* Bounds the rounding errors of distances in float32 of at most limit. */
static float slack_of(const fpq_adc *adc, const fpq_lut *query, float limit) {
    return (query->magnitude + fabsf(limit)) * (float)(2 * adc->m + adc->dsub + 8) * FLT_EPSILON;
}

float fpq_lut_approx_threshold(const fpq_adc *adc, const fpq_lut *query, float limit) {
    return limit + slack_of(adc, query, limit) + step_error(adc, query);
}

/* A row whose distance in float32 is at most limit has, in exact arithmetic and by rough tables, entries above the
 * least of their tables that add up to at most limit - offset - base + slack; so its bytes, rounded down, add up to at
 * most FPQ_BYTE_THRESHOLD. */
int fpq_lut_quantize(const fpq_kernels *kern, const fpq_adc *adc, float limit, fpq_lut *query) {
    const int groups = fpq_code_groups(adc);
    const float zero = query->offset + query->base - step_error(adc, query) - slack_of(adc, query, limit),
                width = limit - zero;
    const float scale = width > 1e-30f    ? FPQ_BYTE_THRESHOLD / 2 / (fminf(width / 2, FLT_MAX / 1.001f) * 1.0001f)
                        : width <= 1e-30f ? 1e30f
                                          : 0;
    if (width < 0) return 0;
    query->factor = (int)fminf(scale * query->step * 65536, 65535);
    for (int j = 0; j < adc->m; j++) {
        const ptrdiff_t at = (ptrdiff_t)j * groups;
        if (query->terms[0])
            kern->quantize_u16_to_u8(query->steps + at, groups, query->lowest[j], query->factor, query->entries + at);
        else
            kern->quantize_u8(query->grouped + at, groups, query->least[j], scale, query->entries + at);
    }
    query->limit = limit;
    query->zero = zero;
    query->scale = scale;
    query->has_all = query->all == query->entries;
    return 1;
}

void fpq_lut_quantize_full(const fpq_kernels *kern, const fpq_adc *adc, fpq_lut *query) {
    const int ld = fpq_ld_table(adc);
    uint16_t sums[FPQ_MAX_ENTRIES];
    if (query->has_all) return;
    for (int j = 0; j < adc->m; j++) {
        const ptrdiff_t at = (ptrdiff_t)j * ld;
        if (query->terms[0]) {
            kern->group_min_of_sums(query->terms[0] + at, query->terms[1] + at, ld, 1, sums);
            kern->quantize_u16_to_u8(sums, ld, query->lowest[j], query->factor, query->all + at);
        } else
            kern->quantize_u8(query->table + at, ld, query->least[j], query->scale, query->all + at);
    }
    query->has_all = 1;
}

int fpq_lut_byte_threshold(const fpq_lut *query, float limit) {
    const float most = query->scale * (limit - query->zero) * 1.0001f;
    return most < FPQ_BYTE_THRESHOLD ? (int)fmaxf(most, 0) : FPQ_BYTE_THRESHOLD;
}
