"""Inverted lists: codes and ids in blocks of 64 rows, each block in one list."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fpq import _native
from fpq._arrays import GrowingArray
from fpq._checks import Int32, Int64, UInt8, UInt64
from fpq.indexes.base import bits_to_mask
from fpq.indexes.parts.ids import Commit, Ids, IdTable, places_allowed
from fpq.storage import Check, FormatError, State, Stored, below, non_negative, unique

BLOCK_ROWS = 64
PIECE_BLOCKS = 1 << 10  # of which ids are read at a time
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
        """The layout after every list has grown or shrunk at its end. With the same blocks, only `sizes` differ."""
        have, need = np.diff(self.first), -(-sizes // BLOCK_ROWS)
        if np.array_equal(have, need):
            return self._replace(sizes=sizes)
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

    def owners(self) -> Int64:
        """The list and the place in the chain of each block, (2, n_blocks); 0 for a free one."""
        owners = np.zeros((2, self.n_blocks), dtype=np.int64)
        owners[0, self.chain] = np.repeat(np.arange(len(self.sizes)), np.diff(self.first))
        owners[1, self.chain] = np.arange(len(self.chain))
        return owners

    def rows_after(self, old: Layout, rows: UInt64, lists: Int64) -> UInt64:
        """`rows` of the layout `old`, from which only the sizes of these lists differ."""
        if self.chain is not old.chain:
            return self.rows()
        rows = rows.copy()
        taken = self.sizes[lists] - (np.diff(self.first)[lists] - 1) * BLOCK_ROWS
        rows[self.chain[self.first[lists + 1] - 1]] = _lowest(taken)
        return rows

    def rows(self) -> UInt64:
        """The bits of the rows that are taken, for each block."""
        rows: UInt64 = np.zeros(max(1, self.n_blocks), dtype=np.uint64)
        within = np.arange(len(self.chain)) - np.repeat(self.first[:-1], np.diff(self.first))
        taken = np.clip(np.repeat(self.sizes, np.diff(self.first)) - within * BLOCK_ROWS, 1, BLOCK_ROWS)
        rows[self.chain] = _lowest(taken)
        return rows


def _lowest(n: Int64) -> UInt64:
    """The n lowest bits, 1 to 64."""
    return np.uint64(0xFFFFFFFFFFFFFFFF) >> (BLOCK_ROWS - n).astype(np.uint64)


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
        self.rows = self.layout.rows()
        self._table = IdTable()  # the slots of the ids
        self._owners: tuple[Int32, Int64] | None = None  # a chain, and the owners of its blocks

    @property
    def nbytes(self) -> int:
        """Bytes in use and in reserve."""
        arrays = (*self.layout, self.rows, self.blocks.data, self.slot_ids.data)
        return sum(array.nbytes for array in arrays) + self._table.nbytes

    def place(self, labels: Int32) -> Placement:
        """Slots for new rows in the lists `labels` (n,), in their order."""
        sizes = self.layout.sizes
        more = np.bincount(labels, minlength=len(sizes))
        layout = self.layout.resized(sizes + more)
        all_rows = layout.rows_after(self.layout, self.rows, np.flatnonzero(more))
        order = np.argsort(labels, kind="stable")
        lists = labels[order].astype(np.int64)
        rank = np.arange(len(labels)) - (np.cumsum(more) - more)[lists]
        slots = np.empty(len(labels), dtype=np.int64)
        slots[order] = layout.slots(lists, sizes[lists] + rank)
        self.blocks.reserve(layout.n_blocks)
        self.slot_ids.reserve(layout.n_blocks)
        slot_ids = self.slot_ids.data.reshape(-1)
        self._table.reserve(slot_ids, len(slots))

        def commit() -> None:
            self._table.insert(slot_ids, slots)
            self.layout, self.rows = layout, all_rows

        return Placement(slots, commit, self._clearing(slots[slots < self.layout.n_blocks * BLOCK_ROWS]))

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

    def clearing(self) -> Commit:
        """What forgets all that is written behind the present rows, and cannot fail."""
        return self._clearing(np.flatnonzero(~bits_to_mask(self.rows[: self.layout.n_blocks])))

    def snapshot(self) -> InvertedLists:
        """The lists as they are now, valid as long as rows are only added: with a table of its own, not made yet."""
        lists = copy.copy(self)
        lists._table = IdTable()
        return lists

    def _taken(self) -> Int64:
        """The slots of all rows, list by list."""
        sizes = self.layout.sizes
        lists = np.repeat(np.arange(len(sizes)), sizes)
        return self.layout.slots(lists, np.arange(len(lists)) - np.repeat(np.cumsum(sizes) - sizes, sizes))

    def find(self, ids: Int64) -> Int64:
        """The slots of ids that are there."""
        slots = self._find(ids)
        if (slots < 0).any():  # of a mapped file
            raise FormatError("slot_ids: the data are damaged: an id is missing")
        return slots

    def _find(self, ids: Int64) -> Int64:
        """The slot of each id, -1 where there is none."""
        n = int(self.layout.sizes.sum())
        return self._table.find(self.slot_ids.data.reshape(-1), ids, n, self._slots)

    def _slots(self) -> Iterator[Int64]:
        """The slots of all rows, in order."""
        for start in range(0, len(self.rows), PIECE_BLOCKS):
            mask = bits_to_mask(self.rows[start : start + PIECE_BLOCKS])
            yield np.flatnonzero(mask).astype(np.int64, copy=False) + start * BLOCK_ROWS

    def lists_of(self, slots: Int64) -> Int64:
        """The list that each slot belongs to."""
        return self._where(slots)[0]

    def _where(self, slots: Int64) -> tuple[Int64, Int64]:
        """The list of each slot, and the place in this list."""
        layout, known = self.layout, self._owners
        if known is None or known[0] is not layout.chain:
            known = self._owners = layout.chain, layout.owners()
        lists, places = known[1][:, slots // BLOCK_ROWS]
        return lists, (places - layout.first[lists]) * BLOCK_ROWS + slots % BLOCK_ROWS

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
        lists, places = self._where(slots)
        touched, fewer = np.unique(lists, return_counts=True)
        sizes = old.sizes.copy()
        sizes[touched] -= fewer
        layout = old.resized(sizes)
        rows = layout.rows_after(old, self.rows, touched)
        holes = np.flatnonzero(places < sizes[lists])
        targets = slots[holes[np.argsort(lists[holes], kind="stable")]]
        rank = np.arange(len(slots), dtype=np.int64) - np.repeat(np.cumsum(fewer) - fewer, fewer)
        ends = old.slots(np.repeat(touched, fewer), np.repeat(sizes[touched], fewer) + rank)
        sources = ends[~np.isin(ends, slots)]
        codes, ids = self.codes(sources), self.slot_ids.data.reshape(-1)
        nothing = np.zeros((len(ends), self.blocks.data.shape[1]), np.uint8)

        def commit() -> None:
            _native.put_codes(codes, targets, self.blocks.data)
            _native.put_codes(nothing, ends, self.blocks.data)  # nothing removed gets into a file
            self._table.remove(ids, slots, sources, targets)
            self.layout, self.rows = layout, rows

        return commit

    def allowed_rows(self, ids: Ids, allowed: Any) -> UInt64 | None:
        """The bits of the rows that may be returned, like `rows`; None for all."""
        if allowed is None:
            return None
        slot_ids = self.slot_ids.data.reshape(-1)[: len(self.rows) * BLOCK_ROWS]
        return self.rows & places_allowed(ids.allowed(allowed), len(slot_ids), slot_ids, self._find)

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
        lists.rows = lists.layout.rows()
        return lists
