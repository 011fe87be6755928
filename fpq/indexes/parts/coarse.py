"""The coarse quantizer of an inverted file: which list a vector belongs to, which lists a query looks into."""

from __future__ import annotations

import math

import numpy as np

from fpq import _native
from fpq._checks import Array, Float32, Int32, Int64
from fpq.indexes.parts.two_level import LEAST_LISTS, ROWS_PER_CENTROID, TwoLevel, learn, refined
from fpq.learning.kmeans import even_offsets, learn_centroids
from fpq.learning.lloyd import Change, TrainingRows

N_ITER = 10
REFINEMENTS = 2
AXIS_STEPS = 4
CHUNK_ROWS = 1 << 16  # that are labelled at a time
GROUPED_PROBES = 1 << 15  # lists from which on queries look for theirs in groups: before, batches are faster without


class CoarseQuantizer:
    """Centroids of lists.

    From 8,192 lists on, centroids are learned and rows assigned in two levels, through about sqrt(n_lists) groups of
    centroids; from 32,768 on, queries find their lists so too. On sift500k 0.2 to 0.3 % of the rows then get another
    list than the nearest, and less than 2 % of 16 probed lists are others than the nearest 16 of 65,536. Exact with
    inner products as the metric, and wherever a query looks into many lists.

    Attributes
    ----------
    centroids : float32 (n_lists, d)
    largest : float
        The largest absolute value in the centroids.
    """

    def __init__(self, centroids: Float32, inner_product: bool, n_threads: int) -> None:
        self.centroids = centroids
        self._inner_product = inner_product
        self._small = _native.SmallFlat(centroids, inner_product)
        self.largest = _native.largest(centroids, n_threads)
        self._norms = np.empty(len(centroids), dtype=np.float32)
        _native.flat_norms(centroids, self._norms, n_threads)
        self._groups = TwoLevel(centroids, n_threads) if len(centroids) >= LEAST_LISTS else None

    @classmethod
    def train(
        cls,
        rows: TrainingRows,
        n_lists: int,
        *,
        capacity: float | None,
        inner_product: bool,
        seed: int,
        n_threads: int,
        verbose: bool,
    ) -> CoarseQuantizer:
        """Learn the centroids of `n_lists` <= n lists."""
        if n_lists >= LEAST_LISTS:
            x = rows.here().take(None)
            centroids = learn(x, n_lists, capacity=capacity, seed=seed, n_threads=n_threads)
            coarse = cls(centroids, inner_product, n_threads)
            for _ in range(REFINEMENTS if capacity is None else 0):  # which heeds no capacity
                assert coarse._groups is not None
                coarse = cls(refined(x, coarse._groups, n_threads), inner_product, n_threads)
            return coarse
        centroids = learn_centroids(
            rows, n_lists, n_iter=N_ITER, rows_per_centroid=rows_per_list(n_lists), capacity=capacity,
            seed=seed, n_threads=n_threads, verbose=verbose,
        )  # fmt: skip
        return cls(centroids[by_halves(centroids)], inner_product, n_threads)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        groups = 0 if self._groups is None else self._groups.nbytes
        return self.centroids.nbytes + self._norms.nbytes + self._small.nbytes + groups

    def nearest(self, x: Array, n_threads: int) -> Int32:
        """The list of each row: the nearest centroid in squared L2, ties to the lower number. int32 (n,)."""
        if self._groups is not None:
            return self._groups.nearest(x, n_threads)
        labels = np.empty(len(x), dtype=np.int32)
        _native.assign(self.centroids[None], even_offsets(x.shape[1], 1), x, None, labels[None], None, n_threads)
        return labels

    def nearest_with_room(self, x: Array, counts: Int64, limit: int, n_threads: int) -> Int32:
        """As `nearest`, but a list whose count has reached `limit` gives way to the next nearest; moves `counts` on."""
        labels = self.nearest(x, n_threads)
        _native.open_index(
            self.centroids[None], even_offsets(x.shape[1], 1), x, None, limit, len(self.centroids), False, labels[None],
            counts[None], n_threads,
        )  # fmt: skip
        return labels

    def labels(self, x: Array, prepare: Change, sizes: Int64, limit: int | None, n_threads: int) -> Int32:
        """The list of each row of x, prepared some rows at a time; lists of these sizes take up to `limit` rows."""
        labels, counts = np.empty(len(x), dtype=np.int32), sizes.copy()
        for start in range(0, len(x), CHUNK_ROWS):
            chunk = prepare(x[start : start + CHUNK_ROWS], n_threads)
            if limit is None:
                found = self.nearest(chunk, n_threads)
            else:
                found = self.nearest_with_room(chunk, counts, limit, n_threads)
            labels[start : start + len(found)] = found
        return labels

    def subtracting(self, labels: Int32, prepare: Change) -> Change:
        """What prepares chunks of rows, all with these labels, in turn, and takes their centroids from them."""
        row = 0

        def subtract(chunk: Array, n_threads: int) -> Float32:
            nonlocal row
            here = labels[row : row + len(chunk)]
            row += len(chunk)
            return np.subtract(prepare(chunk, n_threads), self.centroids[here], dtype=np.float32)

        return subtract

    def probe(self, queries: Float32, n_probe: int, n_threads: int, power: int = 0) -> Int64:
        """The `n_probe` nearest lists of each query, scaled by 2**power, nearest first: int64 (nq, n_probe)."""
        power = 0 if self._inner_product else power
        if not power and self._groups is not None and len(self.centroids) >= GROUPED_PROBES and not self._inner_product:
            if self._groups.serves(n_probe):
                return self._groups.probe(queries, n_probe, n_threads)
        distances = np.empty((len(queries), n_probe), dtype=np.float32)
        lists = np.empty((len(queries), n_probe), dtype=np.int64)
        found = _native.TopK(distances, lists)
        if not power and self._small.applies(n_probe):
            self._small.search(queries, found, n_threads)
        else:
            _native.flat_search(
                self.centroids, self._norms, queries, None, None, self._inner_product, found, n_threads, power
            )
        return lists


def rows_per_list(n_lists: int) -> int:
    """On how many rows a list the centroids of so many lists are learned at most."""
    return 2 * ROWS_PER_CENTROID if n_lists < LEAST_LISTS else ROWS_PER_CENTROID


def residuals(coarse: CoarseQuantizer, x: Array, n_threads: int) -> Float32:
    """Differences of rows to the centroids of their lists."""
    return np.subtract(x, coarse.centroids[coarse.nearest(x, n_threads)], dtype=np.float32)


def list_limit(capacity: float, n: int, n_lists: int) -> int:
    """Most rows of a list among `n`: ceil(capacity * n / n_lists), n at most."""
    return math.ceil(min(capacity, n_lists) * n / n_lists)


def by_halves(points: Float32) -> Int64:
    """An order of points in which most neighbours are near: cut in half along their longest axis, and each half again.

    Queries searched one after the other, in the order of their nearest lists, then look into the same lists.
    """

    def ordered(ids: Int64) -> Int64:
        if len(ids) <= 2:
            return ids
        x = points[ids] - points[ids].mean(axis=0, dtype=np.float64).astype(np.float32)
        x /= max(float(np.abs(x).max()), np.finfo(np.float32).tiny)  # powers of large and small numbers leave float32
        axis = x[np.einsum("ij,ij->i", x, x).argmax()]
        for _ in range(AXIS_STEPS):  # of the power method; einsum adds in the same order whatever the number of threads
            axis = np.einsum("ij,i->j", x, np.einsum("ij,j->i", x, axis))
            axis /= max(float(np.abs(axis).max()), np.finfo(np.float32).tiny)
        ids = ids[np.einsum("ij,j->i", x, axis).argsort(kind="stable")]
        half = len(ids) // 2
        return np.concatenate([ordered(ids[:half]), ordered(ids[half:])])

    return ordered(np.arange(len(points)))
