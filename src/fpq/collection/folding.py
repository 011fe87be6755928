"""New index files: the tail moves into the index, removed rows leave it, and the index is trained when it is time."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from datetime import datetime, timezone
from typing import Any, NamedTuple

import numpy as np

from fpq import _checks, progress, tuning
from fpq._checks import Array, Float32, Int64
from fpq.collection.store import BLOCK_ROWS, Settings, Store
from fpq.collection.view import View, index_file
from fpq.indexes import FlatIndex, IVFPQIndex
from fpq.indexes.base import Index
from fpq.indexes.changes import NOTHING
from fpq.indexes.parts.coarse import rows_per_list
from fpq.indexes.pq_base import CodeIndex
from fpq.recommendation import recommend
from fpq.storage import _from_bytes, load

EXACT_ROWS = 20_000  # a collection of fewer rows is searched exactly
OWN_ROWS = 1000  # the fewest rows from which an index of the user learns
GROWTH = 8  # an index is trained again when the rows are this many times those of the last training
DRIFT = 2.0  # or when the error of codes of new rows is this many times the error at the training
DRIFT_GROWTH = 1.25  # and the rows have grown by this factor: other training rows give other codes
SAMPLE_ROWS = 65_536  # rows that an index learns from, or more if it has many lists
RECALL = 0.95  # recall@10 to which a new index is tuned
HELD_OUT = 512  # rows that are added last, so that `tune` can search for them
ERROR_ROWS = 4096  # rows whose coding error is measured
LEAST_TAIL, TAIL_SHARE = 10_000, 1 / 16  # a longer tail is folded in the background

_logger = logging.getLogger("fpq")


class Tuning(NamedTuple):
    """Queries of the user for `tune`."""

    Q: Any
    k: int
    recall: float


def is_due(settings: Settings, tail: int) -> bool:
    """Whether the tail is so long that it should move into the index."""
    return tail > max(LEAST_TAIL, settings.rows * TAIL_SHARE)


def fold(
    store: Store, view: View, n_threads: int | None, *, wanted: Tuning | None = None, train: bool = False
) -> tuning.Tuning | None:
    """Write an index of all present rows, and make it the index of the collection.

    Upserts and searches go on meanwhile: rows that are added after the start form the next tail, and rows that are
    removed after the start stay in the table `removed`.
    """
    db = store.reader
    with db.reading():
        settings = store.settings(db)
        removed = db.execute("SELECT seq, id FROM removed").fetchall()
    if not settings.last_id or (settings.last_id == settings.folded and not removed and wanted is None and not train):
        return None
    index = _present(store, view, settings, n_threads)
    training = None if settings.training is None else json.loads(settings.training)
    fresh = None
    if train or _is_time(store, settings, training):
        fresh = _trained(store, settings, n_threads)
    tuned = None
    if fresh is not None:
        index, held = fresh
        training = _filled(store, settings, index, held)
    else:
        if removed:
            index.remove(np.array([row[1] for row in removed], np.int64))
        error = _extend(store, settings, index)
        drifted = training is not None and error is not None and error > DRIFT * (training["error"] or np.inf)
        if drifted and training is not None and settings.rows >= DRIFT_GROWTH * training["rows"]:
            _logger.info("Collection: the error of new codes is %.3g, at the training %.3g", error, training["error"])
            again = _trained(store, settings, n_threads)
            if again is not None:
                index, held = again
                training = _filled(store, settings, index, held)
    if wanted is not None and len(index) and isinstance(index, CodeIndex):
        tuned = index.tune(wanted.Q, wanted.k, wanted.recall)
    _publish(store, view, settings, index, removed[-1][0] if removed else 0, training)
    return tuned


def _present(store: Store, view: View, settings: Settings, n_threads: int | None) -> Index:
    """A copy of the present index that can be changed."""
    if not settings.generation:
        return FlatIndex(settings.metric, n_threads=n_threads)  # type: ignore[arg-type]
    if store.folder is None:
        assert view.memory_index is not None
        return view.memory_index.copy()
    index: Index = load(index_file(store, settings.generation))
    index.n_threads = n_threads
    return index


def _is_time(store: Store, settings: Settings, training: dict[str, Any] | None) -> bool:
    own = store.index_settings()
    if training is None:
        return settings.rows >= (EXACT_ROWS if own is None else OWN_ROWS)
    return bool(settings.rows >= GROWTH * training["rows"])


def _configured(store: Store, settings: Settings, n_threads: int | None) -> Index:
    """The index of the user, or the one that suits the rows, without training."""
    own = store.index_settings()
    if own is not None:
        index: Index = _from_bytes(own, n_threads, False)  # type: ignore[assignment]
    else:
        recommended = recommend(
            (settings.rows, settings.dim or 1), metric=settings.metric, dtype=settings.dtype  # type: ignore[arg-type]
        )  # fmt: skip
        index = recommended.index
    index.n_threads = n_threads
    return index


def _trained(store: Store, settings: Settings, n_threads: int | None) -> tuple[Index, Int64] | None:
    """A new trained index without rows, and the numbers of rows that it has not learned from; None: rows are few."""
    index = _configured(store, settings, n_threads)
    if isinstance(index, FlatIndex):
        return index, NOTHING
    n_lists = (index.n_lists or 0) if isinstance(index, IVFPQIndex) else 0
    size = max(SAMPLE_ROWS, n_lists * rows_per_list(n_lists) if n_lists else 0)
    with store.reader.reading() as db:
        numbers = np.fromiter((row[0] for row in db.execute("SELECT id FROM rows")), np.int64)
    rng = np.random.default_rng(0)
    held = np.sort(rng.choice(numbers, min(HELD_OUT, len(numbers) // 20), replace=False))
    rest = np.setdiff1d(numbers, held, assume_unique=True)
    sample = rest if len(rest) <= size else np.sort(rng.choice(rest, size, replace=False))
    if len(sample) < max(1, n_lists):
        return None
    with progress.stage("sample", len(sample), "rows") as advance:
        x = _read(store, settings, sample, advance)
    with _checks.quiet():  # choice and use of the index are those of the collection
        index.fit(x)  # type: ignore[attr-defined]
    return index, held


def _read(store: Store, settings: Settings, ids: Int64, advance: progress.Advance = progress.silent) -> Array:
    blocks = []
    for start in range(0, len(ids), BLOCK_ROWS):
        piece = ids[start : start + BLOCK_ROWS].tolist()
        with store.reader.reading() as db:
            blocks.append(store.vectors(db, settings, piece)[1])
        advance(len(piece))
    return np.concatenate(blocks) if blocks else np.empty((0, settings.dim or 1), settings.dtype)


def _extend(store: Store, settings: Settings, index: Index) -> float | None:
    """Add the tail; the coding error of some of the new rows."""
    sample = None
    with progress.stage("rows", settings.last_id - settings.folded, "rows") as advance:
        for ids, vectors in store.blocks(settings, settings.folded):
            index.add(vectors, ids)  # type: ignore[attr-defined]
            sample = (ids[:ERROR_ROWS], vectors[:ERROR_ROWS]) if sample is None else sample
            advance(len(ids))
    return None if sample is None else _error(index, *sample)


def _error(index: Index, ids: Int64, vectors: Array) -> float | None:
    """The mean squared error of the codes of these rows; None for an index without codes."""
    if not isinstance(index, CodeIndex) or not len(ids):
        return None
    x: Float32 = index._metric.prepare(vectors.astype(np.float32), 1)
    return float(np.mean((index._decode(ids) - x) ** 2))


def _filled(store: Store, settings: Settings, index: Index, held: Int64) -> dict[str, Any] | None:
    """Add all rows to a trained index, tune it on the rows `held`, and describe the training."""
    n = 0
    with progress.stage("rows", settings.rows, "rows") as advance:
        for ids, vectors in store.blocks(settings):
            learned = ~np.isin(ids, held)
            index.add(vectors[learned], ids[learned])  # type: ignore[attr-defined]
            n += len(ids)
            advance(len(ids))
    if not len(held):
        return None
    with store.reader.reading() as db:
        held, queries = store.vectors(db, settings, held.tolist())
    order = np.argsort(held)
    held, queries = held[order], queries[order]
    if isinstance(index, CodeIndex) and len(held) and len(index):
        _tune(index, queries)
    if len(held):
        index.add(queries, held)  # type: ignore[attr-defined]
    error = _error(index, held, queries)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"rows": n, "at": now, "error": error}


def _tune(index: CodeIndex, queries: Array) -> None:
    """Set the search of a new index to a recall of 0.95, if it can reach that."""
    if not index.keep_vectors and index.refine is None:
        return  # the recall of codes alone is what it is
    try:
        with _checks.quiet():
            index.tune(queries, 10, RECALL)
    except ValueError as error:
        _logger.info("Collection: %s", error)
        index.rerank = 10
        if isinstance(index, IVFPQIndex):
            index.n_probe = max(index.n_probe, (index.n_lists or 1) // 8)


def _publish(
    store: Store, view: View, settings: Settings, index: Index, seq: int, training: dict[str, Any] | None
) -> None:
    """Write the file of an index, then name it in one transaction."""
    generation = settings.generation + 1
    if store.folder is not None:
        index.save(index_file(store, generation))
    with store.writer.writing() as db:
        if store.settings(db).generation != settings.generation:
            raise RuntimeError("optimize: expected no other optimize at the same time")
        db.execute("DELETE FROM removed WHERE seq <= ?", (seq,))
        text = None if training is None else json.dumps(training)
        store.set(db, generation=generation, folded=settings.last_id, training=text)
        if store.folder is None:
            view.memory_index = index
    if store.folder is not None:
        view.state()  # leaves the old file, which Windows does not delete while it is mapped
        delete_leftovers(store, generation)


def delete_leftovers(store: Store, generation: int) -> None:
    """Delete the index files of other generations, as far as the system lets them be deleted."""
    assert store.folder is not None
    kept = index_file(store, generation).name
    for entry in list(os.scandir(store.folder)):
        is_index = entry.name.startswith("index-") and entry.name.endswith(".fpq") and entry.name != kept
        if is_index or (entry.name.startswith(".index-") and entry.name.endswith(".tmp")):
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
