"""What the methods of a collection return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from fpq._checks import Array

Key = str | int | UUID


@dataclass(frozen=True, slots=True)
class Hit:
    """A row that a search has found.

    Attributes
    ----------
    key : str, int or UUID
    distance : float
        "l2": squared L2 distance. "ip" and "cosine": similarity.
    metadata : dict
        The metadata of the row, without the names whose value is None.
    vector : array (d,) or None
        The vector as it was stored, if the search was asked for vectors.
    """

    key: Key
    distance: float
    metadata: dict[str, Any]
    vector: Array | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a collection.

    Attributes
    ----------
    key : str, int or UUID
    vector : array (d,)
        The vector as it was stored.
    metadata : dict
        The metadata of the row, without the names whose value is None.
    """

    key: Key
    vector: Array
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """How a search was carried out; `print` shows all of it.

    Attributes
    ----------
    method : str
        How the nearest rows were found.
    matches : int or None
        The number of rows that fulfil `where`; None without a condition.
    cached : bool
        Whether the matching rows were known from an earlier search.
    index : str
        The index.
    rows, tail : int
        The rows of the collection, and those outside of the index, which are searched exactly.
    sql : tuple of str
        SQLite's plan for the condition.
    seconds : float
        The time of the search.
    """

    method: str
    matches: int | None
    cached: bool
    index: str
    rows: int
    tail: int
    sql: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        where = "" if self.matches is None else f"{self.matches:,} rows fulfil the condition; "
        lines = [f"{self.method}; {where}{self.seconds * 1e3:.2f} ms", self.index]
        lines += [f"{self.rows:,} rows, {self.tail:,} of them outside of the index", *self.sql]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class CollectionStats:
    """The state of a collection; `print` shows all of it.

    Attributes
    ----------
    rows : int
    tail : int
        Rows that the index file does not contain. They are searched exactly.
    removed : int
        Rows of the index file that were deleted or replaced.
    memory_bytes : int
        Bytes of the index and of the tail. The arrays of an index file are mapped: the system may drop them.
    disk_bytes : int
        Bytes of all files.
    index : str
        The index.
    generation : int
        How many index files were written.
    trained_rows : int or None
        The number of rows at the last training of the index; None: not trained yet.
    trained_at : str or None
        The time of the last training, in ISO format.
    recall : float or None
        The measured ``recall@10``, if asked for.
    """

    rows: int
    tail: int
    removed: int
    memory_bytes: int
    disk_bytes: int
    index: str
    generation: int
    trained_rows: int | None
    trained_at: str | None
    recall: float | None

    def __str__(self) -> str:
        trained = "not trained" if self.trained_rows is None else f"trained at {self.trained_rows:,} rows"
        lines = [
            f"{self.rows:,} rows, {self.tail:,} of them outside of the index",
            f"{self.removed:,} removed rows in the index",
            f"{self.memory_bytes:,} bytes in memory or mapped, {self.disk_bytes:,} bytes on disk",
            f"{self.index}, generation {self.generation}, {trained}",
        ]
        lines += [] if self.recall is None else [f"recall@10: {self.recall:.4f}"]
        return "\n".join(lines)
