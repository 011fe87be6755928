"""Sets of integers: as users pass them, and as an index keeps them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fpq import _checks, _native
from fpq._arrays import GrowingArray
from fpq._checks import Array, Int64, UInt8, UInt64
from fpq.indexes.parts.ids import Commit, Removal
from fpq.storage import Check, State, Stored

PIECE = 1 << 16  # sets that are copied at a time: Python handles Ctrl-C between two pieces

SetsLike: TypeAlias = Any  # a sparse matrix, a pair of arrays, or an iterable of iterables


@dataclass(frozen=True)
class Sets:
    """Checked sets; set i has the items items[first[i]:first[i + 1]].

    Attributes
    ----------
    first : int64 (n + 1,)
    items : uint64 (first[-1],)
    """

    first: Int64
    items: UInt64

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def sizes(self) -> Int64:
        """The number of items of each set, int64 (n,)."""
        return np.diff(self.first)

    def ordered(self, n_threads: int) -> Sets:
        """The same sets, the items of each in ascending order and without repetitions."""
        items, sizes = self.items.copy(), np.empty(len(self), np.int64)
        _native.order_items(self.first, items, sizes, n_threads)
        return gathered(items, self.first[:-1], sizes) if sizes.sum() < len(items) else Sets(self.first, items)


def gathered(items: UInt64, starts: Int64, sizes: Int64) -> Sets:
    """The sets items[starts[i]:starts[i] + sizes[i]]."""
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    out = np.empty(int(first[-1]), np.uint64)
    for start in range(0, len(starts), PIECE):
        begins, counts = first[start : start + PIECE + 1], sizes[start : start + PIECE]
        shift = np.repeat(starts[start : start + PIECE] - begins[:-1], counts)
        out[begins[0] : begins[-1]] = items[np.arange(begins[0], begins[-1]) + shift]
    return Sets(first, out)


def checked(sets: SetsLike) -> Sets:
    """Check a sparse matrix, a pair of arrays (indptr, indices), or an iterable of iterables of items.

    Raises
    ------
    ValueError, TypeError
        If `sets` is not as described.
    """
    if hasattr(sets, "tocsr"):
        return _of_matrix(sets.tocsr())
    if isinstance(sets, tuple) and len(sets) == 2 and all(hasattr(each, "dtype") for each in sets):
        return _of_pair(*sets)
    if isinstance(sets, (str, bytes)) or not isinstance(sets, Iterable):
        raise TypeError(
            f"sets: expected a sparse matrix, a pair of arrays (indptr, indices) or a list of sets, "
            f"got {type(sets).__name__}"
        )
    collections = [each if hasattr(each, "__len__") else tuple(_iterable(i, each)) for i, each in enumerate(sets)]
    for i, each in enumerate(collections):
        _iterable(i, each)
    first = np.zeros(len(collections) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, collections), np.int64, len(collections)), out=first[1:])
    items = np.empty(int(first[-1]), np.uint64)
    _native.items_of(collections, first, items)
    return Sets(first, items)


def _iterable(i: int, collection: Any) -> Any:
    """Raise TypeError for anything that is no collection of items."""
    if isinstance(collection, (str, bytes)) or not isinstance(collection, Iterable):
        text = isinstance(collection, (str, bytes))
        hint = ": fpq.minhash.shingles makes sets of texts" if text else ""
        raise TypeError(f"sets[{i}]: expected an iterable of items, got {type(collection).__name__}{hint}")
    return collection


def _of_matrix(matrix: Any) -> Sets:
    """The columns of the entries other than 0 in each row."""
    present = np.asarray(matrix.data) != 0
    if np.isnan(matrix.data).any():
        raise ValueError("sets: expected a matrix without NaN")
    if present.all():
        return _of_pair(matrix.indptr, matrix.indices)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(present)])
    return _of_pair(before[matrix.indptr], matrix.indices[present])


def _of_pair(indptr: Any, indices: Any) -> Sets:
    first, items = _integers("indptr", indptr), _integers("indices", indices)
    if first.size == 0 or first[0] != 0 or first[-1] != len(items) or (first[1:] < first[:-1]).any():
        shown = f"{first[0]} to {first[-1]}" if first.size else "none"
        raise ValueError(f"indptr: expected numbers that rise from 0 to the {len(items)} indices, got {shown}")
    return Sets(first.astype(np.int64, copy=False), items.astype(np.uint64, copy=False))


def _integers(name: str, x: Any) -> Array:
    array = _checks.plain(name, x)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected a 1-d array, got shape {array.shape}")
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got dtype {array.dtype}")
    if array.min() < 0:
        raise ValueError(f"{name}: expected integers of at least 0, got {array.min()}")
    return np.ascontiguousarray(array)


class SetRows:
    """What an index keeps of each set: its items, or its signature. Rows are only added at the end.

    A removal makes a new object.

    Parameters
    ----------
    width : int or None
        Bytes of a signature; None: items are kept.
    """

    def __init__(self, width: int | None) -> None:
        self.n = 0
        self._width = width
        self._signatures = GrowingArray((width or 0,), np.uint8)
        self._first = GrowingArray.of(np.zeros(1, np.int64))
        self._items = GrowingArray((), np.uint64)

    @property
    def nbytes(self) -> int:
        """Bytes in use and in reserve."""
        return sum(int(array.data.nbytes) for array in (self._signatures, self._first, self._items))

    @property
    def signatures(self) -> UInt8 | None:
        """The signatures as bytes (n, width); None if items are kept."""
        return None if self._width is None else self._signatures.data[: self.n]

    @property
    def sets(self) -> Sets:
        """The kept items; no sets if signatures are kept."""
        first = self._first.data[: self.n + 1 if self._width is None else 1]
        return Sets(first, self._items.data[: first[-1]])

    def place(self, n_new: int, sets: Sets) -> tuple[UInt8 | None, Commit]:
        """Room for the signatures of further rows, None if items (of `sets`) are kept; the commit shows the rows."""
        n = self.n + n_new
        signatures = None
        if self._width is not None:
            self._signatures.reserve(n)
            signatures = self._signatures.data[self.n : n]
        else:
            start = int(self._first.data[self.n])
            end = start + len(sets.items)
            self._first.reserve(n + 1)
            self._items.reserve(end)
            self._first.data[self.n + 1 : n + 1] = start + sets.first[1:]
            self._items.data[start:end] = sets.items

        def commit() -> None:
            self.n = n

        return signatures, commit

    def of(self, rows: Int64) -> Sets:
        """The kept items of these rows."""
        return gathered(self.sets.items, self.sets.first[rows], self.sets.sizes[rows])

    def snapshot(self) -> SetRows:
        """The present rows, valid while rows are only added."""
        return copy.copy(self)

    def without(self, removal: Removal) -> SetRows:
        """A copy without the removed rows; rows from the end have taken their numbers."""
        rows = np.arange(self.n - len(removal.rows), dtype=np.int64)
        rows[removal.targets] = removal.sources
        kept = SetRows(self._width)
        kept.n = len(rows)
        if self._width is None:
            sets = self.of(rows)
            kept._first, kept._items = GrowingArray.of(sets.first), GrowingArray.of(sets.items)
        else:
            kept._signatures = GrowingArray.of(self._signatures.data[rows])
        return kept

    def state(self) -> State:
        """The state that a file stores."""
        if self._width is None:
            return State({}, {"first": self.sets.first, "items": self.sets.items})
        return State({}, {"signatures": self._signatures.data[: self.n]})

    @classmethod
    def from_state(cls, stored: Stored, n: int, width: int | None) -> SetRows:
        """Read the rows of `n` sets from a file."""
        rows = cls(width)
        rows.n = n
        if width is None:
            first = stored.array("first", np.int64, (n + 1,), Check("numbers that rise from 0", _rises))
            items = stored.array("items", np.uint64, (int(first[-1]),), bulk=True)
            rows._first, rows._items = GrowingArray.of(first), GrowingArray.of(items)
        else:
            rows._signatures = GrowingArray.of(stored.array("signatures", np.uint8, (n, width), bulk=True))
        return rows


def _rises(first: Int64) -> bool:
    return bool(first[0] == 0 and (first[1:] >= first[:-1]).all())
