"""The element type bfloat16: the upper half of a float32. NumPy has this type only with the package ml_dtypes.

fpq does not need ml_dtypes. Without it, no program has arrays of bfloat16, but a file may hold such vectors: these are
arrays of BITS in memory, which kernels read as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

BITS = np.dtype([("bfloat16", np.uint16)])


def installed() -> np.dtype[Any] | None:
    """The bfloat16 of ml_dtypes; None if ml_dtypes is not installed."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    kind: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return kind


def is_bfloat16(kind: np.dtype[Any]) -> bool:
    """Whether this is the bfloat16 of ml_dtypes, in any byte order."""
    return kind.kind == "V" and kind.name == "bfloat16"


def of(name: DTypeLike) -> np.dtype[Any]:
    """The dtype of this name, which may be "bfloat16" without ml_dtypes; TypeError for an unknown name."""
    return (installed() or BITS) if isinstance(name, str) and name == "bfloat16" else np.dtype(name)


def name_of(kind: np.dtype[Any]) -> str:
    """The name of a dtype for messages."""
    return "bfloat16" if kind == BITS else str(kind)


def as_bits(array: NDArray[Any]) -> NDArray[Any]:
    """An array of bfloat16 as BITS, others unchanged, without a copy."""
    return array.view(BITS) if is_bfloat16(array.dtype) else array


def from_bits(array: NDArray[Any]) -> NDArray[Any]:
    """An array of BITS in the type of ml_dtypes if this is installed, others unchanged, without a copy."""
    kind = installed() if array.dtype == BITS else None
    return array if kind is None else array.view(kind)


def widened(array: NDArray[Any]) -> NDArray[Any]:
    """An array of BITS as float32; NumPy would take the bits for integers. Others unchanged."""
    if array.dtype != BITS:
        return array
    return (array.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
