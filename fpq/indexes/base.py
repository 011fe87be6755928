"""What all indexes share: the queries' way in, the answers' way out, ids."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from fpq import _checks, _native, _settings, scaling, threads
from fpq._checks import Array, Float32, Int64
from fpq.indexes.ids import Ids
from fpq.indexes.lock import Lock, reads
from fpq.storage import Storable

Bits = np.ndarray[Any, np.dtype[np.uint64]]
Nearest = Callable[[Float32, int, "Bits | None", int], tuple[Float32, Int64]]


class SearchResult(NamedTuple):
    """The k nearest of each query; a pair ``distances, ids = index.search(...)``.

    Attributes
    ----------
    distances : float32 (nq, k)
        Squared L2 distances ascending for "l2", similarities descending for "ip" and "cosine". Missing: +inf, -inf.
    ids : int64 (nq, k)
        Missing: -1. Both are (k,) for a 1-d query.
    """

    distances: Float32
    ids: Int64


class RangeResult(NamedTuple):
    """All within a radius; query i has ``distances[lims[i]:lims[i + 1]]`` and the ids there, nearest first.

    Attributes
    ----------
    lims : int64 (nq + 1,)
    distances : float32 (lims[-1],)
    ids : int64 (lims[-1],)
    """

    lims: Int64
    distances: Float32
    ids: Int64


class Index(Storable, ABC):
    """Vectors under ids, searched for the nearest.

    Public methods that read an index are marked with `reads`, those that change it with `writes`.
    """

    metric = _settings.Fixed(_settings.choice(*_checks.METRICS))

    def __init__(self, metric: str, n_threads: int | None, verbose: bool = False) -> None:
        self.metric = metric
        self.n_threads = n_threads
        self.verbose = verbose
        self._ids = Ids()
        self._lock = Lock()

    @property
    @abstractmethod
    def dim(self) -> int | None:
        """Dimension of the vectors; None as long as it is not known."""

    @property
    @abstractmethod
    def is_trained(self) -> bool:
        """Whether vectors can be added."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that the index holds in arrays."""

    @property
    @reads
    def ids(self) -> Int64:
        """The ids in the index, int64 (n,), in no order to rely on."""
        return self._ids.values.copy()

    def __len__(self) -> int:
        return self._ids.n

    def _reading(self) -> AbstractContextManager[Any]:
        return self._lock.reading()

    def _require_writable(self) -> None:
        if self._file is not None:
            raise ValueError("the index is mapped from a file and cannot be changed: load it with mmap=False")

    def _reserve(self, n: int) -> None:
        """Make room for `n` rows in all, which are going to come."""

    def _restoring(self) -> Callable[[], None]:
        """What makes the index as it is now again, whatever rows have been added meanwhile, and cannot fail."""
        names = [name for name in ("_vectors", "_counts", "_radius") if hasattr(self, name)]
        before = {name: getattr(self, name) for name in names}
        before["_vectors"] = copy.copy(before["_vectors"])  # counts and radii are replaced as a whole
        before["_ids"] = self._ids.snapshot()
        return lambda: vars(self).update(before)

    @property
    def _limited(self) -> bool:
        """Whether codes depend on how many rows are added at a time."""
        return False

    def _require_trained(self) -> None:
        if not self.is_trained:
            raise ValueError(f"{type(self).__name__} is not trained: call fit first")

    @property
    def _similarity(self) -> bool:
        return self.metric != "l2"

    def _prepare(self, x: Array, n_threads: int) -> Array:
        """Rows as the metric wants them: of length 1 for "cosine"."""
        return normalized(x, n_threads) if self.metric == "cosine" else x

    def _queries(self, Q: Any, n_threads: int) -> tuple[Float32, bool]:
        self._require_trained()
        queries, single = _checks.queries(Q, self.dim, n_threads)
        return self._prepare(queries, n_threads), single

    def _nearest(
        self, queries: Float32, k: int, allowed: Bits | None, n_threads: int, **effort: Any
    ) -> tuple[Float32, Int64]:
        """The k <= n nearest of prepared queries: (nq, k) distances, ascending, and ids."""
        distances, ids = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        queries, power = self._scaled(queries)
        self._scan(queries, power, _native.TopK(distances, ids), allowed, n_threads, **effort)
        return scaling.unscaled(distances, power, self._similarity), ids

    @property
    def _largest(self) -> float:
        """The largest absolute value of what queries are compared with; 1 where it does not matter."""
        return 1.0

    def _scaled(self, queries: Float32) -> tuple[Float32, int]:
        """Prepared queries times a power of two, and the power: 0 unless squares or products would leave float32."""
        if self.metric == "cosine":
            return queries, 0
        power = scaling.for_search(self._similarity, self._largest, queries)
        return (scaling.scaled(queries, power), power) if power else (queries, 0)

    def _search(self, Q: Any, k: int, allowed: Any, n_threads: int | None, find: Nearest | None = None) -> SearchResult:
        """Check, search by `find` (default: `_nearest`), and pad to k."""
        count = threads.resolve(self.n_threads if n_threads is None else n_threads)
        k = _checks.integer("k", k, 1)
        queries, single = self._queries(Q, count)
        bits = self._allowed_bits(allowed)
        nearest = min(k, len(self))
        if len(queries) and nearest:
            found, ids = (find or self._nearest)(queries, nearest, bits, count)
            self._require_finite(found, ids)
        else:
            found, ids = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if found.shape[1] < k:
            missing = ((0, 0), (0, k - found.shape[1]))
            found = np.pad(found, missing, constant_values=np.inf)
            ids = np.pad(ids, missing, constant_values=-1)
        if self._similarity:
            np.negative(found, out=found)
        return SearchResult(found[0], ids[0]) if single else SearchResult(found, ids)

    @staticmethod
    def _require_finite(distances: Float32, ids: Int64) -> None:
        """See that no distance found is beyond float32; distances of each query ascend."""
        if len(distances) == 1:
            beyond = math.isinf(distances.item(0)) or math.isinf(distances.item(-1))
        else:  # count_nonzero imports nothing, as `any` may: a search may be the last call of a program
            beyond = bool(np.count_nonzero(np.isinf(distances[:, 0])) + np.count_nonzero(np.isinf(distances[:, -1])))
        if not beyond:
            return
        query, at = np.nonzero(np.isinf(distances) & (ids >= 0))
        if len(query):
            raise ValueError(
                f"Q: expected distances within float32 (up to 3.4e38), that of query {query[0]} and id "
                f"{ids[query[0], at[0]]} is beyond: scale the vectors down, or ask for fewer neighbours"
            )

    @reads
    def range_search(self, Q: Any, radius: float, *, allowed: Any = None, n_threads: int | None = None) -> RangeResult:
        """All vectors within a radius of each query.

        Parameters
        ----------
        Q : array (nq, d) or (d,)
        radius : float
            Squared L2 distances up to and including it; for "ip" and "cosine" similarities from it on.
        allowed : array of ids, or boolean mask by id, optional
            Only these may be returned.
        n_threads : int, optional

        Returns
        -------
        RangeResult
            ``lims, distances, ids``, nearest first, ties by id.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained or an argument is not as described.
        """
        return self._range_search(Q, radius, allowed, n_threads)

    def _range_search(
        self, Q: Any, radius: float, allowed: Any, n_threads: int | None, **effort: Any
    ) -> RangeResult:
        """Check, and scan for all within the radius."""
        count = threads.resolve(self.n_threads if n_threads is None else n_threads)
        radius = _checks.real("radius", radius)
        with np.errstate(over="ignore"):
            threshold = np.float32(-radius if self._similarity else radius)
        queries, _ = self._queries(Q, count)
        bits = self._allowed_bits(allowed)
        lims = np.zeros(len(queries) + 1, np.int64)
        if not len(queries) or not len(self):
            return RangeResult(lims, np.empty(0, np.float32), np.empty(0, np.int64))
        scaled, power = self._scaled(queries)
        answers = _native.Within(len(queries), scaling.threshold(threshold, power, self._similarity))
        self._scan(scaled, power, answers, bits, count, **effort)
        answers.counts(lims[1:])
        np.cumsum(lims, out=lims)
        distances, ids = np.empty(lims[-1], np.float32), np.empty(lims[-1], np.int64)
        answers.copy(distances, ids)
        if power:
            distances = scaling.unscaled(distances, power, self._similarity)
            within = distances <= threshold
            lims = np.concatenate([[0], np.cumsum(within)])[lims]
            distances, ids = distances[within], ids[within]
        return RangeResult(lims, -distances if self._similarity else distances, ids)

    @abstractmethod
    def _scan(
        self, queries: Float32, power: int, answers: _native.Answers, allowed: Bits | None, n_threads: int, **effort: Any
    ) -> None:
        """Search for prepared queries, scaled by 2**power, in an index of at least one vector."""

    def _allowed_bits(self, allowed: Any) -> Bits | None:
        """The bits of the rows that may be returned; None for all."""
        return self._ids.allowed_bits(allowed)


def bits_to_mask(bits: Bits) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A boolean for each bit, the lowest first."""
    return np.unpackbits(bits.astype("<u8", copy=False).view(np.uint8), bitorder="little").view(np.bool_)


def normalized(x: Array, n_threads: int) -> Float32:
    """Rows scaled to length 1."""
    out = np.empty(x.shape, dtype=np.float32)
    _native.normalize(x, out, n_threads)
    return out
