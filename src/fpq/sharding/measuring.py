"""`tune` of a sharded index: tasks that describe the shards and find true neighbours, and the settings to measure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fpq import threads, tuning
from fpq.indexes.parts import true_neighbors
from fpq.indexes.pq_base import MAX_RERANK
from fpq.sharding import merge
from fpq.sharding.merge import OpenShards, Part, ShardQuery


class Kind(NamedTuple):
    """What the search settings of all shards depend on."""

    n_lists: int | None
    keeps_vectors: bool
    refines: bool


def kind(shards: OpenShards, query: None) -> Kind | None:
    """The kind of the first shard."""
    for index, _ in shards:
        return Kind(getattr(index, "n_lists", None), bool(index.keep_vectors), index.refine is not None)
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


def settings(kind: Kind, n: int, k: int) -> tuple[list[tuning.Setting], list[int | None]]:
    """The numbers of probes and the re-rankings to measure in shards of n vectors."""
    efforts: list[tuning.Setting] = [{}]
    if kind.n_lists is not None:
        efforts = [{"n_probe": n_probe} for n_probe in tuning.steps(kind.n_lists)]
    reranks: list[int | None] = [] if kind.refines else [None]
    if kind.keeps_vectors or kind.refines:
        reranks += tuning.steps(min(MAX_RERANK, -(-n // k)), 1.4)[1 if reranks else 0 :]
    return efforts, reranks
