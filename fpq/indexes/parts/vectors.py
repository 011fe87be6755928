"""Vectors kept in an index, in the element type they came in."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np

from fpq import _native
from fpq._arrays import GrowingArray, copy_rows
from fpq._checks import Array, Float32, Int64
from fpq.indexes.parts.ids import Removal
from fpq.storage import State, Stored, finite

KEPT_TYPES = (np.float32, np.float16, np.uint8, np.int8)


class Vectors:
    """Rows that grow at the end. Types that differ between calls, and float64, are kept as float32."""

    by_id = False  # but by row

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
        """d, or None as long as no rows have come."""
        return None if self._rows is None else self._rows.data.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes in use and in reserve."""
        return 0 if self._rows is None else self._rows.data.nbytes

    def reserve(self, n: int) -> None:
        """Make room for `n` rows of the type that is there."""
        if self._rows is not None:
            self._rows.reserve(n)

    def write(self, x: Array, ids: Int64, *, normalize: bool = False, n_threads: int = 1) -> GrowingArray | None:
        """An array that holds the rows so far and `x` behind them: hand it to `commit` when all else went well.

        Rows are scaled to length 1 as they are written, if `normalize` is on, and become float32.
        """
        kept = np.dtype(np.float32) if normalize or x.dtype == np.float64 else x.dtype
        if self._rows is None:
            rows = GrowingArray((x.shape[1],), kept)
        elif self._rows.data.dtype == kept:
            rows = self._rows
        else:
            rows = GrowingArray(self._rows.data.shape[1:], np.float32)
            rows.reserve(self.n)
            copy_rows(self.data, rows.data)
        rows.reserve(self.n + len(x))
        if normalize:
            _native.normalize(x, rows.data[self.n : self.n + len(x)], n_threads)
        else:
            copy_rows(x, rows.data[self.n :])
        return rows

    def commit(self, rows: GrowingArray, n: int) -> None:
        """The rows that `write` has written are now `n`."""
        self._rows = rows
        self.n = n

    def snapshot(self) -> Vectors:
        """The rows as they are now, valid as long as rows are only added."""
        return copy.copy(self)

    def removing(self, removal: Removal) -> Callable[[], None]:
        """What carries out a planned removal, and cannot fail."""
        if self._rows is None:
            return lambda: None
        move = self._rows.moving(removal.sources, removal.targets)
        left = self.n - len(removal.rows)

        def commit() -> None:
            move()
            self.n = left

        return commit

    def state(self) -> State:
        """What a file stores."""
        return State({}, {} if self._rows is None else {"vectors": self.data})

    @classmethod
    def from_state(cls, stored: Stored, n: int, dim: int) -> Vectors:
        """Vectors (n, dim) from a file."""
        vectors = cls()
        checks = (finite,) if stored.dtype("vectors").kind == "f" else ()
        rows = stored.array("vectors", KEPT_TYPES, (n, dim), *checks, bulk=True)
        vectors.commit(GrowingArray.of(rows), n)
        return vectors

    def rows(self, rows: Int64) -> Float32:
        """These rows (n, d)."""
        return self.data[rows].astype(np.float32)

    def distances(self, queries: Float32, rows: Int64, inner_product: bool, n_threads: int, power: int = 0) -> Float32:
        """The exact distance of query i to each of rows[i] (nq, r); +inf for a row of -1.

        Queries are scaled by 2**power (fpq/scaling.py), and so are the distances.
        """
        out = np.empty(rows.shape, dtype=np.float32)
        rows = np.ascontiguousarray(rows)
        own = 0 if inner_product else power
        _native.flat_distances(self.data, queries, rows, inner_product, out, n_threads, own)
        return out
