"""Exact search: the truth that others are measured by."""

from __future__ import annotations

from typing import Any

import numpy as np

from fpq import _checks, _native, threads
from fpq._arrays import GrowingArray
from fpq._checks import Float32, Int64
from fpq.indexes.base import Bits, Index, SearchResult
from fpq.indexes.vectors import Vectors


class FlatIndex(Index):
    """Exact nearest neighbours over all vectors.

    Vectors are kept as they come (float32, float16, uint8, int8; float64 becomes float32; "cosine" keeps float32
    vectors of length 1) with 4 bytes a vector for its length. Any number of threads may search at the same time, but
    not while vectors are added or removed.

    Parameters
    ----------
    metric : {"l2", "ip", "cosine"}, default "l2"
        Squared Euclidean distance, inner product, or cosine similarity.
    n_threads : int or None, default None
        Threads; None is what the environment says.

    Examples
    --------
    >>> import numpy as np, fpq
    >>> index = fpq.FlatIndex().add(np.array([[0.0, 0], [3, 4], [6, 8]]))
    >>> distances, ids = index.search(np.array([3.0, 3]), k=2)
    >>> distances.tolist(), ids.tolist()     # squared distances
    ([1.0, 18.0], [1, 0])
    """

    def __init__(self, metric: str = "l2", *, n_threads: int | None = None) -> None:
        super().__init__(metric, n_threads)
        self._vectors = Vectors()
        self._norms = GrowingArray((), np.float32)

    @property
    def dim(self) -> int | None:
        """Dimension of the vectors; None until the first `add`."""
        return self._vectors.dim

    @property
    def is_trained(self) -> bool:
        """True: there is nothing to learn."""
        return True

    @property
    def nbytes(self) -> int:
        """Bytes that the index holds in arrays."""
        return self._vectors.nbytes + self._norms.data.nbytes + self._ids.nbytes

    def fit(self, X: Any) -> FlatIndex:
        """Do nothing but check X: there is nothing to learn. Here so that indexes can be exchanged for each other."""
        _checks.vectors("X", X, min_rows=1)
        return self

    def add(self, X: Any, ids: Any = None) -> FlatIndex:
        """Add vectors.

        Parameters
        ----------
        X : array (n, d)
        ids : int array (n,), optional
            Unique and not in the index yet, at least 0. Default: on from the largest id ever used.

        Raises
        ------
        ValueError, TypeError
            If X or ids are not as described. The index is then as before.
        """
        n_threads = threads.resolve(self.n_threads)
        x = _checks.vectors("X", X, dim=self.dim, n_threads=n_threads)
        new_ids = self._ids.new(ids, len(x))
        n = len(self) + len(x)
        rows = self._vectors.write(self._prepare(x, n_threads))
        self._norms.reserve(n)
        _native.flat_norms(rows.data[len(self) : n], self._norms.data[len(self) : n], n_threads)
        self._ids.append(new_ids, len(x))
        self._vectors.commit(rows, n)
        return self

    def search(self, Q: Any, k: int = 10, *, allowed: Any = None, n_threads: int | None = None) -> SearchResult:
        """The k nearest vectors of each query, exactly; ties by id.

        Parameters
        ----------
        Q : array (nq, d) or (d,)
        k : int, default 10
        allowed : array of ids, or boolean mask by id, optional
            Only these may be returned.
        n_threads : int, optional

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described.
        """
        return self._search(Q, k, allowed, n_threads)

    def _nearest(self, queries: Float32, k: int, allowed: Bits | None, n_threads: int) -> tuple[Float32, Int64]:
        distances = np.empty((len(queries), k), dtype=np.float32)
        ids = np.empty((len(queries), k), dtype=np.int64)
        _native.flat_search(
            self._vectors.data, self._norms.data, queries, self._ids.native, allowed, self._similarity,
            distances, ids, n_threads,
        )  # fmt: skip
        return distances, ids

    def _distances(self, queries: Float32, first: int, n: int, n_threads: int) -> Float32:
        rows = np.broadcast_to(np.arange(first, first + n, dtype=np.int64), (len(queries), n))
        return self._vectors.distances(queries, rows, self._similarity, n_threads)

    def remove(self, ids: Any) -> int:
        """Remove the vectors with these ids; other ids stay as they are. Ids that are not there are passed over.

        Returns
        -------
        int
            How many were removed.
        """
        removal = self._ids.plan_removal(ids)
        self._vectors.remove(removal)
        self._norms.move(removal.sources, removal.targets)
        self._ids.remove(removal)
        return len(removal.rows)

    def reconstruct(self, ids: Any) -> Float32:
        """The vectors with these ids, float32 (len(ids), d).

        Raises
        ------
        ValueError
            If an id is not in the index.
        """
        rows = self._ids.rows(ids)
        if self.dim is None:
            return np.empty((0, 0), dtype=np.float32)
        return self._vectors.data[rows].astype(np.float32)

    def __repr__(self) -> str:
        return f"FlatIndex(metric={self.metric!r}, n={len(self)}, dim={self.dim}, nbytes={self.nbytes})"
