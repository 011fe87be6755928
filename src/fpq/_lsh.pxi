# LSH: the part of _native.pyx for csrc/lsh.

@cython.final
cdef class LSHHashes(_Held):
    """The hash functions of n_tables tables, with the arrays that describe them."""
    cdef fpq_hashes c

    def __cinit__(self, int n_tables, int n_hashes, const float[::1] centre, const float[::1] packed,
                  const float[::1] shifts, const uint64_t[::1] mixers):
        self.c = fpq_hashes(<int>centre.shape[0], n_tables, n_hashes, &centre[0], &packed[0], &shifts[0], &mixers[0])

    def values(self, object x, float[:, ::1] out, int threads):
        """Projections of x (n, d) in widths, shifted: out (n, n_tables * n_hashes)."""
        cdef _Matrix matrix = _Matrix(x)
        with nogil: _done(fpq_lsh_values(&self.c, &matrix.c, &out[0, 0], threads))

    def entries(self, object x, int64_t first_row, uint64_t[:, ::1] out, int threads):
        """Table entries of x (n, d), rows first_row.. of the index: out (n_tables, n)."""
        cdef _Matrix matrix = _Matrix(x)
        with nogil: _done(fpq_lsh_entries(&self.c, &matrix.c, first_row, &out[0, 0], threads))

    def buckets(self, object x, uint8_t[:, ::1] out, int threads):
        """Hashes of x (n, d) clipped to bytes: out (n, n_hashes)."""
        cdef _Matrix matrix = _Matrix(x)
        with nogil: _done(fpq_lsh_buckets(&self.c, &matrix.c, &out[0, 0], threads))

    def clipped_buckets(self, object x, int8_t[:, ::1] out, int threads):
        """Hashes of x (n, d) clipped to -127 .. 126: out (n, n_hashes)."""
        cdef _Matrix matrix = _Matrix(x)
        with nogil: _done(fpq_pmlsh_codes(&self.c, &matrix.c, &out[0, 0], threads))


@cython.final
cdef class LSHSketcher(_Held):
    """The map from vectors to sketches, with the arrays that describe it."""
    cdef fpq_sketcher c

    def __cinit__(self, const float[::1] centre, const float[::1] packed, const float[::1] back,
                  const float[::1] least, float scale):
        self.c = fpq_sketcher(<int>centre.shape[0], <int>least.shape[0], &centre[0], &packed[0], &back[0], &least[0],
                              scale)

    def sketch(self, object x, uint8_t[:, ::1] out, int threads):
        """Sketches of x (n, d): out (n, size)."""
        cdef _Matrix matrix = _Matrix(x)
        with nogil: _done(fpq_lsh_sketch(&self.c, &matrix.c, &out[0, 0], threads))


cdef fpq_lsh_rows _lsh_rows(_Matrix matrix, LSHSketcher sketcher, const int64_t[::1] ids, const uint64_t[::1] allowed,
                            fpq_metric metric) noexcept:
    cdef const fpq_sketcher *maps = NULL
    if sketcher is not None: maps = &sketcher.c
    return fpq_lsh_rows(matrix.c, maps, NULL, _selector(ids, allowed, matrix.c.n), metric)


def lsh_starts(const uint64_t[::1] entries, int bits, uint32_t[::1] starts):
    """The directory of a table's sorted entries."""
    with nogil: fpq_lsh_starts(&entries[0], entries.shape[0], bits, &starts[0])


def e2lsh_search(LSHHashes hashes, const uint64_t[:, ::1] entries, const uint8_t[:, :, ::1] sketches,
                 const uint32_t[:, ::1] starts, int bits, object x, LSHSketcher sketcher, const int64_t[::1] ids,
                 const uint64_t[::1] allowed, fpq_metric metric, const float[:, ::1] queries, int64_t n_probe,
                 float[:, ::1] distances, int64_t[:, ::1] found, int64_t[:, ::1] stats, int threads):
    """The k nearest rows in n_probe buckets; sketches (n_tables, n, size) or None with the sketcher; stats (nq, 3)."""
    cdef _Matrix matrix = _Matrix(x)
    cdef fpq_lsh_rows rows = _lsh_rows(matrix, sketcher, ids, allowed, metric)
    cdef const uint8_t *of_entries = NULL
    if sketches is not None: of_entries = &sketches[0, 0, 0]
    cdef fpq_lsh_tables tables = fpq_lsh_tables(&entries[0, 0], of_entries, &starts[0, 0], bits)
    with nogil:
        _done(fpq_e2lsh_search(&hashes.c, &tables, &rows, &queries[0, 0], queries.shape[0], n_probe,
                               <int>found.shape[1], &distances[0, 0], &found[0, 0], <fpq_lsh_stats *>&stats[0, 0],
                               threads))


def c2lsh_search(LSHHashes hashes, const uint8_t[:, :, ::1] codes, double window, double radius, double ratio,
                 int threshold, int64_t budget, bint stop_early, object x, LSHSketcher sketcher,
                 const uint8_t[:, ::1] sketches, const int64_t[::1] ids, const uint64_t[::1] allowed,
                 fpq_metric metric, const float[:, ::1] queries, float[:, ::1] distances, int64_t[:, ::1] found,
                 int64_t[:, ::1] stats, int threads):
    """The k nearest candidates by collision counting; sketches (n, size) or None with the sketcher; stats (nq, 3)."""
    cdef _Matrix matrix = _Matrix(x)
    cdef fpq_lsh_rows rows = _lsh_rows(matrix, sketcher, ids, allowed, metric)
    cdef fpq_c2lsh c = fpq_c2lsh(&codes[0, 0, 0], window, radius, ratio, threshold, budget, stop_early)
    if sketches is not None: rows.sketches = &sketches[0, 0]
    with nogil:
        _done(fpq_c2lsh_search(&hashes.c, &c, &rows, &queries[0, 0], queries.shape[0], <int>found.shape[1],
                               &distances[0, 0], &found[0, 0], <fpq_lsh_stats *>&stats[0, 0], threads))


def pmlsh_put(const int8_t[:, ::1] codes, const int64_t[::1] rows, int32_t[:, :, ::1] blocks, int threads=1):
    """Codes (n, m) and their norms into rows of blocks (ceil(n / 64), m / 4 + 1, 64). One thread cannot fail."""
    if not rows.shape[0]: return
    with nogil: _done(fpq_pmlsh_put(&codes[0, 0], &rows[0], rows.shape[0], <int>codes.shape[1], &blocks[0, 0, 0],
                                    threads))


def pmlsh_get(const int32_t[:, :, ::1] blocks, const int64_t[::1] rows, int8_t[:, ::1] codes):
    """Get the codes of these rows."""
    if not rows.shape[0]: return
    with nogil: fpq_pmlsh_get(&blocks[0, 0, 0], &rows[0], rows.shape[0], <int>codes.shape[1], &codes[0, 0])


def pmlsh_clipped(const int32_t[:, :, ::1] blocks, int64_t n, int m):
    """How many of the first n rows have a clipped code."""
    cdef int64_t count
    with nogil: count = fpq_pmlsh_clipped(&blocks[0, 0, 0], n, m)
    return count


def chi_squared(double x, int m):
    """P(X <= x) of a chi-squared variable with m degrees of freedom; m is even."""
    return fpq_chi_squared(x, m)


def pmlsh_search(LSHHashes hashes, const int32_t[:, :, ::1] blocks, double width, double reach, double ratio,
                 int64_t n_candidates, int64_t n_clipped, object x, LSHSketcher sketcher,
                 const uint8_t[:, ::1] sketches, const int64_t[::1] ids, const uint64_t[::1] allowed,
                 fpq_metric metric, const float[:, ::1] queries, float[:, ::1] distances, int64_t[:, ::1] found,
                 int64_t[:, ::1] stats, int threads):
    """The k nearest candidates by projected distances; sketches (n, size) or None with the sketcher; stats (nq, 3)."""
    cdef _Matrix matrix = _Matrix(x)
    cdef fpq_lsh_rows rows = _lsh_rows(matrix, sketcher, ids, allowed, metric)
    cdef fpq_pmlsh p = fpq_pmlsh(&blocks[0, 0, 0], width, reach, ratio, n_candidates, n_clipped)
    if sketches is not None: rows.sketches = &sketches[0, 0]
    with nogil:
        _done(fpq_pmlsh_search(&hashes.c, &p, &rows, &queries[0, 0], queries.shape[0], <int>found.shape[1],
                               &distances[0, 0], &found[0, 0], <fpq_lsh_stats *>&stats[0, 0], threads))
