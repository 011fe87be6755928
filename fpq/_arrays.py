"""Arrays as the kernels and the indexes want them: aligned, packed, growing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from fpq import _native
from fpq._checks import Array, Float32

COPY_BYTES = 1 << 26
MOVE_BYTES = 1 << 22


def aligned_empty(*shape: int, dtype: DTypeLike = np.float32) -> Array:
    """An uninitialised array that starts on a 64-byte boundary, so that no vector load crosses one."""
    return _aligned(np.empty, shape, dtype)


def aligned_zeros(*shape: int, dtype: DTypeLike) -> Array:
    """Zeros that start on a 64-byte boundary; their memory is not touched yet."""
    return _aligned(np.zeros, shape, dtype)


def _aligned(make: Callable[..., Array], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = make(size + 64, dtype=np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size].view(dtype).reshape(shape)


def pack(columns: Float32, d: int) -> Float32:
    """The first `d` numbers of each column (k, >= d), packed for the kernels (csrc/kernels.h)."""
    out = aligned_empty(_native.packed_size(len(columns), d))
    _native.pack(np.ascontiguousarray(columns), d, out)
    return out


def unpack(packed: Float32, k: int, d: int) -> Float32:
    """The columns (k, d) that `pack` has packed."""
    return packed.reshape(-1, d, 16).transpose(0, 2, 1).reshape(-1, d)[:k]


def copy_rows(source: Array, target: Array) -> None:
    """Copy the rows of `source` over the first ones of `target`, some MB at a time so that Ctrl-C is heeded."""
    step = max(1, COPY_BYTES // max(1, source[:1].nbytes))
    for start in range(0, len(source), step):
        piece = source[start : start + step]
        target[start : start + len(piece)] = piece


class GrowingArray:
    """An array that grows at its end: exactly as asked for at first, by half its size later on."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.data: Array = np.zeros((0, *shape), dtype=dtype)

    @classmethod
    def of(cls, data: Array) -> GrowingArray:
        """That holds `data`, not copied."""
        array = cls(data.shape[1:], data.dtype)
        array.data = data
        return array

    def reserve(self, n: int) -> None:
        """Make room for `n` entries in all; what is there stays."""
        have = len(self.data)
        if n > have:
            rows = max(n, have + have // 2 if have else n)
            larger = aligned_zeros(rows, *self.data.shape[1:], dtype=self.data.dtype)
            copy_rows(self.data, larger)
            self.data = larger

    def moving(self, sources: Array, targets: Array) -> Callable[[], None]:
        """What copies the entries `sources` over the entries `targets`, others all, and cannot fail.

        It takes no memory: there is a buffer for a piece of the entries, and the pieces go through one after the other.
        """
        data = self.data
        step = max(1, min(len(sources), MOVE_BYTES // max(1, data[:1].nbytes)))
        buffer = np.empty((step, *data.shape[1:]), data.dtype)

        def move() -> None:
            for start in range(0, len(sources), step):
                here = sources[start : start + step]
                piece = buffer[: len(here)]
                np.take(data, here, axis=0, out=piece, mode="clip")  # other modes take memory of their own
                data[targets[start : start + step]] = piece

        return move
