"""The second stage of a search of codes: candidates are ranked by refinement codes, or by vectors in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fpq import _native, scaling
from fpq._checks import Float32, Int64
from fpq.indexes.parts.refinement import closest

if TYPE_CHECKING:
    from fpq.indexes.base import Bits
    from fpq.indexes.pq_base import CodeIndex


def refined(
    index: CodeIndex, queries: Float32, n: int, k: int, allowed: Bits | None, n_threads: int, candidates: int = 0,
    **effort: Any,
) -> tuple[Float32, Int64]:  # fmt: skip
    """The k nearest of the n nearest codes, by refined distances; `candidates` as for `Index._nearest`."""
    distances, rows = np.empty((len(queries), n), np.float32), np.empty((len(queries), n), np.int64)
    queries, power = index._scaled(queries)
    index._scan(queries, power, _native.TopK(distances, rows, False, index._row_ids), allowed, n_threads, **effort)
    found, nearest = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    _rows(index, power).search(
        index.quantizer.rotate(queries, n_threads), rows, distances, closest(candidates or k),
        index._top_k(found, nearest, queries, power, candidates), n_threads,
    )  # fmt: skip
    return scaling.unscaled(found, power, index._metric.inner_product), nearest


def _rows(index: CodeIndex, power: int) -> _native.Refined:
    """The refinement codes of all rows, as searches for queries scaled by 2**power read them."""
    memo = index._lock.memo
    rows: _native.Refined | None = None if power else memo.get("refined")
    if rows is None:
        assert index._refinement is not None
        rows = index._refinement.native(index._planes, index._row_ids, index._metric.inner_product, power)
        if not power:
            memo["refined"] = rows
    return rows


def reranked(index: CodeIndex, queries: Float32, candidates: Int64, k: int, n_threads: int) -> tuple[Float32, Int64]:
    """The k nearest candidates of prepared queries by the exact distances; `candidates` are ids (nq, r >= k)."""
    queries, power = index._scaled(queries)
    found = index._exact(queries, candidates, n_threads, power)
    distances, ids = np.empty((len(found), k), np.float32), np.empty((len(found), k), np.int64)
    _native.smallest(found, np.ascontiguousarray(candidates), distances, ids, n_threads)
    return scaling.unscaled(distances, power, index._metric.inner_product), ids
