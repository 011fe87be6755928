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
} fpq_query;

/* Squared lengths of codewords. */
typedef struct {
    float *half;   /* (m, ld_table), half of them */
    float longest; /* no code stands for a vector with a larger one */
} fpq_squares;

size_t fpq_squares_size(const fpq_adc *adc); /* floats of memory */
fpq_squares fpq_squares_of(const fpq_adc *adc, float *memory);
size_t fpq_query_size(const fpq_adc *adc); /* bytes of memory for a query */
int fpq_ld_table(const fpq_adc *adc);
int fpq_groups(const fpq_adc *adc); /* entries of a table in bytes */
void fpq_query_place(const fpq_adc *adc, char *memory, fpq_query *query);
void fpq_query_tables(const fpq_adc *adc, const float *q, int n,
                      fpq_query *const *queries); /* of n <= FPQ_TABLES queries q (n, d) */
/* The same but for |q|^2 and rounding, for squared L2; q must stay. */
void fpq_query_rough_tables(const fpq_adc *adc, const fpq_squares *squares, const float *q, int n, fpq_query *queries);
/* Whether the bound of rounding errors is far from float32's largest number. Rough tables that are not bounded are made
 * exact. */
int fpq_query_is_bounded(const fpq_query *query);
void fpq_query_make_exact(const fpq_adc *adc, fpq_query *query); /* keeps the bytes */
/* The distances of rows of 4- or 8-bit codes by the tables: exact if they are. */
void fpq_query_estimates(const fpq_adc *adc, const fpq_query *query, const uint8_t *blocks, const int64_t *rows, int n,
                         float *out);
/* The largest estimate of a row with a distance of at most limit. */
float fpq_query_most(const fpq_adc *adc, const fpq_query *query, float limit);
/* Of rough tables: the exact distance; the bits of the exact table. */
void fpq_query_distances(const fpq_adc *adc, const fpq_query *query, const uint8_t *blocks, const int64_t *rows, int n,
                         float *out);
void fpq_query_sort(const fpq_adc *adc, fpq_query *query); /* tables that rule rows out soonest come first */

/* Make the bytes for rows with distances of at most limit; 0 if there can be none. */
int fpq_query_tighten(const fpq_kernels *kern, const fpq_adc *adc, float limit, fpq_query *query);
/* Make query->all. */
void fpq_query_fill(const fpq_kernels *kern, const fpq_adc *adc, fpq_query *query);
/* What the bytes of a row with a distance of at most `limit` add up to at most; limit <= query->limit. */
int fpq_query_bytes(const fpq_query *query, float limit);

#endif
