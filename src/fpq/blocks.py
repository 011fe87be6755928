"""Rows in blocks, one block in memory at a time: from an array, a Dask array or an iterable of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from fpq import _checks, progress, threads
from fpq._checks import Array
from fpq.learning.lloyd import LocalRows, TrainingRows

Task = Callable[..., Any]  # (block, info, *more) -> a small result


class BlockInfo(NamedTuple):
    """The position of a block in its source, and the shape and element type that the block must have."""

    number: int
    start: int  # the row number of its first row
    rows: int | None  # the expected number of rows
    dim: int | None
    dtype: np.dtype[Any] | None

    @property
    def name(self) -> str:
        """The name of the block in errors."""
        return f"partition {self.number}"

    def shaped(self, block: Any) -> Array:
        """The block as an array.

        Raises
        ------
        ValueError, TypeError
            If the block has another width, length or element type than expected.
        """
        array = _checks.plain(self.name, block)
        if self.dtype is not None and array.dtype != self.dtype:
            raise TypeError(f"{self.name}: expected dtype {self.dtype} of the other partitions, got {array.dtype}")
        if array.ndim != 2 or (self.rows is not None and len(array) != self.rows):
            rows = "n" if self.rows is None else self.rows
            raise ValueError(f"{self.name}: expected shape ({rows}, {self.dim or 'd'}), got {array.shape}")
        if self.dim is not None and array.shape[1] != self.dim:
            raise ValueError(f"{self.name}: expected vectors of dimension {self.dim}, got dimension {array.shape[1]}")
        return array

    def finite(self, rows: Array) -> Array:
        """Rows of the block, in a type that the kernels read.

        Raises
        ------
        ValueError, TypeError
            If the rows are not finite numbers.
        """
        return _checks.vectors(self.name, rows)


class Blocks(Protocol):
    """A source of blocks that runs tasks on them: this process or a cluster."""

    sizes: list[int] | None  # rows of each block, if known in advance
    dim: int | None

    def run(self, stage: str, task: Task, more: Sequence[Any] | None = None) -> list[Any]:
        """The results of ``task(block, info, more[i])`` for all blocks i, in order; ``more[i]`` None skips a block.

        `stage` names the stage in `fpq.progress`, and the tasks on a dashboard.
        """

    def sample(self, task: Task, more: Sequence[Any]) -> TrainingRows:
        """The results of `run`, rows (n_i, d) of some blocks, as training rows."""


class LocalBlocks:
    """Blocks that this process works on, one at a time."""

    def __init__(
        self, blocks: Iterable[Any], sizes: list[int] | None = None, dim: int | None = None, dtype: Any = None
    ) -> None:
        self._blocks = blocks
        self.sizes = sizes
        self.dim = dim
        self._dtype = dtype if isinstance(dtype, np.dtype) else None  # tensors have other dtypes

    @classmethod
    def of(cls, X: Any, rows: int) -> LocalBlocks:
        """The blocks of X; an array without blocks is cut into blocks of `rows` rows.

        Raises
        ------
        ValueError, TypeError
            If X does not consist of vectors.
        """
        X = from_xarray(X)
        if on_dask(X):
            return cls.of_dask(X)
        matrix = hasattr(X, "dtype") and len(getattr(X, "shape", ())) == 2
        if not matrix and any(map(partial(hasattr, X), (*_checks.ARRAY_PROTOCOLS, "__dlpack__"))):
            X = _checks.numbers("X", X)  # the items of a table are its columns, and a column may consist of rows
        if hasattr(X, "shape") and hasattr(X, "dtype"):
            if len(X.shape) != 2 or not X.shape[1]:
                raise ValueError(f"X: expected a 2-d array (n, d), got shape {tuple(X.shape)}")
            return cls.of_array(X, rows)
        if not isinstance(X, Iterable):
            raise TypeError(f"X: expected an array or an iterable of blocks, got {type(X).__name__}")
        return cls(X)

    @classmethod
    def of_array(cls, x: Any, rows: int) -> LocalBlocks:
        """Slices of `rows` rows of a matrix."""
        starts = range(0, x.shape[0], rows)
        sizes = [min(rows, x.shape[0] - start) for start in starts]
        return cls((x[start : start + rows] for start in starts), sizes, x.shape[1], x.dtype)

    @classmethod
    def of_dask(cls, x: Any) -> LocalBlocks:
        """The chunks of a Dask array, computed one at a time."""
        x = dask_array(x)
        sizes = None if any(np.isnan(size) for size in x.chunks[0]) else list(map(int, x.chunks[0]))
        return cls((chunk.compute() for chunk in x.blocks.ravel()), sizes, x.shape[1], x.dtype)

    def run(self, stage: str, task: Task, more: Sequence[Any] | None = None) -> list[Any]:
        """As `Blocks.run`."""
        results = []
        number = start = 0
        with progress.stage(stage, None if self.sizes is None else sum(self.sizes), "rows") as advance:
            for block in self._blocks:  # enumerate would keep a block while the next one is made
                if self.sizes is None or self._dtype is None:
                    block = _checks.plain(f"partition {number}", block)
                    self.dim = block.shape[1] if self.dim is None and block.ndim == 2 else self.dim
                    self._dtype = block.dtype if self._dtype is None else self._dtype
                if more is None or more[number] is not None:
                    expected = None if self.sizes is None else self.sizes[number]
                    info = BlockInfo(number, start, expected, self.dim, self._dtype)
                    results.append(task(block, info, *([] if more is None else [more[number]])))
                rows = len(block)
                del block
                number, start = number + 1, start + rows
                advance(rows)
        return results

    def sample(self, task: Task, more: Sequence[Any]) -> TrainingRows:
        """As `Blocks.sample`."""
        return LocalRows(np.concatenate(self.run("sample", task, more)), None, threads.resolve(None))


def on_dask(x: Any) -> bool:
    """Whether `x` is a Dask collection; the graph of an xarray object without Dask data is None."""
    return hasattr(x, "__dask_graph__") and x.__dask_graph__() is not None


def from_xarray(x: Any) -> Any:
    """The Dask array of an xarray.DataArray; any other `x` unchanged."""
    data = getattr(x, "variable", None)
    return x.data if data is not None and on_dask(x) else x


def dask_array(x: Any) -> Any:
    """A 2-d Dask array, rechunked so that each chunk contains all columns."""
    if hasattr(x, "to_dask_array"):
        raise TypeError(f"X: expected a Dask array, got a Dask {type(x).__name__}: pass X.to_dask_array(lengths=True)")
    if getattr(x, "ndim", None) != 2 or not hasattr(x, "chunks"):
        raise ValueError(f"X: expected a 2-d Dask array, got {x!r}")
    if np.isnan(x.shape[1]) or x.shape[1] == 0:
        raise ValueError(f"X: expected a Dask array of known width, got shape {x.shape}")
    return x.rechunk({1: x.shape[1]}) if x.numblocks[1] > 1 else x
