"""The true neighbours with which `tune` compares searches of codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fpq import _checks, tuning
from fpq._checks import Float32, Int64
from fpq.blocks import LocalBlocks
from fpq.indexes.parts.streaming import ROWS, in_blocks
from fpq.indexes.parts.vector_file import VectorFile

if TYPE_CHECKING:
    from fpq.indexes.pq_base import CodeIndex


def true_neighbors(index: CodeIndex, queries: Float32, k: int, X: Any, neighbors: Any, n_threads: int) -> Int64:
    """The ids of the k nearest vectors: `neighbors`, or by exact search of X or of the kept vectors."""
    if neighbors is not None:
        if X is not None:
            raise ValueError("neighbors: expected either X or neighbors, got both")
        given = _checks.integers("neighbors", neighbors)
        if given.ndim != 2 or len(given) != len(queries) or given.shape[1] < k:
            raise ValueError(
                f"neighbors: expected integers of shape ({len(queries)}, {k}) or wider, got shape {given.shape}"
            )
        return given[:, :k]
    ids, metric = index._ids.native, index._metric
    if X is not None and in_blocks(X):
        source = LocalBlocks.of(X, ROWS)
        if source.dim not in (None, index.dim):
            raise ValueError(f"X: expected vectors of dimension {index.dim}, got dimension {source.dim}")
        source.dim = index.dim
        return tuning.exact_in_blocks(source, metric.prepare, queries, k, index._ids.values, metric, n_threads)
    if X is not None:
        x = _checks.vectors("X", X, dim=index.dim, min_rows=index._ids.largest + 1, n_threads=n_threads)
        rows = metric.prepare(x[: len(index)] if ids is None else x[ids], n_threads)
    elif isinstance(index._vectors, VectorFile):
        rows = metric.prepare(index._vectors.data[index._ids.values], n_threads)
    elif index.keep_vectors:
        rows = index._vectors.data
    else:
        raise ValueError("X: expected X or neighbors, as the index keeps no vectors, got neither")
    return tuning.exact(rows, queries, k, ids, metric, n_threads)[1]
