/* SPDX-License-Identifier: MIT */
#include "assign/int8.h"

#include <math.h>
#include <string.h>

#include "portable.h"

enum {
    MIN_D = 64, /* With fewer dimensions or columns, to quantize a row takes the time that its products save. */
    MIN_K = 64
};

static int padded(int d) { return (d + 7) / 8 * 8; }

int fpq_int8_is_faster(const fpq_kernels *kern, int k, int d) { return kern->fast_int8 && d >= MIN_D && k >= MIN_K; }

size_t fpq_int8_codebook_size(int blocks, int d) {
    const size_t columns = (size_t)blocks * FPQ_COLUMN_BLOCK;
    return columns * (size_t)padded(d) + columns * (sizeof(int32_t) + sizeof(float));
}

size_t fpq_int8_rows_size(int n, int d) {
    return fpq_lines((size_t)n * (size_t)padded(d)) + 4 * fpq_lines((size_t)n * sizeof(float)) +
           fpq_lines((size_t)d * sizeof(float));
}

void fpq_int8_codebook_place(char *memory, int blocks, int d, const float *bias, fpq_int8_codebook *codebook) {
    const size_t columns = (size_t)blocks * FPQ_COLUMN_BLOCK;
    *codebook = (fpq_int8_codebook){.packed = (int8_t *)memory, .rounding = (float)(d + 16) * 0x1p-23f};
    memset(memory, 0, fpq_int8_codebook_size(blocks, d));
    codebook->minus_sum = (int32_t *)(void *)(memory += columns * (size_t)padded(d));
    codebook->scale = (float *)(void *)(memory + columns * sizeof(int32_t));
    codebook->columns = (fpq_int8_columns){codebook->packed, codebook->minus_sum, codebook->scale, bias, padded(d)};
}

void fpq_int8_rows_place(char *memory, int n, const fpq_int8_codebook *codebook, fpq_int8_rows *rows) {
    rows->codebook = codebook;
    rows->quantized = (uint8_t *)memory;
    rows->scale = (float *)(void *)(memory += fpq_lines((size_t)n * (size_t)codebook->columns.d));
    rows->margin = (float *)(void *)(memory += fpq_lines((size_t)n * sizeof(float)));
    rows->square = (float *)(void *)(memory += fpq_lines((size_t)n * sizeof(float)));
    rows->rounding = (float *)(void *)(memory += fpq_lines((size_t)n * sizeof(float)));
    rows->residual = (float *)(void *)(memory + fpq_lines((size_t)n * sizeof(float)));
}

void fpq_int8_codebook_put(const fpq_kernels *kern, fpq_int8_codebook *codebook, int at, const float *c, int d,
                           float *scratch) {
    int8_t *to = codebook->packed + (ptrdiff_t)(at / FPQ_COLUMN_BLOCK) * codebook->columns.d * FPQ_COLUMN_BLOCK +
                 at % FPQ_COLUMN_BLOCK * 4;
    uint8_t *quantized = (uint8_t *)(void *)(scratch + d);
    const int max = kern->int8_offset - 1;
    int32_t minus_sum = 0;
    codebook->scale[at] = kern->quantize_int8(c, d, max, quantized, scratch);
    for (int t = 0; t < d; t++) {
        const int number = quantized[t] - max - 1;
        to[t / 4 * 4 * FPQ_COLUMN_BLOCK + t % 4] = (int8_t)number;
        minus_sum -= number;
    }
    codebook->minus_sum[at] = minus_sum;
    codebook->max_norm = fmaxf(codebook->max_norm, sqrtf(kern->ip_f32(c, c, d)));
    codebook->max_error = fmaxf(codebook->max_error, sqrtf(kern->ip_f32(scratch, scratch, d)));
}

void fpq_int8_rows_put(const fpq_kernels *kern, fpq_int8_rows *rows, int at, const float *x, int d) {
    const fpq_int8_codebook *codebook = rows->codebook;
    uint8_t *quantized = rows->quantized + (ptrdiff_t)at * codebook->columns.d;
    rows->scale[at] = kern->quantize_int8(x, d, kern->int8_offset - 1, quantized, rows->residual);
    for (int t = d; t < codebook->columns.d; t++) quantized[t] = (uint8_t)kern->int8_offset;
    rows->square[at] = kern->ip_f32(x, x, d);
    const float norm = sqrtf(rows->square[at]), error = sqrtf(kern->ip_f32(rows->residual, rows->residual, d));
    rows->rounding[at] = codebook->rounding * (norm + codebook->max_norm) * codebook->max_norm;
    rows->margin[at] = 1.0001f * (error * codebook->max_norm + (norm + error) * codebook->max_error) +
                       rows->rounding[at];
}
