"""The true neighbours with which `tune` compares searches of codes and of shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fpq import _checks, tuning
from fpq._checks import Array, Float32, Int64
from fpq.blocks import LocalBlocks
from fpq.indexes.parts.streaming import ROWS, in_blocks
from fpq.indexes.parts.vector_file import VectorFile
from fpq.metric import Metric

if TYPE_CHECKING:
    from fpq.indexes.lsh import LSHIndex
    from fpq.indexes.pq_base import CodeIndex


def true_neighbors(index: CodeIndex, queries: Float32, k: int, X: Any, neighbors: Any, n_threads: int) -> Int64:
    """The ids of the k nearest vectors: `neighbors`, or by exact search of X or of the kept vectors."""
    if neighbors is not None:
        return given(X, neighbors, len(queries), k)
    if X is not None:
        return among(X, queries, k, index._ids.values, index.dim, index._metric, n_threads)
    return kept(index, queries, k, n_threads)[1]


def given(X: Any, neighbors: Any, n_queries: int, k: int) -> Int64:
    """The argument `neighbors`, checked."""
    if X is not None:
        raise ValueError("neighbors: expected either X or neighbors, got both")
    ids = _checks.integers("neighbors", neighbors)
    if ids.ndim != 2 or len(ids) != n_queries or ids.shape[1] < k:
        raise ValueError(f"neighbors: expected integers of shape ({n_queries}, {k}) or wider, got shape {ids.shape}")
    return ids[:, :k]


def among(X: Any, queries: Float32, k: int, ids: Int64, dim: int | None, metric: Metric, n_threads: int) -> Int64:
    """The ids of the k nearest of the rows of X with these ids; row i is the vector with id i."""
    if in_blocks(X):
        source = LocalBlocks.of(X, ROWS)
        if source.dim not in (None, dim):
            raise ValueError(f"X: expected vectors of dimension {dim}, got dimension {source.dim}")
        source.dim = dim
        return tuning.exact_in_blocks(source, metric.prepare, queries, k, ids, metric, n_threads)
    x = _checks.vectors("X", X, dim=dim, min_rows=int(ids.max()) + 1, n_threads=n_threads)
    are_rows = bool((ids == np.arange(len(ids))).all())
    rows = metric.prepare(x[: len(ids)] if are_rows else x[ids], n_threads)
    return tuning.exact(rows, queries, k, None if are_rows else ids, metric, n_threads)[1]


def kept(index: CodeIndex | LSHIndex, queries: Float32, k: int, n_threads: int) -> tuple[Float32, Int64]:
    """The exact distances (inner products negated) and ids of the k nearest kept vectors."""
    ids, metric = index._ids.native, index._metric
    if isinstance(index._vectors, VectorFile):
        rows: Array = metric.prepare(index._vectors.data[index._ids.values], n_threads)
    elif getattr(index, "keep_vectors", True):
        rows = index._vectors.data
    else:
        raise ValueError("X: expected X or neighbors, as the index keeps no vectors, got neither")
    return tuning.exact(rows, queries, k, ids, metric, n_threads)
