"""How adapters store documents: some values under names of the adapter, metadata under their own names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fpq.collection import metadata as metadata_


class Columns:
    """The metadata names of a collection that stores documents; `own` are those of the adapter."""

    def __init__(self, own: Iterable[str] = ()) -> None:
        self._own = frozenset(own)
        self._reserved = {*metadata_.RESERVED, *map(str.lower, self._own)}

    def _is_moved(self, name: object) -> bool:
        """Whether the collection stores a name with one more underscore: a reserved name and any underscores."""
        return isinstance(name, str) and name.lower().rstrip("_") in self._reserved

    def stored_name(self, name: str) -> str:
        """The name in the collection; an underscore follows names that the collection or the adapter needs."""
        return f"{name}_" if self._is_moved(name) else name

    def stored(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """The metadata of a document as those of its row."""
        return {self.stored_name(name): value for name, value in metadata.items()}

    def restored(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The metadata of the document of a row, without the values of the adapter."""
        return {
            name[:-1] if self._is_moved(name) and name.endswith("_") else name: value
            for name, value in row.items()
            if name not in self._own
        }
