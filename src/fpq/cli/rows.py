"""Rows of a file as the arguments of a collection: keys in its type, vectors, metadata."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from fpq import _checks
from fpq._checks import Array
from fpq.cli import files, tables
from fpq.cli.report import UsageError
from fpq.cli.tables import Table
from fpq.collection.keys import checked

Batch = tuple[list[Any], Array, dict[str, list[Any]]]  # keys, vectors, metadata


class Source:
    """The rows of a file with their vectors, as the arguments of `upsert`."""

    def __init__(self, table: Table, args: argparse.Namespace, types: dict[str, str], rows: files.Rows | None) -> None:
        self.table = table
        self.key: str = args.key
        self.vector: str | None = None if rows is not None else args.vector or "vector"
        self._rows = rows
        self._restorers = tables.restorers(types)

    def batches(self, kind: str | None) -> Iterator[tuple[int, Batch]]:
        """The number of rows and the content of all batches; `kind`: the type of the collection's keys, if known."""
        first = 0
        for columns in self.table.batches():
            n = len(next(iter(columns.values()), ()))
            with self.naming(first, n):
                found = keys(taken(columns, self.key, "--key"), kind)
                checked(found, kind)
                vectors = self._vectors(columns, first, n)
                content = {name: self._values(name, _listed(each)) for name, each in columns.items()}
            # A later row replaces an earlier one with its key, as it would in another batch.
            last = sorted({key: i for i, key in enumerate(found)}.values())
            if len(last) < n:
                found, vectors = [found[i] for i in last], vectors[last]
                content = {name: [each[i] for i in last] for name, each in content.items()}
            yield n, (found, vectors, content)
            first += n

    @contextlib.contextmanager
    def naming(self, first: int, n: int) -> Iterator[None]:
        """A context that names the rows in errors."""
        try:
            yield
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.table.path}, rows {first + 1} to {first + n}: {error}") from None

    def _vectors(self, columns: tables.Columns, first: int, n: int) -> Array:
        if self._rows is not None:
            return self._rows.read(first, first + n)
        given = taken(columns, self.vector or "", "--vector")
        if isinstance(given, list):
            given = [_list_of(each) for each in given]
            lengths = {len(each) for each in given}
            if len(lengths) > 1:
                raise ValueError(f"vectors: expected lists of one length, got {min(lengths)} to {max(lengths)}")
        return _checks.numbers("vectors", given)

    def _values(self, name: str, given: list[Any]) -> list[Any]:
        read = self._restorers.get(name)
        if read is None:
            return given
        try:
            return [read(each) if isinstance(each, str) else each for each in given]
        except ValueError as error:
            raise ValueError(f"metadata: expected {name!r} in its declared type, got an error: {error}") from None


def taken(columns: tables.Columns, name: str, option: str) -> Any:
    """Remove a column that every row needs."""
    if name not in columns:
        raise ValueError(f"expected a column {name!r}, got {', '.join(columns) or 'none'}; {option} gives its name")
    column = columns.pop(name)
    missing = sum(each is None for each in column) if isinstance(column, list) else column.null_count
    if missing:
        raise ValueError(f"expected a value of {name!r} in every row, got {missing} rows without")
    return column


def _listed(column: Any) -> list[Any]:
    found: list[Any] = column if isinstance(column, list) else column.to_pylist()
    return found


def _list_of(cell: Any) -> list[Any]:
    """A vector from a cell, which in a CSV file is the text of a JSON list."""
    found = cell
    if isinstance(cell, str):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(cell)
    if not isinstance(found, list):
        raise ValueError(f"vectors: expected a JSON list of numbers, got {str(cell)[:40]}")
    return found


def keys(given: Any, kind: str | None) -> list[Any]:
    """Keys in the type of the collection, as far as a file or a command line expresses them otherwise."""
    found = _listed(given)
    if kind == "str":
        return [str(key) if isinstance(key, int) else key for key in found]
    if kind in ("int", "UUID"):
        convert: Any = int if kind == "int" else UUID
        try:
            return [convert(key) if isinstance(key, str) else key for key in found]
        except ValueError as error:
            raise ValueError(f"keys: expected keys of type {kind}, got an error: {error}") from None
    return found


@contextlib.contextmanager
def opened(args: argparse.Namespace, types: dict[str, str], kind: str | None) -> Iterator[Source]:
    """The rows that a command reads, checked as far as possible before any work."""
    if args.vector is not None and args.vectors is not None:
        raise UsageError("--vector, --vectors: expected one of the two")
    text = {name for name, declared in types.items() if declared not in ("int", "float")}
    text |= {args.key} if kind == "str" else set()
    text |= set() if args.vectors is not None else {args.vector or "vector"}
    table = Table(args.rows, text)
    table.require(args.key, "--key")
    if args.vectors is None:
        table.require(args.vector or "vector", "--vector (a column) or --vectors (a file)")
        yield Source(table, args, types, None)
        return
    with files.opened(args.vectors, files.BASE) as rows:
        if len(rows) != table.n:
            raise ValueError(f"{args.vectors}: expected {table.n} vectors, one per row of {args.rows}, got {len(rows)}")
        yield Source(table, args, types, rows)
