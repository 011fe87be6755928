"""Readers of vector files: npy, idx, fvecs, bvecs and ivecs. No reader unpickles anything."""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpq import _checks

DAMAGED_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)
PIECE_BYTES = 1 << 20  # unpacked bytes per read: Python handles Ctrl-C between two of them

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_vectors(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read vectors from a file; the ending of its name decides the format.

    Parameters
    ----------
    path : path
        A name that ends in ``.npy``, ``.fvecs``, ``.bvecs`` or ``.ivecs`` (memory-mapped read-only), or in ``-ubyte``,
        ``.idx`` or ``.gz`` (idx).

    Returns
    -------
    ndarray, shape (n, d), or (n,) for a file of labels
        Each image becomes one row.

    Raises
    ------
    ValueError
        If the name has another ending, or the file is damaged or contains Python objects.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(Path(folder, "x.npy"), np.ones((2, 3)))
    ...     read_vectors(Path(folder, "x.npy")).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    path = Path(path)
    name = path.name.lower()
    for endings, reader in _READERS.items():
        if name.endswith(endings):
            array = reader(path)
            break
    else:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}")
    if array.ndim == 0:
        raise ValueError(f"{path}: expected vectors, got a single number")
    if array.ndim > 2:
        array = array.reshape(len(array), math.prod(array.shape[1:]))
    return array


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read an idx file, plain or compressed with gzip.

    Parameters
    ----------
    path : path

    Returns
    -------
    ndarray
        The shape is that in the file, the dtype uint8, int8, int16, int32, float32 or float64.

    Raises
    ------
    ValueError
        If the file is not an idx file, or its size differs from that in its header.

    Notes
    -----
    The format of the MNIST database, http://yann.lecun.com/exdb/mnist/: two zero bytes, a type code, the number of
    axes, the length of each axis as a 4-byte integer, and the values, all big-endian.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "labels-idx1-ubyte")
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]))
    ...     read_idx(path)
    array([5, 0, 4], dtype=uint8)
    """
    data = Path(path).read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:  # in pieces: one read could not be interrupted
                data = b"".join(iter(lambda: file.read(PIECE_BYTES), b""))
        except DAMAGED_GZIP as error:
            raise ValueError(f"{path}: expected a gzip file, got damaged data: {error}") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES or data[3] == 0:
        raise ValueError(f"{path}: expected an idx file, got the first bytes {data[:4].hex(' ') or '(none)'}")
    dtype, ndim = np.dtype(_IDX_TYPES[data[2]]), data[3]
    start = 4 + 4 * ndim
    if len(data) < start:
        raise ValueError(f"{path}: expected a header of {start} bytes, got a file of {len(data)}")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", ndim, offset=4))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise ValueError(f"{path}: expected {expected} bytes for shape {shape} of {dtype.name}, got {len(data)}")
    try:
        values = np.frombuffer(data, dtype, offset=start).reshape(shape)
    except ValueError as error:
        raise ValueError(f"{path}: expected a shape that NumPy supports, got {shape}") from error
    return values.astype(dtype.newbyteorder("="))


def read_fvecs(path: str | os.PathLike[str], count: int | None = None) -> NDArray[np.float32]:
    """Map an fvecs file: rows of float32.

    Parameters
    ----------
    path : path
    count : int, optional
        Number of rows to take from the start of the file. Default: all. The rest of the file is not read.

    Returns
    -------
    ndarray, shape (n, d), float32
        A read-only view of the mapped file. Its rows are not contiguous in memory; ``np.array`` makes an ordinary copy.

    Raises
    ------
    TypeError
        If `count` is not an integer.
    ValueError
        If the file is damaged, or `count` is not between 1 and the number of rows.

    Notes
    -----
    The format of http://corpus-texmex.irisa.fr/: each row is its length as a 4-byte integer, then its values, all
    little-endian. The values of bvecs files are bytes, those of ivecs files 4-byte integers.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "x.fvecs")
    ...     _ = path.write_bytes(np.array([2, 0, 0], "<i4").tobytes())
    ...     read_fvecs(path).tolist()
    [[0.0, 0.0]]
    """
    return _map_vecs(path, "<f4", count)


def read_bvecs(path: str | os.PathLike[str], count: int | None = None) -> NDArray[np.uint8]:
    """Map a bvecs file: rows of uint8.

    Parameters, errors and format are those of `read_fvecs`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "x.bvecs")
    ...     _ = path.write_bytes(bytes([3, 0, 0, 0, 7, 8, 9]))
    ...     read_bvecs(path).tolist()
    [[7, 8, 9]]
    """
    return _map_vecs(path, "u1", count)


def read_ivecs(path: str | os.PathLike[str], count: int | None = None) -> NDArray[np.int32]:
    """Map an ivecs file: rows of int32, usually ids of true neighbours.

    Parameters, errors and format are those of `read_fvecs`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "x.ivecs")
    ...     _ = path.write_bytes(np.array([2, 30, 40], "<i4").tobytes())
    ...     read_ivecs(path, count=1).tolist()
    [[30, 40]]
    """
    return _map_vecs(path, "<i4", count)


def _map_vecs(path: str | os.PathLike[str], dtype: str, count: int | None) -> NDArray[Any]:
    with open(path, "rb") as file:
        head = file.read(4)
        size = os.fstat(file.fileno()).st_size
    if len(head) < 4:
        raise ValueError(f"{path}: expected at least 4 bytes, the length of a row, got {size}")
    dim = int.from_bytes(head, "little", signed=True)
    row_bytes = 4 + dim * np.dtype(dtype).itemsize
    if dim < 1:
        raise ValueError(f"{path}: expected rows of length at least 1, got {dim} in row 0")
    if size % row_bytes:
        raise ValueError(
            f"{path}: expected a multiple of {row_bytes} bytes, a row of length {dim}, got {size}: the file is cut "
            "short or has another format"
        )
    n = size // row_bytes if count is None else _checks.integer("count", count, 1, size // row_bytes)
    rows = np.memmap(path, np.uint8, "r", shape=(n, row_bytes))
    lengths = rows[:, :4].view("<i4")[:, 0]
    wrong = lengths != dim
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{path}: expected length {dim} of row 0 in all rows, got {lengths[row]} in row {row}")
    values: NDArray[Any] = rows[:, 4:].view(dtype)
    return values


def read_npy(path: Path) -> NDArray[Any]:
    """Map a npy file, read-only; ValueError for a damaged file."""
    with open(path, "rb"):
        pass  # an OSError of `open` is raised as it is; all later errors mean damage
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # of any class: NumPy passes on even the TokenError of Python's tokenizer
        raise ValueError(f"{path}: expected a readable .npy file: {error}") from error


_READERS = {
    (".npy",): read_npy,
    (".fvecs",): read_fvecs,
    (".bvecs",): read_bvecs,
    (".ivecs",): read_ivecs,
    ("-ubyte", ".idx", ".gz"): read_idx,
}
ENDINGS = tuple(ending for endings in _READERS for ending in endings)
