"""The rows of an IVFPQIndex: none, by `add` and `update`, or from another index; and their scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fpq import _native, progress, scaling
from fpq._checks import Array, Float32, Int64, UInt64
from fpq.indexes.changes import Addition
from fpq.indexes.parts.coarse import by_lists
from fpq.indexes.parts.ids import PIECE, Commit
from fpq.indexes.parts.list_capacity import list_limit
from fpq.indexes.parts.lists import InvertedLists
from fpq.indexes.parts.plan import searched
from fpq.indexes.parts.refinement import residuals_of
from fpq.learning.quantizer import ProductQuantizer

if TYPE_CHECKING:
    from fpq.indexes.ivf import IVFPQIndex

PROBES = 1 << 22  # probes of a query batch, 12 bytes each
RESIDUALS = 1 << 24  # numbers in the rotated residuals of a query batch


def no_lists(n_lists: int, quantizer: ProductQuantizer) -> dict[str, Any]:
    """The attributes of an index with empty lists."""
    return {"_lists": InvertedLists(n_lists, quantizer.code_size), "_max_residual": np.zeros(n_lists, dtype=np.float32)}


def adding(index: IVFPQIndex, x: Array, ids: Int64, leaving: Int64, n_threads: int) -> Addition:
    """Prepare checked rows with new ids. The limits are those without the rows in the places `leaving`."""
    assert index._coarse is not None
    first, sizes = len(index), index._lists.sizes_without(leaving)
    n = first + len(x) - len(leaving)
    limit = None if index.list_capacity is None else list_limit(index.list_capacity, n, index.n_lists)
    prepare = index._metric.prepare
    labels = index._coarse.labels(x, prepare, sizes, limit, n_threads)
    slots, place, clear_slots = index._lists.place(labels, ids)
    index._columns.reserve(first + len(x))
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
                index._columns.write(first + row, index._refinement.encode(rest, decoded, n_threads))
            if index.residual:
                np.maximum.at(max_residual, labels[chunk], index.quantizer.lengths(codes, n_threads))
            row = chunk.stop
            advance(len(codes))

    def commit() -> None:
        place()
        vars(index).update(_counts=counts, _max_residual=max_residual)

    return Addition(commit, write, clearing(index, clear_slots))


def merging(index: IVFPQIndex, other: IVFPQIndex, ids: Int64) -> Addition:
    """Prepare the rows of another index, with these ids, for the lists that hold them in `other`."""
    first, sources = len(index), other._places(np.arange(len(other), dtype=np.int64))
    slots, place, clear_slots = index._lists.place(other._lists.lists_of(sources).astype(np.int32), ids)
    index._columns.reserve(first + len(other))
    counts, max_residual = index._merged_counts(other), np.maximum(index._max_residual, other._max_residual)

    def write(advance: progress.Advance) -> None:
        for start in range(0, len(slots), PIECE):
            chunk = slice(start, start + PIECE)
            index._lists.write(slots[chunk], other._lists.codes(sources[chunk]), ids[chunk])
            advance(len(slots[chunk]))
        index._columns.extend(first, other._columns, len(other))

    def commit() -> None:
        place()
        vars(index).update(_counts=counts, _max_residual=max_residual)

    return Addition(commit, write, clearing(index, clear_slots))


def clearing(index: IVFPQIndex, clear_slots: Commit) -> Commit:
    """A function that zeroes slots, and refinement codes behind the present rows, and cannot fail."""
    n = len(index)

    def clear() -> None:
        clear_slots()
        index._columns.clear_after(n)

    return clear


def native(index: IVFPQIndex, refined: _native.Refined | None, power: int, allowed: UInt64 | None) -> _native.Codes:
    """The lists as searches for queries scaled by 2**power read them; allowed: bits by slot, None: all rows."""
    assert index._coarse is not None
    max_residual = index._max_residual if index.residual else None
    if max_residual is not None and power and not index._metric.inner_product:
        max_residual = scaling.scaled(max_residual, power)
    lists, coarse, adc = index._lists, index._coarse, index.quantizer.adc(index._metric, power)
    return _native.Lists(
        adc, refined, None if index._rotations is not None else coarse.selecting(power), coarse.lengths,
        _centroids(index, power), lists.layout.first, lists.layout.block_ids,
        lists.live_rows if allowed is None else allowed, max_residual, index.residual, lists.blocks.data,
        lists.id_by_slot,
    )  # fmt: skip


def _centroids(index: IVFPQIndex, power: int) -> Float32:
    """The centroids after the rotation of the quantizer, for queries scaled by 2**power."""
    return index._rotated if index._metric.inner_product else scaling.scaled(index._rotated, power)


def scan(
    index: IVFPQIndex, queries: Float32, power: int, answers: _native.Answers, allowed: UInt64 | None, n_threads: int,
    n_probe: int, probes: Int64 | None, refined: int,
) -> None:  # fmt: skip
    """Search lists for prepared queries, scaled by 2**power, and fill `answers`.

    probes: the lists of each query, (nq, n_probe); None: the `n_probe` nearest lists.
    refined: refine so many of the nearest codes.
    """
    coarse, rotations, rotate = index._coarse, index._rotations, index.quantizer.rotate
    assert coarse is not None
    codes, n_probe = searched(index, power, allowed), min(n_probe, len(coarse.centroids))
    if probes is None and codes.selects(n_probe):
        codes.search(rotate(queries, n_threads), answers, n_threads, refined, n_probe, queries)
        return
    centroids = None if rotations is None or index._metric.inner_product else _centroids(index, power)
    step = max(1, PROBES // n_probe if rotations is None else RESIDUALS // (n_probe * queries.shape[1]))
    for first in range(0, len(queries), step):
        batch, residuals = queries[first : first + step], None
        nearest = coarse.probe(batch, n_probe, n_threads, power) if probes is None else probes[first : first + step]
        if rotations is not None:
            residuals = rotations.apply(batch, nearest, centroids, n_threads)
        rotated = rotate(batch, n_threads)
        codes.search(rotated, answers, n_threads, refined, n_probe, None, nearest, residuals, first)
