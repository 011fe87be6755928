"""Checks of the arguments of a collection: vectors, metadata, the element type and the index."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fpq import _checks, threads
from fpq._checks import Array
from fpq.collection import metadata
from fpq.collection.store import Settings
from fpq.indexes import MultiVectorIndex
from fpq.indexes.base import Index

PARALLEL_VALUES = 1 << 22  # values whose check takes longer than the start of threads
TYPES = ("float32", "float16", "uint8", "int8")


def element_type(dtype: DTypeLike) -> str:
    """The name of the element type of stored vectors."""
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = repr(dtype)
    if name not in TYPES:
        raise ValueError(f"dtype: expected one of {', '.join(TYPES)}, got {name}")
    return name


def vectors(given: Any, n: int, single: bool, settings: Settings, n_threads: int | None) -> Array:
    """The vectors of n rows, in the element type of the collection."""
    array = _checks.numbers("vectors", given)
    if single and array.ndim == 1:
        array = array[None]
    elif not n and not array.size:
        return np.empty((0, settings.dim or 1), settings.element)
    count = threads.resolve(n_threads) if array.size >= PARALLEL_VALUES else 1
    array = _checks.vectors("vectors", array, dim=settings.dim, n_threads=count)
    if len(array) != n:
        raise ValueError(f"vectors: expected {n} vectors, one per key, got {len(array)}")
    if array.dtype == settings.element:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(settings.element)
    if settings.element.kind in "iu" and not np.array_equal(cast, array):
        raise ValueError(f"vectors: expected whole numbers of type {settings.dtype}, got others")
    if settings.element.kind == "f" and not np.isfinite(cast).all():
        raise ValueError(f"vectors: expected numbers within {settings.dtype}, got larger ones")
    return cast


def metadata_of(given: Any, n: int, single: bool, settings: Settings) -> metadata.Columns:
    """The metadata of n rows."""
    types = json.loads(settings.types)
    return metadata.of_rows(given, n, single=single, types=types)


def index_bytes(index: Any, metric: str) -> bytes | None:
    """The file of an index of the user, which holds its settings."""
    if index is None:
        return None
    if not isinstance(index, Index) or isinstance(index, MultiVectorIndex):
        raise TypeError(f"index: expected an index of fpq for vectors, got {type(index).__name__}")
    if index.metric != metric:
        raise ValueError(f"index: expected an index with metric={metric!r}, got {index.metric!r}")
    if len(index):
        raise ValueError(f"index: expected an index without rows, got {len(index)} rows")
    if isinstance(getattr(index, "keep_vectors", False), str):
        raise ValueError("index: expected keep_vectors=True or False, got a file: the collection keeps the vectors")
    return b"".join(index._pieces())
