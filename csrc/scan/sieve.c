/* SPDX-License-Identifier: MIT */
#include "scan/sieve.h"

#include <float.h>
#include <math.h>

#include "portable.h"

int fpq_ld_table(const fpq_adc *adc) { return 1 << adc->nbits < FPQ_BLOCK ? FPQ_BLOCK : 1 << adc->nbits; }

static size_t up(size_t bytes) { return (bytes + 63) / 64 * 64; }

size_t fpq_query_size(const fpq_adc *adc) {
    const size_t m = (size_t)adc->m, entries = m * (size_t)fpq_ld_table(adc);
    return up(entries * sizeof(float)) + 2 * up(m * sizeof(float)) + up(entries) + up(m * 16) + up(m * sizeof(int32_t));
}

void fpq_adc_table(const fpq_adc *adc, const float *q, float *table) {
    const fpq_kernels *kern = fpq_active();
    const int k = 1 << adc->nbits;
    const int64_t each = fpq_packed_size(k, adc->dsub);
    for (int j = 0; j < adc->m; j++) {
        const int from = adc->offsets[j], d = adc->offsets[j + 1] - from;
        (adc->inner_product ? kern->table_ip : kern->table_l2)(q + from, d, adc->packed + j * each, FPQ_BLOCKS(k),
                                                               table + (ptrdiff_t)j * fpq_ld_table(adc));
    }
}

void fpq_query_init(const fpq_adc *adc, const float *q, char *memory, fpq_query *out) {
    const int m = adc->m, k = 1 << adc->nbits, ld = fpq_ld_table(adc);
    const size_t entries = (size_t)m * (size_t)ld;
    *out = (fpq_query){.table = (float *)(void *)memory, .limit = INFINITY};
    out->least = (float *)(void *)(memory += up(entries * sizeof(float)));
    out->spread = (float *)(void *)(memory += up((size_t)m * sizeof(float)));
    out->entries = (uint8_t *)(memory += up((size_t)m * sizeof(float)));
    out->minima = (uint8_t *)(memory += up(entries));
    out->order = (int32_t *)(void *)(memory + up((size_t)m * 16));
    fpq_adc_table(adc, q, out->table);

    double base = 0, largest = 0;
    for (int j = 0; j < m; j++) {
        const float *table = out->table + (ptrdiff_t)j * ld;
        float least = table[0], most = table[0];
        for (int c = 1; c < k; c++) {
            least = table[c] < least ? table[c] : least;
            most = table[c] > most ? table[c] : most;
        }
        float sum = 0;
        for (int c = 0; c < k; c++) sum += table[c];
        out->least[j] = least;
        out->spread[j] = sum / (float)k - least;
        base += (double)least;
        largest += fmax(fabs((double)least), fabs((double)most));
    }
    out->base = (float)base;
    out->slack = (float)(largest * (m + 4) * (double)FLT_EPSILON);
    for (int j = 0; j < m; j++) { /* by falling mean above the least: those rule rows out soonest */
        int at = j;
        for (; at > 0 && out->spread[out->order[at - 1]] < out->spread[j]; at--) out->order[at] = out->order[at - 1];
        out->order[at] = j;
    }
}

/* A row whose sum in float32 is at most limit has, in exact arithmetic, entries above the least of their tables that add up to at
 * most limit + slack - base; so its bytes, rounded down, add up to at most FPQ_SIEVE_LIMIT. */
void fpq_query_tighten(const fpq_kernels *kern, const fpq_adc *adc, float limit, fpq_query *query) {
    const int ld = fpq_ld_table(adc);
    const float width = limit - query->base + query->slack;
    const float scale = width > 1e-30f ? FPQ_SIEVE_LIMIT / (width * 1.0001f) : 1e30f;
    for (int j = 0; j < adc->m; j++) {
        uint8_t *entries = query->entries + (ptrdiff_t)j * ld;
        kern->quantize(query->table + (ptrdiff_t)j * ld, ld, query->least[j], scale, entries);
        for (int g = 0; g < 16 && adc->nbits == 8; g++) {
            uint8_t least = 255;
            for (int c = 0; c < 16; c++) least = entries[g * 16 + c] < least ? entries[g * 16 + c] : least;
            query->minima[j * 16 + g] = least;
        }
    }
    query->limit = limit;
}
