"""Two-level centroids: trained cell by cell, and searched in the nearest coarse cells only."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from fpq import _native, progress, threads
from fpq._arrays import float_rows
from fpq._checks import Array, Float32, Int32, Int64
from fpq.learning.kmeans import KMeans, learn_centroids, nearest_centroids
from fpq.learning.lloyd import LocalRows, TrainingRows

LEAST_LISTS = 8192  # smallest number of lists for two-level training and assignment
ASSIGN_CELLS = 12  # cells that are searched for the nearest centroid of a row
PROBE_CELLS = 24  # smallest number of cells that are searched for the lists of a query
PROBE_FACTOR = 16  # further cells, in multiples of the cells that hold n_probe lists on average
N_ITER = 10
ROWS_PER_CENTROID = 128
CHUNK_ROWS = 1 << 16
CHUNK_VALUES = 1 << 22  # distances of queries to centroids in memory at a time


class TwoLevel:
    """k centroids in about sqrt(k) coarse cells. Equal centroids give equal cells."""

    def __init__(self, centroids: Float32, n_threads: int) -> None:
        self.centroids = centroids
        n = math.isqrt(len(centroids))
        kmeans = KMeans(n, n_iter=N_ITER, capacity=1.5, n_threads=n_threads)
        kmeans._learn(centroids, n_threads)
        # A cell without centroids is of no use.
        used, labels = np.unique(kmeans.predict(centroids), return_inverse=True)
        self.centres = kmeans.centroids[used]
        self._norms = np.empty(len(used), dtype=np.float32)
        _native.flat_norms(self.centres, self._norms, n_threads)
        self._members: Int64 = np.argsort(labels, kind="stable")
        self._sizes: Int64 = np.bincount(labels)
        self._first: Int64 = np.concatenate([[0], np.cumsum(self._sizes)])
        self._table = np.full((len(used), self._sizes.max()), -1, dtype=np.int64)
        for row, first, size in zip(self._table, self._first, self._sizes, strict=False):
            row[:size] = self._members[first : first + size]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, without the centroids."""
        return self.centres.nbytes + self._norms.nbytes + self._table.nbytes + self._members.nbytes + self._first.nbytes

    def _nearest_cells(self, queries: Float32, n: int, n_threads: int) -> Int64:
        """The n nearest cells of each query, int64 (nq, n)."""
        distances = np.empty((len(queries), n), dtype=np.float32)
        cells = np.empty((len(queries), n), dtype=np.int64)
        found = _native.TopK(distances, cells)
        _native.flat_search(self.centres, self._norms, queries, None, None, False, found, n_threads)
        return cells

    def nearest(self, x: Array, n_threads: int) -> Int32:
        """The nearest centroid of each row in the ASSIGN_CELLS nearest cells, int32 (n,)."""
        labels = np.empty(len(x), dtype=np.int32)
        for start in range(0, len(x), CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            rows = float_rows(x[chunk], n_threads)
            cells = self._nearest_cells(rows, min(ASSIGN_CELLS, len(self.centres)), n_threads)
            _native.assign_in_cells(self.centroids, self._first, self._members, rows, cells, labels[chunk], n_threads)
        return labels

    def serves(self, n_probe: int) -> bool:
        """Whether a search for `n_probe` lists skips at least half of the cells."""
        return 2 * self._probed_cells(n_probe) <= len(self.centres)

    def _probed_cells(self, n_probe: int) -> int:
        more = -(-PROBE_FACTOR * n_probe * len(self.centres) // len(self.centroids))
        return min(len(self.centres), PROBE_CELLS + more)

    def probe(self, queries: Float32, n_probe: int, n_threads: int) -> Int64:
        """The `n_probe` nearest centroids in the nearest cells of each query, nearest first: int64 (nq, n_probe)."""
        n = self._probed_cells(n_probe)
        while np.sort(self._sizes)[:n].sum() < n_probe:
            n += 1
        lists = np.empty((len(queries), n_probe), dtype=np.int64)
        step = max(1, CHUNK_VALUES // (n * self._table.shape[1]))
        for start in range(0, len(queries), step):
            batch = slice(start, start + step)
            cells = self._nearest_cells(queries[batch], n, n_threads)
            candidates = self._table[cells].reshape(-1, n * self._table.shape[1])
            distances = np.empty(candidates.shape, dtype=np.float32)
            _native.flat_distances(self.centroids, queries[batch], candidates, False, distances, n_threads)
            first = np.argpartition(distances, n_probe - 1, axis=1)[:, :n_probe]
            candidates = np.take_along_axis(candidates, first, 1)
            order = np.lexsort((candidates, np.take_along_axis(distances, first, 1)), axis=-1)
            lists[batch] = np.take_along_axis(candidates, order, 1)
        return lists


def learn(
    rows: TrainingRows, k: int, *, capacity: float | None, seed: int, n_threads: int,
    advance: progress.Advance = progress.silent,
) -> Float32:  # fmt: skip
    """Learn k <= n centroids: k-means into sqrt(k) cells, then within each cell.

    The number of centroids of a cell is proportional to the number of rows of the cell.
    """
    cells = learn_centroids(
        rows, math.isqrt(k), n_iter=N_ITER, rows_per_centroid=16 * ROWS_PER_CENTROID, capacity=capacity, seed=seed,
        n_threads=n_threads,
    )  # fmt: skip
    in_cells = rows.grouped(partial(nearest_centroids, cells), len(cells))
    learned = []
    for centroids in in_cells.run(partial(_learn_in_cells, capacity, seed), shares(in_cells.sizes, k)):
        learned.append(centroids)
        advance(len(centroids))
    return np.concatenate(learned)


def _learn_in_cells(
    capacity: float | None, seed: int, x: Array, sizes: Int64, n_threads: int, counts: Int64
) -> Float32:
    """The centroids of some cells: `counts` of each, from rows x in the order of the cells."""
    ends, chosen = np.cumsum(sizes), np.flatnonzero(counts)
    each = max(1, n_threads // max(1, len(chosen)))  # threads of a cell

    def learn_one(cell: int) -> Float32:
        rows = LocalRows(x[ends[cell] - sizes[cell] : ends[cell]], None, each)
        return learn_centroids(
            rows, int(counts[cell]), n_iter=N_ITER, rows_per_centroid=ROWS_PER_CENTROID, capacity=capacity, seed=seed,
            n_threads=each,
        )  # fmt: skip

    return np.concatenate(
        [np.empty((0, x.shape[1]), np.float32), *threads.parallel_map(learn_one, chosen.tolist(), n_threads)]
    )


def shares(sizes: Int64, k: int) -> Int64:
    """Split k into parts proportional to `sizes` by largest remainders; lower numbers win ties."""
    n = int(sizes.sum())
    parts = sizes * k // n
    rounded_up = np.argsort(-(sizes * k % n), kind="stable")[: k - int(parts.sum())]
    parts[rounded_up] += 1
    return parts


def refined(rows: TrainingRows, two_level: TwoLevel) -> Float32:
    """The centroids after one Lloyd iteration with two-level assignment."""
    in_lists = rows.grouped(two_level.nearest, len(two_level.centroids))
    return np.concatenate(list(in_lists.run(_moved, two_level.centroids)))


def _moved(x: Array, sizes: Int64, n_threads: int, centroids: Float32) -> Float32:
    """Some centroids, moved to the means of their rows x, which are in the order of the centroids."""
    moved = centroids.copy()
    if len(x):
        first = np.concatenate([[0], np.cumsum(sizes)])
        _native.move_to_means(float_rows(x, n_threads), first, moved, n_threads)
    return moved
