"""Rows with keys, vectors and metadata from CSV, JSON lines and Parquet files, read and written in batches."""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

from fpq import _files

BATCH = 2000  # rows
JSON_LINES = (".jsonl", ".ndjson")
ENDINGS = (".csv", *JSON_LINES, ".parquet")
LONGEST_CELL = 1 << 26  # characters of a cell of a CSV file, which may hold a vector
INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
DECIMAL = re.compile(r"[+-]?(0|[1-9][0-9]{0,18})?(\.[0-9]*)?(e[+-]?[0-9]+)?", re.ASCII | re.IGNORECASE)

Columns = dict[str, Any]  # values by name


class Table:
    """The rows of a file.

    Parameters
    ----------
    file : str
    text : collection of str
        Columns of a CSV file that are text in any case.
    """

    def __init__(self, file: str, text: Collection[str] = ()) -> None:
        self.path = Path(file)
        self._text = text
        ending = ending_of(file)
        open_: Callable[[], tuple[int, list[str] | None]] = {
            ".csv": self._open_csv, ".parquet": self._open_parquet,
        }.get(ending, self._open_json_lines)  # fmt: skip
        self._read = {".csv": self._csv, ".parquet": self._parquet}.get(ending, self._json_lines)
        self._types: list[Callable[[str], Any]] = []
        self.n, self.names = open_()  # the names are None for JSON lines, where each row has its own

    def require(self, name: str, option: str) -> None:
        """Raise ValueError if the file is known to have no column `name`."""
        if self.names is not None and name not in self.names:
            known = ", ".join(self.names) or "none"
            raise ValueError(f"{self.path}: expected a column {name!r}, got {known}; {option} gives its name")

    def batches(self) -> Iterator[Columns]:
        """All rows, as columns of at most BATCH rows."""
        return self._read()

    @contextmanager
    def _lines(self) -> Iterator[io.TextIOWrapper]:
        with io.TextIOWrapper(io.BufferedReader(_files.open_regular(self.path)), "utf-8-sig", newline="") as lines:
            try:
                yield lines
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                raise ValueError(f"{self.path}: expected text in UTF-8, got the byte 0x{byte:02x}") from None

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """The rows of a CSV file with their line numbers, the header first."""
        limit = csv.field_size_limit(LONGEST_CELL)
        try:
            with self._lines() as lines:
                reader = csv.reader(lines, strict=True)
                width = None
                for record in reader:
                    if not record:
                        continue
                    width = width or len(record)
                    if len(record) != width:
                        raise ValueError(
                            f"{self.path}, line {reader.line_num}: expected {width} cells, got {len(record)}"
                        )
                    yield reader.line_num, record
        except csv.Error as error:
            raise ValueError(f"{self.path}, line {reader.line_num}: expected CSV, got an error: {error}") from None
        finally:
            csv.field_size_limit(limit)

    def _open_csv(self) -> tuple[int, list[str] | None]:
        """The number of rows and the header; finds the type of each column."""
        records = self._records()
        header = next(records, None)
        if header is None:
            raise ValueError(f"{self.path}: expected a header with the names of columns, got an empty file")
        names = header[1]
        if len(set(names)) < len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise ValueError(f"{self.path}: expected different names of columns, got {twice!r} twice")
        ranks = [2 if name in self._text else 0 for name in names]
        n = 0
        for _, record in records:
            n += 1
            for i, cell in enumerate(record):
                if ranks[i] < 2 and cell:
                    ranks[i] = max(ranks[i], _rank(cell))
        self._types = [(int, float, str)[rank] for rank in ranks]
        return n, names

    def _csv(self) -> Iterator[Columns]:
        records = (record for _, record in self._records())
        names = next(records)
        for some in batched(records):
            cells = zip(*some, strict=True)
            yield {
                name: [read(cell) if cell else None for cell in column]
                for name, read, column in zip(names, self._types, cells, strict=True)
            }

    def _open_json_lines(self) -> tuple[int, list[str] | None]:
        with self._lines() as lines:
            return sum(1 for line in lines if line.strip()), None

    def _json_lines(self) -> Iterator[Columns]:
        for some in batched(self._objects()):
            names = dict.fromkeys(name for row in some for name in row)
            yield {name: [row.get(name) for row in some] for name in names}

    def _objects(self) -> Iterator[dict[str, Any]]:
        with self._lines() as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{self.path}, line {number}: expected JSON, got an error: {error}") from None
                if not isinstance(row, dict):
                    raise ValueError(f"{self.path}, line {number}: expected a JSON object, got {line.strip()[:40]}")
                yield row

    def _open_parquet(self) -> tuple[int, list[str] | None]:
        with self._parquet_file() as file:
            return file.metadata.num_rows, list(file.schema_arrow.names)

    def _parquet(self) -> Iterator[Columns]:
        with self._parquet_file() as file:
            for batch in file.iter_batches(BATCH):
                yield dict(zip(batch.schema.names, batch.columns, strict=True))

    @contextmanager
    def _parquet_file(self) -> Iterator[Any]:
        pyarrow, parquet = parquet_modules(self.path)
        with _files.open_regular(self.path) as source:
            try:
                with parquet.ParquetFile(source) as file:
                    yield file
            except pyarrow.ArrowException as error:
                raise ValueError(f"{self.path}: expected a Parquet file, got an error: {error}") from None


def ending_of(file: str) -> str:
    """The ending of the name of a file of rows, in small letters."""
    ending = Path(file).suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"{file}: expected a name that ends in {', '.join(ENDINGS)}")
    return ending


def parquet_modules(path: Path) -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise ImportError(f"{path}: Parquet files need pyarrow: pip install pyarrow") from None


def _rank(cell: str) -> int:
    """0: an integer of 64 bits, 1: a number, 2: text. Leading zeros, as of postcodes, make a text."""
    if INTEGER.fullmatch(cell):
        return 0 if -(1 << 63) <= int(cell) < 1 << 63 else 2
    if DECIMAL.fullmatch(cell) and any(c.isdigit() for c in cell.lower().partition("e")[0]):
        return 1 if math.isfinite(float(cell)) else 2
    return 2


def batched(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Lists of at most BATCH rows."""
    some = []
    for row in rows:
        some.append(row)
        if len(some) == BATCH:
            yield some
            some = []
    if some:
        yield some


@contextmanager
def writer(file: str, names: list[str], rows: Callable[[], Iterator[list[Any]]]) -> Iterator[Callable[[Any], None]]:
    """A context whose value writes a batch of rows, a list of `fpq.collection.Row`, to a new file.

    The file replaces an older one when the block ends. `rows` reads all batches: a Parquet file needs the types of its
    columns first.
    """
    path, ending = Path(file), ending_of(file)
    if ending == ".parquet":
        modules = parquet_modules(path)
        types = _types_of(modules[0], names, rows())
        with _files.replacing(path) as out, _parquet_writer(modules, out, names, types) as write:
            yield write
        return
    with _files.replacing(path) as out:
        if ending == ".csv":
            out.write(_csv_lines([["key", "vector", *names]]))
            yield lambda some: out.write(_csv_lines([_cells(row, names) for row in some]))
        else:
            yield lambda some: out.write("".join(_json_line(row) for row in some).encode())


def _csv_lines(records: list[list[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(records)
    return text.getvalue().encode()


def _cells(row: Any, names: list[str]) -> list[Any]:
    values = [row.metadata.get(name) for name in names]
    return [row.key, json.dumps(row.vector.tolist()), *map(_cell, names, values)]


def _cell(name: str, value: Any) -> Any:
    return value if value is None or isinstance(value, str) else as_text(name, value)


def _json_line(row: Any) -> str:
    found = {"key": row.key if isinstance(row.key, int) else str(row.key), "vector": row.vector.tolist()}
    found.update({name: _json_value(name, value) for name, value in row.metadata.items()})
    return json.dumps(found, ensure_ascii=False) + "\n"


def _json_value(name: str, value: Any) -> Any:
    if isinstance(value, (bytes, date)):
        return as_text(name, value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}: expected numbers that JSON can express, got {value}: export to .parquet")
    return value


def as_text(name: str, value: Any) -> str:
    """A value as text: dates in ISO format, others as JSON."""
    if isinstance(value, bytes):
        raise ValueError(f"{name}: expected values that text can express, got bytes: export to .parquet")
    if isinstance(value, date):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False)


def _types_of(pyarrow: Any, names: list[str], batches: Iterator[list[Any]]) -> dict[str, Any]:
    """The types of the columns of a Parquet file. Text holds lists, dicts and values of several types."""
    found: dict[str, set[type]] = {name: set() for name in ("key", "vector", *names)}
    for rows in batches:
        for row in rows:
            found["key"].add(type(row.key))
            found["vector"].add(row.vector.dtype.type)
            for name, value in row.metadata.items():
                if name in found:
                    found[name].add(type(value))
    plain = {
        int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_(), bytes: pyarrow.binary(),
        date: pyarrow.date32(),
    }  # fmt: skip
    types = {}
    for name, kinds in found.items():
        if name == "vector":
            element = pyarrow.from_numpy_dtype(next(iter(kinds))) if kinds else pyarrow.float32()
            types[name] = pyarrow.list_(element)
        elif kinds == {int, float}:
            types[name] = pyarrow.float64()
        else:
            types[name] = plain.get(next(iter(kinds)), pyarrow.string()) if len(kinds) == 1 else pyarrow.string()
    return types


@contextmanager
def _parquet_writer(
    modules: tuple[Any, Any], out: Any, names: list[str], types: dict[str, Any]
) -> Iterator[Callable[[Any], None]]:
    pyarrow, parquet = modules
    schema = pyarrow.schema(list(types.items()))

    def column(name: str, rows: list[Any]) -> Any:
        values = [row.metadata.get(name) for row in rows]
        if types[name] == pyarrow.string():
            values = [_cell(name, value) for value in values]
        return pyarrow.array(values, types[name])

    with parquet.ParquetWriter(out, schema) as file:

        def write(rows: list[Any]) -> None:
            keys = [row.key if isinstance(row.key, int) else str(row.key) for row in rows]
            head = [pyarrow.array(keys, types["key"]), pyarrow.array([row.vector for row in rows], types["vector"])]
            file.write_table(pyarrow.table([*head, *(column(name, rows) for name in names)], schema=schema))

        yield write


def restorers(types: dict[str, str]) -> dict[str, Callable[[str], Any]]:
    """How text becomes a value of a declared type, by column."""
    readers: dict[str, Callable[[str], Any]] = {
        "datetime": datetime.fromisoformat, "date": date.fromisoformat, "bool": json.loads, "dict": json.loads,
        "list": json.loads,
    }  # fmt: skip
    return {name: readers[kind] for name, kind in types.items() if kind in readers}
