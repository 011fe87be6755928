"""The coarse quantizer of an inverted file: assigns vectors to lists, and selects the lists that a query probes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fpq import _native, progress
from fpq._checks import Array, Float32, Float64, Int32, Int64
from fpq.indexes.parts.list_capacity import move_to_room, squared_distances
from fpq.indexes.parts.two_level import LEAST_LISTS, ROWS_PER_CENTROID, TwoLevel, learn, refined
from fpq.learning.kmeans import learn_centroids, nearest_centroids, sample_rows
from fpq.learning.lloyd import Change, LocalRows, TrainingRows
from fpq.learning.local_rotation import LocalRotations
from fpq.metric import Metric

N_ITER = 10
REFINEMENTS = 2
POWER_STEPS = 4
ORDERED_LISTS = 8  # lists in the order of one axis
CHUNK_ROWS = 1 << 16  # rows that are assigned at a time
SPREAD_ROWS = 64  # rows per list that spreads are learned from
SPREAD_CHUNK = 1 << 14  # rows whose differences to centroids are in memory at a time
SPREAD_WEIGHT = 0.3  # measured on glove50 and minilm, also with lengths that vary: nearly the same from 0.2 to 0.4
TWO_LEVEL_PROBES = 1 << 15  # smallest number of lists for two-level probing; with fewer, exact batches are faster


class CoarseQuantizer:
    """The centroids of the lists.

    From 8,192 lists on, training and assignment use two levels: about sqrt(n_lists) coarse cells, and the centroids in
    each cell. From 32,768 lists on, probing uses the two levels too. Measured on sift500k: 0.2 to 0.3 % of the rows get
    a list other than the nearest, and with 65,536 lists and 16 probes, less than 2 % of the probed lists are not among
    the nearest 16. Probing is exact for inner products, and where a query probes many lists.

    The largest inner products of a query q come from lists of a large <q, centroid>, and from lists whose vectors are
    far from their centroid: those of a list spread by about |q| times their distance to it. With spreads, lists are
    therefore probed by <q, centroid> + SPREAD_WEIGHT |q| spread, an inner product with one dimension more.

    Attributes
    ----------
    centroids : float32 (n_lists, d)
    spreads : float32 (n_lists,) or None
        The root mean square distance of vectors to the centroid of their list.
    largest : float
        The largest absolute value in the centroids.
    """

    def __init__(self, centroids: Float32, inner_product: bool, n_threads: int, spreads: Float32 | None = None) -> None:
        self.centroids = centroids
        self._inner_product = inner_product
        self.largest = _native.largest(centroids, n_threads)
        self._two_level = TwoLevel(centroids, n_threads) if len(centroids) >= LEAST_LISTS else None
        self.probe_by(spreads, n_threads)

    def probe_by(self, spreads: Float32 | None, n_threads: int) -> None:
        """Prepare the choice of lists by these spreads; None: by the centroids alone."""
        self.spreads = spreads
        self._by_product = self._inner_product or spreads is not None
        self._probed = self.centroids if spreads is None else np.column_stack([self.centroids, spreads])
        self._small = _native.SmallFlat(self._probed, self._by_product)
        self._norms = np.empty(len(self.centroids), dtype=np.float32)
        _native.flat_norms(self._probed, self._norms, n_threads)

    @classmethod
    def train(
        cls,
        rows: TrainingRows,
        n_lists: int,
        *,
        capacity: float | None,
        metric: Metric,
        seed: int,
        n_threads: int,
    ) -> CoarseQuantizer:
        """Learn the centroids of `n_lists` <= n lists, and their spreads for inner products."""
        learned = cls._learned(
            rows, n_lists, capacity=capacity, inner_product=not metric.euclidean, seed=seed, n_threads=n_threads
        )
        if metric.inner_product:
            learned.probe_by(learned._spreads_of(rows, seed), n_threads)
        return learned

    @classmethod
    def _learned(
        cls, rows: TrainingRows, n_lists: int, *, capacity: float | None, inner_product: bool, seed: int, n_threads: int
    ) -> CoarseQuantizer:
        about = f"{n_lists:,} centroids from {min(rows.n, n_lists * rows_per_list(n_lists)):,} rows"
        if n_lists >= LEAST_LISTS:
            with progress.stage("lists", n_lists, "centroids", about) as advance:
                centroids = learn(rows, n_lists, capacity=capacity, seed=seed, n_threads=n_threads, advance=advance)
                coarse = cls(centroids, inner_product, n_threads)
                for _ in range(REFINEMENTS if capacity is None else 0):  # a refinement ignores the capacity
                    assert coarse._two_level is not None
                    coarse = cls(refined(rows, coarse._two_level), inner_product, n_threads)
                return coarse
        with progress.stage("lists", N_ITER, "iterations", about) as advance:
            centroids = learn_centroids(
                rows, n_lists, n_iter=N_ITER, rows_per_centroid=rows_per_list(n_lists), capacity=capacity,
                seed=seed, n_threads=n_threads, advance=advance,
            )  # fmt: skip
            return cls(centroids[by_halves(centroids)], inner_product, n_threads)

    def _spreads_of(self, rows: TrainingRows, seed: int) -> Float32:
        """The spreads of a sample of the rows; empty lists get that of the whole sample."""
        chosen = sample_rows(rows.n, SPREAD_ROWS * len(self.centroids), np.random.default_rng(seed))
        squares, counts = np.zeros(len(self.centroids)), np.zeros(len(self.centroids), np.int64)
        for found in rows.sampled(chosen).mapped(self._to_nearest, SPREAD_CHUNK):
            for lists, distances in found:
                squares += np.bincount(lists, distances, len(squares))
                counts += np.bincount(lists, minlength=len(squares))
        mean = squares.sum() / counts.sum()
        means = np.divide(squares, counts, out=np.full(len(squares), mean), where=counts > 0)
        spreads: Float32 = np.sqrt(means).astype(np.float32)
        return spreads

    def _to_nearest(self, rows: LocalRows) -> list[tuple[Int32, Float64]]:
        """The lists of the rows, and the squared distances to their centroids, by chunk."""
        found = []
        for chunk in rows.blocks(SPREAD_CHUNK):
            x = rows.block(chunk)
            lists = self.nearest(x, rows.n_threads)
            found.append((lists, squared_distances(x, self.centroids[lists])))
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        two_level = 0 if self._two_level is None else self._two_level.nbytes
        probed = 0 if self.spreads is None else self._probed.nbytes + self.spreads.nbytes
        return self.centroids.nbytes + probed + self._norms.nbytes + self._small.nbytes + two_level

    def nearest(self, x: Array, n_threads: int) -> Int32:
        """The list of each row, int32 (n,): the nearest centroid in squared L2; the lower number wins ties."""
        if self._two_level is not None:
            return self._two_level.nearest(x, n_threads)
        return nearest_centroids(self.centroids, x, n_threads)

    def labels(self, x: Array, prepare: Change, sizes: Int64, limit: int | None, n_threads: int) -> Int32:
        """Prepare x in chunks and assign each row to a list; lists of these sizes grow to at most `limit` rows."""
        labels = np.empty(len(x), dtype=np.int32)
        with progress.stage("assignment", len(x), "rows") as advance:
            for start in range(0, len(x), CHUNK_ROWS):
                chunk = prepare(x[start : start + CHUNK_ROWS], n_threads)
                labels[start : start + len(chunk)] = self.nearest(chunk, n_threads)
                advance(len(chunk))
            if limit is not None:
                move_to_room(labels, x, prepare, self.centroids, sizes, limit, n_threads)
        return labels

    def subtracting(self, labels: Int32, prepare: Change, rotations: LocalRotations | None) -> Change:
        """A function that prepares consecutive chunks of rows and returns the residuals to the lists `labels`.

        With rotations of the lists, the residuals are rotated.
        """

        def subtract(x: Array, lists: Int32, n_threads: int) -> Float32:
            return self.residuals(x, lists, rotations, n_threads)

        return by_lists(labels, prepare, subtract)

    def residuals(self, x: Array, lists: Int32, rotations: LocalRotations | None, n_threads: int) -> Float32:
        """The differences of rows to the centroids of these lists; rotated, if the lists have rotations."""
        if rotations is not None:
            return rotations.apply(x, lists[:, None].astype(np.int64), self.centroids, n_threads)
        out = np.empty(x.shape, np.float32)
        _native.add_centroids(x, self.centroids, lists, -1, out, n_threads)
        return out

    def selecting(self, power: int) -> _native.SmallFlat | None:
        """The packed centroids, if a search may select its lists by these; None: only by `probe`."""
        return None if power and not self._by_product else self._small

    @property
    def lengths(self) -> float:
        """What queries that select lists get as one dimension more, times their length; 0: nothing."""
        return 0.0 if self.spreads is None else SPREAD_WEIGHT

    def probe(self, queries: Float32, n_probe: int, n_threads: int, power: int = 0) -> Int64:
        """The `n_probe` nearest lists of each query, scaled by 2**power, nearest first: int64 (nq, n_probe)."""
        if not power and self._two_level is not None and not self._inner_product:
            if len(self.centroids) >= TWO_LEVEL_PROBES and self._two_level.serves(n_probe):
                return self._two_level.probe(queries, n_probe, n_threads)
        distances = np.empty((len(queries), n_probe), dtype=np.float32)
        lists = np.empty((len(queries), n_probe), dtype=np.int64)
        if self.spreads is not None:
            longer = np.empty((len(queries), queries.shape[1] + 1), np.float32)
            _native.append_lengths(queries, self.lengths, longer, n_threads)
            queries = longer
        _native.flat_search(
            self._probed, self._norms, queries, None, None, self._by_product, _native.TopK(distances, lists),
            n_threads, 0 if self._by_product else power,
        )  # fmt: skip
        return lists


def by_lists(labels: Int32, prepare: Change, change: Callable[[Array, Int32, int], Float32]) -> Change:
    """A function that prepares consecutive chunks of rows and applies `change`, which gets the lists of the rows."""
    row = 0

    def changed(chunk: Array, n_threads: int) -> Float32:
        nonlocal row
        lists = labels[row : row + len(chunk)]
        row += len(chunk)
        return change(prepare(chunk, n_threads), lists, n_threads)

    return changed


def rows_per_list(n_lists: int) -> int:
    """The maximum number of training rows per list."""
    return 2 * ROWS_PER_CENTROID if n_lists < LEAST_LISTS else ROWS_PER_CENTROID


def residuals(coarse: CoarseQuantizer, x: Array, n_threads: int, rotations: LocalRotations | None = None) -> Float32:
    """As `CoarseQuantizer.residuals`, to the nearest lists of the rows."""
    return coarse.residuals(x, coarse.nearest(x, n_threads), rotations, n_threads)


def rotated_by_lists(coarse: CoarseQuantizer, rotations: LocalRotations, x: Array, n_threads: int) -> Float32:
    """The rows, rotated by their nearest lists."""
    return rotations.rotate(x, coarse.nearest(x, n_threads), n_threads)


def by_halves(points: Float32) -> Int64:
    """An order that keeps near points together: recursive bisection along the longest axis.

    Queries are searched in the order of their nearest lists; in this order, consecutive queries probe the same lists.
    """

    def ordered(ids: Int64) -> Int64:
        if len(ids) <= ORDERED_LISTS:
            return ids
        x = points[ids] - points[ids].mean(axis=0, dtype=np.float64).astype(np.float32)
        x /= max(float(np.abs(x).max()), np.finfo(np.float32).tiny)  # keeps the squares within float32
        axis = x[np.einsum("ij,ij->i", x, x).argmax()]
        for _ in range(POWER_STEPS):  # power method; einsum adds in one order for any number of threads
            axis = np.einsum("ij,i->j", x, np.einsum("ij,j->i", x, axis))
            axis /= max(float(np.abs(axis).max()), np.finfo(np.float32).tiny)
        ids = ids[np.einsum("ij,j->i", x, axis).argsort(kind="stable")]
        half = len(ids) // 2
        return np.concatenate([ordered(ids[:half]), ordered(ids[half:])])

    return ordered(np.arange(len(points)))
