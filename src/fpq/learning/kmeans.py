"""k-means: initial centroids, and the clustering of one set of vectors (KMeans)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _native, _settings, progress, scaling, threads
from fpq._arrays import ascending
from fpq._checks import Array, Float32, Int32, Int64
from fpq.learning.lloyd import LocalRows, TrainingRows, iterate, train_codebooks
from fpq.progress import Progress
from fpq.storage import FormatError, State, Storable, Stored, as_number, finite

MOST_CLUSTERS = 1 << 24
SEED_ROWS = 16  # rows per centroid that k-means++ reads


def sample_rows(n: int, size: int, rng: np.random.Generator, *, shuffle: bool = False) -> Int64 | None:
    """A random sample of `size` of `n` row numbers, ascending; None if `n` <= `size`: all rows.

    With `shuffle`, NumPy draws other numbers.
    """
    return None if n <= size else ascending(rng.choice(n, size, replace=False, shuffle=shuffle), n)


def even_offsets(d: int, m: int) -> Int32:
    """The first dimension of each of `m` subspaces, and `d`: int32 (m + 1,). The widths differ by at most one."""
    return np.cumsum([0] + [d // m + (j < d % m) for j in range(m)]).astype(np.int32)


def nearest_centroids(centroids: Float32, x: Array, n_threads: int) -> Int32:
    """The nearest centroid of each row in squared L2, int32 (n,); the lower number wins ties."""
    ids = np.empty(len(x), dtype=np.int32)
    _native.assign(centroids[None], even_offsets(x.shape[1], 1), x, None, ids[None], None, n_threads)
    return ids


def spread_centroids(rows: TrainingRows, offsets: Int32, k: int, rng: np.random.Generator, n_threads: int) -> Float32:
    """Initial centroids (m, k, dsub) of all subspaces by k-means++, on a few rows per centroid."""
    x = rows.take(sample_rows(rows.n, max(2 * k, min(SEED_ROWS * k, 1 << 16)), rng))
    centroids = np.zeros((len(offsets) - 1, k, np.diff(offsets).max()), dtype=np.float32)
    draws = rng.random((len(centroids), -(-k // _native.CENTROIDS_PER_ROUND), _native.CANDIDATES_PER_ROUND))
    _native.seed(centroids, offsets, x, None, draws, n_threads)
    return centroids


def random_centroids(rows: TrainingRows, offsets: Int32, k: int, rng: np.random.Generator) -> Float32:
    """Random rows as initial centroids (m, k, dsub) of all subspaces; rows repeat only if there are fewer than k."""
    drawn = rng.choice(rows.n, k, replace=False) if rows.n >= k else np.resize(rng.permutation(rows.n), k)
    x = rows.take(drawn)
    centroids = np.zeros((len(offsets) - 1, k, np.diff(offsets).max()), dtype=np.float32)
    for j, (start, end) in enumerate(itertools.pairwise(offsets)):
        centroids[j, :, : end - start] = x[:, start:end]
    return centroids


def learn_centroids(
    rows: TrainingRows, k: int, *, n_iter: int, rows_per_centroid: int, capacity: float | None, seed: int,
    n_threads: int, advance: progress.Advance = progress.silent,
) -> Float32:  # fmt: skip
    """The centroids (k, d) that `KMeans` would learn from the rows."""
    rng = np.random.default_rng(seed)
    rows, power = scaling.training(rows.sampled(sample_rows(rows.n, k * rows_per_centroid, rng)))
    offsets = even_offsets(rows.dim, 1)
    start = random_centroids(rows, offsets, k, rng)
    done = iterate(
        rows, offsets, start, n_iter=n_iter, rng=rng, capacity=capacity, n_threads=n_threads, advance=advance
    )
    return scaling.scaled(done.centroids[0], -power)


def warn_of_few_rows(n: int, k: int) -> None:
    """Warn if there are fewer training rows than centroids."""
    if n < k:
        _checks.warn(
            f"{n} training rows for {k} centroids: every row becomes a centroid, the other {k - n} repeat rows and are "
            "never chosen; pass more rows or ask for fewer centroids (nbits, n_clusters)",
            RuntimeWarning,
        )


def _init(name: str, value: Any) -> str | Float32:
    """Check the setting `init`: the name of a rule, or centroids (k, d)."""
    if isinstance(value, str):
        rule: str = _checks.choice(name, value, ("random", "k-means++"))
        return rule
    return np.array(_checks.vectors(name, value, min_rows=1), dtype=np.float32, order="C")


class KMeans(Storable, kind="KMeans"):
    """k-means clustering by squared Euclidean distance.

    The same seed gives the same bits for any number of threads. An empty cluster takes the row that is farthest from
    its centroid in the cluster of the largest squared error. Duplicate rows are allowed: with fewer distinct rows than
    clusters, some centroids coincide, and the clusters of those with higher numbers stay empty.

    Parameters
    ----------
    n_clusters : int
        Number of centroids, k.
    n_iter : int, default 25
        Maximum number of Lloyd iterations. Training stops earlier when no row changes its cluster. With at least 8
        iterations and 8,192 rows, the first iterations use random parts of at least 4,096 rows and 24 rows per cluster:
        one half for the first 0.6 of 8 to 15 iterations, growing parts for the first three quarters of 16 or more.
    init : "random", "k-means++" or array (k, d), default "random"
        Initial centroids: k random rows, rows drawn by k-means++ (lower inertia, more time), or this array.
    max_points_per_centroid : int, default 256
        Train on a random sample of at most this many rows per centroid.
    capacity : float or None, default None
        During training, no cluster takes more than ``capacity * n / k`` rows (rounded up); further rows go to their
        next nearest centroid with room. At least 1. `predict` ignores the capacity.
    seed : int, default 0
        Seed of the sample and of the initial centroids.
    n_threads : int or None, default None
        Number of threads. None: all available cores, or OMP_NUM_THREADS.
    verbose : bool or function, default False
        True: show the progress of long calls. A function: call it with a `fpq.progress.Progress`. See `fpq.progress`.

    Attributes
    ----------
    centroids : float32 (k, d)
    inertia : float
        Sum over the training rows of the squared L2 distance to the nearest centroid.
    n_iter_run : int

    Examples
    --------
    >>> import numpy as np, fpq
    >>> X = np.array([[0.0, 0], [0, 1], [9, 9], [9, 8]])
    >>> kmeans = fpq.KMeans(2).fit(X)
    >>> kmeans.inertia
    1.0
    >>> labels = kmeans.predict(X)
    >>> bool(labels[0] == labels[1] and labels[0] != labels[2])
    True
    """

    n_clusters = _settings.Fixed(_settings.at_least(1, MOST_CLUSTERS))
    n_iter = _settings.Setting(_settings.integer(1))
    init = _settings.Setting(_init)
    max_points_per_centroid = _settings.Setting(_settings.integer(1))
    capacity = _settings.Setting(_settings.optional(_settings.real(1.0)))
    seed = _settings.Setting(_settings.seed)

    centroids: Float32
    inertia: float
    n_iter_run: int

    def __init__(
        self,
        n_clusters: int,
        *,
        n_iter: int = 25,
        init: str | Any = "random",
        max_points_per_centroid: int = 256,
        capacity: float | None = None,
        seed: int = 0,
        n_threads: int | None = None,
        verbose: bool | Callable[[Progress], None] = False,
    ) -> None:
        self.n_clusters = n_clusters
        self.n_iter = n_iter
        self.init = init
        self.max_points_per_centroid = max_points_per_centroid
        self.capacity = capacity
        self.seed = seed
        self.n_threads = n_threads
        self.verbose = verbose

    def fit(self, X: ArrayLike) -> KMeans:
        """Learn the centroids.

        Parameters
        ----------
        X : array (n, d)
            At least one row. float32, float64, float16, bfloat16, uint8 and int8 are read in place.

        Raises
        ------
        ValueError, TypeError
            If X is not a finite 2-d array of numbers with at least one row.

        Warns
        -----
        RuntimeWarning
            If there are fewer rows than clusters.
        """
        n_threads = threads.resolve(self.n_threads)
        x = _checks.vectors("X", X, min_rows=1, n_threads=n_threads)
        k = self.n_clusters
        if not isinstance(self.init, str):
            given = _checks.vectors("init", self.init, dim=x.shape[1], min_rows=k)
            if len(given) != k:
                raise ValueError(f"init: expected {k} centroids, got {len(given)}")
        warn_of_few_rows(len(x), k)
        with progress.method(self, "fit"):
            self._learn(x, n_threads)
        return self

    def _learn(self, x: Array, n_threads: int) -> None:
        """Learn the centroids of checked rows, as a part of a reported call or without a report."""
        k, offsets = self.n_clusters, even_offsets(x.shape[1], 1)
        rng = np.random.default_rng(self.seed)
        sample = LocalRows(x, sample_rows(len(x), k * self.max_points_per_centroid, rng), n_threads)
        rows, power = scaling.training(sample)
        about = f"{k:,} centroids from {rows.n:,} rows"
        with progress.stage("centroids", self.n_iter, "iterations", about) as advance:
            if not isinstance(self.init, str):
                start = scaling.scaled(self.init, power)[None]
            elif self.init == "random":
                start = random_centroids(rows, offsets, k, rng)
            else:
                start = spread_centroids(rows, offsets, k, rng, n_threads)
            trained = train_codebooks(
                rows, offsets, start, n_iter=self.n_iter, rng=rng, capacity=self.capacity, n_threads=n_threads,
                advance=advance,
            )  # fmt: skip
        vars(self).update(
            centroids=scaling.scaled(trained.centroids[0], -power),
            inertia=math.ldexp(float(trained.errors.sum(dtype=np.float64)), -2 * power),
            n_iter_run=trained.n_iter_run,
        )

    def _state(self) -> State:
        names = ("n_clusters", "n_iter", "init", "max_points_per_centroid", "capacity", "seed")
        params = {name: getattr(self, name) for name in names}
        arrays: dict[str, Array] = {}
        if not isinstance(self.init, str):
            params["init"] = None
            arrays["init"] = self.init
        params["dim"] = None
        if hasattr(self, "centroids"):
            params |= {"inertia": as_number(self.inertia), "n_iter_run": self.n_iter_run}
            params["dim"] = self.centroids.shape[1]
            arrays["centroids"] = self.centroids
        return State(params, arrays)

    @classmethod
    def _from_state(cls, stored: Stored) -> KMeans:
        params = stored.take("n_clusters", "n_iter", "init", "max_points_per_centroid", "capacity", "seed")
        if params["init"] is None:
            params["init"] = stored.array("init", np.float32, stored.shape("init"))
        elif not isinstance(params["init"], str):
            raise FormatError(f"init: expected a string or null, got {params['init']!r}")
        kmeans = cls(**params, n_threads=stored.n_threads)
        dim = stored.optional_count("dim", 1)
        if dim is not None:
            kmeans.centroids = stored.array("centroids", np.float32, (kmeans.n_clusters, dim), finite)
            kmeans.inertia = stored.number("inertia")
            kmeans.n_iter_run = stored.count("n_iter_run")
        return kmeans

    def predict(self, X: ArrayLike) -> Int32:
        """The number of the nearest centroid of each row, int32 (n,); the lower number wins ties.

        Raises
        ------
        ValueError, TypeError
            If the object is not trained, or X is not a finite 2-d array of the training dimension.
        """
        if not hasattr(self, "centroids"):
            raise ValueError("KMeans is not trained: call fit first")
        n_threads = threads.resolve(self.n_threads)
        x = _checks.vectors("X", X, dim=self.centroids.shape[1], n_threads=n_threads)
        return nearest_centroids(self.centroids, x, n_threads)

    def __repr__(self) -> str:
        state = f"dim={self.centroids.shape[1]}" if hasattr(self, "centroids") else "not trained"
        return f"KMeans(n_clusters={self.n_clusters}, {state})"
