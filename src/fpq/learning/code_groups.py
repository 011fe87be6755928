"""The numbering of centroids that lets kernels bound distances by groups of four codes."""

from __future__ import annotations

import numpy as np

from fpq._checks import Int32
from fpq.learning.kmeans import spread_centroids
from fpq.learning.lloyd import LocalRows, Training, train_codebooks
from fpq.learning.open_indexing import OpenIndexing


def group_centroids(trained: Training, offsets: Int32) -> Training:
    """Number the 256 centroids of each subspace so that the codes of four near centroids differ in bits 4 and 5 only.

    Kernels without 256-entry look-ups bound the distance of a code group by the smallest entry of the four codes: the
    nearer the centroids, the tighter the bound. k-means and OpenIndexing with ``c = 1`` give groups of exactly four.
    """
    m, k, _ = trained.centroids.shape
    points = np.hstack([c[:, : e - s] for c, s, e in zip(trained.centroids, offsets, offsets[1:], strict=False)])
    rng = np.random.default_rng(0)
    rows = LocalRows(points, None, 1)
    start = spread_centroids(rows, offsets, k // 4, rng, 1)
    groups = train_codebooks(rows, offsets, start, n_iter=10, rng=rng, capacity=1.0, n_threads=1)
    policy = OpenIndexing(c=1.0, candidates=k // 4)
    policy.apply(groups.centroids, offsets, points, groups.ids, policy.new_counts(m, k // 4), k, 1)
    centroids, ids = trained.centroids.copy(), trained.ids.copy()
    for j in range(m):
        order = np.argsort(groups.ids[j], kind="stable").reshape(-1, 16, 4).swapaxes(1, 2).ravel()
        centroids[j] = trained.centroids[j, order]
        ids[j] = np.argsort(order)[trained.ids[j]]
    return trained._replace(centroids=centroids, ids=ids)
