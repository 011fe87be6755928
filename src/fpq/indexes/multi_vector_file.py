"""Saving and loading of a MultiVectorIndex."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fpq import threads
from fpq.indexes.parts.coarse import CoarseQuantizer
from fpq.indexes.parts.ids import Ids
from fpq.indexes.parts.tokens import Tokens
from fpq.indexes.pq_file import anisotropy_param, stored_anisotropy
from fpq.learning.quantizer import ProductQuantizer
from fpq.storage import FormatError, State, Stored, finite

if TYPE_CHECKING:
    from fpq.indexes.multi_vector import MultiVectorIndex


def state(index: MultiVectorIndex) -> State:
    """The state that a file stores."""
    pq = index.quantizer._state()
    names = ("n_lists", "residual", "metric", "keep_vectors", "n_probe", "n_candidates", "rerank")
    saved = State({**{name: getattr(index, name) for name in names}, "quantizer": pq.params}, pq.arrays)
    saved.params.update(anisotropy_param(index.anisotropy))
    if index._coarse is not None:
        saved = saved.joined(State({}, {"centroids": index._coarse.centroids}), index._tokens.state())
    return saved.joined(index._ids.state())


def restored(kind: type[MultiVectorIndex], stored: Stored) -> MultiVectorIndex:
    """The index that a file stores."""
    options = stored.take("n_lists", "residual", "metric", "keep_vectors") | stored_anisotropy(stored)
    index = kind(**options, n_threads=stored.n_threads)
    index.n_probe, index.n_candidates = stored.count("n_probe", 1), stored.count("n_candidates", 1)
    index.rerank = stored.optional_count("rerank", 1)
    index.quantizer = pq = ProductQuantizer._from_state(stored.part("quantizer"))
    index._ids = Ids.from_state(stored)
    if pq.nbits != 8 or pq.rotation is not None or pq.open_indexing is not None:
        raise FormatError("quantizer: expected codes of 8 bits, without rotation and open_indexing")
    if not pq.is_trained:
        if len(index):
            raise FormatError(f"n: expected 0 for an index that is not trained, got {len(index)}")
        return index
    if index.n_lists is None:
        raise FormatError("n_lists: expected an integer of a trained index, got None")
    centroids = stored.array("centroids", np.float32, (index.n_lists, pq.dim), finite)
    index._coarse = CoarseQuantizer(centroids, not index._metric.euclidean, threads.resolve(stored.n_threads))
    index._tokens = Tokens.from_state(stored, len(index), index.n_lists, pq.code_size, pq.dim, keeps=index.keep_vectors)
    return index
