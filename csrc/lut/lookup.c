/* SPDX-License-Identifier: MIT */
#include "lut/lut.h"
#include "portable.h"

FPQ_INLINE float precomputed_sum(const fpq_lut *lut, const int m, const int nbits, const uint8_t *codes) {
    const int ld = nbits == 8 ? 256 : FPQ_COLUMN_BLOCK;
    const uint16_t *a = lut->list_term, *b = lut->query_term;
    int32_t steps = 0;
    for (int j = 0; j < m; j++, a += ld, b += ld)
        steps += a[fpq_sub_code(nbits, codes, j)] + b[fpq_sub_code(nbits, codes, j)];
    return lut->offset + lut->step * (float)steps;
}

enum { ROWS = 4 }; /* summed side by side, so that the sums do not wait for one another */

/* Sums of n <= ROWS rows, each row's entries added in the order of the subquantizers. */
FPQ_INLINE void table_sums(const fpq_lut *lut, const int m, const int nbits, const uint8_t *const *codes, const int n,
                           float *out) {
    const float *table = lut->table;
    float sum[ROWS] = {0};
    if (nbits == 8) {
        for (int j = 0; j < m; j++, table += 256)
            for (int i = 0; i < n; i++) sum[i] += table[codes[i][j * 64]];
    } else {
        for (int j = 0; j + 1 < m; j += 2, table += 2 * FPQ_COLUMN_BLOCK)
            for (int i = 0; i < n; i++) {
                const uint8_t pair = codes[i][j * 32];
                sum[i] += table[pair & 15];
                sum[i] += table[FPQ_COLUMN_BLOCK + (pair >> 4)];
            }
        for (int i = 0; i < n && m % 2; i++) sum[i] += table[codes[i][m / 2 * 64] & 15];
    }
    for (int i = 0; i < n; i++) out[i] = sum[i] + lut->offset;
}

FPQ_INLINE const uint8_t *codes_of(const uint8_t *blocks, int code_size, int64_t row) {
    return blocks + row / 64 * 64 * code_size + row % 64;
}

FPQ_INLINE void sums(const fpq_lut *lut, const int m, const int nbits, const uint8_t *blocks, int code_size,
                     const int64_t *rows, int n, float *out) {
    const uint8_t *codes[ROWS];
    int i = 0;
    if (lut->kind == FPQ_LUT_PRECOMPUTED) {
        for (; i < n; i++) out[i] = precomputed_sum(lut, m, nbits, codes_of(blocks, code_size, rows[i]));
        return;
    }
    for (; i + ROWS <= n; i += ROWS) {
        for (int r = 0; r < ROWS; r++) codes[r] = codes_of(blocks, code_size, rows[i + r]);
        table_sums(lut, m, nbits, codes, ROWS, out + i);
    }
    for (; i < n; i++) {
        codes[0] = codes_of(blocks, code_size, rows[i]);
        table_sums(lut, m, nbits, codes, 1, out + i);
    }
}

void fpq_lut_sums(const fpq_lut *lut, const uint8_t *blocks, const int64_t *rows, int n, float *out) {
    const int m = lut->adc->m, nbits = lut->adc->nbits, code_size = fpq_code_size(m, nbits);
    /* 16 bytes per code are usual: a constant m makes loops of known length. */
    if (nbits == 8 && m == 16)
        sums(lut, 16, 8, blocks, 16, rows, n, out);
    else if (nbits == 4 && m == 32)
        sums(lut, 32, 4, blocks, 16, rows, n, out);
    else if (nbits == 8)
        sums(lut, m, 8, blocks, code_size, rows, n, out);
    else
        sums(lut, m, 4, blocks, code_size, rows, n, out);
}

void fpq_lut_distances(const fpq_lut *lut, const uint8_t *blocks, const int64_t *rows, int n, float *out) {
    const int code_size = fpq_code_size(lut->adc->m, lut->adc->nbits);
    for (int i = 0; i < n; i++) out[i] = lut->kern->code_l2(lut->adc, lut->query, codes_of(blocks, code_size, rows[i]));
}
