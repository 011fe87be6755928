"""The search in one shard, and the exact merge of the results of several shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fpq import scaling, threads
from fpq._checks import Array, Float32, Int64
from fpq.indexes.base import RangeResult
from fpq.indexes.ivf import IVFPQIndex
from fpq.indexes.ivf_rows import PROBES
from fpq.metric import negated
from fpq.sharding.manifest import Shard

MERGE_VALUES = 1 << 22  # distances that are collected before a merge
LAST = np.iinfo(np.int64).max  # the sort key of missing results

OpenShards = Sequence[tuple[Any, Shard]]  # (index, shard)


class Part(NamedTuple):
    """The nearest vectors of each query in some shards, by distance, then id. Missing results are +inf, -1."""

    distances: Float32  # (nq, w), similarities negated
    ids: Int64  # (nq, w)
    exact: Float32 | None  # (nq, w), with rerank: exact distances, which order the final result


class ShardQuery(NamedTuple):
    """A query batch and the options of its search, as executors send them to the shards."""

    queries: Float32
    similarity: bool
    k: int = 0
    radius: float = 0.0
    rerank: int | None = None
    n_probe: int | None = None
    n_candidates: int | None = None
    allowed: Any = None
    n_threads: int | None = None

    @property
    def width(self) -> int:
        """The number of nearest vectors that a merge keeps per query."""
        return self.k if self.rerank is None else max(self.k, self.rerank * self.k)

    def options(self, offset: int) -> dict[str, Any]:
        """The arguments of `search` in one shard."""
        efforts = {"n_probe": self.n_probe, "n_candidates": self.n_candidates}
        given = {name: effort for name, effort in efforts.items() if effort is not None}
        return {"n_threads": self.n_threads, "allowed": self.allowed_within(offset), **given}

    def allowed_within(self, offset: int) -> Array | None:
        """`allowed` in the ids of the file of a shard."""
        if self.allowed is None:
            return None
        allowed: Array = self.allowed
        return allowed[offset:] if allowed.dtype == np.bool_ else allowed[allowed >= offset] - offset


def nearest(shards: OpenShards, query: ShardQuery) -> Part:
    """The nearest vectors in all `shards`."""
    nq = len(query.queries)
    parts = [Part(np.empty((nq, 0), np.float32), np.empty((nq, 0), np.int64), None)]
    n_collected = 0
    probes = _probes(shards, query)
    for index, shard in shards:
        parts.append(_nearest_in(index, shard.offset, query, probes))
        n_collected += parts[-1].ids.size
        if n_collected > MERGE_VALUES:
            parts, n_collected = [merge(parts, query.width)], 0
    return merge(parts, query.width)


def _probes(shards: OpenShards, query: ShardQuery) -> Int64 | None:
    """The lists that each query probes, selected once for all shards, which have the same centroids; None: by each."""
    index = shards[0][0] if len(shards) > 1 and len(query.queries) else None
    if not isinstance(index, IVFPQIndex) or len(query.queries) * (query.n_probe or index.n_probe) > PROBES:
        return None
    return index._probes(query.queries, query.n_probe, threads.resolve(query.n_threads))


def _search(index: Any, k: int, offset: int, query: ShardQuery, probes: Int64 | None, rerank: int | None) -> Any:
    if probes is not None:
        allowed, n_threads = query.allowed_within(offset), threads.resolve(query.n_threads)
        return index._search_lists(query.queries, k, probes, rerank, allowed, n_threads)
    ranked = {} if rerank is None else {"rerank": rerank}
    return index.search(query.queries, k, **ranked, **query.options(offset))


def _nearest_in(index: Any, offset: int, query: ShardQuery, probes: Int64 | None) -> Part:
    if getattr(index, "refine", None):  # each shard refines candidates of its own
        distances, ids = _search(index, min(query.k, len(index)), offset, query, probes, query.rerank)
        return Part(
            negated(distances) if query.similarity else distances, np.where(ids < 0, ids, ids + offset),
            None if query.rerank is None else distances,
        )  # fmt: skip
    distances, ids = _search(index, min(query.width, len(index)), offset, query, probes, None)
    exact = None
    if query.rerank is not None:
        index._require_ranked(query.rerank)
        n_threads = threads.resolve(query.n_threads)
        queries, power = index._scaled(index._metric.prepare(query.queries, n_threads))
        exact = scaling.unscaled(index._exact(queries, ids, n_threads, power), power, index._metric.inner_product)
    if query.similarity:
        negated(distances)
    return Part(distances, np.where(ids < 0, ids, ids + offset), exact)


def merge(parts: Sequence[Part], width: int) -> Part:
    """The `width` nearest vectors of all parts."""
    parts = [part for part in parts if part.ids.shape[1]] or list(parts[:1])
    distances, ids = (np.concatenate([part[i] for part in parts], axis=1) for i in (0, 1))
    exact = None if parts[0].exact is None else np.concatenate([part.exact for part in parts], axis=1)
    if len(parts) == 1 and ids.shape[1] <= width:
        return parts[0]
    order = np.lexsort((np.where(ids < 0, LAST, ids), distances), axis=-1)[:, :width]
    exact = None if exact is None else np.take_along_axis(exact, order, -1)
    return Part(np.take_along_axis(distances, order, -1), np.take_along_axis(ids, order, -1), exact)


def within(shards: OpenShards, query: ShardQuery) -> RangeResult:
    """All vectors within the radius in all `shards`, similarities negated."""
    found = []
    for index, shard in shards:
        options = query.options(shard.offset)
        lims, distances, ids = index.range_search(query.queries, query.radius, **options)
        found.append(RangeResult(lims, negated(distances) if query.similarity else distances, ids + shard.offset))
    return merge_ranges(found, len(query.queries))


def merge_ranges(parts: Sequence[RangeResult], nq: int) -> RangeResult:
    """The union of all parts, ordered by query, distance and id."""
    empty = RangeResult(np.zeros(nq + 1, np.int64), np.empty(0, np.float32), np.empty(0, np.int64))
    parts = [*parts, empty]
    query = np.concatenate([np.repeat(np.arange(nq), np.diff(part.lims)) for part in parts])
    distances, ids = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    order = np.lexsort((ids, distances, query))
    lims = np.searchsorted(query[order], np.arange(nq + 1)).astype(np.int64)
    return RangeResult(lims, distances[order], ids[order])


def ranked(distances: Float32, ids: Int64) -> Part:
    """The results in the order of `distances`, then id."""
    order = np.lexsort((np.where(ids < 0, LAST, ids), distances), axis=-1)
    return Part(np.take_along_axis(distances, order, -1), np.take_along_axis(ids, order, -1), None)


def padded(distances: Float32, ids: Int64, k: int) -> tuple[Float32, Int64]:
    """Distances and ids, padded with +inf and -1 to k columns."""
    missing = ((0, 0), (0, k - ids.shape[1]))
    return np.pad(distances, missing, constant_values=np.inf), np.pad(ids, missing, constant_values=-1)
