"""Training rows by group, such as the cells of a level of centroids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from fpq._arrays import take_rows
from fpq._checks import Array, Int32, Int64

RANGE_ROWS = 1 << 16  # rows that are copied at a time

# (rows, rows per group, n_threads, *arrays with an entry per group) -> result
OfGroups = Callable[..., Any]


class GroupedRows(Protocol):
    """Training rows, ordered by group and then by number."""

    sizes: Int64  # the number of rows in each group

    def run(self, function: OfGroups, *of_groups: Array, together: int = 1) -> Iterator[Any]:
        """The results of `function` for consecutive ranges of groups, in order.

        Ranges begin at multiples of `together` groups. `of_groups` have an entry per group. `function` gets those of
        its groups. What it computes for `together` groups must not depend on the other groups of the range.
        """


class LocalGroups:
    """Groups of rows in local memory."""

    def __init__(self, x: Array, groups: Int32, n_groups: int, n_threads: int) -> None:
        self.sizes: Int64 = np.bincount(groups, minlength=n_groups)
        self._x = x
        self._order = np.argsort(groups, kind="stable")
        self._n_threads = n_threads

    def run(self, function: OfGroups, *of_groups: Array, together: int = 1) -> Iterator[Any]:
        """As `GroupedRows.run`."""
        for groups, rows in ranges(self.sizes, RANGE_ROWS, together):
            x = take_rows(self._x, self._order[rows], self._n_threads)
            yield function(x, self.sizes[groups], self._n_threads, *(array[groups] for array in of_groups))


def ranges(sizes: Int64, most: int, together: int = 1) -> list[tuple[slice, slice]]:
    """Consecutive groups, and the places of their rows: at most `most` rows, or `together` groups.

    The first group of a range is a multiple of `together`.
    """
    ends = np.cumsum(sizes)
    found = []
    group = row = 0
    while group < len(sizes):
        last = int(np.searchsorted(ends, row + most, side="right"))
        last = min(len(sizes), max(group + together, last - last % together))
        end = int(ends[last - 1])
        found.append((slice(group, last), slice(row, end)))
        group, row = last, end
    return found
