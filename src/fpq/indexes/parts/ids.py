"""Ids of the rows of an index: given by the user, or continued after the largest id used so far."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fpq import _checks, _native
from fpq._arrays import GrowingArray
from fpq._checks import Array, Int32, Int64, UInt8, UInt64
from fpq.storage import FormatError, State, Stored, below, non_negative, unique

NARROW_PLACES = (1 << 32) - 2  # number of places that entries of 4 bytes distinguish
PIECE = 1 << 16  # ids per piece: a piece fits the cache, and Ctrl-C is handled between two pieces
SCANS = 8  # look-ups by linear scan before a table is built: together they take about as long as the build
MASK_ENTRIES_PER_LOOKUP = 16  # a look-up takes about as long as reading 16 consecutive entries of a mask

Entries = tuple[UInt8, int, int, bool]  # csrc/fpq.h: fpq_id_table
Commit = Callable[[], None]  # makes a prepared change visible; cannot fail


class Removal(NamedTuple):
    """A planned removal of `rows`: the rows `sources` move to the free rows `targets`, one after the other."""

    rows: Int64
    sources: Int64
    targets: Int64


class IdTable:
    """A hash table from ids to places (rows or slots), 8 to 16 bytes per id, built on demand.

    The table holds places only. The caller passes the array of ids by place to every call, as the array may grow. A
    look-up, an insertion and a removal take constant time. No result depends on the order of changes. `update` inserts
    an id at its new place before the id is removed from the old place.
    """

    def __init__(self) -> None:
        self._entries: Entries | None = None
        self._n = 0  # ids in the table
        self._n_scanned = 0  # look-ups by linear scan

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return 0 if self._entries is None else self._entries[0].nbytes

    def find(self, ids: Int32 | Int64, wanted: Int64, n: int, places: Callable[[], Iterable[Int64]]) -> Int64:
        """The place of each wanted id, -1 for an unknown id; `places` yields all `n` places in pieces."""
        if self._entries is None:
            self._n_scanned += len(wanted)
            if self._n_scanned <= SCANS:
                return _scan(ids, wanted, places())
        entries = self.entries(ids, n, places)
        found = np.empty(len(wanted), dtype=np.int64)
        for start in range(0, len(wanted), PIECE):
            chunk = slice(start, start + PIECE)
            _native.ids_find(entries, ids, wanted[chunk], found[chunk])
        return found

    def entries(self, ids: Int32 | Int64, n: int, places: Callable[[], Iterable[Int64]]) -> Entries:
        """The entries for kernels, built on demand; arguments as for `find`."""
        entries = self._entries  # a concurrent search may build the same table
        if entries is None:
            entries = _empty(n, len(ids))
            for piece in places():
                _native.ids_insert(entries, ids, piece)
            self._n = n
            self._entries = entries
        return entries

    def reserve(self, ids: Int32 | Int64, n: int) -> None:
        """Make room for `n` further ids, at places in the array `ids`; drop the table if building anew is cheaper."""
        if self._entries is None:
            return
        entries, bits, place_bits, wide = self._entries
        if 2 * n > self._n:
            self._entries = None
        elif 2 * (self._n + n) > 1 << bits or len(ids) >= 1 << place_bits:
            larger = _empty(self._n + n, len(ids))
            words = entries.view(np.uint64 if wide else np.uint32)
            for start in range(0, len(words), PIECE):
                piece = words[start : start + PIECE].astype(np.int64) & ((1 << place_bits) - 1)
                _native.ids_insert(larger, ids, piece[piece > 0] - 1)
            self._entries = larger

    def insert(self, ids: Int32 | Int64, places: Int64) -> None:
        """Insert the ids at these places. Cannot fail after `reserve`."""
        if self._entries is not None:
            _native.ids_insert(self._entries, ids, places)
            self._n += len(places)

    def remove(self, ids: Int32 | Int64, removed: Int64, sources: Int64, targets: Int64) -> None:
        """Remove the ids at the places `removed` and move the ids at `sources` to `targets`, in the table and in `ids`.

        Places without an id are set to 0. Cannot fail.
        """
        if 2 * len(removed) > self._n:
            self._entries = None
        _native.ids_remove(self._entries, ids, removed, sources, targets)
        self._n -= len(removed)


def _empty(n: int, n_places: int) -> Entries:
    """An empty table for `n` ids at places below `n_places`, at most half full."""
    bits, wide = max(4, (2 * n - 1).bit_length()), n_places > NARROW_PLACES
    place_bits = min(63 if wide else 32, (2 * n_places).bit_length())  # the number of places may double
    return np.zeros((8 if wide else 4) << bits, dtype=np.uint8), bits, place_bits, wide


def _scan(ids: Int32 | Int64, wanted: Int64, places: Iterable[Int64]) -> Int64:
    """As `IdTable.find`, by a linear scan of all ids."""
    found = np.full(len(wanted), -1, dtype=np.int64)
    for piece in places:
        piece_ids = ids[piece]
        for i in np.flatnonzero(found < 0):
            found[i] = next(iter(piece[np.flatnonzero(piece_ids == wanted[i])[:1]]), -1)
    return found


class Ids:
    """The id of each row. While all ids are row numbers, no array is stored."""

    def __init__(self) -> None:
        self.n = 0
        self.next_id = 0
        self._values: GrowingArray | None = None
        self._table = IdTable()  # id -> row, of `_values`

    @property
    def native(self) -> Int64 | None:
        """The ids in the form that kernels take: int64 (n,), or None for row numbers."""
        return None if self._values is None else self._values.data[: self.n]

    def native_table(self) -> tuple[Entries | None, Int64 | None]:
        """The table of the ids and its array, as kernels take them; None twice for row numbers."""
        if self._values is None:
            return None, None
        ids = self._values.data
        return self._table.entries(ids, self.n, partial(_rows, self.n)), ids

    @property
    def values(self) -> Int64:
        """The id of each row, int64 (n,)."""
        return np.arange(self.n, dtype=np.int64) if self._values is None else self._values.data[: self.n]

    def of(self, rows: Int64) -> Int64:
        """The ids of these rows."""
        return rows if self._values is None else self._values.data[rows]

    @property
    def largest(self) -> int:
        """The largest id; -1 without rows."""
        return self.n - 1 if self._values is None else int(self.values.max(initial=-1))

    @property
    def nbytes(self) -> int:
        """Bytes of the ids and of their table."""
        values = 0 if self._values is None else self._values.data.nbytes
        return values + self._table.nbytes

    def new(self, ids: Any, n: int) -> Int64 | None:
        """Check the ids of `n` new rows; None: the rows get the next unused numbers."""
        if ids is None:
            if n and self.next_id + n > np.iinfo(np.int64).max:
                raise ValueError(f"ids: expected ids, got None: no number is left after {self.next_id - 1}")
            return None
        array = self.different(ids, n)
        if n and array.min() < self.next_id:
            known = array[self._find(array) >= 0]
            if len(known):
                raise ValueError(f"ids: expected ids that are not in the index, got {known[0]}")
        return array

    @staticmethod
    def different(ids: Any, n: int) -> Int64:
        """Check that `ids` are `n` different ids."""
        array = _checks.id_array("ids", ids)
        if len(array) != n:
            raise ValueError(f"ids: expected {n} ids for {n} row(s), got {len(array)}")
        in_order = np.sort(array)
        repeated = in_order[1:][in_order[1:] == in_order[:-1]]
        if len(repeated):
            raise ValueError(f"ids: expected unique ids, got {repeated[0]} more than once")
        return array

    def numbered(self, ids: Int64 | None, n: int) -> Int64:
        """The ids that `n` new rows will get."""
        if ids is not None:
            return ids
        first = self.next_id if n else 0  # after the largest int64, next_id is not an int64
        return np.arange(first, first + n, dtype=np.int64)

    def adding(self, ids: Int64 | None, n: int) -> Commit:
        """Prepare the ids of `n` new rows, checked by `new`; the commit makes the ids visible."""
        if n == 0:
            return no_op
        values, table, next_id, end = self._values, self._table, self.next_id + n, self.n + n
        rows = np.empty(0, dtype=np.int64)
        if ids is not None or values is not None or self.next_id != self.n:
            ids = self.numbered(ids, n)
            next_id = max(self.next_id, int(ids.max()) + 1)
            if values is None:
                values, table = GrowingArray.of(self.values), IdTable()
            values.reserve(end)
            values.data[self.n : end] = ids
            table.reserve(values.data, n)
            rows = np.arange(self.n, end, dtype=np.int64)

        def commit() -> None:
            if values is not None:
                table.insert(values.data, rows)
            self._values, self._table, self.n, self.next_id = values, table, end, next_id

        return commit

    def snapshot(self) -> Ids:
        """The present ids, valid while rows are only added. The copy has a table of its own, built on demand."""
        ids = copy.copy(self)
        ids._table = IdTable()
        return ids

    def _find(self, ids: Int64) -> Int64:
        """The row of each id; -1 if the id is not in the index."""
        if self._values is None:
            return np.where((ids >= 0) & (ids < self.n), ids, -1)
        return self._table.find(self._values.data, ids, self.n, partial(_rows, self.n))

    def present(self, ids: Any) -> tuple[Int64, Int64]:
        """The checked ids and the row of each, int64 (n,).

        Raises
        ------
        ValueError
            If an id is not in the index.
        """
        array = _checks.id_array("ids", ids)
        rows = self._find(array)
        if (rows < 0).any():
            raise ValueError(f"ids: expected ids in the index, got {array[rows < 0][0]}")
        return array, rows

    def rows(self, ids: Any) -> Int64:
        """The row of each id; raises as `present`."""
        return self.present(ids)[1]

    def rows_or_missing(self, ids: Int64) -> Int64:
        """The rows of ids of any shape; -1 for id -1."""
        return self._find(np.ascontiguousarray(ids).reshape(-1)).reshape(ids.shape)

    def known_rows(self, ids: Int64) -> Int64:
        """The rows of different ids, ascending; ids that are not in the index are ignored."""
        rows = self._find(ids)
        return np.sort(rows[rows >= 0])

    def plan_removal(self, rows: Int64, n_new: int = 0) -> Removal:
        """Plan the removal of these rows, which ascend: rows from the end fill the holes.

        The last `n_new` rows close up in their order, as if they had been added after the removal.
        """
        n_old = self.n - n_new
        n_kept = n_old - len(rows)
        sources = np.setdiff1d(np.arange(n_kept, n_old, dtype=np.int64), rows, assume_unique=True)
        new = np.arange(n_old, self.n, dtype=np.int64)
        targets = np.concatenate([rows[rows < n_kept], new - len(rows)])
        return Removal(rows, np.concatenate([sources, new]), targets)

    def removing(self, removal: Removal) -> Commit:
        """Prepare a planned removal."""
        if not len(removal.rows):
            return no_op
        values, table = self._values, self._table
        if values is None:
            values, table = GrowingArray.of(self.values), IdTable()

        def commit() -> None:
            table.remove(values.data, *removal)
            self._values, self._table, self.n = values, table, self.n - len(removal.rows)

        return commit

    def state(self) -> State:
        """The state that a file stores."""
        native = self.native
        return State({"n": self.n, "next_id": self.next_id}, {} if native is None else {"ids": native})

    @classmethod
    def from_state(cls, stored: Stored) -> Ids:
        """Read ids from a file."""
        ids = cls()
        ids.n, ids.next_id = stored.count("n"), stored.count("next_id", most=1 << 63)
        if stored.has("ids"):
            checks = (non_negative, unique, below(ids.next_id))
            ids._values = GrowingArray.of(stored.array("ids", np.int64, (ids.n,), *checks, bulk=True))
        elif ids.n != ids.next_id:
            raise FormatError(f"ids: expected the array, as n is {ids.n} and next_id {ids.next_id}, got none")
        return ids

    def allowed(self, allowed: Any) -> Array:
        """Check the filter of a search: an array of ids, or a boolean mask whose entry i is for id i."""
        array = _checks.mask_or_ids("allowed", allowed)
        if array.dtype != np.bool_:
            return array
        largest = self.largest
        if array.ndim != 1 or len(array) <= largest:
            raise ValueError(
                f"allowed: expected a mask with an entry for each id up to {largest}, got shape {array.shape}"
            )
        return array

    def allowed_bits(self, allowed: Any) -> UInt64 | None:
        """A bit mask of the rows that may be returned, uint64 (ceil(n / 64),); None: all rows."""
        if allowed is None:
            return None
        array = self.allowed(allowed)
        if self._values is None and array.dtype == np.bool_:
            return mask_to_bits(array[: self.n])
        return places_allowed(array, self.n, self.native, self._find)


def places_allowed(allowed: Array, n: int, ids: Int32 | Int64 | None, find: Callable[[Int64], Int64]) -> UInt64:
    """A bit mask of the `n` places whose id is allowed, uint64 (ceil(n / 64),).

    A boolean mask with many allowed ids is read at the id of every place; otherwise `find` looks up the allowed ids.
    The ids of a mapped file are not checked: an id beyond the mask takes the last entry of the mask.
    """
    if allowed.dtype == np.bool_:
        if ids is not None and np.count_nonzero(allowed) > n // MASK_ENTRIES_PER_LOOKUP:
            return mask_to_bits(allowed.take(ids, mode="clip"))
        allowed = np.flatnonzero(allowed).astype(np.int64, copy=False)
    bits = np.zeros((n + 63) // 64, dtype=np.uint64)
    _native.set_bits(find(allowed), bits)
    return bits


def mask_to_bits(mask: Array) -> UInt64:
    """A bit per boolean, the lowest bit first, uint64 (ceil(n / 64),)."""
    bits = np.zeros((len(mask) + 63) // 64 * 8, dtype=np.uint8)
    bits[: (len(mask) + 7) // 8] = np.packbits(mask, bitorder="little")
    return bits.view("<u8").astype(np.uint64, copy=False)


def bits_to_mask(bits: UInt64) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A boolean per bit, the lowest bit first."""
    return np.unpackbits(bits.astype("<u8", copy=False).view(np.uint8), bitorder="little").view(np.bool_)


def _rows(n: int) -> Iterator[Int64]:
    for start in range(0, n, PIECE):
        yield np.arange(start, min(n, start + PIECE), dtype=np.int64)


def no_op() -> None:
    """The commit of an empty change."""
