"""Vectors of other libraries: tensors, and columns of vectors of pyarrow, pandas and polars.

None of these libraries is imported here: an object of a library exists only after its program has imported the library.
"""

from __future__ import annotations

import math
import reprlib
import sys
from typing import Any

import numpy as np

from fpq import _bfloat16

MAIN_MEMORY = (1, 3, 11, 13)  # devices of DLPack whose memory the CPU reads: the CPU, and pinned or managed memory


def in_memory(name: str, x: Any) -> Any:
    """A tensor or a column of vectors as an array, without a copy where its memory permits; any other `x` unchanged.

    Raises
    ------
    TypeError
        If a tensor is not in main memory, is sparse or requires a gradient.
    ValueError
        If a column has missing entries or vectors of different lengths.
    """
    if isinstance(x, np.ndarray):
        return x
    if isinstance(x, (list, tuple)):
        tensors = len(x) > 0 and hasattr(x[0], "__dlpack__") and not isinstance(x[0], (np.ndarray, np.generic))
        return [in_memory(name, item) for item in x] if tensors else x
    if _is(x, "torch", "Tensor"):
        return _from_torch(name, x)
    # Arrays of pyarrow are in main memory, but pyarrow 24 says so of some types only.
    if hasattr(x, "__dlpack_device__") and not _is(x, "pyarrow", "Array"):
        device = x.__dlpack_device__()
        if int(device[0]) not in MAIN_MEMORY:
            place = getattr(x, "device", tuple(map(int, device)))
            kind = type(x).__name__
            raise TypeError(f"{name}: expected an array in main memory, got {kind} on device {place}: copy it there")
    if not is_column(x):
        return x
    if _is(x, "pandas", "Series"):
        if x.dtype != object:
            return _from_arrow(name, x.array.__arrow_array__())
        rows = rows_of_objects(name, x.to_numpy())
        return x if rows is None else rows
    return _from_polars(name, x) if _is(x, "polars", "Series") else _from_arrow(name, x)


def is_column(x: Any) -> bool:
    """Whether `x` is a column of a table whose entries are objects or lists, such as vectors."""
    if _is(x, "pandas", "Series"):
        return x.dtype == object or (hasattr(x.dtype, "pyarrow_dtype") and _is_list(x.dtype.pyarrow_dtype))
    if _is(x, "polars", "Series"):
        return isinstance(x.dtype, _polars_lists())
    return (_is(x, "pyarrow", "Array") or _is(x, "pyarrow", "ChunkedArray")) and _is_list(x.type)


def rows_of_objects(name: str, array: Any) -> list[Any] | None:
    """The entries of a 1-d array of objects, if they are rows of one length; None if none of them is a row."""
    rows = [issubclass(kind, (np.ndarray, list, tuple)) for kind in map(type, array)]
    if rows and not any(rows):
        return None
    if not all(rows):
        row = rows.index(False)
        raise _no_vector(name, row, reprlib.repr(array[row]))
    _require_one_length(name, np.fromiter(map(len, array), np.int64, len(array)))
    entries: list[Any] = array.tolist()
    return entries


def _is(x: Any, library: str, kind: str) -> bool:
    """Whether `x` is of this class of a library that may not be installed."""
    cls = getattr(sys.modules.get(library), kind, None)
    return isinstance(cls, type) and isinstance(x, cls)


def _from_torch(name: str, x: Any) -> Any:
    if x.device.type != "cpu":
        raise TypeError(f"{name}: expected a tensor on the CPU, got one on {x.device}: pass {name}.cpu()")
    if str(x.layout) != "torch.strided":
        raise TypeError(f"{name}: expected a dense tensor, got layout {x.layout}: pass {name}.to_dense()")
    if x.requires_grad:
        raise TypeError(f"{name}: expected a tensor without gradient, got one that requires it: pass {name}.detach()")
    if str(x.dtype) != "torch.bfloat16":
        return x
    kind = _bfloat16.installed()
    return x.float() if kind is None else x.view(sys.modules["torch"].int16).numpy().view(kind)


def _is_list(kind: Any) -> bool:
    """Whether a type of pyarrow is one of lists, or an extension type that is stored as lists."""
    types = sys.modules["pyarrow"].types
    kind = getattr(kind, "storage_type", kind)
    return any(is_kind(kind) for is_kind in (types.is_fixed_size_list, types.is_list, types.is_large_list))


def _from_arrow(name: str, column: Any) -> Any:
    """The rows (n, d) of a column of lists; several chunks are copied into one array."""
    chunks = column.chunks if hasattr(column, "chunks") else [column]
    kind = getattr(column.type, "storage_type", column.type)
    arrays = []
    start = 0
    for chunk in chunks:
        chunk = getattr(chunk, "storage", chunk)
        if chunk.null_count:
            raise _no_vector(name, start + int(chunk.is_null().to_numpy(zero_copy_only=False).argmax()))
        values = chunk.flatten()
        dim = getattr(kind, "list_size", None)
        if dim is None:
            dim = _require_one_length(name, chunk.value_lengths().to_numpy(zero_copy_only=False), start)
        if values.null_count:
            first = int(values.is_null().to_numpy(zero_copy_only=False).argmax())
            raise _no_number(name, start + first // dim)
        arrays.append(values.to_numpy(zero_copy_only=False).reshape(len(chunk), dim))
        start += len(chunk)
    return _joined(name, arrays, getattr(kind, "list_size", 0), kind.value_type)


def _joined(name: str, arrays: list[Any], dim: int, value_type: Any) -> Any:
    filled = [array for array in arrays if len(array)]
    if not filled:
        return np.empty((0, dim), np.dtype(value_type.to_pandas_dtype()))
    widths = np.repeat([array.shape[1] for array in filled], [len(array) for array in filled])
    _require_one_length(name, widths)
    return filled[0] if len(filled) == 1 else np.concatenate(filled)


def _polars_lists() -> tuple[type, ...]:
    polars = sys.modules["polars"]
    return polars.List, polars.Array


def _from_polars(name: str, x: Any) -> Any:
    polars = sys.modules["polars"]
    if x.null_count():
        raise _no_vector(name, int(x.is_null().arg_max()))
    if isinstance(x.dtype, polars.Array):
        shape = x.dtype.shape
        values = x.reshape((-1,))
    else:
        shape = (_require_one_length(name, x.list.len().to_numpy()),)
        values = x.explode() if shape[0] else polars.Series([], dtype=x.dtype.inner)
    if values.null_count():
        raise _no_number(name, int(values.is_null().arg_max()) // math.prod(shape))
    return values.to_numpy().reshape(len(x), *shape)


def _require_one_length(name: str, lengths: Any, start: int = 0) -> int:
    """The length that all rows have; 0 without rows."""
    if not len(lengths):
        return 0
    other = int((lengths != lengths[0]).argmax())
    if lengths[other] != lengths[0]:
        raise ValueError(
            f"{name}: expected rows of one length, got {lengths[0]} numbers in row {start} and {lengths[other]} in row "
            f"{start + other}"
        )
    return int(lengths[0])


def _no_vector(name: str, row: int, got: str = "null") -> ValueError:
    return ValueError(f"{name}: expected a vector in each row, got {got} in row {row}")


def _no_number(name: str, row: int) -> ValueError:
    return ValueError(f"{name}: expected vectors without missing numbers, got null in row {row}")
