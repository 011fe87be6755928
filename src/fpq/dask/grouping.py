"""Training rows by group on the workers of a cluster: each worker sorts its rows, then gets the rows of some groups."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fpq import threads
from fpq._arrays import aligned
from fpq._checks import Array, Int64
from fpq.learning.grouped_rows import OfGroups, ranges
from fpq.learning.lloyd import Change

if TYPE_CHECKING:
    from fpq.dask.training import ClusterRows

TASKS_PER_THREAD = 4  # ranges of groups per thread of the cluster


class Sorted(NamedTuple):
    """The rows of a part, ordered by group and then by number."""

    x: Array
    sizes: Int64  # rows per group


class ClusterGroups:
    """Groups of rows on a cluster: a `GroupedRows` of `fpq.learning.grouped_rows`.

    The map sorts each part of the rows by group. The reduce collects the rows of a range of groups on one worker, in
    the order of their numbers: as on one machine.
    """

    def __init__(self, rows: ClusterRows, group_of: Change, n_groups: int) -> None:
        self._rows = rows
        pickled, number = rows.shared_function(group_of), uuid.uuid4().hex
        self._parts = [
            rows.submit(f"group-{number}-{i}", in_groups, pickled, part, n_groups)
            for i, part in enumerate(rows.parts(rows.runs(rows.n, 1)))
        ]
        self._sizes = np.array(rows.results("sizes", [(_sizes, part) for part in self._parts]))  # (parts, groups)
        self.sizes: Int64 = self._sizes.sum(axis=0)

    def run(self, function: OfGroups, *of_groups: Array, together: int = 1) -> Iterator[Any]:
        """As `GroupedRows.run`."""
        number, ends = uuid.uuid4().hex, np.cumsum(self._sizes, axis=1)
        calls: list[tuple[Any, ...]] = []
        most = -(-self._rows.n // (TASKS_PER_THREAD * self._rows.n_threads))
        for groups, _ in ranges(self.sizes, most, together):
            sizes = self._sizes[:, groups]
            pieces = [
                self._rows.submit(f"piece-{number}-{len(calls)}-{i}", piece, part, end - size.sum(), end)
                for i, (part, size, end) in enumerate(zip(self._parts, sizes, ends[:, groups.stop - 1], strict=True))
            ]
            calls.append((of_range, function, pieces, sizes, *(array[groups] for array in of_groups)))
        results = self._rows.results("groups", calls)[::-1]
        while results:  # each is freed once it has been used
            yield results.pop()


def in_groups(pickled: bytes, x: Array, n_groups: int) -> Sorted:
    """Sort the rows of a part by the groups that a function gives them."""
    groups = pickle.loads(pickled)(aligned(x), threads.resolve(None))
    return Sorted(x[np.argsort(groups, kind="stable")], np.bincount(groups, minlength=n_groups))


def _sizes(part: Sorted) -> Int64:
    return part.sizes


def piece(part: Sorted, begin: int, end: int) -> Array:
    """Some rows of a part."""
    return part.x[begin:end]


def of_range(function: OfGroups, pieces: list[Array], sizes: Int64, *of_groups: Array) -> Any:
    """Run `function` on the rows of some groups, of which the pieces have `sizes` (pieces, groups)."""
    groups = np.concatenate([np.repeat(np.arange(len(size)), size) for size in sizes])
    x = np.concatenate(pieces)[np.argsort(groups, kind="stable")]
    return function(x, sizes.sum(axis=0), threads.resolve(None), *map(aligned, of_groups))
