/* SPDX-License-Identifier: MIT
 * Rows and centroids in bytes. Their products are whole numbers and cheap; how far they can be from the products of the
 * vectors themselves is known, so few centroids of a row need to be looked at again.
 *
 * For x = x' + e and c = c' + f, x' and c' being the bytes: |x.c - x'.c'| <= |e| |c| + |x'| |f|. */
#ifndef FPQ_BYTES_H
#define FPQ_BYTES_H

#include "isa/kernels.h"

typedef struct {
    fpq_int8_columns columns;
    int8_t *packed;
    int32_t *start;
    float *scale;
    float length, error, slack; /* most |c| and |f| of a column; relative rounding error of sums of floats */
} fpq_int8_codebook;

/* Rows to be multiplied with the columns. */
typedef struct {
    const fpq_int8_codebook *codebook;
    uint8_t *bytes; /* (n, columns.d) */
    float *step;
    float *margin;   /* a product and that of the bytes are never farther apart */
    float *square;   /* squared lengths of the rows */
    float *rounding; /* a product in float32, summed in any order, and the true one are never farther apart */
    float *rest;     /* (columns.d) */
} fpq_int8_rows;

/* Whether bytes are worth while for k columns of d numbers. */
int fpq_int8_pays(const fpq_kernels *kern, int k, int d);

size_t fpq_int8_codebook_size(int blocks, int d);
size_t fpq_int8_rows_size(int n, int d);

/* In memory on a 64-byte boundary; columns that are never put are zero. */
void fpq_int8_codebook_place(char *memory, int blocks, int d, const float *bias, fpq_int8_codebook *codebook);
void fpq_int8_rows_place(char *memory, int n, const fpq_int8_codebook *codebook, fpq_int8_rows *rows);

/* Column `at` becomes c (d numbers); scratch (2 d). */
void fpq_int8_codebook_put(const fpq_kernels *kern, fpq_int8_codebook *codebook, int at, const float *c, int d,
                           float *scratch);

/* Row `at` becomes x (d numbers). */
void fpq_int8_rows_put(const fpq_kernels *kern, fpq_int8_rows *rows, int at, const float *x, int d);

#endif
