/* SPDX-License-Identifier: MIT
 * The part of fpq.h for PM-LSH. */
#ifndef FPQ_PMLSH_H
#define FPQ_PMLSH_H

#include "fpq.h"

#define FPQ_PMLSH_SIDE 127 /* buckets on each side of the centre */

/* PM-LSH: a row's codes are its hashes, of one table, clipped to -127 .. 126. The projections of a query and a row are
 * as far apart as the query's is from the middles of the row's buckets, but for fpq_pmlsh_error buckets at most;
 * clipped ones may be farther apart. n_hashes: a multiple of 4, at most 64. */
typedef struct {
    const int32_t *blocks; /* [ceil(n / 64)], each of 64 norms, then codes [n_hashes / 4][64][4] */
    double width;          /* of a bucket */
    double reach;          /* T: a projection is at most T times the distance, with the probability that is wanted */
    double ratio;          /* c */
    int64_t n_candidates;  /* at least 1; 0: by the stop rules */
    int64_t n_clipped;     /* of fpq_pmlsh_clipped; not used where 2 F is at least 1 for every radius */
} fpq_pmlsh;

int fpq_pmlsh_codes(const fpq_hashes *hashes, const fpq_matrix *x, int8_t *codes, int threads); /* (n, n_hashes) */
/* Puts codes (n, m) into these rows of the blocks, or gets them. */
int fpq_pmlsh_put(const int8_t *codes, const int64_t *rows, int64_t n, int m, int32_t *blocks, int threads);
void fpq_pmlsh_get(const int32_t *blocks, const int64_t *rows, int64_t n, int m, int8_t *codes);

int64_t fpq_pmlsh_clipped(const int32_t *blocks, int64_t n, int m); /* rows with a code of -127 or 126 */

/* P(X <= x) of a chi-squared variable with m degrees of freedom; m is even. */
double fpq_chi_squared(double x, int m);

/* The k nearest (distance, id) among the n_candidates rows with the nearest codes, ties to the lower row; or by the
 * stop rules. Where all rows with codes within S buckets of the query are verified, r = (S - error) / reach is the
 * radius whose rows are among them with the wanted probability. Then the search may end where k rows are within ratio *
 * r: S is the least for the k nearest of some first rows; where there are k + n_clipped + 2 F n rows within S, F being
 * the probability that a row that is not clipped and farther than ratio * r has codes within S: S exceeds the least by
 * a little. Missing: +inf, -1. */
int fpq_pmlsh_search(const fpq_hashes *hashes, const fpq_pmlsh *p, const fpq_lsh_rows *rows, const float *queries,
                     int64_t nq, int k, float *distances, int64_t *ids, fpq_lsh_stats *stats, int threads);

#endif
