"""The base of all indexes: search and range search."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _native, scaling, threads
from fpq._checks import Float32, Int64
from fpq.indexes.changes import Changes
from fpq.indexes.parts.lock import reads

Bits = np.ndarray[Any, np.dtype[np.uint64]]
Nearest = Callable[..., tuple[Float32, Int64]]  # as `Index._nearest`


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


class Index(Changes):
    """Vectors with ids, and the search for nearest neighbours."""

    def _queries(self, Q: Any, n_threads: int) -> tuple[Float32, bool]:
        dim = self.dim
        if dim is None:
            self._require_trained()
        queries, single = _checks.queries(Q, dim, n_threads)
        metric = self._metric
        return metric.prepare(queries, n_threads) if metric.unit_length else queries, single

    def _nearest(
        self, queries: Float32, k: int, allowed: Bits | None, n_threads: int, *, sort: bool = True,
        candidates: int = 0, **effort: Any,
    ) -> tuple[Float32, Int64]:  # fmt: skip
        """The k <= n nearest neighbours of prepared queries: ascending distances and ids, (nq, k) each.

        Without `sort`, neighbours are in any order.
        candidates: rank so many again, by their exact distances to the kept vectors; 0: none.
        """
        distances, ids = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        queries, power = self._scaled(queries)
        answers = self._top_k(distances, ids, queries, power, candidates, sort=sort)
        self._scan(queries, power, answers, allowed, n_threads, **effort)
        return scaling.unscaled(distances, power, self._metric.inner_product) if power else distances, ids

    def _top_k(
        self, distances: Float32, ids: Int64, queries: Float32, power: int, candidates: int, *, sort: bool = True
    ) -> _native.TopK:
        """What a search for queries, scaled by 2**power, is to find; further arguments as for `_nearest`."""
        if not candidates:
            return _native.TopK(distances, ids, sort)
        return _native.TopK(distances, ids, sort, self._ranking(power), queries, candidates)

    def _ranking(self, power: int) -> _native.Ranking:
        """The kept vectors, scaled by 2**power for squared distances, as kernels read them."""
        power, memo = 0 if self._metric.inner_product else power, self._lock.memo
        ranking: _native.Ranking | None = None if power else memo.get("ranking")
        if ranking is None:
            ranking = _native.Ranking(self._vectors.data, self._metric.kernel, power, *self._ids.native_table())
            if not power:
                memo["ranking"] = ranking
        return ranking

    @property
    def _largest(self) -> float:
        """The largest absolute value of the vectors or codewords that queries are compared with; 1 for unit vectors."""
        return 1.0

    def _scaled(self, queries: Float32) -> tuple[Float32, int]:
        """Prepared queries times 2**power, and power: 0 unless squares or products exceed the range of float32."""
        metric = self._metric
        if metric.unit_length or (not metric.inner_product and self._largest >= scaling.LEAST):
            return queries, 0
        power = scaling.for_search(self._metric.inner_product, self._largest, queries)
        return (scaling.scaled(queries, power), power) if power else (queries, 0)

    def _search(self, Q: Any, k: int, allowed: Any, n_threads: int | None, find: Nearest | None = None) -> SearchResult:
        """Check the arguments, search with `find` (default: `_nearest`), and pad the result to k."""
        count = threads.resolve(self.n_threads if n_threads is None else n_threads)
        return self._found(Q, _checks.integer("k", k, 1), allowed, count, find or self._nearest, {})

    def _found(
        self, Q: Any, k: int, allowed: Any, n_threads: int, find: Nearest, effort: dict[str, int | None]
    ) -> SearchResult:
        """As `_search`, with checked k and number of threads, and further arguments of `find`."""
        queries, single = self._queries(Q, n_threads)
        bits = None if allowed is None else self._allowed_bits(allowed)
        nearest = min(k, self._ids.n)
        if len(queries) and nearest:
            found, ids = find(queries, nearest, bits, n_threads, **effort)
            self._require_finite(found, ids, n_threads)
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
    def _require_finite(distances: Float32, ids: Int64, n_threads: int) -> None:
        """Raise ValueError if a neighbour has an infinite distance."""
        if _native.first_nonfinite_row(distances, n_threads) < 0:
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
        lims, distances, ids = self._within(queries, threshold, self._allowed_bits(allowed), count, **effort)
        return RangeResult(lims, self._metric.to_user(distances), ids)

    def _within(
        self, queries: Float32, threshold: np.float32, allowed: Bits | None, n_threads: int, **effort: Any
    ) -> tuple[Int64, Float32, Int64]:
        """All neighbours of prepared queries within a threshold, as in `RangeResult`, with kernel distances."""
        lims = np.zeros(len(queries) + 1, np.int64)
        if not len(queries) or not len(self):
            return lims, np.empty(0, np.float32), np.empty(0, np.int64)
        scaled, power = self._scaled(queries)
        answers = _native.Within(len(queries), float(scaling.threshold(threshold, power, self._metric.inner_product)))
        self._scan(scaled, power, answers, allowed, n_threads, **effort)
        answers.counts(lims[1:])
        np.cumsum(lims, out=lims)
        distances, ids = np.empty(lims[-1], np.float32), np.empty(lims[-1], np.int64)
        answers.copy(distances, ids)
        if power:
            distances = scaling.unscaled(distances, power, self._metric.inner_product)
            within = distances <= threshold
            lims = np.concatenate([[0], np.cumsum(within)])[lims]
            distances, ids = distances[within], ids[within]
        return lims, distances, ids

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
        return self._vectors.rows(rows)

    @abstractmethod
    def _scan(
        self, queries: Float32, power: int, answers: _native.Answers, allowed: Bits | None, n_threads: int, **_: Any
    ) -> None:
        """Search for prepared queries, scaled by 2**power, in an index of at least one row, and fill `answers`."""

    def _allowed_bits(self, allowed: Any) -> Bits | None:
        """A bit mask of the rows that may be returned; None: all rows."""
        return self._ids.allowed_bits(allowed)
