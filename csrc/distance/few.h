/* SPDX-License-Identifier: MIT
 * Exact search of few stored rows for many queries, as in the search for the nearest lists. */
#ifndef FPQ_FEW_H
#define FPQ_FEW_H

#include "kernels.h"

/* Whether fpq_few_search serves, and pays. */
int fpq_are_few(const fpq_matrix *x, int64_t nq, const fpq_population *pop, int k);

/* fpq_flat_search with the same bits. */
int fpq_few_search(const fpq_matrix *x, const float *queries, int64_t nq, const fpq_population *pop, int inner_product, int k,
                   float *distances, int64_t *ids, int threads);

#endif
