# Search: the part of _native.pyx for csrc/exact and csrc/scan.
# ids int64 (n), or None for row numbers; allowed uint64 (ceil(n / 64)), or None for all.

cdef fpq_selector _selector(const int64_t[::1] ids, const uint64_t[::1] allowed, int64_t n) noexcept:
    cdef fpq_ids of_rows = fpq_ids(NULL, NULL)
    if ids is not None: of_rows.wide = <int64_t *>&ids[0]
    cdef const uint64_t *bits = NULL
    if allowed is not None: bits = &allowed[0]
    return fpq_selector(of_rows, bits, n)


cdef class _Held:
    """What keeps the arrays that it was made of; pickles as these."""
    cdef readonly tuple arguments

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return type(self), self.arguments


# ---- answers: what a search is to find ----

cdef class Answers:
    """The k nearest of each query, or all within a radius."""
    cdef fpq_answers c
    cdef int64_t work  # numbers that re-ranking reads per query, for `_released`


@cython.final
cdef class Ranking:
    """Vectors for re-ranking, read times 2**exponent; a table of the ids of their rows, or None twice: ids are rows."""
    cdef _Matrix rows
    cdef fpq_ranking c
    cdef fpq_id_table table
    cdef tuple arrays

    def __cinit__(self, object x, fpq_metric metric, int exponent, tuple table, ids):
        self.rows, self.arrays = _Matrix(x, exponent), (table, ids)
        self.c.x, self.c.metric = self.rows.c, metric
        if table is not None:
            self.table = _id_table(table, ids)
            self.c.rows = &self.table


@cython.final
cdef class TopK(Answers):
    """The k nearest: distances and ids (nq, k) receive them.

    by: what ranks the `candidates` nearest again, by the distances to `queries` (nq, d); None: nothing.
    """
    cdef float[:, ::1] distances
    cdef int64_t[:, ::1] ids
    cdef Ranking by
    cdef const float[:, ::1] queries
    cdef fpq_ranking ranking

    def __cinit__(self, float[:, ::1] distances, int64_t[:, ::1] ids, bint sort=True, Ranking by=None,
                  const float[:, ::1] queries=None, int64_t candidates=0):
        self.distances, self.ids, self.by = distances, ids, by
        self.c.k, self.c.distances, self.c.ids = ids.shape[1], &distances[0, 0], &ids[0, 0]
        self.c.unsorted = not sort
        if by is not None:
            self.queries, self.work, self.ranking = queries, candidates * queries.shape[1], by.c
            self.ranking.queries, self.ranking.candidates = &queries[0, 0], candidates
            self.c.ranking = &self.ranking


@cython.final
cdef class Within(Answers):
    """All within a radius of each of nq queries."""
    cdef int64_t nq

    def __cinit__(self, int64_t nq, float radius):
        self.c.hits = fpq_hits_make(nq)
        _done(-1 if self.c.hits == NULL else 0)
        self.nq, self.c.radius = nq, radius

    def __dealloc__(self):
        fpq_hits_free(self.c.hits, self.nq)

    def counts(self, int64_t[::1] out):
        """How many each query has, (nq,)."""
        fpq_hits_counts(self.c.hits, self.nq, &out[0])

    def copy(self, float[::1] distances, int64_t[::1] ids):
        """Those of all queries, one after the other."""
        with nogil: fpq_hits_copy(self.c.hits, self.nq, &distances[0], &ids[0])


def flat_norms(object x, float[::1] norms, int threads):
    """Squared lengths of the rows of x."""
    cdef _Matrix matrix = _Matrix(x)
    with nogil: _done(fpq_flat_norms(&matrix.c, &norms[0], threads))


def flat_search(object x, const float[::1] norms, const float[:, ::1] queries, const int64_t[::1] ids,
                const uint64_t[::1] allowed, fpq_metric metric, Answers answers, int threads, int exponent=0):
    """Search the rows of x, read times 2**exponent, exactly. norms: those of `flat_norms`, or None: row by row."""
    cdef _Matrix matrix = _Matrix(x, exponent)
    cdef fpq_selector selector = _selector(ids, allowed, matrix.c.n)
    cdef const float *squares = NULL
    if norms is not None: squares = &norms[0]
    with nogil:
        _done(fpq_flat_search(&matrix.c, squares, &queries[0, 0], queries.shape[0], &selector, metric,
                              &answers.c, threads))


@cython.final
cdef class SmallFlat(_Held):
    """A small matrix packed for the k nearest rows of any number of queries."""
    cdef _Matrix rows
    cdef fpq_metric metric
    cdef fpq_small_flat *c

    def __cinit__(self, object x, fpq_metric metric):
        cdef _Matrix matrix = _Matrix(x)
        self.rows, self.metric = matrix, metric
        if fpq_small_flat_applies(&matrix.c, metric, 1):
            with nogil:
                self.c = fpq_small_flat_make(&matrix.c, metric)
            _done(-1 if self.c == NULL else 0)

    def __dealloc__(self):
        fpq_small_flat_free(self.c)

    @property
    def nbytes(self):
        """Bytes taken beside the rows."""
        return 0 if self.c == NULL else fpq_small_flat_bytes(self.c)

    def applies(self, int64_t k):
        """Whether it is faster than `flat_search` for the k nearest."""
        return self.c != NULL and fpq_small_flat_applies(&self.rows.c, self.metric, k)


def flat_distances(object x, const float[:, ::1] queries, const int64_t[:, ::1] rows, fpq_metric metric,
                   float[:, ::1] out, int threads, int exponent=0):
    """The distance of query i and each of rows[i], read times 2**exponent; a number that no row has gives +inf."""
    cdef _Matrix matrix = _Matrix(x, exponent)
    cdef PyThreadState *state = _released(queries.shape[0] * rows.shape[1] * matrix.c.d)
    cdef int status = fpq_flat_distances(&matrix.c, &queries[0, 0], queries.shape[0], &rows[0, 0], rows.shape[1],
                                         metric, &out[0, 0], threads)
    _ended(state, status)


def smallest(const float[:, ::1] distances, const int64_t[:, ::1] ids, float[:, ::1] out, int64_t[:, ::1] out_ids,
             int threads):
    """The k smallest (distance, id) of each row, k being the width of out and out_ids; ids of -1 are none."""
    cdef PyThreadState *state = _released(ids.shape[0] * ids.shape[1])
    cdef int status = fpq_smallest(&distances[0, 0], &ids[0, 0], ids.shape[0], ids.shape[1], <int>out.shape[1],
                                   &out[0, 0], &out_ids[0, 0], threads)
    _ended(state, status)
