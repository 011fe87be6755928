"""The levels of 4-bit codes: 16 values of least squared error for numbers of a distribution (Max 1960; Lloyd 1982)."""

from __future__ import annotations

import numpy as np

from fpq._checks import Array, Float64, Int64, UInt8

LEVELS = 16
ZERO = 64  # the level of 0; levels are below 2 * ZERO
BINS = 1 << 12
REACH = 8.0  # standard deviations on either side of 0 that the bins span
ROUNDS = 50
_CENTRES: Float64 = np.linspace(-REACH, REACH, 2 * BINS + 1)[1::2]


def counted(x: Array) -> Int64:
    """How many of the numbers x, in standard deviations, are in each bin: int64 (BINS,)."""
    bins = np.clip(np.floor((x + REACH) * (BINS / (2 * REACH))), 0, BINS - 1)
    return np.bincount(bins.astype(np.int64).ravel(), minlength=BINS)


def learned(counts: Int64) -> tuple[UInt8, float]:
    """The levels for numbers of these counts, and the range that ``levels - ZERO`` spans on either side."""
    values = _least_squares(counts)
    reach = float(np.abs(values).max())
    return _rounded(values / (reach / (ZERO - 1))), reach


def uniform() -> UInt8:
    """Levels in equal steps, which files without levels mean."""
    return np.arange(LEVELS, dtype=np.uint8) * np.uint8(8) + np.uint8(4)


def _nearest(values: Float64, x: Float64) -> Int64:
    return np.searchsorted((values[1:] + values[:-1]) / 2, x)


def _least_squares(counts: Int64) -> Float64:
    """The means of the numbers that are nearest to each of them, in ascending order."""
    dense = np.cumsum(np.cbrt(counts))
    values: Float64 = _CENTRES[np.searchsorted(dense, (np.arange(LEVELS) + 0.5) * (dense[-1] / LEVELS))]
    for _ in range(ROUNDS):
        nearest = _nearest(values, _CENTRES)
        total, n = (np.bincount(nearest, weights, LEVELS) for weights in (counts * _CENTRES, counts))
        values = np.divide(total, n, out=values, where=n > 0)
    return values


def _rounded(values: Float64) -> UInt8:
    """Different levels from 1 on, ascending, near the values."""
    rank = np.arange(LEVELS)
    low = np.maximum.accumulate(np.rint(values).astype(np.int64) + ZERO - rank) + rank
    levels = np.clip(low, 1 + rank, 2 * ZERO - LEVELS + rank)
    return levels.astype(np.uint8)
