"""Search for similar sets by MinHash."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _native, _settings, threads
from fpq._arrays import GrowingArray
from fpq._checks import Array, Int64, UInt32, UInt64
from fpq.indexes.base import Bits, Index, RangeResult, SearchResult
from fpq.indexes.changes import Addition
from fpq.indexes.parts import bands as banding
from fpq.indexes.parts.ids import Commit, Ids, Removal, no_op
from fpq.indexes.parts.lock import reads, writes
from fpq.indexes.parts.sets import SetRows, Sets, SetsLike, checked
from fpq.indexes.parts.tables import ROW_MASK, Tables
from fpq.storage import FormatError, State, Stored

MOST_SETS = (1 << 31) - 1
ROWS_PER_PENDING = 8  # `add` merges pending rows into the tables when they are 1/8 of all rows
ROW_BITS = np.uint64(32)


class MinHashIndex(Index, kind="MinHashIndex"):
    """Similar sets by MinHash: Jaccard similarity, the size of the intersection divided by that of the union.

    A hash function of a set is the least hash of its items; two sets of similarity J have the same value with
    probability J. Broder, On the resemblance and containment of documents, 1997. The functions are cut into ``bands``
    of ``rows`` functions each. A search compares a query with the sets that have the same values in a whole band, which
    sets of similarity J have with probability ``1 - (1 - J**rows)**bands``. Leskovec, Rajaraman, Ullman, Mining of
    Massive Datasets, 3.4.

    Sets are compared by their signatures: `bits` bits of each value, whose share of equal numbers gives an estimate of
    J without bias, but for estimates below 0, which become 0. Its standard error is about
    ``sqrt(J * (1 - J) / n_hashes)``. Li, Koenig, b-bit minwise hashing, 2010. With `keep_sets`, sets are compared by
    their items, and similarities are exact. An empty set is similar to nothing.

    New sets are pending until they are 1/8 of all sets, or until a call reads the tables (`search`, `remove`, `update`,
    `copy`, `save`): data that do not fit in memory may come in several calls of `add`. Results do not depend on the
    number of threads or on the instruction set. Any number of threads may search at the same time. A call that changes
    the index runs alone.

    Parameters
    ----------
    threshold : float, default 0.5
        The similarity that the bands are chosen for: the most rows that find such a pair with a probability of at least
        0.95. More rows find fewer pairs below the threshold and take less time.
    n_hashes : int, default 128
        Number of hash functions, a multiple of 16 up to 4096.
    bands : (int, int), optional
        The number of bands and of rows per band, in place of those chosen for `threshold`; together at most `n_hashes`
        functions.
    bits : {8, 16, 32}, default 8
        Bits per value in a signature. The standard error with 8 bits is at most 2 % larger than with 32 for J from 0.1
        on.
    keep_sets : bool, default False
        Keep the items of the sets (8 bytes each) in place of the signatures.
    seed : int, default 0
    n_threads : int or None, default None
        Number of threads. None: all available cores, or OMP_NUM_THREADS.

    Attributes
    ----------
    bands : (int, int)
        As given or chosen.
    last_found : int64 (nq,) or None
        The number of sets that each query of the last search was compared with.

    Examples
    --------
    >>> import fpq
    >>> index = fpq.MinHashIndex(keep_sets=True).add([{"a", "b", "c"}, {"a", "b", "c", "d"}, {"x", "y"}])
    >>> similarities, ids = index.search([{"b", "c", "d"}], k=2)
    >>> similarities.tolist(), ids.tolist()
    ([[0.75, 0.5]], [[1, 0]])
    """

    metric = _settings.Fixed[Literal["jaccard"]](_settings.choice("jaccard"))  # type: ignore[assignment]
    threshold = _settings.Fixed(banding.similarity)
    n_hashes = _settings.Fixed(banding.hash_count)
    bands = _settings.Fixed[tuple[int, int]](_settings.checked)
    bits = _settings.Fixed(_settings.choice(*banding.BITS))
    keep_sets = _settings.Fixed(_settings.flag)
    seed = _settings.Fixed(_settings.seed)

    _state_names: tuple[str, ...] = ("_rows", "_tables", "_pending")
    _max_rows = MOST_SETS

    last_found: Int64 | None
    _rows: SetRows
    _tables: Tables
    _pending: GrowingArray  # keys of the rows that are not in the tables

    def __init__(
        self,
        threshold: float = 0.5,
        n_hashes: int = 128,
        *,
        bands: tuple[int, int] | None = None,
        bits: int = 8,
        keep_sets: bool = False,
        seed: int = 0,
        n_threads: int | None = None,
    ) -> None:
        super().__init__("jaccard", n_threads)  # type: ignore[arg-type]
        self.threshold = threshold
        self.n_hashes = n_hashes
        chosen = partial(banding.chosen, self.threshold, self.n_hashes)
        self.bands = chosen() if bands is None else banding.given(bands, self.n_hashes)
        self.bits = bits
        self.keep_sets = keep_sets
        self.seed = seed
        self.last_found = None
        self._hashes = banding.functions(self.n_hashes, self.bands, self.bits, self.seed)
        vars(self).update(self._no_rows())

    @property
    def _width(self) -> int | None:
        """Bytes of a signature; None if the index keeps the items."""
        return None if self.keep_sets else self.n_hashes * self.bits // 8

    def _no_rows(self) -> dict[str, Any]:
        n_bands = self.bands[0]
        return {
            "_rows": SetRows(self._width),
            "_tables": Tables.empty(n_bands),
            "_pending": GrowingArray((n_bands,), np.uint32),
        }

    @property
    def dim(self) -> int | None:
        """None: sets have no dimension."""
        return None

    @property
    def is_trained(self) -> bool:
        """True: a MinHashIndex learns nothing."""
        return True

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays of the index: tables, signatures or items, ids."""
        return self._tables.nbytes + self._pending.data.nbytes + self._rows.nbytes + self._ids.nbytes

    @writes
    def fit(self, sets: SetsLike) -> MinHashIndex:
        """Check `sets` and learn nothing. The method exists because all indexes have a `fit`.

        Raises
        ------
        ValueError, TypeError
            If `sets` is not as in `add`.
        """
        self._fit(self._fitting, sets)
        return self

    def _fitting(self, X: Any) -> Commit:
        checked(X)
        return no_op

    @writes
    def add(self, sets: SetsLike, ids: ArrayLike | None = None) -> MinHashIndex:
        """Add sets.

        Parameters
        ----------
        sets : sparse matrix, pair of arrays (indptr, indices), or iterable of iterables
            The items of set i are the columns of the entries other than 0 in row i of a SciPy sparse matrix; or
            ``indices[indptr[i]:indptr[i + 1]]``, integers from 0 to 2**64 - 1; or the i-th iterable of strings, bytes,
            integers from 0 to 2**64 - 1, or tuples of these. Strings, bytes and tuples become integers by a hash that
            is the same on every machine. An item that occurs twice counts once.
        ids : int array (n,), optional
            Unique, not in the index, at least 0. By default, ids continue after the largest id used so far.

        Raises
        ------
        ValueError, TypeError
            If `sets` or `ids` are not as described. The index is then unchanged.
        """
        self._add(sets, ids)
        return self

    def update(self, sets: SetsLike, ids: ArrayLike) -> MinHashIndex:
        """Replace the sets with these ids. Ids that are not in the index are added.

        No search of another thread finds the sets missing, and a failed or interrupted call leaves the index as it was.
        All tables are rewritten: replacing many sets in one call takes about as long as replacing one.

        Parameters
        ----------
        sets
            As in `add`.
        ids : int array (n,)
            Unique, at least 0.

        Raises
        ------
        ValueError, TypeError
            If the arguments are not as described, or the index is mapped from a file.

        Examples
        --------
        >>> import fpq
        >>> index = fpq.MinHashIndex(keep_sets=True).add([[1, 2, 3], [4, 5]])
        >>> index.update([[7, 8]], ids=[1]).reconstruct([1])[0].tolist()
        [7, 8]
        """
        return super().update(sets, ids)

    def _checked(self, X: Any) -> Sets:
        return self._queries(X, threads.resolve(self.n_threads))[0]

    def _write_vectors(self, x: Any, ids: Int64, n_threads: int) -> None:
        """There are no vectors."""

    def _adding(self, x: Any, ids: Int64, kept: Array | None, leaving: Int64, n_threads: int) -> Addition:
        signatures, commit_rows = self._rows.place(len(x), x)
        return self._placing(banding.signed(self._hashes, x, signatures, n_threads), commit_rows, n_threads)

    def _placing(self, keys: UInt32, commit_rows: Commit, n_threads: int) -> Addition:
        """Prepare sets with these keys (n, n_bands)."""
        first, old, n = self._tables.n, len(self), len(self) + len(keys)
        if ROWS_PER_PENDING * (n - first) < n:
            self._pending.reserve(n - first)
            self._pending.data[old - first : n - first] = keys
            return Addition(commit_rows)
        tables = self._merged(self._tables, keys, n_threads)

        def commit() -> None:
            commit_rows()
            self._tables = tables

        return Addition(commit)

    def _merged(self, tables: Tables, new: UInt32, n_threads: int) -> Tables:
        """The present tables merged with the pending rows, followed by new rows."""
        first = tables.n
        keys = np.concatenate([self._pending.data[: len(self) - first], new]) if len(self) > first else new
        if not len(keys):
            return tables
        added = Tables.of_keys(keys, first, n_threads)
        return tables.merged(added.entries, None, n_threads) if first else added

    def _complete_tables(self, n_threads: int) -> Tables:
        """The tables after the merge of the pending rows."""
        tables = self._tables  # a concurrent search may merge the same rows
        if tables.n < len(self):
            self._tables = tables = self._merged(tables, np.empty((0, self.bands[0]), np.uint32), n_threads)
        return tables

    def _take_vectors(self, other: Any, ids: Int64) -> None:
        """There are no vectors."""

    def _merging(self, other: Any, ids: Int64, kept: Array | None, n_threads: int) -> Addition:
        entries = other._complete_tables(n_threads).entries
        keys = np.empty(entries.T.shape, np.uint32)
        for band, table in enumerate(entries):
            keys[(table & ROW_MASK).astype(np.int64), band] = table >> ROW_BITS
        signatures, commit_rows = self._rows.place(len(other), other._rows.sets)
        if signatures is not None:
            signatures[:] = other._rows.signatures
        return self._placing(keys, commit_rows, n_threads)

    def _training(self) -> dict[str, Any]:
        names = ("n_hashes", "bands", "bits", "keep_sets", "seed")
        return {**super()._training(), **{name: getattr(self, name) for name in names}}

    def _removing(self, removal: Removal, places: Int64) -> Commit:
        tables = self._complete_tables(threads.resolve(self.n_threads)).without(removal)
        rows = self._rows.without(removal)
        return lambda: vars(self).update(_tables=tables, _rows=rows)

    @reads
    def search(
        self, sets: SetsLike, k: int = 10, *, allowed: ArrayLike | None = None, n_threads: int | None = None
    ) -> SearchResult:
        """The k most similar sets that have a band in common with each query; the lower id wins ties.

        Parameters
        ----------
        sets
            The queries, as in `add`.
        k : int, default 10
        allowed : array of ids, or boolean mask by id, optional
            Return only these ids.
        n_threads : int, optional

        Returns
        -------
        SearchResult
            Jaccard similarities, the largest first, and ids. Id -1 and similarity -inf where fewer than k sets are
            found.

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described.
        """
        return self._search(sets, k, allowed, n_threads)

    @reads
    def range_search(
        self, sets: SetsLike, threshold: float, *, allowed: ArrayLike | None = None, n_threads: int | None = None
    ) -> RangeResult:
        """All sets that have a band in common with a query and are at least so similar.

        Parameters
        ----------
        sets
            The queries, as in `add`.
        threshold : float
            The smallest Jaccard similarity.
        allowed, n_threads
            As in `search`.

        Returns
        -------
        RangeResult
            ``lims, distances, ids``, the most similar first; the lower id wins ties. `distances` are similarities.

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described.
        """
        return self._range_search(sets, _checks.real("threshold", threshold), allowed, n_threads)

    def _queries(self, Q: Any, n_threads: int) -> tuple[Sets, bool]:  # type: ignore[override]
        sets = checked(Q)
        return (sets.ordered(n_threads) if self.keep_sets and len(sets.items) else sets), False

    def _scaled(self, queries: Any) -> tuple[Any, int]:
        return queries, 0

    def _scan(
        self, queries: Any, power: int, answers: _native.Answers, allowed: Bits | None, n_threads: int, **_: Any
    ) -> None:
        tables, kept, found = self._complete_tables(n_threads), self._rows.sets, np.empty(len(queries), np.int64)
        self._hashes.search(
            self._rows.signatures, kept.first, kept.items, tables.entries, tables.starts, tables.bits,
            self._ids.native, allowed, queries.first, queries.items, answers, found, n_threads,
        )  # fmt: skip
        self.last_found = found

    @reads
    def reconstruct(self, ids: ArrayLike) -> list[UInt64]:  # type: ignore[override]
        """The items of the sets with these ids as ascending integers: those given, or hashes of strings and tuples.

        Raises
        ------
        ValueError
            If the index keeps no items, or an id is not in the index.
        """
        if not self.keep_sets:
            raise ValueError("reconstruct: expected an index that keeps its sets: build it with keep_sets=True")
        rows = self._ids.rows(ids)
        sets = self._rows.of(rows)
        return np.split(sets.items, sets.first[1:-1]) if len(rows) else []

    def _state(self) -> State:
        names = ("threshold", "n_hashes", "bits", "keep_sets", "seed")
        state = State({**{name: getattr(self, name) for name in names}, "bands": list(self.bands)}, {})
        if len(self):
            state.arrays.update(self._complete_tables(threads.resolve(self.n_threads)).arrays)
        return state.joined(self._rows.state(), self._ids.state())

    @classmethod
    def _from_state(cls, stored: Stored) -> MinHashIndex:
        names = ("threshold", "n_hashes", "bands", "bits", "keep_sets", "seed")
        index = cls(**stored.take(*names), n_threads=stored.n_threads)
        index._ids = Ids.from_state(stored)
        n = len(index)
        if n > MOST_SETS:
            raise FormatError(f"n: expected at most {MOST_SETS}, got {n}")
        index._rows = SetRows.from_state(stored, n, index._width)
        if n:
            index._tables = Tables.restored(stored, index.bands[0], n)
        return index

    def __repr__(self) -> str:
        parts = (
            f"threshold={self.threshold}, n_hashes={self.n_hashes}, bands={self.bands}, bits={self.bits}, "
            f"keep_sets={self.keep_sets}, n={len(self)}, nbytes={self.nbytes}"
        )
        return f"MinHashIndex({parts})"
