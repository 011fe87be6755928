"""The rows of an IVFPQIndex: none, by `add` and `update`, or from another index; and their scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fpq import _native, progress, scaling
from fpq._checks import Array, Float32, Int64, UInt64
from fpq.indexes.changes import Addition
from fpq.indexes.parts.coarse import by_lists
from fpq.indexes.parts.ids import PIECE
from fpq.indexes.parts.list_capacity import list_limit
from fpq.indexes.parts.lists import InvertedLists
from fpq.indexes.parts.refinement import Refinement, residuals_of
from fpq.learning.quantizer import ProductQuantizer

if TYPE_CHECKING:
    from fpq.indexes.ivf import IVFPQIndex

PROBES = 1 << 22  # probes of a query batch, 12 bytes each
RESIDUALS = 1 << 24  # numbers in the rotated residuals of a query batch


def no_lists(n_lists: int, quantizer: ProductQuantizer, refinement: Refinement | None) -> dict[str, Any]:
    """The attributes of an index with empty lists."""
    columns = None if refinement is None else refinement.columns()
    lists = InvertedLists(n_lists, quantizer.code_size, columns)
    return {"_lists": lists, "_max_residual": np.zeros(n_lists, dtype=np.float32)}


def adding(index: IVFPQIndex, x: Array, ids: Int64, leaving: Int64, n_threads: int) -> Addition:
    """Prepare checked rows with new ids. The limits are those without the rows in the places `leaving`."""
    assert index._coarse is not None
    n, sizes = len(index) + len(x) - len(leaving), index._lists.sizes_without(leaving)
    limit = None if index.list_capacity is None else list_limit(index.list_capacity, n, index.n_lists)
    prepare = index._metric.prepare
    labels = index._coarse.labels(x, prepare, sizes, limit, n_threads)
    slots, place, clear = index._lists.place(labels)
    counts, max_residual = index._next_counts(), index._max_residual.copy()
    change = index._coarse.subtracting(labels, prepare, index._rotations) if index.residual else prepare
    vectors = prepare if index._rotations is None else by_lists(labels, prepare, index._rotations.rotate)

    def write(advance: progress.Advance) -> None:
        row = 0
        for codes, rotated in index._encoded(x, counts, leaving, n_threads, change, vectors):
            chunk = slice(row, row + len(codes))
            index._lists.write(slots[chunk], codes, ids[chunk], n_threads)
            if index._refinement is not None:
                rest, decoded = residuals_of(index.quantizer, rotated, codes, n_threads)
                if index.residual:
                    coded, decoded = decoded, np.empty_like(decoded)
                    _native.add_centroids(coded, index._rotated, labels[chunk], 1, decoded, n_threads)
                index._lists.columns.write(slots[chunk], index._refinement.encode(rest, decoded, n_threads))
            if index.residual:
                np.maximum.at(max_residual, labels[chunk], index.quantizer.lengths(codes, n_threads))
            row = chunk.stop
            advance(len(codes))

    def commit() -> None:
        place()
        vars(index).update(_counts=counts, _max_residual=max_residual)

    return Addition(commit, write, clear)


def merging(index: IVFPQIndex, other: IVFPQIndex, ids: Int64) -> Addition:
    """Prepare the rows of another index, with these ids, for the lists that hold them in `other`."""
    sources = other._places(np.arange(len(other), dtype=np.int64))
    slots, place, clear = index._lists.place(other._lists.lists_of(sources).astype(np.int32))
    counts, max_residual = index._merged_counts(other), np.maximum(index._max_residual, other._max_residual)

    def write(advance: progress.Advance) -> None:
        for start in range(0, len(slots), PIECE):
            chunk = slice(start, start + PIECE)
            index._lists.write(slots[chunk], other._lists.codes(sources[chunk]), ids[chunk])
            planes = other._lists.columns.take(sources[chunk])
            if planes is not None:
                index._lists.columns.write(slots[chunk], planes)
            advance(len(slots[chunk]))

    def commit() -> None:
        place()
        vars(index).update(_counts=counts, _max_residual=max_residual)

    return Addition(commit, write, clear)


class Plan(NamedTuple):
    """What searches of lists work out from the state of the index."""

    lists: _native.Lists
    adc: _native.ADC
    centroids: Float32  # in the space of the codebooks


def _planned(index: IVFPQIndex, power: int, allowed: UInt64 | None) -> Plan:
    """The plan for queries scaled by 2**power, and the rows `allowed`."""
    centroids, max_residual = index._rotated, index._max_residual if index.residual else None
    if power and not index._metric.inner_product:
        centroids = scaling.scaled(centroids, power)
        max_residual = None if max_residual is None else scaling.scaled(max_residual, power)
    lists = index._lists.native(centroids, max_residual, allowed, residual=index.residual)
    return Plan(lists, index.quantizer.adc(index._metric, power), centroids)


def scan(
    index: IVFPQIndex, queries: Float32, power: int, answers: _native.Answers, allowed: UInt64 | None, n_threads: int,
    n_probe: int, probes: Int64 | None,
) -> None:  # fmt: skip
    """Search lists for prepared queries, scaled by 2**power, and fill `answers`.

    probes: the lists of each query, (nq, n_probe); None: the `n_probe` nearest lists.
    """
    memo, coarse, rotations = index._lock.memo, index._coarse, index._rotations
    assert coarse is not None
    plan: Plan | None = None if power or allowed is not None else memo.get("plan")
    if plan is None:
        plan = _planned(index, power, allowed)
        if not power and allowed is None:
            memo["plan"] = plan
    n_probe = min(n_probe, len(coarse.centroids))
    packed = None if probes is not None or rotations is not None else coarse.packed(n_probe, power)
    step = max(1, PROBES // n_probe if rotations is None else RESIDUALS // (n_probe * queries.shape[1]))
    for first in range(0, len(queries), step):
        batch = queries if len(queries) <= step else queries[first : first + step]
        nearest, residuals = None, None
        if probes is not None:
            nearest = probes[first : first + step]
        elif not packed:
            nearest = coarse.probe(batch, n_probe, n_threads, power)
        if rotations is not None and nearest is not None:
            centroids = None if index._metric.inner_product else plan.centroids
            residuals = rotations.apply(batch, nearest, centroids, n_threads)
        rotated, asked = index.quantizer.rotate(batch, n_threads), coarse.widened(batch, n_threads) if packed else batch
        plan.adc.search_lists(
            plan.lists, rotated, nearest, packed, None if asked is rotated else asked, residuals, n_probe, first,
            answers, n_threads,
        )  # fmt: skip
