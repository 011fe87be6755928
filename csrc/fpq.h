/* SPDX-License-Identifier: MIT
 * The C interface of fpq. No Python, no global state but the choice of instruction set. Callers own all arrays and
 * have checked all arguments. Functions that allocate scratch return 0, or -1 when memory ran out (outputs are then
 * undefined, inputs unchanged) or the hook of fpq_on_poll said stop. `threads` is at least 1; results do not depend on
 * it.
 */
#ifndef FPQ_H
#define FPQ_H

#include <stddef.h>
#include <stdint.h>

/* ---- instruction sets (cpu.c) ---- */
const char *fpq_feature_at(int i,
                           int *has); /* i-th CPU feature that fpq knows, and whether it is here; NULL past the end */
const char *fpq_isa(void);            /* name of the table in use: one of FPQ_ISAS (isa/list.h) */
const char *fpq_isa_at(int i);        /* i-th instruction set that runs here, slowest first; NULL past the end */
int fpq_use_isa(const char *name);    /* 0, or -1 if it is unknown or does not run here */
int fpq_has_openmp(void);
int fpq_max_threads(void);           /* what OpenMP would use: OMP_NUM_THREADS, omp_set_num_threads */
void fpq_on_poll(int (*poll)(void)); /* long calls ask it now and then, from the calling thread: not 0 ends the call */
void fpq_after_fork(void);           /* call in a forked child, on the thread that forked: fork.h */

/* For bench/serial.py and tests: how calls are cut into tasks. From now on, the calls of one thread are cut for the
 * number of threads that they name, but run on the calling thread, and `log` receives the number of tasks of each
 * parallel region of several tasks, and the CPU seconds of each task. Regions within a task belong to the task. NULL
 * ends this. Returns how many numbers the log before has, or would have with enough room. */
int64_t fpq_trace(float *log, int64_t room);

/* ---- input matrices: any element type, any strides ---- */
enum { FPQ_F32, FPQ_F64, FPQ_F16, FPQ_BF16, FPQ_U8, FPQ_I8 };
typedef struct {
    const char *data;
    int64_t n, d;
    ptrdiff_t row_stride, col_stride; /* bytes, may be negative */
    int dtype;
    int exponent; /* numbers are read times 2^exponent, -126 to 126 */
} fpq_matrix;

int64_t fpq_first_nonfinite_row(const fpq_matrix *x, int threads); /* -1: none, -2: stopped */
int fpq_largest(const fpq_matrix *x, float *out,
                int threads); /* the largest absolute value of finite numbers; 0 if there are none */
/* out (n, d), in the type of x or in float32: x[rows[i]] for i < n, or x[i] if rows is NULL. */
int fpq_copy_rows(const fpq_matrix *x, const int64_t *rows, int64_t n, int to_float32, char *out, int threads);
int fpq_normalize(const fpq_matrix *x, float *out, int threads); /* out (n, d): rows of length 1; zero rows stay zero */
/* out (n, d + 1): rows, and `factor` times their lengths as the last dimension. */
int fpq_append_lengths(const fpq_matrix *x, float factor, float *out, int threads);

/* out (n, d): rows plus sign (1 or -1) times the centroids (., d) of their labels (n). labels NULL: of centroid i for
 * row i. */
int fpq_add_centroids(const fpq_matrix *x, const float *centroids, const int32_t *labels, float sign, float *out,
                      int threads);

/* ---- packed columns: c (k, d) with rows ld apart -> out, fpq_packed_size(k, d) floats, 64-byte aligned ---- */
int64_t fpq_packed_size(int k, int d);
void fpq_pack(const float *c, int k, int d, ptrdiff_t ld, const float *offset, float *out);
int fpq_project(const fpq_matrix *x, const float *packed, int k, float *out, int threads); /* out (n, k) = x c^T */

/* ---- codebooks: m subspaces, subspace j is dimensions offsets[j]..offsets[j+1]-1, k centroids each ---- */
typedef struct {
    int m, k, dsub;         /* dsub: the widest subspace, the stride of centroids */
    const int32_t *offsets; /* m + 1 */
    float *centroids;       /* (m, k, dsub), zero-padded */
} fpq_codebooks;

/* Training or input rows: x[rows[i]] for i < n, or x[i] if rows is NULL. */
typedef struct {
    fpq_matrix x;
    const int64_t *rows;
    int64_t n;
} fpq_rows;

/* Nearest centroid in squared L2: ids (m, n); errors (m, n), squared distances, may be NULL. */
int fpq_assign(const fpq_codebooks *cb, const fpq_rows *data, int32_t *ids, float *errors, int threads);

/* Lowers the loss of an assignment, ids (m, n): the squared error plus weight times the square of the error's product
 * with the direction, a row of length 1 or 0 of directions (n, d). parallel (n) receives these products. */
int fpq_assign_anisotropic(const fpq_codebooks *cb, const fpq_rows *data, const float *directions, float weight,
                           int32_t *ids, double *parallel, int threads);

/* Starting centroids by greedy k-means++, FPQ_CENTROIDS_PER_ROUND of FPQ_CANDIDATES_PER_ROUND drawn rows a round; draws
 * (m, ceil(k / FPQ_CENTROIDS_PER_ROUND), FPQ_CANDIDATES_PER_ROUND) are uniform random numbers in [0, 1). */
enum { FPQ_CANDIDATES_PER_ROUND = 16, FPQ_CENTROIDS_PER_ROUND = 4 };
int fpq_seed(const fpq_codebooks *cb, const fpq_rows *data, const double *draws, int threads);

/* The lower bounds that k-means keeps between iterations (csrc/kmeans/yinyang.h); all zero before the first one. */
typedef struct {
    int groups;                /* of centroids: 16, 32, 48 or 64; 0: no bounds */
    uint16_t *bounds;          /* (m, ld, groups) */
    uint16_t *drift;           /* (m, groups) */
    float *steps_per_distance; /* (m) */
} fpq_bounds;

/* A Lloyd iteration in two halves, which machines that share the rows may share too.
 *
 * The first: assignment of rows, and sums of each chunk of them, in all subspaces with active[j] != 0. ids and errors
 * (m, ld >= n) hold the assignment (ids of the iteration before or -1 on entry). `drifted`: the centroids at the last
 * call with these bounds, NULL at the first one. sums (m, ceil(n / chunk_rows), k * (dsub + 1)) is for the second half;
 * changed (m, chunks) receives how many ids changed. Without sums (NULL) rows are assigned only. chunk_rows:
 * fpq_kmeans_chunk_rows of all rows, whoever has them. fpq_kmeans_sums_of: for given ids, and `before` others. */
int64_t fpq_kmeans_chunk_rows(int m, int k, int dsub, int64_t n);
int fpq_kmeans_sums(const fpq_codebooks *cb, const fpq_rows *data, const uint8_t *active, int64_t chunk_rows,
                    int64_t ld, int32_t *ids, float *errors, fpq_bounds *bounds, const float *drifted, float *sums,
                    int64_t *changed, int threads);
int fpq_kmeans_sums_of(const fpq_codebooks *cb, const fpq_rows *data, const uint8_t *active, int64_t chunk_rows,
                       int64_t ld, int32_t *ids, int32_t *before, float *errors, float *sums, int64_t *changed,
                       int threads);

/* The second: centroids become means, counts (m, k) receive the cluster sizes. An empty cluster keeps its centroid. */
int fpq_kmeans_means(const fpq_codebooks *cb, const uint8_t *active, int chunks, float *sums, int64_t *counts,
                     int threads);

/* The row (k) that an empty cluster is to take, -1 for others: the one farthest from its centroid in the cluster of the
 * largest squared error. A cluster gives once; when every row sits on a centroid there is nothing to gain. */
int fpq_kmeans_donors(int k, int64_t n, const int32_t *ids, const float *errors, const int64_t *counts, int64_t *rows);

/* Moves row i of the assignment, ids and errors (m, n), to row order[i]; order is a permutation. */
int fpq_reorder(const int64_t *order, int64_t n, int m, int32_t *ids, float *errors, int threads);

/* Each id (m, n) of subspace j becomes numbers[j][id], unless numbers (m, k) is NULL; counts (m, k) of the new ids. */
int fpq_renumber(int m, int k, int64_t n, const int32_t *numbers, int32_t *ids, int64_t *counts, int threads);

/* OpenIndexing: ids (m, n) hold the nearest centroids on entry and the chosen ones on return. Rows in order; a centroid
 * whose count has reached limit gives way to the next nearest, `candidates` are tried in all and the last one is taken
 * even if it is full. counts: (m, k), or (k) when shared; continued from their values on entry. */
int fpq_open_index(const fpq_codebooks *cb, const fpq_rows *data, double limit, int candidates, int shared,
                   int32_t *ids, int64_t *counts, int threads);

/* ---- codes: sub-code j stands at bits j*nbits.. of a row's code, low bits first; code_size = ceil(m*nbits/8) ---- */
int fpq_code_size(int m, int nbits);
int fpq_pack_codes(const int32_t *ids, int64_t n, int m, int nbits, uint8_t *codes,
                   int threads);                                                        /* (m, n) -> (n, code_size) */
void fpq_unpack_codes(const uint8_t *codes, int64_t n, int m, int nbits, int32_t *ids); /* (n, code_size) -> (m, n) */
/* Rows of codes into and out of scan blocks [ceil(n/64)][code_size][64]. With one thread, fpq_put_codes cannot fail. */
int fpq_put_codes(const uint8_t *codes, const int64_t *rows, int64_t n, int code_size, uint8_t *blocks, int threads);
void fpq_get_codes(const uint8_t *blocks, const int64_t *rows, int64_t n, int code_size, uint8_t *codes);
/* The vectors out (n, d) that codes stand for; the sums (n) of the entries (m, 2^nbits) of the sub-codes of each row.
 */
int fpq_decode(const fpq_codebooks *cb, int nbits, const uint8_t *codes, int64_t n, float *out, int threads);
int fpq_sum_entries(const double *entries, int m, int nbits, const uint8_t *codes, int64_t n, double *sums,
                    int threads);

/* ---- metrics: identifier, and name of the kernels NAME_f32, NAME_u8 and table_NAME (csrc/metric/kernels.h) ---- */
#define FPQ_METRICS(X) X(FPQ_L2, l2) X(FPQ_IP, ip)
#define FPQ_METRIC_ID(id, name) id,
typedef enum {
    FPQ_METRICS(FPQ_METRIC_ID) FPQ_N_METRICS
} fpq_metric; /* inner products are negated: smaller is nearer */

/* The id of each row, in numbers of 8 or of 4 bytes: one array of the two. Neither: row numbers. */
typedef struct {
    int64_t *wide;
    int32_t *narrow;
} fpq_ids;

/* ---- what a search finds ---- */
typedef struct {
    float *distances; /* n, from malloc */
    int64_t *ids;
    int64_t n;
} fpq_hits;

typedef struct fpq_ranking fpq_ranking;

/* Of each query the k smallest (distance, id), ascending, missing ones +inf and -1; or, if k is 0, all with a distance
 * of at most radius, ascending. */
typedef struct {
    int64_t k;
    float *distances; /* (nq, k) */
    int64_t *ids;     /* (nq, k) */
    float radius;
    fpq_hits *hits;             /* (nq), for a radius, from fpq_hits_make */
    int unsorted;               /* of a top-k: pairs in any order */
    fpq_ids rows_of;            /* of a top-k: ids receives rows, of which these are the ids; none: ids */
    const fpq_ranking *ranking; /* of a top-k: what ranks its candidates again; NULL: nothing */
    int64_t first_query;        /* the number of the first query in the ranking */
} fpq_answers;

fpq_hits *fpq_hits_make(int64_t nq); /* NULL: no memory */
void fpq_hits_counts(const fpq_hits *hits, int64_t nq, int64_t *out);
void fpq_hits_copy(const fpq_hits *hits, int64_t nq, float *distances, int64_t *ids); /* one query after the other */
void fpq_hits_free(fpq_hits *hits, int64_t nq);
fpq_answers fpq_answers_from(const fpq_answers *answers, int64_t first); /* those of the queries from `first` on */

/* ---- exact search over codes by asymmetric distances (ADC) ---- */
typedef struct {
    const float *packed;    /* (m, fpq_packed_size(k, dsub)), not centred */
    const float *codebooks; /* (m, k, dsub), the same in order */
    const int32_t *offsets;
    int m, nbits, dsub;
    fpq_metric metric;
} fpq_adc;

typedef struct {
    fpq_ids ids;
    const uint64_t *allowed; /* bit i: row i may be returned; NULL: all */
    int64_t n;
} fpq_selector;

/* Look-up tables (nq, m, max(2^nbits, 16)). */
void fpq_adc_tables(const fpq_adc *adc, const float *queries, int64_t nq, float *tables);
int fpq_adc_search(const fpq_adc *adc, const float *queries, int64_t nq, const uint8_t *blocks,
                   const fpq_selector *selector, const fpq_answers *answers, int threads);

/* ---- ids (ids.c) ----
 * A hash table from ids to places: rows, or slots of inverted lists. At most half of its entries are taken. Nothing
 * here can fail or allocates. */
typedef struct {
    void *entries;  /* 2^bits of uint32_t, or of uint64_t if wide; all 0 at first */
    int bits;       /* 1 to 63 */
    int place_bits; /* of an entry: places are below 2^place_bits - 1; at most 32, or 63 if wide */
    int wide;
    fpq_ids ids; /* the id in each place */
} fpq_id_table;

void fpq_ids_find(const fpq_id_table *t, const int64_t *ids, int64_t n, int64_t *places); /* -1: not there */
/* Enter the ids in these places. An id that the table holds already gets the new place. */
void fpq_ids_insert(const fpq_id_table *t, const int64_t *places, int64_t n);
/* Take the ids in the places `gone` out, and bring those in `sources` to `targets`, one after the other, places that
 * are free by then: in the array `ids`, where free places get 0, and in t, which may be NULL and is over this array. In
 * t, an id that has been entered again in another place stays there. */
void fpq_ids_remove(const fpq_id_table *t, fpq_ids ids, const int64_t *gone, int64_t n_gone, const int64_t *sources,
                    const int64_t *targets, int64_t n_moved);
void fpq_set_bits(const int64_t *places, int64_t n, uint64_t *bits); /* bits of these places; none for -1 */

/* ---- exact distances to stored vectors ----
 * norms: those of fpq_flat_norms; NULL: rows are compared one by one, which is slower for many queries. */
int fpq_flat_search(const fpq_matrix *x, const float *norms, const float *queries, int64_t nq,
                    const fpq_selector *selector, fpq_metric metric, const fpq_answers *answers, int threads);
/* A small matrix, which must stay where it is, packed for the k nearest rows of any number of queries. */
typedef struct fpq_small_flat fpq_small_flat;
int fpq_small_flat_applies(const fpq_matrix *x, fpq_metric metric,
                           int64_t k); /* whether it is faster than fpq_flat_search; k = 0: no */
fpq_small_flat *fpq_small_flat_make(const fpq_matrix *x, fpq_metric metric); /* NULL: memory ran out */
void fpq_small_flat_free(fpq_small_flat *small);
int64_t fpq_small_flat_bytes(const fpq_small_flat *small); /* taken beside the matrix */
/* answers: top-k. The selector allows all rows. */
int fpq_small_flat_search(const fpq_small_flat *small, const float *queries, int64_t nq, const fpq_selector *selector,
                          const fpq_answers *answers, int threads);
int fpq_flat_norms(const fpq_matrix *x, float *norms, int threads); /* squared lengths of the rows */
/* out[i][j] = distance of query i and row rows[i][j]; rows (nq, n); a number that no row has gives +inf. */
int fpq_flat_distances(const fpq_matrix *x, const float *queries, int64_t nq, const int64_t *rows, int64_t n,
                       fpq_metric metric, float *out, int threads);
/* Re-ranking: the k nearest by exact distances of the `candidates` nearest that a search finds. */
struct fpq_ranking {
    fpq_matrix x;
    fpq_metric metric;
    const float *queries;     /* (nq, d) */
    const fpq_id_table *rows; /* the row of x that belongs to an id; NULL: that of this number */
    int64_t candidates;       /* at least k */
};
/* The k smallest (distance, id) of each row of n >= k, ascending; an id of -1 is none, NaN counts as +inf. */
int fpq_smallest(const float *distances, const int64_t *ids, int64_t nq, int64_t n, int k, float *out, int64_t *out_ids,
                 int threads);

/* ---- inverted lists of codes ---- */
typedef struct {
    const float *centroids; /* (n_lists, d) */
    int d;                  /* of centroids and queries: that of the codes, or more if the lists have rotations */
    const int64_t *first;   /* (n_lists + 1): list l is the blocks block_ids[first[l]] .. block_ids[first[l + 1] - 1] */
    const int32_t *block_ids;
    const uint64_t *live_rows; /* bit r of live_rows[b]: row r of block b holds a vector that may be returned */
    const float *max_residual; /* (n_lists), no decoded residual is longer; NULL: not known */
    int residual;              /* codes are of x - centroid */
    int64_t n;                 /* how many */
    const uint8_t *blocks;     /* of codes */
    fpq_ids slot_ids;          /* of row r of block b: number b * 64 + r */
} fpq_lists;

/* A rotation per list. */
typedef struct {
    const float *packed;    /* (n, fpq_packed_size(to, d)): column t is the direction of dimension t of the result */
    int to;                 /* dimensions of the result, at most d */
    const float *centroids; /* (n, d), which are subtracted before; NULL: none */
    int64_t n;              /* how many */
} fpq_rotations;

/* out (n, per_row, to): each row (d) less the centroid of each of its lists (n, per_row), rotated. */
int fpq_rotate(const fpq_matrix *x, const int64_t *lists, int per_row, const fpq_rotations *rotations, float *out,
               int threads);

/* The lists that each query probes. */
typedef struct {
    int per_query;
    const int64_t *lists;         /* (nq, per_query), nearest first; NULL: the nearest lists by `coarse` */
    const fpq_small_flat *coarse; /* of the centroids before their rotation, */
    const float *queries;         /* and the queries (nq, d) before theirs, */
    int d;
    float lengths;          /* which get this multiple of their length as one dimension more; 0: no such */
    const float *residuals; /* (nq, per_query, to) of fpq_rotate, if the lists have rotations; for inner products
                               rotated queries. NULL: queries less centroids */
} fpq_probes;

/* As fpq_adc_search, among the probed lists. */
int fpq_ivf_search(const fpq_adc *adc, const fpq_lists *lists, const float *queries, int64_t nq,
                   const fpq_probes *probes, const fpq_answers *answers, int threads);

/* ---- codes and what is beside them ---- */
typedef struct fpq_refined fpq_refined; /* fpq_refinement.h */
typedef struct {
    const fpq_adc *adc;
    const fpq_lists *lists;     /* NULL: no lists, but */
    const uint8_t *blocks;      /* blocks of codes, */
    fpq_selector selector;      /* of these rows */
    const fpq_refined *refined; /* NULL: none */
} fpq_codes;

/* As fpq_ivf_search or, without lists, fpq_adc_search. If `candidates` is not 0, so many of the nearest codes are
 * refined. The memory that a search takes has a limit, as there is one for the queries that are searched at a time. */
int fpq_search_codes(const fpq_codes *codes, const float *queries, int64_t nq, const fpq_probes *probes,
                     int64_t candidates, const fpq_answers *answers, int threads);

/* ---- documents of many token vectors ----
 * The distance of a document to a query is the sum, over the tokens of the query, of the least distance of a token of
 * the document: negated inner products of decoded tokens. */
typedef struct {
    const float *centroids; /* (n_lists, d) */
    int32_t n_lists;
    int residual;              /* codes are of token - centroid */
    const int64_t *list_first; /* (n_lists + 1): documents list_rows[list_first[l]] .. have a token in list l */
    const int32_t *list_rows;
    const int64_t *first;  /* (n + 1): document i has the tokens first[i] .. first[i + 1] - 1, at least one */
    const int32_t *lists;  /* of the tokens */
    const uint8_t *codes;  /* (tokens, m), of 8 bits each */
    fpq_selector selector; /* of the n documents */
} fpq_documents;

/* The documents of each list, ascending, from the lists of the tokens, which are below n_lists. list_rows NULL:
 * list_first (n_lists + 1) receives where each list begins; else list_rows receives the documents. */
int fpq_postings(const int64_t *first, const int32_t *lists, int64_t n, int32_t n_lists, int64_t *list_first,
                 int32_t *list_rows);
/* Query i has the tokens first[i] .. first[i + 1] - 1 of `queries` (., d), and probes (., n_probe) are of its tokens.
 * Of the documents in its probed lists, whose number goes to found[i], those n_candidates are ranked that are nearest
 * by the centroids of their tokens. */
int fpq_maxsim_search(const fpq_adc *adc, const fpq_documents *docs, const float *queries, const int64_t *first,
                      int64_t nq, const int64_t *probes, int n_probe, int64_t n_candidates, const fpq_answers *answers,
                      int64_t *found, int threads);

/* ---- LSH ---- */
/* Hash j of table t of a vector x is floor(v), v = (x - centre) . column t * n_hashes + j + shift, columns in units of
 * widths. A table's key is the upper half of the sum of hash times mixer, modulo 2^64. */
typedef struct {
    int d, n_tables, n_hashes; /* E2LSH: n_hashes at most 32; others: one table, n_hashes at most 255 */
    const float *centre;       /* d */
    const float *packed;       /* n_tables * n_hashes columns */
    const float *shifts;       /* one a column, padded with zeros to a multiple of 16 */
    const uint64_t *mixers;    /* one a column; only E2LSH uses them */
} fpq_hashes;

/* Sketches: size - 1 coordinates of x - centre along orthonormal directions and the length of the rest, less `least`,
 * times `scale`, clipped to 0..255 and rounded. size: 16, 32, 48 or 64. */
typedef struct {
    int d, size;
    const float *centre; /* d */
    const float *packed; /* the directions, as size - 1 columns of d numbers */
    const float *back;   /* the same as d columns of size - 1 numbers */
    const float *least;  /* size */
    float scale;
} fpq_sketcher;

/* What candidates are verified on. Sketches spare most of them without changing the answer. */
typedef struct {
    fpq_matrix x;                 /* at most 2^32 - 1 rows */
    const fpq_sketcher *sketcher; /* NULL: none */
    const uint8_t *sketches;      /* (n, size); E2LSH: unused */
    fpq_selector selector;
    fpq_metric metric; /* rows and queries are of length 1 or 0 then */
} fpq_lsh_rows;

typedef struct {
    int64_t buckets;    /* E2LSH: probed buckets that hold rows; C2LSH: levels; PM-LSH: scans of all rows */
    int64_t candidates; /* rows in them, in each table; C2LSH: rows that collided often enough; PM-LSH: nearest codes */
    int64_t verified;   /* rows whose distance was taken */
} fpq_lsh_stats;

int fpq_lsh_sketch(const fpq_sketcher *s, const fpq_matrix *x, uint8_t *out, int threads); /* out (n, size) */
/* out (n, n_tables * n_hashes): v as above, before the floor. */
int fpq_lsh_values(const fpq_hashes *hashes, const fpq_matrix *x, float *out, int threads);

/* E2LSH with multi-probe: a table is its entries, key << 32 | row, in ascending order. */
typedef struct {
    const uint64_t *entries; /* (n_tables, n) */
    const uint8_t *sketches; /* (n_tables, n, size), in the order of entries; NULL: none */
    const uint32_t *starts;  /* (n_tables, 2^bits + 1) */
    int bits;                /* 1 to 31 */
} fpq_lsh_tables;

/* entries (n_tables, n) of rows first..first+n-1, not sorted. */
int fpq_lsh_entries(const fpq_hashes *hashes, const fpq_matrix *x, int64_t first_row, uint64_t *entries, int threads);
/* starts[s]: the first of n sorted entries with a key whose upper `bits` bits are at least s; 2^bits + 1 numbers. */
void fpq_lsh_starts(const uint64_t *entries, int64_t n, int bits, uint32_t *starts);
/* The k nearest (distance, id) among the rows of n_probe buckets, the query's own first; missing: +inf, -1. */
int fpq_e2lsh_search(const fpq_hashes *hashes, const fpq_lsh_tables *tables, const fpq_lsh_rows *rows,
                     const float *queries, int64_t nq, int64_t n_probe, int k, float *distances, int64_t *ids,
                     fpq_lsh_stats *stats, int threads);

/* C2LSH: a row's code is its hashes modulo 256. Level i has windows of the query's value +- window * ratio^i and stands
 * for the radius `radius` * ratio^i; a row collides where its hash is among those of the window. From the level on
 * whose windows hold all 256 codes, all rows are candidates. */
typedef struct {
    const uint8_t *codes; /* blocks [ceil(n/64)][n_hashes][64] */
    double window, radius, ratio;
    int threshold;  /* collisions that make a candidate, at least 1 */
    int64_t budget; /* stop when there are so many candidates, at least 1 */
    int stop_early; /* stop after a level with k rows within ratio times its radius */
} fpq_c2lsh;

int fpq_lsh_buckets(const fpq_hashes *hashes, const fpq_matrix *x, uint8_t *codes, int threads); /* (n, n_hashes) */
/* The k nearest (distance, id) among the candidates; missing: +inf, -1. */
int fpq_c2lsh_search(const fpq_hashes *hashes, const fpq_c2lsh *c, const fpq_lsh_rows *rows, const float *queries,
                     int64_t nq, int k, float *distances, int64_t *ids, fpq_lsh_stats *stats, int threads);

#include "fpq_cells.h"
#include "fpq_pmlsh.h"
#include "fpq_refinement.h"
#include "fpq_sets.h"

#endif
