"""What the estimators of neighbours share: an index made from the parameters, and its answers as scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
from joblib import effective_n_jobs
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from fpq import _checks
from fpq._checks import Array, Float32, Int64
from fpq.indexes import FlatIndex, IVFPQIndex, PQIndex

ALGORITHMS = ("auto", "flat", "pq", "ivfpq")
METRICS = {"euclidean": "l2", "sqeuclidean": "l2", "cosine": "cosine"}
FLAT_ROWS = 10_000  # up to here "auto" searches exactly
PQ_ROWS = 200_000  # up to here "auto" scans all codes
# What is read without a copy; all else becomes the first.
DTYPES = (np.float32, np.float64, np.float16, np.uint8, np.int8)


def seed_of(random_state: Any) -> int:
    """The seed that scikit-learn's `random_state` stands for."""
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool):
        return int(random_state)
    return int(check_random_state(random_state).randint(1 << 31))


def threads_of(n_jobs: int | None) -> int | None:
    """The threads that scikit-learn's `n_jobs` stands for; None is what the environment says."""
    return None if n_jobs is None else int(effective_n_jobs(n_jobs))


def checked(estimator: Any, X: Any, **options: Any) -> Any:
    """`X` (and `y` of the options) checked as scikit-learn's estimators do."""
    return validate_data(estimator, X, dtype=DTYPES, **options)


class NeighborsBase(BaseEstimator):
    """An index over the training rows. Subclasses have the parameters."""

    n_neighbors: int
    algorithm: str
    metric: str
    m: int
    nbits: int
    rotation: str | None
    rotation_dim: int | None
    open_indexing: Any
    n_lists: int | None
    n_probe: int | None
    rerank: int | None
    random_state: Any
    n_jobs: int | None

    index_: FlatIndex | PQIndex | IVFPQIndex
    n_samples_fit_: int

    def _fit_index(self, X: Array) -> None:
        _checks.integer("n_neighbors", self.n_neighbors, 1)
        if self.rerank is not None:
            _checks.integer("rerank", self.rerank, 1)
        if self.n_probe is not None:
            _checks.integer("n_probe", self.n_probe, 1)
        self.index_ = self._new_index(*X.shape).fit(X).add(X)
        self.n_samples_fit_ = len(X)

    def _new_index(self, n: int, d: int) -> FlatIndex | PQIndex | IVFPQIndex:
        metric = METRICS[_checks.choice("metric", self.metric, tuple(METRICS))]
        n_threads = threads_of(self.n_jobs)
        algorithm = _checks.choice("algorithm", self.algorithm, ALGORITHMS)
        if algorithm == "auto":
            algorithm = "flat" if n <= FLAT_ROWS else "pq" if n <= PQ_ROWS else "ivfpq"
        if algorithm == "flat":
            return FlatIndex(metric, n_threads=n_threads)
        width = d if self.rotation_dim is None else self.rotation_dim
        coding = {
            "m": min(_checks.integer("m", self.m, 1), width), "nbits": self.nbits, "rotation": self.rotation,
            "rotation_dim": self.rotation_dim, "open_indexing": self.open_indexing, "metric": metric,
            "keep_vectors": self.rerank is not None, "seed": seed_of(self.random_state), "n_threads": n_threads,
        }  # fmt: skip
        if algorithm == "pq":
            return PQIndex(**coding)
        n_lists = int(4 * np.sqrt(n)) if self.n_lists is None else _checks.integer("n_lists", self.n_lists, 1)
        return IVFPQIndex(min(n_lists, n), **coding)

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[Array, Int64] | Int64:
        """Find the nearest training rows.

        Parameters
        ----------
        X : array (nq, d), optional
            Default: the training rows, none of which is then its own neighbour.
        n_neighbors : int, optional
            Default: the parameter.
        return_distance : bool, default True

        Returns
        -------
        distances : float32 (nq, n_neighbors)
            By `metric`, ascending; left out unless `return_distance`.
        rows : int64 (nq, n_neighbors)
            Numbers of training rows.

        Raises
        ------
        ValueError
            If there are fewer training rows than neighbours asked for.
        """
        check_is_fitted(self)
        k = _checks.integer("n_neighbors", self.n_neighbors if n_neighbors is None else n_neighbors, 1)
        most = self.n_samples_fit_ - (X is None)
        if k > most:
            raise ValueError(f"Expected n_neighbors <= {most}, the training rows to choose from, got {k}")
        if X is not None:
            distances, rows = self._nearest(checked(self, X, reset=False), k)
        else:
            distances, rows = self._others(k)
        return (distances, rows) if return_distance else rows

    def _others(self, k: int) -> tuple[Float32, Int64]:
        """The k nearest other rows of each training row."""
        own = np.arange(self.n_samples_fit_)
        distances, rows = self._nearest(self.index_.reconstruct(own), k + 1)
        drop = rows == own[:, None]
        drop[~drop.any(axis=1), -1] = True  # not found itself, because of its code or among equal rows
        return distances[~drop].reshape(-1, k), rows[~drop].reshape(-1, k)

    def _nearest(self, queries: Array, k: int) -> tuple[Float32, Int64]:
        distances, rows = self._search(queries, k)
        if METRICS[self.metric] == "cosine":
            distances = 1 - distances
        np.maximum(distances, 0, out=distances)
        return (np.sqrt(distances) if self.metric == "euclidean" else distances), rows

    def _search(self, queries: Array, k: int) -> tuple[Float32, Int64]:
        n_threads = threads_of(self.n_jobs)
        index = self.index_
        if isinstance(index, FlatIndex):
            return index.search(queries, k, n_threads=n_threads)
        if isinstance(index, PQIndex):
            return index.search(queries, k, rerank=self.rerank, n_threads=n_threads)
        probes = index.n_probe if self.n_probe is None else self.n_probe
        distances, rows = index.search(queries, k, n_probe=probes, rerank=self.rerank, n_threads=n_threads)
        # The probed lists may hold fewer than k rows: look into twice as many then, as a graph must have k edges a row.
        while len(few := np.flatnonzero(rows[:, -1] < 0)):
            probes *= 2
            distances[few], rows[few] = index.search(
                queries[few], k, n_probe=probes, rerank=self.rerank, n_threads=n_threads
            )
        return distances, rows

    def kneighbors_graph(self, X: Any = None, n_neighbors: int | None = None, mode: str = "connectivity") -> Any:
        """Find the nearest training rows as a sparse matrix.

        Parameters
        ----------
        X, n_neighbors
            As in `kneighbors`.
        mode : {"connectivity", "distance"}, default "connectivity"
            What the entries are: ones, or distances by `metric`.

        Returns
        -------
        scipy.sparse.csr_matrix (nq, n), float64
            Entries of a row in the order of distance.
        """
        _checks.choice("mode", mode, ("connectivity", "distance"))
        distances, rows = self.kneighbors(X, n_neighbors)
        data = np.ones(rows.size) if mode == "connectivity" else distances.ravel().astype(np.float64)
        starts = np.arange(0, rows.size + 1, rows.shape[1])
        return csr_matrix((data, rows.ravel(), starts), shape=(len(rows), self.n_samples_fit_))
