"""The database of a collection: its tables, and the statements that read and change rows."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fpq._checks import Array, Int64
from fpq._format import FormatError
from fpq.collection import metadata
from fpq.collection.database import Database
from fpq.collection.errors import translated
from fpq.collection.metadata import Columns

FORMAT = 1
FILE, LOCK = "collection.sqlite", "writer.lock"
PIECE = 500  # parameters of a statement
BLOCK_ROWS = 1 << 13  # rows whose vectors are read at a time
PAGE_BYTES = 1 << 14  # of a new database: several vectors fit into a page
CHECKPOINT_PAGES = 4000  # 64 MB of write-ahead log are copied into the database at a time

# A row number `id` is never used twice: `last_id` counts on. Readers know rows by it.
TABLES = (
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value)",
    "CREATE TABLE rows (id INTEGER PRIMARY KEY, key NOT NULL UNIQUE, _kinds TEXT)",
    "CREATE TABLE vectors (id INTEGER PRIMARY KEY, vector BLOB NOT NULL)",
    "CREATE TABLE removed (seq INTEGER PRIMARY KEY AUTOINCREMENT, id INTEGER NOT NULL)",
)


class Settings(NamedTuple):
    """The small values of a collection."""

    format: int
    metric: str
    dtype: str
    dim: int | None  # None and an unknown type of keys: before the first upsert
    keys: str | None
    generation: int  # of the index file; 0: none
    folded: int  # largest row number that the index file covers
    last_id: int  # largest row number ever used
    rows: int
    edits: int  # how often metadata changed in place
    columns: int  # how often a column was added
    types: str  # declared types of columns, JSON
    training: str | None  # about the last training, JSON

    @property
    def element(self) -> np.dtype[Any]:
        """The element type of stored vectors."""
        return np.dtype(self.dtype).newbyteorder("<")


class Store:
    """The connections to a database, and its statements. A memory database has one connection for all."""

    def __init__(self, folder: Path | None, *, read_only: bool) -> None:
        self.folder, self.read_only = folder, read_only
        self._lock: sqlite3.Connection | None = None
        self._names: tuple[int, list[str]] = (-1, [])
        path = None if folder is None else folder / FILE
        if folder is not None and not read_only:
            self._lock = _writer_lock(folder)
        try:
            self.writer = Database(path, read_only=read_only)
            self.reader = self.writer if folder is None or read_only else Database(path, read_only=True)
        except BaseException:
            self.close()
            raise

    def prepare_writer(self) -> None:
        """Have every commit reach the disk before it returns."""
        with translated(self.writer.name):
            for pragma in (
                f"page_size = {PAGE_BYTES}", "journal_mode = WAL", "synchronous = FULL",
                f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
            ):  # fmt: skip
                self.writer.execute(f"PRAGMA {pragma}").fetchall()

    def create(
        self, dim: int | None, metric: str, dtype: str, types: dict[str, str], indexed: Sequence[str],
        index: bytes | None,
    ) -> None:  # fmt: skip
        """Write the tables."""
        settings = Settings(FORMAT, metric, dtype, dim, None, 0, 0, 0, 0, 0, len(types), json.dumps(types), None)
        with self.writer.writing() as db:
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
                raise FileExistsError(f"{db.name}: expected no collection, got one: open it")
            for table in TABLES:
                db.execute(table)
            for name, kind in types.items():
                db.execute(f"ALTER TABLE rows ADD COLUMN {quoted(name)} {metadata.DECLARED[kind][1]}")
            db.many("INSERT INTO settings VALUES (?, ?)", [*settings._asdict().items(), ("index", index)])
            for name in indexed:
                db.execute(index_statement(name))

    def settings(self, db: Database) -> Settings:
        """The settings, read in a transaction of the caller."""
        found = dict(db.execute("SELECT name, value FROM settings WHERE name <> 'index'").fetchall())
        version = found.get("format")
        if version != FORMAT:
            raise FormatError(f"{db.name}: expected a collection of format {FORMAT}, got format {version}")
        if found.keys() != set(Settings._fields):
            raise FormatError(f"{db.name}: expected the settings of a collection, got {', '.join(found)}")
        return Settings(**found)

    def set(self, db: Database, **values: Any) -> None:
        """Change settings."""
        db.many("UPDATE settings SET value = ? WHERE name = ?", [(value, name) for name, value in values.items()])

    def index_settings(self) -> bytes | None:
        """The index of the user, as bytes."""
        with self.reader.reading() as db:
            row = db.execute("SELECT value FROM settings WHERE name = 'index'").fetchone()
            index: bytes | None = row and row[0]
            return index

    def names(self, db: Database, settings: Settings) -> list[str]:
        """The names of metadata, in the order of the columns."""
        if self._names[0] != settings.columns:
            table = db.execute("PRAGMA table_info(rows)").fetchall()
            self._names = settings.columns, [column[1] for column in table[3:]]
        return self._names[1]

    def add_columns(self, db: Database, settings: Settings, wanted: Iterable[str]) -> list[str]:
        """Add the columns that are not there yet; the names of the wanted columns as the table spells them."""
        self._names = -1, []  # a failed transaction may have added columns
        known = {name.lower(): name for name in self.names(db, settings)}
        new = [name for name in wanted if name.lower() not in known]
        for name in wanted:
            if known.get(name.lower(), name) != name:
                raise ValueError(f"metadata: expected the name {known[name.lower()]!r}, got {name!r}")
        if len(known) + len(new) > metadata.MOST_COLUMNS:
            raise ValueError(
                f"metadata: expected at most {metadata.MOST_COLUMNS} names in all rows, got {len(known) + len(new)}: "
                "put rare values into a dict under one name"
            )
        for name in new:
            db.execute(f"ALTER TABLE rows ADD COLUMN {quoted(name)}")
        if new:
            self.set(db, columns=settings.columns + len(new))
        return list(wanted)

    def upsert(self, db: Database, settings: Settings, keys: list[Any], vectors: Array, columns: Columns) -> None:
        """Insert rows with new row numbers, in place of the rows with these keys."""
        self.add_columns(db, settings, columns.values)
        replaced = self.remove(db, self.ids(db, keys))
        first = settings.last_id + 1
        ids = range(first, first + len(keys))
        names = ", ".join(["id", "key", "_kinds", *map(quoted, columns.values)])
        marks = ", ".join("?" * (3 + len(columns.values)))
        rows = zip(ids, keys, columns.kinds, *columns.values.values(), strict=True)
        db.many(f"INSERT INTO rows ({names}) VALUES ({marks})", rows)
        db.many("INSERT INTO vectors VALUES (?, ?)", zip(ids, _blobs(vectors), strict=True))
        self.set(db, last_id=ids[-1], rows=settings.rows + len(keys) - replaced)

    def ids(self, db: Database, keys: list[Any]) -> list[int]:
        """The row numbers of these keys, as far as the keys are there."""
        return [row[0] for row in _in(db, "SELECT id FROM rows WHERE key IN", keys)]

    def remove(self, db: Database, ids: Iterable[int]) -> int:
        """Remove rows by row number; their number. The caller counts rows."""
        one = [(each,) for each in ids]
        db.many("DELETE FROM rows WHERE id = ?", one)
        db.many("DELETE FROM vectors WHERE id = ?", one)
        db.many("INSERT INTO removed (id) VALUES (?)", one)
        return len(one)

    def edit(self, db: Database, settings: Settings, keys: list[Any], columns: Columns) -> None:
        """Set metadata of rows that exist; other names of the rows stay."""
        self.add_columns(db, settings, columns.values)
        before = dict(_in(db, "SELECT key, _kinds FROM rows WHERE key IN", keys))
        missing = next((key for key in keys if key not in before), None)
        if missing is not None:
            raise KeyError(missing)
        kinds = []
        for key, new in zip(keys, columns.kinds, strict=True):
            old = json.loads(before[key] or "{}")
            merged = {name: kind for name, kind in old.items() if name not in columns.values}
            merged.update(json.loads(new or "{}"))
            kinds.append(json.dumps(merged) if merged else None)
        names = ", ".join(f"{name} = ?" for name in ["_kinds", *map(quoted, columns.values)])
        db.many(f"UPDATE rows SET {names} WHERE key = ?", zip(kinds, *columns.values.values(), keys, strict=True))
        self.set(db, edits=settings.edits + 1)

    def rows(self, db: Database, names: list[str], by: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """Tuples (id, key, metadata) of the rows whose column `by` has one of these values."""
        columns = ", ".join(["id", "key", "_kinds", *map(quoted, names)])
        for number, key, kinds, *content in _in(db, f"SELECT {columns} FROM rows WHERE {by} IN", values):
            yield number, key, metadata.restored(names, tuple(content), kinds)

    def vectors(self, db: Database, settings: Settings, ids: Sequence[int]) -> tuple[Int64, Array]:
        """The row numbers among `ids` that exist, and their vectors."""
        return _arrays(_in(db, "SELECT id, vector FROM vectors WHERE id IN", ids), settings)

    def blocks(self, settings: Settings, after: int = 0) -> Iterator[tuple[Int64, Array]]:
        """The row numbers above `after` that `settings` know, and their vectors, in ascending blocks.

        Without a transaction of the caller, other threads may use the connection between two blocks.
        """
        sql = "SELECT id, vector FROM vectors WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
        while after < settings.last_id:
            with self.reader.reading() as db:
                rows = db.execute(sql, (after, settings.last_id, BLOCK_ROWS)).fetchall()
            if not rows:
                return
            after = rows[-1][0]
            yield _arrays(rows, settings)

    def close(self) -> None:
        """Close all connections, and let other writers in."""
        for name in ("reader", "writer"):
            if hasattr(self, name):
                getattr(self, name).close()
        if self._lock is not None:
            self._lock.close()


def quoted(name: str) -> str:
    """A name as SQL: checked names have no quotes."""
    return f'"{name}"'


def index_statement(name: str) -> str:
    """The statement that adds an SQL index of a column."""
    return f"CREATE INDEX IF NOT EXISTS {quoted('by ' + name)} ON rows ({quoted(name)})"


def _in(db: Database, sql: str, values: Sequence[Any]) -> Iterator[Any]:
    for start in range(0, len(values), PIECE):
        piece = values[start : start + PIECE]
        yield from db.execute(f"{sql} ({', '.join('?' * len(piece))})", piece).fetchall()


def _blobs(vectors: Array) -> list[memoryview]:
    size = vectors.shape[1] * vectors.itemsize
    data = np.ascontiguousarray(vectors).reshape(-1).view(np.uint8).data
    return [data[start : start + size] for start in range(0, len(data), size)]


def _arrays(rows: Iterable[tuple[int, bytes]], settings: Settings) -> tuple[Int64, Array]:
    rows = list(rows)
    dim = settings.dim or 0
    data = b"".join([row[1] for row in rows])
    if len(data) != len(rows) * dim * settings.element.itemsize:
        raise FormatError(f"vectors: expected {len(rows)} vectors of dimension {dim}, got {len(data)} bytes")
    vectors = np.frombuffer(data, settings.element).reshape(len(rows), dim)
    ids = np.fromiter((row[0] for row in rows), np.int64, len(rows))
    return ids, vectors.astype(settings.element.newbyteorder("="), copy=False)


def _writer_lock(folder: Path) -> sqlite3.Connection:
    """A connection that locks out other writers until it is closed, or its process dies."""
    path = folder / LOCK
    lock = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if "locked" not in str(error):
            raise OSError(f"{path}: expected a lock, got an error of SQLite: {error}") from error
        raise BlockingIOError(
            f"{folder}: expected no other writer, got one: close it, or open the collection with read_only=True"
        ) from None
    except BaseException:
        lock.close()
        raise
    return lock


def size_on_disk(folder: Path | None) -> int:
    """Bytes of all files of a collection."""
    if folder is None:
        return 0
    return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
