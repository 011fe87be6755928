"""Vectors that an index does not hold but reads from a .npy file, mapped into memory."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any

import numpy as np

from fpq import _native
from fpq._arrays import GrowingArray
from fpq._checks import KERNEL_TYPES, Array, Float32, Int64
from fpq.indexes.parts.ids import Removal
from fpq.storage import FormatError, State

CHUNK_VALUES = 1 << 22  # of the candidates that are scaled at a time


class VectorFile:
    """Row i of a .npy file is the vector with id i; nothing is ever written to it, and only rows asked for are read.

    Stands in for `Vectors`.
    """

    by_id = True
    nbytes = 0

    def __init__(self, path: str | os.PathLike[str], *, normalize: bool) -> None:
        self.path = os.fspath(path)
        self.data: Array = _mapped(self.path)
        self._normalize = normalize

    @property
    def dim(self) -> int:
        """D."""
        return int(self.data.shape[1])

    def require_dim(self, dim: int) -> None:
        """See that vectors of dimension `dim` can be in the file."""
        if self.dim != dim:
            raise ValueError(f"keep_vectors: expected a file of shape (n, {dim}), got {self.data.shape} in {self.path}")

    def reserve(self, n: int) -> None:
        """Nothing to do."""

    def write(self, x: Array, ids: Int64, **options: Any) -> None:
        """See that the file can hold new rows: they stand in it already."""
        self.require_dim(x.shape[1])
        self.require_ids(ids)

    def commit(self, rows: GrowingArray, n: int) -> None:
        """Nothing to do."""

    def require_ids(self, ids: Int64) -> None:
        """See that there is a row for each of these new ids."""
        if len(ids) and int(ids.max()) >= len(self.data):
            raise ValueError(f"ids: expected ids below {len(self.data)}, the rows of {self.path}, got {ids.max()}")

    def removing(self, removal: Removal) -> Callable[[], None]:
        """Nothing to do: ids that are gone are not asked for."""
        return lambda: None

    def rows(self, ids: Int64) -> Float32:
        """The vectors (n, d) of these ids as the metric wants them."""
        x = self.data[ids]
        if not self._normalize:
            return x.astype(np.float32)
        out = np.empty(x.shape, dtype=np.float32)
        _native.normalize(x, out, 1)
        return out

    def distances(self, queries: Float32, ids: Int64, inner_product: bool, n_threads: int, power: int = 0) -> Float32:
        """As `Vectors.distances`, by id."""
        if ids.max(initial=-1) >= len(self.data) or ids.min(initial=-1) < -1:  # of a mapped index
            raise FormatError(
                f"slot_ids: the data are damaged: expected ids of the {len(self.data)} rows of {self.path}"
            )
        out = np.empty(ids.shape, dtype=np.float32)
        if not self._normalize:
            own = 0 if inner_product else power
            _native.flat_distances(self.data, queries, np.ascontiguousarray(ids), inner_product, out, n_threads, own)
            return out
        step = max(1, CHUNK_VALUES // max(1, ids.shape[1] * self.dim))
        for start in range(0, len(ids), step):
            here = slice(start, start + step)
            wanted, at = np.unique(ids[here], return_inverse=True)
            missing = int(np.searchsorted(wanted, 0))  # 1 if there is a -1, which comes first
            at = np.ascontiguousarray(at.reshape(ids[here].shape) - missing, dtype=np.int64)
            x = self.rows(wanted[missing:]) if missing < len(wanted) else np.zeros((1, self.dim), np.float32)
            _native.flat_distances(x, queries[here], at, inner_product, out[here], n_threads)
        return out

    def state(self) -> State:
        """What a file stores: where the vectors are and what they look like."""
        dtype = self.data.dtype.str.lstrip("<|")
        about = {"path": self.path, "shape": list(self.data.shape), "dtype": dtype}
        return State({"keep_vectors": about}, {})

    @classmethod
    def from_state(cls, about: Any, *, normalize: bool) -> VectorFile:
        """The file that an index was saved with."""
        if not isinstance(about, dict) or set(about) != {"path", "shape", "dtype"} or type(about["path"]) is not str:
            raise ValueError(f"keep_vectors: expected true, false or path, shape and dtype, got {about!r}")
        try:
            file = cls(about["path"], normalize=normalize)
        except OSError as error:
            raise ValueError(f"keep_vectors: the file of the vectors cannot be read: {error}") from error
        found = file.state().params["keep_vectors"]
        if found != about:
            raise ValueError(
                f"keep_vectors: expected {about['dtype']} of shape {about['shape']} in {file.path}, "
                f"got {found['dtype']} of shape {found['shape']}"
            )
        return file


def _mapped(path: str) -> Array:
    """A checked .npy file, mapped read-only."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would block
        raise ValueError(f"keep_vectors: expected a .npy file, {path} is not a regular file")
    try:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"keep_vectors: expected a .npy file, cannot read {path}: {error}") from error
    if not isinstance(data, np.memmap):  # an archive of arrays
        raise ValueError(f"keep_vectors: expected a .npy file with one array, got {path}")
    kind = data.dtype.newbyteorder("=")
    if kind not in KERNEL_TYPES or not data.dtype.isnative:
        names = ", ".join(str(dtype) for dtype in KERNEL_TYPES)
        raise ValueError(f"keep_vectors: expected {names} in the order of bytes of this machine, got {data.dtype.str}")
    if data.ndim != 2 or not data.shape[1] or not data.flags.c_contiguous:
        order = "" if data.flags.c_contiguous else " in Fortran order"
        raise ValueError(f"keep_vectors: expected an array (n, d) in C order, got shape {data.shape}{order} in {path}")
    return np.asarray(data)
