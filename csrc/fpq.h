/* SPDX-License-Identifier: MIT
 * The C interface of fpq. No Python, no global state but the choice of instruction set. Callers own all arrays and
 * have checked all arguments. Functions that allocate scratch return 0, or -1 when memory ran out (outputs are then
 * undefined, inputs unchanged) or the hook of fpq_on_poll said stop. `threads` is at least 1; results do not depend on it.
 */
#ifndef FPQ_H
#define FPQ_H

#include <stddef.h>
#include <stdint.h>

/* ---- instruction sets (cpu.c) ---- */
typedef struct {
    int avx2, avx512, vbmi, vnni, neon;
} fpq_features;

const fpq_features *fpq_cpu_features(void);
const char *fpq_isa(void);                 /* name of the table in use: scalar, avx2, avx512bw, avx512 (with VBMI), neon */
const char *fpq_isa_at(int i);             /* i-th instruction set that runs here, slowest first; NULL past the end */
int fpq_use_isa(const char *name);         /* 0, or -1 if it is unknown or does not run here */
int fpq_has_openmp(void);
int fpq_max_threads(void);                 /* what OpenMP would use: OMP_NUM_THREADS, omp_set_num_threads */
void fpq_on_poll(int (*poll)(void));       /* long calls ask it now and then, from the calling thread: not 0 ends the call */
void fpq_after_fork(void);                 /* call in a forked child: its OpenMP pool is gone, use one thread */

/* ---- input matrices: any element type, any strides ---- */
enum { FPQ_F32, FPQ_F64, FPQ_F16, FPQ_U8, FPQ_I8 };
typedef struct {
    const char *data;
    int64_t n, d;
    ptrdiff_t row_stride, col_stride;      /* bytes, may be negative */
    int dtype;
} fpq_matrix;

int64_t fpq_first_nonfinite_row(const fpq_matrix *x, int threads); /* -1: none, -2: stopped */
int fpq_normalize(const fpq_matrix *x, float *out, int threads);   /* out (n, d): rows of length 1; zero rows stay zero */

/* ---- packed columns: c (k, d) with rows ld apart -> out, fpq_packed_size(k, d) floats, 64-byte aligned ---- */
int64_t fpq_packed_size(int k, int d);
void fpq_pack(const float *c, int k, int d, ptrdiff_t ld, const float *offset, float *out);
int fpq_project(const fpq_matrix *x, const float *packed, int k, float *out, int threads); /* out (n, k) = x c^T */

/* ---- codebooks: m subspaces, subspace j is dimensions offsets[j]..offsets[j+1]-1, k centroids each ---- */
typedef struct {
    int m, k, dsub;                        /* dsub: the widest subspace, the stride of centroids */
    const int32_t *offsets;                /* m + 1 */
    float *centroids;                      /* (m, k, dsub), zero-padded */
} fpq_codebooks;

/* Training or input rows: x[rows[i]] for i < n, or x[i] if rows is NULL. */
typedef struct {
    fpq_matrix x;
    const int64_t *rows;
    int64_t n;
} fpq_rows;

/* Nearest centroid in squared L2: ids (m, n); errors (m, n), squared distances, may be NULL. */
int fpq_assign(const fpq_codebooks *cb, const fpq_rows *data, int32_t *ids, float *errors, int threads);

/* Starting centroids by greedy k-means++: each is one of FPQ_SEED_TRIES drawn rows; draws (m, k, FPQ_SEED_TRIES) are uniform
 * random numbers in [0, 1). */
enum { FPQ_SEED_TRIES = 8 };
int fpq_seed(const fpq_codebooks *cb, const fpq_rows *data, const double *draws, int threads);

/* One Lloyd iteration of all subspaces with active[j] != 0: assignment, then means; an empty cluster takes the row
 * farthest from its centroid in the cluster of the largest squared error. limit > 0 caps the rows a cluster may get.
 * ids and errors (m, n) hold the assignment (ids of the iteration before on entry); changed (m) and counts (m, k)
 * receive how many ids changed and the cluster sizes. centroids are replaced unless update is 0. */
int fpq_kmeans_step(const fpq_codebooks *cb, const fpq_rows *data, const uint8_t *active, double limit, int update,
                    int32_t *ids, float *errors, int64_t *changed, int64_t *counts, int threads);

/* OpenIndexing: ids (m, n) hold the nearest centroids on entry and the chosen ones on return. Rows in order; a centroid
 * whose count has reached limit gives way to the next nearest, `candidates` are tried in all and the last one is taken
 * even if it is full. counts: (m, k), or (k) when shared; continued from their values on entry. */
int fpq_open_index(const fpq_codebooks *cb, const fpq_rows *data, double limit, int candidates, int shared, int32_t *ids,
                   int64_t *counts, int threads);

/* ---- codes: sub-code j stands at bits j*nbits.. of a row's code, low bits first; code_size = ceil(m*nbits/8) ---- */
int fpq_code_size(int m, int nbits);
void fpq_pack_codes(const int32_t *ids, int64_t n, int m, int nbits, uint8_t *codes);   /* (m, n) -> (n, code_size) */
void fpq_unpack_codes(const uint8_t *codes, int64_t n, int m, int nbits, int32_t *ids); /* (n, code_size) -> (m, n) */
/* Rows of codes into and out of scan blocks [ceil(n/64)][code_size][64]. */
void fpq_put_codes(const uint8_t *codes, const int64_t *rows, int64_t n, int code_size, uint8_t *blocks);
void fpq_get_codes(const uint8_t *blocks, const int64_t *rows, int64_t n, int code_size, uint8_t *codes);

/* ---- exact search over codes by asymmetric distances (ADC) ---- */
typedef struct {
    const float *packed;                   /* (m, fpq_packed_size(k, dsub)), not centred */
    const int32_t *offsets;
    int m, nbits, dsub;
    int inner_product;                     /* distances are negated inner products */
} fpq_adc;

typedef struct {
    const int64_t *ids;                    /* NULL: row numbers */
    const uint64_t *allowed;               /* bit i: row i may be returned; NULL: all */
    int64_t n;
} fpq_population;

void fpq_adc_table(const fpq_adc *adc, const float *q, float *table); /* (m, max(2^nbits, 16)) */
/* The k smallest (distance, id) of each query, ascending; missing: +inf, -1. */
int fpq_adc_search(const fpq_adc *adc, const float *queries, int64_t nq, const uint8_t *blocks, const fpq_population *pop,
                   int k, float *distances, int64_t *ids, int threads);
/* All distances of rows first .. first+n-1 (first a multiple of 64): out (nq, n). */
int fpq_adc_all(const fpq_adc *adc, const float *queries, int64_t nq, const uint8_t *blocks, int64_t first, int64_t n,
                float *out, int threads);

/* ---- exact distances to stored vectors; inner_product: negated inner products ---- */
int fpq_flat_search(const fpq_matrix *x, const float *norms, const float *queries, int64_t nq, const fpq_population *pop,
                    int inner_product, int k, float *distances, int64_t *ids, int threads);
int fpq_flat_norms(const fpq_matrix *x, float *norms, int threads); /* squared lengths of the rows */
/* out[i][j] = distance of query i and row rows[i][j]; rows (nq, n); a row of -1 gives +inf. */
int fpq_flat_distances(const fpq_matrix *x, const float *queries, int64_t nq, const int64_t *rows, int64_t n,
                       int inner_product, float *out, int threads);

#endif
