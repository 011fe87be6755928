"""Refinement codes: scalar codes of what product quantization leaves over, beside the codes of an index."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import reduce
from typing import Literal, NamedTuple

import numpy as np

from fpq import _native, threads
from fpq._arrays import GrowingArray
from fpq._checks import Array, Float32, Float64, Int32, Int64, UInt8
from fpq.learning.levels import BINS, LEVELS, ZERO, counted, of_halves, uniform
from fpq.learning.levels import learned as learn_levels
from fpq.learning.prepared_rows import PreparedRows
from fpq.learning.quantizer import ProductQuantizer
from fpq.storage import Check, FormatError, State, Stored, finite, non_negative

RefineName = Literal["sq4", "sq6", "sq8"]
BITS: dict[RefineName, int] = {"sq4": 4, "sq6": 6, "sq8": 8}
TRAINING_ROWS = 1 << 14
CLIPS = np.geomspace(1.5, 8, 24)  # ranges of a code in standard deviations, of which training takes the best
OUTLIER = 8.0  # times the length that is usual at most: longer residuals are those of outliers
USUAL_SHARE = 0.98  # of the residuals are not longer than is usual at most; those of 0 do not count
FACTORS = np.geomspace(0.7, 1.4, 9)  # of the range for all dimensions, of which each dimension takes the best
BLOCK_ROWS = 64
BLOCK_DIMS = 8  # dimensions per task of `by_columns`
CHUNK_ROWS, CHUNK_DIMS = 1 << 10, 1 << 7  # rows and dimensions per task of training
NAMES: dict[int, tuple[str, ...]] = {  # of the arrays in a file
    0: (),
    2: ("refine_first", "refine_norms"),
    3: ("refine_first", "refine_second", "refine_norms"),
}


_ascending = Check(
    "ascending numbers below 128", lambda levels: bool((levels[:-1] < levels[1:]).all() and levels[-1] < 128)
)


class Planes(NamedTuple):
    """Refinement codes of n rows."""

    first: UInt8  # (n, bytes): the top four bits of each dimension
    second: UInt8 | None  # (n, bytes): the other bits; None for "sq4"
    norms: Float32  # (n, planes): for the distances with the first plane, and with both

    def at(self, rows: Int64) -> Planes:
        """A copy of the codes of these rows."""
        return Planes(self.first[rows], None if self.second is None else self.second[rows], self.norms[rows])


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


class Columns:
    """The refinement codes of an index, by row or slot. They grow, move and are cleared with the codes."""

    def __init__(self, arrays: tuple[GrowingArray, ...] = ()) -> None:
        self.arrays = arrays  # of blocks of 64 rows; empty: the index has no refinement codes

    @property
    def nbytes(self) -> int:
        """Bytes in use and in reserve."""
        return sum(array.data.nbytes for array in self.arrays)

    def reserve(self, n_blocks: int) -> None:
        """Allocate memory for this number of blocks in total."""
        for array in self.arrays:
            array.reserve(n_blocks)

    def _flat(self) -> list[Array]:
        return [array.data.reshape(-1, array.data.shape[2]) for array in self.arrays]

    def planes(self) -> Planes:
        """The codes of all rows, without a copy."""
        flat = self._flat()
        return Planes(flat[0], flat[1] if len(flat) == 3 else None, flat[-1])

    def write(self, rows: Int64 | slice, planes: Planes) -> None:
        """Write codes to these rows."""
        for array, new in zip(self._flat(), (each for each in planes if each is not None), strict=True):
            array[rows] = new

    def take(self, rows: Int64) -> Planes | None:
        """A copy of the codes in these rows; None if the index has no refinement codes."""
        return self.planes().at(rows) if self.arrays else None

    def moving(self, sources: Int64, targets: Int64) -> Callable[[], None]:
        """A function that copies rows from `sources` to `targets`, as `GrowingArray.moving`."""
        moves = [GrowingArray.of(array).moving(sources, targets) for array in self._flat()]

        def move() -> None:
            for each in moves:
                each()

        return move

    def clear(self, rows: Int64) -> None:
        """Zero these rows."""
        for array in self._flat():
            array[rows] = 0

    def state(self, n_blocks: int) -> State:
        """The state that a file stores."""
        names = NAMES[len(self.arrays)]
        return State({}, {name: array.data[:n_blocks] for name, array in zip(names, self.arrays, strict=True)})


class Refinement:
    """The steps of the refinement codes, one per dimension, learned from residuals.

    A code c of `bits` bits stands for ``step * (c - 2**(bits - 1) + 0.5)``; of 4 bits, for ``step * (levels[c] - 64)``
    with levels that follow the distribution of the residuals, which has a long tail. Vectors are scaled by
    ``2**-exponent`` before coding, so that squares of ordinary, tiny and huge vectors stay within float32. Squared
    distances are taken relative to a centre, the median of the vectors after scaling: a large offset of all vectors
    costs no digits.
    """

    def __init__(self, bits: int, steps: Float32, levels: UInt8 | None, centre: Float32, exponent: int) -> None:
        self.bits = bits
        self.steps = steps
        self.levels = levels
        self.centre = centre
        self.exponent = exponent
        self._native = _native.Refinement(bits, steps, levels)

    @classmethod
    def learned(cls, kind: RefineName, rows: PreparedRows, n: int, largest: float, centre: Float32) -> Refinement:
        """Learn the steps that code the residuals of n rows, made as `Coded`, with the least squared error.

        Residuals far longer than usual, of outliers, are left out: their squares would outweigh all others.
        `largest`: the largest absolute value of the residuals. Sums over rows are made in chunks of CHUNK_ROWS.
        """
        bits = BITS[kind]
        largest = max(largest, float(np.abs(centre).max(initial=0)))
        exponent = max(-126, min(126, math.frexp(largest)[1]))
        lengths = np.concatenate(rows.run(_scaled, -exponent))
        longest = OUTLIER * float(np.quantile(lengths[lengths > 0], USUAL_SHARE)) if lengths.any() else 0.0
        squares = reduce(np.add, itertools.chain(*rows.run(_squares, longest)))
        deviation, half = np.sqrt(squares / max(1, n)), 1 << (bits - 1)
        levels, clips = None, CLIPS
        if bits == 4:
            counts = reduce(np.add, rows.run(_counts, deviation.astype(np.float32)))
            levels, clip = learn_levels(counts, CLIPS)
            half, clips = ZERO - 1, clip * FACTORS
        candidates = np.array([(clip * deviation / half).astype(np.float32) for clip in clips])
        errors = reduce(np.add, itertools.chain(*rows.run(_errors_of_steps, candidates, half, levels)))
        best, steps = np.full(len(centre), np.inf), np.zeros(len(centre), np.float32)
        for step, squared in zip(candidates, errors, strict=True):
            better = squared < best
            best[better], steps[better] = squared[better], step[better]
        return cls(bits, steps, levels, np.ldexp(centre, -exponent), exponent)

    @property
    def training(self) -> tuple[int, Float32, UInt8 | None, Float32]:
        """What two refinements must have in common for their codes to mean the same."""
        return self.exponent, self.steps, self.levels, self.centre

    @property
    def nbytes(self) -> int:
        """Bytes of the learned arrays."""
        return self.steps.nbytes + self.centre.nbytes + (0 if self.levels is None else self.levels.nbytes)

    def columns(self) -> Columns:
        """Arrays for the codes of an empty index."""
        planes = [
            GrowingArray((BLOCK_ROWS, size), np.uint8) for size in plane_sizes(len(self.steps), self.bits) if size
        ]
        return Columns((*planes, GrowingArray((BLOCK_ROWS, len(planes)), np.float32)))

    def encode(self, residuals: Float32, decoded: Float32, n_threads: int) -> Planes:
        """The codes of residuals (n, w) of the decoded vectors (n, w)."""
        n, (first_bytes, second_bytes) = len(residuals), plane_sizes(len(self.steps), self.bits)
        first = np.empty((n, first_bytes), np.uint8)
        second = np.empty((n, second_bytes), np.uint8) if second_bytes else None
        norms = np.empty((n, 2 if second_bytes else 1), np.float32)
        if n:
            scale = math.ldexp(1.0, -self.exponent)
            self._native.encode(residuals, decoded, scale, self.centre, first, second, norms, n_threads)
        return Planes(first, second, norms)

    def decode(self, planes: Planes) -> Float32:
        """The residuals (n, w) that codes stand for."""
        out = np.empty((len(planes.first), len(self.steps)), np.float32)
        if len(out):
            self._native.decode(planes.first, planes.second, out)
        return np.ldexp(out, self.exponent)

    def native(self, planes: Planes, ids: Int32 | Int64 | None, inner_product: bool, power: int) -> _native.Refined:
        """Coded rows with these ids, as searches for queries scaled by 2**power read them."""
        shift = self.exponent if inner_product else self.exponent + power
        unit = 2.0 ** (2 * self.exponent if inner_product else 2 * shift)
        return _native.Refined(self._native, *planes, ids, inner_product, self.centre, 2.0**-shift, unit)

    def state(self) -> State:
        """The state that a file stores, beside that of the columns."""
        arrays: dict[str, Array] = {"refine_steps": self.steps, "refine_centre": self.centre}
        if self.levels is not None and (self.levels == uniform()).all():
            arrays["refine_steps"] = self.steps * 8
        elif self.levels is not None:
            arrays["refine_levels"] = self.levels
        return State({"refine_exponent": self.exponent}, arrays)

    @classmethod
    def from_state(cls, stored: Stored, kind: RefineName, w: int) -> Refinement:
        """Read what was learned from a file."""
        steps = stored.array("refine_steps", np.float32, (w,), finite, non_negative)
        (exponent,) = stored.take("refine_exponent").values()
        if type(exponent) is not int or not -126 <= exponent <= 126:
            raise FormatError(f"refine_exponent: expected an integer from -126 to 126, got {exponent!r}")
        levels = None
        if kind == "sq4":
            if stored.has("refine_levels"):
                levels = stored.array("refine_levels", np.uint8, (LEVELS,), _ascending)
            else:  # equally spaced, which one step is
                levels, steps = uniform(), steps / 8
        return cls(BITS[kind], steps, levels, stored.array("refine_centre", np.float32, (w,), finite), exponent)

    def stored_columns(self, stored: Stored, n_blocks: int) -> Columns:
        """Read the codes of an index of this number of blocks from a file."""
        columns = self.columns()
        arrays = []
        for name, empty in zip(NAMES[len(columns.arrays)], columns.arrays, strict=True):
            checks = (finite,) if empty.data.dtype == np.float32 else ()
            shape = (n_blocks, *empty.data.shape[1:])
            arrays.append(GrowingArray.of(stored.array(name, empty.data.dtype.type, shape, *checks, bulk=True)))
        return Columns(tuple(arrays))


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
    """The histogram of the residuals in standard deviations, of the dimensions that have one."""
    varied = deviation > 0

    def counts(chunk: Float32) -> Int64:
        with np.errstate(over="ignore"):
            return counted(chunk[:, varied] / deviation[varied])

    found = threads.parallel_map(counts, _chunks(rows.residuals), n_threads)
    return reduce(np.add, found, np.zeros(BINS, np.int64)), rows


def _errors_of_steps(
    rows: Coded, n_threads: int, candidates: Float32, half: int, levels: UInt8 | None
) -> tuple[list[Float64], Coded]:
    """The squared errors (candidates, w) of codes with these steps, by chunk."""
    values = None if levels is None else of_halves(levels).astype(np.float32) - ZERO

    def errors(work: tuple[Float32, slice]) -> Float64:
        chunk, block = work
        part, found = chunk[:, block], np.empty((len(candidates), len(chunk[0, block])))
        for squared, step in zip(found, candidates[:, block], strict=True):
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                if values is None:
                    value = np.clip(np.floor(part / step), -half, half - 1) + np.float32(0.5)
                else:
                    halves = np.clip(np.floor(2 * (part / step + ZERO)), 0, len(values) - 1)
                    value = values[np.nan_to_num(halves).astype(np.intp)]
                error = part - step * value
            squared[:] = np.einsum("ij,ij->j", error, error, dtype=np.float64)
        return found

    chunks, blocks = _chunks(rows.residuals), _blocks(candidates.shape[1], CHUNK_DIMS)
    found = threads.parallel_map(errors, itertools.product(chunks, blocks), n_threads)
    of_chunks = [found[start : start + len(blocks)] for start in range(0, len(found), len(blocks))]
    return [np.concatenate(parts, axis=1) for parts in of_chunks], rows


def plane_sizes(w: int, bits: int) -> tuple[int, int]:
    """Bytes per row of the two planes of codes of w dimensions; 0 for a plane that does not exist."""
    return _native.plane_bytes(w, bits, 0), _native.plane_bytes(w, bits, 1)


def by_columns(function: Callable[[slice], Array], w: int, n_threads: int) -> Array:
    """The joined results (w,) of a function of some dimensions, on `n_threads` threads."""
    return np.concatenate(threads.parallel_map(function, _blocks(w, BLOCK_DIMS), n_threads))


def _blocks(w: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, w, size)]


def residuals_of(quantizer: ProductQuantizer, rotated: Array, codes: UInt8, n_threads: int) -> tuple[Float32, Float32]:
    """What the codes of rotated rows leave over, and the rows that the codes stand for, (n, w) each."""
    decoded = quantizer.decoded(codes, n_threads)
    residuals = np.empty_like(decoded)
    _native.add_centroids(rotated, decoded, None, -1, residuals, n_threads)
    return residuals, decoded
