"""Shards held by the workers of a Dask cluster."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fpq import manifest as manifests
from fpq import sharded
from fpq.dask.client import answering
from fpq.manifest import Manifest, Shard

MOST_OPEN = 4096  # shards that a worker keeps mapped

_open_shard = functools.lru_cache(maxsize=MOST_OPEN)(manifests.open_shard)


def _ask_here(folder: Path, about: Manifest, function: Callable[..., Any], question: Any) -> Any:
    """What a worker does: its shards stay mapped from one question to the next."""
    shards, about = about.shards, about._replace(shards=())

    def open_shard(folder: Path, shard: Shard, _: Manifest) -> Any:
        return _open_shard(folder, shard, about)

    return sharded.ask(folder, open_shard, about._replace(shards=shards), function, question)


class Cluster:
    """Shards dealt to the workers, about as many vectors to each.

    Every question is one task a worker. A task of a worker that dies runs on another one, which opens the shards anew.
    """

    def __init__(self, client: Any, folder: Path) -> None:
        self._client = client
        self._folder = folder

    def run(self, about: Manifest, function: Callable[..., Any], question: Any) -> list[Any]:
        """The results of `sharded.ask` for each worker's shards.

        Raises
        ------
        ConnectionError
            If there are no workers, or the scheduler does not answer.
        """
        number = uuid.uuid4().hex
        with answering(self._client):
            parts = _deal(about, sorted(self._client.nthreads()))
            futures = [
                self._client.submit(
                    _ask_here, self._folder, part, function, question,
                    key=f"fpq-{function.__name__.strip('_')}-{number}-{i}", pure=False,
                    workers=[worker], allow_other_workers=True,
                )
                for i, (worker, part) in enumerate(parts.items())
            ]  # fmt: skip
            answers: list[Any] = self._client.gather(futures)
        return answers

    def keep(self, shards: Iterable[Shard]) -> None:
        """Workers let go of what has not been asked for the longest."""


def _deal(about: Manifest, workers: list[str]) -> dict[str, Manifest]:
    """The shards of each worker: the largest first, each to the worker with the fewest vectors."""
    if not workers:
        raise ConnectionError("the Dask cluster has no workers")
    dealt: dict[str, list[Shard]] = {worker: [] for worker in workers}
    load = dict.fromkeys(workers, 0)
    for shard in sorted(about.shards, key=lambda shard: (-shard.n, shard.first)):
        worker = min(workers, key=lambda worker: load[worker])
        dealt[worker].append(shard)
        load[worker] += shard.n
    used = {worker: shards for worker, shards in dealt.items() if shards} or {workers[0]: []}
    return {worker: about._replace(shards=tuple(shards)) for worker, shards in used.items()}
