"""Vectors from files, mapped or read in blocks: a file may be larger than memory."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fpq import _native, _readers, datasets
from fpq._checks import KERNEL_TYPES, Array, Int64

BLOCK_BYTES = 1 << 26
# Names of arrays in npz and HDF5 files, in the order of preference.
BASE = ("train", "base", "vectors", "X")
QUERIES = ("test", "query", "queries", "Q")
TRUTH = ("neighbors", "groundtruth", "ids")
HDF5 = (".hdf5", ".h5")
FORMATS = "npy, npz, fvecs, bvecs, ivecs, idx(.gz), hdf5"
ENDINGS = (*_readers.ENDINGS, ".npz", *HDF5)


class Rows:
    """The rows of an array in memory or in a file.

    Parameters
    ----------
    source : ndarray, possibly mapped, or h5py.Dataset
    name : str
        Name in errors.
    """

    def __init__(self, source: Any, name: str) -> None:
        if source.ndim < 2:
            raise ValueError(f"{name}: expected vectors (n, d), got shape {source.shape}")
        self._source = source
        self.name = name
        self.shape = (int(source.shape[0]), math.prod(source.shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def step(self) -> int:
        """Number of rows per block."""
        row: int = self.shape[1] * self._source.dtype.itemsize
        return max(1, BLOCK_BYTES // max(1, row))

    def read(self, start: int, stop: int) -> Array:
        """Rows `start` to `stop` - 1 as an ordinary array; ValueError for NaN or infinity."""
        block = np.array(self._source[start:stop])
        block = block.reshape(len(block), self.shape[1])
        row = _native.first_nonfinite_row(block, 1) if block.dtype in KERNEL_TYPES else -1
        if row >= 0:  # the index would count rows from the start of the block
            raise ValueError(
                f"{self.name}: expected numbers that are finite as float32, got NaN or infinity in row {start + row}"
            )
        return block

    def all(self) -> Array:
        """All rows as an ordinary array."""
        return self.read(0, len(self))

    def blocks(self, step: int | None = None) -> Iterator[Array]:
        """All rows, one block at a time."""
        step = step or self.step
        for start in range(0, len(self), step):
            yield self.read(start, min(len(self), start + step))

    def sample(self, size: int, seed: int) -> Array:
        """At most `size` random rows, in the order of the file."""
        if size >= len(self):
            return self.all()
        chosen: Int64 = np.sort(np.random.default_rng(seed).choice(len(self), size, replace=False))
        out = np.empty((size, self.shape[1]), self._source.dtype)
        done = 0
        for start in range(0, len(self), self.step):
            end = int(np.searchsorted(chosen, start + self.step))
            if end > done:
                out[done:end] = self.read(start, min(len(self), start + self.step))[chosen[done:end] - start]
            done = end
        return out


@contextmanager
def opened(file: str, names: Sequence[str]) -> Iterator[Rows]:
    """The rows of a file. FILE:NAME is the array NAME of an npz or HDF5 file; the default is the first of `names`."""
    path, wanted = split(file)
    ending = path.suffix.lower()
    if ending in HDF5:
        with _h5py(path).File(path, "r") as arrays:
            available = [name for name, item in arrays.items() if hasattr(item, "dtype")]  # no groups
            yield Rows(arrays[_choose(path, available, wanted, names)], str(path))
    elif ending == ".npz":
        yield Rows(_from_npz(path, wanted, names), str(path))
    else:
        if not path.name.lower().endswith(ENDINGS):
            raise ValueError(
                f"{path}: expected a name that ends in {', '.join(ENDINGS)}; convert other formats to .npy (numpy.save)"
            )
        yield Rows(datasets.read_vectors(path), str(path))


def split(file: str) -> tuple[Path, str | None]:
    """The path and the name of the array, or None. An existing file with a colon in its name is a path."""
    named = re.fullmatch(r"(.+\.(?:npz|hdf5|h5)):(\w[^\\]*)", file, re.IGNORECASE)
    if named and not Path(file).exists():
        return Path(named[1]), named[2]
    return Path(file), None


def is_manifest(file: str) -> bool:
    """Whether a file is taken for a manifest of shards."""
    return file.lower().endswith(".json")


def _choose(path: Path, available: list[str], wanted: str | None, names: Sequence[str]) -> str:
    found = [name for name in ([wanted] if wanted else names) if name in available]
    if found:
        return found[0]
    if not wanted and len(available) == 1:
        return available[0]
    expected = f"an array {wanted!r}" if wanted else "a single array, or one named " + ", ".join(names)
    raise ValueError(f"{path}: expected {expected}, got {', '.join(sorted(available)) or 'none'}; write {path}:NAME")


def _from_npz(path: Path, wanted: str | None, names: Sequence[str]) -> Array:
    with open(path, "rb"):
        pass  # an OSError of `open` is raised as it is; all later errors mean damage
    try:
        with np.load(path, allow_pickle=False) as arrays:
            name = _choose(path, list(arrays), wanted, names)
            array: Array = arrays[name]
            return array
    except (zipfile.BadZipFile, EOFError, zipfile.LargeZipFile) as error:
        raise ValueError(f"{path}: expected a readable .npz file: {error}") from error


def _h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise ImportError(f"{path}: HDF5 files need h5py: pip install h5py") from None
    return h5py
