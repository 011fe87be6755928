"""Locality-sensitive hashing by projected distances: PM-LSH with a scan of all codes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fpq import _checks, _native, _settings
from fpq._arrays import GrowingArray
from fpq._checks import Array, Float32, Int64
from fpq.indexes.base import Bits
from fpq.indexes.lsh import SAMPLE_ROWS, DrawnRows, width_in_range
from fpq.indexes.lsh_rows import BLOCK_ROWS, LSHRowsIndex
from fpq.indexes.parts.sketches import unit_sized
from fpq.metric import MetricName

MAX_HASHES = 64
SIDE = 127  # buckets on each side of the centre: a code is one byte
SPREAD = 3.5  # standard deviations of a projection that SIDE buckets hold by default


def _n_hashes(name: str, value: Any) -> int:
    number = _checks.integer(name, value, 4, MAX_HASHES)
    if number % 4:
        raise ValueError(f"{name}: expected a multiple of 4, got {number}")
    return number


def _width(name: str, value: Any) -> float:
    return width_in_range(name, value, 1.0)


def chi_squared_quantile(p: float, m: int) -> float:
    """The x with P(X <= x) = p for a chi-squared variable X with m degrees of freedom; m is even.

    Examples
    --------
    >>> round(chi_squared_quantile(0.95, 16), 3)
    26.296
    """
    low, high = 0.0, 1.0
    while _native.chi_squared(high, m) < p and high < 1e6:
        high *= 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _native.chi_squared(middle, m) < p else (low, middle)
    return high


class PMLSHIndex(LSHRowsIndex, kind="PMLSHIndex"):
    """Nearest neighbours among the vectors whose projections are near those of the query, by exact distances.

    The squared distance of two vectors after ``n_hashes`` Gaussian projections, divided by their squared distance, has
    the chi-squared distribution. So a vector at distance r has a projected distance of at most ``T r`` with probability
    1 - delta, where T^2 is the 1 - delta quantile. A search computes all projected distances and the exact
    distances of vectors in this order. Let r be the projected distance reached so far, divided by T. The search stops

    - when k vectors within ``ratio * r`` are found, or
    - after ``k + beta * n`` vectors, where beta is twice the probability that a vector farther than ``ratio * r`` has a
      projected distance of at most ``T r``.

    With a probability of at least 1/2 - delta over the functions, the distance of the nearest vector found is at most
    ratio times the distance of the true nearest. For the i-th nearest of k, the probability is at least 1/2 - i delta.
    Where beta is at least 1, the second rule never applies, and 1/2 becomes 1. The search then also finds each of
    the k true nearest with a probability of at least beta / 2.

    Zheng et al., VLDB 2020 (PM-LSH), with a scan in place of the tree, and the order and the first stop rule of Sun et
    al., VLDB 2014 (SRS). A projection is kept as one byte, the number of its bucket, clipped to -127 to 126. The rules
    count with the largest error of this rounding, and clipped vectors do not count in the second rule, so that the
    guarantee holds for the bytes.

    A row takes ``n_hashes + 4`` bytes, from 32 dimensions on a sketch of 16 to 64 bytes (which avoids most exact
    distances and does not change results), and the vector in the dtype of the input. "cosine" scales vectors to length
    1 and keeps them as a `FlatIndex` does. Any number of threads may search at the same time. A call that changes the
    index runs alone. Results do not depend on the number of threads.

    Parameters
    ----------
    n_hashes : int, default 16
        Number of projections, a multiple of 4 up to 64.
    width : float, optional
        Width of a bucket, in units of distance (not squared). Default: 127 buckets are 3.5 standard deviations of the
        projections of X.
    ratio : float, default 1.2
        The c of c-approximate search, at least 1.
    delta : float, default 0.01
        Probability that the projected distance of a vector is more than T times its distance, between 0 and 1.
    metric : {"l2", "cosine"}, default "l2"
    seed : int, default 0
    n_threads : int or None, default None
        Number of threads. None: all available cores, or OMP_NUM_THREADS.

    Attributes
    ----------
    width
        As given, or as chosen by `fit`.
    n_candidates : int or None
        Default of the argument `n_candidates` of `search`. Initially None; `tune` sets a number.
    last_stats : LSHStats or None
        Statistics of the last search.

    Examples
    --------
    >>> import numpy as np, fpq
    >>> X = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32)
    >>> index = fpq.PMLSHIndex().fit(X).add(X)
    >>> distances, ids = index.search(X[:3], k=5)
    >>> ids[:, 0].tolist()
    [0, 1, 2]
    """

    n_hashes = _settings.Fixed(_n_hashes)
    width = _settings.Fixed(_settings.optional(_width))
    ratio = _settings.Fixed(_settings.real(1.0))
    delta = _settings.Fixed(_checks.fraction)

    _code_type = np.int8
    _options = ("n_hashes", "ratio", "delta")

    def __init__(
        self,
        *,
        n_hashes: int = 16,
        width: float | None = None,
        ratio: float = 1.2,
        delta: float = 0.01,
        metric: MetricName = "l2",
        seed: int = 0,
        n_threads: int | None = None,
    ) -> None:
        self.n_hashes, self.width, self.ratio, self.delta = n_hashes, width, ratio, delta
        self._reach = math.sqrt(chi_squared_quantile(1 - self.delta, self.n_hashes))
        super().__init__(metric, seed, n_threads)

    @property
    def beta(self) -> float:
        """Share of the rows after which a search stops, not counting errors of rounding; at least 1: never."""
        return 2 * _native.chi_squared((self._reach / self.ratio) ** 2, self.n_hashes)

    @property
    def _sample_sizes(self) -> tuple[int, ...]:
        return (SAMPLE_ROWS,)

    def _choose(
        self, drawn: DrawnRows, sample: Array, rng: np.random.Generator, n_threads: int
    ) -> tuple[_native.LSHHashes, dict[str, Any]]:
        width = self._given_width
        if width is None:
            width = SPREAD / SIDE * _deviation(sample, n_threads)
        return self._drawn_hashes(sample, width, 1, rng)

    def _no_blocks(self) -> GrowingArray:
        """Blocks of norms, then four codes in a number."""
        return GrowingArray((1 + self.n_hashes // 4, BLOCK_ROWS), np.int32)

    def _encode(self, x: Array, codes: Array, n_threads: int) -> None:
        assert self._hashes is not None
        self._hashes.clipped_buckets(x, codes, n_threads)

    def _put(self, codes: Array, rows: Int64, n_threads: int = 1) -> None:
        _native.pmlsh_put(codes, rows, self._blocks.data, n_threads)

    def _get(self, rows: Int64, codes: Array) -> None:
        _native.pmlsh_get(self._blocks.data, rows, codes)

    def _candidates(
        self, n_candidates: int | None, queries: Float32, sketches: Array | None, allowed: Bits | None,
        distances: Float32, ids: Int64, stats: Int64, n_threads: int,
    ) -> None:  # fmt: skip
        _native.pmlsh_search(
            self._hashes, self._blocks.data, self.width, self._reach, self.ratio, n_candidates or 0, self._clipped(),
            self._vectors.data, self._sketcher, sketches, self._ids.native, allowed, self._metric.kernel, queries,
            distances, ids, stats, n_threads,
        )  # fmt: skip

    def _clipped(self) -> int:
        """The number of clipped rows, which the second stop rule does not count; 0 if the rule never applies."""
        if self.beta >= 1:
            return 0
        memo = self._lock.memo
        if "clipped" not in memo:
            memo["clipped"] = _native.pmlsh_clipped(self._blocks.data, len(self), self.n_hashes)
        return int(memo["clipped"])

    def __repr__(self) -> str:
        return (
            f"PMLSHIndex(n_hashes={self.n_hashes}, width={self.width}, ratio={self.ratio}, delta={self.delta}, "
            f"metric={self.metric!r}, n={len(self)}, dim={self.dim}, nbytes={self.nbytes})"
        )


def _deviation(sample: Array, n_threads: int) -> float:
    """The standard deviation of Gaussian projections of the rows: the root of their mean squared length, centred."""
    rows, power = unit_sized(sample, n_threads)
    deviation = math.sqrt(float(rows.var(0, dtype=np.float64).sum()))
    if deviation == 0:
        raise ValueError("width: expected a number, got None for an X of equal rows: pass width")
    return math.ldexp(deviation, -power)
