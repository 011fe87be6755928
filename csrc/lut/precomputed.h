/* SPDX-License-Identifier: MIT
 * Rough tables of a query's residuals as sums of a term of the list and a term of the query:
 *   |(q - c) - p|^2 = |q - c|^2 + (|p|^2 + 2 c.p) - 2 q.p   for a centroid c and a codeword p
 * (Babenko, Lempitsky, The Inverted Multi-Index, CVPR 2012). Entries of a term are whole steps above the least of their
 * table, rounded down and cut at 15 bits, so that the sum of two fits into 16. */
#ifndef FPQ_TERMS_H
#define FPQ_TERMS_H

#include "lut/lut.h"

typedef struct {
    uint16_t *steps; /* (m, ld_table) */
    float base;      /* what the steps leave out, summed over the tables */
    float squared;   /* squared length of the centroid or query */
} fpq_term;

typedef struct {
    const fpq_adc *adc;
    const float *half; /* that of fpq_squares */
    fpq_term *lists;   /* set for those that are probed; NULL: no terms */
    float step;
    float longest; /* that of fpq_squares */
} fpq_terms;

/* Terms for the lists of n_probes probes in all, if so many probes share them that they pay, and memory is not too
 * much. 0, or -1 when memory ran out. */
int fpq_terms_make(const fpq_adc *adc, const fpq_squares *squares, const fpq_lists *lists, const int64_t *probes,
                   int64_t n_probes, fpq_terms *terms, int threads);
void fpq_terms_free(fpq_terms *terms);

size_t fpq_term_size(const fpq_adc *adc); /* bytes of steps */
/* The terms of n <= FPQ_TABLES queries q (n, d), into out[i]->steps. */
void fpq_terms_of_queries(const fpq_terms *terms, const float *q, int n, fpq_term *const *out);

void fpq_term_fetch(const fpq_terms *terms, int64_t list); /* call it up */
/* Rough tables for the codes of a list; the residual q - c must stay. */
void fpq_query_term_tables(const fpq_terms *terms, const fpq_term *own, int64_t list, const float *residual,
                           fpq_query *query);

#endif
