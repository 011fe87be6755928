"""The only place that judges what users pass in. Messages name the argument, what came and what was expected."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpq import _native

Array = NDArray[Any]
Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
UInt8 = NDArray[np.uint8]
UInt16 = NDArray[np.uint16]
UInt32 = NDArray[np.uint32]
UInt64 = NDArray[np.uint64]
Float64 = NDArray[np.float64]

KERNEL_TYPES = tuple(np.dtype(t) for t in (np.float32, np.float64, np.float16, np.uint8, np.int8))
MOST = (1 << 63) - 1  # of an integer that files and kernels take
METRICS = ("l2", "ip", "cosine")


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """`value` as an int between `low` and `high`, which is 2**63 - 1 by default."""
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
    """`value` as a finite float that is at least `low`."""
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # of an integer
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
    """`value` as a float between 0 and 1, neither of them."""
    number = real(name, value)
    if not 0 < number < 1:
        raise ValueError(f"{name}: expected a number between 0 and 1, got {number}")
    return number


def choice(name: str, value: Any, options: tuple[Any, ...]) -> Any:
    """The one of `options` that `value` equals."""
    try:
        return options[options.index(value)]
    except ValueError:  # there is none, or value is an array that cannot say whether it is equal
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}") from None


def vectors(name: str, x: Any, *, dim: int | None = None, min_rows: int = 0, n_threads: int = 1) -> Array:
    """`x` as a finite 2-d array of a type the kernels read; not copied if it is one already."""
    array = _numbers(name, x)
    if array.ndim != 2:
        raise ValueError(f"{name}: expected a 2-d array (n, d), got shape {array.shape}")
    n, d = array.shape
    if d == 0:
        raise ValueError(f"{name}: expected at least one dimension, got shape {array.shape}")
    if dim is not None and d != dim:
        raise ValueError(f"{name}: expected vectors of dimension {dim}, got dimension {d}")
    if n < min_rows:
        raise ValueError(f"{name}: expected at least {min_rows} row(s), got {n}")
    row = _native.first_nonfinite_row(array, n_threads)
    if row >= 0:
        raise ValueError(f"{name}: expected numbers that are finite as float32, row {row} holds NaN or infinity")
    return array


def queries(x: Any, dim: int | None, n_threads: int) -> tuple[Float32, bool]:
    """Queries as float32 (nq, d) in C order, and whether a single 1-d query came."""
    array = _numbers("Q", x)
    single = array.ndim == 1
    if array.ndim not in (1, 2):
        raise ValueError(f"Q: expected one query (d,) or several (nq, d), got shape {array.shape}")
    array = vectors("Q", array[None, :] if single else array, dim=dim, n_threads=n_threads)
    return np.ascontiguousarray(array, dtype=np.float32), single


def _numbers(name: str, x: Any) -> Array:
    try:
        array = np.asarray(x)
    except ValueError as error:  # lists of unequal length
        raise ValueError(f"{name}: expected a rectangular array of numbers: {error}") from None
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected an array of real numbers, got dtype {array.dtype}")
    if array.dtype not in KERNEL_TYPES:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    if not array.dtype.isnative or not array.flags.aligned:
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def id_array(name: str, ids: Any) -> Int64:
    """`ids` as int64 (n,), none negative; a single id is an array of one."""
    array = np.atleast_1d(np.asarray(ids))
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected a 1-d array of ids, got shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integer ids, got dtype {array.dtype}")
    if array.size and array.min() < 0:
        raise ValueError(f"{name}: expected ids of at least 0, got {array.min()}")
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: expected ids below 2**63, got {array.max()}")
    return np.ascontiguousarray(array, dtype=np.int64)
