"""The base of the estimators: an index made from their parameters, and its results in the form of scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from fpq import _checks, _inputs
from fpq._bfloat16 import is_bfloat16
from fpq._checks import Array, Float32, Float64, Int64
from fpq._inputs import is_column
from fpq.indexes import FlatIndex, IVFPQIndex, PQIndex
from fpq.metric import COSINE, L2, MetricName

ALGORITHMS = ("auto", "flat", "pq", "ivfpq")
METRICS = {"euclidean": L2, "minkowski": L2, "sqeuclidean": L2, "cosine": COSINE}
ROOTS = ("euclidean", "minkowski")  # metrics whose distances are the roots of the index's
FLAT_ROWS = 10_000  # "auto" searches exactly in at most this many rows
PQ_ROWS = 200_000  # "auto" scans all codes of at most this many rows
# Types that are read without a copy; all others, such as large integers, become float64.
DTYPES = (np.float64, np.float32, np.float16, np.uint8, np.int8)
SAMPLE_ROWS = 4096  # rows from which the centres of features are computed
CHUNK_VALUES = 1 << 20  # values per conversion


def seed_of(random_state: Any) -> int:
    """The seed of the index for scikit-learn's `random_state`."""
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool):
        return int(random_state)
    return int(check_random_state(random_state).randint(1 << 31))


def m_of(m: int | None, width: int) -> int | None:
    """The number of subquantizers for vectors of `width` dimensions; None: `fit` chooses."""
    return None if m is None else min(_checks.integer("m", m, 1), width)


def threads_of(n_jobs: int | None) -> int | None:
    """The number of threads for scikit-learn's `n_jobs`; None means the default of the environment."""
    return None if n_jobs is None else int(effective_n_jobs(n_jobs))


def checked(estimator: Any, X: Any, **options: Any) -> Any:
    """`X` (and `y` in the options), checked as by the estimators of scikit-learn."""
    for name, given in {"X": X, **options}.items():
        _checks.refuse_masked(name, given)
    X = _inputs.in_memory("X", X)
    if is_column(X) or (isinstance(X, np.ndarray) and is_bfloat16(X.dtype)):
        x = _checks.numbers("X", X)
        X = x.astype(np.float32) if is_bfloat16(x.dtype) else x
    return validate_data(estimator, X, dtype=DTYPES, **options)


def centre(X: Array) -> Float64 | None:
    """The offset to subtract from features before their conversion to float32: float64 (d,), or None for no offset.

    Only float64 features have an offset, because other types lose nothing. The offset of a feature is the median of a
    sample, rounded towards 0 to a multiple of a power of two near the spread: features around 0 are not changed, and
    integers remain integers.
    """
    if X.dtype != np.float64:
        return None
    sample = X[:: -(-len(X) // SAMPLE_ROWS)]
    median = np.median(sample, axis=0)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        spread = np.median(np.abs(sample - median), axis=0)
        unit = np.exp2(np.ceil(np.log2(4 * spread)))
        rounded = np.trunc(median / unit) * unit
    # If most rows are equal the spread is 0, and for the smallest numbers the unit underflows.
    offset = np.where(np.isfinite(rounded), rounded, median)
    return offset if offset.any() else None


def centred(X: Array, offset: Float64 | None) -> Array:
    """X minus the offset as float32, converted in chunks; X itself without an offset."""
    if offset is None:
        return X
    out = np.empty(X.shape, dtype=np.float32)
    for rows in chunks(X):
        with np.errstate(over="ignore"):  # the index refuses numbers beyond float32
            out[rows] = X[rows] - offset
    return out


def chunks(X: Array) -> Iterator[slice]:
    """Slices of the rows per conversion."""
    step = max(1, CHUNK_VALUES // X.shape[1])
    return (slice(start, start + step) for start in range(0, len(X), step))


def warn_of_equal_rows(X: Array, x: Array) -> None:
    """Warn if different float64 rows of X are equal after the conversion of `x` to float32."""
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
        _checks.warn(
            f"X: {lost / len(X):.2%} of the rows ({lost}) differ from others in float64 but not in float32, the type "
            "of the index: subtract the common part of the features, or scale the features",
            UserWarning,
        )


def _hashes(x: Array) -> NDArray[np.uint64]:
    """A 64-bit hash of each row."""
    x = np.ascontiguousarray(x + x.dtype.type(0))  # -0.0 equals 0.0
    bits = x.view(np.uint64 if x.itemsize == 8 else np.uint32).astype(np.uint64)
    bits ^= bits >> np.uint64(32)  # round numbers differ in their high bits only, and products carry upwards only
    weights = np.random.default_rng(0).integers(0, 1 << 64, x.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes: NDArray[np.uint64] = bits @ weights
    return hashes


class IndexBase(BaseEstimator):
    """Base of estimators with an index of the training rows. Subclasses define the parameters."""

    metric: str
    n_jobs: int | None

    index_: FlatIndex | PQIndex | IVFPQIndex
    n_samples_fit_: int
    offset_: Float64 | None

    def _index_metric(self) -> MetricName:
        """The metric of the index for the parameter `metric`."""
        return METRICS[_checks.choice("metric", self.metric, tuple(METRICS))].name

    def _fill(self, index: FlatIndex | PQIndex | IVFPQIndex, X: Array) -> None:
        """Train the index on the rows of X, add them, and store the index."""
        offset = centre(X) if not index._metric.inner_product else None  # angles depend on the origin
        x = centred(X, offset)
        self.index_ = index.fit(x).add(x)
        self.offset_ = offset
        self.n_samples_fit_ = len(X)
        warn_of_equal_rows(X, x)

    def _distances(self, found: Float32) -> Float32:
        """Distances by `metric` from the distances or similarities of the index."""
        distances = 1 - found if self.index_._metric.inner_product else found
        np.maximum(distances, 0, out=distances)
        return np.sqrt(distances) if self.metric in ROOTS else distances


class NeighborsBase(IndexBase):
    """Base of estimators that search for a number of neighbours."""

    n_neighbors: int
    algorithm: str
    m: int | None
    nbits: int
    rotation: str | None
    rotation_dim: int | None
    open_indexing: Any
    n_lists: int | None
    n_probe: int | None
    rerank: int | None
    random_state: Any

    def _fit_index(self, X: Array) -> None:
        _checks.integer("n_neighbors", self.n_neighbors, 1)
        if self.rerank is not None:
            _checks.integer("rerank", self.rerank, 1)
        if self.n_probe is not None:
            _checks.integer("n_probe", self.n_probe, 1)
        self._fill(self._new_index(*X.shape), X)

    def _new_index(self, n: int, d: int) -> FlatIndex | PQIndex | IVFPQIndex:
        metric = self._index_metric()
        n_threads = threads_of(self.n_jobs)
        algorithm = _checks.choice("algorithm", self.algorithm, ALGORITHMS)
        if algorithm == "auto":
            algorithm = "flat" if n <= FLAT_ROWS else "pq" if n <= PQ_ROWS else "ivfpq"
        if algorithm == "flat":
            return FlatIndex(metric, n_threads=n_threads)
        width = d if self.rotation_dim is None else self.rotation_dim
        coding = {
            "m": m_of(self.m, width), "nbits": self.nbits, "rotation": self.rotation,
            "rotation_dim": self.rotation_dim, "open_indexing": self.open_indexing, "metric": metric,
            "keep_vectors": self.rerank is not None, "seed": seed_of(self.random_state), "n_threads": n_threads,
        }  # fmt: skip
        if algorithm == "pq":
            return PQIndex(**coding)
        n_lists = None if self.n_lists is None else min(_checks.integer("n_lists", self.n_lists, 1), n)
        return IVFPQIndex(n_lists, **coding)

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[Array, Int64] | Int64:
        """Find the nearest training rows.

        Parameters
        ----------
        X : array (nq, d), optional
            Default: the training rows, each without itself as a neighbour.
        n_neighbors : int, optional
            Default: the parameter of the estimator.
        return_distance : bool, default True

        Returns
        -------
        distances : float32 (nq, n_neighbors)
            Distances by `metric`, ascending; only with `return_distance`.
        rows : int64 (nq, n_neighbors)
            Row numbers of the neighbours in the training rows.

        Raises
        ------
        ValueError
            If `n_neighbors` exceeds the number of training rows.
        """
        check_is_fitted(self)
        k = _checks.integer("n_neighbors", self.n_neighbors if n_neighbors is None else n_neighbors, 1)
        most = self.n_samples_fit_ - (X is None)
        if k > most:
            raise ValueError(f"n_neighbors: expected at most {most}, the number of training rows, got {k}")
        if X is not None:
            distances, rows = self._nearest(centred(checked(self, X, reset=False), self.offset_), k)
        else:
            distances, rows = self._others(k)
        return (distances, rows) if return_distance else rows

    def _others(self, k: int) -> tuple[Float32, Int64]:
        """The k nearest other training rows of each training row."""
        own = np.arange(self.n_samples_fit_)
        distances, rows = self._nearest(self.index_.reconstruct(own), k + 1)
        drop = rows == own[:, None]
        drop[~drop.any(axis=1), -1] = True  # the row itself was not found, because of its code or of equal rows
        return distances[~drop].reshape(-1, k), rows[~drop].reshape(-1, k)

    def _nearest(self, queries: Array, k: int) -> tuple[Float32, Int64]:
        distances, rows = self._search(queries, k)
        return self._distances(distances), rows

    def _search(self, queries: Array, k: int) -> tuple[Float32, Int64]:
        n_threads = threads_of(self.n_jobs)
        index = self.index_
        if isinstance(index, FlatIndex):
            return index.search(queries, k, n_threads=n_threads)
        if isinstance(index, PQIndex):
            return index.search(queries, k, rerank=self.rerank, n_threads=n_threads)
        probes = index.n_probe if self.n_probe is None else self.n_probe
        distances, rows = index.search(queries, k, n_probe=probes, rerank=self.rerank, n_threads=n_threads)
        # The probed lists may hold fewer than k rows, but a graph needs k edges per row: double the probes.
        while len(few := np.flatnonzero(rows[:, -1] < 0)):
            probes *= 2
            distances[few], rows[few] = index.search(
                queries[few], k, n_probe=probes, rerank=self.rerank, n_threads=n_threads
            )
        return distances, rows

    def kneighbors_graph(self, X: Any = None, n_neighbors: int | None = None, mode: str = "connectivity") -> Any:
        """The graph of nearest training rows as a sparse matrix.

        Parameters
        ----------
        X, n_neighbors
            As in `kneighbors`.
        mode : {"connectivity", "distance"}, default "connectivity"
            Entries of 1, or distances by `metric`.

        Returns
        -------
        scipy.sparse.csr_matrix (nq, n), float64
            The entries of a row are ordered by distance.
        """
        _checks.choice("mode", mode, ("connectivity", "distance"))
        distances, rows = self.kneighbors(X, n_neighbors)
        data = np.ones(rows.size) if mode == "connectivity" else distances.ravel().astype(np.float64)
        starts = np.arange(0, rows.size + 1, rows.shape[1])
        return csr_matrix((data, rows.ravel(), starts), shape=(len(rows), self.n_samples_fit_))
