"""The element type bfloat16, which NumPy has only with the package ml_dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np


def installed() -> np.dtype[Any] | None:
    """The bfloat16 of ml_dtypes; None if ml_dtypes is not installed."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    kind: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return kind
