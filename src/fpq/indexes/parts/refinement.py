"""Refinement codes: scalar codes of what product quantization leaves over, beside the codes of an index."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from fpq import _native
from fpq._arrays import GrowingArray, copy_rows
from fpq._checks import Array, Float32, Int64, UInt8
from fpq.indexes.parts.ids import Commit, Entries, Removal
from fpq.learning import levels as of_four_bits
from fpq.learning import steps as learning
from fpq.learning.prepared_rows import PreparedRows
from fpq.learning.quantizer import ProductQuantizer
from fpq.storage import Check, FormatError, State, Stored, finite, non_negative

RefineName = Literal["sq4", "sq6", "sq8"]
BITS: dict[RefineName, int] = {"sq4": 4, "sq6": 6, "sq8": 8}
BLOCK_ROWS = 64
FILE_PREFIX = "refine_"  # of the columns of `Planes` in a file


_ascending = Check(
    "ascending numbers below 128", lambda levels: bool((levels[:-1] < levels[1:]).all() and levels[-1] < 128)
)
_ascending_fours = Check(
    "numbers below 128, each four in order",
    lambda levels: bool((of_four_bits.in_order(levels) == levels).all() and levels.max() < 128),
)


class Planes(NamedTuple):
    """Refinement codes of n rows."""

    first: UInt8  # (n, bytes): the top four bits of each dimension
    second: UInt8 | None  # (n, bytes): the other bits; None for "sq4"
    gains: UInt8 | None  # (n,): the numbers of gains; None for other codes than "sq4", and for those of old files
    norms: Float32  # (n, planes): for the distances with the first plane, and with both

    def at(self, rows: Int64) -> Planes:
        """A copy of the codes of these rows."""
        return Planes._make(None if column is None else column[rows] for column in self)


class Columns:
    """The refinement codes of an index, by row."""

    def __init__(self, arrays: dict[str, GrowingArray]) -> None:
        self.arrays = arrays  # the columns of `Planes` in blocks of 64 rows; empty: no refinement codes

    @property
    def nbytes(self) -> int:
        """Bytes in use and in reserve."""
        return sum(array.data.nbytes for array in self.arrays.values())

    def reserve(self, n: int) -> None:
        """Allocate memory for this number of rows in total."""
        for array in self.arrays.values():
            array.reserve(n_blocks(n))

    def _flat(self) -> dict[str, Array]:
        return {name: array.data.reshape(-1, *array.data.shape[2:]) for name, array in self.arrays.items()}

    def planes(self) -> Planes:
        """The codes of all rows, without a copy."""
        flat = self._flat()
        return Planes._make(flat.get(name) for name in Planes._fields)

    def write(self, first: int, planes: Planes) -> None:
        """Write the codes of consecutive rows from `first` on."""
        for name, array in self._flat().items():
            array[first : first + len(planes.first)] = getattr(planes, name)
        self.clear_after(first + len(planes.first))

    def extend(self, first: int, other: Columns, n: int) -> None:
        """Write the first n rows of other columns of the same form, to the rows from `first` on."""
        for source, target in zip(other._flat().values(), self._flat().values(), strict=True):
            copy_rows(source[:n], target[first : first + n])
        self.clear_after(first + n)

    def removing(self, removal: Removal, n: int) -> Commit:
        """A function that moves rows to the holes, so that n rows are left, and cannot fail."""
        flat = self._flat().values()
        moves = [GrowingArray.of(array).moving(removal.sources, removal.targets) for array in flat]

        def commit() -> None:
            for move in moves:
                move()
            self.clear_after(n)

        return commit

    def clear_after(self, n: int) -> None:
        """Zero what follows the first n rows in their last block, as files hold whole blocks. Cannot fail."""
        for array in self.arrays.values():
            array.data[n // BLOCK_ROWS : n_blocks(n), n % BLOCK_ROWS :] = 0

    def state(self, n: int) -> State:
        """The state of the first n rows, which a file stores."""
        return State({}, {FILE_PREFIX + name: array.data[: n_blocks(n)] for name, array in self.arrays.items()})


class Refinement:
    """The steps of the refinement codes, one per dimension, learned from residuals.

    A code c of `bits` bits stands for ``step * (c - 2**(bits - 1) + 0.5)``; of 4 bits, for ``gain * step *
    (level - 64)`` with a gain of the row and a level that depends on the code of the next dimension too. Vectors are
    scaled by ``2**-exponent`` before coding, so that squares of ordinary, tiny and huge vectors stay within float32.
    Squared distances are taken relative to a centre, the median of the vectors after scaling: a large offset of all
    vectors costs no digits.
    """

    def __init__(
        self, bits: int, steps: Float32, levels: UInt8 | None, has_gains: bool, centre: Float32, exponent: int
    ) -> None:
        self.bits = bits
        self.steps = steps
        self.levels = levels
        self.has_gains = has_gains
        self.centre = centre
        self.exponent = exponent
        self._native = learning.coder(bits, steps, levels, has_gains)

    @classmethod
    def learned(cls, kind: RefineName, rows: PreparedRows, n: int, largest: float, centre: Float32) -> Refinement:
        """Learn the steps that code the residuals of n rows, made as `steps.Coded`, with the least squared error.

        `largest`: the largest absolute value of the residuals.
        """
        bits = BITS[kind]
        largest = max(largest, float(np.abs(centre).max(initial=0)))
        exponent = max(-126, min(126, math.frexp(largest)[1]))
        steps, levels = learning.learned(bits, rows, n, exponent)
        return cls(bits, steps, levels, levels is not None, np.ldexp(centre, -exponent), exponent)

    @property
    def training(self) -> tuple[int, bool, Float32, UInt8 | None, Float32]:
        """What two refinements must have in common for their codes to mean the same."""
        return self.exponent, self.has_gains, self.steps, self.levels, self.centre

    @property
    def nbytes(self) -> int:
        """Bytes of the learned arrays."""
        return self.steps.nbytes + self.centre.nbytes + (0 if self.levels is None else self.levels.nbytes)

    def encode(self, residuals: Float32, decoded: Float32, n_threads: int) -> Planes:
        """The codes of residuals (n, w) of the decoded vectors (n, w)."""
        forms = forms_of(len(self.steps), self.bits, self.has_gains)
        empty = {name: np.empty((len(residuals), *shape), dtype) for name, (shape, dtype) in forms.items()}
        planes = Planes._make(empty.get(name) for name in Planes._fields)
        if len(residuals):
            scale = math.ldexp(1.0, -self.exponent)
            self._native.encode(residuals, decoded, scale, self.centre, *planes, n_threads)
        return planes

    def decode(self, planes: Planes) -> Float32:
        """The residuals (n, w) that codes stand for."""
        out = np.empty((len(planes.first), len(self.steps)), np.float32)
        if len(out):
            self._native.decode(planes.first, planes.second, planes.gains, out)
        return np.ldexp(out, self.exponent)

    def native(
        self, planes: Planes, n: int, table: Entries | None, ids: Int64 | None, inner_product: bool, power: int
    ) -> _native.Refined:
        """The first n coded rows, with these ids, as searches for queries scaled by 2**power read them.

        table: of the ids, for searches whose candidates are ids; None: rows.
        """
        shift = self.exponent if inner_product else self.exponent + power
        unit = 2.0 ** (2 * self.exponent if inner_product else 2 * shift)
        return _native.Refined(self._native, *planes, n, table, ids, inner_product, self.centre, 2.0**-shift, unit)

    def state(self) -> State:
        """The state that a file stores, beside that of the columns."""
        arrays: dict[str, Array] = {"refine_steps": self.steps, "refine_centre": self.centre}
        if self.levels is not None:
            of_first = self.levels[: of_four_bits.CODES]
            if (of_four_bits.of_one_state(of_first) != self.levels).any():
                arrays["refine_trellis"] = self.levels
            elif (of_first != of_four_bits.uniform()).any():
                arrays["refine_levels"] = of_first
            else:
                arrays["refine_steps"] = self.steps * 8
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
            if stored.has("refine_trellis"):
                levels = stored.array("refine_trellis", np.uint8, (of_four_bits.LEVELS,), _ascending_fours)
            elif stored.has("refine_levels"):
                levels = of_four_bits.of_one_state(
                    stored.array("refine_levels", np.uint8, (of_four_bits.CODES,), _ascending)
                )
            else:  # equally spaced, which one step is
                levels, steps = of_four_bits.of_one_state(of_four_bits.uniform()), steps / 8
        centre = stored.array("refine_centre", np.float32, (w,), finite)
        return cls(BITS[kind], steps, levels, kind == "sq4" and stored.has(FILE_PREFIX + "gains"), centre, exponent)

    def stored_columns(self, stored: Stored, n: int) -> Columns:
        """Read the codes of n rows from a file."""
        columns = columns_of(self)
        for name, array in columns.arrays.items():
            checks = (finite,) if array.data.dtype == np.float32 else ()
            shape = (n_blocks(n), *array.data.shape[1:])
            array.data = stored.array(FILE_PREFIX + name, array.data.dtype.type, shape, *checks, bulk=True)
        return columns


def columns_of(refinement: Refinement | None) -> Columns:
    """Columns for the codes of an index without rows; none if the index has no refinement codes."""
    if refinement is None:
        return Columns({})
    forms = forms_of(len(refinement.steps), refinement.bits, refinement.has_gains)
    return Columns({name: GrowingArray((BLOCK_ROWS, *shape), dtype) for name, (shape, dtype) in forms.items()})


def n_blocks(n: int) -> int:
    """The number of blocks of n rows."""
    return -(-n // BLOCK_ROWS)


def forms_of(w: int, bits: int, has_gains: bool) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
    """The columns of `Planes` of codes of w dimensions, by name: the shape for one row, and the type."""
    sizes = [size for size in (_native.plane_bytes(w, bits, plane) for plane in range(2)) if size]
    planes = {name: ((size,), np.uint8) for name, size in zip(("first", "second"), sizes, strict=False)}
    gains = {"gains": ((), np.uint8)} if has_gains else {}
    return {**planes, **gains, "norms": ((len(sizes),), np.float32)}


def residuals_of(quantizer: ProductQuantizer, rotated: Array, codes: UInt8, n_threads: int) -> tuple[Float32, Float32]:
    """What the codes of rotated rows leave over, and the rows that the codes stand for, (n, w) each."""
    decoded = quantizer.decoded(codes, n_threads)
    residuals = np.empty_like(decoded)
    _native.add_centroids(rotated, decoded, None, -1, residuals, n_threads)
    return residuals, decoded
