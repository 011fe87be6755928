"""Metadata: values by name, as SQLite stores them.

Numbers, text and bytes are stored as they are, bools as 0 and 1, dates as ISO text, dicts and lists as JSON text. The
column `_kinds` of a row names the values that reading has to convert back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from typing import Any, NamedTuple

import numpy as np

from fpq.collection.keys import of_column

RESERVED = ("id", "key", "_kinds")
MOST_COLUMNS = 500
LONGEST_NAME = 200
PLAIN = frozenset({str, int, float, bytes, type(None)})

# kind: how a value is read
READERS: dict[str, Callable[[Any], Any]] = {
    "bool": bool, "json": json.loads, "datetime": datetime.fromisoformat, "date": date.fromisoformat,
}  # fmt: skip

# declared type: the types of its values, and the type of its SQL column
DECLARED: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "INTEGER"), "float": ((float, int), "REAL"), "str": ((str,), "TEXT"), "bool": ((bool,), "INTEGER"),
    "bytes": ((bytes,), "BLOB"), "dict": ((dict,), "TEXT"), "list": ((list,), "TEXT"),
    "datetime": ((datetime,), "TEXT"), "date": ((date,), "TEXT"),
}  # fmt: skip


class Columns(NamedTuple):
    """Metadata of n rows: values by name, and the content of the column `_kinds` of each row."""

    values: dict[str, list[Any]]
    kinds: list[str | None]


def of_rows(metadata: Any, n: int, *, single: bool, types: Mapping[str, str]) -> Columns:
    """Check the metadata of n rows: a list of dicts, a dict of columns, a data frame or a pyarrow table."""
    if metadata is None:
        return Columns({}, [None] * n)
    if single and isinstance(metadata, Mapping):
        metadata = [metadata]
    columns = _columns(metadata, n)
    for name, values in columns.items():
        check_name(name)
        if len(values) != n:
            raise ValueError(f"metadata: expected {n} values of {name!r}, one per key, got {len(values)}")
    lower = {name.lower(): name for name in columns}
    if len(lower) < len(columns):
        twice = next(name for name in columns if lower[name.lower()] != name)
        raise ValueError(f"metadata: expected names that differ in more than case, got {twice!r} twice")
    kinds: list[dict[str, str] | None] = [None] * n
    stored = {name: _stored(name, list(values), kinds, types.get(name)) for name, values in columns.items()}
    return Columns(stored, [None if kind is None else json.dumps(kind) for kind in kinds])


def _columns(metadata: Any, n: int) -> dict[str, Any]:
    """Values by name from any form of metadata."""
    if isinstance(metadata, Mapping):
        return {name: _listed(name, values) for name, values in metadata.items()}
    if hasattr(metadata, "column_names") and hasattr(metadata, "column"):  # pyarrow.Table
        return {name: metadata.column(name).to_pylist() for name in metadata.column_names}
    if hasattr(metadata, "schema") and hasattr(metadata, "to_pydict"):  # pyarrow.RecordBatch
        return dict(metadata.to_pydict())
    if hasattr(metadata, "columns") and hasattr(metadata, "__getitem__"):  # pandas, polars
        return {name: _listed(name, metadata[name]) for name in metadata.columns}
    if isinstance(metadata, (str, bytes)) or not isinstance(metadata, Iterable):
        raise TypeError(f"metadata: expected a list of dicts, a dict or a table, got {type(metadata).__name__}")
    rows = list(metadata)
    if len(rows) != n:
        raise ValueError(f"metadata: expected {n} dicts, one per key, got {len(rows)}")
    wrong = [row for row in rows if row is not None and not isinstance(row, Mapping)]
    if wrong:
        raise TypeError(f"metadata: expected a dict or None per row, got {wrong[0]!r}")
    rows = [row or {} for row in rows]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _listed(name: Any, values: Any) -> list[Any]:
    column = of_column(values)
    if column is not None:
        return column
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"metadata: expected a list of values of {name!r}, one per key, got {values!r}")
    return list(values)


def check_name(name: Any) -> None:
    """Raise an error unless `name` can be the name of a column."""
    if not isinstance(name, str):
        raise TypeError(f"metadata: expected names of type str, got {name!r}")
    if not name or len(name) > LONGEST_NAME or '"' in name or not name.isprintable():
        raise ValueError(f'metadata: expected names of 1 to {LONGEST_NAME} printable letters without ", got {name!r}')
    if name.lower() in RESERVED:
        raise ValueError(f"metadata: expected other names than {', '.join(RESERVED)}, got {name!r}")


def _stored(name: str, values: list[Any], kinds: list[dict[str, str] | None], declared: str | None) -> list[Any]:
    """Values as SQLite stores them; `kinds` gets an entry for each that has to be converted back."""
    found = set(map(type, values))
    if found <= PLAIN and (declared is None or found <= {*DECLARED[declared][0], type(None)}):
        if int in found:
            _require_64_bits(name, (value for value in values if type(value) is int))
        if str in found:
            _require_text(name, "".join(value for value in values if type(value) is str))
        return values
    for i, value in enumerate(values):
        value, kind = _converted(name, value)
        if declared is not None and value is not None and not _is_of(values[i], kind, declared):
            raise TypeError(f"metadata: expected values of {name!r} of type {declared}, got {values[i]!r}")
        values[i] = value
        if kind is not None:
            if kinds[i] is None:
                kinds[i] = {}
            kinds[i][name] = kind  # type: ignore[index]
    return values


def _is_of(given: Any, kind: str | None, declared: str) -> bool:
    if isinstance(given, np.generic):
        given = given.item()
    if declared in ("int", "float") and isinstance(given, bool):
        return False
    if declared == "date" and kind == "datetime":
        return False
    return isinstance(given, DECLARED[declared][0]) or (declared == "list" and isinstance(given, (tuple, np.ndarray)))


def _converted(name: str, value: Any) -> tuple[Any, str | None]:
    """A value as SQLite stores it, and its kind."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # of pandas
        return None, None
    if isinstance(value, float) and value != value:  # SQLite has no NaN
        return None, None
    if isinstance(value, bool):
        return int(value), "bool"
    if isinstance(value, int):
        _require_64_bits(name, (value,))
        return int(value), None
    if isinstance(value, str):
        _require_text(name, value)
        return str.__str__(value), None
    if isinstance(value, float):
        return float(value), None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value), None
    if isinstance(value, datetime):
        return value.isoformat(), "datetime"
    if isinstance(value, date):
        return value.isoformat(), "date"
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (Mapping, list, tuple)):
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise type(error)(f"metadata: expected {name!r} as JSON can express it: {error}") from None
        _require_text(name, text)
        return text, "json"
    expected = "str, int, float, bool, None, bytes, a date, a dict or a list"
    raise TypeError(f"metadata: expected {expected} for {name!r}, got {type(value).__name__}")


def stored_value(name: str, value: Any) -> Any:
    """A parameter of a condition as SQLite compares it with stored values."""
    return value if type(value) in PLAIN and type(value) is not int else _converted(name, value)[0]


def _require_64_bits(name: str, values: Iterable[int]) -> None:
    for value in values:
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"metadata: expected integers of 64 bits for {name!r}, got {value}")


def _require_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"metadata: expected text for {name!r}, got half of a surrogate pair") from None


def restored(names: list[str], values: tuple[Any, ...], kinds: str | None) -> dict[str, Any]:
    """The metadata of a stored row."""
    found = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    if kinds is not None:
        for name, kind in json.loads(kinds).items():
            if name in found:
                found[name] = READERS[kind](found[name])
    return found


def declared_types(columns: Mapping[str, Any] | None) -> dict[str, str]:
    """Check the argument `columns` of `create`: names of types by column."""
    types = {}
    for name, kind in (columns or {}).items():
        check_name(name)
        known = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
        if known not in DECLARED:
            raise TypeError(f"columns: expected one of {', '.join(DECLARED)} for {name!r}, got {kind!r}")
        types[name] = known
    return types
