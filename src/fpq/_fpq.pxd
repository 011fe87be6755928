"""The C interface of fpq as Cython sees it: csrc/fpq.h says what things mean."""
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "fpq.h" nogil:
    const char *fpq_feature_at(int i, int *has)
    const char *fpq_isa()
    const char *fpq_isa_at(int i)
    int fpq_use_isa(const char *name)
    int fpq_has_openmp()
    int fpq_max_threads()
    void fpq_on_poll(int (*poll)() noexcept nogil)
    void fpq_after_fork()
    int64_t fpq_trace(float *log, int64_t room)

    int FPQ_F32, FPQ_F64, FPQ_F16, FPQ_BF16, FPQ_U8, FPQ_I8
    ctypedef struct fpq_matrix:
        const char *data
        int64_t n, d
        Py_ssize_t row_stride, col_stride
        int dtype, exponent
    int fpq_largest(const fpq_matrix *x, float *out, int threads)
    int64_t fpq_first_nonfinite_row(const fpq_matrix *x, int threads)
    int fpq_copy_rows(const fpq_matrix *x, const int64_t *rows, int64_t n, int to_float32, char *out, int threads)
    int fpq_normalize(const fpq_matrix *x, float *out, int threads)
    int fpq_append_lengths(const fpq_matrix *x, float factor, float *out, int threads)
    int fpq_add_centroids(const fpq_matrix *x, const float *centroids, const int32_t *labels, float sign, float *out,
                          int threads)
    int64_t fpq_packed_size(int k, int d)
    void fpq_pack(const float *c, int k, int d, Py_ssize_t ld, const float *offset, float *out)
    int fpq_project(const fpq_matrix *x, const float *packed, int k, float *out, int threads)

    ctypedef struct fpq_codebooks:
        int m, k, dsub
        const int32_t *offsets
        float *centroids
    ctypedef struct fpq_rows:
        fpq_matrix x
        const int64_t *rows
        int64_t n
    int fpq_assign(const fpq_codebooks *cb, const fpq_rows *data, int32_t *ids, float *errors, int threads)
    ctypedef struct fpq_cells:
        const float *centroids
        int d, n
        const int64_t *first
        const int64_t *members
    int fpq_assign_in_cells(const fpq_cells *cells, const float *x, int64_t n, const int64_t *of_rows, int per_row,
                            int32_t *ids, int threads)
    int fpq_move_to_means(const float *x, const int64_t *first, int64_t k, int d, float *centroids, int threads)
    int fpq_assign_anisotropic(const fpq_codebooks *cb, const fpq_rows *data, const float *directions, float weight,
                               int32_t *ids, double *parallel, int threads)
    int FPQ_CANDIDATES_PER_ROUND, FPQ_CENTROIDS_PER_ROUND
    int fpq_seed(const fpq_codebooks *cb, const fpq_rows *data, const double *draws, int threads)
    ctypedef struct fpq_bounds:
        int groups
        uint16_t *bounds
        uint16_t *drift
        float *steps_per_distance
    int64_t fpq_kmeans_chunk_rows(int m, int k, int dsub, int64_t n)
    int fpq_kmeans_sums(const fpq_codebooks *cb, const fpq_rows *data, const uint8_t *active,
                        int64_t chunk_rows, int64_t ld, int32_t *ids, float *errors, fpq_bounds *bounds,
                        const float *drifted, float *sums, int64_t *changed, int threads)
    int fpq_kmeans_sums_of(const fpq_codebooks *cb, const fpq_rows *data, const uint8_t *active, int64_t chunk_rows,
                           int64_t ld, int32_t *ids, int32_t *before, float *errors, float *sums, int64_t *changed,
                           int threads)
    int fpq_kmeans_means(const fpq_codebooks *cb, const uint8_t *active, int chunks, float *sums, int64_t *counts,
                         int threads)
    int fpq_kmeans_donors(int k, int64_t n, const int32_t *ids, const float *errors, const int64_t *counts,
                          int64_t *rows)
    int fpq_reorder(const int64_t *order, int64_t n, int m, int32_t *ids, float *errors, int threads)
    int fpq_renumber(int m, int k, int64_t n, const int32_t *numbers, int32_t *ids, int64_t *counts, int threads)
    int fpq_open_index(const fpq_codebooks *cb, const fpq_rows *data, double limit, int candidates, int shared,
                       int32_t *ids, int64_t *counts, int threads)

    int fpq_pack_codes(const int32_t *ids, int64_t n, int m, int nbits, uint8_t *codes, int threads)
    void fpq_unpack_codes(const uint8_t *codes, int64_t n, int m, int nbits, int32_t *ids)
    int fpq_put_codes(const uint8_t *codes, const int64_t *rows, int64_t n, int code_size, uint8_t *blocks,
                      int threads)
    int fpq_decode(const fpq_codebooks *cb, int nbits, const uint8_t *codes, int64_t n, float *out, int threads)
    int fpq_sum_entries(const double *entries, int m, int nbits, const uint8_t *codes, int64_t n, double *sums,
                        int threads)
    void fpq_get_codes(const uint8_t *blocks, const int64_t *rows, int64_t n, int code_size, uint8_t *codes)

    ctypedef enum fpq_metric:
        FPQ_L2, FPQ_IP
    ctypedef struct fpq_ids:
        int64_t *wide
        int32_t *narrow
    ctypedef struct fpq_hits:
        float *distances
        int64_t *ids
        int64_t n
    ctypedef struct fpq_id_table:
        void *entries
        int bits, place_bits, wide
        fpq_ids ids
    ctypedef struct fpq_ranking:
        fpq_matrix x
        fpq_metric metric
        const float *queries
        const fpq_id_table *rows
        int64_t candidates
    ctypedef struct fpq_answers:
        int64_t k
        float *distances
        int64_t *ids
        float radius
        fpq_hits *hits
        int unsorted
        fpq_ids rows_of
        const fpq_ranking *ranking
    fpq_hits *fpq_hits_make(int64_t nq)
    void fpq_hits_counts(const fpq_hits *hits, int64_t nq, int64_t *out)
    void fpq_hits_copy(const fpq_hits *hits, int64_t nq, float *distances, int64_t *ids)
    void fpq_hits_free(fpq_hits *hits, int64_t nq)
    fpq_answers fpq_answers_from(const fpq_answers *answers, int64_t first)

    ctypedef struct fpq_adc:
        const float *packed
        const float *codebooks
        const int32_t *offsets
        int m, nbits, dsub
        fpq_metric metric
    ctypedef struct fpq_selector:
        fpq_ids ids
        const uint64_t *allowed
        int64_t n
    void fpq_adc_tables(const fpq_adc *adc, const float *queries, int64_t nq, float *tables)

    ctypedef struct fpq_refinement:
        int w, bits
        const float *steps
        const uint8_t *levels
        const float *gains
    int fpq_refinement_plane_bytes(int w, int bits, int plane)
    int fpq_refinement_encode(const fpq_refinement *r, const float *e, const float *base, float scale,
                              const float *centre, int64_t n, uint8_t *a, uint8_t *b, uint8_t *gain_codes,
                              float *norms, int threads)
    void fpq_refinement_decode(const fpq_refinement *r, const uint8_t *a, const uint8_t *b, const uint8_t *gain_codes,
                               int64_t n, float *out)
    ctypedef struct fpq_refined:
        fpq_refinement codes
        const uint8_t *a
        const uint8_t *b
        const uint8_t *gain_codes
        const float *norms
        int64_t n
        fpq_ids ids
        const fpq_id_table *rows
        fpq_metric metric
        const float *centre
        double query_scale, unit

    void fpq_ids_find(const fpq_id_table *t, const int64_t *ids, int64_t n, int64_t *places)
    void fpq_ids_insert(const fpq_id_table *t, const int64_t *places, int64_t n)
    void fpq_ids_remove(const fpq_id_table *t, fpq_ids ids, const int64_t *gone, int64_t n_gone,
                        const int64_t *sources, const int64_t *targets, int64_t n_moved)
    void fpq_set_bits(const int64_t *places, int64_t n, uint64_t *bits)

    int fpq_flat_search(const fpq_matrix *x, const float *norms, const float *queries, int64_t nq,
                        const fpq_selector *selector, fpq_metric metric, const fpq_answers *answers, int threads)
    ctypedef struct fpq_small_flat:
        pass
    int fpq_small_flat_applies(const fpq_matrix *x, fpq_metric metric, int64_t k)
    fpq_small_flat *fpq_small_flat_make(const fpq_matrix *x, fpq_metric metric)
    void fpq_small_flat_free(fpq_small_flat *small)
    int64_t fpq_small_flat_bytes(const fpq_small_flat *small)
    int fpq_flat_norms(const fpq_matrix *x, float *norms, int threads)
    int fpq_flat_distances(const fpq_matrix *x, const float *queries, int64_t nq, const int64_t *rows, int64_t n,
                           fpq_metric metric, float *out, int threads)
    int fpq_smallest(const float *distances, const int64_t *ids, int64_t nq, int64_t n, int k, float *out,
                     int64_t *out_ids, int threads)

    ctypedef struct fpq_lists:
        const float *centroids
        int d
        const int64_t *first
        const int32_t *block_ids
        const uint64_t *live_rows
        const float *max_residual
        int residual
        int64_t n
        const uint8_t *blocks
        fpq_ids slot_ids
    ctypedef struct fpq_rotations:
        const float *packed
        int to
        const float *centroids
        int64_t n
    int fpq_rotate(const fpq_matrix *x, const int64_t *lists, int per_row, const fpq_rotations *rotations, float *out,
                   int threads)
    ctypedef struct fpq_probes:
        int per_query
        const int64_t *lists
        const fpq_small_flat *coarse
        const float *queries
        int d
        float lengths
        const float *residuals
    ctypedef struct fpq_codes:
        const fpq_adc *adc
        const fpq_lists *lists
        const uint8_t *blocks
        fpq_selector selector
        const fpq_refined *refined
    int fpq_search_codes(const fpq_codes *codes, const float *queries, int64_t nq, const fpq_probes *probes,
                         int64_t candidates, const fpq_answers *answers, int threads)

    ctypedef struct fpq_documents:
        const float *centroids
        int32_t n_lists
        int residual
        const int64_t *list_first
        const int32_t *list_rows
        const int64_t *first
        const int32_t *lists
        const uint8_t *codes
        fpq_selector selector
    int fpq_postings(const int64_t *first, const int32_t *lists, int64_t n, int32_t n_lists, int64_t *list_first,
                     int32_t *list_rows)
    int fpq_maxsim_search(const fpq_adc *adc, const fpq_documents *docs, const float *queries, const int64_t *first,
                          int64_t nq, const int64_t *probes, int n_probe, int64_t n_candidates,
                          const fpq_answers *answers, int64_t *found, int threads)

    ctypedef struct fpq_hashes:
        int d, n_tables, n_hashes
        const float *centre
        const float *packed
        const float *shifts
        const uint64_t *mixers
    ctypedef struct fpq_sketcher:
        int d, size
        const float *centre
        const float *packed
        const float *back
        const float *least
        float scale
    ctypedef struct fpq_lsh_rows:
        fpq_matrix x
        const fpq_sketcher *sketcher
        const uint8_t *sketches
        fpq_selector selector
        fpq_metric metric
    ctypedef struct fpq_lsh_stats:
        int64_t buckets, candidates, verified
    int fpq_lsh_sketch(const fpq_sketcher *s, const fpq_matrix *x, uint8_t *out, int threads)
    int fpq_lsh_values(const fpq_hashes *hashes, const fpq_matrix *x, float *out, int threads)
    ctypedef struct fpq_lsh_tables:
        const uint64_t *entries
        const uint8_t *sketches
        const uint32_t *starts
        int bits
    int fpq_lsh_entries(const fpq_hashes *hashes, const fpq_matrix *x, int64_t first_row, uint64_t *entries,
                        int threads)
    void fpq_lsh_starts(const uint64_t *entries, int64_t n, int bits, uint32_t *starts)
    int fpq_e2lsh_search(const fpq_hashes *hashes, const fpq_lsh_tables *tables, const fpq_lsh_rows *rows,
                         const float *queries, int64_t nq, int64_t n_probe, int k, float *distances, int64_t *ids,
                         fpq_lsh_stats *stats, int threads)
    ctypedef struct fpq_c2lsh:
        const uint8_t *codes
        double window, radius, ratio
        int threshold
        int64_t budget
        int stop_early
    int fpq_lsh_buckets(const fpq_hashes *hashes, const fpq_matrix *x, uint8_t *codes, int threads)
    int fpq_c2lsh_search(const fpq_hashes *hashes, const fpq_c2lsh *c, const fpq_lsh_rows *rows, const float *queries,
                         int64_t nq, int k, float *distances, int64_t *ids, fpq_lsh_stats *stats, int threads)

    ctypedef struct fpq_pmlsh:
        const int32_t *blocks
        double width, reach, ratio
        int64_t n_candidates, n_clipped
    int fpq_pmlsh_codes(const fpq_hashes *hashes, const fpq_matrix *x, int8_t *codes, int threads)
    int fpq_pmlsh_put(const int8_t *codes, const int64_t *rows, int64_t n, int m, int32_t *blocks, int threads)
    void fpq_pmlsh_get(const int32_t *blocks, const int64_t *rows, int64_t n, int m, int8_t *codes)
    int64_t fpq_pmlsh_clipped(const int32_t *blocks, int64_t n, int m)
    double fpq_chi_squared(double x, int m)
    int fpq_pmlsh_search(const fpq_hashes *hashes, const fpq_pmlsh *p, const fpq_lsh_rows *rows, const float *queries,
                         int64_t nq, int k, float *distances, int64_t *ids, fpq_lsh_stats *stats, int threads)

    ctypedef struct fpq_sets:
        const int64_t *first
        const uint64_t *items
        int64_t n
    ctypedef struct fpq_minhash:
        int n_hashes, n_bands, n_rows, bits
        uint64_t salt
        const uint32_t *factors
        const uint32_t *shifts
        const uint64_t *mixers
    ctypedef struct fpq_minhash_rows:
        const void *signatures
        const fpq_sets *sets
        fpq_selector selector
    int fpq_minhash_sign(const fpq_minhash *h, const fpq_sets *sets, void *signatures, uint32_t *keys, int threads)
    int fpq_minhash_search(const fpq_minhash *h, const fpq_minhash_rows *rows, const fpq_lsh_tables *tables,
                           const fpq_sets *queries, const fpq_answers *answers, int64_t *found, int threads)
    int FPQ_PAIR_BATCH
    int fpq_minhash_pairs(const fpq_minhash *h, const fpq_minhash_rows *rows, const uint32_t *keys, int first_band,
                          int n_tables, const uint64_t *entries, const fpq_answers *answers, int threads)
    int fpq_minhash_tables(const uint32_t *keys, int64_t n, int n_bands, int first_band, int n_tables,
                           int64_t first_row, int bits, uint64_t *entries, uint32_t *starts, int threads)
    int fpq_order_items(const int64_t *first, int64_t n, uint64_t *items, int64_t *sizes, int threads)
    uint64_t FPQ_HASH_STR, FPQ_HASH_BYTES
    uint64_t fpq_hash_text(const char *text, int64_t n, uint64_t kind)
    uint64_t fpq_hash_tuple(const uint64_t *items, int64_t n)
    ctypedef struct fpq_texts:
        const char *const *texts
        const int64_t *sizes
        int64_t n
    int fpq_shingle_counts(const fpq_texts *texts, int width, int words, int64_t *counts, int threads)
    int fpq_shingles(const fpq_texts *texts, int width, int words, const int64_t *first, uint64_t *items, int threads)
