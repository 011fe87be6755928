"""The base of the locality-sensitive hashing indexes: kept vectors, sketches, hash functions, probabilities."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _native, _settings, progress, threads, tuning
from fpq._arrays import pack, unpack
from fpq._checks import Array, Float32, Float64, Int64, Rows
from fpq.indexes.base import Bits, Index, Nearest
from fpq.indexes.changes import Addition
from fpq.indexes.parts.ids import Commit, Ids, no_op
from fpq.indexes.parts.lock import writes
from fpq.indexes.parts.sketches import sketch_size, sketcher, sketcher_of, unit_sized
from fpq.indexes.parts.streaming import adds_blocks, fits_blocks, gathered
from fpq.indexes.parts.tables import MAX_ROWS
from fpq.indexes.parts.vectors import Vectors
from fpq.learning.kmeans import sample_rows
from fpq.learning.lloyd import LocalRows, TrainingRows
from fpq.metric import L2, METRICS, NAMES_ELSEWHERE, MetricName
from fpq.storage import Check, FormatError, State, Stored, as_number, finite

SAMPLE_ROWS = 16_384  # rows for the centre, the principal directions and the sampled pairs
NEIGHBOUR_ROWS = 1 << 17  # rows that are searched for neighbours
SAMPLES = SAMPLE_ROWS, NEIGHBOUR_ROWS
NEIGHBOUR_QUERIES = 256
NEIGHBOUR = 10  # default widths are multiples of the distance to this neighbour
LEAST_WIDTH = 1e-37  # least width of a bucket: a normal variate divided by the width must fit float32

Self = TypeVar("Self", bound="LSHIndex")


class LSHStats(NamedTuple):
    """Statistics of the last search, per query; of its last block, if the queries came in blocks.

    Attributes
    ----------
    buckets : int64 (nq,)
        E2LSH: non-empty probed buckets. C2LSH: searched levels. PM-LSH: scans of all projections.
    candidates : int64 (nq,)
        E2LSH: rows in the probed buckets, counted once per table. C2LSH: rows that reached the collision threshold.
        PM-LSH: rows that a scan found near enough, counted in the last scan.
    verified : int64 (nq,)
        Rows whose exact distance was computed; the sketches of the other candidates prove them too far.
    """

    buckets: Int64
    candidates: Int64
    verified: Int64


class DrawnRows(NamedTuple):
    """The rows of X that `fit` draws.

    Attributes
    ----------
    rows : TrainingRows
    numbers : int64 (rows.n,) or None
        The numbers of the rows among those of X, ascending; None: all rows.
    n : int
        The number of rows that are drawn from: those of X, or of the reservoir of a stream.
    total : int
        The number of rows of X.
    """

    rows: TrainingRows
    numbers: Int64 | None
    n: int
    total: int

    def some(self, size: int, rng: np.random.Generator) -> Array:
        """A sample of at most `size` rows, in their order."""
        chosen = sample_rows(self.n, size, rng, shuffle=True)
        if chosen is not None and self.numbers is not None:
            chosen = np.searchsorted(self.numbers, chosen)
        return self.rows.take(chosen)


def collision_probability(distance: Any, width: float, window: float = 0.0) -> Float64:
    """The probability that one p-stable hash function gives two vectors the same bucket, or buckets in one window.

    The hash is ``floor((a . x + b) / width)`` with normal a and uniform b. The second vector collides if its bucket
    holds a number within ``window`` widths of ``(a . x + b) / width`` of the first vector.

    Parameters
    ----------
    distance : array_like of float
        Euclidean distances, not squared.
    width : float
        Width of a bucket.
    window : float, default 0
        Half the window, in widths. 0: both vectors in the same bucket (Datar et al., SoCG 2004, section 3.2).

    Returns
    -------
    float64 array of the shape of `distance`

    Examples
    --------
    >>> collision_probability([0.0, 1.0, 2.0], width=4.0).round(3).tolist()
    [1.0, 0.801, 0.61]
    """
    scale = np.maximum(_checks.numbers("distance", distance).astype(np.float64) / width, 1e-12)

    def hinge(x: float) -> Float64:
        """The mean of max(0, x - abs(y)) for normal y with standard deviation `scale`."""
        z = x / scale
        mean: Float64 = x * _erf(z / math.sqrt(2)) - scale * math.sqrt(2 / math.pi) * -np.expm1(-z * z / 2)
        return mean

    if window == 0:
        return hinge(1.0)
    return hinge(window + 1) - hinge(window)


def _erf(x: Float64) -> Float64:
    return np.array([math.erf(value) for value in x.ravel()]).reshape(x.shape)


class LSHIndex(Index):
    """Kept vectors; hashes select candidates, exact distances rank them."""

    metric = _settings.Fixed(
        _settings.choice(*(each.name for each in METRICS.values() if each.euclidean), elsewhere=NAMES_ELSEWHERE)
    )
    seed = _settings.Setting(_settings.seed)

    _state_names: tuple[str, ...] = ("_dim", "_hashes", "_sketcher")
    _bound_by = "hashed by its present functions"
    _max_rows = MAX_ROWS

    last_stats: LSHStats | None

    _vectors: Vectors

    def __init__(self, metric: MetricName, seed: int, n_threads: int | None) -> None:
        super().__init__(metric, n_threads)
        self.seed = seed
        self.last_stats = None
        self._dim: int | None = None
        self._hashes: _native.LSHHashes | None = None
        self._sketcher: _native.LSHSketcher | None = None

    @property
    def dim(self) -> int | None:
        """Dimension of the vectors; None until `fit`."""
        return self._dim

    @property
    def is_trained(self) -> bool:
        """Whether `fit` has been called."""
        return self._hashes is not None

    @property
    def _sketch_size(self) -> int:
        return sketch_size(self._dim or 0)

    @writes
    @progress.reported
    @fits_blocks
    def fit(self: Self, X: Rows) -> Self:
        """Choose the parameters that were not given, and draw the hash functions. X is not kept.

        Parameters
        ----------
        X : array (n, d), or in blocks as the rows of `add`
            The rows to be added, or similar rows; n should be about the number of rows to be added.

        Raises
        ------
        ValueError, TypeError
            If X is not a finite 2-d array of at least one row, the index holds vectors, or a parameter cannot be
            chosen: all rows are equal, or no table fits `memory_limit`. The index is then unchanged.
        """
        self._fit(self._fitting, X)
        return self

    def _fitting(self, X: Any) -> Commit:
        n_threads = threads.resolve(self.n_threads)
        x = _checks.vectors("X", X, min_rows=1, n_threads=n_threads)
        return self._learning(DrawnRows(LocalRows(x, None, n_threads), None, len(x), len(x)))

    @property
    @abstractmethod
    def _sample_sizes(self) -> tuple[int, ...]:
        """The sizes of the samples that `fit` draws from X, in this order."""

    @property
    def _training_size(self) -> int:
        return max(self._sample_sizes)

    @property
    def _training_seed(self) -> int:
        return self.seed

    def _drawn(self, n: int) -> Int64 | None:
        """The numbers of the rows, of n, that `fit` draws; None: all rows."""
        rng = np.random.default_rng(self.seed)
        drawn = [sample_rows(n, size, rng, shuffle=True) for size in self._sample_sizes]
        numbers = [each for each in drawn if each is not None]
        return np.unique(np.concatenate(numbers)) if len(numbers) == len(drawn) else None

    @writes
    def _fit_drawn(self, rows: TrainingRows, n: int, total: int) -> None:
        self._fit(self._learning, DrawnRows(rows, self._drawn(n), n, total))

    def _learning(self, drawn: DrawnRows) -> Commit:
        """As `_fitting`, with the same bits, from the rows that it draws."""
        n_threads, dim = threads.resolve(self.n_threads), drawn.rows.dim
        rng = np.random.default_rng(self.seed)
        with progress.stage("hashes", drawn.total, "rows"):
            sample = self._metric.prepare(drawn.some(SAMPLE_ROWS, rng), n_threads)
            sketches = sketcher(sample, n_threads) if sketch_size(dim) else None
            hashes, chosen = self._choose(drawn, sample, rng, n_threads)
        learned = {"_hashes": hashes, "_sketcher": sketches, "_dim": dim, "_vectors": Vectors(), **chosen}
        return lambda: vars(self).update(learned)

    @abstractmethod
    def _choose(
        self, drawn: DrawnRows, sample: Array, rng: np.random.Generator, n_threads: int
    ) -> tuple[_native.LSHHashes, dict[str, Any]]:
        """The hash functions, and the attributes of an index without rows that uses them."""

    def _neighbour_distance(self, drawn: DrawnRows, rng: np.random.Generator, n_threads: int) -> float:
        """Median distance (not squared) of sampled rows to their 10th neighbour among at most 131,072 rows of X."""
        rows = self._metric.prepare(drawn.some(NEIGHBOUR_ROWS, rng), n_threads)
        rows, power = unit_sized(rows, n_threads)
        queries = np.ascontiguousarray(_some(rows, NEIGHBOUR_QUERIES, rng), dtype=np.float32)
        k = min(NEIGHBOUR + 1, len(rows))  # the first neighbour is the row itself
        squared, _ = tuning.exact(rows, queries, k, None, L2, n_threads)
        median = float(np.median(squared[:, -1]))
        if median == 0:
            positive = squared[squared > 0]
            if not len(positive):
                raise ValueError(
                    "width: expected a number, got None for an X with too many equal rows: pass width, a few times "
                    "the distance of near neighbours"
                )
            median = float(np.median(positive))
        return math.ldexp(math.sqrt(median), -power)

    def _draw(
        self, n_tables: int, n_hashes: int, width: float, centre: Float32, rng: np.random.Generator
    ) -> _native.LSHHashes:
        """Draw hash functions with buckets of this width."""
        if width < LEAST_WIDTH:
            raise ValueError(
                f"width: expected buckets of at least {LEAST_WIDTH:g}, got {width:.3g} from the distances of the rows "
                "of X: scale X up"
            )
        columns, d = n_tables * n_hashes, len(centre)
        directions = np.empty((columns, d), dtype=np.float32)
        for direction in directions:  # one draw of all directions would take four times the memory
            direction[:] = rng.standard_normal(d) / width
        shifts = rng.random(columns, dtype=np.float32)
        mixers = rng.integers(0, 1 << 64, columns, dtype=np.uint64)
        return hashes_of(n_tables, n_hashes, centre, directions, shifts, mixers)

    def _sketches(self, x: Array, n_threads: int) -> Any:
        """The sketches of prepared rows, uint8 (n, size); None if the index uses no sketches."""
        if self._sketcher is None:
            return None
        out = np.empty((len(x), self._sketch_size), dtype=np.uint8)
        self._sketcher.sketch(x, out, n_threads)
        return out

    @writes
    @adds_blocks
    def add(self: Self, X: Rows, ids: ArrayLike | None = None) -> Self:
        """Hash and add vectors.

        Parameters
        ----------
        X : array (n, d), memory-mapped or not, Dask array (n, d), or iterable of arrays (n_i, d)
            The index keeps the dtype (float32, float16, bfloat16, uint8, int8; float64 becomes float32). "cosine" keeps
            vectors of length 1, rounded to float16 or bfloat16 if X has this type, else float32. Input that is not in
            memory is read in pieces: one Dask chunk, one item of the iterable, or 2**18 rows of a memory-mapped array.
        ids : int array (n,), optional
            Unique, not in the index, at least 0. By default, ids continue after the largest id used so far.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained, or X or ids are not as described. The index is then unchanged.
        """
        self._add(X, ids)
        return self

    def _adding(self, x: Array, ids: Int64, kept: Array | None, leaving: Int64, n_threads: int) -> Addition:
        prepared = x if kept is None or not self._metric.unit_length else kept
        with progress.stage("hashes", len(x), "rows"):
            return self._hashing(prepared, n_threads) if len(x) else Addition(no_op)

    def _reserve(self, n: int) -> None:
        self._vectors.reserve(n)

    def _training(self) -> dict[str, Any]:
        names = [name for name in ("n_tables", "n_hashes", "width") if hasattr(self, name)]
        return {
            **super()._training(), **{name: getattr(self, name) for name in names},
            "hash functions": None if self._hashes is None else self._hashes.arguments,
            "sketches": None if self._sketcher is None else self._sketcher.arguments,
        }  # fmt: skip

    @abstractmethod
    def _hashing(self, x: Array, n_threads: int) -> Addition:
        """Hash at least one prepared row, for the addition of its hashes."""

    def _scan(
        self, queries: Float32, power: int, answers: _native.Answers, allowed: Bits | None, n_threads: int, **_: Any
    ) -> None:
        """Scan all vectors: a range search is exact and does not use the hashes."""
        _native.flat_search(
            self._vectors.data, None, queries, self._ids.native, allowed, self._metric.kernel, answers, n_threads
        )

    @abstractmethod
    def _find(self, effort: int | None) -> Nearest:
        """The search with this number of buckets to probe or candidates to verify; None: the default."""

    def _nearest(
        self, queries: Float32, k: int, allowed: Bits | None, n_threads: int, **_: Any
    ) -> tuple[Float32, Int64]:
        return self._find(None)(queries, k, allowed, n_threads)

    @staticmethod
    @abstractmethod
    def _efforts(k: int, n: int) -> Iterable[dict[str, int]]:
        """The settings that `tune` measures for k neighbours among n rows, in ascending order of cost."""

    def _tune(self, Q: Any, k: int, recall: float, n_threads: int | None) -> tuning.Tuning:
        """Measure settings in ascending order, up to the first that reaches the recall, and set it."""
        count = threads.resolve(self.n_threads if n_threads is None else n_threads)
        k = _checks.integer("k", k, 1)
        recall = tuning.recall_target(recall)
        queries, _ = self._queries(gathered(Q, self.dim), count)
        if not len(queries):
            raise ValueError("Q: expected at least one query, got none")
        if not len(self):
            raise ValueError("tune: expected vectors in the index, got an empty index")
        k = min(k, len(self))
        _, truth = tuning.exact(self._vectors.data, queries, k, self._ids.native, self._metric, count)

        def search(setting: dict[str, int]) -> Int64:
            (effort,) = setting.values()
            return self._find(effort)(queries, k, None, count)[1]

        tuned = tuning.tune(search, self._efforts(k, len(self)), truth, recall)
        vars(self).update(tuned.best.setting)
        return tuned

    def _shared_state(self, chosen: dict[str, Any]) -> State:
        """The state that a file stores for all LSH indexes; `chosen` are the parameters that `fit` chose."""
        state = State({"metric": self.metric, "seed": self.seed, "dim": self.dim, "chosen": None}, {})
        if self._hashes is not None:
            state.params["chosen"] = chosen
            n_tables, n_hashes, centre, packed, shifts, mixers = self._hashes.arguments
            columns = n_tables * n_hashes
            state.arrays.update(
                hash_centre=centre, hash_directions=unpack(packed, columns, len(centre)),
                hash_shifts=shifts[:columns], hash_mixers=mixers,
            )  # fmt: skip
        if self._sketcher is not None:
            centre, packed, _, least, scale = self._sketcher.arguments
            state.params["sketch_scale"] = as_number(scale)
            directions = unpack(packed, len(least) - 1, len(centre))
            state.arrays.update(sketch_centre=centre, sketch_directions=directions, sketch_least=least)
        return state.joined(self._ids.state(), self._vectors.state())

    def _restore_shared(self, stored: Stored) -> None:
        """Read the state of `_shared_state`, without the chosen parameters and the hash functions."""
        self._ids = Ids.from_state(stored)
        dim = stored.optional_count("dim", 1)
        if dim is None:
            if len(self):
                raise FormatError(f"n: expected 0 for an index that is not trained, got {len(self)}")
            return
        if len(self) > MAX_ROWS:
            raise FormatError(f"n: expected at most {MAX_ROWS}, got {len(self)}")
        self._dim = dim
        if len(self) or stored.has("vectors"):
            self._vectors = Vectors.from_state(stored, len(self), dim)
        if size := self._sketch_size:
            scale = stored.number("sketch_scale")
            if not 0 < scale < math.inf:
                raise FormatError(f"sketch_scale: expected a finite number above 0, got {scale}")
            centre = stored.array("sketch_centre", np.float32, (dim,), finite)
            directions = stored.array("sketch_directions", np.float32, (size - 1, dim), finite)
            least = stored.array("sketch_least", np.float32, (size,), finite)
            self._sketcher = sketcher_of(centre, directions, least, scale)

    def _restore_hashes(self, stored: Stored, n_tables: int, n_hashes: int) -> None:
        assert self._dim is not None
        columns = n_tables * n_hashes
        self._hashes = hashes_of(
            n_tables, n_hashes, stored.array("hash_centre", np.float32, (self._dim,), finite),
            stored.array("hash_directions", np.float32, (columns, self._dim), finite),
            stored.array("hash_shifts", np.float32, (columns,), from_0_to_1),
            stored.array("hash_mixers", np.uint64, (columns,)),
        )  # fmt: skip


from_0_to_1 = Check("numbers from 0 to 1", lambda array: bool(((array >= 0) & (array <= 1)).all()))


def hashes_of(
    n_tables: int, n_hashes: int, centre: Float32, directions: Float32, shifts: Float32, mixers: Array
) -> _native.LSHHashes:
    """Hash functions in the layout of the kernels; directions (n_tables * n_hashes, d) are divided by the width."""
    padded = np.zeros(-(-len(shifts) // 16) * 16, dtype=np.float32)
    padded[: len(shifts)] = shifts
    return _native.LSHHashes(n_tables, n_hashes, centre, pack(directions, len(centre)), padded, mixers)


def width_in_range(name: str, value: Any, buckets: float) -> float:
    """Check a width that spans `buckets` buckets."""
    width, least = _checks.positive(name, value), LEAST_WIDTH * buckets
    if width < least:
        raise ValueError(f"{name}: expected at least {least:g}, the limit of float32, got {width:g}")
    return width


def pair_distances(sample: Array, rng: np.random.Generator) -> Float64:
    """Distances between distinct rows of a sample, at most 64 x 1024 pairs; [0] if all rows are equal."""
    left, right = (_some(sample, n, rng).astype(np.float64) for n in (64, 1024))
    squared = (left**2).sum(1)[:, None] + (right**2).sum(1) - 2 * left @ right.T
    distances = np.sqrt(np.maximum(squared, 0)).ravel()
    return distances[distances > 0] if distances.any() else np.zeros(1)


def _some(x: Array, n: int, rng: np.random.Generator) -> Array:
    chosen = sample_rows(len(x), n, rng, shuffle=True)
    return x if chosen is None else x[chosen]
