/* SPDX-License-Identifier: MIT
 * A query's distance tables, and the same in bytes for the sieve: which rows can have a sum within a limit. */
#ifndef FPQ_SIEVE_H
#define FPQ_SIEVE_H

#include "isa/kernels.h"

typedef struct {
    float *table;     /* (m, ld_table) */
    float *grouped;   /* (m, groups), the least entry of each group, or table itself */
    float *least;     /* (m), the least entry of each table */
    float *spread;    /* (m), how far the mean entry is above the least */
    uint8_t *entries; /* (m, groups) */
    uint8_t *all;     /* (m, ld_table), without groups: entries itself, or made on demand */
    int has_all;
    int32_t *order;        /* in which the sieve goes through the tables */
    float offset;          /* what a distance has beside the sum of its entries */
    float base;            /* sum of the least entries */
    float magnitude;       /* bound of the sizes of partial sums beside the limit itself */
    const float *rough_of; /* the tables are rough ones of this query; NULL: exact */
    /* Rough tables may be sums of two terms, in steps; else NULL. */
    const uint16_t *terms[2];
    uint16_t *steps; /* (m, groups), the least sum of each group, in the memory of grouped */
    int32_t *lowest; /* (m), the least sum of each table */
    float step;
    int factor; /* by which they become bytes, times 65536 */
    /* What the bytes are made for: those of a row with a distance of at most x <= limit add up to at most
     * scale * (x - zero). A limit of -INFINITY: not made yet. */
    float limit, zero, scale;
} fpq_lut;

/* Squared lengths of codewords. */
typedef struct {
    float *half;   /* (m, ld_table), half of them */
    float longest; /* no code stands for a vector with a larger one */
} fpq_codeword_norms;

size_t fpq_codeword_norms_size(const fpq_adc *adc); /* floats of memory */
fpq_codeword_norms fpq_codeword_norms_of(const fpq_adc *adc, float *memory);
size_t fpq_lut_size(const fpq_adc *adc); /* bytes of memory for a query */
int fpq_ld_table(const fpq_adc *adc);
int fpq_code_groups(const fpq_adc *adc); /* entries of a table in bytes */
void fpq_lut_place(const fpq_adc *adc, char *memory, fpq_lut *query);
void fpq_lut_make(const fpq_adc *adc, const float *q, int n,
                  fpq_lut *const *queries); /* of n <= FPQ_LUT_QUERIES queries q (n, d) */
/* The same but for |q|^2 and rounding, for squared L2; q must stay. */
void fpq_lut_make_approx(const fpq_adc *adc, const fpq_codeword_norms *squares, const float *q, int n,
                         fpq_lut *queries);
/* Whether the bound of rounding errors is far from float32's largest number. Rough tables that are not bounded are made
 * exact. */
int fpq_lut_is_bounded(const fpq_lut *query);
void fpq_lut_make_exact(const fpq_adc *adc, fpq_lut *query); /* keeps the bytes */
/* The distances of rows of 4- or 8-bit codes by the tables: exact if they are. */
void fpq_lut_estimates(const fpq_adc *adc, const fpq_lut *query, const uint8_t *blocks, const int64_t *rows, int n,
                       float *out);
/* The largest estimate of a row with a distance of at most limit. */
float fpq_lut_approx_threshold(const fpq_adc *adc, const fpq_lut *query, float limit);
/* Of rough tables: the exact distance; the bits of the exact table. */
void fpq_lut_distances(const fpq_adc *adc, const fpq_lut *query, const uint8_t *blocks, const int64_t *rows, int n,
                       float *out);
void fpq_lut_order(const fpq_adc *adc, fpq_lut *query); /* tables that rule rows out soonest come first */

/* Make the bytes for rows with distances of at most limit; 0 if there can be none. */
int fpq_lut_quantize(const fpq_kernels *kern, const fpq_adc *adc, float limit, fpq_lut *query);
/* Make query->all. */
void fpq_lut_quantize_full(const fpq_kernels *kern, const fpq_adc *adc, fpq_lut *query);
/* What the bytes of a row with a distance of at most `limit` add up to at most; limit <= query->limit. */
int fpq_lut_byte_threshold(const fpq_lut *query, float limit);

#endif
