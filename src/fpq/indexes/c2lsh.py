"""Locality-sensitive hashing by collision counting: C2LSH with query-centred windows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _native, _settings, progress, tuning
from fpq._arrays import GrowingArray
from fpq._checks import Array, Float32, Int64
from fpq.indexes.base import Bits, Nearest, SearchResult
from fpq.indexes.changes import Addition
from fpq.indexes.lsh import LSHIndex, LSHStats, collision_probability, sketch_size, width_in_range
from fpq.indexes.parts.ids import Commit, Removal, no_op
from fpq.indexes.parts.lock import reads
from fpq.indexes.parts.vectors import Vectors
from fpq.metric import MetricName
from fpq.storage import State, Stored

BLOCK_ROWS = 64
MAX_HASHES = 255  # a count is one byte
WINDOW = 10.0  # half the window of the first level, in base buckets
LEAST_RATIO = 1.01  # with a smaller ratio, a search would pass through thousands of levels
STEP = 1.25  # ratio of consecutive numbers of candidates that `tune` measures


def _width(name: str, value: Any) -> float:
    return width_in_range(name, value, 2 * WINDOW)


def _ratio(name: str, value: Any) -> float:
    number = _checks.real(name, value)
    if number < LEAST_RATIO:
        least = "a number above 1" if number <= 1 else f"at least {LEAST_RATIO}"
        raise ValueError(f"{name}: expected {least}, got {number}")
    return number


class C2LSHIndex(LSHIndex, kind="C2LSHIndex"):
    """Nearest neighbours among the vectors whose hashes often collide with those of the query, by exact distances.

    A vector has one hash per function, ``n_hashes`` in all. In one function, a vector collides with a query if the
    projection of the vector lies in a window of ``width`` around the projection of the query. A vector with
    ``threshold`` collisions is a candidate. The windows grow by ``ratio``, level by level (virtual rehashing). The
    search stops at the end of the first level at which k candidates lie within ``ratio`` times the radius of the level,
    or ``k + beta * n`` candidates are found. The radius of a level is the distance for which its window is optimal,
    ``width * ratio**level / w`` with w = sqrt(8 ratio^2 ln(ratio) / (ratio^2 - 1)). With a probability of at least
    1/2 - delta over the functions, the distance of the nearest vector found is at most ratio^2 times the distance
    of the true nearest, and at most ratio times if that distance is just below the radius of a level.

    FPQ paper, section II.A; Gan et al., SIGMOD 2012 (C2LSH), with the windows of Huang et al., VLDB 2015 (QALSH), which
    need fewer functions than fixed buckets for the same guarantee. A projection is kept as one byte: the number of a
    bucket of a twentieth of a window, modulo 256. Collisions are counted for all rows, 64 rows in a few instructions.
    When a window holds all 256 buckets, all rows are verified. Within a level, candidates with more collisions come
    first.

    A row takes ``n_hashes`` bytes, from 32 dimensions on a sketch of 16 to 64 bytes (which avoids most exact distances
    and does not change results), and the vector in the dtype of the input. "cosine" scales vectors to length 1 and
    keeps them as a `FlatIndex` does. Any number of threads may search at the same time. A call that changes the index
    runs alone. Results do not depend on the number of threads.

    Parameters
    ----------
    n_hashes : int, optional
        Number of hash functions, 1 to 255. Default: the number that delta and beta require (Hoeffding's inequality;
        Huang et al., section 5).
    threshold : int, optional
        Collisions that make a candidate, 1 to n_hashes. Default: between the expected collisions at the radius of a
        level and at ratio times the radius.
    width : float, optional
        Window of the first level, in units of distance (not squared). Default: the optimal window for the median
        distance of a row to its 10th neighbour among at most 131,072 rows of X.
    ratio : float, default 2.0
        The c of c-approximate search, at least 1.01.
    delta : float, default 1/e
        Bound of the probability that a vector within the radius of a level is not a candidate, between 0 and 1.
    beta : float, default 0.01
        Share of the rows that may be false candidates, farther than ratio times the radius, between 0 and 1.
    metric : {"l2", "cosine"}, default "l2"
    seed : int, default 0
    n_threads : int or None, default None
        Number of threads. None: all available cores, or OMP_NUM_THREADS.

    Attributes
    ----------
    n_hashes, threshold, width
        As given, or as chosen (width: by `fit`).
    n_candidates : int or None
        Default of the argument `n_candidates` of `search`. Initially None; `tune` sets a number.
    last_stats : LSHStats or None
        Statistics of the last search.

    Examples
    --------
    >>> import numpy as np, fpq
    >>> X = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32)
    >>> index = fpq.C2LSHIndex().fit(X).add(X)
    >>> distances, ids = index.search(X[:3], k=5)
    >>> ids[:, 0].tolist()
    [0, 1, 2]
    """

    n_hashes = _settings.Fixed[int](_settings.checked)
    threshold = _settings.Fixed[int](_settings.checked)
    width = _settings.Fixed(_settings.optional(_width))
    ratio = _settings.Fixed(_ratio)
    delta = _settings.Fixed(_checks.fraction)
    beta = _settings.Fixed(_checks.fraction)
    n_candidates = _settings.Setting(_settings.optional(_settings.integer(1)))

    _state_names: tuple[str, ...] = ("width", "n_candidates", "_blocks", "_row_sketches")

    _blocks: GrowingArray  # (blocks, n_hashes, BLOCK_ROWS)
    _row_sketches: GrowingArray | None

    def __init__(
        self,
        *,
        n_hashes: int | None = None,
        threshold: int | None = None,
        width: float | None = None,
        ratio: float = 2.0,
        delta: float = 1 / math.e,
        beta: float = 0.01,
        metric: MetricName = "l2",
        seed: int = 0,
        n_threads: int | None = None,
    ) -> None:
        super().__init__(metric, seed, n_threads)
        self.ratio, self.delta, self.beta = ratio, delta, beta
        if n_hashes is not None:
            n_hashes = _checks.integer("n_hashes", n_hashes, 1, MAX_HASHES)
        chosen, default = self._formulas(n_hashes)
        if threshold is not None:
            threshold = _checks.integer("threshold", threshold, 1)
            if threshold > chosen:
                raise ValueError(f"threshold: expected at most n_hashes = {chosen} collisions, got {threshold}")
        self.n_hashes = chosen
        self.threshold = default if threshold is None else threshold
        self.width = width
        self._given_width = self.width
        self.n_candidates = None
        vars(self).update(self._no_rows())

    def _formulas(self, n_hashes: int | None) -> tuple[int, int]:
        """The number of functions and the default threshold: Huang et al. 2015, section 5.

        Let p1 and p2 be the collision probabilities at the radius and at ratio times the radius, and alpha * m the
        threshold. Hoeffding's inequality bounds the share of misses by delta if m >= ln(1/delta) / (2 (p1 - alpha)^2),
        and the share of false candidates by beta/2 if m >= ln(2/beta) / (2 (alpha - p2)^2).
        """
        p1, p2 = collision_probability([1.0, self.ratio], self._base_width(1.0), WINDOW)
        miss, false = math.sqrt(-math.log(self.delta)), math.sqrt(math.log(2) - math.log(self.beta))
        if n_hashes is None:
            n_hashes = math.ceil((miss + false) ** 2 / (2 * (p1 - p2) ** 2))
            if n_hashes > MAX_HASHES:
                raise ValueError(
                    f"ratio, delta, beta: expected values that need at most {MAX_HASHES} hash functions, got "
                    f"{self.ratio}, {self.delta:g}, {self.beta:g}, which need {n_hashes}: raise one, or pass n_hashes"
                )
        alpha = (false * p1 + miss * p2) / (false + miss)
        return n_hashes, max(1, math.ceil(alpha * n_hashes))

    def _window(self) -> float:
        """The optimal window for radius 1: Huang et al. 2015, section 5.3."""
        log = math.log(self.ratio)
        return math.sqrt(8 * log / -math.expm1(-2 * log))  # ratio**2 may overflow

    def _base_width(self, radius: float) -> float:
        return self._window() * radius / (2 * WINDOW)

    @property
    def radius(self) -> float | None:
        """Radius of the first level, a distance (not squared); None until the width is known."""
        return None if self.width is None else self.width / self._window()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays of the index."""
        sketches = 0 if self._row_sketches is None else self._row_sketches.data.nbytes
        return self._blocks.data.nbytes + sketches + self._vectors.nbytes + self._ids.nbytes

    def _choose(
        self, x: Array, sample: Array, rng: np.random.Generator, n_threads: int
    ) -> tuple[_native.LSHHashes, dict[str, Any]]:
        width = self._given_width
        if width is None:
            width = self._window() * self._neighbour_distance(x, rng, n_threads)
        centre = sample.mean(0, dtype=np.float64).astype(np.float32)
        hashes = self._draw(1, self.n_hashes, width / (2 * WINDOW), centre, rng)
        return hashes, {"width": width, "n_candidates": None, **self._no_hashes(sketch_size(x.shape[1]))}

    def _no_rows(self) -> dict[str, Any]:
        return {"_vectors": Vectors(), **self._no_hashes(self._sketch_size)}

    def _no_hashes(self, size: int) -> dict[str, Any]:
        """Attributes of an index without rows, with sketches of `size` bytes."""
        return {
            "_blocks": GrowingArray((self.n_hashes, BLOCK_ROWS), np.uint8),
            "_row_sketches": GrowingArray((size,), np.uint8) if size else None,
        }

    def _hashing(self, x: Array, n_threads: int) -> Addition:
        assert self._hashes is not None
        first, n = len(self), len(self) + len(x)
        codes = np.empty((len(x), self.n_hashes), dtype=np.uint8)
        self._hashes.buckets(x, codes, n_threads)
        sketches = self._sketches(x, n_threads)
        rows = np.arange(first, n)
        self._blocks.reserve(-(-n // BLOCK_ROWS))
        if self._row_sketches is not None:
            self._row_sketches.reserve(n)

        def write(advance: progress.Advance) -> None:
            _native.put_codes(codes, rows, self._blocks.data, n_threads)
            if self._row_sketches is not None:
                _native.copy_rows(sketches, None, self._row_sketches.data[first:n], n_threads)
            advance(len(x))

        return Addition(no_op, write, self._clearing())

    def _clearing(self) -> Commit:
        """A function that zeroes the codes behind the last row in its block, as files hold whole blocks."""
        tail = np.arange(len(self), -(-len(self) // BLOCK_ROWS) * BLOCK_ROWS, dtype=np.int64)
        zeros = np.zeros((len(tail), self.n_hashes), np.uint8)
        return lambda: _native.put_codes(zeros, tail, self._blocks.data)

    def _removing(self, removal: Removal, places: Int64) -> Commit:
        codes = np.empty((len(removal.sources), self.n_hashes), dtype=np.uint8)
        _native.get_codes(self._blocks.data, removal.sources, codes)
        freed = np.arange(len(self) - len(removal.rows), len(self))
        zeros = np.zeros((len(freed), self.n_hashes), dtype=np.uint8)  # files must not hold removed codes
        sketches = None if self._row_sketches is None else self._row_sketches.data[removal.sources]

        def commit() -> None:
            _native.put_codes(codes, removal.targets, self._blocks.data)
            _native.put_codes(zeros, freed, self._blocks.data)
            if self._row_sketches is not None:
                self._row_sketches.data[removal.targets] = sketches

        return commit

    @reads
    def search(
        self,
        Q: ArrayLike,
        k: int = 10,
        *,
        n_candidates: int | None = None,
        allowed: ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> SearchResult:
        """The k nearest vectors of each query among the candidates; the lower id wins ties.

        Parameters
        ----------
        Q : array (nq, d) or (d,)
        k : int, default 10
        n_candidates : int, optional
            Replaces the threshold and the stop rules: verify the `n_candidates` rows with the most collisions, at the
            first level at which that number of rows collide at least once. Default: the attribute `n_candidates`; if
            the attribute is None, the threshold and the stop rules apply.
        allowed : array of ids, or boolean mask by id, optional
            Return only these ids.
        n_threads : int, optional

        Returns
        -------
        SearchResult
            Exact distances; id -1 where fewer than k vectors are found.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained or an argument is not as described.
        """
        return self._search(Q, k, allowed, n_threads, self._find(n_candidates))

    def _find(self, effort: int | None) -> Nearest:
        n_candidates = self.n_candidates if effort is None else effort
        if n_candidates is not None:
            n_candidates = _checks.integer("n_candidates", n_candidates, 1)

        def find(queries: Float32, k: int, allowed: Bits | None, n_threads: int) -> tuple[Float32, Int64]:
            distances = np.empty((len(queries), k), dtype=np.float32)
            ids = np.empty((len(queries), k), dtype=np.int64)
            stats = np.empty((len(queries), 3), dtype=np.int64)
            by_rules = n_candidates is None
            budget = k + math.ceil(self.beta * len(self)) if n_candidates is None else max(k, n_candidates)
            sketches = None if self._row_sketches is None else self._row_sketches.data
            _native.c2lsh_search(
                self._hashes, self._blocks.data, WINDOW, self.radius, self.ratio, self.threshold if by_rules else 1,
                min(budget, len(self)), by_rules, self._vectors.data, self._sketcher, sketches, self._ids.native,
                allowed, self._metric.kernel, queries, distances, ids, stats, n_threads,
            )  # fmt: skip
            self.last_stats = LSHStats(*stats.T.copy())
            return distances, ids

        return find

    @reads
    @progress.reported
    def tune(self, Q: ArrayLike, k: int = 10, recall: float = 0.95, *, n_threads: int | None = None) -> tuning.Tuning:
        """Set `n_candidates` to the smallest number that reaches a recall on sample queries.

        `tune` compares searches to exact search, with numbers that grow from k to all rows by a quarter per step.

        Parameters
        ----------
        Q : array (nq, d)
            Queries like those of the application. ArrayLike of the index would find themselves.
        k : int, default 10
        recall : float, default 0.95
            Required share of the k true neighbours among the k neighbours found.
        n_threads : int, optional

        Returns
        -------
        fpq.tuning.Tuning
            The measurements; prints as a table.

        Raises
        ------
        ValueError, TypeError
            If the index is empty or not trained, or an argument is not as described. `n_candidates` is then unchanged.
        """
        counts = [min(_checks.integer("k", k, 1), max(1, len(self)))]
        while counts[-1] < len(self):
            counts.append(min(len(self), max(counts[-1] + 1, int(counts[-1] * STEP))))
        tuned = self._tune("n_candidates", counts, Q, k, recall, n_threads)
        self.n_candidates = tuned.best.setting["n_candidates"]
        return tuned

    def _state(self) -> State:
        state = self._shared_state({"width": self.width, "n_candidates": self.n_candidates})
        names = ("n_hashes", "threshold", "ratio", "delta", "beta")
        state.params.update({name: getattr(self, name) for name in names}, width=self._given_width)
        if len(self):
            state.arrays["codes"] = self._blocks.data[: -(-len(self) // BLOCK_ROWS)]
            if self._row_sketches is not None:
                state.arrays["sketches"] = self._row_sketches.data[: len(self)]
        return state

    @classmethod
    def _from_state(cls, stored: Stored) -> C2LSHIndex:
        names = ("n_hashes", "threshold", "width", "ratio", "delta", "beta", "metric", "seed")
        index = cls(**stored.take(*names), n_threads=stored.n_threads)
        index._restore_shared(stored)
        if index._dim is None:
            stored.take("chosen")
            return index
        chosen = stored.part("chosen")
        vars(index).update(width=_checks.positive("width", chosen.number("width")))
        index.n_candidates = chosen.optional_count("n_candidates", 1)
        index._restore_hashes(stored, 1, index.n_hashes)
        n, size = len(index), index._sketch_size
        vars(index).update(index._no_hashes(size))
        if n:
            shape = (-(-n // BLOCK_ROWS), index.n_hashes, BLOCK_ROWS)
            index._blocks = GrowingArray.of(stored.array("codes", np.uint8, shape, bulk=True))
            if size:
                index._row_sketches = GrowingArray.of(stored.array("sketches", np.uint8, (n, size), bulk=True))
        return index

    def __repr__(self) -> str:
        return (
            f"C2LSHIndex(n_hashes={self.n_hashes}, threshold={self.threshold}, width={self.width}, ratio={self.ratio}, "
            f"metric={self.metric!r}, n={len(self)}, dim={self.dim}, nbytes={self.nbytes})"
        )
