"""Ids of the rows of an index: given by the user, or numbered on from the largest id ever used."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np

from fpq import _checks
from fpq._checks import Int64
from fpq.storage import FormatError, State, Stored, below, non_negative, unique


class Removal(NamedTuple):
    """A planned removal: `rows` go, the rows `sources` from the end fill the holes `targets`."""

    rows: Int64
    sources: Int64
    targets: Int64


class Ids:
    """The id of each row. As long as ids are the row numbers, nothing is stored."""

    def __init__(self) -> None:
        self.n = 0
        self.next_id = 0
        self._values: Int64 | None = None
        self._order: Int64 | None = None  # rows in order of id, made when it is needed

    @property
    def native(self) -> Int64 | None:
        """What the kernels take: int64 (n,), or None for row numbers."""
        return self._values

    @property
    def values(self) -> Int64:
        """The id of each row, int64 (n,)."""
        return np.arange(self.n, dtype=np.int64) if self._values is None else self._values

    @property
    def nbytes(self) -> int:
        """Bytes that are stored."""
        return 0 if self._values is None else self._values.nbytes

    def new(self, ids: Any, n: int) -> Int64 | None:
        """The checked ids for `n` new rows; None: number them on."""
        if ids is None:
            if n and self.next_id + n > np.iinfo(np.int64).max:
                raise ValueError(f"ids: none left after {self.next_id - 1}, pass ids of your own")
            return None
        array = _checks.id_array("ids", ids)
        if len(array) != n:
            raise ValueError(f"ids: expected {n} ids for {n} row(s), got {len(array)}")
        in_order = np.sort(array)
        repeated = in_order[1:][in_order[1:] == in_order[:-1]]
        if len(repeated):
            raise ValueError(f"ids: expected unique ids, {repeated[0]} comes more than once")
        if n and in_order[0] < self.next_id:
            taken = array[self._find(array) >= 0]
            if len(taken):
                raise ValueError(f"ids: {taken[0]} is in the index already")
        return array

    def numbered(self, ids: Int64 | None, n: int) -> Int64:
        """The ids that `append` will give `n` new rows."""
        if ids is not None:
            return ids
        first = self.next_id if n else 0  # with none left, next_id is no int64
        return np.arange(first, first + n, dtype=np.int64)

    def append(self, ids: Int64 | None, n: int) -> None:
        """Ids for `n` new rows, as `new` has checked them."""
        if n == 0:
            return
        if ids is None and self._values is None and self.next_id == self.n:
            self.n += n
            self.next_id += n
            return
        ids = self.numbered(ids, n)
        self._values = np.concatenate([self.values, ids])
        self._order = None
        self.n += n
        self.next_id = max(self.next_id, int(ids.max()) + 1)

    def extended(self, ids: Int64 | None, n: int) -> Ids:
        """These ids and those for `n` new rows, as a new object."""
        more = copy.copy(self)
        more.append(ids, n)
        return more

    def _find(self, ids: Int64) -> Int64:
        """The row of each id, -1 where there is none."""
        if self._values is None:
            return np.where((ids >= 0) & (ids < self.n), ids, -1)
        if self._order is None:
            self._order = np.argsort(self._values)
        if self.n == 0:
            return np.full(len(ids), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._values, ids, sorter=self._order), self.n - 1)
        rows = self._order[at]
        return np.where(self._values[rows] == ids, rows, -1)

    def rows(self, ids: Any) -> Int64:
        """The row of each id.

        Raises
        ------
        ValueError
            If an id is not in the index.
        """
        array = _checks.id_array("ids", ids)
        rows = self._find(array)
        if (rows < 0).any():
            raise ValueError(f"ids: {array[rows < 0][0]} is not in the index")
        return rows

    def rows_or_missing(self, ids: Int64) -> Int64:
        """The row of each id of any shape, -1 for -1."""
        return self._find(ids.ravel()).reshape(ids.shape)

    def plan_removal(self, ids: Any) -> Removal:
        """How to remove these ids; those that are not in the index are passed over."""
        rows = self._find(np.unique(_checks.id_array("ids", ids)))
        rows = np.sort(rows[rows >= 0])
        left = self.n - len(rows)
        sources = np.setdiff1d(np.arange(left, self.n, dtype=np.int64), rows, assume_unique=True)
        return Removal(rows, sources, rows[rows < left])

    def remove(self, removal: Removal) -> None:
        """Carry out a planned removal."""
        if len(removal.rows):
            values = self.values.copy()
            values[removal.targets] = values[removal.sources]
            self.n -= len(removal.rows)
            self._values = values[: self.n].copy()
            self._order = None

    def without(self, removal: Removal) -> Ids:
        """These ids after a planned removal, as a new object."""
        left = copy.copy(self)
        left.remove(removal)
        return left

    def state(self) -> State:
        """What a file stores."""
        arrays = {} if self._values is None else {"ids": self._values}
        return State({"n": self.n, "next_id": self.next_id}, arrays)

    @classmethod
    def from_state(cls, stored: Stored) -> Ids:
        """Ids from a file."""
        ids = cls()
        ids.n, ids.next_id = stored.count("n"), stored.count("next_id", most=1 << 63)
        if stored.has("ids"):
            ids._values = stored.array("ids", np.int64, (ids.n,), non_negative, unique, below(ids.next_id), bulk=True)
        elif ids.n != ids.next_id:
            raise FormatError(f"ids: expected this array, as n is {ids.n} and next_id {ids.next_id}")
        return ids

    def allowed_bits(self, allowed: Any) -> np.ndarray[Any, np.dtype[np.uint64]] | None:
        """A bit for each row that may be returned, uint64 (ceil(n / 64),); None for all.

        `allowed` is an array of ids, or a boolean mask whose entry i speaks for id i.
        """
        if allowed is None:
            return None
        array = np.asarray(allowed)
        if array.dtype == np.bool_:
            largest = int(self.values.max(initial=-1))
            if array.ndim != 1 or len(array) <= largest:
                raise ValueError(
                    f"allowed: expected a mask with an entry for each id up to {largest}, got shape {array.shape}"
                )
            mask = array[: self.n] if self._values is None else array[self._values]
        else:
            rows = self._find(_checks.id_array("allowed", array))
            mask = np.zeros(self.n, dtype=np.bool_)
            mask[rows[rows >= 0]] = True
        padded = np.zeros((self.n + 63) // 64 * 64, dtype=np.bool_)
        padded[: self.n] = mask
        return np.packbits(padded, bitorder="little").view("<u8").astype(np.uint64, copy=False)
