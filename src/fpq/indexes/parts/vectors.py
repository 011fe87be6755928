"""Vectors kept in an index, in the dtype of the input where the metric permits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from fpq import _bfloat16, _native
from fpq._arrays import GrowingArray
from fpq._checks import Array, Float32, Int64
from fpq.indexes.parts.ids import Removal
from fpq.metric import Metric
from fpq.storage import Check, State, Stored, finite

KEPT_TYPES = (np.float32, np.float16, _bfloat16.BITS, np.uint8, np.int8)
SCALED_VALUES = 1 << 22  # values that are scaled to length 1 before they are rounded to 16 bits
FINITE_BITS = Check(finite.expected, lambda rows: _native.first_nonfinite_row(rows, 1) < 0)


def is_narrow(kind: np.dtype[Any]) -> bool:
    """Whether rows of length 1 are kept in this type of 16 bits."""
    return kind == np.float16 or _bfloat16.is_bfloat16(kind) or kind == _bfloat16.BITS


def kept_type(kind: np.dtype[Any], *, unit_length: bool) -> np.dtype[Any]:
    """The type in which rows of this type are kept, scaled to length 1 or as they are."""
    as_given = is_narrow(kind) or (kind in KEPT_TYPES and not unit_length)
    return kind if as_given else np.dtype(np.float32)


class Vectors:
    """An array of rows that grows at its end. float64 input, and input of different dtypes, is kept as float32.

    Rows of length 1 are kept as float16 or bfloat16 if the input has this type, else as float32.
    """

    by_id = False  # vectors are read by row

    def __init__(self) -> None:
        self.n = 0
        self._rows: GrowingArray | None = None

    @property
    def data(self) -> Array:
        """The rows (n, d)."""
        assert self._rows is not None
        return self._rows.data[: self.n]

    @property
    def dim(self) -> int | None:
        """d; None before the first rows."""
        return None if self._rows is None else self._rows.data.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes in use and in reserve."""
        return 0 if self._rows is None else self._rows.data.nbytes

    def reserve(self, n: int) -> None:
        """Allocate memory for `n` rows of the present dtype."""
        if self._rows is not None:
            self._rows.reserve(n)

    def write(self, x: Array, ids: Int64, *, normalize: bool = False, n_threads: int = 1) -> GrowingArray | None:
        """Write `x` behind the present rows. The returned array becomes visible by `commit`.

        With `normalize`, rows are scaled to length 1, and rows of float16 or bfloat16 are rounded again.
        """
        kept = kept_type(x.dtype, unit_length=normalize)
        if self._rows is None:
            rows = GrowingArray((x.shape[1],), kept)
        elif self._rows.data.dtype in (kept, np.float32):
            rows = self._rows
        else:
            rows = GrowingArray(self._rows.data.shape[1:], np.float32)
            rows.reserve(self.n)
            _native.copy_rows(self.data, None, rows.data[: self.n], n_threads)
        rows.reserve(self.n + len(x))
        new = rows.data[self.n : self.n + len(x)]
        if not normalize:
            _native.copy_rows(x, None, new, n_threads)
        elif not is_narrow(kept):
            _native.normalize(x, new, n_threads)
        else:  # rounded in float32 rows too, so that results do not depend on the order of additions
            step = max(1, SCALED_VALUES // x.shape[1])
            for start in range(0, len(x), step):
                piece = x[start : start + step]
                scaled = np.empty(piece.shape, dtype=np.float32)
                _native.normalize(piece, scaled, n_threads)
                new[start : start + len(piece)] = scaled.astype(x.dtype)
        return rows

    def commit(self, rows: GrowingArray, n: int) -> None:
        """Make the array of `write`, with `n` rows, visible."""
        self._rows = rows
        self.n = n

    def snapshot(self) -> Vectors:
        """The present rows, valid while rows are only added."""
        return copy.copy(self)

    def removing(self, removal: Removal) -> Callable[[], None]:
        """A function that carries out a planned removal and cannot fail."""
        if self._rows is None:
            return lambda: None
        move = self._rows.moving(removal.sources, removal.targets)
        n_kept = self.n - len(removal.rows)

        def commit() -> None:
            move()
            self.n = n_kept

        return commit

    def state(self) -> State:
        """The state that a file stores."""
        return State({}, {} if self._rows is None else {"vectors": _bfloat16.as_bits(self.data)})

    @classmethod
    def from_state(cls, stored: Stored, n: int, dim: int) -> Vectors:
        """Read vectors (n, dim) from a file."""
        vectors = cls()
        kind = stored.dtype("vectors")
        checks = (FINITE_BITS,) if kind == _bfloat16.BITS else (finite,) if kind.kind == "f" else ()
        rows = _bfloat16.from_bits(stored.array("vectors", KEPT_TYPES, (n, dim), *checks, bulk=True))
        vectors.commit(GrowingArray.of(rows), n)
        return vectors

    def rows(self, rows: Int64) -> Float32:
        """The vectors of these rows, float32 (n, d)."""
        return _bfloat16.widened(self.data[rows]).astype(np.float32, copy=False)

    def distances(self, queries: Float32, rows: Int64, metric: Metric, n_threads: int, power: int = 0) -> Float32:
        """The exact distances of query i to rows[i], float32 (nq, r); +inf for row -1.

        Queries are scaled by 2**power (fpq/scaling.py); the distances are those of the scaled vectors.
        """
        out = np.empty(rows.shape, dtype=np.float32)
        rows = np.ascontiguousarray(rows)
        row_power = 0 if metric.inner_product else power
        _native.flat_distances(self.data, queries, rows, metric.kernel, out, n_threads, row_power)
        return out
