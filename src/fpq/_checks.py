"""Checks of arguments. Every error names the argument, the expected value and the actual one."""

from __future__ import annotations

import contextlib
import operator
import os
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpq import _bfloat16, _inputs, _native

Rows: TypeAlias = ArrayLike | Iterable[ArrayLike]  # vectors (n, d), or blocks of vectors
Array = NDArray[Any]
Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
UInt8 = NDArray[np.uint8]
UInt16 = NDArray[np.uint16]
UInt32 = NDArray[np.uint32]
UInt64 = NDArray[np.uint64]
Float64 = NDArray[np.float64]

FLOAT32 = np.dtype(np.float32)
KERNEL_TYPES = tuple(np.dtype(t) for t in (np.float32, np.float64, np.float16, np.uint8, np.int8))
MOST = (1 << 63) - 1  # the largest integer of files and kernels
PACKAGE = os.path.dirname(__file__) + os.sep
ARRAY_PROTOCOLS = ("__array__", "__array_interface__")
EXACT_INTEGERS = 1 << 24  # float32 represents every integer up to this one


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """`value` as an int from `low` to `high` (default: 2**63 - 1)."""
    if type(value) is int and low <= value <= (MOST if high is None else high):
        return value
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None
    if not low <= number <= (MOST if high is None else high):
        bounds = f"at least {low}" if high is None and number < low else f"{low} to {MOST if high is None else high}"
        shown = number if abs(number) <= MOST else f"a number of {number.bit_length()} bits"
        raise ValueError(f"{name}: expected {bounds}, got {shown}")
    return number


def real(name: str, value: Any, low: float = -np.inf) -> float:
    """`value` as a finite float of at least `low`."""
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # a huge integer
        number = float("inf")
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number, got {value!r}") from None
    if not np.isfinite(number) or number < low:
        expected = "a finite number" if low == -np.inf else f"a finite number of at least {low:g}"
        raise ValueError(f"{name}: expected {expected}, got {number}")
    return number


def positive(name: str, value: Any) -> float:
    """`value` as a finite float above 0."""
    number = real(name, value)
    if number <= 0:
        raise ValueError(f"{name}: expected a number above 0, got {number}")
    return number


def fraction(name: str, value: Any) -> float:
    """`value` as a float between 0 and 1, exclusive."""
    number = real(name, value)
    if not 0 < number < 1:
        raise ValueError(f"{name}: expected a number between 0 and 1, got {number}")
    return number


def choice(name: str, value: Any, options: tuple[Any, ...], elsewhere: Mapping[Any, Any] | None = None) -> Any:
    """The element of `options` that is equal to `value`; `elsewhere` maps names of other libraries to options."""
    try:
        return options[options.index(value)]
    except ValueError:  # no option is equal, or the comparison with an array is ambiguous
        meant = elsewhere.get(value) if elsewhere and isinstance(value, str) else None
        hint = "" if meant is None or meant not in options else f": use {meant!r}"
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}{hint}") from None


def vectors(name: str, x: Any, *, dim: int | None = None, min_rows: int = 0, n_threads: int = 1) -> Array:
    """`x` as a finite 2-d array of a type that the kernels read; such an array is not copied."""
    array = numbers(name, x)
    _require_vectors(name, array, dim, min_rows, n_threads)
    return array


def _require_vectors(name: str, array: Array, dim: int | None, min_rows: int, n_threads: int) -> None:
    """Raise ValueError unless `array` is a finite 2-d array of this dimension, with so many rows."""
    if array.ndim != 2:
        raise ValueError(f"{name}: expected a 2-d array (n, d), got shape {array.shape}")
    n, d = array.shape
    if d == 0:
        raise ValueError(f"{name}: expected at least one dimension, got shape {array.shape}")
    if dim is not None and d != dim:
        hint = f": pass {name}.T, whose rows are the vectors" if n == dim else ""
        raise ValueError(f"{name}: expected vectors of dimension {dim}, got dimension {d}{hint}")
    if n < min_rows:
        raise ValueError(f"{name}: expected at least {min_rows} row(s), got {n}")
    row = _native.first_nonfinite_row(array, n_threads)
    if row >= 0:
        raise ValueError(f"{name}: expected numbers that are finite as float32, got NaN or infinity in row {row}")


def queries(x: Any, dim: int | None, n_threads: int) -> tuple[Float32, bool]:
    """Queries as float32 (nq, d) in C order, and whether `x` is a single 1-d query."""
    if type(x) is np.ndarray and x.dtype is FLOAT32 and x.ndim == 2 and x.shape[1] == dim:  # mostly so
        flags = x.flags
        if flags.c_contiguous and flags.aligned and _native.first_nonfinite_row(x, n_threads) < 0:
            return x, False
    array = numbers("Q", x)
    single = array.ndim == 1
    if array.ndim not in (1, 2):
        raise ValueError(f"Q: expected one query (d,) or several (nq, d), got shape {array.shape}")
    if single:
        array = array[None]
    _require_vectors("Q", array, dim, 0, n_threads)
    return np.ascontiguousarray(array, dtype=np.float32), single


def plain(name: str, x: Any) -> Array:
    """`x` as an ordinary array of any element type; such an array is not copied.

    Raises ValueError for masked entries. Native byte order is always spelled "=" in the result: NumPy treats "<f4" and
    "f4" as equal, but their buffers have the format strings "<f" and "f".
    """
    refuse_masked(name, x)
    x = _inputs.in_memory(name, x)
    try:
        array = _from_pandas(x)
        if array is None:
            only_dlpack = hasattr(x, "__dlpack__") and not any(map(partial(hasattr, x), ARRAY_PROTOCOLS))
            array = np.from_dlpack(x) if only_dlpack else np.asarray(x)
    except ValueError as error:  # lists of unequal length, missing integers
        raise ValueError(f"{name}: expected a rectangular array without missing entries: {error}") from None
    except (TypeError, RuntimeError, BufferError) as error:  # tensors on other devices or with gradients
        raise TypeError(f"{name}: expected an array or a list of numbers, got {type(x).__name__}: {error}") from None
    if array.dtype.isnative and array.dtype.byteorder in "<>":
        array = array.view(array.dtype.newbyteorder("="))
    return array


def can_be_read(kind: np.dtype[Any]) -> bool:
    """Whether the kernels read rows of this type, if the byte order is native."""
    return kind in KERNEL_TYPES or _bfloat16.is_bfloat16(kind)


def refuse_masked(name: str, x: Any) -> None:
    """Raise ValueError if `x`, or an item of a list `x`, has masked entries."""
    if isinstance(x, (list, tuple)):
        if any(issubclass(kind, (np.ma.MaskedArray, list, tuple)) for kind in set(map(type, x))):
            for item in x:
                refuse_masked(name, item)
    elif isinstance(x, np.ma.MaskedArray) and x.dtype.names is None:
        masked = int(np.count_nonzero(np.ma.getmaskarray(x)))
        if masked:
            raise ValueError(f"{name}: expected an array without masked entries, got {masked} of {x.size} masked")


def _from_pandas(x: Any) -> Array | None:
    """An array of a pandas object with nullable number types, which NumPy would convert to objects; else None."""
    dtypes = [] if isinstance(x, np.ndarray) else np.ravel(getattr(x, "dtypes", [])).tolist()
    plain_dtypes = [getattr(dtype, "numpy_dtype", dtype) for dtype in dtypes]
    if plain_dtypes == dtypes or not all(isinstance(d, np.dtype) and d.kind in "fiub" for d in plain_dtypes):
        return None
    array: Array = x.to_numpy(dtype=np.result_type(*plain_dtypes))  # ValueError for missing integers, NaN for floats
    return array


def numbers(name: str, x: Any) -> Array:
    """`x` as an array of any shape, of a type that the kernels read; other real numbers become float32.

    Integers beyond 2**24 are rounded, with a warning.
    """
    if type(x) is np.ndarray and x.dtype.byteorder in "=|" and x.dtype in KERNEL_TYPES and x.flags.aligned:
        return x
    array = plain(name, x)
    if array.dtype == object and array.ndim == 1:  # maybe a column of lists or arrays
        rows = _inputs.rows_of_objects(name, array)
        array = array if rows is None else plain(name, rows)
    if array.dtype.kind not in "fiub" and not can_be_read(array.dtype):
        source = "" if isinstance(x, np.ndarray) else f" from {type(x).__name__}"
        hint = ": select the columns of numbers, or one column of vectors" if hasattr(x, "columns") else ""
        hint = "; convert it by .toarray()" if hasattr(x, "toarray") else hint
        if array.dtype == "V2":  # which NumPy reads from the .npy file of an array of bfloat16
            hint = f": if these are numbers of bfloat16, pass {name}.view(ml_dtypes.bfloat16)"
        raise TypeError(f"{name}: expected an array of real numbers, got dtype {array.dtype}{source}{hint}")
    if array.dtype.kind in "iu" and array.dtype.itemsize > 2 and array.size:
        low, high = int(array.min()), int(array.max())
        if max(-low, high) > EXACT_INTEGERS:
            warn(f"{name}: integers beyond 2**24 are rounded to float32, got {low} to {high}", UserWarning)
    if not can_be_read(array.dtype):
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    if not array.dtype.isnative or not array.flags.aligned:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def id_array(name: str, ids: Any) -> Int64:
    """`ids` as int64 (n,), none negative; a single id becomes an array of length 1."""
    array = np.atleast_1d(integers(name, ids))
    if array.ndim != 1:
        raise ValueError(f"{name}: expected a 1-d array of ids, got shape {array.shape}")
    if array.size and array.min() < 0:
        raise ValueError(f"{name}: expected ids of at least 0, got {array.min()}")
    return np.ascontiguousarray(array)


def one_id(number: object) -> Int64 | None:
    """The id to look up for ``number in index``, int64 (1,); None if no index can have this id."""
    if isinstance(number, (bool, np.bool_)):
        return None
    try:
        value = operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        if isinstance(number, (str, bytes)) or not hasattr(number, "__len__"):
            return None
        kind = type(number).__name__
        raise TypeError(f"ids: expected one integer, got {kind}: np.isin(ids, index.ids) tests several ids") from None
    return np.array([value], np.int64) if 0 <= value <= MOST else None


def integers(name: str, ids: Any) -> Int64:
    """`ids` as int64 of any shape."""
    array = plain(name, ids)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        exact = exact_integers(ids)
        if exact is None:
            keys = array.dtype.kind in "USTO"
            hint = "; with other keys, let ids be row numbers and look the keys up: keys[ids]" if keys else ""
            raise TypeError(f"{name}: expected integer ids, got dtype {array.dtype}{hint}")
        array = exact
    if array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: expected ids below 2**63, got {array.max()}")
    if array.min() < np.iinfo(np.int64).min:
        raise ValueError(f"{name}: expected ids of at least 0, got {array.min()}")
    return array.astype(np.int64, copy=False)


def exact_integers(x: Any) -> Array | None:
    """A list of integers as an object array (NumPy makes floats of integers without a common type); else None."""
    if not isinstance(x, (list, tuple)):
        return None
    array = np.array(x, dtype=object)
    whole = all(isinstance(each, (int, np.integer)) and not isinstance(each, bool) for each in array.flat)
    return array if whole else None


def mask_or_ids(name: str, allowed: Any) -> Array:
    """A boolean array unchanged, or ids as from `id_array`."""
    array = plain(name, allowed)
    return array if array.dtype == np.bool_ else id_array(name, allowed)


class _Local(threading.local):
    quiet = False  # whether `warn` does nothing on this thread


_local = _Local()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop the warnings of fpq on this thread; ``warnings.catch_warnings`` would change the filters of all threads."""
    before = _local.quiet
    try:
        _local.quiet = True
        yield
    finally:
        _local.quiet = before


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line outside of fpq that led to the call."""
    if _local.quiet:
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
