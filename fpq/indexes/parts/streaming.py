"""`fit`, `add`, `search` and `tune` of rows that are never in memory together, block by block.

Rows come from a memory-mapped array, a Dask array or an iterable of arrays (n_i, d). One block at a time is in memory,
or, of a memory-mapped array, `ROWS` rows; an iterable may make its blocks while they are read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import numpy as np

from fpq import _checks
from fpq._checks import KERNEL_TYPES
from fpq.blocks import BlockInfo, LocalBlocks, on_dask
from fpq.indexes.base import SearchResult
from fpq.indexes.parts.lock import uninterrupted
from fpq.learning import training_rows

ROWS = 1 << 18

F = TypeVar("F", bound=Callable[..., Any])


def in_blocks(X: Any) -> bool:
    """Whether X is a Dask array, a long memory-mapped array, or an iterable of blocks."""
    if type(X) is np.ndarray:
        return False
    if isinstance(X, np.memmap):
        return X.ndim == 2 and len(X) > ROWS
    if isinstance(X, (list, tuple)):
        return bool(X) and isinstance(X[0], np.ndarray) and X[0].ndim == 2
    if hasattr(X, "__array__") or hasattr(X, "__dlpack__"):
        return on_dask(X)
    return isinstance(X, Iterable) and not hasattr(X, "__len__")


def gathered(Q: Any, dim: int | None) -> Any:
    """Queries that may come in blocks, together."""
    if not in_blocks(Q):
        return Q
    found = LocalBlocks.of(Q, ROWS).run("queries", lambda block, where: where.finite(where.shaped(block)))
    return np.concatenate(found) if found else np.empty((0, dim or 1), np.float32)


def fits_blocks(method: F) -> F:
    """For `fit` of an index that learns from a sample: it is drawn from blocks."""

    @functools.wraps(method)
    def fit(self: Any, X: Any) -> Any:
        if not in_blocks(X) or (isinstance(X, np.memmap) and X.dtype in KERNEL_TYPES):  # which is read in place
            return method(self, X)
        training_rows.learn(self, LocalBlocks.of(X, ROWS))
        return self

    return cast(F, fit)


def adds_blocks(method: F) -> F:
    """For `add`: one call for each block, and as before if one of them fails.

    Limits of OpenIndexing and of lists depend on how many rows an add has: with these, a memory-mapped array, which can
    be read in place, is added in one go.
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

            def add_one(block: Any, where: BlockInfo) -> None:
                x = where.finite(where.shaped(block))
                method(self, x, None if given is None else given[where.start : where.start + len(x)])
                if source.sizes is not None and where.number == 0:
                    self._reserve(n + sum(source.sizes))

            source.run("add", add_one, verbose=getattr(self, "verbose", False))
            if given is not None and len(given) != len(self) - n:
                raise ValueError(f"ids: expected {len(self) - n} ids for so many rows, got {len(given)}")
        except BaseException:
            with uninterrupted():
                restore()
            raise
        return self

    return cast(F, add)


def searches_blocks(method: F) -> F:
    """For `search`: one call for each block of queries."""

    @functools.wraps(method)
    def search(self: Any, Q: Any, k: int = 10, **options: Any) -> Any:
        if not in_blocks(Q):
            return method(self, Q, k, **options)

        def search_one(block: Any, where: BlockInfo) -> Any:
            return method(self, where.finite(where.shaped(block)), k, **options)

        found = LocalBlocks.of(Q, ROWS).run("search", search_one, verbose=getattr(self, "verbose", False))
        if not found:
            return method(self, np.empty((0, self.dim or 1), np.float32), k, **options)
        return SearchResult(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))

    return cast(F, search)
