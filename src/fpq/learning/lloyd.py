"""Lloyd iterations of all subspaces (PKMeans of the FPQ paper): assignment of rows, local or remote, and means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from fpq import _native, progress
from fpq._arrays import ascending, take_rows
from fpq._checks import Array, Float32, Int32, Int64, UInt8, UInt16
from fpq.learning.grouped_rows import GroupedRows, LocalGroups
from fpq.learning.prepared_rows import LocalPrepared, PreparedRows

LONG, SHORT = 16, 8  # iterations; a training of fewer than SHORT uses all rows in every iteration
PARTS = ((8, 0.32), (4, 0.24), (2, 0.2))  # of a long training: 1/8 of the rows for 0.32 of the iterations, and so on
SHORT_PARTS = ((2, 0.6),)
PART_ROWS_PER_CENTROID = 24  # a part has at least this many rows per centroid
LEAST_PART = 4096  # and at least this many rows
BOUNDS_BYTES = 1 << 26  # memory limit of the bounds
CHANGE_ROWS = 1 << 14  # rows of a selection that are copied and changed at a time
LEAST_CENTROIDS, LEAST_DIM = 128, 8  # smaller codebooks are searched faster without bounds

Shape = tuple[int, ...]  # of the centroids: (m, k, dsub)
Change = Callable[[Array, int], Array]  # (rows, n_threads) -> transformed rows
R = TypeVar("R")
S = TypeVar("S")


class Steps(Protocol):
    """Assignment of the training rows, with the bounds that each iteration leaves for the next."""

    def sums(
        self, centroids: Float32, active: UInt8, size: int, chunk_rows: int, limit: float
    ) -> tuple[Float32, Int64]:
        """Assign the first `size` rows; return sums per chunk (m, chunks, k * (dsub + 1)) and changed ids (m,).

        `limit`: the capacity of a cluster; 0: none. Rows choose in order. The next call may overwrite the sums.
        """

    def assignment(self, j: int, size: int) -> tuple[Int32, Float32]:
        """The last centroid ids and squared errors (size,) in subspace j."""

    def assigned(self, centroids: Float32) -> tuple[Int32, Float32]:
        """Assign all rows; return centroid ids and squared errors (m, n)."""


class TrainingRows(Protocol):
    """Training rows (n, dim), in memory or on a cluster."""

    n: int
    dim: int

    def take(self, numbers: Int64 | None) -> Array:
        """The rows with these numbers as an array; None: all rows."""

    def sampled(self, numbers: Int64 | None) -> TrainingRows:
        """The rows with these numbers as training rows; None: all rows."""

    def changed(self, change: Change, dim: int | None = None) -> TrainingRows:
        """The rows after `change`, which may change their dtype, and their dimension to `dim`."""

    def steps(self, offsets: Int32, shape: Shape, limited: bool) -> Steps:
        """The state before the first iteration; `limited`: the clusters have a capacity."""

    def mapped(self, function: Callable[..., R], chunk_rows: int, *of_rows: Array) -> Iterator[R]:
        """The results of `function` for consecutive runs of rows, in order.

        A run consists of whole chunks of `chunk_rows` rows, but for the last of all. `function` gets it as `LocalRows`,
        and its entries of `of_rows`, arrays with an entry per row. What it computes for a chunk must not depend on the
        other chunks of the run.
        """

    def in_turn(self, function: Callable[..., tuple[R, S]], state: S, *of_rows: Array) -> Iterator[R]:
        """The results of ``function(run, state, *of_rows)`` for consecutive runs of rows, in order.

        It returns a result, and the state for the next run. `run` and `of_rows` are as in `mapped`.
        """

    def prepared(self, make: Callable[..., Any], chunk_rows: int, *others: Any) -> PreparedRows:
        """What ``make(run, *runs_of_others)`` makes of consecutive runs of these rows and of `others`, as `LocalRows`.

        `others` are training rows of the same number and kind. Runs are as in `mapped`.
        """

    def grouped(self, group_of: Change, n_groups: int) -> GroupedRows:
        """The rows by the groups (n,) that ``group_of(x, n_threads)`` gives each row."""


class LocalRows:
    """All rows of an array, or a selection. The array is read in place."""

    def __init__(self, x: Array, rows: Int64 | None, n_threads: int) -> None:
        self.x = x
        self.rows = rows
        self.n_threads = n_threads
        self.n = len(x) if rows is None else len(rows)
        self.dim: int = x.shape[1]

    def take(self, numbers: Int64 | None) -> Array:
        """As `TrainingRows.take`."""
        rows = self._of(numbers)
        return self.x if rows is None else take_rows(self.x, rows, self.n_threads)

    def sampled(self, numbers: Int64 | None) -> LocalRows:
        """As `TrainingRows.sampled`."""
        return LocalRows(self.x, self._of(numbers), self.n_threads)

    def first(self, size: int) -> LocalRows:
        """The first `size` rows."""
        if self.rows is None:
            return LocalRows(self.x[:size], None, self.n_threads)
        return LocalRows(self.x, self.rows[:size], self.n_threads)

    def block(self, rows: slice) -> Array:
        """Consecutive rows."""
        return self.x[rows] if self.rows is None else take_rows(self.x, self.rows[rows], self.n_threads)

    def blocks(self, size: int) -> list[slice]:
        """The rows in blocks of `size`."""
        return [slice(start, min(start + size, self.n)) for start in range(0, self.n, size)]

    def changed(self, change: Change, dim: int | None = None) -> LocalRows:
        """As `TrainingRows.changed`."""
        if self.rows is None or not self.n:
            return LocalRows(change(self.take(None), self.n_threads), None, self.n_threads)
        out: Array | None = None
        for block in self.blocks(CHANGE_ROWS):
            piece = change(take_rows(self.x, self.rows[block], self.n_threads), self.n_threads)
            out = np.empty((self.n, piece.shape[1]), piece.dtype) if out is None else out
            _native.copy_rows(piece, None, out[block], self.n_threads)
        assert out is not None
        return LocalRows(out, None, self.n_threads)

    def steps(self, offsets: Int32, shape: Shape, limited: bool) -> LocalSteps:
        """As `TrainingRows.steps`."""
        return LocalSteps(self, offsets, shape, limited)

    def mapped(self, function: Callable[..., R], chunk_rows: int, *of_rows: Array) -> Iterator[R]:
        """As `TrainingRows.mapped`, with one run."""
        yield function(self, *of_rows)

    def in_turn(self, function: Callable[..., tuple[R, S]], state: S, *of_rows: Array) -> Iterator[R]:
        """As `TrainingRows.in_turn`, with one run."""
        yield function(self, state, *of_rows)[0]

    def prepared(self, make: Callable[..., Any], chunk_rows: int, *others: LocalRows) -> LocalPrepared:
        """As `TrainingRows.prepared`, with one run."""
        return LocalPrepared(make(self, *others), self.n_threads)

    def grouped(self, group_of: Change, n_groups: int) -> LocalGroups:
        """As `TrainingRows.grouped`."""
        x = self.take(None)
        return LocalGroups(x, group_of(x, self.n_threads), n_groups, self.n_threads)

    def _of(self, numbers: Int64 | None) -> Int64 | None:
        return self.rows if numbers is None else numbers if self.rows is None else self.rows[numbers]


class Bounds(NamedTuple):
    """The Yinyang bounds that one assignment leaves for the next (csrc/kmeans/bounds.h)."""

    bounds: UInt16
    drift: UInt16
    scale: Float32

    @staticmethod
    def of(shape: Shape, n: int, limited: bool) -> Bounds:
        """Empty bounds."""
        m = shape[0]
        groups = 0 if limited else Bounds.groups(shape, n)
        return Bounds(np.zeros((m, n, groups), np.uint16), np.zeros((m, groups), np.uint16), np.zeros(m, np.float32))

    @staticmethod
    def groups(shape: Shape, n: int) -> int:
        """The number of centroid groups that BOUNDS_BYTES permits, possibly none."""
        m, k, dsub = shape
        return (
            16 * min(-(-k // 256), 4, BOUNDS_BYTES // (m * n * 32)) if k >= LEAST_CENTROIDS and dsub >= LEAST_DIM else 0
        )


class LocalSteps:
    """Assignments and bounds of rows in local memory."""

    def __init__(self, rows: LocalRows, offsets: Int32, shape: Shape, limited: bool) -> None:
        self._rows = rows
        self._offsets = offsets
        m, self._k, self._dsub = shape
        self._ids, self._errors = np.full((m, rows.n), -1, dtype=np.int32), np.zeros((m, rows.n), dtype=np.float32)
        self._bounds = Bounds.of(shape, rows.n, limited)
        self._last_centroids: Float32 | None = None
        self._sums: Float32 | None = None

    def sums(
        self, centroids: Float32, active: UInt8, size: int, chunk_rows: int, limit: float
    ) -> tuple[Float32, Int64]:
        """As `Steps.sums`."""
        shape = len(active), -(-size // chunk_rows), self._k * (self._dsub + 1)
        if self._sums is None or self._sums.shape != shape:  # fresh memory would cost page faults in each iteration
            self._sums = np.empty(shape, np.float32)
        changed = np.empty(shape[:2], np.int64)
        if limit:
            before = self._ids.copy()
            self._assign(centroids, active, size, chunk_rows, None, None)
            rows, ids = self._rows.first(size), np.ascontiguousarray(self._ids[:, :size])
            choose_below(limit, rows, self._offsets, centroids, ids, np.zeros((len(ids), self._k), np.int64))
            self._ids[:, :size] = ids
            _native.kmeans_sums_of(
                centroids, self._offsets, rows.x, rows.rows, active, chunk_rows, self._ids, before, self._errors,
                self._sums, changed, rows.n_threads,
            )  # fmt: skip
        else:
            self._assign(centroids, active, size, chunk_rows, self._sums, changed)
        return self._sums, changed.sum(axis=1)

    def assignment(self, j: int, size: int) -> tuple[Int32, Float32]:
        """As `Steps.assignment`."""
        return self._ids[j, :size], self._errors[j, :size]

    def assigned(self, centroids: Float32) -> tuple[Int32, Float32]:
        """As `Steps.assigned`."""
        n, m = self._rows.n, len(centroids)
        chunk_rows = _native.kmeans_chunk_rows(m, self._k, self._dsub, n)
        self._assign(centroids, np.ones(m, np.uint8), n, chunk_rows, None, None)
        return self._ids, self._errors

    def _assign(
        self, centroids: Float32, active: UInt8, size: int, chunk_rows: int, sums: Float32 | None,
        changed: Int64 | None,
    ) -> None:  # fmt: skip
        rows = self._rows.first(size)
        _native.kmeans_sums(
            centroids, self._offsets, rows.x, rows.rows, active, chunk_rows, self._ids, self._errors, *self._bounds,
            self._last_centroids, sums, changed, rows.n_threads,
        )  # fmt: skip
        if self._last_centroids is None:
            self._last_centroids = np.empty_like(centroids)
        np.copyto(self._last_centroids, centroids)


def choose_below(limit: float, rows: LocalRows, offsets: Int32, centroids: Float32, ids: Int32, sizes: Int64) -> None:
    """Have rows of full clusters, in order, take their next nearest centroids.

    `ids` (m, rows.n), the nearest centroids, and `sizes` (m, k), those of the clusters, change.
    """
    k = centroids.shape[1]
    _native.open_index(centroids, offsets, rows.x, rows.rows, limit, k, False, ids, sizes, rows.n_threads)


class Training(NamedTuple):
    """The result of `train_codebooks`."""

    centroids: Float32  # (m, k, dsub), zero-padded where a subspace is narrower
    ids: Int32  # (m, n), the nearest centroid of each training row
    errors: Float32  # (m, n), the squared distance to that centroid
    n_iter_run: int


class Iterated(NamedTuple):
    """The result of `iterate`."""

    centroids: Float32
    steps: Steps
    order: Int64 | None  # row i of `steps` is training row order[i]; None: row i
    n_iter_run: int


def train_codebooks(
    rows: TrainingRows,
    offsets: Int32,
    centroids: Float32,
    *,
    n_iter: int,
    rng: np.random.Generator,
    capacity: float | None = None,
    n_threads: int,
    advance: progress.Advance = progress.silent,
) -> Training:
    """As `iterate`, followed by the assignment of all rows to the final centroids."""
    done = iterate(
        rows, offsets, centroids, n_iter=n_iter, rng=rng, capacity=capacity, n_threads=n_threads, advance=advance
    )
    ids, errors = done.steps.assigned(done.centroids)
    if done.order is not None:
        _native.reorder(done.order, ids, errors, n_threads)
    return Training(done.centroids, ids, errors, done.n_iter_run)


def iterate(
    rows: TrainingRows,
    offsets: Int32,
    centroids: Float32,
    *,
    n_iter: int,
    rng: np.random.Generator,
    capacity: float | None = None,
    n_threads: int,
    advance: progress.Advance = progress.silent,
) -> Iterated:
    """Run Lloyd iterations on all subspaces at once, until no row changes its centroid or `n_iter` is reached.

    With many rows, the first iterations use random parts of the rows, drawn from `rng`. `centroids` (m, k, dsub) are
    the initial centroids and are not changed. An empty cluster takes the row farthest from its centroid in the cluster
    of the largest squared error. `advance` counts iterations.
    """
    m, k, dsub = centroids.shape
    parts = _parts(rows.n, k, n_iter)
    order = _nested(rows.n, [size for size, _ in parts[:-1]], rng)
    rows = rows.sampled(order)
    steps = rows.steps(offsets, centroids.shape, capacity is not None)
    centroids = centroids.copy()
    counts = np.zeros((m, k), np.int64)
    n_iter_run = 0
    for size, iterations in parts:
        active = np.ones(m, np.uint8)
        chunk_rows = _native.kmeans_chunk_rows(m, k, dsub, size)
        limit = 0.0 if capacity is None else capacity * size / k
        while iterations and active.any():
            sums, changed = steps.sums(centroids, active, size, chunk_rows, limit)
            _native.kmeans_means(centroids, offsets, active, sums, counts, n_threads)
            for j in np.flatnonzero(active & (counts == 0).any(axis=1)):
                _refill(centroids[j], rows, slice(*offsets[j : j + 2]), steps.assignment(int(j), size), counts[j])
            active &= changed > 0
            iterations -= 1
            n_iter_run += 1
            advance(1)
    return Iterated(centroids, steps, order, n_iter_run)


def _refill(
    centroids: Float32, rows: TrainingRows, subspace: slice, assignment: tuple[Int32, Float32], counts: Int64
) -> None:
    """Move the centroid of each empty cluster to a row of another cluster."""
    donors = np.empty(len(counts), np.int64)
    _native.kmeans_donors(*assignment, counts, donors)
    empty = np.flatnonzero(donors >= 0)
    if len(empty):
        centroids[empty, : subspace.stop - subspace.start] = rows.take(donors[empty])[:, subspace]


def _parts(n: int, k: int, n_iter: int) -> list[tuple[int, int]]:
    """The schedule of growing parts: pairs of a number of rows and a number of iterations.

    Early iterations move centroids far, and a part of the rows moves them as well as all rows do (nested mini-batches,
    Newling and Fleuret 2016). The iterations of a part that is too small go to the next part.
    """
    parts = []
    remaining, pending = n_iter, 0
    for divisor, share in PARTS if n_iter >= LONG else SHORT_PARTS if n_iter >= SHORT else ():
        pending += int(share * n_iter)
        if pending and n // divisor >= max(PART_ROWS_PER_CENTROID * k, LEAST_PART):
            parts.append((n // divisor, pending))
            remaining, pending = remaining - pending, 0
    return [*parts, (n, remaining)]


def _nested(n: int, sizes: list[int], rng: np.random.Generator) -> Int64 | None:
    """An order of n rows whose first sizes[0], sizes[1], ... rows are random samples; None if `sizes` is empty."""
    if not sizes:
        return None
    pieces = np.split(rng.permutation(n), sizes)
    return np.concatenate([ascending(piece, n) for piece in pieces])  # memory is read forwards
