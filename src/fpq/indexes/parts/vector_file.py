"""Vectors that an index reads from a memory-mapped .npy file."""

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
from fpq.metric import Metric
from fpq.storage import FormatError, State

CHUNK_VALUES = 1 << 22  # values of candidates that are normalized at a time


class VectorFile:
    """A read-only .npy file whose row i is the vector with id i. Has the interface of `Vectors`.

    The file is read on demand, row by row. For the cosine, rows are scaled to length 1 when they are read, and float16
    rows are not rounded again.
    """

    by_id = True
    nbytes = 0

    def __init__(self, path: str | os.PathLike[str], *, normalize: bool) -> None:
        self.path = os.fspath(path)
        self.data: Array = _mapped(self.path)
        self._normalize = normalize

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return int(self.data.shape[1])

    def require_dim(self, dim: int) -> None:
        """Raise ValueError if the vectors in the file are not of dimension `dim`."""
        if self.dim != dim:
            raise ValueError(f"keep_vectors: expected a file of shape (n, {dim}), got {self.data.shape} in {self.path}")

    def reserve(self, n: int) -> None:
        """Do nothing."""

    def write(self, x: Array, ids: Int64, **options: Any) -> None:
        """Check that the file, which is never written to, has a row for each new id."""
        self.require_dim(x.shape[1])
        self.require_ids(ids)

    def commit(self, rows: GrowingArray, n: int) -> None:
        """Do nothing."""

    def require_ids(self, ids: Int64) -> None:
        """Raise ValueError if the file has no row for one of these ids."""
        if len(ids) and int(ids.max()) >= len(self.data):
            raise ValueError(f"ids: expected ids below {len(self.data)}, the rows of {self.path}, got {ids.max()}")

    def removing(self, removal: Removal) -> Callable[[], None]:
        """A commit that does nothing: removed ids are never read."""
        return lambda: None

    def rows(self, ids: Int64) -> Float32:
        """The vectors of these ids, float32 (n, d), normalized if the metric is the cosine."""
        x = self.data[ids]
        if not self._normalize:
            return x.astype(np.float32)
        out = np.empty(x.shape, dtype=np.float32)
        _native.normalize(x, out, 1)
        return out

    def distances(self, queries: Float32, ids: Int64, metric: Metric, n_threads: int, power: int = 0) -> Float32:
        """As `Vectors.distances`, by id."""
        if ids.max(initial=-1) >= len(self.data) or ids.min(initial=-1) < -1:  # ids of a mapped index are not checked
            raise FormatError(
                f"slot_ids: the data are damaged: expected ids of the {len(self.data)} rows of {self.path}"
            )
        out = np.empty(ids.shape, dtype=np.float32)
        if not self._normalize:
            ids, row_power = np.ascontiguousarray(ids), 0 if metric.inner_product else power
            _native.flat_distances(self.data, queries, ids, metric.kernel, out, n_threads, row_power)
            return out
        step = max(1, CHUNK_VALUES // max(1, ids.shape[1] * self.dim))
        for start in range(0, len(ids), step):
            batch = slice(start, start + step)
            wanted, rows = np.unique(ids[batch], return_inverse=True)
            missing = int(np.searchsorted(wanted, 0))  # 1 if `wanted` begins with -1, else 0
            rows = np.ascontiguousarray(rows.reshape(ids[batch].shape) - missing, dtype=np.int64)
            x = self.rows(wanted[missing:]) if missing < len(wanted) else np.zeros((1, self.dim), np.float32)
            _native.flat_distances(x, queries[batch], rows, metric.kernel, out[batch], n_threads)
        return out

    def state(self) -> State:
        """The state that a file stores: path, shape and dtype of the vectors."""
        dtype = self.data.dtype.str.lstrip("<|")
        return State({"keep_vectors": {"path": self.path, "shape": list(self.data.shape), "dtype": dtype}}, {})

    @classmethod
    def from_state(cls, expected: Any, *, normalize: bool) -> VectorFile:
        """Open the file of vectors that a saved index names, and check its shape and dtype."""
        names = {"path", "shape", "dtype"}
        if not isinstance(expected, dict) or set(expected) != names or type(expected["path"]) is not str:
            raise ValueError(f"keep_vectors: expected true, false or path, shape and dtype, got {expected!r}")
        try:
            file = cls(expected["path"], normalize=normalize)
        except OSError as error:
            raise ValueError(f"keep_vectors: the file of the vectors cannot be read: {error}") from error
        found = file.state().params["keep_vectors"]
        if found != expected:
            raise ValueError(
                f"keep_vectors: expected {expected['dtype']} of shape {expected['shape']} in {file.path}, "
                f"got {found['dtype']} of shape {found['shape']}"
            )
        return file


def _mapped(path: str) -> Array:
    """Map a .npy file read-only, and check its dtype and shape."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would block
        raise ValueError(f"keep_vectors: expected a .npy file, got {path}, which is not a regular file")
    try:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"keep_vectors: expected a .npy file, cannot read {path}: {error}") from error
    if not isinstance(data, np.memmap):  # an archive of arrays
        raise ValueError(f"keep_vectors: expected a .npy file with one array, got {path}")
    kind = data.dtype.newbyteorder("=")
    if kind not in KERNEL_TYPES or not data.dtype.isnative:
        names = ", ".join(str(dtype) for dtype in KERNEL_TYPES)
        raise ValueError(f"keep_vectors: expected {names} in native byte order, got {data.dtype.str}")
    if data.ndim != 2 or not data.shape[1] or not data.flags.c_contiguous:
        order = "" if data.flags.c_contiguous else " in Fortran order"
        raise ValueError(f"keep_vectors: expected an array (n, d) in C order, got shape {data.shape}{order} in {path}")
    return np.asarray(data)
