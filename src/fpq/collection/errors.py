"""SQLite's errors as the errors of Python and of fpq."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from typing import Any

from fpq._format import FormatError


@contextlib.contextmanager
def translated(file: str) -> Iterator[None]:
    """A context that names the database file in SQLite's errors, and gives them the types that callers expect."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _operational(str(error), file) from error
    except (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.DataError):
        raise  # an error of fpq
    except sqlite3.DatabaseError as error:
        raise FormatError(f"{file}: expected a sound database, got an error of SQLite: {error}") from error


def _operational(message: str, file: str) -> Exception:
    known: tuple[tuple[str, Any], ...] = (
        ("is full", lambda text: OSError(errno.ENOSPC, text, file)),
        ("disk I/O error", lambda text: OSError(errno.EIO, text, file)),
        ("readonly", lambda text: PermissionError(errno.EACCES, text, file)),
        ("locked", lambda text: BlockingIOError(errno.EAGAIN, f"another program uses the database: {text}", file)),
        ("unable to open", lambda text: OSError(errno.EIO, text, file)),
        (
            "no such table",
            lambda text: FormatError(f"{file}: expected a collection, got a database without it: {text}"),
        ),
        ("no such column", lambda text: FormatError(f"{file}: expected a collection of this version: {text}")),
        ("malformed", lambda text: FormatError(f"{file}: expected a sound database, got: {text}")),
    )
    for words, make in known:
        if words in message:
            error: Exception = make(message)
            return error
    return OSError(errno.EIO, message, file)
