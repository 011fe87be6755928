"""k-means with a capacity on the workers of a cluster: the parts choose clusters for their rows one after the other."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fpq import _native
from fpq._arrays import aligned
from fpq._checks import Array, Float32, Int32, Int64, UInt8
from fpq.dask.preparing import received
from fpq.learning.lloyd import LocalSteps, Shape, choose_below

if TYPE_CHECKING:
    from fpq.dask.training import ClusterRows


class Chosen(NamedTuple):
    """The clusters of the rows of a part."""

    ids: Int32  # (m, n)
    sizes: Int64  # (m, k), of the clusters, with the rows of the parts before


class LimitedSteps:
    """The state of iterations whose clusters have a capacity: a `Steps` of `fpq.learning.lloyd`.

    The cluster of a row depends on the rows before it by the sizes of the clusters alone. Parts find the nearest
    centroids at once. Then each chooses clusters within the capacity, and passes their sizes to the next part.
    """

    def __init__(self, rows: ClusterRows, offsets: Int32, shape: Shape) -> None:
        self._rows = rows
        self._offsets = offsets
        self._shape = shape
        self._parts: list[Any] = []
        self._chosen: list[Any] = []
        self._size = 0
        self._sent: tuple[Any, ...] = ()  # centroids, offsets, active, chunk_rows of the last iteration

    def sums(
        self, centroids: Float32, active: UInt8, size: int, chunk_rows: int, limit: float
    ) -> tuple[Float32, Int64]:
        """As `Steps.sums`."""
        if size != self._size:
            self._parts = self._rows.parts(self._rows.runs(size, chunk_rows))
            self._chosen = [None] * len(self._parts)
            self._size = size
        self._sent = self._rows.shared(centroids.copy()), self._offsets, active.copy(), chunk_rows
        before, self._chosen = self._chosen, self._choose(limit)
        calls = zip(self._parts, self._chosen, before, strict=True)
        results = self._rows.results("lloyd", [(sums_of, *call, *self._sent) for call in calls])
        sums, changed = zip(*results, strict=True)
        return np.concatenate(sums, axis=1), np.sum(changed, axis=0)

    def _choose(self, limit: float) -> list[Any]:
        """Futures of what the parts choose."""
        submit, sent, number = self._rows.submit, self._sent[:2], uuid.uuid4().hex
        sizes: Any = np.zeros(self._shape[:2], np.int64)
        chosen: list[Any] = []
        for i, part in enumerate(self._parts):
            if i:
                sizes = submit(f"sizes-{number}-{i}", _sizes, chosen[-1])
            ids = submit(f"nearest-{number}-{i}", nearest, part, *sent)
            chosen.append(submit(f"choose-{number}-{i}", choose, part, ids, sizes, limit, *sent))
        return chosen

    def assignment(self, j: int, size: int) -> tuple[Int32, Float32]:
        """As `Steps.assignment`."""
        calls = zip(self._parts, self._chosen, strict=True)
        results = self._rows.results("assignment", [(assignment, *call, *self._sent, j) for call in calls])
        ids, errors = zip(*results, strict=True)
        return np.concatenate(ids), np.concatenate(errors)

    def assigned(self, centroids: Float32) -> tuple[Int32, Float32]:
        """As `Steps.assigned`."""
        sent = self._rows.shared(centroids), self._offsets
        results = self._rows.results("assigned", [(assigned, part, *sent) for part in self._parts])
        ids, errors = zip(*results, strict=True)
        return np.concatenate(ids, axis=1), np.concatenate(errors, axis=1)


def assigned(x: Array, centroids: Float32, offsets: Int32) -> tuple[Int32, Float32]:
    """The nearest centroids of the rows of a part, and the errors."""
    return LocalSteps(received(x), aligned(offsets), centroids.shape, True).assigned(aligned(centroids))


def nearest(x: Array, centroids: Float32, offsets: Int32) -> Int32:
    """The nearest centroids of the rows of a part."""
    return assigned(x, centroids, offsets)[0]


def choose(x: Array, ids: Int32, sizes: Int64, limit: float, centroids: Float32, offsets: Int32) -> Chosen:
    """What rows of nearest centroids `ids` choose, after the parts before have filled the clusters to `sizes`."""
    chosen = Chosen(ids.copy(), sizes.copy())
    choose_below(limit, received(x), aligned(offsets), aligned(centroids), *chosen)
    return chosen


def sums_of(
    x: Array, chosen: Chosen, before: Chosen | None, centroids: Float32, offsets: Int32, active: UInt8, chunk_rows: int
) -> tuple[Float32, Int64]:
    """The sums of the chunks of a part, and the numbers of ids that differ from those before."""
    sums, changed, _ = _summed(x, chosen, before, centroids, offsets, active, chunk_rows)
    return sums, changed.sum(axis=1)


def assignment(
    x: Array, chosen: Chosen, centroids: Float32, offsets: Int32, active: UInt8, chunk_rows: int, j: int
) -> tuple[Int32, Float32]:
    """The ids and errors of subspace j."""
    return chosen.ids[j], _summed(x, chosen, None, centroids, offsets, active, chunk_rows)[2][j]


def _summed(
    x: Array, chosen: Chosen, before: Chosen | None, centroids: Float32, offsets: Int32, active: UInt8, chunk_rows: int
) -> tuple[Float32, Int64, Float32]:
    """Sums, numbers of changed ids by chunk, and errors."""
    rows, ids, (m, k, dsub) = received(x), chosen.ids.copy(), centroids.shape  # arrays from the network are read-only
    old = np.full_like(ids, -1) if before is None else before.ids.copy()
    chunks, errors = -(-rows.n // chunk_rows), np.zeros(ids.shape, np.float32)
    sums, changed = np.empty((m, chunks, k * (dsub + 1)), np.float32), np.empty((m, chunks), np.int64)
    _native.kmeans_sums_of(
        aligned(centroids), aligned(offsets), rows.x, None, active, chunk_rows, ids, old, errors, sums, changed,
        rows.n_threads,
    )  # fmt: skip
    return sums, changed, errors


def _sizes(chosen: Chosen) -> Int64:
    return chosen.sizes
