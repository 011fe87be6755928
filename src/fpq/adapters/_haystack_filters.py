"""Filters of Haystack as conditions in SQL."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import date, datetime
from typing import Any

from haystack.errors import FilterError

from fpq.adapters._columns import Columns
from fpq.adapters._conditions import MISSING, Conditions, all_of, any_of, negated, time_of

LOGIC: dict[str, Callable[[list[str]], str]] = {
    "AND": all_of, "OR": any_of, "NOT": lambda parts: negated(all_of(parts)),
}  # fmt: skip
COMPARISONS = ("==", "!=", ">", ">=", "<", "<=", "in", "not in")
UNSEARCHED = ("blob", "embedding", "meta", "score", "sparse_embedding")  # fields of documents


class Filters:
    """Translates filters for the documents of a collection with these names of metadata."""

    def __init__(self, columns: Columns, names: Collection[str]) -> None:
        self._columns = columns
        self._conditions = Conditions(names)

    @property
    def params(self) -> dict[str, Any]:
        """The values of the conditions."""
        return self._conditions.params

    def condition(self, filters: Any) -> str:
        """The condition of a filter."""
        if not isinstance(filters, dict):
            raise FilterError(f"filters: expected a dict, got {filters!r}")
        if "field" in filters:
            return self._comparison(*_values(filters, "field", "operator", "value"))
        operator, parts = _values(filters, "operator", "conditions")
        if operator not in LOGIC:
            raise FilterError(f"filters: expected one of {', '.join(LOGIC)} as operator, got {operator!r}")
        if not isinstance(parts, list):
            raise FilterError(f"filters: expected a list of conditions, got {parts!r}")
        return LOGIC[operator]([self.condition(part) for part in parts])

    def is_missing(self, name: str) -> str:
        """The condition that a row has no value of this name of the collection."""
        return f"{self._conditions.column(name)} IS NULL"

    def _comparison(self, field: Any, operator: Any, value: Any) -> str:
        column = self._column(field)
        if operator == "==":
            return self._equal(column, value)
        if operator == "!=":
            return negated(self._equal(column, value))
        if operator in ("in", "not in"):
            if not isinstance(value, list):
                raise FilterError(f"filters: expected a list as value of {operator!r}, got {value!r}")
            inside = self._among(column, value)
            return inside if operator == "in" else negated(inside)
        if operator in COMPARISONS:
            return self._ordered(column, operator, value)
        raise FilterError(f"filters: expected one of {', '.join(COMPARISONS)} as operator, got {operator!r}")

    def _column(self, field: Any) -> str:
        if not isinstance(field, str):
            raise FilterError(f"filters: expected a name as field, got {field!r}")
        first, *path = field.split(".")
        if field == "id":
            return "key"
        if field == "content":
            return self._conditions.column("content")
        if first == "meta" and path:
            first, *path = path
        elif first in UNSEARCHED:
            raise FilterError(f"filters: expected id, content or meta.NAME as field, got {field!r}")
        elif path:
            return MISSING  # as Haystack defines it
        column = self._conditions.column(self._columns.stored_name(first))
        if not path or column == MISSING:
            return column
        if '"' in field or not field.isprintable():
            raise FilterError(f'filters: expected printable names without " of values within dicts, got {field!r}')
        return self._conditions.inside(column, path)

    def _equal(self, column: str, value: Any) -> str:
        same, time = self._conditions.equal(column, value), _time(value)
        return same if time is None else any_of([same, self._conditions.at_time(column, "=", time)])

    def _among(self, column: str, values: list[Any]) -> str:
        plain = [value for value in values if isinstance(value, (str, int, float)) and _time(value) is None]
        others = [value for value in values if not isinstance(value, (str, int, float)) or _time(value) is not None]
        return any_of([self._conditions.among(column, plain), *(self._equal(column, value) for value in others)])

    def _ordered(self, column: str, operator: str, value: Any) -> str:
        time = _time(value)
        if value is None:
            return "0"
        if time is not None:
            return self._conditions.at_time(column, operator, time)
        if isinstance(value, (int, float)):
            return self._conditions.ordered(column, operator, value)
        raise FilterError(f"filters: expected a number or a date in ISO format as value of {operator!r}, got {value!r}")


def _values(filters: dict[str, Any], *names: str) -> list[Any]:
    for name in names:
        if name not in filters:
            raise FilterError(f"filters: expected the key {name!r} in {filters}")
    return [filters[name] for name in names]


def _time(value: Any) -> datetime | None:
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day)
    return time_of(value)
