"""Exact search."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _native, scaling
from fpq._arrays import GrowingArray
from fpq._checks import Array, Float32, Int64, Rows
from fpq.indexes.base import Bits, Index, SearchResult
from fpq.indexes.changes import Addition
from fpq.indexes.parts.ids import Commit, Ids, Removal, no_op
from fpq.indexes.parts.lock import reads, writes
from fpq.indexes.parts.streaming import adds_blocks, in_blocks, searches_blocks
from fpq.indexes.parts.vectors import Vectors
from fpq.metric import MetricName
from fpq.storage import State, Stored, non_negative


class FlatIndex(Index, kind="FlatIndex"):
    """Exact nearest neighbours: a scan of all vectors.

    Vectors keep their dtype (float32, float16, bfloat16, uint8, int8; float64 becomes float32), with 4 bytes per vector
    for the norm. "cosine" scales vectors to length 1: vectors of float16 or bfloat16 are rounded to this type again,
    which changes a similarity by at most 0.0005 or 0.002; other vectors become float32. An index of vectors of several
    dtypes keeps float32. Any number of threads may search at the same time. A call that changes the index runs alone.

    Parameters
    ----------
    metric : {"l2", "ip", "cosine"}, default "l2"
        Squared Euclidean distance, inner product, or cosine similarity.
    n_threads : int or None, default None
        Number of threads. None: all available cores, or OMP_NUM_THREADS.

    Examples
    --------
    >>> import numpy as np, fpq
    >>> index = fpq.FlatIndex().add(np.array([[0.0, 0], [3, 4], [6, 8]]))
    >>> distances, ids = index.search(np.array([3.0, 3]), k=2)
    >>> distances.tolist(), ids.tolist()     # squared distances
    ([1.0, 18.0], [1, 0])
    """

    _state_names: tuple[str, ...] = ("_norms", "_longest")

    _vectors: Vectors
    _norms: GrowingArray
    _longest: float | None  # the cached value of `_largest`

    def __init__(self, metric: MetricName = "l2", *, n_threads: int | None = None) -> None:
        super().__init__(metric, n_threads)
        vars(self).update(self._no_rows())

    def _no_rows(self) -> dict[str, Any]:
        return {"_vectors": Vectors(), "_norms": GrowingArray((), np.float32), "_longest": None}

    @property
    def dim(self) -> int | None:
        """Dimension of the vectors; None until the first `add`."""
        return self._vectors.dim

    @property
    def is_trained(self) -> bool:
        """True: a FlatIndex learns nothing."""
        return True

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays of the index."""
        return self._vectors.nbytes + self._norms.data.nbytes + self._ids.nbytes

    @writes
    def fit(self, X: Rows) -> FlatIndex:
        """Check X and learn nothing. The method exists because all indexes have a `fit`.

        Raises
        ------
        ValueError, TypeError
            If X is an array but not a finite 2-d array of at least one row.
        """
        self._fit(self._fitting, X)
        return self

    def _fitting(self, X: Any) -> Commit:
        if not in_blocks(X):  # blocks are checked by `add`
            _checks.vectors("X", X, min_rows=1)
        return no_op

    def _reserve(self, n: int) -> None:
        self._vectors.reserve(n)
        self._norms.reserve(n)

    @writes
    @adds_blocks
    def add(self, X: Rows, ids: ArrayLike | None = None) -> FlatIndex:
        """Add vectors.

        Parameters
        ----------
        X : array (n, d), memory-mapped or not, Dask array (n, d), or iterable of arrays (n_i, d)
            Input that is not in memory is read in pieces: one Dask chunk, one item of the iterable, or 2**18 rows of a
            memory-mapped array.
        ids : int array (n,), optional
            Unique, not in the index, at least 0. By default, ids continue after the largest id used so far.

        Raises
        ------
        ValueError, TypeError
            If X or ids are not as described. The index is then unchanged.
        """
        self._add(X, ids)
        return self

    def _adding(self, x: Array, ids: Int64, kept: Array | None, leaving: Int64, n_threads: int) -> Addition:
        assert kept is not None
        first, n = len(self), len(self) + len(x)
        self._norms.reserve(n)
        _native.flat_norms(kept, self._norms.data[first:n], n_threads)

        def commit() -> None:
            self._longest = None

        return Addition(commit)

    @reads
    @searches_blocks
    def search(
        self, Q: Rows, k: int = 10, *, allowed: ArrayLike | None = None, n_threads: int | None = None
    ) -> SearchResult:
        """The k nearest vectors of each query, exact; the lower id wins ties.

        Parameters
        ----------
        Q : array (nq, d) or (d,), or in blocks as the rows of `add`
        k : int, default 10
        allowed : array of ids, or boolean mask by id, optional
            Return only these ids.
        n_threads : int, optional

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described.
        """
        return self._search(Q, k, allowed, n_threads)

    def _scan(
        self, queries: Float32, power: int, answers: _native.Answers, allowed: Bits | None, n_threads: int, **_: Any
    ) -> None:
        _native.flat_search(
            self._vectors.data, self._norms.data, queries, self._ids.native, allowed, self._metric.kernel,
            answers, n_threads, 0 if self._metric.inner_product else power,
        )  # fmt: skip

    @property
    def _largest(self) -> float:
        if self._longest is None:
            self._longest = scaling.largest(self._vectors.data, self._norms.data[: len(self)], self.n_threads)
        return self._longest

    def _removing(self, removal: Removal, places: Int64) -> Commit:
        commit_norms = self._norms.moving(removal.sources, removal.targets)

        def commit() -> None:
            commit_norms()
            self._longest = None

        return commit

    def _state(self) -> State:
        state = State({"metric": self.metric, "dim": self.dim}, {})
        if self.dim is not None:
            state.arrays["norms"] = self._norms.data[: len(self)]
        return state.joined(self._ids.state(), self._vectors.state())

    @classmethod
    def _from_state(cls, stored: Stored) -> FlatIndex:
        index = cls(**stored.take("metric"), n_threads=stored.n_threads)
        index._ids = Ids.from_state(stored)
        dim = stored.optional_count("dim", 1)
        if dim is not None:
            index._vectors = Vectors.from_state(stored, len(index), dim)
            norms = stored.array("norms", np.float32, (len(index),), non_negative, bulk=True)
            index._norms = GrowingArray.of(norms)
        return index

    def __repr__(self) -> str:
        return f"FlatIndex(metric={self.metric!r}, n={len(self)}, dim={self.dim}, nbytes={self.nbytes})"
