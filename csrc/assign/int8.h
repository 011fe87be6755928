/* SPDX-License-Identifier: MIT
 * Scores from rows and centroids quantized to int8, whose products are faster than those of floats. The quantization
 * error has a bound, so float32 scores are needed for few centroids of a row.
 *
 * The bound. For x = x' + e and c = c' + f, where x' and c' are the quantized vectors, |x.c - x'.c'| <= |e| |c| + |x'|
 * |f| by the Cauchy-Schwarz inequality. */
#ifndef FPQ_INT8_H
#define FPQ_INT8_H

#include "isa/kernels.h"

typedef struct {
    fpq_int8_columns columns;
    int8_t *packed;
    int32_t *minus_sum;
    float *scale;
    float max_norm, max_error; /* the largest |c| and |f| of a column */
    float rounding;            /* relative rounding error of a sum of d floats */
} fpq_int8_codebook;

/* Quantized rows, for products with the columns of a codebook. */
typedef struct {
    const fpq_int8_codebook *codebook;
    uint8_t *quantized; /* (n, columns.d), with int8_offset added */
    float *scale;
    float *margin;   /* bound of the difference between the score and the int8 score of a row */
    float *square;   /* squared norms */
    float *rounding; /* bound of the rounding error of a float32 score, summed in any order */
    float *residual; /* (columns.d), scratch */
} fpq_int8_rows;

/* Whether int8 scores of k columns of d numbers are faster than float32 scores. */
int fpq_int8_is_faster(const fpq_kernels *kern, int k, int d);

size_t fpq_int8_codebook_size(int blocks, int d);
size_t fpq_int8_rows_size(int n, int d);

/* These lay out a codebook and rows in memory on a 64-byte boundary. Columns are zero until they are put. */
void fpq_int8_codebook_place(char *memory, int blocks, int d, const float *bias, fpq_int8_codebook *codebook);
void fpq_int8_rows_place(char *memory, int n, const fpq_int8_codebook *codebook, fpq_int8_rows *rows);

/* Column `at` becomes c (d numbers); scratch (2 d). */
void fpq_int8_codebook_put(const fpq_kernels *kern, fpq_int8_codebook *codebook, int at, const float *c, int d,
                           float *scratch);

/* Row `at` becomes x (d numbers). */
void fpq_int8_rows_put(const fpq_kernels *kern, fpq_int8_rows *rows, int at, const float *x, int d);

#endif
