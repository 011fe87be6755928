"""New rows of an IVFPQIndex: by `add` and `update`, or from another index."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fpq import progress
from fpq._checks import Array, Int64
from fpq.indexes.changes import Addition
from fpq.indexes.parts.coarse import list_limit
from fpq.indexes.parts.ids import PIECE

if TYPE_CHECKING:
    from fpq.indexes.ivf import IVFPQIndex


def adding(index: IVFPQIndex, x: Array, ids: Int64, leaving: Int64, n_threads: int) -> Addition:
    """Prepare checked rows with new ids. The limits are those without the rows in the places `leaving`."""
    assert index._coarse is not None
    n, sizes = len(index) + len(x) - len(leaving), index._lists.sizes_without(leaving)
    limit = None if index.list_capacity is None else list_limit(index.list_capacity, n, index.n_lists)
    prepare = index._metric.prepare
    labels = index._coarse.labels(x, prepare, sizes, limit, n_threads)
    slots, place, clear = index._lists.place(labels)
    counts, max_residual = index._next_counts(), index._max_residual.copy()
    change = index._coarse.subtracting(labels, prepare) if index.residual else prepare

    def write(advance: progress.Advance) -> None:
        row = 0
        for codes in index._encoded(x, counts, leaving, n_threads, change):
            chunk = slice(row, row + len(codes))
            index._lists.write(slots[chunk], codes, ids[chunk])
            if index.residual:
                np.maximum.at(max_residual, labels[chunk], index.quantizer.lengths(codes))
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
            advance(len(slots[chunk]))

    def commit() -> None:
        place()
        vars(index).update(_counts=counts, _max_residual=max_residual)

    return Addition(commit, write, clear)
