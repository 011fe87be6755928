/* SPDX-License-Identifier: MIT
 * The part of fpq.h for refinement codes. */
#ifndef FPQ_REFINEMENT_H
#define FPQ_REFINEMENT_H

#include "fpq.h"

/* ---- refinement codes ----
 * Scalar codes, of 4, 6 or 8 bits per dimension, of the error e = y - y^ that a product quantizer leaves. A code c of
 * dimension j stands for e^_j = steps[j] (c - 2^(bits - 1) + 0.5), but one of 4 bits for e^_j = g steps[j]
 * (levels[number] - 64), its number being that of refine/trellis.h. A step is finite and at least 0; of a step of 0,
 * e^_j is 0 and c is 2^(bits - 1), of 4 bits any. g is the gain of the row (gain-shape quantization; Sabin and Gray
 * 1984): of FPQ_GAINS_TRIED ones that which leaves the least squared error.
 *
 * Plane A holds a = the upper 4 bits of each code, dimensions 2p and 2p + 1 in byte p of a row, the first one in the
 * low nibble. Plane B holds the other bits: of 8-bit codes as plane A, of 6-bit codes dimensions 4p .. 4p + 3 in byte
 * p, lowest bits first; 4-bit codes have no plane B. Bits of no dimension are 0. Plane A alone stands for e^A_j =
 * steps[j] 2^(bits - 4) (a - 8 + 0.5); of 4-bit codes e^A = e^. */
enum {
    FPQ_LEVELS = 64,
    FPQ_CHAIN = 16,
    FPQ_LEVEL_OF_0 = 64,
    FPQ_GAINS = 256,
    FPQ_GAINS_ESTIMATED = 16,
    FPQ_GAINS_TRIED = 8
};
typedef struct {
    int w, bits;
    const float *steps;    /* w */
    const uint8_t *levels; /* of 4-bit codes: FPQ_LEVELS numbers below 128, each four ascending; NULL for others */
    const float *gains;    /* of 4-bit codes: the FPQ_GAINS powers of 2 to -16, -15.875, ...; NULL: all gains are 1 */
} fpq_refinement;

int fpq_refinement_plane_bytes(int w, int bits, int plane); /* of a row; plane 0: A, 1: B (0 if bits is 4) */
/* e (n, w) times scale: errors; base (n, w) times scale, a power of two, less centre (w): y^. a and b: (n, bytes of a
 * row); b is NULL for 4-bit codes. gain_codes (n): the numbers of gains, unless r has none. norms (n, planes): of each
 * plane |z|^2 + 2 <y^, z>, z = e^A for plane A, z = e^ for plane B; plane A of 4-bit codes is the only one. */
int fpq_refinement_encode(const fpq_refinement *r, const float *e, const float *base, float scale, const float *centre,
                          int64_t n, uint8_t *a, uint8_t *b, uint8_t *gain_codes, float *norms, int threads);
void fpq_refinement_decode(const fpq_refinement *r, const uint8_t *a, const uint8_t *b, const uint8_t *gain_codes,
                           int64_t n, float *out); /* out (n, w): e^ */

/* A query in whole numbers: y_j steps[j] is about unit Q_j, Q_j = 128 hi + lo from -8063 to 8063. */
typedef struct {
    const int8_t *a, *b; /* what the kernel plane_sums takes for planes A and B; b is NULL for 4-bit codes */
    double unit;
    int64_t sum; /* of all Q_j */
} fpq_refinement_query;

size_t fpq_refinement_query_size(const fpq_refinement *r); /* bytes, a multiple of 64 */
/* memory: fpq_refinement_query_size bytes on a 64-byte boundary, which must outlive the query. */
void fpq_refinement_query_make(const fpq_refinement *r, const float *y, char *memory, fpq_refinement_query *query);
/* <y, e^A> and <y, e^> from the two sums of a row that plane_sums computes, divided by the gain of the row; sums_b is
 * not read for 4-bit codes. */
double fpq_refinement_product_a(const fpq_refinement *r, const fpq_refinement_query *query, const int32_t *sums_a);
double fpq_refinement_product(const fpq_refinement *r, const fpq_refinement_query *query, const int32_t *sums_a,
                              const int32_t *sums_b);

/* ---- refined distances of candidates ---- */
struct fpq_refined {
    fpq_refinement codes;
    const uint8_t *a, *b;      /* planes by row; b is NULL for codes of 4 bits */
    const uint8_t *gain_codes; /* by row; NULL if the codes have no gains */
    const float *norms;        /* (rows, planes), of fpq_refinement_encode */
    int64_t n;                 /* rows */
    fpq_ids ids;               /* of the rows */
    const fpq_id_table *rows;  /* candidates are ids, and this finds their rows; NULL: candidates are rows */
    fpq_metric metric;
    const float *centre; /* w: what norms and products are relative to, so that a large offset of the data does not cost
                            digits; NULL for inner products */
    double query_scale, unit; /* queries times query_scale are in the scale of the codes; unit: what a squared distance
                                 (a product) in this scale is in the scale of the queries */
};

/* The k nearest of the candidates (nq, n), -1 for none, whose distances by their codes are given. Queries (nq, w) are
 * rotated. Where codes have two planes, the `closest` nearest by the first one read the second. */
int fpq_refine(const fpq_refined *refined, const float *queries, int64_t nq, const int64_t *candidates,
               const float *distances, int64_t n, int64_t closest, const fpq_answers *answers, int threads);

#endif
