"""`tune` of a sharded index: tasks that give the settings to measure and find true neighbours."""

from __future__ import annotations

import numpy as np

from fpq import threads, tuning
from fpq.indexes.parts import true_neighbors
from fpq.sharding import merge
from fpq.sharding.merge import OpenShards, Part, ShardQuery

Settings = tuple[list[tuning.Setting], list[int | None]]


def settings(shards: OpenShards, query: tuple[int, int]) -> Settings | None:
    """The settings to measure in all shards, of n vectors and for k neighbours, (n, k), which follow from one shard."""
    n, k = query
    for index, _ in shards:
        found: Settings = index._tuned_settings(k, n)
        return found
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
