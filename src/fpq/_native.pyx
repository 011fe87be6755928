# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=True
# cython: freethreading_compatible=True, autotestdict=False
"""The one compiled module: arrays in, one C call without the GIL, nothing else.

Callers have checked dtypes, shapes and values; typed memoryviews are the second fence for dtype, dimensions and
order. Matrices marked ``object x`` may have any of the element types of csrc/fpq.h and any strides.
"""
cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fpq._fpq cimport *


cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept
    void *PyErr_Occurred() noexcept


cdef int _signalled() noexcept with gil:
    return PyErr_CheckSignals()


fpq_on_poll(_signalled)
fpq_isa()  # chooses the kernels while there is one thread


cdef int _done(int status) except -1 nogil:
    """Raise what ended a call: an exception of a signal's handler, or no memory."""
    if status:
        with gil:
            if PyErr_Occurred() == NULL:
                raise MemoryError("fpq: no memory for the working space of a call")
        return -1
    return 0


# ---- the interpreter lock: a short call keeps it, as handing it over to another thread and back takes longer ----

cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        pass
    PyThreadState *PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState *state)


cdef inline PyThreadState *_released(int64_t numbers) noexcept:
    """Release the lock for a call that reads so many numbers, or bytes of codes: more take over ten microseconds."""
    return PyEval_SaveThread() if numbers > 1 << 16 else NULL


cdef inline int _ended(PyThreadState *state, int status) except -1:
    """Take the lock again, and raise what ended the call."""
    if state != NULL: PyEval_RestoreThread(state)
    return _done(status)


# ---- instruction sets and threads ----

def features():
    """CPU features by name."""
    cdef int has
    found = {}
    while fpq_feature_at(len(found), &has) != NULL:
        found[fpq_feature_at(len(found), &has).decode()] = has
    return found


def isa():
    """Name of the instruction set in use."""
    return fpq_isa().decode()


def isas():
    """Names of the instruction sets that run on this machine, slowest first."""
    names = []
    while fpq_isa_at(len(names)) != NULL:
        names.append(fpq_isa_at(len(names)).decode())
    return tuple(names)


def use_isa(name):
    """Use the kernels of one instruction set from now on."""
    if fpq_use_isa(name.encode()):
        raise ValueError(f"FPQ_ISA: {name!r} does not run here; there are {', '.join(isas())}")


def has_openmp():
    """Whether this build uses threads."""
    return bool(fpq_has_openmp())


def max_threads():
    """The number of threads that the environment (OMP_NUM_THREADS, threadpoolctl) asks for."""
    return fpq_max_threads()


def after_fork():
    """To be called in a forked child."""
    fpq_after_fork()


def trace(float[::1] log):
    """Log tasks and their times until `trace(None)`; return how many numbers the log before has or would have."""
    return fpq_trace(NULL, 0) if log is None else fpq_trace(&log[0], log.shape[0])


# ---- matrices ----

cdef dict _KINDS = {b"f": FPQ_F32, b"d": FPQ_F64, b"e": FPQ_F16, b"H": FPQ_BF16, b"B": FPQ_U8, b"b": FPQ_I8}


cdef class _Matrix:
    """A 2-d buffer, held as long as this lives."""
    cdef Py_buffer view
    cdef fpq_matrix c

    def __cinit__(self, object x, int exponent=0):
        if x.dtype.kind == "V":  # bfloat16, of which NumPy makes no buffer
            x = x.view("u2")
        PyObject_GetBuffer(x, &self.view, PyBUF_STRIDES | PyBUF_FORMAT)
        cdef bytes kind = self.view.format
        if self.view.ndim != 2 or kind not in _KINDS:
            raise ValueError(f"not a matrix of a known type: {self.view.ndim} dimensions of {kind!r}")
        self.c = fpq_matrix(<const char *>self.view.buf, self.view.shape[0], self.view.shape[1], self.view.strides[0],
                            self.view.strides[1], _KINDS[kind], exponent)

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


def first_nonfinite_row(object x, int threads):
    """Number of the first row with a NaN or an infinity as float32, or -1."""
    cdef _Matrix matrix = _Matrix(x)
    cdef PyThreadState *state = _released(matrix.c.n * matrix.c.d)
    cdef int64_t row = fpq_first_nonfinite_row(&matrix.c, threads)
    _ended(state, row == -2)
    return row


def largest(object x, int threads):
    """The largest absolute value of the numbers of x, which are finite; 0 if there are none."""
    cdef _Matrix matrix = _Matrix(x)
    cdef float found = 0
    cdef PyThreadState *state = _released(matrix.c.n * matrix.c.d)
    cdef int status = fpq_largest(&matrix.c, &found, threads)
    _ended(state, status)
    return found


def copy_rows(object x, const int64_t[::1] rows, object out, int threads):
    """Rows of x, all if rows is None, to out (n, d), which has contiguous rows of the type of x or of float32."""
    cdef _Matrix matrix = _Matrix(x), to = _Matrix(out)
    cdef const int64_t *chosen = NULL
    if rows is not None: chosen = &rows[0]
    cdef PyThreadState *state = _released(to.c.n * to.c.d)
    cdef int status = fpq_copy_rows(&matrix.c, chosen, to.c.n, to.c.dtype != matrix.c.dtype, <char *>to.c.data, threads)
    _ended(state, status)


def normalize(object x, float[:, ::1] out, int threads):
    """Rows of x (n, d) scaled to length 1."""
    cdef _Matrix matrix = _Matrix(x)
    cdef PyThreadState *state = _released(matrix.c.n * matrix.c.d)
    cdef int status = fpq_normalize(&matrix.c, &out[0, 0], threads)
    _ended(state, status)


def append_lengths(object x, float factor, float[:, ::1] out, int threads):
    """out (n, d + 1): rows of x, and `factor` times their lengths as the last dimension."""
    cdef _Matrix matrix = _Matrix(x)
    cdef PyThreadState *state = _released(matrix.c.n * matrix.c.d)
    cdef int status = fpq_append_lengths(&matrix.c, factor, &out[0, 0], threads)
    _ended(state, status)


def add_centroids(object x, const float[:, ::1] centroids, const int32_t[::1] labels, float sign,
                  float[:, ::1] out, int threads):
    """out (n, d): rows plus sign (1 or -1) times the centroids of their labels; labels None: centroid i for row i."""
    cdef _Matrix matrix = _Matrix(x)
    cdef const int32_t *of_rows = NULL
    if labels is not None: of_rows = &labels[0]
    with nogil: _done(fpq_add_centroids(&matrix.c, &centroids[0, 0], of_rows, sign, &out[0, 0], threads))


def packed_size(int k, int d):
    """Floats that k packed columns of d numbers take."""
    return fpq_packed_size(k, d)


def pack(const float[:, ::1] columns, int d, float[::1] out):
    """The first d numbers of each of the columns (k, >= d), packed."""
    with nogil: fpq_pack(&columns[0, 0], <int>columns.shape[0], d, columns.shape[1], NULL, &out[0])


def project(object x, const float[::1] packed, float[:, ::1] out, int threads):
    """out (n, k) = x (n, d) times the k packed columns."""
    cdef _Matrix matrix = _Matrix(x)
    with nogil: _done(fpq_project(&matrix.c, &packed[0], <int>out.shape[1], &out[0, 0], threads))


# ---- codebooks: centroids (m, k, dsub), offsets (m + 1), rows int64 (n) or None for all, ids (m, n) ----

cdef fpq_codebooks _codebooks(const float[:, :, ::1] centroids, const int32_t[::1] offsets) noexcept:
    return fpq_codebooks(<int>centroids.shape[0], <int>centroids.shape[1], <int>centroids.shape[2], &offsets[0],
                         <float *>&centroids[0, 0, 0])


cdef fpq_rows _rows(_Matrix matrix, const int64_t[::1] rows) noexcept:
    return fpq_rows(matrix.c, NULL, matrix.c.n) if rows is None else fpq_rows(matrix.c, &rows[0], rows.shape[0])


def assign(const float[:, :, ::1] centroids, const int32_t[::1] offsets, object x, const int64_t[::1] rows,
           int32_t[:, ::1] ids, float[:, ::1] errors, int threads):
    """Nearest centroids to ids, their squared distances to errors (may be None)."""
    cdef _Matrix matrix = _Matrix(x)
    cdef fpq_codebooks cb = _codebooks(centroids, offsets)
    cdef fpq_rows data = _rows(matrix, rows)
    with nogil: _done(fpq_assign(&cb, &data, &ids[0, 0], NULL if errors is None else &errors[0, 0], threads))


def assign_in_cells(const float[:, ::1] centroids, const int64_t[::1] first, const int64_t[::1] members,
                    const float[:, ::1] x, const int64_t[:, ::1] of_rows, int32_t[::1] ids, int threads):
    """The nearest centroid of each row in its cells of_rows (n, p); cell c holds members[first[c]:first[c + 1]]."""
    cdef fpq_cells cells = fpq_cells(&centroids[0, 0], <int>x.shape[1], <int>first.shape[0] - 1, &first[0], &members[0])
    with nogil:
        _done(fpq_assign_in_cells(&cells, &x[0, 0], x.shape[0], &of_rows[0, 0], <int>of_rows.shape[1], &ids[0],
                                  threads))


def move_to_means(const float[:, ::1] x, const int64_t[::1] first, float[:, ::1] centroids, int threads):
    """Centroids to the means of their rows x[first[i]:first[i + 1]], where there are any."""
    with nogil:
        _done(fpq_move_to_means(&x[0, 0], &first[0], centroids.shape[0], <int>centroids.shape[1], &centroids[0, 0],
                                threads))


def assign_anisotropic(const float[:, :, ::1] centroids, const int32_t[::1] offsets, object x,
                       const float[:, ::1] directions, float weight, int32_t[:, ::1] ids, double[::1] parallel,
                       int threads):
    """Lower the anisotropic loss of ids; products of errors and directions to parallel (n)."""
    cdef _Matrix matrix = _Matrix(x)
    cdef fpq_codebooks cb = _codebooks(centroids, offsets)
    cdef fpq_rows data = _rows(matrix, None)
    if not matrix.c.n: return
    with nogil:
        _done(fpq_assign_anisotropic(&cb, &data, &directions[0, 0], weight, &ids[0, 0], &parallel[0], threads))


L2, IP = FPQ_L2, FPQ_IP  # metrics
CANDIDATES_PER_ROUND, CENTROIDS_PER_ROUND = FPQ_CANDIDATES_PER_ROUND, FPQ_CENTROIDS_PER_ROUND


def seed(float[:, :, ::1] centroids, const int32_t[::1] offsets, object x, const int64_t[::1] rows,
         const double[:, :, ::1] draws, int threads):
    """Starting centroids by greedy k-means++; draws (m, ceil(k / CENTROIDS_PER_ROUND), CANDIDATES_PER_ROUND)."""
    cdef _Matrix matrix = _Matrix(x)
    cdef fpq_codebooks cb = _codebooks(centroids, offsets)
    cdef fpq_rows data = _rows(matrix, rows)
    with nogil: _done(fpq_seed(&cb, &data, &draws[0, 0, 0], threads))


def kmeans_chunk_rows(int m, int k, int dsub, int64_t n):
    """Rows of a chunk, of which `kmeans_sums` makes sums."""
    return fpq_kmeans_chunk_rows(m, k, dsub, n)


def kmeans_sums(const float[:, :, ::1] centroids, const int32_t[::1] offsets, object x, const int64_t[::1] rows,
                const uint8_t[::1] active, int64_t chunk_rows, int32_t[:, ::1] ids, float[:, ::1] errors,
                uint16_t[:, :, ::1] bounds, uint16_t[:, ::1] drift, float[::1] scale, const float[:, :, ::1] drifted,
                float[:, :, ::1] sums, int64_t[:, ::1] changed, int threads):
    """Assign rows and sum them up by chunks; ids, errors, bounds may be of more rows. drifted, sums may be None."""
    cdef _Matrix matrix = _Matrix(x)
    cdef fpq_codebooks cb = _codebooks(centroids, offsets)
    cdef fpq_rows data = _rows(matrix, rows)
    cdef fpq_bounds memory
    memory.groups = <int>bounds.shape[2]
    memory.bounds = &bounds[0, 0, 0] if memory.groups else NULL
    memory.drift = &drift[0, 0] if memory.groups else NULL
    memory.steps_per_distance = &scale[0]
    cdef const float *before = NULL
    if drifted is not None: before = &drifted[0, 0, 0]
    cdef float *tables = NULL if sums is None else &sums[0, 0, 0]
    cdef int64_t *moved = NULL if sums is None else &changed[0, 0]
    with nogil:
        _done(fpq_kmeans_sums(&cb, &data, &active[0], chunk_rows, ids.shape[1], &ids[0, 0], &errors[0, 0], &memory,
                              before, tables, moved, threads))


def kmeans_sums_of(const float[:, :, ::1] centroids, const int32_t[::1] offsets, object x, const int64_t[::1] rows,
                   const uint8_t[::1] active, int64_t chunk_rows, int32_t[:, ::1] ids, int32_t[:, ::1] before,
                   float[:, ::1] errors, float[:, :, ::1] sums, int64_t[:, ::1] changed, int threads):
    """As `kmeans_sums`, of rows with given ids, and `before` with others."""
    cdef _Matrix matrix = _Matrix(x)
    cdef fpq_codebooks cb = _codebooks(centroids, offsets)
    cdef fpq_rows data = _rows(matrix, rows)
    with nogil:
        _done(fpq_kmeans_sums_of(&cb, &data, &active[0], chunk_rows, ids.shape[1], &ids[0, 0], &before[0, 0],
                                 &errors[0, 0], &sums[0, 0, 0], &changed[0, 0], threads))


def kmeans_means(float[:, :, ::1] centroids, const int32_t[::1] offsets, const uint8_t[::1] active,
                 float[:, :, ::1] sums, int64_t[:, ::1] counts, int threads):
    """Centroids of the active subspaces become the means of the sums of all chunks."""
    cdef fpq_codebooks cb = _codebooks(centroids, offsets)
    with nogil: _done(fpq_kmeans_means(&cb, &active[0], <int>sums.shape[1], &sums[0, 0, 0], &counts[0, 0], threads))


def kmeans_donors(const int32_t[::1] ids, const float[::1] errors, const int64_t[::1] counts, int64_t[::1] rows):
    """The row that each empty cluster takes, or -1."""
    with nogil: _done(fpq_kmeans_donors(<int>counts.shape[0], ids.shape[0], &ids[0], &errors[0], &counts[0], &rows[0]))


def reorder(const int64_t[::1] order, int32_t[:, ::1] ids, float[:, ::1] errors, int threads):
    """Move row i of ids and errors (m, n) to row order[i]."""
    with nogil: _done(fpq_reorder(&order[0], ids.shape[1], <int>ids.shape[0], &ids[0, 0], &errors[0, 0], threads))


def renumber(const int32_t[:, ::1] numbers, int32_t[:, ::1] ids, int64_t[:, ::1] counts, int threads):
    """ids (m, n) become numbers (m, k) of these ids, unless numbers is None; counts (m, k) of the new ids."""
    cdef const int32_t *of_ids = NULL
    if numbers is not None: of_ids = &numbers[0, 0]
    with nogil:
        _done(fpq_renumber(<int>ids.shape[0], <int>counts.shape[1], ids.shape[1], of_ids, &ids[0, 0], &counts[0, 0],
                           threads))


def open_index(const float[:, :, ::1] centroids, const int32_t[::1] offsets, object x, const int64_t[::1] rows,
               double limit, int candidates, bint shared, int32_t[:, ::1] ids, int64_t[:, ::1] counts, int threads):
    """OpenIndexing: nearest ids in, chosen ids out; counts (m, k), or (1, k) when shared, go on."""
    cdef _Matrix matrix = _Matrix(x)
    cdef fpq_codebooks cb = _codebooks(centroids, offsets)
    cdef fpq_rows data = _rows(matrix, rows)
    with nogil: _done(fpq_open_index(&cb, &data, limit, candidates, shared, &ids[0, 0], &counts[0, 0], threads))


# ---- codes (n, code_size) and scan blocks (ceil(n / 64), code_size, 64) ----

def pack_codes(const int32_t[:, ::1] ids, int nbits, uint8_t[:, ::1] codes, int threads):
    """ids (m, n) to codes."""
    with nogil: _done(fpq_pack_codes(&ids[0, 0], ids.shape[1], <int>ids.shape[0], nbits, &codes[0, 0], threads))


def unpack_codes(const uint8_t[:, ::1] codes, int nbits, int32_t[:, ::1] ids):
    """codes to ids (m, n)."""
    with nogil: fpq_unpack_codes(&codes[0, 0], ids.shape[1], <int>ids.shape[0], nbits, &ids[0, 0])


def put_codes(const uint8_t[:, ::1] codes, const int64_t[::1] rows, uint8_t[:, :, ::1] blocks, int threads=1):
    """codes into the given rows of blocks. With one thread, this cannot fail."""
    with nogil:
        _done(fpq_put_codes(&codes[0, 0], &rows[0], rows.shape[0], <int>codes.shape[1], &blocks[0, 0, 0], threads))


def decode(const float[:, :, ::1] codebooks, const int32_t[::1] offsets, int nbits, const uint8_t[:, ::1] codes,
           float[:, ::1] out, int threads):
    """The vectors out (n, d) that codes stand for."""
    cdef fpq_codebooks cb = _codebooks(codebooks, offsets)
    with nogil: _done(fpq_decode(&cb, nbits, &codes[0, 0], codes.shape[0], &out[0, 0], threads))


def sum_entries(const double[:, ::1] entries, int nbits, const uint8_t[:, ::1] codes, double[::1] sums, int threads):
    """The sums (n) of the entries (m, 2**nbits) of the sub-codes of each row."""
    with nogil:
        _done(fpq_sum_entries(&entries[0, 0], <int>entries.shape[0], nbits, &codes[0, 0], codes.shape[0], &sums[0],
                              threads))


def get_codes(const uint8_t[:, :, ::1] blocks, const int64_t[::1] rows, uint8_t[:, ::1] codes):
    """The given rows of blocks to codes."""
    with nogil: fpq_get_codes(&blocks[0, 0, 0], &rows[0], rows.shape[0], <int>codes.shape[1], &codes[0, 0])


# ---- ids by place, int64 or int32 (n), and a table of them: (bytes of the entries, bits, place_bits, wide) ----

cdef fpq_ids _ids(object ids):
    cdef const int64_t[::1] wide
    cdef const int32_t[::1] narrow
    if ids.dtype.itemsize == 4:
        narrow = ids
        return fpq_ids(NULL, <int32_t *>&narrow[0])
    wide = ids
    return fpq_ids(<int64_t *>&wide[0], NULL)


cdef fpq_id_table _id_table(tuple table, object ids):
    cdef uint8_t[::1] entries = table[0]
    return fpq_id_table(&entries[0], table[1], table[2], table[3], _ids(ids))


def ids_find(tuple table, ids, const int64_t[::1] wanted, int64_t[::1] places):
    """The place of each wanted id, -1 where there is none."""
    cdef fpq_id_table t
    if wanted.size:
        t = _id_table(table, ids)
        with nogil: fpq_ids_find(&t, &wanted[0], wanted.shape[0], &places[0])


def ids_insert(tuple table, ids, const int64_t[::1] places):
    """Enter the ids in these places."""
    cdef fpq_id_table t
    if places.size:
        t = _id_table(table, ids)
        with nogil: fpq_ids_insert(&t, &places[0], places.shape[0])


def ids_remove(tuple table, ids, const int64_t[::1] gone, const int64_t[::1] sources,
               const int64_t[::1] targets):
    """Take ids out of the table, which may be None, and of ids; move others into the gaps."""
    cdef fpq_id_table t
    cdef fpq_ids of_places = _ids(ids)
    if table is not None: t = _id_table(table, ids)
    with nogil:
        fpq_ids_remove(NULL if table is None else &t, of_places, &gone[0], gone.shape[0], &sources[0], &targets[0],
                       sources.shape[0])


def set_bits(const int64_t[::1] places, uint64_t[::1] bits):
    """Set the bits of these places, none for -1."""
    with nogil: fpq_set_bits(&places[0], places.shape[0], &bits[0])


include "_search.pxi"
include "_refine.pxi"
include "_codes.pxi"
include "_maxsim.pxi"
include "_lsh.pxi"
include "_minhash.pxi"
