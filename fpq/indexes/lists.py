"""Inverted lists: codes and ids in blocks of 64 rows, each block in one list."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fpq import _native
from fpq._arrays import GrowingArray
from fpq._checks import Array, Int32, Int64, UInt8, UInt64
from fpq.indexes.base import bits_to_mask
from fpq.indexes.ids import Ids
from fpq.storage import Check, FormatError, State, Stored, below, non_negative, unique

BLOCK_ROWS = 64
CLEARED_ROWS = 1 << 12  # at a time


class Layout(NamedTuple):
    """Which blocks the lists are made of. Rows fill a list from its first block on without gaps."""

    sizes: Int64  # (n_lists,) rows of each list
    chain: Int32  # blocks of list 0 in order, then those of list 1, ...
    first: Int64  # (n_lists + 1,) where each list begins in the chain
    free: Int32  # blocks that no list uses

    @property
    def n_blocks(self) -> int:
        """Blocks in use or free."""
        return len(self.chain) + len(self.free)

    def slots(self, lists: Int64, places: Int64) -> Int64:
        """The slots of these places in these lists; slot b * 64 + r is row r of block b."""
        block: Int64 = self.chain[self.first[lists] + places // BLOCK_ROWS].astype(np.int64)
        return block * BLOCK_ROWS + places % BLOCK_ROWS

    def resized(self, sizes: Int64) -> Layout:
        """The layout after every list has grown or shrunk at its end."""
        have, need = np.diff(self.first), -(-sizes // BLOCK_ROWS)
        within = np.arange(len(self.chain)) - np.repeat(self.first[:-1], have)
        kept = within < np.repeat(need, have)
        free = np.concatenate([self.free, self.chain[~kept]])
        grown = np.maximum(need - have, 0)
        more = int(grown.sum())
        fresh = np.arange(self.n_blocks, self.n_blocks + max(0, more - len(free)), dtype=np.int32)
        blocks = np.concatenate([np.sort(free), fresh])
        owner = np.concatenate([np.repeat(np.arange(len(sizes)), have)[kept], np.repeat(np.arange(len(sizes)), grown)])
        chain = np.concatenate([self.chain[kept], blocks[:more]])[np.argsort(owner, kind="stable")]
        return Layout(sizes, chain, np.concatenate([[0], np.cumsum(need)]), blocks[more:])

    def rows(self) -> UInt64:
        """The bits of the rows that are taken, for each block."""
        rows: UInt64 = np.zeros(max(1, self.n_blocks), dtype=np.uint64)
        within = np.arange(len(self.chain)) - np.repeat(self.first[:-1], np.diff(self.first))
        taken = np.clip(np.repeat(self.sizes, np.diff(self.first)) - within * BLOCK_ROWS, 1, BLOCK_ROWS)
        rows[self.chain] = np.uint64(0xFFFFFFFFFFFFFFFF) >> (BLOCK_ROWS - taken).astype(np.uint64)
        return rows


class Placement(NamedTuple):
    """Where new rows go: `commit` makes it so, `clear` forgets what was written. Neither can fail."""

    slots: Int64
    commit: Callable[[], None]
    clear: Callable[[], None]


class InvertedLists:
    """Codes and ids of rows in lists. New rows are written behind the old ones and count once they are committed."""

    def __init__(self, n_lists: int, code_size: int) -> None:
        nothing = np.zeros(0, dtype=np.int32)
        self.layout = Layout(np.zeros(n_lists, np.int64), nothing, np.zeros(n_lists + 1, np.int64), nothing)
        self.blocks = GrowingArray((code_size, BLOCK_ROWS), np.uint8)
        self.slot_ids = GrowingArray((BLOCK_ROWS,), np.int64)
        self._put(self.layout, self.layout.rows())

    def _put(self, layout: Layout, rows: UInt64) -> None:
        self.layout, self.rows = layout, rows
        self._sorted: tuple[Int64, Int64] | None = None  # ids in order and their slots, made when they are needed

    @property
    def nbytes(self) -> int:
        """Bytes in use and in reserve."""
        arrays = (*self.layout, self.rows, self.blocks.data, self.slot_ids.data)
        return sum(array.nbytes for array in arrays)

    def place(self, labels: Int32) -> Placement:
        """Slots for new rows in the lists `labels` (n,), in their order."""
        sizes = self.layout.sizes
        more = np.bincount(labels, minlength=len(sizes))
        layout = self.layout.resized(sizes + more)
        order = np.argsort(labels, kind="stable")
        lists = labels[order].astype(np.int64)
        rank = np.arange(len(labels)) - (np.cumsum(more) - more)[lists]
        slots = np.empty(len(labels), dtype=np.int64)
        slots[order] = layout.slots(lists, sizes[lists] + rank)
        self.blocks.reserve(layout.n_blocks)
        self.slot_ids.reserve(layout.n_blocks)
        clear = self._clearing(slots[slots < self.layout.n_blocks * BLOCK_ROWS])
        return Placement(slots, partial(self._put, layout, layout.rows()), clear)

    def reserve(self, n: int) -> None:
        """Make room for `n` rows in all, however they fall on the lists."""
        blocks = n // BLOCK_ROWS + len(self.layout.sizes)
        self.blocks.reserve(blocks)
        self.slot_ids.reserve(blocks)

    def write(self, slots: Int64, codes: UInt8, ids: Int64) -> None:
        """Write into slots of a placement that is not committed yet."""
        _native.put_codes(codes, slots, self.blocks.data)
        self.slot_ids.data.reshape(-1)[slots] = ids

    def _clearing(self, slots: Int64) -> Callable[[], None]:
        """What puts zeros into slots without rows, as files hold whole blocks, and takes no memory."""
        nothing = np.zeros((min(len(slots), CLEARED_ROWS), self.blocks.data.shape[1]), np.uint8)

        def clear() -> None:
            ids = self.slot_ids.data.reshape(-1)
            for start in range(0, len(slots), CLEARED_ROWS):
                here = slots[start : start + CLEARED_ROWS]
                _native.put_codes(nothing[: len(here)], here, self.blocks.data)
                ids[here] = 0

        return clear

    def restoring(self) -> Callable[[], None]:
        """What brings back the lists as they are, whatever rows have been added meanwhile, and cannot fail."""
        layout, rows, in_order = self.layout, self.rows, self._sorted
        clear = self._clearing(np.flatnonzero(~bits_to_mask(rows[: layout.n_blocks])))

        def restore() -> None:
            self._put(layout, rows)
            self._sorted = in_order
            clear()

        return restore

    def _taken(self) -> Int64:
        """The slots of all rows, list by list."""
        sizes = self.layout.sizes
        lists = np.repeat(np.arange(len(sizes)), sizes)
        return self.layout.slots(lists, np.arange(len(lists)) - np.repeat(np.cumsum(sizes) - sizes, sizes))

    def find(self, ids: Int64) -> Int64:
        """The slots of ids that are there."""
        if self._sorted is None:
            slots = self._taken()
            taken = self.slot_ids.data.reshape(-1)[slots]
            order = np.argsort(taken)
            self._sorted = taken[order], slots[order]
        in_order, slots = self._sorted
        if not len(ids):
            return np.empty(0, dtype=np.int64)
        at = np.minimum(np.searchsorted(in_order, ids), len(in_order) - 1)
        if (in_order[at] != ids).any():  # of a mapped file
            raise FormatError("slot_ids: the data are damaged: an id is missing")
        found: Int64 = slots[at]
        return found

    def lists_of(self, slots: Int64) -> Int64:
        """The list that each slot belongs to."""
        owner = np.zeros(self.layout.n_blocks, dtype=np.int64)
        owner[self.layout.chain] = np.repeat(np.arange(len(self.layout.sizes)), np.diff(self.layout.first))
        lists: Int64 = owner[slots // BLOCK_ROWS]
        return lists

    def codes(self, slots: Int64) -> UInt8:
        """The codes (n, code_size) in these slots."""
        codes = np.empty((len(slots), self.blocks.data.shape[1]), dtype=np.uint8)
        _native.get_codes(self.blocks.data, slots, codes)
        return codes

    def in_order(self) -> tuple[Int64, UInt8]:
        """The ids (n,) and codes (n, code_size) of all rows, list by list."""
        slots = self._taken()
        return self.slot_ids.data.reshape(-1)[slots], self.codes(slots)

    def removing(self, slots: Int64) -> Callable[[], None]:
        """What takes rows out, and cannot fail; the last rows of their lists fill the holes."""
        old = self.layout
        lists = self.lists_of(slots)
        layout = old.resized(old.sizes - np.bincount(lists, minlength=len(old.sizes)))
        place = np.empty(old.n_blocks * BLOCK_ROWS, dtype=np.int64)
        place[self._taken()] = np.arange(old.sizes.sum()) - np.repeat(np.cumsum(old.sizes) - old.sizes, old.sizes)
        gone = np.zeros(old.n_blocks * BLOCK_ROWS, dtype=np.bool_)
        gone[slots] = True
        holes = slots[place[slots] < layout.sizes[lists]]
        tail = np.repeat(np.arange(len(old.sizes)), old.sizes - layout.sizes)
        places = np.arange(len(tail)) - np.repeat(
            np.cumsum(old.sizes - layout.sizes) - old.sizes, old.sizes - layout.sizes
        )
        ends = old.slots(tail, places)
        sources = ends[~gone[ends]]
        targets = holes[np.argsort(self.lists_of(holes), kind="stable")]
        codes, ids, rows = self.codes(sources), self.slot_ids.data.reshape(-1), layout.rows()
        moved, nothing = ids[sources], np.zeros((len(ends), self.blocks.data.shape[1]), np.uint8)

        def commit() -> None:
            _native.put_codes(codes, targets, self.blocks.data)
            _native.put_codes(nothing, ends, self.blocks.data)  # nothing removed gets into a file
            ids[targets] = moved
            ids[ends] = 0
            self._put(layout, rows)

        return commit

    def allowed_rows(self, ids: Ids, allowed: Any) -> UInt64 | None:
        """The bits of the rows that may be returned, like `rows`; None for all."""
        bits = ids.allowed_bits(allowed)
        return None if bits is None else self.rows & self._by_slot(ids, bits)

    def _by_slot(self, ids: Ids, bits: Array) -> UInt64:
        taken = self._taken()
        rows = ids.rows_or_missing(self.slot_ids.data.reshape(-1)[taken])
        mask = np.zeros(len(self.rows) * BLOCK_ROWS, dtype=np.bool_)
        mask[taken] = bits[rows // 64] >> (rows % 64).astype(np.uint64) & np.uint64(1)
        return np.packbits(mask, bitorder="little").view("<u8").astype(np.uint64, copy=False)

    def state(self) -> State:
        """What a file stores."""
        n = self.layout.n_blocks
        arrays = {"codes": self.blocks.data[:n], "slot_ids": self.slot_ids.data[:n]}
        return State({}, {"list_sizes": self.layout.sizes, "chain": self.layout.chain, **arrays})

    @classmethod
    def from_state(cls, stored: Stored, n_lists: int, code_size: int, ids: Ids) -> InvertedLists:
        """Lists from a file, of the rows that have these ids."""
        lists = cls(n_lists, code_size)
        filled = Check(f"sizes that add up to {ids.n}", lambda sizes: bool((sizes >= 0).all() and sizes.sum() == ids.n))
        sizes = stored.array("list_sizes", np.int64, (n_lists,), below(ids.n + 1), filled)
        first = np.concatenate([[0], np.cumsum(-(-sizes // BLOCK_ROWS))])
        n_blocks = (stored.shape("codes") or (0,))[0]
        codes = stored.array("codes", np.uint8, (n_blocks, code_size, BLOCK_ROWS), bulk=True)
        chain = stored.array("chain", np.int32, (int(first[-1]),), non_negative, below(n_blocks), unique)
        free = np.setdiff1d(np.arange(n_blocks, dtype=np.int32), chain)
        lists.layout = Layout(sizes, chain, first, free)
        taken = lists._taken()
        same = Check(
            "the ids of the index", lambda slots: bool((np.sort(slots.ravel()[taken]) == np.sort(ids.values)).all())
        )
        slot_ids = stored.array("slot_ids", np.int64, (n_blocks, BLOCK_ROWS), same, bulk=True)
        lists.blocks, lists.slot_ids = GrowingArray.of(codes), GrowingArray.of(slot_ids)
        lists._put(lists.layout, lists.layout.rows())
        return lists
