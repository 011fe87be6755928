"""Rotations that lower the error of product quantization: PCA with balanced subspaces, and OPQ."""

from __future__ import annotations

from functools import partial, reduce

import numpy as np

from fpq import _native, progress, threads
from fpq._arrays import pack
from fpq._checks import Array, Float32, Float64, Int32, Int64
from fpq.learning.kmeans import even_offsets, sample_rows, spread_centroids
from fpq.learning.lloyd import LocalRows, TrainingRows, train_codebooks

BLOCK_ROWS = 1024  # rows per product
SUM_BYTES = 1 << 24  # of the sums of products that leave workers of a cluster
OPQ_ROUNDS = 16
OPQ_STEPS = 1
TRIAL_STEPS = 4  # Lloyd iterations
TRIAL_POINTS_PER_CENTROID = 32
OPQ_POINTS_PER_CENTROID = 128  # 256 lower the error by 0.2 % only (SIFT, MNIST)


class Rotation:
    """A linear map of vectors x (d,) to x R (r,), r <= d; R has orthonormal columns.

    Attributes
    ----------
    matrix : float32 (d, r)
        R.
    mean : float32 (d,)
        Mean of the training rows. `inverse` fills dropped dimensions with the mean.
    """

    def __init__(self, matrix: Float32, mean: Float32) -> None:
        self.matrix = np.ascontiguousarray(matrix, dtype=np.float32)
        self.mean = mean
        self._packed = pack(np.ascontiguousarray(self.matrix.T), len(self.matrix))

    def apply(self, x: Array, n_threads: int) -> Float32:
        """Rotate the rows of x: float32 (n, r)."""
        out = np.empty((len(x), self.matrix.shape[1]), dtype=np.float32)
        _native.project(x, self._packed, out, n_threads)
        return out

    def inverse(self, y: Float32, n_threads: int) -> Float32:
        """The vectors (n, d) that `apply` maps to `y` (n, r), nearest to the mean."""
        out = np.empty((len(y), len(self.matrix)), dtype=np.float32)
        centred = y - self.apply(self.mean[None], 1)
        _native.project(centred, pack(self.matrix, self.matrix.shape[1]), out, n_threads)
        return out + self.mean


def pca(rows: TrainingRows, m: int, dim: int) -> Rotation:
    """The first `dim` principal directions, allocated to `m` subspaces of about equal variance.

    Directions are allocated in descending order of variance, each to the subspace with room whose product of variances
    is the smallest: the eigenvalue allocation of Ge et al., Optimized Product Quantization, 2013, section 4.
    """
    d = rows.dim
    mean, scatter = np.zeros(d), np.zeros((d, d))
    for sums in rows.mapped(_block_sums, BLOCK_ROWS):
        for total in sums:
            mean += total
    centre = (mean / rows.n).astype(np.float32)
    chunk_rows = rows_per_sum(rows.n, scatter.nbytes)
    for scatters in rows.mapped(partial(_scatters, centre, chunk_rows), chunk_rows):
        for product in scatters:
            scatter += product
    variances, directions = threads.blas_decompose(np.linalg.eigh, scatter)
    variances, directions = variances[::-1][:dim], directions[:, ::-1][:, :dim]
    order = balanced_order(variances, even_offsets(dim, m))
    return Rotation(directions[:, order].astype(np.float32), centre)


def rows_per_sum(n: int, nbytes: int) -> int:
    """The rows that are summed into one matrix of `nbytes`: whole blocks, for SUM_BYTES of matrices or for two."""
    blocks = -(-n // BLOCK_ROWS)
    return BLOCK_ROWS * -(-blocks // max(2, SUM_BYTES // nbytes))


def _block_sums(rows: LocalRows) -> list[Float64]:
    """The sum of each block of rows."""
    return threads.parallel_map(lambda b: rows.block(b).sum(0, np.float64), rows.blocks(BLOCK_ROWS), rows.n_threads)


def _scatters(centre: Float32, chunk_rows: int, rows: LocalRows) -> Float64:
    """The sums of the outer products of the centred rows of each chunk, (chunks, d, d)."""
    d, blocks = rows.dim, rows.blocks(BLOCK_ROWS)
    workers = min(rows.n_threads, len(blocks))
    centred = np.empty((workers, BLOCK_ROWS, d), np.float32)  # allocated here: allocators keep what a worker frees
    products = np.empty((workers, d, d), np.float32)

    def scatter(work: tuple[int, slice]) -> None:
        worker, block = work
        taken = rows.block(block)
        difference = np.subtract(taken, centre, out=centred[worker, : len(taken)], dtype=np.float32)
        np.matmul(difference.T, difference, out=products[worker])

    totals = np.zeros((-(-rows.n // chunk_rows), d, d))
    for start in range(0, len(blocks), workers):
        batch = blocks[start : start + workers]
        threads.parallel_map(scatter, enumerate(batch), workers)
        for block, product in zip(batch, products, strict=False):
            totals[block.start // chunk_rows] += product
    return totals


def pca_of_wide(x: Array, dim: int, n_threads: int) -> Rotation:
    """The first `dim` principal directions of few wide rows (n, d), in O((n + dim) d) memory.

    The directions come from the eigenvectors of the (n, n) Gram matrix of the centred rows. If the rows span fewer than
    `dim` dimensions, the directions are completed to an orthonormal set.
    """
    n, d = x.shape
    centre = x.mean(0, dtype=np.float64).astype(np.float32)
    columns = [slice(start, min(start + BLOCK_ROWS, d)) for start in range(0, d, BLOCK_ROWS)]

    def centred(block: slice) -> Float64:
        taken: Float64 = x[:, block].astype(np.float64)
        taken -= centre[block]
        return taken

    def product(block: slice) -> Float64:
        part = centred(block)
        gram: Float64 = part @ part.T
        return gram

    total = np.zeros((n, n))
    for start in range(0, len(columns), n_threads):  # at most n_threads products in memory
        for part in threads.parallel_map(product, columns[start : start + n_threads], n_threads):
            total += part
    _, vectors = threads.blas_decompose(np.linalg.eigh, total)
    vectors = vectors[:, ::-1][:, :dim]

    directions = np.zeros((d, dim))
    directions[np.arange(dim), np.arange(dim)] = 1  # overwritten below, except in the columns beyond n
    projected = threads.parallel_map(lambda block: centred(block).T @ vectors, columns, n_threads)
    directions[:, : vectors.shape[1]] = np.concatenate(projected)
    orthonormal, _ = threads.blas_decompose(np.linalg.qr, directions)
    return Rotation(orthonormal.astype(np.float32), centre)


def balanced_order(variances: Array, offsets: Int32) -> Int64:
    """An order of dimensions that balances the products of variances of the subspaces; variances descend."""
    room = np.diff(offsets).copy()
    logs = np.log(np.maximum(variances, variances.max() * 1e-12 + 1e-300))
    logs = logs - logs.min()
    load = np.zeros(len(room))
    allocated: list[list[int]] = [[] for _ in room]
    for dimension, log in enumerate(logs):
        j = int(np.argmin(np.where(room > 0, load, np.inf)))
        allocated[j].append(dimension)
        load[j] += log
        room[j] -= 1
    return np.array([dimension for subspace in allocated for dimension in subspace], dtype=np.int64)


def learned(
    kind: str, rows: TrainingRows, m: int, k: int, dim: int, rng: np.random.Generator, n_threads: int
) -> Rotation:
    """The rotation "pca" or "opq" from rows (n, d) to `dim` dimensions, for `m` codebooks of `k` centroids."""
    about = f"{kind}, {rows.dim:,} to {dim:,} dimensions, from {rows.n:,} rows"
    with progress.stage("rotation", OPQ_ROUNDS if kind == "opq" else 1, "iterations", about) as advance:
        if kind == "pca":
            return pca(rows, m, dim)
        return opq(rows, m, k, dim, rng, n_threads, advance)


def opq(
    rows: TrainingRows, m: int, k: int, dim: int, rng: np.random.Generator, n_threads: int,
    advance: progress.Advance = progress.silent,
) -> Rotation:  # fmt: skip
    """Optimized product quantization: PCA to `dim` dimensions, then the rotation with the smallest quantization error.

    If no dimension is dropped and the identity quantizes better than the PCA, the identity is the initial rotation.
    Codebooks and rotation are improved in turn: one Lloyd iteration from the last codebooks, then the rotation that
    brings the rows nearest to their reconstructions, by a singular value decomposition (Ge et al. 2013, section 3.1).
    """
    start = pca(rows, m, dim)
    offsets = even_offsets(dim, m)
    sample = rows.sampled(sample_rows(rows.n, OPQ_POINTS_PER_CENTROID * k, rng))
    y = sample.changed(start.apply, dim)
    if dim == rows.dim:  # subspaces of neighbouring dimensions, as in SIFT, can have the lower error
        identity = Rotation(np.eye(dim, dtype=np.float32), start.mean)
        unrotated = sample.changed(identity.apply, dim)
        if _error(unrotated, offsets, k, rng, n_threads) < _error(y, offsets, k, rng, n_threads):
            start, y = identity, unrotated
    rotation = np.eye(dim, dtype=np.float32)
    codebooks = spread_centroids(y, offsets, k, rng, n_threads)
    for _ in range(OPQ_ROUNDS):
        rotation, codebooks = _opq_round(y, rotation, codebooks, offsets, rng, n_threads)
        advance(1)
    return Rotation(Rotation(rotation, start.mean).apply(start.matrix, n_threads), start.mean)


def _error(y: TrainingRows, offsets: Int32, k: int, rng: np.random.Generator, n_threads: int) -> float:
    """The squared error of a product quantizer after a short training on a sample."""
    sample = y.sampled(np.arange(0, y.n, max(1, y.n // (TRIAL_POINTS_PER_CENTROID * k))))
    start = spread_centroids(sample, offsets, k, rng, n_threads)
    trained = train_codebooks(sample, offsets, start, n_iter=TRIAL_STEPS, rng=rng, n_threads=n_threads)
    return float(trained.errors.sum(dtype=np.float64))


def _opq_round(
    y: TrainingRows, rotation: Float32, codebooks: Float32, offsets: Int32, rng: np.random.Generator, n_threads: int
) -> tuple[Float32, Float32]:
    rotated = y.changed(Rotation(rotation, np.zeros(len(rotation), np.float32)).apply)
    trained = train_codebooks(rotated, offsets, codebooks, n_iter=OPQ_STEPS, rng=rng, n_threads=n_threads)
    chunk_rows = rows_per_sum(y.n, rotation.nbytes)
    correlations = partial(_correlations, trained.centroids, offsets, chunk_rows)
    total = sum(product for found in y.mapped(correlations, chunk_rows, trained.ids.T) for product in found)
    left, _, right = threads.blas_decompose(np.linalg.svd, np.asarray(total, np.float64))
    return (left @ right).astype(np.float32), trained.centroids


def _correlations(centroids: Float32, offsets: Int32, chunk_rows: int, y: LocalRows, ids: Int32) -> list[Float32]:
    """The sums of the outer products of rows and their reconstructions from codes (n, m), for each chunk."""

    def correlation(block: slice) -> Float32:
        parts = zip(centroids, ids[block].T, np.diff(offsets), strict=True)
        product: Float32 = y.block(block).T @ np.hstack([each[numbers, :width] for each, numbers, width in parts])
        return product

    products = threads.parallel_map(correlation, y.blocks(BLOCK_ROWS), y.n_threads)
    step = chunk_rows // BLOCK_ROWS
    return [reduce(np.add, products[start : start + step]) for start in range(0, len(products), step)]
