"""Product quantization from the FPQ paper's section II.B alone, in NumPy: what FPQ is measured against.

One thread; k-means (its Algorithm 2 without the threads) of one subspace after the other: k random rows to begin with,
then assignment and mean in turn. Blocks of rows keep the distances in the cache, so this is no straw man.
"""

from __future__ import annotations

import numpy as np

BLOCK_ROWS = 2048
N_ITER = 25  # fpq's, faiss's; the paper goes on until nothing changes, which only takes longer


def nearest(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The nearest centroid of each row."""
    norms = (centroids**2).sum(1)
    blocks = (x[start : start + BLOCK_ROWS] for start in range(0, len(x), BLOCK_ROWS))
    return np.concatenate([(norms - 2 * (block @ centroids.T)).argmin(1) for block in blocks])


def kmeans(x: np.ndarray, k: int, rng: np.random.Generator, n_iter: int = N_ITER) -> np.ndarray:
    """Centroids after `n_iter` iterations, or fewer if no row changes its centroid; empty ones stay where they are."""
    centroids = x[rng.choice(len(x), k, replace=False)]
    before = None
    for _ in range(n_iter):
        ids = nearest(x, centroids)
        if before is not None and np.array_equal(ids, before):
            break
        before, counts = ids, np.bincount(ids, minlength=k)
        used = np.flatnonzero(counts)
        starts = np.cumsum(counts) - counts
        sums = np.add.reduceat(x[np.argsort(ids, kind="stable")], starts[used], axis=0)
        centroids[used] = sums / counts[used, None]
    return centroids


def smallest(distances: np.ndarray, k: int) -> np.ndarray:
    """Ids of the k smallest distances in rising order, ties by id."""
    ids = np.sort(np.argpartition(distances, k - 1)[:k])
    return ids[np.argsort(distances[ids], kind="stable")]


class PlainPQ:
    """Codebooks and codes of the rows `x` (n, d); `search` by asymmetric distances."""

    def __init__(self, x: np.ndarray, m: int, k: int = 256, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.m = m
        self.codebooks, self.codes = [], []
        for part in np.array_split(x, m, axis=1):
            part = np.ascontiguousarray(part)
            codebook = kmeans(part, k, rng)
            self.codebooks.append(codebook)
            self.codes.append(nearest(part, codebook).astype(np.uint8))

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Ids (nq, k) of the nearest codes."""
        return np.array([smallest(self.distances(query), k) for query in queries.astype(np.float32)])

    def distances(self, query: np.ndarray) -> np.ndarray:
        """Asymmetric squared distances of one query to all codes: m look-ups each."""
        total = np.zeros(len(self.codes[0]), np.float32)
        for part, codebook, codes in zip(np.array_split(query, self.m), self.codebooks, self.codes, strict=True):
            total += ((codebook - part) ** 2).sum(1)[codes]
        return total
