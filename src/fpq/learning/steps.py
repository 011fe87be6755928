"""The steps of refinement codes, one per dimension, and the levels of those of 4 bits: with the least squared error."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import numpy as np

from fpq import _native, threads
from fpq._checks import Array, Float32, Float64, Int64, UInt8
from fpq.learning import levels as of_four_bits
from fpq.learning.prepared_rows import PreparedRows

TRAINING_ROWS = 1 << 14
CLIPS = np.geomspace(1.5, 8, 24)  # ranges of a code in standard deviations, of which training takes the best
OUTLIER = 8.0  # times the length that is usual at most: longer residuals are those of outliers
USUAL_SHARE = 0.98  # of the residuals are not longer than is usual at most; those of 0 do not count
ROUNDS = 2  # of learning with 4 bits: codes, then levels and steps
BLOCK_DIMS = 8  # dimensions per task of `by_columns`
CHUNK_ROWS, CHUNK_DIMS = 1 << 10, 1 << 7  # rows and dimensions per task of training
GAINS = np.exp2(np.arange(256) / 8 - 16).astype(np.float32)
LEAST_STEP = np.finfo(np.float32).tiny / GAINS[0]  # times a gain, a smaller one may be 0; levels are learned without


class Coded(NamedTuple):
    """Rows that the steps are learned from.

    Attributes
    ----------
    residuals : float32 (n, w)
        What the codes leave over.
    codes : uint8 (n, code_size)
    """

    residuals: Float32
    codes: UInt8


def coder(bits: int, steps: Float32, levels: UInt8 | None, has_gains: bool) -> _native.Refinement:
    """What makes and reads codes with these steps."""
    return _native.Refinement(bits, steps, levels, GAINS if has_gains else None)


def learned(bits: int, rows: PreparedRows, n: int, exponent: int) -> tuple[Float32, UInt8 | None]:
    """Learn the steps, and levels for 4 bits, that code the residuals of n rows, made as `Coded`, times 2**-exponent.

    Residuals far longer than usual, of outliers, are left out: their squares would outweigh all others. Sums over rows
    are made in chunks of CHUNK_ROWS.
    """
    lengths = np.concatenate(rows.run(_scaled, -exponent))
    longest = OUTLIER * float(np.quantile(lengths[lengths > 0], USUAL_SHARE)) if lengths.any() else 0.0
    squares = reduce(np.add, itertools.chain(*rows.run(_squares, longest)))
    deviation = np.sqrt(squares / max(1, n))
    return _with_levels(rows, deviation) if bits == 4 else (_of_even_levels(bits, rows, deviation), None)


def _of_even_levels(bits: int, rows: PreparedRows, deviation: Float64) -> Float32:
    half = 1 << (bits - 1)
    candidates = np.array([(clip * deviation / half).astype(np.float32) for clip in CLIPS])
    errors = reduce(np.add, itertools.chain(*rows.run(_errors_of_steps, candidates, half)))
    steps: Float32 = candidates[errors.argmin(axis=0), np.arange(len(deviation))]
    return steps


def _with_levels(rows: PreparedRows, deviation: Float64) -> tuple[Float32, UInt8]:
    """By turns, the codes and gains of least error, and the levels and steps for them (Lloyd 1982)."""
    counts = reduce(np.add, rows.run(_counts, deviation.astype(np.float32)))
    values, n = of_four_bits.first_values(counts), np.ones(of_four_bits.LEVELS)
    unit = deviation  # of a dimension: what numbers of 1 stand for
    for _ in range(ROUNDS):
        levels, reach = of_four_bits.rounded(values, n)
        steps = (unit * reach / (of_four_bits.ZERO - 1)).astype(np.float32)
        found = rows.run(_products, steps, levels, reach)
        of_levels, of_dimensions = zip(*itertools.chain(*found), strict=True)
        sums, n = reduce(np.add, of_levels)
        products, squares = reduce(np.add, of_dimensions)
        share = np.divide(products, squares, out=np.ones_like(products), where=products > 0)
        if unit.any():
            unit = unit * share * (unit.sum() / (unit @ share))  # the scale of all dimensions is left to the gains
        values = of_four_bits.in_order(np.divide(sums, n, out=values, where=n > 0))
    levels, reach = of_four_bits.rounded(values, n)
    return (unit * reach / (of_four_bits.ZERO - 1)).astype(np.float32), levels


def _chunks(x: Float32) -> list[Float32]:
    return [x[start : start + CHUNK_ROWS] for start in range(0, len(x), CHUNK_ROWS)]


def _lengths(x: Float32) -> Float64:
    lengths: Float64 = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
    return lengths


def _scaled(rows: Coded, n_threads: int, power: int) -> tuple[Float64, Coded]:
    """The lengths of residuals times 2**power; and the rows with such residuals."""
    x = np.ldexp(rows.residuals, power)
    return _lengths(x), rows._replace(residuals=x)


def _squares(rows: Coded, n_threads: int, longest: float) -> tuple[list[Float64], Coded]:
    """The sums of squares of residuals, by chunk; and the rows with zeros for residuals longer than `longest`."""
    x = np.where(_lengths(rows.residuals)[:, None] <= longest, rows.residuals, np.float32(0))
    squares = [np.einsum("ij,ij->j", chunk, chunk, dtype=np.float64) for chunk in _chunks(x)]
    return squares, rows._replace(residuals=x)


def _counts(rows: Coded, n_threads: int, deviation: Float32) -> tuple[Int64, Coded]:
    """The histogram of the residuals in standard deviations, of the dimensions that have one, in rows of equal size."""
    varied = deviation > 0

    def counts(chunk: Float32) -> Int64:
        x = chunk[:, varied] / deviation[varied]
        size = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64) / max(1, x.shape[1])).astype(np.float32)
        return of_four_bits.counted(x[size > 0] / size[size > 0, None])

    found = threads.parallel_map(counts, _chunks(rows.residuals), n_threads)
    return reduce(np.add, found, np.zeros(of_four_bits.BINS, np.int64)), rows


def _products(
    rows: Coded, n_threads: int, steps: Float32, levels: UInt8, reach: float
) -> tuple[list[tuple[Float64, Float64]], Coded]:
    """By chunk: of each level, the sum of residuals in its scale, and how many; products of residuals and decoded ones.

    The latter are followed by the squares of decoded residuals.
    """
    native, w, varied = coder(4, steps, levels, True), len(steps), steps >= LEAST_STEP
    centre, unit = np.zeros(w, np.float32), steps * np.float32((of_four_bits.ZERO - 1) / reach)

    def products(chunk: Float32) -> tuple[Float64, Float64]:
        n = len(chunk)
        first, gains = np.empty((n, _native.plane_bytes(w, 4, 0)), np.uint8), np.empty(n, np.uint8)
        decoded = np.empty_like(chunk)
        native.encode(chunk, chunk, 1.0, centre, first, None, gains, np.empty((n, 1), np.float32), 1)
        native.decode(first, None, gains, decoded)
        some = chunk.any(axis=1)
        scaled = (chunk[:, varied] / (GAINS[gains][:, None] * unit[varied]))[some].ravel()
        numbers = of_four_bits.numbers(first)[:, :w][:, varied][some].ravel()
        of_levels = [np.bincount(numbers, weights, of_four_bits.LEVELS) for weights in (scaled, None)]
        of_dimensions = [np.einsum("ij,ij->j", x, decoded, dtype=np.float64) for x in (chunk, decoded)]
        return np.array(of_levels), np.array(of_dimensions)

    return threads.parallel_map(products, _chunks(rows.residuals), n_threads), rows


def _errors_of_steps(rows: Coded, n_threads: int, candidates: Float32, half: int) -> tuple[list[Float64], Coded]:
    """The squared errors (candidates, w) of codes with these steps, by chunk."""

    def errors(work: tuple[Float32, slice]) -> Float64:
        chunk, block = work
        part, found = chunk[:, block], np.empty((len(candidates), len(chunk[0, block])))
        for squared, step in zip(found, candidates[:, block], strict=True):
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                error = part - step * (np.clip(np.floor(part / step), -half, half - 1) + np.float32(0.5))
            squared[:] = np.einsum("ij,ij->j", error, error, dtype=np.float64)
        return found

    chunks, blocks = _chunks(rows.residuals), _blocks(candidates.shape[1], CHUNK_DIMS)
    found = threads.parallel_map(errors, itertools.product(chunks, blocks), n_threads)
    of_chunks = [found[start : start + len(blocks)] for start in range(0, len(found), len(blocks))]
    return [np.concatenate(parts, axis=1) for parts in of_chunks], rows


def by_columns(function: Callable[[slice], Array], w: int, n_threads: int) -> Array:
    """The joined results (w,) of a function of some dimensions, on `n_threads` threads."""
    return np.concatenate(threads.parallel_map(function, _blocks(w, BLOCK_DIMS), n_threads))


def _blocks(w: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, w, size)]
