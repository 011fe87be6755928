"""What is made of training rows once, for several steps of learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class PreparedRows(Protocol):
    """What a function has made of each run of training rows: named tuples of arrays, which stay where the rows are."""

    def run(self, function: Callable[..., tuple[Any, Any]], *arguments: Any) -> list[Any]:
        """The results of ``function(prepared, n_threads, *arguments)`` for all runs, in order.

        It returns a result, and what the next call gets instead of `prepared`.
        """


class LocalPrepared:
    """One run of rows in local memory."""

    def __init__(self, prepared: Any, n_threads: int) -> None:
        self._prepared = prepared
        self._n_threads = n_threads

    def run(self, function: Callable[..., tuple[Any, Any]], *arguments: Any) -> list[Any]:
        """As `PreparedRows.run`."""
        result, self._prepared = function(self._prepared, self._n_threads, *arguments)
        return [result]
