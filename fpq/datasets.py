"""Read vector files and the data sets used in the tests and benchmarks.

`load` finds a data set by its name, in this order:

1. in each folder named by the environment variable ``FPQ_DATA`` (several are separated like those
   of ``PATH``),
2. in ``bench/data`` of the source checkout,
3. in the folder ``fpq`` of the user's cache: ``$XDG_CACHE_HOME`` or ``~/.cache``, on Windows
   ``%LOCALAPPDATA%``,
4. in ``/usr/share/datasets``, where Debian's packages put theirs, such as dataset-fashion-mnist.

There the data set is a folder of its own name with one of two layouts::

    NAME/base.npy    NAME/query.npy    and, if there are any,
    NAME/groundtruth.npy    NAME/base_labels.npy    NAME/query_labels.npy

    NAME/train-images-idx3-ubyte.gz    NAME/train-labels-idx1-ubyte.gz
    NAME/t10k-images-idx3-ubyte.gz     NAME/t10k-labels-idx1-ubyte.gz

The second is that of MNIST and of the data sets made after it, such as Fashion-MNIST.

`read_vectors` reads any one file; `read_idx`, `read_fvecs`, `read_bvecs` and `read_ivecs` read one
format each. No reader ever unpickles anything.
"""

import gzip
import hashlib
import io
import math
import operator
import os
import urllib.request
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Dataset",
    "fetch_mnist",
    "load",
    "read_bvecs",
    "read_fvecs",
    "read_idx",
    "read_ivecs",
    "read_vectors",
]

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

# MD5 of the unpacked content: the packed bytes depend on who packed them.
_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
}
_MNIST_URLS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_FETCH = {
    "mnist": " or call fpq.datasets.fetch_mnist()",
    "fashion-mnist": " or, on Debian, install the package dataset-fashion-mnist",
}
_MAX_BYTES = 64 * 2**20
_TIMEOUT_SECONDS = 30
_PIECE_BYTES = 1 << 20

_DAMAGED_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)


class Dataset(NamedTuple):
    """A data set, as returned by `load`.

    Attributes
    ----------
    name : str
    base : ndarray, shape (n, d)
        The vectors to search in.
    query : ndarray, shape (nq, d)
        The vectors to search for.
    groundtruth : ndarray, shape (nq, t), integer, or None
        Row numbers in `base` of each query's true neighbours, nearest first.
    base_labels, query_labels : ndarray, shape (n,) and (nq,), or None
        Class labels.
    """

    name: str
    base: NDArray[Any]
    query: NDArray[Any]
    groundtruth: NDArray[Any] | None = None
    base_labels: NDArray[Any] | None = None
    query_labels: NDArray[Any] | None = None


def load(name: str) -> Dataset:
    """Load a data set by name from the folders listed at the top of this module.

    Parameters
    ----------
    name : str
        Name of its folder, such as "mnist" or "sift500k".

    Returns
    -------
    Dataset
        Arrays of ``.npy`` files are memory-mapped read-only. For "mnist" the base is the 60,000
        training images and the query the 10,000 test images, both uint8 with 784 columns.

    Raises
    ------
    FileNotFoundError
        If no folder has the data set; the message names the folders looked in.
    TypeError
        If `name` is not a str.
    ValueError
        If `name` is not a plain folder name, or a file is damaged or does not fit the others.

    Examples
    --------
    >>> mnist = load("mnist")  # doctest: +SKIP
    >>> mnist.base.shape, mnist.query.shape  # doctest: +SKIP
    ((60000, 784), (10000, 784))
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {name!r}")
    if name in ("", ".", "..") or any(c in name for c in "/\\:"):
        raise ValueError(f"name must be a plain folder name, got {name!r}")
    folders = [parent / name for parent in _search_path()]
    for folder in folders:
        if (folder / "base.npy").is_file():
            return _fitting(_load_npy(name, folder), folder)
        if all((folder / file).is_file() for file in _MNIST_MD5):
            return _fitting(_load_idx(name, folder), folder)
    looked = "\n".join(f"  {folder}" for folder in folders)
    fetch = _FETCH.get(name, "")
    raise FileNotFoundError(
        f"data set {name!r} not found; looked in\n{looked}\n"
        "Put base.npy, query.npy and groundtruth.npy, or the four MNIST .gz files, into one of "
        f"these, or set FPQ_DATA to the folder that has {name!r} in it{fetch}."
    )


def fetch_mnist(folder: str | os.PathLike[str] | None = None) -> Path:
    """Download the four MNIST files, unless they are there already.

    Parameters
    ----------
    folder : path, optional
        Where to put them; by default the folder "mnist" in the user's cache, where `load` finds
        them.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ConnectionError
        If a file cannot be downloaded or its content is not MNIST's; the message says what to do
        by hand. Such content is never stored.
    OSError
        If the folder cannot be written.

    Examples
    --------
    >>> fetch_mnist()  # doctest: +SKIP
    PosixPath('.../fpq/mnist')
    """
    target = _cache_folder() / "mnist" if folder is None else Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for file, md5 in _MNIST_MD5.items():
        path = target / file
        if not (path.is_file() and _unpacked_md5(path.read_bytes()) == md5):
            _write_atomically(path, _download(file, md5, target))
    return target


def read_vectors(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read vectors from a file, in the format that its name tells.

    Parameters
    ----------
    path : path
        A file ending in ``.npy``, ``.fvecs``, ``.bvecs`` or ``.ivecs`` (memory-mapped read-only),
        or in ``-ubyte``, ``.idx`` or ``.gz`` (idx).

    Returns
    -------
    ndarray, shape (n, d), or (n,) for a file of labels
        Images are flattened to one row each.

    Raises
    ------
    ValueError
        If the name has another ending, or the file is damaged or holds Python objects.

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
        known = ", ".join(ending for endings in _READERS for ending in endings)
        raise ValueError(f"{path}: unknown kind of file, expected a name ending in {known}")
    if array.ndim == 0:
        raise ValueError(f"{path}: holds a single number, expected vectors")
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
        Of the shape written in the file; uint8, int8, int16, int32, float32 or float64.

    Raises
    ------
    ValueError
        If the file is not an idx file, or its size is not the one its header tells.

    Notes
    -----
    The format of the MNIST database, described at http://yann.lecun.com/exdb/mnist/: two zero
    bytes, a type code, the number of axes, their lengths as 4-byte integers, and the values, all
    big-endian.

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
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:  # in pieces, so that signals end it
                data = b"".join(iter(lambda: file.read(_PIECE_BYTES), b""))
        except _DAMAGED_GZIP as error:
            raise ValueError(f"{path}: damaged gzip file: {error}") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES or data[3] == 0:
        raise ValueError(f"{path}: not an idx file, it starts with bytes {data[:4].hex(' ') or '(none)'}")
    dtype, ndim = np.dtype(_IDX_TYPES[data[2]]), data[3]
    start = 4 + 4 * ndim
    if len(data) < start:
        raise ValueError(f"{path}: ends within the header, at {len(data)} of {start} bytes")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", ndim, offset=4))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise ValueError(f"{path}: has {len(data)} bytes, expected {expected} for shape {shape} of {dtype.name}")
    try:
        values = np.frombuffer(data, dtype, offset=start).reshape(shape)
    except ValueError as error:
        raise ValueError(f"{path}: impossible shape {shape}") from error
    return values.astype(dtype.newbyteorder("="))


def read_fvecs(path: str | os.PathLike[str], count: int | None = None) -> NDArray[np.float32]:
    """Map an fvecs file: rows of float32.

    Parameters
    ----------
    path : path
    count : int, optional
        Take only the first `count` rows; by default all. The rest of the file is not read.

    Returns
    -------
    ndarray, shape (n, d), float32
        A read-only view of the mapped file, whose rows are not adjacent in memory:
        ``np.array(...)`` of it is an ordinary copy.

    Raises
    ------
    TypeError
        If `count` is not an integer.
    ValueError
        If the file is damaged, or `count` is not between 1 and the number of rows.

    Notes
    -----
    The format of http://corpus-texmex.irisa.fr/: each row is its length as a 4-byte integer, then
    its values, all little-endian. In bvecs files the values are bytes, in ivecs files 4-byte
    integers.

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
    """Map an ivecs file: rows of int32, mostly ids of true neighbours.

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
        raise ValueError(f"{path}: has {size} bytes, expected at least the 4 of a row's length")
    dim = int.from_bytes(head, "little", signed=True)
    row_bytes = 4 + dim * np.dtype(dtype).itemsize
    if dim < 1:
        raise ValueError(f"{path}: the first row has length {dim}, expected at least 1")
    if size % row_bytes:
        raise ValueError(
            f"{path}: has {size} bytes, which is no multiple of the {row_bytes} of a row of "
            f"length {dim}: cut short, or another format"
        )
    n = _row_count(path, count, size // row_bytes)
    rows = np.memmap(path, np.uint8, "r", shape=(n, row_bytes))
    lengths = rows[:, :4].view("<i4")[:, 0]
    wrong = lengths != dim
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{path}: row {row} has length {lengths[row]}, expected {dim} as in row 0")
    values: NDArray[Any] = rows[:, 4:].view(dtype)
    return values


def _row_count(path: str | os.PathLike[str], count: int | None, rows: int) -> int:
    if count is None:
        return rows
    try:
        count = operator.index(count)
    except TypeError:
        raise TypeError(f"count must be an integer or None, got {count!r}") from None
    if not 1 <= count <= rows:
        raise ValueError(f"{path}: count must be between 1 and {rows} (its rows), got {count}")
    return count


def _read_npy(path: Path) -> NDArray[Any]:
    with open(path, "rb"):
        pass  # a file that cannot be opened raises its own error, everything later is damage
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy lets even a TokenError of Python's tokenizer through
        raise ValueError(f"{path}: not a readable .npy file: {error}") from error


_READERS = {
    (".npy",): _read_npy,
    (".fvecs",): read_fvecs,
    (".bvecs",): read_bvecs,
    (".ivecs",): read_ivecs,
    ("-ubyte", ".idx", ".gz"): read_idx,
}


def _search_path() -> Iterator[Path]:
    """Folders that may hold data sets, in the order to look in."""
    for folder in os.environ.get("FPQ_DATA", "").split(os.pathsep):
        if folder:
            yield Path(folder)
    yield Path(__file__).resolve().parent.parent / "bench" / "data"  # an editable install
    yield Path("bench", "data")  # a checkout that is the current folder
    yield _cache_folder()
    yield Path("/usr/share/datasets")


def _cache_folder() -> Path:
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/AppData/Local")) / "fpq"
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "fpq"


def _load_npy(name: str, folder: Path) -> Dataset:
    def optional(file: str) -> NDArray[Any] | None:
        path = folder / file
        return _read_npy(path) if path.is_file() else None

    return Dataset(
        name,
        _read_npy(folder / "base.npy"),
        _read_npy(folder / "query.npy"),
        optional("groundtruth.npy"),
        optional("base_labels.npy"),
        optional("query_labels.npy"),
    )


def _load_idx(name: str, folder: Path) -> Dataset:
    base, base_labels, query, query_labels = (read_vectors(folder / file) for file in _MNIST_MD5)
    return Dataset(name, base, query, None, base_labels, query_labels)


def _fitting(data: Dataset, folder: Path) -> Dataset:
    """Return `data` if its arrays fit each other, raise ValueError if not."""
    n, nq = data.base.shape[:1], data.query.shape[:1]
    fits = (
        data.base.ndim == data.query.ndim == 2
        and data.base.shape[1] == data.query.shape[1]
        and (data.groundtruth is None or data.groundtruth.shape[:-1] == nq)
        and (data.base_labels is None or data.base_labels.shape == n)
        and (data.query_labels is None or data.query_labels.shape == nq)
    )
    if not fits:
        arrays = {key: a for key, a in data._asdict().items() if isinstance(a, np.ndarray)}
        shapes = ", ".join(f"{key} {a.shape}" for key, a in arrays.items())
        raise ValueError(f"{folder}: the arrays do not fit each other: {shapes}")
    return data


def _unpacked_md5(packed: bytes) -> str | None:
    """MD5 of gzip data's content, None if it is damaged."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            content = file.read(_MAX_BYTES)
    except _DAMAGED_GZIP:
        return None
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _download(file: str, md5: str, target: Path) -> bytes:
    failures = []
    for source in _MNIST_URLS:
        try:
            with urllib.request.urlopen(source + file, timeout=_TIMEOUT_SECONDS) as response:
                packed: bytes = response.read(_MAX_BYTES)
        except (OSError, HTTPException) as error:
            failures.append(f"  {source}{file}: {error}")
            continue
        if _unpacked_md5(packed) == md5:
            return packed
        failures.append(f"  {source}{file}: not the expected content (MD5 differs)")
    raise ConnectionError(
        "MNIST could not be downloaded:\n" + "\n".join(failures) + "\n"
        f"To do it by hand, get {', '.join(_MNIST_MD5)} and put them into {target}, or into a "
        "folder named mnist inside a folder named by FPQ_DATA or by `fpq demo --data`."
    )


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
