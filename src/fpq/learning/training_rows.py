"""Training on a sample of rows that come in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from fpq import progress, threads
from fpq._checks import Array, Int64
from fpq.blocks import BlockInfo, Blocks
from fpq.learning.lloyd import LocalRows, TrainingRows


def learn(index: Any, source: Blocks) -> None:
    """Fit the index from blocks. If the number of rows is known, the bits are those of a fit on one array.

    A stream of unknown length is sampled into a reservoir of rows, drawn by the seed of the index. The index draws from
    the reservoir as from an array.

    Raises
    ------
    ValueError, TypeError
        As ``index.fit``; an error in a block names the partition. The index is then unchanged.
    """
    index._require_empty()
    with progress.method(index, "fit"):
        drawn = _from_stream(index, source) if source.sizes is None else _from_known(index, source, source.sizes)
        index._fit_drawn(*drawn)


def _from_known(index: Any, source: Blocks, sizes: list[int]) -> tuple[TrainingRows, int, int]:
    """The training rows that the index draws, and the number of all rows, twice: as `_from_stream`."""
    ends = np.cumsum(sizes, dtype=np.int64)
    n = int(ends[-1]) if len(ends) else 0
    if n == 0:
        raise ValueError("X: expected at least 1 row(s), got 0")
    rows = index._drawn(n)
    if rows is None:
        rows = np.arange(n, dtype=np.int64)
    pieces = np.split(rows, np.searchsorted(rows, ends[:-1]))
    starts = ends - np.asarray(sizes)
    wanted = [piece - start if len(piece) else None for piece, start in zip(pieces, starts, strict=True)]
    return source.sample(take, wanted), n, n


def take(block: Any, info: BlockInfo, rows: Int64) -> Array:
    """These rows of a block, checked."""
    return info.finite(info.shaped(block)[rows])


class _Reservoir:
    """A uniform sample of `size` rows of a stream: the rows that draw the smallest random numbers."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._rng = np.random.default_rng(seed)
        self._kept: list[tuple[Array, Int64, Array]] = []  # random numbers, row numbers, rows
        self._limit = np.inf
        self.n = 0

    def add(self, block: Any, info: BlockInfo) -> None:
        """Draw from a block."""
        x = info.finite(info.shaped(block))
        draws = self._rng.random(len(x))
        kept = np.flatnonzero(draws < self._limit)
        self._kept.append((draws[kept], self.n + kept, x[kept]))
        self.n += len(x)
        if sum(len(draws) for draws, _, _ in self._kept) > 2 * self._size:
            self._kept = [self._smallest()]

    def _smallest(self) -> tuple[Array, Int64, Array]:
        draws, numbers, x = (np.concatenate(arrays) for arrays in zip(*self._kept, strict=True))
        if len(draws) <= self._size:
            return draws, numbers, x
        kept = np.sort(np.argpartition(draws, self._size)[: self._size])
        self._limit = draws[kept].max()
        return draws[kept], numbers[kept], x[kept]

    def rows(self) -> Array:
        """The sample, in the order of the stream."""
        return self._smallest()[2]


def _from_stream(index: Any, source: Blocks) -> tuple[TrainingRows, int, int]:
    """The training rows that the index draws from a reservoir, and the numbers of rows in it and in the stream."""
    reservoir = _Reservoir(index._training_size, index._training_seed)
    source.run("sample", reservoir.add)
    if reservoir.n == 0:
        raise ValueError("X: expected at least 1 row(s), got 0")
    x = reservoir.rows()
    return LocalRows(x, index._drawn(len(x)), threads.resolve(index.n_threads)), len(x), reservoir.n
