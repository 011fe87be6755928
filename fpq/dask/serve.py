"""Shards held by the workers of a Dask cluster."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fpq.dask.client import answering
from fpq.sharding import manifest as manifests
from fpq.sharding.executor import Answer, Task, run_task
from fpq.sharding.manifest import Manifest, Shard

MOST_OPEN = 4096  # shards that a worker keeps mapped

_open_shard = functools.lru_cache(maxsize=MOST_OPEN)(manifests.open_shard)


def _run_here(folder: Path, manifest: Manifest, task: Task, query: Any) -> Answer:
    """The part of a worker, whose shards stay mapped from one search to the next."""
    common = manifest._replace(shards=())  # equal in all calls, so that the cache finds a shard again
    return run_task(manifest.shards, lambda shard: _open_shard(folder, shard, common), task, query)


class Cluster:
    """Shards dealt to the workers, about as many vectors to each: a `ShardExecutor`.

    Every search is one task per worker. A task of a worker that dies runs on another one, which opens the shards anew.
    """

    def __init__(self, client: Any, folder: Path) -> None:
        self._client = client
        self._folder = folder

    def run(self, manifest: Manifest, task: Task, query: Any) -> list[Answer]:
        """As `ShardExecutor.run`: an answer for each worker.

        Raises
        ------
        ConnectionError
            If there are no workers, or the scheduler does not answer.
        """
        number = uuid.uuid4().hex
        with answering(self._client):
            parts = _deal(manifest, sorted(self._client.nthreads()))
            futures = [
                self._client.submit(
                    _run_here, self._folder, part, task, query,
                    key=f"fpq-{task.__name__}-{number}-{i}", pure=False,
                    workers=[worker], allow_other_workers=True,
                )
                for i, (worker, part) in enumerate(parts.items())
            ]  # fmt: skip
            answers: list[Answer] = self._client.gather(futures)
        return answers

    def keep(self, shards: Iterable[Shard]) -> None:
        """Nothing: a worker closes the shards that were not used for the longest time."""


def _deal(manifest: Manifest, workers: list[str]) -> dict[str, Manifest]:
    """The shards of each worker: the largest first, each to the worker with the fewest vectors."""
    if not workers:
        raise ConnectionError("the Dask cluster has no workers")
    dealt: dict[str, list[Shard]] = {worker: [] for worker in workers}
    load = dict.fromkeys(workers, 0)
    for shard in sorted(manifest.shards, key=lambda shard: (-shard.n, shard.first)):
        worker = min(workers, key=lambda worker: load[worker])
        dealt[worker].append(shard)
        load[worker] += shard.n
    used = {worker: shards for worker, shards in dealt.items() if shards} or {workers[0]: []}
    return {worker: manifest._replace(shards=tuple(shards)) for worker, shards in used.items()}
