"""Numbers about a collection: its size, the recall of its searches, the plan of a search."""

from __future__ import annotations

import json

import numpy as np

from fpq import metrics
from fpq.collection import scan
from fpq.collection.results import CollectionStats, SearchPlan
from fpq.collection.scan import Answer, Chosen, Read
from fpq.collection.store import Store, size_on_disk
from fpq.collection.view import State
from fpq.indexes import FlatIndex

K = 10


def plan(state: State, chosen: Chosen, cached: bool, sql: tuple[str, ...], seconds: float) -> SearchPlan:
    """How a search was carried out."""
    if chosen.few is not None:
        method = "exact search of the few rows that fulfil the condition"
    elif state.index is None or not len(state.index) or isinstance(state.index, FlatIndex):
        method = "exact search of all rows"
    else:
        method = "search of the index, and exact search of the tail"
    matches = None if chosen.n is None else int(chosen.n)
    tail = len(state.tail_ids)
    return SearchPlan(method, matches, cached, described(state), state.settings.rows, tail, sql, seconds)


def described(state: State) -> str:
    """The index, or the words for none."""
    return "no index yet" if state.index is None else repr(state.index)


def stats(store: Store, state: State, n_queries: int, read: Read) -> CollectionStats:
    """Numbers about a collection."""
    settings = state.settings
    training = {} if settings.training is None else json.loads(settings.training)
    index_bytes = 0 if state.index is None else state.index.nbytes
    return CollectionStats(
        rows=settings.rows, tail=len(state.tail_ids), removed=state.removed,
        memory_bytes=index_bytes + state.tail.nbytes, disk_bytes=size_on_disk(store.folder), index=described(state),
        generation=settings.generation, trained_rows=training.get("rows"), trained_at=training.get("at"),
        recall=_recall(store, state, n_queries, read) if n_queries and settings.rows > 1 else None,
    )  # fmt: skip


def _recall(store: Store, state: State, n_queries: int, read: Read) -> float:
    """recall@10 of searches for rows of the collection, which do not count themselves."""
    settings = state.settings
    with store.reader.reading() as db:
        sql = "SELECT id FROM rows WHERE id <= ?"
        numbers = np.fromiter((row[0] for row in db.execute(sql, (settings.last_id,))), np.int64)
    some = np.random.default_rng(0).choice(numbers, min(n_queries, len(numbers)), replace=False)
    some, rows = read(np.sort(some))
    queries = rows.astype(np.float32)
    k = min(K + 1, len(numbers))
    true: list[Answer] = []
    for ids, vectors in store.blocks(settings):
        block = FlatIndex(state.tail.metric, n_threads=state.tail.n_threads).add(vectors, ids)
        distances, found = block.search(queries, k)
        ascending = -distances if block._metric.inner_product else distances
        true = [scan.merged([*true, (ascending, found)], k)]
    everything = Chosen(state.index_bits(), state.tail_bits(), None)
    answer = scan.nearest(state, queries, k, everything, None, read)
    return metrics.recall_at_k(_others(answer[1], some, k), _others(true[0][1], some, k))


def _others(ids: np.ndarray, own: np.ndarray, k: int) -> np.ndarray:
    """The neighbours without the query itself; without the last one if it is not among them."""
    kept = [[each for each in row.tolist() if each != number][: k - 1] for row, number in zip(ids, own, strict=True)]
    return np.array([row + [-1] * (k - 1 - len(row)) for row in kept], np.int64)
