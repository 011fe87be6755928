"""`tune` of a sharded index: tasks that give the settings to measure and find true neighbours."""

from __future__ import annotations

import numpy as np

from fpq import threads, tuning
from fpq.indexes.parts import true_neighbors
from fpq.indexes.pq_base import CodeIndex
from fpq.sharding import merge
from fpq.sharding.merge import OpenShards, Part, ShardQuery

Settings = tuple[list[tuning.Setting], list[int | None]]  # efforts and values of `rerank`


def settings(shards: OpenShards, query: tuple[int, int, int]) -> Settings | None:
    """The settings to measure in all shards, which follow from one shard; None: no shard can be opened.

    The query has the number of vectors in all shards and in the largest, and that of neighbours.
    """
    n, largest, k = query
    for index, _ in shards:
        return index._tuned_settings(k, n) if isinstance(index, CodeIndex) else (index._efforts(k, largest), [])
    return None


def kept(shards: OpenShards, query: ShardQuery) -> Part:
    """The nearest kept vectors in all `shards`, exactly."""
    parts = [Part(np.empty((len(query.queries), 0), np.float32), np.empty((len(query.queries), 0), np.int64), None)]
    n_threads = threads.resolve(query.n_threads)
    for index, shard in shards:
        prepared = index._metric.prepare(query.queries, n_threads)
        distances, ids = true_neighbors.kept(index, prepared, min(query.k, len(index)), n_threads)
        parts = [merge.merge([*parts, Part(distances, ids + shard.offset, None)], query.k)]
    return parts[0]
