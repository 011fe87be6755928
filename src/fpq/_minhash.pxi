# Sets of integers: the part of _native.pyx for csrc/minhash. Set i has the items first[i] to first[i + 1] - 1.

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    int PyBytes_AsStringAndSize(object data, char **text, Py_ssize_t *size) except -1
    int Py_EnterRecursiveCall(const char *where)
    void Py_LeaveRecursiveCall()
    void *PyMem_Malloc(size_t size)
    void PyMem_Free(void *memory)
    unsigned long long PyLong_AsUnsignedLongLong(object number) except? 0xffffffffffffffff

PAIR_BATCH = FPQ_PAIR_BATCH


cdef fpq_sets _sets(const int64_t[::1] first, const uint64_t[::1] items) noexcept:
    return fpq_sets(&first[0], &items[0], first.shape[0] - 1)


@cython.final
cdef class MinHash(_Held):
    """Hash functions and bands, with the arrays that describe them."""
    cdef fpq_minhash c

    def __cinit__(self, int n_bands, int n_rows, int bits, uint64_t salt, const uint32_t[::1] factors,
                  const uint32_t[::1] shifts, const uint64_t[::1] mixers):
        self.c = fpq_minhash(<int>factors.shape[0], n_bands, n_rows, bits, salt, &factors[0], &shifts[0], &mixers[0])

    def sign(self, const int64_t[::1] first, const uint64_t[::1] items, uint8_t[:, ::1] signatures,
             uint32_t[:, ::1] keys, int threads):
        """signatures: bytes (n, n_hashes * bits / 8), or None; keys (n, n_bands)."""
        cdef fpq_sets sets = _sets(first, items)
        cdef void *out = NULL
        if signatures is not None: out = &signatures[0, 0]
        with nogil: _done(fpq_minhash_sign(&self.c, &sets, out, &keys[0, 0], threads))

    def search(self, const uint8_t[:, ::1] signatures, const int64_t[::1] first, const uint64_t[::1] items,
               const uint64_t[:, ::1] entries, const uint32_t[:, ::1] starts, int bits, const int64_t[::1] ids,
               const uint64_t[::1] allowed, const int64_t[::1] query_first, const uint64_t[::1] query_items,
               Answers answers, int64_t[::1] found, int threads):
        """Search by signatures, or if they are None by the sets first, items."""
        cdef fpq_sets queries = _sets(query_first, query_items)
        cdef fpq_sets sets
        cdef fpq_minhash_rows rows = fpq_minhash_rows(NULL, NULL, _selector(ids, allowed, entries.shape[1]))
        cdef fpq_lsh_tables tables = fpq_lsh_tables(&entries[0, 0], NULL, &starts[0, 0], bits)
        if signatures is not None:
            rows.signatures = &signatures[0, 0]
        else:
            sets = _sets(first, items)
            rows.sets = &sets
        with nogil:
            _done(fpq_minhash_search(&self.c, &rows, &tables, &queries, &answers.c, &found[0], threads))

    def pairs(self, const uint8_t[:, ::1] signatures, const int64_t[::1] first, const uint64_t[::1] items,
              const uint32_t[:, ::1] keys, int first_band, const uint64_t[:, ::1] entries, Within answers,
              int threads):
        """Pairs with a common key in one of these bands and in none before; answers: PAIR_BATCH entries are a query."""
        cdef fpq_sets sets
        cdef fpq_minhash_rows rows = fpq_minhash_rows(NULL, NULL, _selector(None, None, entries.shape[1]))
        if signatures is not None:
            rows.signatures = &signatures[0, 0]
        else:
            sets = _sets(first, items)
            rows.sets = &sets
        with nogil:
            _done(fpq_minhash_pairs(&self.c, &rows, &keys[0, 0], first_band, <int>entries.shape[0], &entries[0, 0],
                                    &answers.c, threads))


def minhash_tables(const uint32_t[:, ::1] keys, int first_band, int64_t first_row, int bits, uint64_t[:, ::1] entries,
                   uint32_t[:, ::1] starts, int threads):
    """Tables of rows first_row.. with keys (n, n_bands): entries (n_tables, n), starts (n_tables, 2**bits + 1)."""
    with nogil:
        _done(fpq_minhash_tables(&keys[0, 0], keys.shape[0], <int>keys.shape[1], first_band, <int>entries.shape[0],
                                 first_row, bits, &entries[0, 0], &starts[0, 0], threads))


def order_items(const int64_t[::1] first, uint64_t[::1] items, int64_t[::1] sizes, int threads):
    """Put the items of each set in order, each of them once; sizes (n) receives how many."""
    with nogil: _done(fpq_order_items(&first[0], sizes.shape[0], &items[0], &sizes[0], threads))


cdef uint64_t _item(object x) except? 0xffffffffffffffff:
    """The integer of an item: a string, bytes, an integer below 2**64, or a tuple of items."""
    cdef Py_ssize_t size = 0
    cdef const char *text
    cdef char *data
    if isinstance(x, str):
        text = PyUnicode_AsUTF8AndSize(x, &size)
        return fpq_hash_text(text, size, FPQ_HASH_STR)
    if isinstance(x, bytes):
        PyBytes_AsStringAndSize(x, &data, &size)
        return fpq_hash_text(data, size, FPQ_HASH_BYTES)
    if isinstance(x, tuple):
        return _tuple(x)
    if isinstance(x, bool):
        raise TypeError
    return PyLong_AsUnsignedLongLong(x if isinstance(x, int) else x.__index__())


cdef uint64_t _tuple(tuple x) except? 0xffffffffffffffff:
    _done(Py_EnterRecursiveCall(" in a tuple of items"))
    cdef uint64_t *items = <uint64_t *>PyMem_Malloc((len(x) + 1) * sizeof(uint64_t))
    try:
        if items == NULL:
            raise MemoryError
        for i in range(len(x)):
            items[i] = _item(x[i])
        return fpq_hash_tuple(items, len(x))
    finally:
        Py_LeaveRecursiveCall()
        PyMem_Free(items)


def items_of(list collections, const int64_t[::1] first, uint64_t[::1] items):
    """The items of collection i as integers, items[first[i]:first[i + 1]]."""
    cdef int64_t at
    cdef Py_ssize_t i
    for i in range(len(collections)):
        at = first[i]
        x = None
        _done(PyErr_CheckSignals())
        try:
            for x in collections[i]:
                if at < first[i + 1]: items[at] = _item(x)
                at += 1
        except OverflowError:
            raise ValueError(f"sets[{i}]: expected integers from 0 to 2**64 - 1, got {x!r}") from None
        except UnicodeError:
            raise ValueError(f"sets[{i}]: expected strings that UTF-8 can encode, got {x!r}") from None
        except (TypeError, AttributeError):
            raise TypeError(f"sets[{i}]: expected strings, bytes, integers, or tuples of these, got {x!r}") from None
        if at != first[i + 1]:
            raise ValueError(f"sets[{i}]: expected {first[i + 1] - first[i]} items, as by len, got {at - first[i]}")


def locate_texts(list texts, size_t[::1] at, int64_t[::1] sizes):
    """Where the UTF-8 of each string is, as long as the string lives, and its bytes."""
    cdef Py_ssize_t i, size = 0
    for i in range(len(texts)):
        if not isinstance(texts[i], str):
            raise TypeError(f"texts[{i}]: expected a string, got {texts[i]!r}")
        try:
            at[i] = <size_t>PyUnicode_AsUTF8AndSize(texts[i], &size)
        except UnicodeError:
            raise ValueError(f"texts[{i}]: expected a string that UTF-8 can encode, got {texts[i]!r}") from None
        sizes[i] = size


cdef fpq_texts _texts(const size_t[::1] at, const int64_t[::1] sizes) noexcept:
    return fpq_texts(<const char *const *>&at[0], &sizes[0], sizes.shape[0])


def shingle_counts(const size_t[::1] at, const int64_t[::1] sizes, int width, bint words, int64_t[::1] counts,
                   int threads):
    """How many shingles each text of `locate_texts` has, (n,)."""
    cdef fpq_texts texts = _texts(at, sizes)
    with nogil: _done(fpq_shingle_counts(&texts, width, words, &counts[0], threads))


def shingles(const size_t[::1] at, const int64_t[::1] sizes, int width, bint words, const int64_t[::1] first,
             uint64_t[::1] items, int threads):
    """The shingles of the texts, of text i from items[first[i]] on."""
    cdef fpq_texts texts = _texts(at, sizes)
    with nogil: _done(fpq_shingles(&texts, width, words, &first[0], &items[0], threads))
