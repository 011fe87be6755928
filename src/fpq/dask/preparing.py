"""What is made of training rows on the workers of a cluster."""

from __future__ import annotations

import operator
import pickle
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fpq import threads
from fpq._arrays import aligned
from fpq._checks import Array
from fpq.learning.lloyd import LocalRows

if TYPE_CHECKING:
    from fpq.dask.training import ClusterRows


class ClusterPrepared:
    """What has been made of the parts of rows: a `PreparedRows` of `fpq.learning.prepared_rows`."""

    def __init__(self, rows: ClusterRows, make: Callable[..., Any], parts: list[tuple[Any, ...]]) -> None:
        self._rows = rows
        pickled, number = rows.shared_function(make), uuid.uuid4().hex
        self._pairs = [rows.submit(f"prepare-{number}-{i}", prepare, pickled, *xs) for i, xs in enumerate(parts)]

    def run(self, function: Callable[..., tuple[Any, Any]], *arguments: Any) -> list[Any]:
        """As `PreparedRows.run`."""
        pickled, number = self._rows.shared(pickle.dumps((function, arguments))), uuid.uuid4().hex
        self._pairs = [
            self._rows.submit(f"step-{number}-{i}", step, pickled, pair) for i, pair in enumerate(self._pairs)
        ]
        return self._rows.results("result", [(operator.itemgetter(0), pair) for pair in self._pairs])


def received(x: Array) -> LocalRows:
    """The rows of a task, which may have come from the network and then are not aligned."""
    return LocalRows(aligned(x), None, threads.resolve(None))


def prepare(pickled: bytes, *xs: Array) -> tuple[None, Any]:
    """No result, and what a function makes of a part of rows and of others with the same numbers."""
    return None, pickle.loads(pickled)(*map(received, xs))


def step(pickled: bytes, pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """The result of a function for a part, and what the next one gets."""
    (function, arguments), (_, prepared) = pickle.loads(pickled), pair
    result: tuple[Any, Any] = function(type(prepared)(*map(aligned, prepared)), threads.resolve(None), *arguments)
    return result
