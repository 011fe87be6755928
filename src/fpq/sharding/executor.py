"""Executors of searches in shards: the interface, and the executor of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from fpq.sharding import manifest as manifests
from fpq.sharding.manifest import Manifest, Shard
from fpq.sharding.merge import OpenShards
from fpq.storage import FormatError

Task = Callable[[OpenShards, Any], Any]  # (shards, query) -> result
Answer = tuple[Any, dict[str, str]]  # the result of a task, and the errors of shards that cannot be opened, by file


def run_task(shards: Iterable[Shard], open_shard: Callable[[Shard], Any], task: Task, query: Any) -> Answer:
    """The result of ``task(shards, query)`` for the shards that can be opened, and the errors of the others."""
    opened, missing = [], {}
    for shard in shards:
        try:
            opened.append((open_shard(shard), shard))
        except (OSError, FormatError) as error:
            missing[shard.file] = str(error)
    return task(opened, query), missing


class ShardExecutor(Protocol):
    """The owner of opened shards: this process or the workers of a cluster."""

    def open(self, manifest: Manifest) -> list[Answer]:
        """Open all shards of the manifest, with answers of `open_only`."""

    def run(self, manifest: Manifest, task: Task, query: Any) -> list[Answer]:
        """Answers of `run_task` that together cover all shards of the manifest."""

    def keep(self, shards: Iterable[Shard]) -> None:
        """Close all other shards."""


class LocalShards:
    """The executor of this process, which maps the shards."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened: dict[Shard, Any] = {}

    def open(self, manifest: Manifest) -> list[Answer]:
        """As `ShardExecutor.open`."""
        return self.run(manifest, open_only, None)

    def run(self, manifest: Manifest, task: Task, query: Any) -> list[Answer]:
        """As `ShardExecutor.run`, with one answer."""
        opened = self._opened  # `keep` of another thread replaces it

        def open_shard(shard: Shard) -> Any:
            if shard not in opened:
                opened[shard] = manifests.open_shard(self._folder, shard, manifest)
            return opened[shard]

        return [run_task(manifest.shards, open_shard, task, query)]

    def keep(self, shards: Iterable[Shard]) -> None:
        """As `ShardExecutor.keep`."""
        self._opened = {shard: self._opened[shard] for shard in shards if shard in self._opened}


# ---- tasks that do not search: open, measure, look an id up, check ----


def open_only(shards: OpenShards, query: None) -> None:
    """Do nothing: the executor opens the shards before it runs a task."""


def nbytes(shards: OpenShards, query: None) -> int:
    """The size of the arrays in bytes."""
    return sum(index.nbytes for index, _ in shards)


def holds(shards: OpenShards, number: int) -> bool:
    """Whether an id is in one of the shards."""
    return any(number - shard.offset in index for index, shard in shards)


def verify(shards: OpenShards, query: None) -> None:
    """Check the arrays of all shards.

    Raises
    ------
    FormatError
        If a shard is damaged.
    """
    for index, shard in shards:
        try:
            index.verify()
        except FormatError as error:
            raise FormatError(f"{shard.file}: {error}") from error
