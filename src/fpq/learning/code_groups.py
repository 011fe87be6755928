"""The numbering of centroids that lets kernels bound distances by groups of eight and of four codes."""

from __future__ import annotations

import numpy as np

from fpq import _native, threads
from fpq._checks import Int32
from fpq.learning.kmeans import spread_centroids
from fpq.learning.lloyd import LocalRows, Training, train_codebooks
from fpq.learning.open_indexing import OpenIndexing


def group_centroids(trained: Training, offsets: Int32, n_threads: int) -> Training:
    """Number the 256 centroids of each subspace so that near centroids differ in few bits.

    Groups of eight near centroids differ in bits 4 to 6 only, the groups of four in each of them in bits 4 and 5 only.
    Kernels without 256-entry look-ups bound the distance of a code group by the smallest entry of its codes: the
    nearer the centroids, the tighter the bound. k-means and OpenIndexing with ``c = 1`` give groups of exactly eight,
    which are cut in half across their first principal axis. The ids of `trained` change in place.
    """
    m, k, _ = trained.centroids.shape
    points = np.hstack([c[:, : e - s] for c, s, e in zip(trained.centroids, offsets, offsets[1:], strict=False)])
    rng = np.random.default_rng(0)
    rows = LocalRows(points, None, n_threads)
    start = spread_centroids(rows, offsets, k // 8, rng, n_threads)
    groups = train_codebooks(rows, offsets, start, n_iter=10, rng=rng, capacity=1.0, n_threads=n_threads)
    policy = OpenIndexing(c=1.0, candidates=k // 8)
    policy.apply(groups.centroids, offsets, points, groups.ids, policy.new_counts(m, k // 8), k, n_threads)
    centroids, numbers = trained.centroids.copy(), np.empty((m, k), np.int32)

    def number(j: int) -> None:
        eights = np.argsort(groups.ids[j], kind="stable").reshape(-1, 8)
        members = trained.centroids[j, eights].astype(np.float64)
        members -= members.mean(axis=1, keepdims=True)
        axis = np.linalg.svd(members, full_matrices=False)[2][:, :1]
        along = np.argsort((members * axis).sum(axis=2), axis=1, kind="stable")
        # Bit 7 and the lowest four bits number the groups of eight, bit 6 the halves, bits 5 and 4 the members.
        order = np.take_along_axis(eights, along, axis=1).reshape(2, 16, 8).swapaxes(1, 2).ravel()
        centroids[j] = trained.centroids[j, order]
        numbers[j, order] = np.arange(k)

    threads.parallel_map(number, range(m), n_threads)
    _native.renumber(numbers, trained.ids, np.empty((m, k), np.int64), n_threads)
    return trained._replace(centroids=centroids)
