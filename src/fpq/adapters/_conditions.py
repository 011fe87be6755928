"""Conditions in SQL from comparisons of metadata with values.

Names that no row has are NULL, and all values are parameters: nothing of a filter but known names is in the text.
A comparison with a missing value is false or NULL, which a search takes as false; so does `negated`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from fpq.collection import metadata as metadata_
from fpq.collection.scanner import MOST_SELECTS
from fpq.collection.store import quoted

MISSING = "NULL"
MANY = 1000  # values that become one parameter: the text of a condition is limited
DATE = re.compile(r"\d{4}-\d\d-\d\d([Tt ].*)?", re.DOTALL)


class Conditions:
    """Builds one condition; `params` are the values that its parts have."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._selects = 0
        self.params: dict[str, Any] = {}

    def _value(self, value: Any) -> str:
        name = f"p{len(self.params)}"
        self.params[name] = metadata_.stored_value("filters", value)
        return f":{name}"

    def _values(self, values: Iterable[Any]) -> str:
        return ", ".join(map(self._value, values))

    def _select(self, what: str, column: str) -> str:
        """The start of a SELECT over the elements of a list."""
        self._selects += 1
        if self._selects > MOST_SELECTS:
            raise ValueError(
                f"filters: expected at most {MOST_SELECTS} comparisons of lists or with long lists, got more"
            )
        return f"SELECT {what} FROM json_each({column})"

    def column(self, name: str) -> str:
        """The value of this metadata name."""
        return f"rows.{quoted(name)}" if name in self._names else MISSING

    def inside(self, column: str, path: Sequence[str]) -> str:
        """A value within dicts."""
        place = self._value("$" + "".join(f'."{name}"' for name in path))
        return _choice(_is_json(column), f"json_extract({column}, {place})", "NULL")

    def equal(self, column: str, value: Any) -> str:
        """Whether a value is equal; None: whether it is missing. Dicts and lists are equal if their JSON is."""
        if value is None:
            return f"{column} IS NULL"
        if isinstance(value, (dict, list, tuple)):
            return _choice(_is_json(column), f"json({column}) = json({self._value(value)})", "0")
        return f"{column} = {self._value(value)}"

    def among(self, column: str, values: Sequence[Any]) -> str:
        """Whether a value is one of these."""
        if len(values) > MANY and all(isinstance(value, (str, int)) for value in values):
            return f"{column} IN ({self._select('json_each.value', self._value(values))})"
        return f"{column} IN ({self._values(values)})"

    def ordered(self, column: str, operator: str, value: Any) -> str:
        """Whether a value of the same kind, number or text, is less or greater."""
        kinds = "('text')" if isinstance(value, str) else "('integer', 'real')"
        return f"({column} {operator} {self._value(value)} AND typeof({column}) IN {kinds})"

    def at_time(self, column: str, operator: str, time: datetime) -> str:
        """Whether a date in ISO format is earlier, later or the same, to the millisecond.

        A date without a time zone is in that of the other date.
        """
        is_date = f"{column} GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*'"
        is_aware = f"substr({column}, 12) GLOB '*[-+Zz]*'"
        local = self._value(time.replace(tzinfo=None))
        if time.tzinfo is None:
            length = f"length({column}) - (" + _choice(f"{column} GLOB '*[Zz]'", "1", "6") + ")"
            aware = f"julianday(substr({column}, 1, {length})) {operator} julianday({local})"
        else:
            aware = f"julianday({column}) {operator} julianday({self._value(time)})"
        naive = f"julianday({column}) {operator} julianday({local})"
        return f"({is_date} AND {_choice(is_aware, aware, naive)})"

    def has_text(self, column: str, text: str, *, ignore_case: bool = False) -> str:
        """Whether a text contains another; without regard to the case of ASCII letters if asked for."""
        whole, part = column, self._value(text)
        if ignore_case:
            whole, part = f"lower({whole})", f"lower({part})"
        return f"(typeof({column}) = 'text' AND instr({whole}, {part}) > 0)"

    def has_any(self, column: str, values: Sequence[Any]) -> str:
        """Whether a list contains one of the values, or a text one of the texts."""
        inside = f"EXISTS ({self._select('1', column)} WHERE json_each.value IN ({self._values(values)}))"
        texts = any_of([self.has_text(column, value) for value in values if isinstance(value, str)])
        return _choice(_is_list(column), inside, texts)

    def has_all(self, column: str, values: Sequence[Any]) -> str:
        """Whether a list contains all of the values, or a text all of the texts."""
        values = list(dict.fromkeys(values))
        matches = self._select("count(DISTINCT json_each.value)", column)
        inside = f"({matches} WHERE json_each.value IN ({self._values(values)})) = {len(values)}"
        texts = all_of([self.has_text(column, value) if isinstance(value, str) else "0" for value in values])
        return _choice(_is_list(column), inside, f"{texts} AND {column} IS NOT NULL")


def all_of(parts: Sequence[str]) -> str:
    """A condition that is true if all parts are."""
    return f"({' AND '.join(parts)})" if parts else "1"


def any_of(parts: Sequence[str]) -> str:
    """A condition that is true if one of the parts is."""
    return f"({' OR '.join(parts)})" if parts else "0"


def negated(part: str) -> str:
    """A condition that is true if a part is false or NULL."""
    return f"(({part}) IS NOT TRUE)"


def time_of(value: Any) -> datetime | None:
    """The time of a datetime or of a text in ISO format that begins with a whole date; None for anything else."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not DATE.fullmatch(value):
        return None
    try:
        return datetime.fromisoformat(re.sub("[Zz]$", "+00:00", value))  # Python 3.10 does not know the Z
    except ValueError:
        return None


def _is_json(column: str) -> str:
    return f"(typeof({column}) = 'text' AND json_valid({column}))"


def _is_list(column: str) -> str:
    return _choice(_is_json(column), f"json_type({column}) = 'array'", "0")


def _choice(test: str, then: str, otherwise: str) -> str:
    return f"CASE WHEN {test} THEN {then} ELSE {otherwise} END"
