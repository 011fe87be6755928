"""The rows that fulfil a condition: found by SQLite, kept for the next searches with the same condition."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from fpq._checks import Int64
from fpq.collection.guard import Condition
from fpq.collection.scan import Chosen, Read
from fpq.collection.store import Store
from fpq.collection.view import State
from fpq.indexes import FlatIndex

KEPT = 16  # conditions
# Few rows are searched exactly: their vectors are copied once, and a scan of the copy is fast while it fits the cache
# of the processor. Of 1,000,000 rows of 128 float32 numbers, beside a search without condition (one thread): 1 % of the
# rows take 1.2 times its time exactly and 1.1 times by the index, 2 % take 1.8 and 1.1 times, 0.2 % take 0.6 and 1.2.
FEW_BYTES = 8 << 20
FEW_SHARE = 1 / 16  # of all rows; but a search always copies up to FEWEST rows
FEWEST = 1000


@dataclass
class Matches:
    """The rows that fulfil a condition in one state."""

    state: State
    ids: Int64  # ascending; of these, some may be removed
    clock: bool  # whether the condition depends on the time
    chosen: Chosen


class Filters:
    """The matches of the conditions that were used last."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: OrderedDict[object, Matches] = OrderedDict()

    def chosen(self, state: State, condition: Condition | None, read: Read) -> tuple[Chosen, bool] | None:
        """The rows of a state that fulfil a condition, and whether the matches were known.

        None: the state is no longer the last one, so that SQLite would find the rows of another.
        """
        if condition is None:
            return Chosen(state.index_bits(), state.tail_bits(), None), False
        with self._lock:
            known = self._kept.get(condition.known_as)
        if known is not None and known.state is state and not known.clock:
            self._keep(condition, known)
            return known.chosen, True
        with self._store.reader.reading() as db:
            if self._store.settings(db) != state.settings:
                return None
            ids, clock = self._found(state, condition, known)
            matches = Matches(state, ids, clock, _chosen(state, ids, read))
        self._keep(condition, matches)
        return matches.chosen, False

    def _keep(self, condition: Condition, matches: Matches) -> None:
        with self._lock:
            self._kept[condition.known_as] = matches
            self._kept.move_to_end(condition.known_as)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    def _found(self, state: State, condition: Condition, known: Matches | None) -> tuple[Int64, bool]:
        """The matches. Row numbers only grow, so that known matches need only those of new rows."""
        extend = (
            known is not None
            and not known.clock
            and known.state.settings.edits == state.settings.edits
            and known.state.settings.last_id <= state.settings.last_id
        )
        after = known.state.settings.last_id if known is not None and extend else 0
        db = self._store.reader
        ids, clock = db.guard.ids(db.connection, condition, state.names, after)
        if known is not None and extend:
            return np.concatenate([known.ids, ids]), known.clock
        return ids, clock


def _chosen(state: State, ids: Int64, read: Read) -> Chosen:
    """The rows of a state among `ids`."""
    settings = state.settings
    row_bytes = (settings.dim or 1) * (settings.element.itemsize if settings.metric != "cosine" else 4)
    if len(ids) <= max(FEWEST, settings.rows * FEW_SHARE) and len(ids) * row_bytes <= FEW_BYTES:
        there, vectors = read(ids)
        few = FlatIndex(state.tail.metric, n_threads=state.tail.n_threads)
        if len(there):
            few.add(vectors, there)
        return Chosen(None, None, len(there), few)
    index_bits, tail_bits = state.index_bits(ids), state.tail_bits(ids)
    return Chosen(index_bits, tail_bits, len(ids))
