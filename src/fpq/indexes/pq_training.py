"""What an index of codes learns: codebooks and refinement codes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fpq import threads
from fpq._checks import Float32, Int64
from fpq.indexes.parts.refinement import Refinement, residuals_of
from fpq.learning.anisotropic import loss_of
from fpq.learning.lloyd import LocalRows, TrainingRows
from fpq.learning.quantizer import ProductQuantizer
from fpq.learning.steps import CHUNK_ROWS, TRAINING_ROWS, Coded, by_columns

if TYPE_CHECKING:
    from fpq.indexes.pq_base import CodeIndex


def learned_quantizer(index: CodeIndex, rows: TrainingRows, n: int, vectors: TrainingRows) -> ProductQuantizer:
    """A copy of the quantizer that has learned from `rows`, those of `drawn(n)`, or residuals of the `vectors`."""
    quantizer = index._quantizer_copy()
    quantizer.fit_drawn(rows, n)
    if index.anisotropy > 1:
        quantizer.adapt(rows, vectors, index.anisotropy)
    return quantizer


def learned_refinement(
    index: CodeIndex, quantizer: ProductQuantizer, rows: TrainingRows, vectors: TrainingRows, n_threads: int,
    centroids: Float32 | None = None,
) -> Refinement | None:  # fmt: skip
    """The refinement codes, learned from a sample of the rows that the quantizer has learned from.

    centroids: the rotated centroids of the lists, if the rows are residuals of the `vectors`.
    """
    if index.refine is None:
        return None
    chosen = index._choose(rows.n, TRAINING_ROWS)
    others = [vectors.sampled(chosen)] if index.anisotropy > 1 else []
    sample = rows.sampled(chosen)
    coded = sample.prepared(partial(_coded, quantizer, index.anisotropy), CHUNK_ROWS, *others)
    largest, counts = zip(*coded.run(_extent, quantizer), strict=True)
    if centroids is None:
        centre = _medians(quantizer, np.sum(counts, axis=0), n_threads)
    else:
        columns = centroids[:TRAINING_ROWS]
        centre = by_columns(lambda block: np.median(columns[:, block], axis=0), columns.shape[1], n_threads)
    return Refinement.learned(index.refine, coded, sample.n, max(largest), centre.astype(np.float32))


def _coded(quantizer: ProductQuantizer, weight: float, rows: LocalRows, *vectors: LocalRows) -> Coded:
    """Rows and their codes, with the vectors if the codes are for inner products."""
    loss, n_threads = loss_of(weight, lambda *_: vectors[0].take(None)), rows.n_threads
    codes, rotated = next(quantizer.encode_chunks(rows.take(None), None, rows.n, n_threads, anisotropy=loss))
    return Coded(residuals_of(quantizer, rotated, codes, n_threads)[0], codes)


def _extent(coded: Coded, n_threads: int, quantizer: ProductQuantizer) -> tuple[tuple[float, Int64], Coded]:
    """The largest absolute value of the residuals, and the number of rows with each code (m, k)."""
    counts = np.zeros_like(quantizer.code_counts)
    quantizer.count(coded.codes, counts, 1)
    return (float(np.abs(coded.residuals).max(initial=0)), counts), coded


def _medians(quantizer: ProductQuantizer, counts: Int64, n_threads: int) -> Float32:
    """The medians of the rows that codes of these counts stand for."""

    def medians(j: int) -> Float32:
        width = quantizer.offsets[j + 1] - quantizer.offsets[j]
        found: Float32 = np.median(np.repeat(quantizer.codebooks[j, :, :width], counts[j], axis=0), axis=0)
        return found

    return np.concatenate(threads.parallel_map(medians, range(len(counts)), n_threads))
