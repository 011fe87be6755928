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
} fpq_lut16;

typedef struct {
    const fpq_adc *adc;
    const float *half; /* that of fpq_codeword_norms */
    fpq_lut16 *lists;  /* set for those that are probed; NULL: no terms */
    float step;
    float longest; /* that of fpq_codeword_norms */
} fpq_precomputed;

/* Terms for the lists of n_probes probes in all, if so many probes share them that they pay, and memory is not too
 * much. 0, or -1 when memory ran out. */
int fpq_precomputed_make(const fpq_adc *adc, const fpq_codeword_norms *squares, const fpq_lists *lists,
                         const int64_t *probes, int64_t n_probes, fpq_precomputed *terms, int threads);
void fpq_precomputed_free(fpq_precomputed *terms);

size_t fpq_lut16_size(const fpq_adc *adc); /* bytes of steps */
/* The terms of n <= FPQ_LUT_QUERIES queries q (n, d), into out[i]->steps. */
void fpq_precomputed_query_terms(const fpq_precomputed *terms, const float *q, int n, fpq_lut16 *const *out);

void fpq_precomputed_prefetch(const fpq_precomputed *terms, int64_t list); /* call it up */
/* Rough tables for the codes of a list; the residual q - c must stay. */
void fpq_lut_make_precomputed(const fpq_precomputed *terms, const fpq_lut16 *own, int64_t list, const float *residual,
                              fpq_lut *query);

#endif
