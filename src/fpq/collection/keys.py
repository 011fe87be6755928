"""Keys of rows: str, int or UUID, one type per collection."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import numpy as np

from fpq.collection.results import Key

TYPES: dict[str, type] = {"str": str, "int": int, "UUID": UUID}
LARGEST = (1 << 63) - 1


def listed(keys: Any) -> tuple[list[Any], bool]:
    """The keys as a list, and whether `keys` is a single key."""
    if isinstance(keys, (str, int, UUID, np.integer, bytes)) or (isinstance(keys, np.ndarray) and keys.ndim == 0):
        return [keys.item() if isinstance(keys, (np.generic, np.ndarray)) else keys], True
    column = of_column(keys)
    if column is not None:
        return column, False
    if isinstance(keys, dict) or not isinstance(keys, Iterable):
        raise TypeError(f"keys: expected a key or a list of keys, got {type(keys).__name__}")
    return list(keys), False


def of_column(values: Any) -> list[Any] | None:
    """The values of a column of pyarrow, pandas, polars or NumPy; None for anything else."""
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(values, method):
            return list(getattr(values, method)())
    return None


def checked(keys: list[Any], kind: str | None) -> tuple[list[Any], str | None]:
    """The keys as SQLite stores them, and their type; `kind`: the type of the collection, if known."""
    found = set(map(type, keys))
    if not found <= {str, int, UUID}:
        keys = [_plain(key) for key in keys]
        found = set(map(type, keys))
    if not keys:
        return [], kind
    expected = kind or next(name for name, each in TYPES.items() if each is type(keys[0]))
    if found != {TYPES[expected]}:
        other = next(key for key in keys if type(key) is not TYPES[expected])
        raise TypeError(f"keys: expected keys of type {expected}, got {other!r}")
    if expected == "UUID":
        return list(map(str, keys)), expected
    if expected == "int":
        for key in (min(keys), max(keys)):
            if not -LARGEST - 1 <= key <= LARGEST:
                raise ValueError(f"keys: expected integers of 64 bits, got {key}")
        return keys, expected
    try:
        "".join(keys).encode()
    except UnicodeEncodeError:
        raise ValueError("keys: expected text, got a key with half of a surrogate pair") from None
    return keys, expected


def _plain(key: Any) -> Key:
    if isinstance(key, UUID):
        return key
    if isinstance(key, str):
        return str.__str__(key)
    if not isinstance(key, (bool, np.bool_)):
        try:
            return operator.index(key)
        except TypeError:
            pass
    raise TypeError(f"keys: expected str, int or UUID, got {key!r}")


def unique(keys: list[Any]) -> None:
    """Raise ValueError if a key is there twice."""
    if len(set(keys)) == len(keys):
        return
    seen: set[Any] = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"keys: expected different keys, got {key!r} more than once")
        seen.add(key)


def restored(stored: Any, kind: str | None) -> Key:
    """The key that SQLite stores as `stored`."""
    key: Key = UUID(stored) if kind == "UUID" else stored
    return key
