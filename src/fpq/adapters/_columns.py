"""How adapters store documents: the text as one metadata name, the metadata of a document under their own names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fpq.collection import metadata as metadata_


class Columns:
    """The metadata names of a collection that stores documents."""

    def __init__(self, text_name: str) -> None:
        metadata_.check_name(text_name)
        if text_name.endswith("_"):
            raise ValueError(f"text_name: expected a name without an underscore at the end, got {text_name!r}")
        self.text_name = text_name
        self._reserved = {*metadata_.RESERVED, text_name.lower()}

    def _is_moved(self, name: object) -> bool:
        """Whether the collection stores a name with one more underscore: a reserved name and any underscores."""
        return isinstance(name, str) and name.lower().rstrip("_") in self._reserved

    def stored_name(self, name: str) -> str:
        """The name in the collection; an underscore follows names that the collection or the text needs."""
        return f"{name}_" if self._is_moved(name) else name

    def stored(self, text: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """The metadata of the row of a document."""
        return {self.text_name: text, **{self.stored_name(name): value for name, value in metadata.items()}}

    def restored(self, row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The text and the metadata of the document of a row."""
        rest = {}
        for name, value in row.items():
            if name != self.text_name:
                rest[name[:-1] if self._is_moved(name) and name.endswith("_") else name] = value
        text = row.get(self.text_name)
        return "" if text is None else str(text), rest

    def condition(self, filter: Mapping[str, Any] | str | None, params: Any) -> tuple[str | None, Any]:
        """The arguments `where` and `params` of a search."""
        if filter is None or isinstance(filter, str):
            return filter, params
        if not isinstance(filter, Mapping):
            raise TypeError(f"filter: expected a dict or an SQL condition, got {type(filter).__name__}")
        if params is not None:
            raise ValueError("params: expected none with a dict as filter")
        parts, values = [], []
        for name, value in filter.items():
            metadata_.check_name(self.stored_name(name))
            if value is None:
                parts.append(f'"{self.stored_name(name)}" IS NULL')
            else:
                parts.append(f'"{self.stored_name(name)}" = ?')
                values.append(value)
        return (" AND ".join(parts), values) if parts else (None, None)
