"""What the files of all indexes of codes have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fpq._checks import Int64
from fpq.indexes.parts.operating_points import OperatingPoints
from fpq.indexes.parts.vector_file import VectorFile
from fpq.learning.quantizer import ProductQuantizer
from fpq.storage import Check, State, Stored

if TYPE_CHECKING:
    from fpq.indexes.pq_base import CodeIndex


def optional_state(index: CodeIndex) -> State:
    """What a file stores only if it is there: `rerank`, refinement codes, counters, and what `tune` measured."""
    values = {"rerank": index.rerank, "refine": index.refine}
    state = State({name: value for name, value in values.items() if value is not None}, {})
    state.params.update(anisotropy_param(index.anisotropy))
    state.arrays.update(index._columns.state(len(index)).arrays)
    if index._counts is not None:
        state.arrays["open_indexing_counts"] = index._counts
    return state.joined(*(part.state() for part in (index._refinement, index._points) if part is not None))


def restore_settings(index: CodeIndex, stored: Stored, *, has_lists: bool) -> None:
    """Read the attribute `rerank` and what `tune` measured, if they are there."""
    index.rerank = stored.count("rerank", 1) if "rerank" in stored.params else None
    index._points = OperatingPoints.from_state(stored, has_lists=has_lists)
    index._is_judged = index._points is not None


def stored_counts(stored: Stored, pq: ProductQuantizer, n: int) -> Int64 | None:
    """Read the counters of OpenIndexing of an index of `n` vectors from a file."""
    if not pq.open_indexing or not (n or stored.has("open_indexing_counts")):
        return None
    shape = (1 if pq.open_indexing.scope == "shared" else pq.m, 1 << pq.nbits)
    total = n * (pq.m // shape[0])
    counted = Check(f"counters that add up to {total} in each row", lambda counts: _add_up(counts, total))
    return stored.array("open_indexing_counts", np.int64, shape, counted)


def stored_options(stored: Stored, *names: str) -> dict[str, Any]:
    """Read the parameters of the constructor; check that a file of vectors has the stored shape and dtype."""
    options = stored.take("metric", "keep_vectors", *names)
    if not isinstance(options["keep_vectors"], bool):
        VectorFile.from_state(options["keep_vectors"], normalize=False)
        options["keep_vectors"] = options["keep_vectors"]["path"]
    if "refine" in stored.params:  # a file stores it only if it is set
        options |= stored.take("refine")
    return options | stored_anisotropy(stored)


def anisotropy_param(anisotropy: float) -> dict[str, float]:
    """The parameter that a file stores: none for the squared error, as in files from before there was another loss."""
    return {"anisotropy": anisotropy} if anisotropy > 1 else {}


def stored_anisotropy(stored: Stored) -> dict[str, Any]:
    """Read the parameter of the constructor."""
    return stored.take("anisotropy") if "anisotropy" in stored.params else {"anisotropy": 1.0}


def _add_up(counts: Int64, total: int) -> bool:
    """Whether the counters of every row are non-negative and add up to `total`."""
    return bool(((counts >= 0) & (counts <= total)).all() and (counts.sum(axis=1) == total).all())
