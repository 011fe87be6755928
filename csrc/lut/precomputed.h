/* SPDX-License-Identifier: MIT
 * Precomputed tables: those of a query's residuals as sums of a term of the list and a term of the query,
 *   |(q - c) - p|^2 = |q - c|^2 + (|p|^2 + 2 c.p) - 2 q.p   for a centroid c and a codeword p
 * (Babenko, Lempitsky, The Inverted Multi-Index, CVPR 2012; faiss: precomputed_table). The entries of a term are whole
 * steps above the minimum of their table, rounded down and cut at 15 bits, so that the sum of two fits into 16. */
#ifndef FPQ_PRECOMPUTED_H
#define FPQ_PRECOMPUTED_H

#include "lut/lut.h"

typedef struct {
    uint16_t *entries; /* (m, ld_table), in steps */
    float base;        /* the minima of the tables, added */
    float squared;     /* squared length of the centroid or query */
} fpq_lut16;

typedef struct {
    const fpq_kernels *kern;
    const fpq_adc *adc;
    const float *half; /* that of fpq_codeword_norms */
    float longest;     /* that of fpq_codeword_norms */
    fpq_lut16 *lists;  /* (n_lists), with entries for those that are probed; NULL: no terms */
    float step;
} fpq_precomputed;

/* Terms of the lists of all n_probes probes, if enough probes share a list and memory suffices; else lists is NULL.
 * 0, or -1 when memory ran out or the call was stopped. */
int fpq_precomputed_make(const fpq_kernels *kern, const fpq_adc *adc, const fpq_codeword_norms *norms,
                         const fpq_lists *lists, const int64_t *probes, int64_t n_probes, fpq_precomputed *out,
                         int threads);
void fpq_precomputed_free(fpq_precomputed *p);

size_t fpq_lut16_size(const fpq_adc *adc); /* bytes of entries */
/* The terms of n <= FPQ_LUT_QUERIES queries q (n, d), into out[i]->entries. */
void fpq_precomputed_query_terms(const fpq_precomputed *p, const float *q, int n, fpq_lut16 *const *out);

void fpq_precomputed_prefetch(const fpq_precomputed *p, int64_t list);
/* The tables of a query for the codes of a list; the residual q - c must stay. */
void fpq_lut_make_precomputed(const fpq_precomputed *p, const fpq_lut16 *query, int64_t list, const float *residual,
                              fpq_lut *lut);

#endif
