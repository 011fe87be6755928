"""A connection to the database of a collection, its transactions, and the guard of conditions of users."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fpq.collection.errors import translated
from fpq.collection.guard import Guard

BUSY_SECONDS = 60.0  # waiting for another connection, such as one that copies the write-ahead log into the database
CACHE_KIB = 64 << 10


class Database:
    """One connection, used by one thread at a time."""

    def __init__(self, path: Path | None, *, read_only: bool) -> None:
        self.name = ":memory:" if path is None else str(path)
        self.lock = threading.RLock()
        self.guard = Guard()
        with translated(self.name):
            where = ":memory:" if path is None else f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
            self.connection = sqlite3.connect(
                where, uri=path is not None, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False,
                cached_statements=512,
            )  # fmt: skip
            try:
                self.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
                self.guard.watch(self.connection)
            except BaseException:
                self.connection.close()
                raise

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        """Run one statement within a context of `reading`, `writing` or `translated`."""
        return self.connection.execute(sql, parameters)

    def many(self, sql: str, rows: Any) -> None:
        """Run one statement for many rows of parameters."""
        self.connection.executemany(sql, rows)

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[Database]:
        with self.lock, translated(self.name):
            self.execute(begin)
            try:
                yield self
                self.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[Database]:
        """A transaction in which all statements see one state of the data; within another one, a part of that."""
        with self.lock:
            if self.connection.in_transaction:
                yield self
            else:
                with self._transaction("BEGIN"):
                    yield self

    def writing(self) -> contextlib.AbstractContextManager[Database]:
        """A transaction that writes: all or nothing."""
        return self._transaction("BEGIN IMMEDIATE")

    def data_version(self) -> tuple[int, int]:
        """A value that changes with every commit, of this connection or another."""
        (version,) = self.execute("PRAGMA data_version").fetchone()
        return version, self.connection.total_changes

    def close(self) -> None:
        """Close the connection."""
        with self.lock, translated(self.name):
            self.connection.close()
