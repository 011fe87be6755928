"""Rows in blocks on a Dask cluster: the chunks of a Dask array, the pieces of a memory-mapped file."""

from __future__ import annotations

import mmap
import os
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fpq import progress, threads
from fpq._checks import Array
from fpq.blocks import BlockInfo, Blocks, LocalBlocks, Task, dask_array, from_xarray, on_dask
from fpq.dask.client import answering, default_client
from fpq.dask.training import ClusterRows
from fpq.learning.lloyd import LocalRows, TrainingRows


def of(X: Any, client: Any = None, rows: int = 1 << 20) -> Blocks:
    """The blocks of X; an array without blocks is cut into blocks of `rows` rows.

    Raises
    ------
    ValueError, TypeError
        If X does not consist of vectors.
    """
    X = from_xarray(X)
    if on_dask(X):
        return OnCluster.of_dask(X, client)
    if client is not None and _equals_its_file(X) and X.ndim == 2 and X.shape[1]:
        return OnCluster.of_file(X, client, rows)
    return LocalBlocks.of(X, rows)


def _equals_its_file(x: Any) -> bool:
    """Whether workers that open the file of a mapped array by its path read the values of the array.

    Changes of an array of mode "c" exist in memory only; changes of modes "r+" and "w+" are flushed to the file. The
    base of a view is an array instead of the map.
    """
    if not (isinstance(x, np.memmap) and isinstance(x.base, mmap.mmap) and x.flags.c_contiguous):
        return False
    if x.filename is None or x.mode == "c" or not _is_mapped_from(x, str(x.filename)):
        return False
    x.flush()
    return True


def _is_mapped_from(x: Array, path: str) -> bool:
    """Whether the file at this path is the mapped file, and not a later file of the same name."""
    if os.name == "nt":  # Windows does not allow the replacement of a mapped file
        return True
    address = x.__array_interface__["data"][0]
    try:
        inode = os.stat(path).st_ino
        with open("/proc/self/maps") as maps:
            for line in maps:
                addresses, _, _, _, mapped_inode = line.split()[:5]
                first, end = (int(number, 16) for number in addresses.split("-"))
                if first <= address < end:
                    return int(mapped_inode) == inode
    except OSError:  # the file was deleted, or the system has no /proc
        pass
    return False


class OnCluster:
    """Blocks that are processed by Dask: on the workers of a cluster, or by the current scheduler without a cluster."""

    def __init__(self, blocks: list[Any], sizes: list[int], dim: int, dtype: Any, client: Any) -> None:
        self._blocks = blocks
        self.sizes: list[int] | None = sizes
        self.dim: int | None = dim
        self._dtype = np.dtype(dtype)
        self._client = default_client() if client is None else client

    @classmethod
    def of_dask(cls, x: Any, client: Any) -> OnCluster:
        """The chunks of a Dask array."""
        x = dask_array(x)
        if any(np.isnan(size) for size in x.chunks[0]):
            x = x.compute_chunk_sizes()
        return cls(x.to_delayed().ravel().tolist(), list(map(int, x.chunks[0])), x.shape[1], x.dtype, client)

    @classmethod
    def of_file(cls, x: Any, client: Any, rows: int) -> OnCluster:
        """Pieces of `rows` rows of a memory-mapped file, which the workers open by its path."""
        starts = range(0, len(x), rows)
        pieces = [FilePiece(str(x.filename), x.dtype, x.shape, x.offset, start, start + rows) for start in starts]
        return cls(pieces, [min(rows, len(x) - start) for start in starts], x.shape[1], x.dtype, client)

    def run(self, stage: str, task: Task, more: Sequence[Any] | None = None) -> list[Any]:
        """As `Blocks.run`."""
        import dask

        client = self._client
        with progress.stage(stage, sum(self.sizes or []), "rows"), answering(client):
            tasks = self._tasks(stage, task, more)
            return list(dask.compute(*tasks, **({} if client is None else {"scheduler": client})))

    def sample(self, task: Task, more: Sequence[Any]) -> TrainingRows:
        """As `Blocks.sample`; the rows stay with the workers of a cluster."""
        client = self._client
        if client is None:
            return LocalRows(np.concatenate(self.run("sample", task, more)), None, threads.resolve(None))
        starts = np.cumsum([0, *(len(rows) for rows in more if rows is not None)])
        assert self.dim is not None
        with answering(client):
            return ClusterRows(client, client.compute(self._tasks("sample", task, more)), starts, self.dim)

    def _tasks(self, name: str, task: Task, more: Sequence[Any] | None) -> list[Any]:
        import dask

        assert self.sizes is not None
        number = uuid.uuid4().hex
        starts = np.concatenate([[0], np.cumsum(self.sizes)]).tolist()
        delayed = dask.delayed(_run_task, pure=False)
        tasks = []
        shared = dask.delayed(task, name=f"fpq-task-{number}")  # a scattered task would be lost with its worker
        for i, block in enumerate(self._blocks):
            if more is None or more[i] is not None:
                info = BlockInfo(i, starts[i], self.sizes[i], self.dim, self._dtype)
                arguments = [] if more is None else [more[i]]
                tasks.append(delayed(shared, block, info, *arguments, dask_key_name=f"fpq-{name}-{number}-{i}"))
        return tasks


class FilePiece(NamedTuple):
    """A range of rows in the file of an array."""

    path: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    start: int
    stop: int

    def read(self) -> Array:
        """The rows, mapped."""
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)[self.start : self.stop]


def _run_task(task: Task, block: Any, info: BlockInfo, *more: Any) -> Any:
    return task(block.read() if isinstance(block, FilePiece) else block, info, *more)
