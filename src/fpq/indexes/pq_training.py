"""What an index of codes learns: codebooks and refinement codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fpq._checks import Float32
from fpq.indexes.parts.refinement import TRAINING_ROWS, Refinement, by_columns, residuals_of
from fpq.learning.anisotropic import loss_of
from fpq.learning.lloyd import TrainingRows
from fpq.learning.quantizer import ProductQuantizer

if TYPE_CHECKING:
    from fpq.indexes.pq_base import CodeIndex


def learned_quantizer(index: CodeIndex, rows: TrainingRows, n: int, vectors: TrainingRows) -> ProductQuantizer:
    """A copy of the quantizer that has learned from `rows`, those of `drawn(n)`, or residuals of the `vectors`."""
    quantizer = index._quantizer_copy()
    quantizer.fit_drawn(rows, n)
    if index.anisotropy > 1:
        quantizer.adapt(rows.local().take(None), vectors.local().take(None), index.anisotropy)
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
    sample = rows.sampled(chosen).local()
    loss = loss_of(index.anisotropy, lambda *_: vectors.sampled(chosen).local().take(None))
    codes, rotated = next(quantizer.encode_chunks(sample.take(None), None, sample.n, n_threads, anisotropy=loss))
    residuals, decoded = residuals_of(quantizer, rotated, codes, n_threads)
    coded = decoded if centroids is None else centroids[:TRAINING_ROWS]
    medians = by_columns(lambda block: np.median(coded[:, block], axis=0), coded.shape[1], n_threads)
    return Refinement.learned(index.refine, residuals, medians.astype(np.float32), n_threads)
