"""Saving and loading of a ProductQuantizer."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from fpq._checks import Array
from fpq.learning.open_indexing import OpenIndexing
from fpq.learning.rotation import Rotation
from fpq.storage import FormatError, State, Stored, as_number, finite, non_negative

if TYPE_CHECKING:
    from fpq.learning.quantizer import ProductQuantizer

NAMES = ("m", "nbits", "rotation", "rotation_dim", "n_iter", "max_points_per_centroid", "seed")


def state(pq: ProductQuantizer) -> State:
    """The state that a file stores."""
    params = {name: getattr(pq, name) for name in NAMES}
    if pq.init != "k-means++":
        params["init"] = pq.init
    params["open_indexing"] = asdict(pq.open_indexing) if pq.open_indexing else None
    params["dim"] = pq.dim if pq.is_trained else None
    if not pq.is_trained:
        return State(params, {})
    params |= {"inertia": as_number(pq.inertia), "n_iter_run": pq.n_iter_run}
    arrays: dict[str, Array] = {"codebooks": pq.codebooks, "code_counts": pq.code_counts}
    if pq._rotation:
        arrays |= {"rotation_matrix": pq._rotation.matrix, "rotation_mean": pq._rotation.mean}
    return State(params, arrays)


def restored(kind: type[ProductQuantizer], stored: Stored) -> ProductQuantizer:
    """The quantizer that a file stores."""
    params = stored.take(*NAMES)
    if "init" in stored.params:
        params |= stored.take("init")
    policy = stored.take("open_indexing")["open_indexing"]
    params["open_indexing"] = None if policy is None else OpenIndexing(**policy)
    pq = kind(**params, n_threads=stored.n_threads)
    dim = stored.optional_count("dim", 1)
    if dim is None:
        return pq
    if params["m"] is None:
        raise FormatError("m: expected an integer of a trained quantizer, got None")
    pq.check_dim(dim)
    rotation, width = None, pq.rotation_dim or dim
    if pq.rotation is not None:
        matrix = stored.array("rotation_matrix", np.float32, (dim, width), finite)
        rotation = Rotation(matrix, stored.array("rotation_mean", np.float32, (dim,), finite))
    k = 1 << pq.nbits
    pq._learned(
        dim=dim,
        codebooks=stored.array("codebooks", np.float32, (pq.m, k, -(-width // pq.m)), finite),
        code_counts=stored.array("code_counts", np.int64, (pq.m, k), non_negative),
        inertia=stored.number("inertia"),
        n_iter_run=stored.count("n_iter_run"),
        rotation=rotation,
    )
    return pq
