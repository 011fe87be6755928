"""Hash tables: the rows of each bucket, in the layout of the search."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fpq import _native, threads
from fpq._checks import Array, UInt8, UInt32, UInt64
from fpq.indexes.parts.ids import Removal
from fpq.storage import Check, FormatError, Stored

MAX_ROWS = (1 << 32) - 1
ROW_MASK = np.uint64(MAX_ROWS)


class Tables(NamedTuple):
    """Tables of the same rows, each with a bucket per key."""

    entries: UInt64  # (n_tables, n) key << 32 | row, ascending
    starts: UInt32  # (n_tables, 2**bits + 1) directories of the entries
    bits: int
    sketches: UInt8 | None  # (n_tables, n, size), in the order of the entries

    @classmethod
    def empty(cls, n_tables: int) -> Tables:
        """Tables without rows."""
        return cls(np.empty((n_tables, 0), np.uint64), np.empty((n_tables, 0), np.uint32), 1, None)

    @classmethod
    def of(cls, entries: UInt64, sketches: UInt8 | None) -> Tables:
        """Tables with the directories of these entries."""
        return cls(entries, directories(entries), directory_bits(entries.shape[1]), sketches)

    @classmethod
    def of_keys(cls, keys: UInt32, first_row: int, n_threads: int) -> Tables:
        """Tables of the rows from `first_row` on with these keys (n, n_tables)."""
        n, n_tables = keys.shape
        bits = directory_bits(n)
        entries = np.empty((n_tables, n), np.uint64)
        starts = np.empty((n_tables, (1 << bits) + 1), np.uint32)
        _native.minhash_tables(keys, 0, first_row, bits, entries, starts, n_threads)
        return cls(entries, starts, bits, None)

    @property
    def n(self) -> int:
        """The rows in each table."""
        return int(self.entries.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.entries.nbytes + self.starts.nbytes + (0 if self.sketches is None else self.sketches.nbytes)

    def merged(self, added: UInt64, added_sketches: UInt8 | None, n_threads: int) -> Tables:
        """These tables with the entries (n_tables, m) of further rows, and with the sketches of these, if any."""
        n_tables, old = self.entries.shape
        n = old + added.shape[1]
        entries = np.empty((n_tables, n), dtype=np.uint64)
        by_row = sketches = None
        if added_sketches is not None:
            size = added_sketches.shape[1]
            by_row = np.empty((n, size), dtype=np.uint8)
            if self.sketches is not None:
                by_row[_rows(self.entries[0])] = self.sketches[0]
            by_row[old:] = added_sketches
            sketches = np.empty((n_tables, n, size), dtype=np.uint8)

        def merge(table: int) -> None:
            entries[table, :old] = self.entries[table]
            entries[table, old:] = np.sort(added[table])
            if old:
                entries[table].sort(kind="stable")  # merges the two sorted runs
            if sketches is not None and by_row is not None:
                np.take(by_row, _rows(entries[table]), axis=0, out=sketches[table], mode="clip")

        threads.parallel_map(merge, range(n_tables), n_threads)
        return Tables.of(entries, sketches)

    def without(self, removal: Removal) -> Tables:
        """These tables without the removed rows; rows from the end have taken their numbers."""
        n_tables, n = self.entries.shape
        n_kept = n - len(removal.rows)
        renumbered = np.full(n, -1, dtype=np.int64)
        renumbered[removal.sources] = removal.targets
        unchanged = np.ones(n, dtype=np.bool_)
        unchanged[removal.rows] = unchanged[removal.sources] = False
        entries = np.empty((n_tables, n_kept), dtype=np.uint64)
        sketches = None
        if self.sketches is not None:
            sketches = np.empty((n_tables, n_kept, self.sketches.shape[2]), dtype=np.uint8)
        for table in range(n_tables):
            old = self.entries[table]
            keep = unchanged[_rows(old)]
            others = np.flatnonzero(~keep)
            rows = renumbered[_rows(old[others])]
            moved = others[rows >= 0]
            new = (old[moved] & ~ROW_MASK) | rows[rows >= 0].astype(np.uint64)
            order = np.argsort(new, kind="stable")
            kept = old[keep]
            positions = np.searchsorted(kept, new[order])
            entries[table] = np.insert(kept, positions, new[order])
            if sketches is not None and self.sketches is not None:
                kept_sketches = self.sketches[table][keep]
                sketches[table] = np.insert(kept_sketches, positions, self.sketches[table][moved[order]], axis=0)
        return Tables.of(entries, sketches)

    @property
    def arrays(self) -> dict[str, Array]:
        """The arrays that a file stores."""
        found: dict[str, Array] = {"entries": self.entries, "starts": self.starts}
        return found if self.sketches is None else {**found, "table_sketches": self.sketches}

    @classmethod
    def restored(cls, stored: Stored, n_tables: int, n: int, sketch_size: int = 0) -> Tables:
        """Read tables. Mapped entries are not checked: the search skips row numbers beyond n."""
        bits = directory_bits(n)
        entries = stored.array("entries", np.uint64, (n_tables, n), ordered, permuted, bulk=True)
        within = Check(f"numbers that rise from 0 to {n}", lambda starts: _rise(starts, n))
        starts = stored.array("starts", np.uint32, (n_tables, (1 << bits) + 1), within)
        if stored.checked and not np.array_equal(starts, directories(entries)):
            raise FormatError("starts: expected the directories of the entries")
        sketches = None
        if sketch_size:
            sketches = stored.array("table_sketches", np.uint8, (n_tables, n, sketch_size), bulk=True)
        return cls(entries, starts, bits, sketches)


def _rows(entries: UInt64) -> Array:
    return (entries & ROW_MASK).astype(np.int64)


ordered = Check("entries in order", lambda entries: bool((entries[:, 1:] >= entries[:, :-1]).all()))
permuted = Check(
    "every row once in each table",
    lambda entries: all(
        np.array_equal(np.sort(table.astype(np.uint32)), np.arange(len(table), dtype=np.uint32)) for table in entries
    ),
)


def _rise(starts: Array, n: int) -> bool:
    return bool((starts[:, 0] == 0).all() and (starts[:, -1] == n).all() and (starts[:, 1:] >= starts[:, :-1]).all())


def directories(entries: Array) -> Array:
    """The position of the first entry of each directory slot, for the sorted entries (n_tables, n) of each table."""
    bits = directory_bits(entries.shape[1])
    starts = np.zeros((len(entries), (1 << bits) + 1), dtype=np.uint32)
    for table in range(len(entries) if entries.size else 0):
        _native.lsh_starts(entries[table], bits, starts[table])
    return starts


def directory_bits(n: int) -> int:
    """Number of key bits that select a directory slot: one to two slots of 4 bytes per 8 rows."""
    return min(28, max(1, n.bit_length() - 3))
