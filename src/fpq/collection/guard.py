"""Conditions of users: one SQL expression over the columns of `rows`, and nothing else.

Three walls: a scanner refuses what could leave the parentheses around the condition; SQLite's authorizer refuses all
but reading `rows` and calling harmless functions; a time limit interrupts what runs too long.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fpq._checks import Int64
from fpq.collection import metadata
from fpq.collection.scanner import scanned

LONGEST = 100_000  # characters of a condition
LONGEST_VALUE = 1 << 26  # bytes of a value within a condition
SECONDS = 60.0
STEPS = 10_000  # SQLite's steps between two looks at the clock

# Codes of SQLite's authorizer, which Python 3.10 does not name.
SELECT, READ, FUNCTION = sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, 31
CLOCKS = frozenset({
    "date", "time", "datetime", "julianday", "strftime", "unixepoch", "current_date", "current_time",
    "current_timestamp",
})  # fmt: skip
FUNCTIONS = CLOCKS | {
    "->", "->>", "abs", "ceil", "ceiling", "coalesce", "count", "floor", "glob", "hex", "ifnull", "iif", "instr",
    "json", "json_array_length", "json_extract", "json_quote", "json_type", "json_valid", "length", "like",
    "likelihood", "likely", "lower", "ltrim", "max", "min", "mod", "nullif", "round", "rtrim", "sign", "sqrt",
    "substr", "substring", "sum", "total", "avg", "trim", "typeof", "unicode", "unlikely", "upper",
}  # fmt: skip
TABLES = ("rows", "json_each", "json_tree")


class Guard:
    """SQLite's authorizer of a connection, which refuses what a condition may not do while a condition runs."""

    def __init__(self) -> None:
        self._prepared = False
        self._on_duty = False  # while a condition runs
        self._clock = False
        self._clocks: dict[str, bool] = {}  # by condition
        self._deadline = 0.0

    def watch(self, connection: sqlite3.Connection) -> None:
        """Install the guard."""
        for table in TABLES[1:]:  # the first use of a table function declares a table, which the guard would refuse
            connection.execute(f"SELECT 1 FROM {table}('[]')").fetchall()
        if hasattr(connection, "setlimit"):  # Python 3.11
            connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000)
        connection.set_authorizer(self._authorize)
        connection.set_progress_handler(self._late, STEPS)

    def _authorize(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if not self._on_duty:
            return sqlite3.SQLITE_OK
        self._prepared = True
        if action == SELECT or (action == READ and first in TABLES):
            return sqlite3.SQLITE_OK
        if action == FUNCTION and (second or "").lower() in FUNCTIONS:
            self._clock = self._clock or (second or "").lower() in CLOCKS
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    def _late(self) -> bool:
        return self._on_duty and time.monotonic() > self._deadline

    @contextlib.contextmanager
    def _on(self, connection: sqlite3.Connection) -> Iterator[None]:
        limit = None
        if hasattr(connection, "setlimit"):
            limit = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
        self._prepared = False
        self._on_duty, self._clock, self._deadline = True, False, time.monotonic() + SECONDS
        try:
            yield
        finally:
            self._on_duty = False
            if limit is not None:
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limit)

    def ids(
        self, connection: sqlite3.Connection, condition: Condition, columns: Sequence[str], after: int = 0
    ) -> tuple[Int64, bool]:
        """The ids above `after` of the rows that fulfil a condition, ascending, and whether it depends on the time.

        The caller holds a transaction.
        """
        condition.require_columns(columns)
        sql = f"SELECT id FROM rows WHERE id > {after} AND (\n{condition.text}\n)"
        found = self._run(connection, sql, condition, columns)
        if len(self._clocks) > 1000:
            self._clocks.clear()
        # A statement in the cache of the connection is not prepared again. A condition that is not known to be free of
        # clocks is one with a clock.
        clock = self._clocks.setdefault(condition.text, self._clock or not self._prepared)
        ids = np.fromiter((row[0] for row in found), np.int64, len(found))
        return np.sort(ids), clock

    def plan(self, connection: sqlite3.Connection, condition: Condition, columns: Sequence[str]) -> tuple[str, ...]:
        """SQLite's plan for a condition."""
        sql = f"EXPLAIN QUERY PLAN SELECT id FROM rows WHERE (\n{condition.text}\n)"
        return tuple(row[3] for row in self._run(connection, sql, condition, columns))

    def _run(self, connection: sqlite3.Connection, sql: str, condition: Condition, columns: Sequence[str]) -> list[Any]:
        try:
            with self._on(connection):
                return connection.execute(sql, condition.params).fetchall()
        except (sqlite3.ProgrammingError, sqlite3.InterfaceError) as error:
            raise ValueError(f"params: expected the values of the parameters in where, got an error: {error}") from None
        except (sqlite3.OperationalError, sqlite3.DataError, sqlite3.DatabaseError, OverflowError) as error:
            message = str(error)
            if any(words in message for words in ("malformed", "disk", "I/O")) and "JSON" not in message:
                raise
            if message == "interrupted" and time.monotonic() <= self._deadline:
                raise KeyboardInterrupt from None  # which the function that SQLite asks for the time cannot pass on
            if message == "interrupted":
                message = f"it takes longer than {SECONDS:g} s"
            known = ", ".join(["key", *columns])
            raise ValueError(
                f"where: expected a condition over the columns {known}, got an error of SQLite: {message}"
            ) from None


class Condition:
    """A checked condition with its parameters; equal conditions are equal keys."""

    def __init__(self, where: Any, params: Any) -> None:
        if not isinstance(where, str):
            raise TypeError(f"where: expected a condition in SQL, got {where!r}")
        if not where.strip() or len(where) > LONGEST:
            raise ValueError(f"where: expected 1 to {LONGEST:,} characters, got {len(where)}")
        self.text = where
        self.params = _params(params)
        values = self.params.items() if isinstance(self.params, dict) else self.params
        self.known_as = (where, tuple((type(value), value) for value in values))
        self._quoted = scanned(where)

    def require_columns(self, columns: Sequence[str]) -> None:
        """Raise ValueError for a name in double quotes that is no column: SQLite would take the name as a text."""
        known = {name.lower() for name in ("id", "key", "value", "type", "atom", "fullkey", "path", *columns)}
        for name in self._quoted:
            if name.lower() not in known:
                names = ", ".join(["key", *columns])
                raise ValueError(f'where: expected one of the columns {names} in double quotes, got "{name}"')


def condition_of(where: Any, params: Any) -> Condition | None:
    """The condition of a search; None without one."""
    if where is None:
        if params is not None:
            raise ValueError(f"params: expected None without where, got {params!r}")
        return None
    return Condition(where, params)


def _params(params: Any) -> Any:
    if params is None:
        return ()
    if isinstance(params, Mapping):
        return {name: metadata.stored_value("params", value) for name, value in params.items()}
    if isinstance(params, (str, bytes)) or not isinstance(params, Sequence):
        raise TypeError(f"params: expected a list of values or a dict, got {params!r}")
    return tuple(metadata.stored_value("params", value) for value in params)
