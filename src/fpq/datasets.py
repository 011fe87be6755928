"""Read vector files and the data sets used in the tests and benchmarks.

`load` looks for a data set in these folders, in this order:

1. the folders of the environment variable ``FPQ_DATA``, separated like those of ``PATH``,
2. ``bench/data`` of the source checkout,
3. the folder ``fpq`` of the user's cache: ``$XDG_CACHE_HOME`` or ``~/.cache``, on Windows ``%LOCALAPPDATA%``,
4. ``/usr/share/datasets``, the folder of Debian packages such as dataset-fashion-mnist.

A data set is a folder of its own name with one of two layouts::

    NAME/base.npy    NAME/query.npy    and optionally
    NAME/groundtruth.npy    NAME/base_labels.npy    NAME/query_labels.npy

    NAME/train-images-idx3-ubyte.gz    NAME/train-labels-idx1-ubyte.gz
    NAME/t10k-images-idx3-ubyte.gz     NAME/t10k-labels-idx1-ubyte.gz

The second layout is that of MNIST and of its successors, such as Fashion-MNIST.

`read_vectors` reads a file of any known format; `read_idx`, `read_fvecs`, `read_bvecs` and `read_ivecs` read one format
each. No reader unpickles anything.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpq import _files
from fpq._readers import DAMAGED_GZIP, read_bvecs, read_fvecs, read_idx, read_ivecs, read_npy, read_vectors

__all__ = ["Dataset", "fetch_mnist", "load", "read_bvecs", "read_fvecs", "read_idx", "read_ivecs", "read_vectors"]

# MD5 of the unpacked content: the packed bytes depend on the packing program.
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
_MAX_BYTES = 64 * 2**20  # of a download, packed or unpacked
_TIMEOUT_SECONDS = 30


class Dataset(NamedTuple):
    """A data set from `load`.

    Attributes
    ----------
    name : str
    base : ndarray, shape (n, d)
        The vectors to index.
    query : ndarray, shape (nq, d)
        The queries.
    groundtruth : ndarray, shape (nq, t), integer, or None
        Row numbers in `base` of the true neighbours of each query, nearest first.
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
    """Load a data set from the first folder that contains its name; the module docstring lists the folders.

    Parameters
    ----------
    name : str
        Name of the folder of the data set, such as "mnist" or "sift500k".

    Returns
    -------
    Dataset
        Arrays of ``.npy`` files are memory-mapped read-only. For "mnist", `base` is the 60,000 training images and
        `query` the 10,000 test images, both uint8 with 784 columns.

    Raises
    ------
    FileNotFoundError
        If no folder contains the data set; the message names the folders.
    TypeError
        If `name` is not a str.
    ValueError
        If `name` is not a plain folder name, a file is damaged, or the shapes of the arrays do not fit together.

    Examples
    --------
    >>> mnist = load("mnist")  # doctest: +SKIP
    >>> mnist.base.shape, mnist.query.shape  # doctest: +SKIP
    ((60000, 784), (10000, 784))
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a str, got {name!r}")
    if name in ("", ".", "..") or any(c in name for c in "/\\:"):
        raise ValueError(f"name: expected a plain folder name, got {name!r}")
    folders = [parent / name for parent in _search_path()]
    for folder in folders:
        if (folder / "base.npy").is_file():
            return _checked(_load_npy(name, folder), folder)
        if all((folder / file).is_file() for file in _MNIST_MD5):
            return _checked(_load_idx(name, folder), folder)
    searched = "\n".join(f"  {folder}" for folder in folders)
    raise FileNotFoundError(
        f"data set {name!r} not found in\n{searched}\n"
        "Put base.npy, query.npy and groundtruth.npy, or the four MNIST .gz files, into one of these folders, "
        f"or set FPQ_DATA to the folder that contains {name!r}{_FETCH.get(name, '')}."
    )


def fetch_mnist(folder: str | os.PathLike[str] | None = None) -> Path:
    """Download those of the four MNIST files that are missing.

    Parameters
    ----------
    folder : path, optional
        Where to store the files. Default: the folder "mnist" in the user's cache, where `load` finds them.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ConnectionError
        If a download fails, or its content is not that of MNIST (it is then not stored). The message explains how
        to download the files by hand.
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
            data = _download(file, md5, target)
            with _files.replacing(path) as stored:
                stored.write(data)
    return target


def _search_path() -> Iterator[Path]:
    """Folders of data sets, in the order in which `load` searches them."""
    for folder in os.environ.get("FPQ_DATA", "").split(os.pathsep):
        if folder:
            yield Path(folder)
    yield Path(__file__).resolve().parents[2] / "bench" / "data"  # an editable install
    yield Path("bench", "data")  # the current folder is a checkout
    yield _cache_folder()
    yield Path("/usr/share/datasets")


def _cache_folder() -> Path:
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/AppData/Local")) / "fpq"
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "fpq"


def _load_npy(name: str, folder: Path) -> Dataset:
    files = {field: folder / f"{field}.npy" for field in Dataset._fields[1:]}
    found = {field: path for field, path in files.items() if field == "query" or path.is_file()}
    return Dataset(name, **{field: read_npy(path) for field, path in found.items()})


def _load_idx(name: str, folder: Path) -> Dataset:
    base, base_labels, query, query_labels = (read_vectors(folder / file) for file in _MNIST_MD5)
    return Dataset(name, base, query, None, base_labels, query_labels)


def _checked(data: Dataset, folder: Path) -> Dataset:
    """`data`, or ValueError if the shapes of its arrays do not fit together."""
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
        raise ValueError(f"{folder}: expected arrays of n rows and nq queries that fit together, got {shapes}")
    return data


def _unpacked_md5(packed: bytes) -> str | None:
    """MD5 of the unpacked content of gzip data; None for damaged data."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            content = file.read(_MAX_BYTES)
    except DAMAGED_GZIP:
        return None
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _download(file: str, md5: str, target: Path) -> bytes:
    import urllib.request  # here, as it takes a tenth of the time of `import fpq`
    from http.client import HTTPException

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
        failures.append(f"  {source}{file}: unexpected content (MD5 differs)")
    raise ConnectionError(
        "MNIST could not be downloaded:\n" + "\n".join(failures) + "\n"
        "Download these four files by hand, from the addresses above or from a copy of MNIST:\n"
        + "".join(f"  {name}\n" for name in _MNIST_MD5)
        + "Put them into one folder and run: fpq demo --data DIR\n"
        f"Without --data, fpq looks for them in {target} and in the folder mnist inside the folders of FPQ_DATA"
    )
