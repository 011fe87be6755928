"""A rotation per inverted list: locally optimized product quantization (LOPQ)."""

from __future__ import annotations

from functools import partial, reduce

import numpy as np

from fpq import _native, progress, threads
from fpq._arrays import aligned_empty, pack, unpack
from fpq._checks import Array, Float32, Float64, Int32, Int64
from fpq.learning.grouped_rows import GroupedRows
from fpq.learning.kmeans import even_offsets
from fpq.learning.rotation import balanced_order
from fpq.storage import FormatError, State, Stored, finite

PRIOR_ROWS = 64  # the covariance of all residuals counts as so many rows of each list
LISTS_PER_SUM = 64  # lists whose outer products are added before they are added to those of all lists


class LocalRotations:
    """The rotations of the residuals of each list (Kalantidis, Avrithis, CVPR 2014).

    A rotation takes a residual to the first principal directions of its list, allocated to subspaces of about equal
    variance (Ge et al. 2013, section 4). The covariance of all residuals is added to that of a list with the weight of
    `PRIOR_ROWS` rows, so that lists of few rows have nearly the same rotation.

    Attributes
    ----------
    packed : float32 (n_lists, packed size)
        The matrices R (d, width) of x R, packed.
    width : int
    """

    def __init__(self, packed: Float32, dim: int, width: int) -> None:
        self.packed = packed
        self.width = width
        self._dim = dim

    @classmethod
    def learned(cls, in_lists: GroupedRows, centroids: Float32, m: int, width: int, n_threads: int) -> LocalRotations:
        """Learn rotations to `width` dimensions, for `m` subspaces, from the rows of the lists of these centroids."""
        n_lists, d = centroids.shape
        n, packed = int(in_lists.sizes.sum()), aligned_empty(n_lists, _native.packed_size(width, d))
        with progress.stage("rotations", n_lists, "lists", f"{n_lists:,} lists, {n:,} rows") as advance:
            common: Float64 = np.zeros((d, d))
            for sums in in_lists.run(_scatters, centroids, together=LISTS_PER_SUM):
                for scatter in sums:
                    common += scatter
            common /= max(1, n)
            first = 0
            for learned in in_lists.run(partial(_learned, common, even_offsets(width, m)), centroids):
                packed[first : first + len(learned)] = learned
                first += len(learned)
                advance(len(learned))
        return cls(packed, d, width)

    @property
    def nbytes(self) -> int:
        """Bytes of the matrices."""
        return self.packed.nbytes

    @property
    def matrices(self) -> Float32:
        """The matrices R, float32 (n_lists, d, width)."""
        matrices = [unpack(packed, self.width, self._dim).T for packed in self.packed]
        return np.ascontiguousarray(matrices, dtype=np.float32).reshape(-1, self._dim, self.width)

    def apply(self, x: Array, lists: Int64, centroids: Float32 | None, n_threads: int) -> Float32:
        """Each row of x (n, d) less the centroids of its lists (n, p), rotated: float32 (n * p, width)."""
        out = np.empty((lists.size, self.width), np.float32)
        if len(out):
            _native.rotate(x, lists, self.packed, centroids, out, n_threads)
        return out

    def rotate(self, x: Array, lists: Int32, n_threads: int) -> Float32:
        """Each row of x (n, d), rotated by its list: float32 (n, width)."""
        return self.apply(x, lists[:, None].astype(np.int64), None, n_threads)

    def inverse(self, y: Float32, lists: Int64, n_threads: int) -> Float32:
        """The residuals (n, d) that `apply` maps to y (n, width), of the lists (n,); dropped dimensions are 0."""
        out = np.empty((len(y), self._dim), np.float32)
        for number in np.unique(lists):
            rows = np.flatnonzero(lists == number)
            matrix = np.ascontiguousarray(unpack(self.packed[number], self.width, self._dim).T)
            back, rotated = pack(matrix, self.width), np.empty((len(rows), self._dim), np.float32)
            _native.project(y[rows], back, rotated, n_threads)
            out[rows] = rotated
        return out

    def state(self) -> State:
        """The array that a file stores."""
        return State({}, {"local_rotations": self.matrices})

    @classmethod
    def from_state(cls, stored: Stored, n_lists: int, dim: int, width: int) -> LocalRotations:
        """What a file stores."""
        matrices = stored.array("local_rotations", np.float32, (n_lists, dim, width), finite)
        packed = aligned_empty(n_lists, _native.packed_size(width, dim))
        for number, matrix in enumerate(matrices):
            error = float(np.abs(matrix.T @ matrix - np.eye(width, dtype=np.float32)).max())
            if error > 1e-3:
                raise FormatError(f"local_rotations: expected orthonormal columns, got others in rotation {number}")
            packed[number] = pack(np.ascontiguousarray(matrix.T), dim)
        return cls(packed, dim, width)


def _scatters(x: Array, sizes: Int64, n_threads: int, centroids: Float32) -> list[Float64]:
    """The sums of the outer products of the residuals of each LISTS_PER_SUM lists, (d, d) each."""
    of_lists = _residuals(x, sizes, n_threads, centroids)
    return [
        reduce(np.add, threads.parallel_map(_scatter, of_lists[start : start + LISTS_PER_SUM], n_threads))
        for start in range(0, len(of_lists), LISTS_PER_SUM)
    ]


def _learned(common: Float64, offsets: Int32, x: Array, sizes: Int64, n_threads: int, centroids: Float32) -> Float32:
    """The packed rotations of some lists, from their rows x, which are in the order of the lists."""
    width, d = offsets[-1], x.shape[1]
    packed = aligned_empty(len(sizes), _native.packed_size(width, d))

    def learn(work: tuple[int, Float32]) -> None:
        number, residuals = work
        covariance = (_scatter(residuals) + PRIOR_ROWS * common) / (len(residuals) + PRIOR_ROWS)
        variances, directions = np.linalg.eigh(covariance)
        chosen = balanced_order(variances[::-1][:width], offsets)
        packed[number] = pack(directions[:, ::-1][:, chosen].T.astype(np.float32), d)

    threads.parallel_map(learn, enumerate(_residuals(x, sizes, n_threads, centroids)), n_threads)
    return packed


def _residuals(x: Array, sizes: Int64, n_threads: int, centroids: Float32) -> list[Float32]:
    """The differences of the rows of each list to its centroid."""
    lists, residuals = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes), np.empty(x.shape, np.float32)
    _native.add_centroids(x, centroids, lists, -1, residuals, n_threads)
    return np.split(residuals, np.cumsum(sizes)[:-1])


def _scatter(residuals: Float32) -> Float64:
    wide = residuals.astype(np.float64)
    product: Float64 = wide.T @ wide
    return product
