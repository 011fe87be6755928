/* SPDX-License-Identifier: MIT
 * A query's distance table, and the same in bytes for the sieve: which rows can have a sum within a limit. */
#ifndef FPQ_SIEVE_H
#define FPQ_SIEVE_H

#include "kernels.h"

typedef struct {
    float *table;                          /* (m, ld_table) */
    float *least;                          /* (m), the least entry of each table */
    float *spread;                         /* (m), how far the mean entry is above the least */
    uint8_t *entries, *minima;
    int32_t *order;                        /* the tables that spread most come first */
    float base;                            /* sum of the least entries */
    float slack;                           /* more than the rounding error of any sum */
    float limit;                           /* what the bytes are made for */
} fpq_query;

size_t fpq_query_size(const fpq_adc *adc);                 /* bytes of memory for a query */
int fpq_ld_table(const fpq_adc *adc);
void fpq_query_init(const fpq_adc *adc, const float *q, char *memory, fpq_query *out);

/* Make the bytes for rows with sums of at most limit. */
void fpq_query_tighten(const fpq_kernels *kern, const fpq_adc *adc, float limit, fpq_query *query);

#endif
