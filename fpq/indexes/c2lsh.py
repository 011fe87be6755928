"""Locality-sensitive hashing by counting collisions: C2LSH with query-centred windows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fpq import _checks, _native, _settings, tuning
from fpq._arrays import GrowingArray
from fpq._checks import Array, Float32, Int64
from fpq.indexes.base import Bits, Nearest, SearchResult
from fpq.indexes.lsh import LSHIndex, LSHStats, collision_probability, sketch_size, width_in_range
from fpq.indexes.parts.ids import Commit, Removal
from fpq.indexes.parts.lock import reads
from fpq.storage import State, Stored

BLOCK_ROWS = 64
MAX_HASHES = 255  # a count is one byte
WINDOW = 10.0  # half a window of the first level, in base buckets
LEAST_RATIO = 1.01  # nearer to 1, a search would go through thousands of levels
STEP = 1.25  # between the numbers of candidates that `tune` measures


def _width(name: str, value: Any) -> float:
    return width_in_range(name, value, 2 * WINDOW)


def _ratio(name: str, value: Any) -> float:
    number = _checks.real(name, value)
    if number < LEAST_RATIO:
        least = "a number above 1" if number <= 1 else f"at least {LEAST_RATIO}"
        raise ValueError(f"{name}: expected {least}, got {number}")
    return number


class C2LSHIndex(LSHIndex, kind="C2LSHIndex"):
    """Nearest neighbours among the vectors whose hashes collide often with the query's, by exact distances.

    A vector has one hash for each of ``n_hashes`` functions. It collides with a query where its projection lies in a
    window of ``width`` around the query's; it becomes a candidate with ``threshold`` collisions. If that does not find
    enough, the windows grow by ``ratio``, level by level (virtual rehashing), until one of two things holds at the end
    of a level: k candidates lie within ``ratio`` times the level's radius, or ``k + beta * n`` candidates are found. A
    level's radius is the distance for which its window is best, ``width * ratio**level / w`` with
    w = sqrt(8 ratio^2 ln(ratio) / (ratio^2 - 1)). Then, with a probability of at least 1/2 - delta over the functions,
    the nearest vector found is at most ratio^2 times as far as the true one, and ratio times if that one lies just
    within a level's radius.

    FPQ paper, section II.A; Gan et al., SIGMOD 2012 (C2LSH), with the windows of Huang et al., VLDB 2015 (QALSH), which
    need fewer functions for the same guarantee than fixed buckets. Projections are kept as buckets of a twentieth of a
    window modulo 256, one byte each, and counted for all rows: a few instructions for 64 of them. When a window
    holds all 256, all rows are verified. Within a level, candidates with more collisions come first.

    A row takes ``n_hashes`` bytes, a sketch of 16 to 64 bytes from 32 dimensions on (which spares most distances and
    changes no result), and the vector as it came. "cosine" scales vectors to length 1. Any number of threads may search
    at the same time; a call that changes the index waits for them, and they for it. Results do not depend on the number
    of threads.

    Parameters
    ----------
    n_hashes : int, optional
        1 to 255. Default: as many as delta and beta take (Hoeffding's inequality; Huang et al., section 5).
    threshold : int, optional
        1 to n_hashes. Default: between the expected collisions at a level's radius and at ratio times that.
    width : float, optional
        Window of the first level, in units of distance (not squared). Default: that for the median distance of a row
        to its 10th neighbour, among at most 131,072 rows of X.
    ratio : float, default 2.0
        The c of c-approximate search, at least 1.01.
    delta : float, default 1/e
        Bound of the probability that a vector within a level's radius is not a candidate there, between 0 and 1.
    beta : float, default 0.01
        Share of the rows, beyond ratio times the radius, that may be candidates at a level, between 0 and 1.
    metric : {"l2", "cosine"}, default "l2"
    seed : int, default 0
    n_threads : int or None, default None
        Threads; None is what the environment says.

    Attributes
    ----------
    n_hashes, threshold, width
        As given, or as chosen by `fit`.
    n_candidates : int or None
        What `search` uses unless told: None, or what `tune` chose.
    last_stats : LSHStats or None
        What the last search did.

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
        n_hashes: int | None = None,
        threshold: int | None = None,
        width: float | None = None,
        *,
        ratio: float = 2.0,
        delta: float = 1 / math.e,
        beta: float = 0.01,
        metric: str = "l2",
        seed: int = 0,
        n_threads: int | None = None,
    ) -> None:
        super().__init__(metric, seed, n_threads)
        self.ratio, self.delta, self.beta = ratio, delta, beta
        if n_hashes is not None:
            n_hashes = _checks.integer("n_hashes", n_hashes, 1, MAX_HASHES)
        chosen, least = self._formulas(n_hashes)
        if threshold is not None:
            threshold = _checks.integer("threshold", threshold, 1)
            if threshold > chosen:
                raise ValueError(f"threshold: expected at most n_hashes = {chosen} collisions, got {threshold}")
        self.n_hashes = chosen
        self.threshold = least if threshold is None else threshold
        self.width = width
        self._given_width = self.width
        self.n_candidates = None
        vars(self).update(self._no_rows(0))

    def _formulas(self, n_hashes: int | None) -> tuple[int, int]:
        """How many functions, and the threshold: Huang et al. 2015, section 5.

        With p1 and p2 the probabilities of a collision at the radius and at ratio times it, and alpha * m as threshold,
        Hoeffding's inequality bounds the misses by delta if m >= ln(1/delta) / (2 (p1 - alpha)^2) and the false ones by
        beta/2 if m >= ln(2/beta) / (2 (alpha - p2)^2).
        """
        p1, p2 = collision_probability([1.0, self.ratio], self._base_width(1.0), WINDOW)
        miss, false = math.sqrt(-math.log(self.delta)), math.sqrt(math.log(2) - math.log(self.beta))
        if n_hashes is None:
            n_hashes = math.ceil((miss + false) ** 2 / (2 * (p1 - p2) ** 2))
            if n_hashes > MAX_HASHES:
                raise ValueError(
                    f"ratio, delta, beta: {n_hashes} hash functions would be needed for {self.ratio}, {self.delta:g}, "
                    f"{self.beta:g}, there can be {MAX_HASHES}: raise one of them, or pass n_hashes"
                )
        alpha = (false * p1 + miss * p2) / (false + miss)
        return n_hashes, max(1, math.ceil(alpha * n_hashes))

    def _window(self) -> float:
        """The best window for the radius 1: Huang et al. 2015, section 5.3."""
        log = math.log(self.ratio)
        return math.sqrt(8 * log / -math.expm1(-2 * log))  # ratio**2 may overflow

    def _base_width(self, radius: float) -> float:
        return self._window() * radius / (2 * WINDOW)

    @property
    def radius(self) -> float | None:
        """Distance (not squared) that the first level is made for; None until a width is known."""
        return None if self.width is None else self.width / self._window()

    @property
    def nbytes(self) -> int:
        """Bytes that the index holds in arrays."""
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
        return hashes, {"width": width, "n_candidates": None, **self._no_rows(sketch_size(x.shape[1]))}

    def _no_rows(self, size: int) -> dict[str, Any]:
        """The attributes of an index without rows, with sketches of `size` bytes."""
        return {
            "_blocks": GrowingArray((self.n_hashes, BLOCK_ROWS), np.uint8),
            "_row_sketches": GrowingArray((size,), np.uint8) if size else None,
        }

    def _hashing(self, x: Array, n_threads: int) -> Commit:
        assert self._hashes is not None
        first, n = len(self), len(self) + len(x)
        codes = np.empty((len(x), self.n_hashes), dtype=np.uint8)
        self._hashes.buckets(x, codes, n_threads)
        sketches = self._sketches(x, n_threads)
        rows = np.arange(first, n)
        self._blocks.reserve(-(-n // BLOCK_ROWS))
        if self._row_sketches is not None:
            self._row_sketches.reserve(n)

        def commit() -> None:
            _native.put_codes(codes, rows, self._blocks.data)
            if self._row_sketches is not None:
                self._row_sketches.data[first:n] = sketches

        return commit

    def _removing(self, removal: Removal) -> Commit:
        codes = np.empty((len(removal.sources), self.n_hashes), dtype=np.uint8)
        _native.get_codes(self._blocks.data, removal.sources, codes)
        freed = np.arange(len(self) - len(removal.rows), len(self))
        nothing = np.zeros((len(freed), self.n_hashes), dtype=np.uint8)  # nothing removed gets into a file
        sketches = None if self._row_sketches is None else self._row_sketches.data[removal.sources]

        def commit() -> None:
            _native.put_codes(codes, removal.targets, self._blocks.data)
            _native.put_codes(nothing, freed, self._blocks.data)
            if self._row_sketches is not None:
                self._row_sketches.data[removal.targets] = sketches

        return commit

    @reads
    def search(
        self,
        Q: Any,
        k: int = 10,
        *,
        n_candidates: int | None = None,
        allowed: Any = None,
        n_threads: int | None = None,
    ) -> SearchResult:
        """The k nearest vectors of each query among the candidates; ties by id.

        Parameters
        ----------
        Q : array (nq, d) or (d,)
        k : int, default 10
        n_candidates : int, optional
            In place of the threshold and the stop rules: so many rows, those with the most collisions, at the first
            level where so many rows collide at all. Default: the attribute `n_candidates`; if that is None, threshold
            and stop rules hold.
        allowed : array of ids, or boolean mask by id, optional
            Only these may be returned.
        n_threads : int, optional

        Returns
        -------
        SearchResult
            Exact distances; id -1 where fewer than k vectors were found.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained or an argument is not as described.
        """
        return self._search(Q, k, allowed, n_threads, self._find(n_candidates))

    def _find(self, effort: int | None) -> Nearest:
        wanted = self.n_candidates if effort is None else effort
        if wanted is not None:
            wanted = _checks.integer("n_candidates", wanted, 1)

        def find(queries: Float32, k: int, allowed: Bits | None, n_threads: int) -> tuple[Float32, Int64]:
            distances = np.empty((len(queries), k), dtype=np.float32)
            ids = np.empty((len(queries), k), dtype=np.int64)
            stats = np.empty((len(queries), 3), dtype=np.int64)
            by_rules = wanted is None
            budget = k + math.ceil(self.beta * len(self)) if wanted is None else max(k, wanted)
            sketches = None if self._row_sketches is None else self._row_sketches.data
            _native.c2lsh_search(
                self._hashes, self._blocks.data, WINDOW, self.radius, self.ratio, self.threshold if by_rules else 1,
                min(budget, len(self)), by_rules, self._vectors.data, self._sketcher, sketches, self._ids.native,
                allowed, self._metric.inner_product, queries, distances, ids, stats, n_threads,
            )  # fmt: skip
            self.last_stats = LSHStats(*stats.T.copy())
            return distances, ids

        return find

    @reads
    def tune(self, Q: Any, k: int = 10, recall: float = 0.95, *, n_threads: int | None = None) -> tuning.Tuning:
        """Set `n_candidates` to the least number that reaches a recall on sample queries.

        Numbers from k to all rows are tried in steps of a quarter, the smallest first, against exact search.

        Parameters
        ----------
        Q : array (nq, d)
            Queries like those to come; not the rows in the index, which find themselves.
        k : int, default 10
        recall : float, default 0.95
            Share of the k true neighbours that must be found.
        n_threads : int, optional

        Returns
        -------
        fpq.tuning.Tuning
            What was measured; prints as a table.

        Raises
        ------
        ValueError, TypeError
            If the index is empty or not trained, or an argument is not as described. `n_candidates` is then as before.
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
        vars(index).update(index._no_rows(size))
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
