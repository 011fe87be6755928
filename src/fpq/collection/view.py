"""What a search sees: the index, the tail of rows that the index does not contain, and the rows that are removed.

A `State` never changes. It holds exactly the rows of one commit: every upsert whole or not at all, no row twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fpq._checks import Array, Int64, UInt64
from fpq.collection.database import Database
from fpq.collection.store import Settings, Store
from fpq.indexes import FlatIndex
from fpq.indexes.base import Index
from fpq.indexes.parts.ids import mask_to_bits
from fpq.indexes.parts.lock import Lock
from fpq.metric import MetricName
from fpq.storage import load

MOST_GAPS = 100  # row numbers per row for which a mask by number takes less memory than a table of numbers
RETRIES = 20  # of opening an index file that a writer replaces meanwhile


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The rows of one commit."""

    settings: Settings
    names: list[str]  # of metadata
    index: Index | None
    index_alive: UInt64 | None  # the places of the index that are not removed; None: all
    tail: FlatIndex  # its rows are in the order of their numbers
    tail_ids: Int64
    tail_alive: Array | None  # bool per row of the tail; None: all
    removed: int  # rows of the index that are removed

    def tail_bits(self, chosen: Int64 | None = None) -> UInt64 | None:
        """The rows of the tail that are not removed, and among `chosen`; None: all."""
        if chosen is None:
            return None if self.tail_alive is None else mask_to_bits(self.tail_alive)
        mask = np.zeros(len(self.tail_ids), np.bool_)
        places = np.searchsorted(self.tail_ids, chosen)
        inside = places < len(self.tail_ids)
        places, chosen = places[inside], chosen[inside]
        mask[places[self.tail_ids[places] == chosen]] = True
        return mask_to_bits(mask if self.tail_alive is None else mask & self.tail_alive)

    def index_bits(self, chosen: Int64 | None = None) -> UInt64 | None:
        """The places of the index that are not removed, and among `chosen`; None: all."""
        if chosen is None or self.index is None:
            return self.index_alive
        bits = places_of(self.index, chosen)
        return bits if self.index_alive is None else bits & self.index_alive


def places_of(index: Index, ids: Int64) -> UInt64:
    """The places of these ids in an index, as bits; ids that the index does not contain are ignored."""
    with index._lock.reading():
        bits: UInt64 = index._allowed_bits(ids)  # type: ignore[assignment]
        return bits


class View:
    """The present state of a process, which follows the commits of this process and of others."""

    def __init__(self, store: Store, n_threads: int | None) -> None:
        self._store = store
        self._n_threads = n_threads
        self._stamp: tuple[int, int] | None = None
        self._state: State | None = None
        self._seq = 0  # the last entry of `removed` that the state includes
        self._tail = FlatIndex()
        self._dead: list[Int64] = []  # rows of the tail that are removed
        self.memory_index: Index | None = None  # the index of a collection in memory

    def state(self) -> State:
        """The state after the last commit."""
        db = self._store.reader
        with db.lock:
            for attempt in range(RETRIES):
                try:
                    stamp = db.data_version()
                    if self._state is None or stamp != self._stamp:
                        with db.reading():
                            self._follow(db)
                            stamp = db.data_version()
                        self._stamp = stamp
                    assert self._state is not None
                    return self._state
                except FileNotFoundError:  # a writer has replaced the index file since the transaction began
                    if attempt == RETRIES - 1:
                        raise
            raise AssertionError

    def close(self) -> None:
        """Let go of the index, and so of its mapped file, which Windows could not delete otherwise."""
        with self._store.reader.lock:
            self._state = self.memory_index = None

    def _follow(self, db: Database) -> None:
        settings = self._store.settings(db)
        before = self._state
        known = before if before is not None and before.settings.generation == settings.generation else None
        names = self._store.names(db, settings)
        if known is None:
            index = self.memory_index if self._store.folder is None else self._opened(settings)
            if index is not None and settings.generation == 0:
                index = None
            tail, seq, last = FlatIndex(_metric(settings), n_threads=self._n_threads), 0, settings.folded
            alive, dead, removed = None, [], 0
        else:
            index, tail, seq, last = known.index, self._tail, self._seq, known.settings.last_id
            alive, dead, removed = known.index_alive, self._dead, known.removed
        new = db.execute("SELECT seq, id FROM removed WHERE seq > ? ORDER BY seq", (seq,)).fetchall()
        gone = np.fromiter((row[1] for row in new), np.int64, len(new))
        seq = new[-1][0] if new else seq
        blocks = list(self._store.blocks(settings, last))
        if blocks:  # one call: a state includes all or none
            tail.add(np.concatenate([block[1] for block in blocks]), np.concatenate([block[0] for block in blocks]))
        in_index = gone[gone <= settings.folded]
        if index is not None and len(in_index):
            # A row that was removed while the index file was made is in `removed`, but perhaps not in the index.
            removed += len(index._ids.known_rows(in_index))
            alive = (all_places(index) if alive is None else alive) & ~places_of(index, in_index)
        dead = [*dead, gone[gone > settings.folded]] if len(in_index) < len(gone) else dead
        tail_ids = tail._ids.values
        tail_alive = ~np.isin(tail_ids, np.concatenate(dead)) if dead else None
        self._tail, self._seq, self._dead = tail, seq, dead
        self._state = State(settings, names, index, alive, _frozen(tail), tail_ids, tail_alive, removed)

    def _opened(self, settings: Settings) -> Index | None:
        if not settings.generation:
            return None
        assert self._store.folder is not None
        index: Index = load(index_file(self._store, settings.generation), mmap=True)
        index.n_threads = self._n_threads
        return index


def index_file(store: Store, generation: int) -> Any:
    """The path of an index file."""
    assert store.folder is not None
    return store.folder / f"index-{generation}.fpq"


def all_places(index: Index) -> UInt64:
    """The places of all rows of an index, as bits; lists have other places between them."""
    largest = index._ids.largest
    if largest > MOST_GAPS * len(index):
        return places_of(index, index._ids.values)
    with index._lock.reading():
        bits: UInt64 = index._allowed_bits(np.ones(largest + 1, np.bool_))  # type: ignore[assignment]
        return bits


def _metric(settings: Settings) -> MetricName:
    return settings.metric  # type: ignore[return-value]


def _frozen(tail: FlatIndex) -> FlatIndex:
    """The present rows of an index to which rows are only added."""
    twin = object.__new__(FlatIndex)
    own = {"_ids": tail._ids.snapshot(), "_vectors": tail._vectors.snapshot(), "_lock": Lock(), "_longest": None}
    vars(twin).update(vars(tail) | own)
    return twin
