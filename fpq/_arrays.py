"""Arrays as the kernels and the indexes want them: aligned, packed, growing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fpq import _native
from fpq._checks import Array, Float32


def aligned_empty(*shape: int) -> Float32:
    """An uninitialised float32 array that starts on a 64-byte boundary."""
    size = int(np.prod(shape))
    buffer = np.empty(size + 16, dtype=np.float32)
    start = -(buffer.ctypes.data // 4) % 16
    return buffer[start : start + size].reshape(shape)


def pack(columns: Float32, d: int) -> Float32:
    """The first `d` numbers of each column (k, >= d), packed for the kernels (csrc/kernels.h)."""
    out = aligned_empty(_native.packed_size(len(columns), d))
    _native.pack(np.ascontiguousarray(columns), d, out)
    return out


class GrowingArray:
    """An array that grows at its end: exactly as asked for at first, by half its size later on."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.data: Array = np.zeros((0, *shape), dtype=dtype)

    def reserve(self, n: int) -> None:
        """Make room for `n` entries in all; what is there stays."""
        have = len(self.data)
        if n > have:
            larger = np.zeros((max(n, have + have // 2 if have else n), *self.data.shape[1:]), self.data.dtype)
            larger[:have] = self.data
            self.data = larger

    def move(self, source: Any, target: Any) -> None:
        """Copy the entries `source` over the entries `target`."""
        self.data[target] = self.data[source]
