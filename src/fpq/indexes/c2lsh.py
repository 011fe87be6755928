"""Locality-sensitive hashing by collision counting: C2LSH with query-centred windows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fpq import _checks, _native, _settings
from fpq._arrays import GrowingArray
from fpq._checks import Array, Float32, Int64
from fpq.indexes.base import Bits
from fpq.indexes.lsh import SAMPLES, DrawnRows, collision_probability, width_in_range
from fpq.indexes.lsh_rows import BLOCK_ROWS, LSHRowsIndex
from fpq.metric import MetricName

MAX_HASHES = 255  # a count is one byte
WINDOW = 10.0  # half the window of the first level, in base buckets
LEAST_RATIO = 1.01  # with a smaller ratio, a search would pass through thousands of levels


def _width(name: str, value: Any) -> float:
    return width_in_range(name, value, 2 * WINDOW)


def _ratio(name: str, value: Any) -> float:
    number = _checks.real(name, value)
    if number < LEAST_RATIO:
        least = "a number above 1" if number <= 1 else f"at least {LEAST_RATIO}"
        raise ValueError(f"{name}: expected {least}, got {number}")
    return number


class C2LSHIndex(LSHRowsIndex, kind="C2LSHIndex"):
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

    _code_type = np.uint8
    _options = ("n_hashes", "threshold", "ratio", "delta", "beta")

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
        super().__init__(metric, seed, n_threads)

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
    def _sample_sizes(self) -> tuple[int, ...]:
        return SAMPLES[: 2 if self._given_width is None else 1]

    def _choose(
        self, drawn: DrawnRows, sample: Array, rng: np.random.Generator, n_threads: int
    ) -> tuple[_native.LSHHashes, dict[str, Any]]:
        width = self._given_width
        if width is None:
            width = self._window() * self._neighbour_distance(drawn, rng, n_threads)
        return self._drawn_hashes(sample, width, 2 * WINDOW, rng)

    def _no_blocks(self) -> GrowingArray:
        return GrowingArray((self.n_hashes, BLOCK_ROWS), np.uint8)

    def _encode(self, x: Array, codes: Array, n_threads: int) -> None:
        assert self._hashes is not None
        self._hashes.buckets(x, codes, n_threads)

    def _put(self, codes: Array, rows: Int64, n_threads: int = 1) -> None:
        _native.put_codes(codes, rows, self._blocks.data, n_threads)

    def _get(self, rows: Int64, codes: Array) -> None:
        _native.get_codes(self._blocks.data, rows, codes)

    def _candidates(
        self, n_candidates: int | None, queries: Float32, sketches: Array | None, allowed: Bits | None,
        distances: Float32, ids: Int64, stats: Int64, n_threads: int,
    ) -> None:  # fmt: skip
        by_rules = n_candidates is None
        k, n = ids.shape[1], len(self)
        budget = min(k + math.ceil(self.beta * n), n) if n_candidates is None else n_candidates
        _native.c2lsh_search(
            self._hashes, self._blocks.data, WINDOW, self.radius, self.ratio, self.threshold if by_rules else 1,
            budget, by_rules, self._vectors.data, self._sketcher, sketches, self._ids.native, allowed,
            self._metric.kernel, queries, distances, ids, stats, n_threads,
        )  # fmt: skip

    def __repr__(self) -> str:
        return (
            f"C2LSHIndex(n_hashes={self.n_hashes}, threshold={self.threshold}, width={self.width}, ratio={self.ratio}, "
            f"metric={self.metric!r}, n={len(self)}, dim={self.dim}, nbytes={self.nbytes})"
        )
