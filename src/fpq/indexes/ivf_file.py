"""Saving and loading of an IVFPQIndex."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fpq import threads
from fpq._checks import MOST
from fpq.indexes.parts.coarse import CoarseQuantizer
from fpq.indexes.parts.ids import PIECE, Ids
from fpq.indexes.parts.lists import BLOCK_ROWS, InvertedLists
from fpq.indexes.parts.refinement import Columns, Refinement, columns_of
from fpq.indexes.pq_file import optional_state, restore_settings, stored_counts, stored_options
from fpq.learning.local_rotation import LocalRotations
from fpq.learning.quantizer import ProductQuantizer
from fpq.storage import FormatError, State, Stored, finite, non_negative

if TYPE_CHECKING:
    from fpq.indexes.ivf import IVFPQIndex


def state(index: IVFPQIndex) -> State:
    """The state that a file stores. The array `radii` of a file is `_max_residual`."""
    pq = index.quantizer._state()
    params = {
        "n_lists": index.n_lists, "residual": index.residual, "list_capacity": index.list_capacity,
        "metric": index.metric, "keep_vectors": bool(index.keep_vectors), "n_probe": index.n_probe,
        "quantizer": pq.params,
    }  # fmt: skip
    saved = State(params, pq.arrays)
    if index._coarse is not None:
        saved = saved.joined(State({}, {"centroids": index._coarse.centroids, "radii": index._max_residual}))
        if index._coarse.spreads is not None:
            saved = saved.joined(State({}, {"spreads": index._coarse.spreads}))
    if index.local_rotations:
        saved = saved.joined(State({"local_rotations": True}, {}))
    if index._rotation_dim is not None:
        saved = saved.joined(State({"rotation_dim": index._rotation_dim}, {}))
    if index._rotations is not None:
        saved = saved.joined(index._rotations.state())
    if index._refinement is not None:
        saved = saved.joined(State({"refine_order": "row"}, {}))
    return saved.joined(optional_state(index), index._lists.state(), index._ids.state(), index._vectors.state())


def restored(kind: type[IVFPQIndex], stored: Stored) -> IVFPQIndex:
    """The index that a file stores."""
    n_lists = stored.optional_count("n_lists", 1) or 0
    if stored.shape("list_sizes") != (n_lists,):  # checked before memory is allocated for n_lists lists
        raise FormatError(f"list_sizes: expected shape ({n_lists},), got {stored.shape('list_sizes')}")
    options = stored_options(stored, "n_lists", "residual", "list_capacity")
    if "local_rotations" in stored.params:
        options |= stored.take("local_rotations")
    index = kind(**options, n_threads=stored.n_threads)
    if index.local_rotations and "rotation_dim" in stored.params:
        index._rotation_dim = stored.count("rotation_dim", 1)
    index.n_probe = min(stored.count("n_probe", 1), n_lists or MOST)
    index.quantizer = pq = ProductQuantizer._from_state(stored.part("quantizer"))
    vars(index).update(index._no_rows())
    restore_settings(index, stored, has_lists=True)
    index._ids = Ids.from_state(stored)
    index._lists = InvertedLists.from_state(stored, n_lists, pq.code_size, index._ids)
    if not pq.is_trained:
        if len(index):
            raise FormatError(f"n: expected 0 for an index that is not trained, got {len(index)}")
        return index
    if not n_lists:
        raise FormatError("n_lists: expected an integer of a trained index, got None")
    n_threads = threads.resolve(stored.n_threads)
    shape = stored.shape("centroids")
    if index._rotation_dim not in (None, pq.dim):
        raise FormatError(f"rotation_dim: expected {pq.dim}, the dimension of the codes, got {index._rotation_dim}")
    dim = pq.dim if index._rotation_dim is None or len(shape) != 2 else shape[1]
    centroids = stored.array("centroids", np.float32, (index.n_lists, dim), finite)
    spreads = stored.array("spreads", np.float32, (n_lists,), non_negative) if stored.has("spreads") else None
    index._coarse = CoarseQuantizer(centroids, not index._metric.euclidean, n_threads, spreads)
    index._rotated = pq.rotate(centroids, n_threads)
    if index.local_rotations:
        index._rotations = LocalRotations.from_state(stored, n_lists, dim, pq.dim)
    index._max_residual = stored.array("radii", np.float32, (index.n_lists,), non_negative)
    index._counts = stored_counts(stored, pq, len(index))
    if index.refine is not None:
        index._refinement = Refinement.from_state(stored, index.refine, int(pq.offsets[-1]))
        index._columns = _stored_columns(index, stored)
    index._restore_vectors(stored)
    return index


def _stored_columns(index: IVFPQIndex, stored: Stored) -> Columns:
    """The refinement codes: by row, but by slot in files of before, which are put in the order of rows."""
    assert index._refinement is not None
    if "refine_order" in stored.params:
        (order,) = stored.take("refine_order").values()
        if order != "row":
            raise FormatError(f"refine_order: expected 'row', got {order!r}")
        return index._refinement.stored_columns(stored, len(index))
    by_slot = index._refinement.stored_columns(stored, index._lists.layout.n_blocks * BLOCK_ROWS)
    columns, slots = columns_of(index._refinement), index._lists.slots_of_rows(index._ids)
    columns.reserve(len(slots))
    for start in range(0, len(slots), PIECE):
        columns.write(start, by_slot.planes().at(slots[start : start + PIECE]))
    return columns
