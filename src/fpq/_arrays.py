"""Arrays for the kernels and the indexes: aligned, packed, growing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from fpq import _native
from fpq._checks import Array, Float32, Int64

COPY_BYTES = 1 << 26  # of a copy: Python handles Ctrl-C between two copies
MOVE_BYTES = 1 << 22  # of the buffer of `GrowingArray.moving`


def aligned(x: Array) -> Array:
    """`x` at an address that is a multiple of the size of its numbers; arrays from the network may be elsewhere."""
    return np.require(x, requirements="A")


def ascending(rows: Int64, n: int) -> Int64:
    """Different row numbers below n in ascending order; for a large share of n faster than a sort."""
    if len(rows) < n // 64:
        return np.sort(rows)
    chosen = np.zeros(n, np.bool_)
    chosen[rows] = True
    return np.flatnonzero(chosen)


def aligned_empty(*shape: int, dtype: DTypeLike = np.float32) -> Array:
    """An uninitialised array that starts on a 64-byte boundary, so that vector loads do not cross cache lines."""
    return _aligned(np.empty, shape, dtype)


def aligned_zeros(*shape: int, dtype: DTypeLike) -> Array:
    """Zeros that start on a 64-byte boundary; the system provides their memory at the first access."""
    return _aligned(np.zeros, shape, dtype)


def _aligned(make: Callable[..., Array], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = make(size + 64, dtype=np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size].view(dtype).reshape(shape)


def pack(columns: Float32, d: int) -> Float32:
    """The first `d` numbers of each column (k, >= d), packed into column blocks (csrc/README.md)."""
    out = aligned_empty(_native.packed_size(len(columns), d))
    _native.pack(np.ascontiguousarray(columns), d, out)
    return out


def pack_codebooks(codebooks: Float32, offsets: Array) -> Float32:
    """The codebooks (m, k, dsub), packed, one codebook per row."""
    m, k, dsub = codebooks.shape
    packed = aligned_empty(m, _native.packed_size(k, dsub))
    for j in range(m):
        piece = pack(codebooks[j], offsets[j + 1] - offsets[j])
        packed[j, : len(piece)] = piece
        packed[j, len(piece) :] = 0
    return packed


def unpack(packed: Float32, k: int, d: int) -> Float32:
    """The columns (k, d) from the result of `pack`."""
    return packed.reshape(-1, d, 16).transpose(0, 2, 1).reshape(-1, d)[:k]


def take_rows(x: Array, rows: Int64, n_threads: int) -> Array:
    """x[rows], of a matrix of a type that the kernels read."""
    taken = np.empty((len(rows), x.shape[1]), x.dtype)
    _native.copy_rows(x, np.ascontiguousarray(rows), taken, n_threads)
    return taken


def float_rows(x: Array, n_threads: int) -> Float32:
    """The rows of x as float32 in C order, of a matrix of a type that the kernels read; a copy only if necessary."""
    if x.dtype == np.float32 and x.flags.c_contiguous:
        return x
    rows = np.empty(x.shape, np.float32)
    _native.copy_rows(x, None, rows, n_threads)
    return rows


def copy_rows(source: Array, target: Array) -> None:
    """Copy the rows of `source` to the first rows of `target`, COPY_BYTES at a time."""
    step = max(1, COPY_BYTES // max(1, source[:1].nbytes))
    for start in range(0, len(source), step):
        piece = source[start : start + step]
        target[start : start + len(piece)] = piece


class GrowingArray:
    """An array that grows at its end: first to exactly the requested size, later by at least half its size."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.data: Array = np.zeros((0, *shape), dtype=dtype)

    @classmethod
    def of(cls, data: Array) -> GrowingArray:
        """A growing array over `data`, which is not copied."""
        array = cls(data.shape[1:], data.dtype)
        array.data = data
        return array

    def reserve(self, n: int) -> None:
        """Make the array at least `n` entries long; its entries stay."""
        size = len(self.data)
        if n > size:
            rows = max(n, size + size // 2 if size else n)
            larger = aligned_zeros(rows, *self.data.shape[1:], dtype=self.data.dtype)
            copy_rows(self.data, larger)
            self.data = larger

    def clear_after(self, n: int) -> None:
        """Zero what follows n rows, the last axis of the entries, in their last entry, as files hold whole entries.

        Cannot fail.
        """
        rows = self.data.shape[-1]
        self.data[n // rows : -(-n // rows), ..., n % rows :] = 0

    def hold(self, largest: int) -> None:
        """Change the type of the entries, integers, to int64 if the present one cannot hold `largest`."""
        if largest > np.iinfo(self.data.dtype).max:
            wider = aligned_zeros(*self.data.shape, dtype=np.int64)
            copy_rows(self.data, wider)
            self.data = wider

    def moving(self, sources: Array, targets: Array) -> Callable[[], None]:
        """A function that copies the entries `sources` to the entries `targets`, and cannot fail.

        No entry may be a target before it is a source.

        The function allocates no memory: the entries pass through a buffer that is allocated here.
        """
        data = self.data
        step = max(1, min(len(sources), MOVE_BYTES // max(1, data[:1].nbytes)))
        buffer = np.empty((step, *data.shape[1:]), data.dtype)

        def move() -> None:
            for start in range(0, len(sources), step):
                rows = sources[start : start + step]
                piece = buffer[: len(rows)]
                np.take(data, rows, axis=0, out=piece, mode="clip")  # other modes allocate memory
                data[targets[start : start + step]] = piece

        return move
