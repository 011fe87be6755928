"""Reading of a collection: rows by key, and searches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from operator import itemgetter
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, tuning
from fpq._checks import Array, Float32, Int64
from fpq.collection import guard, measure, scan
from fpq.collection.keys import checked, listed, restored
from fpq.collection.opened import Opened
from fpq.collection.results import CollectionStats, Hit, Key, Row
from fpq.collection.view import State
from fpq.metric import METRICS

RETRIES = 3  # of a search whose rows others remove before their metadata are read; then a transaction keeps them

Params = Sequence[Any] | Mapping[str, Any]


class Reading(Opened):
    """The methods that read a collection."""

    @overload
    def get(self, keys: Key) -> Row: ...  # type: ignore[overload-overlap]
    @overload
    def get(self, keys: Iterable[Key]) -> list[Row]: ...
    @overload
    def get(self, *, where: str, params: Params | None = None) -> list[Row]: ...
    def get(self, keys: Any = None, *, where: str | None = None, params: Params | None = None) -> Row | list[Row]:
        """The rows with these keys, in this order; a single `Row` for a single key.

        Parameters
        ----------
        keys : list of keys, or one key
        where, params
            Instead of keys: a condition, as in `search`. The rows are in the order in which they were written.

        Raises
        ------
        KeyError
            If a key is not in the collection.
        ValueError, TypeError
            If an argument is not as described, or keys are of another type than those of the collection.
        """
        store = self._ready()
        condition = guard.condition_of(where, params)
        if (keys is None) == (condition is None):
            raise ValueError("keys: expected either keys or where")
        wanted, single = ([], False) if keys is None else listed(keys)
        with store.reader.reading() as db:
            settings = store.settings(db)
            names, kind = store.names(db, settings), settings.keys
            if condition is None:
                stored, kind = checked(wanted, kind)
                content = list(store.rows(db, names, "key", list(dict.fromkeys(stored))))
            else:
                ids = db.guard.ids(db.connection, condition, names)[0].tolist()
                content = sorted(store.rows(db, names, "id", ids), key=itemgetter(0))
                stored = wanted = [key for _, key, _ in content]
            vectors = _by_number(*store.vectors(db, settings, [row[0] for row in content]))
        found = {key: (number, metadata) for number, key, metadata in content}
        rows = []
        for given, key in zip(wanted, stored, strict=True):
            if key not in found:
                raise KeyError(given)
            number, metadata = found[key]
            rows.append(Row(restored(key, kind), vectors[number], dict(metadata)))
        return rows[0] if single else rows

    def keys(self, where: str | None = None, params: Params | None = None) -> list[Key]:
        """The keys of the rows that fulfil a condition, in the order in which the rows were written.

        Parameters
        ----------
        where, params
            As in `search`. Default: all keys.

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described.
        """
        store = self._ready()
        condition = guard.condition_of(where, params)
        with store.reader.reading() as db:
            settings = store.settings(db)
            if condition is None:
                found = db.execute("SELECT id, key FROM rows ORDER BY id").fetchall()
            else:
                ids = db.guard.ids(db.connection, condition, store.names(db, settings))[0].tolist()
                found = sorted((number, key) for number, key, _ in store.rows(db, [], "id", ids))
        return [restored(key, settings.keys) for _, key in found]

    def __len__(self) -> int:
        return self._present().rows

    def __contains__(self, key: object) -> bool:
        store = self._ready()
        with store.reader.reading() as db:
            settings = store.settings(db)
            try:
                stored, _ = checked([key], settings.keys)
            except (TypeError, ValueError):
                return False
            return bool(settings.keys and store.ids(db, stored))

    def __iter__(self) -> Iterator[Key]:
        """The keys, in the order in which their vectors were written. Changes meanwhile may or may not show."""
        store = self._ready()
        last = 0
        while True:
            with store.reader.reading() as db:
                kind = store.settings(db).keys
                found = db.execute("SELECT id, key FROM rows WHERE id > ? ORDER BY id LIMIT 1000", (last,)).fetchall()
            if not found:
                return
            last = found[-1][0]
            yield from (restored(key, kind) for _, key in found)

    def search(
        self,
        Q: ArrayLike,
        k: int = 10,
        *,
        where: str | None = None,
        params: Params | None = None,
        recall: float | None = None,
        vectors: bool = False,
        explain: bool = False,
    ) -> Any:
        """The k nearest rows of each query, nearest first.

        Parameters
        ----------
        Q : array (d,) or (nq, d)
        k : int, default 10
        where : str, optional
            A condition in SQL over the metadata and `key`: ``"year >= ? AND lang = ?"``. Only rows that fulfil it are
            found. Dicts and lists are JSON: ``"tags ->> '$.color' = ?"``.
        params : list or dict, optional
            The values of ``?`` or ``:name`` in `where`.
        recall : float, optional
            The share of the true neighbours to be found, as measured by `tune` or at the training for k = 10. No effect
            while the collection is searched exactly. Default: 0.95, or what `tune` was asked for.
        vectors : bool, default False
            Return the vectors, too.
        explain : bool, default False
            Return how the search was carried out, too: ``hits, plan``.

        Returns
        -------
        list of Hit, or a list of these lists for a matrix
            Fewer than k hits if fewer rows exist or fulfil the condition.

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described.
        """
        k = _checks.integer("k", k, 1)
        recall = None if recall is None else tuning.recall_target(recall)

        def find(state: State, queries: Float32, chosen: scan.Chosen) -> list[scan.Answer]:
            distances, ids = scan.nearest(state, queries, k, chosen, recall, self._read)
            return [(row[found >= 0], found[found >= 0]) for row, found in zip(distances, ids, strict=True)]

        return self._found(Q, where, params, vectors, explain, find)

    def range_search(
        self,
        Q: ArrayLike,
        radius: float,
        *,
        where: str | None = None,
        params: Params | None = None,
        vectors: bool = False,
        explain: bool = False,
    ) -> Any:
        """All rows within a radius of each query, nearest first.

        An index of codes finds the rows whose codes are within the radius, in the lists that a search probes: rows near
        the radius may be missing. Every row that is returned is within the radius.

        Parameters
        ----------
        Q : array (d,) or (nq, d)
        radius : float
            "l2": largest squared L2 distance. "ip" and "cosine": smallest similarity.
        where, params, vectors, explain
            As in `search`.

        Returns
        -------
        list of Hit, or a list of these lists for a matrix
        """
        radius = _checks.real("radius", radius)
        return self._found(
            Q, where, params, vectors, explain,
            lambda state, queries, chosen: scan.within(state, queries, radius, chosen, self._read),
        )  # fmt: skip

    def _found(
        self, Q: Any, where: Any, params: Any, with_vectors: bool, explain: bool,
        find: Callable[[State, Float32, scan.Chosen], list[scan.Answer]],
    ) -> Any:  # fmt: skip
        """The hits of a search by `find`."""
        start = time.perf_counter()
        self._ready()
        condition = guard.condition_of(where, params)
        for attempt in count():
            still = attempt >= RETRIES and attempt % 2 == 1
            try:
                with self._still() if still else contextlib.nullcontext():
                    state = self._state()
                    queries, single = _checks.queries(Q, state.settings.dim, 1)
                    known = self._filters.chosen(state, condition, self._read)
                    if known is None:
                        continue
                    chosen, cached = known
                    none = [(np.empty(0), np.empty(0))] * len(queries)
                    answers = find(state, queries, chosen) if state.settings.dim else none
                    hits, complete = self._hits(state, answers, with_vectors)
            except FileNotFoundError:
                if not still:
                    raise
                continue  # a writer has replaced the index file of this moment
            if complete:
                break
        found: Any = hits[0] if single else hits
        if not explain:
            return found
        sql: tuple[str, ...] = ()
        if condition is not None:
            with self._store.reader.reading() as db:
                sql = db.guard.plan(db.connection, condition, state.names)
        return found, measure.plan(state, chosen, cached, sql, time.perf_counter() - start)

    @contextlib.contextmanager
    def _still(self) -> Iterator[None]:
        """A transaction in which the rows do not change, whatever others write."""
        with self._store.reader.reading() as db:
            self._store.settings(db)  # SQLite takes its snapshot at the first statement that reads
            yield

    def _hits(
        self, state: State, answers: Sequence[tuple[Array, Array]], with_vectors: bool
    ) -> tuple[list[list[Hit]], bool]:
        """The hits of the rows that still exist, and whether all do.

        All rows are read at one moment, at which every key is there once: no answer contains a key twice.
        """
        store = self._store
        numbers = list(dict.fromkeys(number for _, ids in answers for number in ids.tolist()))
        with store.reader.reading() as db:
            settings = store.settings(db)
            rows = {row[0]: row for row in store.rows(db, store.names(db, settings), "id", numbers)}
            vectors = _by_number(*store.vectors(db, settings, numbers)) if with_vectors else {}
        metric, kind = METRICS[state.settings.metric], state.settings.keys
        hits = []
        for distances, ids in answers:
            shown = metric.to_user(np.array(distances, np.float32)).tolist()
            hits.append([
                Hit(restored(rows[number][1], kind), distance, dict(rows[number][2]), vectors.get(number))
                for distance, number in zip(shown, ids.tolist(), strict=True) if number in rows
            ])  # fmt: skip
        return hits, len(rows) == len(numbers)

    def stats(self, recall_sample: int = 0) -> CollectionStats:
        """Numbers about the collection.

        Parameters
        ----------
        recall_sample : int, default 0
            The number of rows for which the ``recall@10`` is measured, by comparison with exact search. That reads all
            vectors.
        """
        self._ready()
        n = _checks.integer("recall_sample", recall_sample, 0)
        return measure.stats(self._store, self._view.state(), n, self._read)


def _by_number(ids: Int64, vectors: Array) -> dict[int, Array]:
    return dict(zip(ids.tolist(), vectors, strict=True))
