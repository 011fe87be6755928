"""Searches of a state: in the index and in the tail, with exact distances, merged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fpq import scaling, threads
from fpq._checks import Array, Float32, Int64, UInt64
from fpq.collection.view import State
from fpq.indexes import FlatIndex, IVFPQIndex
from fpq.indexes.base import Index
from fpq.indexes.parts import arguments
from fpq.indexes.pq_base import CodeIndex
from fpq.metric import METRICS

# The neighbours among few rows are farther away, in more lists. On 100,000 GloVe vectors, with a recall@10 of 0.953 by
# 51 probes, random 5 % of the rows have 0.927 with 51 probes and 0.978 with 108; random 50 % have 0.973 with 61.
PROBE_GROWTH = 0.25  # the number of probes grows with this power of the rows per chosen row

Read = Callable[[Int64], tuple[Int64, Array]]  # the row numbers that exist, and their vectors


class Chosen(NamedTuple):
    """The rows among which a search takes place: bits of the places in the index and in the tail."""

    index_bits: UInt64 | None
    tail_bits: UInt64 | None
    n: int | None  # rows that fulfil the condition; None: no condition
    few: FlatIndex | None = None  # the chosen rows, if they are few


Answer = tuple[Float32, Int64]  # kernel distances, ascending, and row numbers, -1 for none


def nearest(state: State, queries: Float32, k: int, chosen: Chosen, recall: float | None, read: Read) -> Answer:
    """The k nearest chosen rows of checked queries: (nq, up to k) distances and row numbers."""
    if chosen.few is not None:
        return _flat(chosen.few, queries, k, None)
    found = [_flat(state.tail, queries, k, chosen.tail_bits)]
    if state.index is not None and len(state.index):
        found.append(_indexed(state, state.index, queries, k, chosen, recall, read))
    return found[0] if len(found) == 1 else merged(found, k)


def merged(found: list[Answer], k: int) -> Answer:
    """The k nearest of several answers, by distance and row number."""
    distances, ids = np.hstack([each[0] for each in found]), np.hstack([each[1] for each in found])
    order = np.lexsort((ids, distances, ids < 0), axis=-1)[:, :k]
    return np.take_along_axis(distances, order, -1), np.take_along_axis(ids, order, -1)


def _flat(index: FlatIndex, queries: Float32, k: int, bits: UInt64 | None) -> Answer:
    k = min(k, len(index))
    if not k or not len(queries):
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    n_threads = threads.resolve(index.n_threads)
    prepared = index._queries(queries, n_threads)[0]
    found = index._nearest(prepared, k, bits, n_threads)
    index._require_finite(*found, n_threads)
    return found


def _indexed(
    state: State, index: Index, queries: Float32, k: int, chosen: Chosen, recall: float | None, read: Read
) -> Answer:  # fmt: skip
    """The k nearest chosen rows of the index, with exact distances."""
    wanted, k = k, min(k, len(index))
    with index._lock.reading():
        n_threads = threads.resolve(index.n_threads)
        prepared = index._queries(queries, n_threads)[0]
        effort: dict[str, Any] = {}
        find: Callable[..., Answer] = index._nearest
        if isinstance(index, CodeIndex):
            known = arguments.checked(index, wanted, recall, None, *_attributes(index, recall))
            effort, find = dict(known.effort), index._ranked
            if chosen.n is not None and effort.get("n_probe"):
                effort["n_probe"] = math.ceil(effort["n_probe"] * (len(index) / max(chosen.n, 1)) ** PROBE_GROWTH)
        found = find(prepared, k, chosen.index_bits, n_threads, **effort)
        # A condition may leave too few rows in the probed lists.
        if chosen.n is not None and isinstance(index, IVFPQIndex) and (found[1] < 0).any():
            short = np.flatnonzero((found[1] < 0).any(axis=1))
            effort["n_probe"] = index.n_lists
            again = find(np.ascontiguousarray(prepared[short]), k, chosen.index_bits, n_threads, **effort)
            found[0][short], found[1][short] = again
    if is_exact(index):
        index._require_finite(*found, n_threads)
        return found
    return merged([rescored(state, queries, found[1], read)], k)


def _attributes(index: CodeIndex, recall: float | None) -> tuple[int | None, int | None]:
    if recall is not None:
        return None, None
    return index.rerank, getattr(index, "n_probe", None)


def is_exact(index: Index) -> bool:
    """Whether the distances that a search of the index returns are those of the stored vectors."""
    return not isinstance(index, CodeIndex) or (bool(index.keep_vectors) and index.rerank is not None)


def rescored(state: State, queries: Float32, ids: Int64, read: Read) -> Answer:
    """The exact distances of queries to rows ids[i], +inf for rows that do not exist any more."""
    there, vectors = read(np.unique(ids[ids >= 0]))
    distances = np.full(ids.shape, np.inf, np.float32)
    if not len(there):
        return distances, np.full_like(ids, -1)
    exact = FlatIndex(state.tail.metric, n_threads=state.tail.n_threads).add(vectors)
    places = np.searchsorted(there, ids)
    places[places == len(there)] = 0
    places = np.where(there[places] == ids, places, -1)
    n_threads = threads.resolve(exact.n_threads)
    prepared, power = exact._scaled(exact._queries(queries, n_threads)[0])
    found = exact._vectors.distances(prepared, places, exact._metric, n_threads, power)
    return scaling.unscaled(found, power, exact._metric.inner_product), np.where(places < 0, -1, ids)


def within(state: State, queries: Float32, radius: float, chosen: Chosen, read: Read) -> list[Answer]:
    """All chosen rows within a radius of each query, nearest first."""
    metric = METRICS[state.settings.metric]
    with np.errstate(over="ignore"):
        threshold = np.float32(-radius if metric.inner_product else radius)
    if chosen.few is not None:
        return _ranges(chosen.few, queries, threshold, None)
    answers = _ranges(state.tail, queries, threshold, chosen.tail_bits)
    if state.index is None or not len(state.index):
        return answers
    with state.index._lock.reading():
        indexed = _ranges(state.index, queries, threshold, chosen.index_bits)
    if isinstance(state.index, CodeIndex):
        indexed = list(_within_exactly(state, queries, threshold, indexed, read))
    return [_joined(first, second) for first, second in zip(answers, indexed, strict=True)]


def _joined(first: Answer, second: Answer) -> Answer:
    distances, ids = np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])
    order = np.lexsort((ids, distances))
    return distances[order], ids[order]


def _within_exactly(
    state: State, queries: Float32, threshold: np.float32, found: list[Answer], read: Read
) -> Iterator[Answer]:
    for query, (_, ids) in zip(queries, found, strict=True):
        distances, there = rescored(state, query[None], ids[None], read)
        inside = (there[0] >= 0) & (distances[0] <= threshold)
        yield distances[0][inside], there[0][inside]


def _ranges(index: Index, queries: Float32, threshold: np.float32, bits: UInt64 | None) -> list[Answer]:
    n_threads = threads.resolve(index.n_threads)
    effort = {"n_probe": index.n_probe} if isinstance(index, IVFPQIndex) else {}
    prepared = index._queries(queries, n_threads)[0] if len(index) else queries
    lims, distances, ids = index._within(prepared, threshold, bits, n_threads, **effort)
    return [(distances[start:end], ids[start:end]) for start, end in pairwise(lims.tolist())]
