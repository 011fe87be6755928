"""`tune` of a sharded index: tasks that describe the shards and find true neighbours, and the measured search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fpq import threads, tuning
from fpq._checks import Float32, Int64
from fpq.indexes.parts import true_neighbors
from fpq.indexes.pq_base import MAX_RERANK
from fpq.metric import METRICS
from fpq.sharding import merge
from fpq.sharding.merge import OpenShards, Part, ShardQuery

if TYPE_CHECKING:
    from fpq.sharding.index import ShardedIndex


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


def truth(index: ShardedIndex, queries: Float32, k: int, X: Any, neighbors: Any, n_threads: int) -> Int64:
    """The ids of the k nearest vectors: `neighbors`, or by exact search of X or of the kept vectors."""
    if neighbors is not None:
        return true_neighbors.given(X, neighbors, len(queries), k)
    metric = METRICS[index.metric]
    if X is not None:
        prepared = metric.prepare(queries, n_threads)
        return true_neighbors.among(X, prepared, k, index.ids, index.dim, metric, n_threads)
    query = ShardQuery(queries, metric.inner_product, k, n_threads=n_threads)
    return merge.merge(index._run(index._manifest, kept, query)[0], k).ids


def tuned(
    index: ShardedIndex, kind: Kind, queries: Float32, k: int, recall: float, truth: Int64, n_threads: int | None
) -> tuning.Tuning:
    """Measure searches of all shards."""

    def search(setting: tuning.Setting) -> Int64:
        return index._search(queries, truth.shape[1], n_threads=n_threads, **setting).ids

    efforts: list[tuning.Setting] = [{}]
    if kind.n_lists is not None:
        efforts = [{"n_probe": n_probe} for n_probe in tuning.steps(kind.n_lists)]
    reranks: list[int | None] = [] if kind.refines else [None]
    if kind.keeps_vectors or kind.refines:
        reranks += tuning.steps(min(MAX_RERANK, -(-len(index) // k)), 1.4)[1 if reranks else 0 :]
    return tuning.fastest(search, efforts, reranks, truth, recall, tuning.RECALLS)
