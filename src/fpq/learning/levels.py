"""The levels of trellis-coded 4-bit codes (csrc/refine/trellis.h): 16 for each of four states of the trellis.

Training begins with the 32 values of least squared error for the numbers of a distribution (Max 1960; Lloyd 1982), of
which each state has every second (Ungerboeck 1982). A level then becomes the mean of the numbers that are coded with
it, by turns with coding (Marcellin and Fischer 1990).
"""

from __future__ import annotations

import numpy as np

from fpq._checks import Array, Float64, Int64, UInt8

STATES, CODES = 4, 16
LEVELS = STATES * CODES
CHAIN = 16  # dimensions
ZERO = 64  # the level of 0; levels are below 2 * ZERO
BINS = 1 << 12
REACH = 8.0  # standard deviations on either side of 0 that the bins span
ROUNDS = 50
_CENTRES: Float64 = np.linspace(-REACH, REACH, 2 * BINS + 1)[1::2]


def counted(x: Array) -> Int64:
    """How many of the numbers x, in standard deviations, are in each bin: int64 (BINS,)."""
    bins = np.clip(np.floor((x + REACH) * (BINS / (2 * REACH))), 0, BINS - 1)
    return np.bincount(bins.astype(np.int64).ravel(), minlength=BINS)


def first_values(counts: Int64) -> Float64:
    """The values (LEVELS,) that training begins with, for numbers of these counts.

    The next state is the upper two bits of a code: values that follow each other lead to different states.
    """
    values = _least_squares(counts, 2 * CODES)
    place = np.arange(CODES)
    of_states = np.empty((STATES, CODES))
    for state, of_state in enumerate(of_states):
        turned = (place + state // 2) % CODES
        of_state[turned % STATES * 4 + turned // STATES] = values[state % 2 :: 2]
    return in_order(of_states)


def in_order(values: Array) -> Array:
    """The values with each four, from a state to the next, in ascending order, which the search for codes needs."""
    return np.sort(values.reshape(-1, STATES), axis=1).ravel()


def rounded(values: Float64, n: Float64) -> tuple[UInt8, float]:
    """The levels for values of n numbers each, and the range that ``levels - ZERO`` spans on either side.

    Few numbers far from the others would make the steps between levels large: the range leaves out values where that
    costs less than the rounding of all others to larger steps.
    """
    size = np.abs(values)
    reaches = np.unique(size[size > 0])
    clipped = np.square(np.maximum(0, size - reaches[:, None])) @ n
    reach = float(reaches[np.argmin(clipped + n.sum() * np.square(reaches / (ZERO - 1)) / 12)])
    return (np.rint(np.clip(values / reach, -1, 1) * (ZERO - 1)) + ZERO).astype(np.uint8), reach


def numbers(first: UInt8) -> UInt8:
    """The numbers of levels (n, dimensions) of rows of the first plane (n, bytes)."""
    codes = np.stack([first & np.uint8(15), first >> np.uint8(4)], axis=-1).reshape(len(first), -1, CHAIN)
    states = np.zeros_like(codes)
    states[..., :-1] = codes[..., 1:] >> np.uint8(2)
    return (states << np.uint8(4) | codes).reshape(len(first), -1)


def of_one_state(levels: UInt8) -> UInt8:
    """16 levels, for codes without a trellis, as those of all states."""
    return np.tile(levels, STATES)


def uniform() -> UInt8:
    """16 levels in equal steps, which files without levels mean."""
    return np.arange(CODES, dtype=np.uint8) * np.uint8(8) + np.uint8(4)


def _nearest(values: Float64, x: Float64) -> Int64:
    return np.searchsorted((values[1:] + values[:-1]) / 2, x)


def _least_squares(counts: Int64, n: int) -> Float64:
    """The n values that are the means of the numbers nearest to them, in ascending order."""
    dense = np.cumsum(np.cbrt(counts))
    values: Float64 = _CENTRES[np.searchsorted(dense, (np.arange(n) + 0.5) * (dense[-1] / n))]
    for _ in range(ROUNDS):
        nearest = _nearest(values, _CENTRES)
        total, of_value = (np.bincount(nearest, weights, n) for weights in (counts * _CENTRES, counts))
        values = np.divide(total, of_value, out=values, where=of_value > 0)
    return values
