"""Inverted lists: codes and ids in blocks of 64 rows; a block belongs to one list."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fpq import _native
from fpq._arrays import GrowingArray
from fpq._checks import Int32, Int64, UInt8, UInt64
from fpq.indexes.parts.ids import Commit, Ids, IdTable, bits_to_mask, places_allowed
from fpq.storage import Check, FormatError, State, Stored, below, non_negative, unique

BLOCK_ROWS = 64
PIECE_BLOCKS = 1 << 10  # blocks whose slots are listed at a time


class Layout(NamedTuple):
    """The blocks of each list. The rows of a list fill its blocks in order, without gaps.

    Slot b * 64 + r is row r of block b; place p is the p-th row of a list.
    """

    sizes: Int64  # (n_lists,) rows per list
    block_ids: Int32  # the blocks of list 0 in order, then the blocks of list 1, ...
    first: Int64  # (n_lists + 1,) the position of each list's first block in block_ids
    free: Int32  # blocks that belong to no list

    @property
    def n_blocks(self) -> int:
        """Blocks in use or free."""
        return len(self.block_ids) + len(self.free)

    def slots(self, lists: Int64, places: Int64) -> Int64:
        """The slots of these places in these lists."""
        block: Int64 = self.block_ids[self.first[lists] + places // BLOCK_ROWS].astype(np.int64)
        return block * BLOCK_ROWS + places % BLOCK_ROWS

    def resized(self, sizes: Int64) -> Layout:
        """The layout after every list has grown or shrunk at its end; shares `block_ids` if the blocks are the same."""
        n_old, n_new = np.diff(self.first), -(-sizes // BLOCK_ROWS)
        if np.array_equal(n_old, n_new):
            return self._replace(sizes=sizes)
        within = np.arange(len(self.block_ids)) - np.repeat(self.first[:-1], n_old)
        kept = within < np.repeat(n_new, n_old)
        free = np.concatenate([self.free, self.block_ids[~kept]])
        added = np.maximum(n_new - n_old, 0)
        total = int(added.sum())
        fresh = np.arange(self.n_blocks, self.n_blocks + max(0, total - len(free)), dtype=np.int32)
        blocks = np.concatenate([np.sort(free), fresh])
        lists = np.arange(len(sizes))
        owner = np.concatenate([np.repeat(lists, n_old)[kept], np.repeat(lists, added)])
        block_ids = np.concatenate([self.block_ids[kept], blocks[:total]])[np.argsort(owner, kind="stable")]
        return Layout(sizes, block_ids, np.concatenate([[0], np.cumsum(n_new)]), blocks[total:])

    def owners(self) -> Int64:
        """The list of each block and the block's position in `block_ids`, (2, n_blocks); 0 for a free block."""
        owners = np.zeros((2, self.n_blocks), dtype=np.int64)
        owners[0, self.block_ids] = np.repeat(np.arange(len(self.sizes)), np.diff(self.first))
        owners[1, self.block_ids] = np.arange(len(self.block_ids))
        return owners

    def updated_live_rows(self, old: Layout, live_rows: UInt64, lists: Int64) -> UInt64:
        """The bit masks of this layout, given those of `old`, which differs only in the sizes of these lists."""
        if self.block_ids is not old.block_ids:
            return self.live_rows()
        live_rows = live_rows.copy()
        n_live = self.sizes[lists] - (np.diff(self.first)[lists] - 1) * BLOCK_ROWS
        live_rows[self.block_ids[self.first[lists + 1] - 1]] = _lowest_bits(n_live)
        return live_rows

    def live_rows(self) -> UInt64:
        """The bit mask of each block, uint64 (n_blocks,): bit r is set if row r belongs to the list."""
        live_rows: UInt64 = np.zeros(max(1, self.n_blocks), dtype=np.uint64)
        within = np.arange(len(self.block_ids)) - np.repeat(self.first[:-1], np.diff(self.first))
        n_live = np.clip(np.repeat(self.sizes, np.diff(self.first)) - within * BLOCK_ROWS, 1, BLOCK_ROWS)
        live_rows[self.block_ids] = _lowest_bits(n_live)
        return live_rows


def _lowest_bits(n: Int64) -> UInt64:
    """Masks of the n lowest bits, n from 1 to 64."""
    return np.uint64(0xFFFFFFFFFFFFFFFF) >> (BLOCK_ROWS - n).astype(np.uint64)


class Placement(NamedTuple):
    """The slots of new rows. `commit` makes the rows visible, `clear` zeroes written slots. Neither can fail."""

    slots: Int64
    commit: Callable[[], None]
    clear: Callable[[], None]


class InvertedLists:
    """Codes and ids of rows in lists. New rows are written behind the live rows and become live by a commit."""

    def __init__(self, n_lists: int, code_size: int) -> None:
        empty = np.zeros(0, dtype=np.int32)
        self.layout = Layout(np.zeros(n_lists, np.int64), empty, np.zeros(n_lists + 1, np.int64), empty)
        self.blocks = GrowingArray((code_size, BLOCK_ROWS), np.uint8)
        self.slot_ids = GrowingArray((BLOCK_ROWS,), np.int32)  # int64 from the first id on that needs it
        self.live_rows = self.layout.live_rows()
        self._table = IdTable()  # id -> slot
        self._owners: tuple[Int32, Int64] | None = None  # the block_ids and `Layout.owners()` of these blocks

    @property
    def nbytes(self) -> int:
        """Bytes in use and in reserve."""
        arrays = (*self.layout, self.live_rows, self.blocks.data, self.slot_ids.data)
        return sum(array.nbytes for array in arrays) + self._table.nbytes

    @property
    def id_by_slot(self) -> Int32 | Int64:
        """The id of the row in each slot; of slots without a row 0."""
        ids: Int32 | Int64 = self.slot_ids.data.reshape(-1)
        return ids

    def place(self, labels: Int32, ids: Int64) -> Placement:
        """Plan slots for new rows; row i, of this id, goes to list labels[i]. Rows of a list keep their order."""
        sizes = self.layout.sizes
        added = np.bincount(labels, minlength=len(sizes))
        layout = self.layout.resized(sizes + added)
        live_rows = layout.updated_live_rows(self.layout, self.live_rows, np.flatnonzero(added))
        keys = labels.astype(np.uint16) if len(sizes) <= 1 << 16 else labels  # NumPy sorts 16 bits in linear time
        order = np.argsort(keys, kind="stable")
        lists = labels[order].astype(np.int64)
        rank = np.arange(len(labels)) - (np.cumsum(added) - added)[lists]
        slots = np.empty(len(labels), dtype=np.int64)
        slots[order] = layout.slots(lists, sizes[lists] + rank)
        self.blocks.reserve(layout.n_blocks)
        self.slot_ids.reserve(layout.n_blocks)
        self.slot_ids.hold(int(ids.max(initial=0)))
        slot_ids = self.id_by_slot
        self._table.reserve(slot_ids, len(slots))
        ends = layout.block_ids[layout.first[1:][added > 0] - 1]
        fresh = self.layout.n_blocks
        self._zero(ends[ends >= fresh].tolist(), live_rows)  # they may hold rows of an `add` that failed
        written = np.unique(slots[slots < fresh * BLOCK_ROWS] // BLOCK_ROWS).tolist()

        def commit() -> None:
            self._table.insert(slot_ids, slots)
            self.layout, self.live_rows = layout, live_rows

        return Placement(slots, commit, partial(self._zero, written, self.live_rows))

    def reserve(self, n: int) -> None:
        """Allocate memory for `n` rows in total, for any distribution of the rows over the lists."""
        blocks = n // BLOCK_ROWS + len(self.layout.sizes)
        self.blocks.reserve(blocks)
        self.slot_ids.reserve(blocks)

    def write(self, slots: Int64, codes: UInt8, ids: Int64, n_threads: int = 1) -> None:
        """Write rows to the slots of a placement before its commit."""
        _native.put_codes(codes, slots, self.blocks.data, n_threads)
        self.id_by_slot[slots] = ids

    def _zero(self, blocks: list[int], live_rows: UInt64) -> None:
        """Zero the slots of blocks behind their live rows, as files hold whole blocks. Cannot fail."""
        for block in blocks:
            n = int(live_rows[block]).bit_length()
            self.blocks.data[block, :, n:] = 0
            self.slot_ids.data[block, n:] = 0

    def clearing(self) -> Commit:
        """A function that zeroes all slots without live rows, and cannot fail."""
        live_rows = self.live_rows[: self.layout.n_blocks]
        return partial(self._zero, np.flatnonzero(~live_rows).tolist(), live_rows)  # few blocks are not full

    def snapshot(self) -> InvertedLists:
        """The present lists, valid while rows are only added. The copy has an id table of its own, built on demand."""
        lists = copy.copy(self)
        lists._table = IdTable()
        return lists

    def _live_slots(self) -> Int64:
        """The slots of all rows, list by list."""
        sizes = self.layout.sizes
        lists = np.repeat(np.arange(len(sizes)), sizes)
        return self.layout.slots(lists, np.arange(len(lists)) - np.repeat(np.cumsum(sizes) - sizes, sizes))

    def find(self, ids: Int64) -> Int64:
        """The slots of ids that are in the index."""
        slots = self._find(ids)
        if (slots < 0).any():  # possible in a mapped file, which is not checked
            raise FormatError("slot_ids: the data are damaged: an id is missing")
        return slots

    def _find(self, ids: Int64) -> Int64:
        """The slot of each id; -1 if the id is not in the index."""
        n = int(self.layout.sizes.sum())
        return self._table.find(self.id_by_slot, ids, n, self._slots)

    def _slots(self) -> Iterator[Int64]:
        """The slots of all rows, ascending, in pieces."""
        for start in range(0, len(self.live_rows), PIECE_BLOCKS):
            mask = bits_to_mask(self.live_rows[start : start + PIECE_BLOCKS])
            yield np.flatnonzero(mask).astype(np.int64, copy=False) + start * BLOCK_ROWS

    def slots_of_rows(self, ids: Ids) -> Int64:
        """The slot of each row, int64 (n,), without a table from ids to slots."""
        of_rows = np.full(ids.n, -1, dtype=np.int64)
        for slots in self._slots():
            rows = ids.rows_or_missing(self.id_by_slot[slots].astype(np.int64))
            of_rows[rows[rows >= 0]] = slots[rows >= 0]
        if (of_rows < 0).any():  # possible in a mapped file, which is not checked
            raise FormatError("slot_ids: the data are damaged: an id is missing")
        return of_rows

    def lists_of(self, slots: Int64) -> Int64:
        """The list of each slot."""
        return self._locate(slots)[0]

    def _locate(self, slots: Int64) -> tuple[Int64, Int64]:
        """The list of each slot, and the place in this list."""
        layout, cached = self.layout, self._owners
        if cached is None or cached[0] is not layout.block_ids:
            cached = self._owners = layout.block_ids, layout.owners()
        lists, positions = cached[1][:, slots // BLOCK_ROWS]
        return lists, (positions - layout.first[lists]) * BLOCK_ROWS + slots % BLOCK_ROWS

    def sizes_without(self, slots: Int64) -> Int64:
        """The number of rows in each list, without those in these slots."""
        sizes = self.layout.sizes
        return sizes - np.bincount(self.lists_of(slots), minlength=len(sizes)) if len(slots) else sizes

    def codes(self, slots: Int64) -> UInt8:
        """The codes (n, code_size) in these slots."""
        codes = np.empty((len(slots), self.blocks.data.shape[1]), dtype=np.uint8)
        _native.get_codes(self.blocks.data, slots, codes)
        return codes

    def in_order(self) -> tuple[Int64, UInt8]:
        """The ids (n,) and codes (n, code_size) of all rows, list by list."""
        slots = self._live_slots()
        return self.id_by_slot[slots].astype(np.int64), self.codes(slots)

    def removing(self, slots: Int64) -> Callable[[], None]:
        """A function that removes the rows in these slots and cannot fail; the last rows of a list fill its holes."""
        old = self.layout
        lists, places = self._locate(slots)
        changed, n_removed = np.unique(lists, return_counts=True)
        sizes = old.sizes.copy()
        sizes[changed] -= n_removed
        layout = old.resized(sizes)
        live_rows = layout.updated_live_rows(old, self.live_rows, changed)
        holes = np.flatnonzero(places < sizes[lists])
        targets = slots[holes[np.argsort(lists[holes], kind="stable")]]
        rank = np.arange(len(slots), dtype=np.int64) - np.repeat(np.cumsum(n_removed) - n_removed, n_removed)
        freed = old.slots(np.repeat(changed, n_removed), np.repeat(sizes[changed], n_removed) + rank)
        sources = freed[~np.isin(freed, slots)]
        codes, ids = self.codes(sources), self.id_by_slot
        zeros = np.zeros((len(freed), self.blocks.data.shape[1]), np.uint8)

        def commit() -> None:
            _native.put_codes(codes, targets, self.blocks.data)
            _native.put_codes(zeros, freed, self.blocks.data)  # files must not hold removed codes
            self._table.remove(ids, slots, sources, targets)
            self.layout, self.live_rows = layout, live_rows

        return commit

    def allowed_rows(self, ids: Ids, allowed: Any) -> UInt64 | None:
        """The bit masks of the live rows that may be returned, in the form of `live_rows`; None: all live rows."""
        if allowed is None:
            return None
        slot_ids = self.id_by_slot[: len(self.live_rows) * BLOCK_ROWS]
        return self.live_rows & places_allowed(ids.allowed(allowed), len(slot_ids), slot_ids, self._find)

    def state(self) -> State:
        """The state that a file stores. The array `chain` of a file is `block_ids`."""
        n = self.layout.n_blocks
        arrays = {"codes": self.blocks.data[:n], "slot_ids": self.slot_ids.data[:n]}
        return State({}, {"list_sizes": self.layout.sizes, "chain": self.layout.block_ids, **arrays})

    @classmethod
    def from_state(cls, stored: Stored, n_lists: int, code_size: int, ids: Ids) -> InvertedLists:
        """Read the lists of the rows with these ids from a file."""
        lists = cls(n_lists, code_size)
        filled = Check(f"sizes that add up to {ids.n}", lambda sizes: bool((sizes >= 0).all() and sizes.sum() == ids.n))
        sizes = stored.array("list_sizes", np.int64, (n_lists,), below(ids.n + 1), filled)
        first = np.concatenate([[0], np.cumsum(-(-sizes // BLOCK_ROWS))])
        n_blocks = (stored.shape("codes") or (0,))[0]
        codes = stored.array("codes", np.uint8, (n_blocks, code_size, BLOCK_ROWS), bulk=True)
        block_ids = stored.array("chain", np.int32, (int(first[-1]),), non_negative, below(n_blocks), unique)
        free = np.setdiff1d(np.arange(n_blocks, dtype=np.int32), block_ids)
        lists.layout = Layout(sizes, block_ids, first, free)
        live = lists._live_slots()
        same = Check(
            "the ids of the index", lambda slots: bool((np.sort(slots.ravel()[live]) == np.sort(ids.values)).all())
        )
        slot_ids = stored.array("slot_ids", (np.int32, np.int64), (n_blocks, BLOCK_ROWS), same, bulk=True)
        lists.blocks, lists.slot_ids = GrowingArray.of(codes), GrowingArray.of(slot_ids)
        lists.live_rows = lists.layout.live_rows()
        return lists
