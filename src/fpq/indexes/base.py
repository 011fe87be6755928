"""The base of all indexes: input checks, ids, add and remove, search and range search."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _native, _settings, progress, scaling, threads
from fpq._arrays import GrowingArray
from fpq._checks import Array, Float32, Int64
from fpq.indexes.parts.ids import Commit, Ids, Removal, no_op
from fpq.indexes.parts.lock import Lock, reads, uninterrupted, writes
from fpq.indexes.parts.vector_file import VectorFile
from fpq.indexes.parts.vectors import Vectors
from fpq.metric import METRICS, NAMES_ELSEWHERE, MetricName
from fpq.progress import Progress
from fpq.storage import Storable

Bits = np.ndarray[Any, np.dtype[np.uint64]]
Nearest = Callable[[Float32, int, "Bits | None", int], tuple[Float32, Int64]]


class SearchResult(NamedTuple):
    """The k nearest neighbours of each query; a pair ``distances, ids = index.search(...)``.

    Attributes
    ----------
    distances : float32 (nq, k), or (k,) for a 1-d query
        "l2": squared L2 distances, ascending, +inf for a missing neighbour. "ip" and "cosine": similarities,
        descending, -inf for a missing neighbour.
    ids : int64 of the same shape
        The ids of the neighbours, -1 for a missing neighbour.
    """

    distances: Float32
    ids: Int64


class RangeResult(NamedTuple):
    """All neighbours within a radius of each query, nearest first.

    Attributes
    ----------
    lims : int64 (nq + 1,)
        The neighbours of query i are ``ids[lims[i]:lims[i + 1]]``.
    distances : float32 (lims[-1],)
        Squared L2 distances, or similarities for "ip" and "cosine".
    ids : int64 (lims[-1],)
    """

    lims: Int64
    distances: Float32
    ids: Int64


def write_nothing(advance: progress.Advance) -> None:
    """Write no rows."""


class Addition(NamedTuple):
    """New rows of an index. `write` may fail; `commit` and `clear` cannot."""

    commit: Commit  # makes the written rows visible
    write: Callable[[progress.Advance], None] = write_nothing  # writes and counts the rows behind the visible rows
    clear: Commit = no_op  # zeroes the written rows


class Index(Storable, ABC):
    """Vectors with ids, and the search for nearest neighbours.

    Public methods that read an index are decorated with `reads`, those that change an index with `writes`. `_fit`,
    `_add` and `remove` make every change in one order: check the input, prepare (may fail), commit (cannot fail).
    """

    metric = _settings.Fixed(_settings.choice(*(each.name for each in METRICS.values()), elsewhere=NAMES_ELSEWHERE))

    _state_names: tuple[str, ...] = ("_ids", "_vectors")  # attributes of the class that fit, add and remove change
    _bound_by = ""  # for the message of `fit` if the index holds rows; empty if `fit` learns nothing
    _max_rows = _checks.MOST

    _vectors: Vectors | VectorFile

    def __init__(
        self, metric: MetricName, n_threads: int | None, verbose: bool | Callable[[Progress], None] = False
    ) -> None:
        self.metric = metric
        self._metric = METRICS[self.metric]
        self.n_threads = n_threads
        self.verbose = verbose
        self._ids = Ids()
        self._vectors = Vectors()
        self._lock = Lock()

    @property
    @abstractmethod
    def dim(self) -> int | None:
        """Dimension of the vectors; None while unknown."""

    @property
    @abstractmethod
    def is_trained(self) -> bool:
        """Whether vectors can be added."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of all arrays of the index."""

    @property
    @reads
    def ids(self) -> Int64:
        """The ids in the index, int64 (n,), in arbitrary order."""
        return self._ids.values.copy()

    def __len__(self) -> int:
        return self._ids.n

    def _reading(self) -> AbstractContextManager[Any]:
        return self._lock.reading()

    def _require_writable(self) -> None:
        if self._file is not None:
            raise ValueError("the index is mapped from a file and cannot be changed: load the file with mmap=False")

    def _reserve(self, n: int) -> None:
        """Allocate memory for `n` rows in total before they are added."""

    def _restoring(self) -> Callable[[], None]:
        """A function that undoes all additions after this call, and cannot fail."""
        names = {name for kind in type(self).__mro__ for name in vars(kind).get("_state_names", ())}
        state = {name: value for name, value in vars(self).items() if name in names}
        before = {name: value.snapshot() if hasattr(value, "snapshot") else value for name, value in state.items()}
        clear = self._clearing()

        def restore() -> None:
            vars(self).update(before)
            clear()

        return restore

    def _clearing(self) -> Commit:
        """A function that zeroes everything written behind the present rows, and cannot fail."""
        return no_op

    @property
    def _limited(self) -> bool:
        """Whether codes depend on the number of rows per `add`."""
        return False

    def _require_trained(self) -> None:
        if not self.is_trained:
            raise ValueError(f"{type(self).__name__} is not trained: call fit first")

    def _require_empty(self) -> None:
        if len(self) and self._bound_by:
            raise ValueError(f"fit: the index holds {len(self)} vectors {self._bound_by}")

    def _fit(self, fitting: Callable[..., Commit], *rows: Any) -> None:
        """Carry out `fit` with `fitting`: `_fitting` or another function that learns from `rows`."""
        self._require_empty()
        commit = fitting(*rows)
        with uninterrupted():
            commit()

    @abstractmethod
    def _fitting(self, X: Any) -> Commit:
        """Check X and learn from its rows; the commit leaves an index without rows."""

    def _add(self, X: Any, ids: Any) -> None:
        """Carry out `add`."""
        self._require_trained()
        n_threads = threads.resolve(self.n_threads)
        if getattr(ids, "ndim", 1) == 2 and getattr(X, "ndim", 2) == 1:
            raise ValueError(f"X: expected add(X, ids), got an array of shape {np.shape(X)} first")
        x = _checks.vectors("X", X, dim=self.dim, n_threads=n_threads)
        with progress.method(self, "add", len(x)):
            self._add_checked(x, ids, n_threads)

    def _add_checked(self, x: Array, ids: Any, n_threads: int) -> None:
        given = self._ids.new(ids, len(x))
        first, n = len(self), len(self) + len(x)
        if n > self._max_rows:
            raise ValueError(f"X: expected at most {self._max_rows} vectors in the index, got {n} with these")
        new_ids = self._ids.numbered(given, len(x))
        vectors = self._write_vectors(x, new_ids, n_threads)
        addition = self._adding(x, new_ids, None if vectors is None else vectors.data[first:n], n_threads)
        try:
            with progress.stage("rows", len(x), "rows") as advance:
                addition.write(advance)
            commit_ids = self._ids.adding(given, len(x))
            with uninterrupted():
                commit_ids()
                addition.commit()
                if vectors is not None:
                    self._vectors.commit(vectors, n)
        except BaseException:
            with uninterrupted():
                if len(self) < n:  # otherwise the error is an interrupt that was deferred until after the commit
                    addition.clear()
            raise

    def _write_vectors(self, x: Array, ids: Int64, n_threads: int) -> GrowingArray | None:
        """Write `x` behind the kept vectors, for a later commit; None if the index keeps no vectors."""
        return self._vectors.write(x, ids, normalize=self._metric.unit_length, n_threads=n_threads)

    @abstractmethod
    def _adding(self, x: Array, ids: Int64, kept: Array | None, n_threads: int) -> Addition:
        """Prepare checked rows with new ids; `kept` are these rows as kept in the index, or None."""

    @writes
    def remove(self, ids: ArrayLike) -> int:
        """Remove the vectors with these ids. Ids that are not in the index are ignored; other ids do not change.

        An E2LSHIndex rewrites all its tables: removing many ids in one call takes about as long as removing one.

        Parameters
        ----------
        ids : int array (n,)

        Returns
        -------
        int
            Number of removed vectors.

        Raises
        ------
        ValueError, TypeError
            If ids are not as described, or the index is mapped from a file. The index is then unchanged.
        """
        removal = self._ids.plan_removal(ids)
        if not len(removal.rows):
            return 0
        commit = self._removing(removal)
        commit_ids, commit_vectors = self._ids.removing(removal), self._vectors.removing(removal)
        with uninterrupted():
            commit_vectors()
            commit()
            commit_ids()
        return len(removal.rows)

    @abstractmethod
    def _removing(self, removal: Removal) -> Commit:
        """Prepare the removal of at least one row; the commit fills the holes with rows from the end."""

    def _queries(self, Q: Any, n_threads: int) -> tuple[Float32, bool]:
        self._require_trained()
        queries, single = _checks.queries(Q, self.dim, n_threads)
        return self._metric.prepare(queries, n_threads), single

    def _nearest(
        self, queries: Float32, k: int, allowed: Bits | None, n_threads: int, **effort: Any
    ) -> tuple[Float32, Int64]:
        """The k <= n nearest neighbours of prepared queries: ascending distances and ids, (nq, k) each."""
        distances, ids = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        queries, power = self._scaled(queries)
        self._scan(queries, power, _native.TopK(distances, ids), allowed, n_threads, **effort)
        return scaling.unscaled(distances, power, self._metric.inner_product), ids

    @property
    def _largest(self) -> float:
        """The largest absolute value of the vectors or codewords that queries are compared with; 1 for unit vectors."""
        return 1.0

    def _scaled(self, queries: Float32) -> tuple[Float32, int]:
        """Prepared queries times 2**power, and power: 0 unless squares or products exceed the range of float32."""
        if self._metric.unit_length:
            return queries, 0
        power = scaling.for_search(self._metric.inner_product, self._largest, queries)
        return (scaling.scaled(queries, power), power) if power else (queries, 0)

    def _search(self, Q: Any, k: int, allowed: Any, n_threads: int | None, find: Nearest | None = None) -> SearchResult:
        """Check the arguments, search with `find` (default: `_nearest`), and pad the result to k."""
        count = threads.resolve(self.n_threads if n_threads is None else n_threads)
        k = _checks.integer("k", k, 1)
        queries, single = self._queries(Q, count)
        bits = self._allowed_bits(allowed)
        nearest = min(k, len(self))
        if len(queries) and nearest:
            found, ids = (find or self._nearest)(queries, nearest, bits, count)
            self._require_finite(found, ids)
        else:
            if not self._ids.next_id:
                _checks.warn(
                    f"{type(self).__name__}: no vectors were added: fit only learns, add(X) stores what a search finds",
                    UserWarning,
                )
            found, ids = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if found.shape[1] < k:
            missing = ((0, 0), (0, k - found.shape[1]))
            found = np.pad(found, missing, constant_values=np.inf)
            ids = np.pad(ids, missing, constant_values=-1)
        self._metric.to_user(found)
        return SearchResult(found[0], ids[0]) if single else SearchResult(found, ids)

    @staticmethod
    def _require_finite(distances: Float32, ids: Int64) -> None:
        """Raise ValueError if a neighbour has an infinite distance. The distances of each query ascend."""
        if len(distances) == 1:
            infinite = math.isinf(distances.item(0)) or math.isinf(distances.item(-1))
        else:  # unlike `any`, count_nonzero imports no module: a search may be the last call of a program
            infinite = bool(np.count_nonzero(np.isinf(distances[:, 0])) + np.count_nonzero(np.isinf(distances[:, -1])))
        if not infinite:
            return
        query, rank = np.nonzero(np.isinf(distances) & (ids >= 0))
        if len(query):
            raise ValueError(
                f"Q: expected distances within float32 (up to 3.4e38), got inf for query {query[0]} and id "
                f"{ids[query[0], rank[0]]}: scale the vectors down, or ask for fewer neighbours"
            )

    @reads
    def range_search(
        self, Q: ArrayLike, radius: float, *, allowed: ArrayLike | None = None, n_threads: int | None = None
    ) -> RangeResult:
        """All vectors within a radius of each query.

        Parameters
        ----------
        Q : array (nq, d) or (d,)
        radius : float
            "l2": largest squared L2 distance. "ip" and "cosine": smallest similarity.
        allowed : array of ids, or boolean mask by id, optional
            Return only these ids.
        n_threads : int, optional

        Returns
        -------
        RangeResult
            ``lims, distances, ids``, nearest first; the lower id wins ties.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained or an argument is not as described.
        """
        return self._range_search(Q, radius, allowed, n_threads)

    def _range_search(self, Q: Any, radius: float, allowed: Any, n_threads: int | None, **effort: Any) -> RangeResult:
        """Check the arguments, and scan for all neighbours within the radius."""
        count = threads.resolve(self.n_threads if n_threads is None else n_threads)
        radius = _checks.real("radius", radius)
        with np.errstate(over="ignore"):
            threshold = np.float32(-radius if self._metric.inner_product else radius)
        queries, _ = self._queries(Q, count)
        bits = self._allowed_bits(allowed)
        lims = np.zeros(len(queries) + 1, np.int64)
        if not len(queries) or not len(self):
            return RangeResult(lims, np.empty(0, np.float32), np.empty(0, np.int64))
        scaled, power = self._scaled(queries)
        answers = _native.Within(len(queries), float(scaling.threshold(threshold, power, self._metric.inner_product)))
        self._scan(scaled, power, answers, bits, count, **effort)
        answers.counts(lims[1:])
        np.cumsum(lims, out=lims)
        distances, ids = np.empty(lims[-1], np.float32), np.empty(lims[-1], np.int64)
        answers.copy(distances, ids)
        if power:
            distances = scaling.unscaled(distances, power, self._metric.inner_product)
            within = distances <= threshold
            lims = np.concatenate([[0], np.cumsum(within)])[lims]
            distances, ids = distances[within], ids[within]
        return RangeResult(lims, -distances if self._metric.inner_product else distances, ids)

    @reads
    def reconstruct(self, ids: ArrayLike) -> Float32:
        """The vectors with these ids, float32 (len(ids), d); of length 1 for "cosine".

        Raises
        ------
        ValueError
            If the index is not trained or an id is not in the index.
        """
        self._require_trained()
        rows = self._ids.rows(ids)
        if not len(rows):
            return np.empty((0, self.dim or 0), dtype=np.float32)
        return self._vectors.data[rows].astype(np.float32)

    @abstractmethod
    def _scan(
        self, queries: Float32, power: int, answers: _native.Answers, allowed: Bits | None, n_threads: int, **_: Any
    ) -> None:
        """Search for prepared queries, scaled by 2**power, in an index of at least one row, and fill `answers`."""

    def _allowed_bits(self, allowed: Any) -> Bits | None:
        """A bit mask of the rows that may be returned; None: all rows."""
        return self._ids.allowed_bits(allowed)
