# Search of codes: the part of _native.pyx for csrc/scan.

@cython.final
cdef class ADC(_Held):
    """Asymmetric distances to the codes of a product quantizer."""
    cdef fpq_adc c

    def __cinit__(self, const float[:, ::1] packed, const float[:, :, ::1] codebooks, const int32_t[::1] offsets,
                  int nbits, fpq_metric metric):
        self.c = fpq_adc(&packed[0, 0], &codebooks[0, 0, 0], &offsets[0], <int>codebooks.shape[0], nbits,
                         <int>codebooks.shape[2], metric)

    def tables(self, const float[:, ::1] queries, float[:, :, ::1] out):
        """Look-up tables (nq, m, max(2**nbits, 16)) of queries (nq, d)."""
        with nogil: fpq_adc_tables(&self.c, &queries[0, 0], queries.shape[0], &out[0, 0, 0])


cdef class Codes:
    """All n codes of an index, or those in inverted lists, with the refinement codes beside them."""
    cdef fpq_codes c
    cdef SmallFlat coarse
    cdef float lengths
    cdef tuple arguments  # which hold what c points to
    cdef int64_t work  # numbers that a query reads, or a probe, for `_released`

    def __cinit__(self, *arguments):
        self.arguments = arguments

    cdef _ranked_by(self, ADC adc, Refined refined):
        self.c.adc = &adc.c
        if refined is not None: self.c.refined = &refined.c

    def selects(self, int64_t n_probe):
        """Whether `search` finds the `n_probe` nearest lists of queries."""
        return self.coarse is not None and self.coarse.applies(n_probe)

    def search(self, const float[:, ::1] rotated, Answers answers, int threads, int64_t candidates=0, int n_probe=0,
               const float[:, ::1] queries=None, const int64_t[:, ::1] probes=None,
               const float[:, ::1] residuals=None, int64_t first_query=0):
        """Search the codes, or lists, for queries, which are those from first_query on of the answers.

        candidates: refine so many of the nearest codes.
        queries: those before their rotation, which select n_probe lists; or probes (nq, n_probe).
        residuals (nq * n_probe, d): those of `rotate`, of lists with rotations; else None.
        """
        cdef fpq_probes probed = fpq_probes(n_probe, NULL, NULL, NULL, 0, self.lengths, NULL)
        if residuals is not None: probed.residuals = &residuals[0, 0]
        if probes is not None: probed.lists = &probes[0, 0]
        if queries is not None:
            probed.coarse, probed.queries, probed.d = self.coarse.c, &queries[0, 0], <int>queries.shape[1]
        cdef fpq_answers here = fpq_answers_from(&answers.c, first_query)
        cdef int64_t refined = candidates * rotated.shape[1]
        cdef int64_t per_query = self.work * max(n_probe, 1) + refined + answers.work
        cdef PyThreadState *state = _released(rotated.shape[0] * per_query)
        cdef int status = fpq_search_codes(&self.c, &rotated[0, 0], rotated.shape[0], &probed, candidates, &here,
                                           threads)
        _ended(state, status)


@cython.final
cdef class FlatCodes(Codes):
    """All n codes; allowed may be None."""

    def __cinit__(self, ADC adc, Refined refined, const uint8_t[:, :, ::1] blocks, const int64_t[::1] ids,
                  const uint64_t[::1] allowed, int64_t n):
        self._ranked_by(adc, refined)
        self.c.blocks, self.c.selector = &blocks[0, 0, 0], _selector(ids, allowed, n)
        self.work = n * blocks.shape[1]


@cython.final
cdef class Lists(Codes):
    """Codes in inverted lists; max_residual may be None.

    coarse: selects the lists of queries, to which `lengths` times their length is added as a dimension, unless 0; None:
    all searches have `probes`.
    """
    cdef fpq_lists lists

    def __cinit__(self, ADC adc, Refined refined, SmallFlat coarse, float lengths, const float[:, ::1] centroids,
                  const int64_t[::1] first, const int32_t[::1] block_ids, const uint64_t[::1] live_rows,
                  const float[::1] max_residual, bint residual, const uint8_t[:, :, ::1] blocks,
                  slot_ids):
        self._ranked_by(adc, refined)
        self.coarse, self.lengths = coarse, lengths
        cdef const float *longest = NULL
        if max_residual is not None: longest = &max_residual[0]
        self.lists = fpq_lists(&centroids[0, 0], <int>centroids.shape[1], &first[0], &block_ids[0], &live_rows[0],
                               longest, residual, centroids.shape[0], &blocks[0, 0, 0], _ids(slot_ids))
        self.c.lists = &self.lists
        self.work = block_ids.shape[0] * 64 * blocks.shape[1] // centroids.shape[0] + (8 << 10)  # the latter: tables


def rotate(object x, const int64_t[:, ::1] lists, const float[:, ::1] packed, const float[:, ::1] centroids,
           float[:, ::1] out, int threads):
    """out (n * p, r): each row of x (n, d) less the centroid (or None) of each of its lists (n, p), rotated."""
    cdef _Matrix matrix = _Matrix(x)
    cdef fpq_rotations rotations = fpq_rotations(&packed[0, 0], <int>out.shape[1], NULL, packed.shape[0])
    if centroids is not None: rotations.centroids = &centroids[0, 0]
    with nogil:
        _done(fpq_rotate(&matrix.c, &lists[0, 0], <int>lists.shape[1], &rotations, &out[0, 0], threads))
