"""Many centroids in groups: learned group by group, and searched by looking into the nearest groups only."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from fpq import _native
from fpq._checks import Array, Float32, Int32, Int64
from fpq.learning.kmeans import KMeans, even_offsets

LEAST_LISTS = 8192  # from which on centroids are learned and searched in groups
ASSIGN_GROUPS = 12  # that a row looks into for its nearest centroid
PROBE_GROUPS = 24  # that a query looks into,
PROBE_FACTOR = 16  # and how many times as many more as would hold n_probe lists on average
N_ITER = 10
ROWS_PER_CENTROID = 128
CHUNK_ROWS = 1 << 16
CHUNK_VALUES = 1 << 22  # distances of queries to centroids that are held at a time


class TwoLevel:
    """About sqrt(k) groups of k centroids; the same for the same centroids."""

    def __init__(self, centroids: Float32, n_threads: int) -> None:
        self.centroids = centroids
        n = math.isqrt(len(centroids))
        kmeans = KMeans(n, n_iter=N_ITER, capacity=1.5, n_threads=n_threads).fit(centroids)
        self.centres = kmeans.centroids
        self._norms = np.empty(n, dtype=np.float32)
        _native.flat_norms(self.centres, self._norms, n_threads)
        labels = kmeans.predict(centroids)
        self._members = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=n))[:-1])
        self._table = np.full((n, max(map(len, self._members))), -1, dtype=np.int64)
        for row, members in zip(self._table, self._members, strict=True):
            row[: len(members)] = members

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, but for the centroids."""
        members = sum(array.nbytes for array in self._members)
        return self.centres.nbytes + self._norms.nbytes + self._table.nbytes + members

    def _near(self, queries: Float32, n: int, n_threads: int) -> Int64:
        """The n nearest groups of each query."""
        distances = np.empty((len(queries), n), dtype=np.float32)
        groups = np.empty((len(queries), n), dtype=np.int64)
        found = _native.TopK(distances, groups)
        _native.flat_search(self.centres, self._norms, queries, None, None, False, found, n_threads)
        return groups

    def nearest(self, x: Array, n_threads: int) -> Int32:
        """The nearest of the centroids in the groups nearest to each row, int32 (n,)."""
        labels = np.empty(len(x), dtype=np.int32)
        for start in range(0, len(x), CHUNK_ROWS):
            here = slice(start, start + CHUNK_ROWS)
            labels[here] = self._nearest(x[here], n_threads)
        return labels

    def _nearest(self, x: Array, n_threads: int) -> Int32:
        rows = np.ascontiguousarray(x, dtype=np.float32)
        near = self._near(rows, min(ASSIGN_GROUPS, len(self.centres)), n_threads)
        order = np.argsort(near, axis=None, kind="stable")
        ends = np.cumsum(np.bincount(near.ravel(), minlength=len(self.centres)))
        found = np.full(near.size, -1, np.int64)
        offsets = even_offsets(x.shape[1], 1)
        for members, pairs in zip(self._members, np.split(order, ends[:-1]), strict=True):
            if not len(pairs) or not len(members):
                continue
            ids = np.empty((1, len(pairs)), np.int32)
            centroids = np.ascontiguousarray(self.centroids[members])[None]
            _native.assign(centroids, offsets, x, pairs // near.shape[1], ids, None, n_threads)
            found[pairs] = members[ids[0]]
        candidates = found.reshape(near.shape)
        errors = np.empty(near.shape, np.float32)
        _native.flat_distances(self.centroids, rows, candidates, False, errors, n_threads)
        least = (errors == errors.min(axis=1, keepdims=True)) & (candidates >= 0)
        labels: Int32 = np.where(least, candidates, np.iinfo(np.int32).max).min(axis=1).astype(np.int32)
        return labels

    def serves(self, n_probe: int) -> bool:
        """Whether so few lists are looked for that most groups can be left out."""
        return 2 * self._probed(n_probe) <= len(self.centres)

    def _probed(self, n_probe: int) -> int:
        more = -(-PROBE_FACTOR * n_probe * len(self.centres) // len(self.centroids))
        return min(len(self.centres), PROBE_GROUPS + more)

    def probe(self, queries: Float32, n_probe: int, n_threads: int) -> Int64:
        """The `n_probe` nearest of the centroids in the groups nearest to each query, nearest first, (nq, n_probe)."""
        n = self._probed(n_probe)
        while np.sort([len(members) for members in self._members])[:n].sum() < n_probe:
            n += 1
        lists = np.empty((len(queries), n_probe), dtype=np.int64)
        step = max(1, CHUNK_VALUES // (n * self._table.shape[1]))
        for start in range(0, len(queries), step):
            here = slice(start, start + step)
            candidates = self._table[self._near(queries[here], n, n_threads)].reshape(-1, n * self._table.shape[1])
            distances = np.empty(candidates.shape, dtype=np.float32)
            _native.flat_distances(self.centroids, queries[here], candidates, False, distances, n_threads)
            first = np.argpartition(distances, n_probe - 1, axis=1)[:, :n_probe]
            candidates = np.take_along_axis(candidates, first, 1)
            order = np.lexsort((candidates, np.take_along_axis(distances, first, 1)), axis=-1)
            lists[here] = np.take_along_axis(candidates, order, 1)
        return lists


def learn(x: Array, k: int, *, capacity: float | None, seed: int, n_threads: int) -> Float32:
    """Learn k <= n centroids of the rows of x: k-means into sqrt(k) groups of rows, then within each of them.

    Each group has centroids in proportion to its rows.
    """
    make = partial(KMeans, n_iter=N_ITER, seed=seed, capacity=capacity, n_threads=n_threads)
    top = make(math.isqrt(k), max_points_per_centroid=ROWS_PER_CENTROID * 16).fit(x)
    labels = top.predict(x)
    sizes = np.bincount(labels, minlength=top.n_clusters)
    rows_of = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    centroids = [
        make(int(count), max_points_per_centroid=ROWS_PER_CENTROID).fit(x[rows]).centroids
        for rows, count in zip(rows_of, shares(sizes, k), strict=True)
        if count
    ]
    return np.concatenate(centroids)


def shares(sizes: Int64, k: int) -> Int64:
    """Split k into parts proportional to sizes, by largest remainders, lower numbers first."""
    n = int(sizes.sum())
    parts = sizes * k // n
    left = np.argsort(-(sizes * k % n), kind="stable")[: k - int(parts.sum())]
    parts[left] += 1
    return parts


def refined(x: Array, groups: TwoLevel, n_threads: int) -> Float32:
    """The centroids after one iteration of Lloyd's algorithm with the groups' assignment."""
    centroids = groups.centroids.copy()
    labels = groups.nearest(x, n_threads)
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=len(centroids))
    used = np.flatnonzero(counts)
    begins = (np.cumsum(counts) - counts)[used]
    at = 0
    while at < len(used):
        end = max(at + 1, int(np.searchsorted(begins, begins[at] + CHUNK_ROWS)))
        last = begins[end] if end < len(used) else len(order)
        here = order[begins[at] : last]
        differences = x[here].astype(np.float32) - groups.centroids[labels[here]]
        sums = np.add.reduceat(differences, begins[at:end] - begins[at])
        centroids[used[at:end]] += sums / counts[used[at:end], None]
        at = end
    return centroids
