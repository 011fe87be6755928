"""Streaming: `fit`, `add`, `search` and `tune` of rows that do not fit in memory, block by block.

Rows come from a memory-mapped array, a Dask array or an iterable of arrays (n_i, d). One block at a time is in memory,
or `ROWS` rows of a memory-mapped array. An iterable may create its blocks on demand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import numpy as np

from fpq import _checks, progress
from fpq._inputs import is_column
from fpq.blocks import BlockInfo, LocalBlocks, on_dask
from fpq.indexes.base import SearchResult
from fpq.indexes.parts.lock import uninterrupted
from fpq.learning import training_rows

ROWS = 1 << 18  # rows per block of a memory-mapped array

F = TypeVar("F", bound=Callable[..., Any])


def in_blocks(X: Any) -> bool:
    """Whether X is a Dask array, a long memory-mapped array, or an iterable of blocks."""
    if type(X) is np.ndarray:
        return False
    if isinstance(X, np.memmap):
        return X.ndim == 2 and len(X) > ROWS
    if isinstance(X, (list, tuple)):
        return bool(X) and (getattr(X[0], "ndim", None) == 2 or is_column(X[0]))
    if any(map(functools.partial(hasattr, X), (*_checks.ARRAY_PROTOCOLS, "__dlpack__"))):
        return on_dask(X)
    return isinstance(X, Iterable) and not hasattr(X, "__len__")


def gathered(Q: Any, dim: int | None) -> Any:
    """Queries as one array; the argument may come in blocks."""
    if not in_blocks(Q):
        return Q
    found = LocalBlocks.of(Q, ROWS).run("queries", lambda block, info: info.finite(info.shaped(block)))
    return np.concatenate(found) if found else np.empty((0, dim or 1), np.float32)


def fits_blocks(method: F) -> F:
    """Decorate `fit` of an index that is trained on a sample: the sample is drawn from blocks."""

    @functools.wraps(method)
    def fit(self: Any, X: Any) -> Any:
        read_in_place = isinstance(X, np.memmap) and _checks.can_be_read(X.dtype)
        if read_in_place or not in_blocks(X):
            return method(self, X)
        training_rows.learn(self, LocalBlocks.of(X, ROWS))
        return self

    return cast(F, fit)


def adds_blocks(method: F) -> F:
    """Decorate `add`: one call per block. If a block fails, the index is restored.

    The limits of OpenIndexing and of `list_capacity` depend on the number of rows of an `add`. With such a limit, a
    memory-mapped array is added in one call.
    """

    @functools.wraps(method)
    def add(self: Any, X: Any, ids: Any = None) -> Any:
        if not in_blocks(X) or (isinstance(X, np.memmap) and self._limited):
            return method(self, X, ids)
        given = None if ids is None else _checks.id_array("ids", ids)
        restore = self._restoring()
        n = len(self)
        try:
            source = LocalBlocks.of(X, ROWS)

            def add_one(block: Any, info: BlockInfo) -> None:
                x = info.finite(info.shaped(block))
                method(self, x, None if given is None else given[info.start : info.start + len(x)])
                if source.sizes is not None and info.number == 0:
                    self._reserve(n + sum(source.sizes))

            with progress.method(self, "add"):
                source.run("rows", add_one)
            if given is not None and len(given) != len(self) - n:
                raise ValueError(f"ids: expected {len(self) - n} ids, one per row, got {len(given)}")
        except BaseException:
            with uninterrupted():
                restore()
            raise
        return self

    return cast(F, add)


def searches_blocks(method: F) -> F:
    """Decorate `search`: one call per block of queries."""

    @functools.wraps(method)
    def search(self: Any, Q: Any, k: int = 10, **options: Any) -> Any:
        if type(Q) is np.ndarray or not in_blocks(Q):
            return method(self, Q, k, **options)

        def search_one(block: Any, info: BlockInfo) -> Any:
            return method(self, info.finite(info.shaped(block)), k, **options)

        with progress.method(self, "search"):
            found = LocalBlocks.of(Q, ROWS).run("search", search_one)
        if not found:
            return method(self, np.empty((0, self.dim or 1), np.float32), k, **options)
        return SearchResult(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))

    return cast(F, search)
