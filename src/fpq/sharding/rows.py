"""The rows of a sharded index by their ids: tasks that list and reconstruct them, and their removal."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fpq import storage
from fpq._checks import Float32, Int64
from fpq.sharding import manifest as manifests
from fpq.sharding.manifest import Manifest, Shard
from fpq.sharding.merge import OpenShards


def ids(shards: OpenShards, query: None) -> list[Int64]:
    """The ids of each shard."""
    return [index.ids + shard.offset for index, shard in shards]


def vectors(shards: OpenShards, wanted: Int64) -> list[tuple[Int64, Float32]]:
    """The places in `wanted` that each shard has, and their vectors."""
    found = []
    for index, shard in shards:
        places = np.flatnonzero((wanted >= shard.first) & (wanted <= shard.last))
        places = places[index._ids.rows_or_missing(wanted[places] - shard.offset) >= 0]
        found.append((places, index.reconstruct(wanted[places] - shard.offset)))
    return found


def without(content: Manifest, folder: Path, removed: Int64) -> Manifest:
    """A manifest of shards without these ids. Shards that hold some of them are written to new files."""
    shards: list[Shard] = []
    try:
        for shard in content.shards:
            shards += _without(content, shard, folder, removed)
    except BaseException:
        delete(folder, set(shards) - set(content.shards))
        raise
    return content.with_shards(shards)


def delete(folder: Path, shards: Iterable[Shard]) -> None:
    """Delete the files of shards that no manifest names."""
    for shard in shards:
        (folder / shard.file).unlink()


def _without(content: Manifest, shard: Shard, folder: Path, removed: Int64) -> list[Shard]:
    """The shard without these ids, or nothing if no row is left."""
    here = removed[(removed >= shard.first) & (removed <= shard.last)] - shard.offset
    if not (manifests.open_shard(folder, shard, content)._ids.rows_or_missing(here) >= 0).any():
        return [shard]
    index: Any = storage.load(folder / shard.file)
    index.remove(here)
    if not len(index):
        return []
    path = _unused(folder / shard.file)
    index.save(path)
    return [manifests.describe(path, folder, shard.offset)[0]]


def _unused(path: Path) -> Path:
    """A name beside `path` that no file has."""
    names = (path.with_name(f"{path.stem.partition('~')[0]}~{i}{path.suffix}") for i in itertools.count(1))
    return next(name for name in names if not name.exists())
