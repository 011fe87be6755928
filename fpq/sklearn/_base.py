"""What the estimators of neighbours share: an index made from the parameters, and its answers as scikit-learn's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from fpq import _checks
from fpq._checks import Array, Float32, Float64, Int64
from fpq.indexes import FlatIndex, IVFPQIndex, PQIndex
from fpq.metric import COSINE, L2

ALGORITHMS = ("auto", "flat", "pq", "ivfpq")
METRICS = {"euclidean": L2, "sqeuclidean": L2, "cosine": COSINE}
FLAT_ROWS = 10_000  # up to here "auto" searches exactly
PQ_ROWS = 200_000  # up to here "auto" scans all codes
# What is read without a copy; all else, such as large integers, becomes the first.
DTYPES = (np.float64, np.float32, np.float16, np.uint8, np.int8)
SAMPLE_ROWS = 4096  # that the centre of a feature is taken from
CHUNK_VALUES = 1 << 20  # features that are converted at a time


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
    for name, given in {"X": X, **options}.items():
        _checks.refuse_masked(name, given)
    return validate_data(estimator, X, dtype=DTYPES, **options)


def centre(X: Array) -> Float64 | None:
    """What to subtract from the features before they become float32: float64 (d,), or None for nothing.

    Of float64 features alone, as others lose nothing. A centre is the median of a sample, rounded to a multiple of a
    power of two that is about the spread: features around 0 stay as they are, and whole numbers stay whole.
    """
    if X.dtype != np.float64:
        return None
    sample = X[:: -(-len(X) // SAMPLE_ROWS)]
    median = np.median(sample, axis=0)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        spread = np.median(np.abs(sample - median), axis=0)
        unit = np.exp2(np.ceil(np.log2(4 * spread)))
        rounded = np.trunc(median / unit) * unit
    # Where most rows are equal there is no spread, and the smallest numbers have no such unit.
    offset = np.where(np.isfinite(rounded), rounded, median)
    return offset if offset.any() else None


def centred(X: Array, offset: Float64 | None) -> Array:
    """X less the offset as float32, a part at a time; X itself if there is no offset."""
    if offset is None:
        return X
    out = np.empty(X.shape, dtype=np.float32)
    for rows in chunks(X):
        with np.errstate(over="ignore"):  # what is too large for float32 is refused by the index
            out[rows] = X[rows] - offset
    return out


def chunks(X: Array) -> Iterator[slice]:
    """Slices of rows that are converted at a time."""
    step = max(1, CHUNK_VALUES // X.shape[1])
    return (slice(start, start + step) for start in range(0, len(X), step))


def warn_of_equal_rows(X: Array, x: Array) -> None:
    """Warn if different rows of X, float64, are equal as float32 rows, to which `x` leads."""
    if X.dtype != np.float64:
        return
    narrow = np.concatenate([_hashes(x[rows].astype(np.float32)) for rows in chunks(x)])
    _, group, sizes = np.unique(narrow, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(sizes[group] > 1)
    if not len(shared):
        return
    step = max(1, CHUNK_VALUES // X.shape[1])
    wide = np.concatenate([_hashes(X[shared[i : i + step]]) for i in range(0, len(shared), step)])
    pairs = np.unique(np.column_stack([group[shared], wide.view(np.int64)]), axis=0)
    merged, variants = np.unique(pairs[:, 0], return_counts=True)
    lost = int(sizes[merged[variants > 1]].sum())
    if lost:
        warnings.warn(
            f"X: {lost / len(X):.2%} of the rows ({lost}) differ from others in float64 but not in float32, which the "
            "index holds: subtract what features have in common, or scale them",
            UserWarning,
            stacklevel=4,
        )


def _hashes(x: Array) -> NDArray[np.uint64]:
    """A 64-bit hash of the numbers of each row."""
    x = np.ascontiguousarray(x + x.dtype.type(0))  # -0.0 equals 0.0
    bits = x.view(np.uint64 if x.itemsize == 8 else np.uint32).astype(np.uint64)
    bits ^= bits >> np.uint64(32)  # round numbers differ in high bits only, and products carry to higher bits only
    weights = np.random.default_rng(0).integers(0, 1 << 64, x.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes: NDArray[np.uint64] = bits @ weights
    return hashes


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
    offset_: Float64 | None

    def _fit_index(self, X: Array) -> None:
        _checks.integer("n_neighbors", self.n_neighbors, 1)
        if self.rerank is not None:
            _checks.integer("rerank", self.rerank, 1)
        if self.n_probe is not None:
            _checks.integer("n_probe", self.n_probe, 1)
        index = self._new_index(*X.shape)
        offset = centre(X) if not index._metric.inner_product else None  # angles depend on where 0 is
        x = centred(X, offset)
        self.index_ = index.fit(x).add(x)
        self.offset_ = offset
        self.n_samples_fit_ = len(X)
        warn_of_equal_rows(X, x)

    def _new_index(self, n: int, d: int) -> FlatIndex | PQIndex | IVFPQIndex:
        metric = METRICS[_checks.choice("metric", self.metric, tuple(METRICS))].name
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
            distances, rows = self._nearest(centred(checked(self, X, reset=False), self.offset_), k)
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
        if self.index_._metric.inner_product:
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
