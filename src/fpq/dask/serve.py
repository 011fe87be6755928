"""Search of shards on the workers of a Dask cluster."""

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

MOST_OPEN = 4096  # mapped shards per worker

_open_shard = functools.lru_cache(maxsize=MOST_OPEN)(manifests.open_shard)


def _run_on_worker(folder: Path, manifest: Manifest, task: Task, query: Any) -> Answer:
    """Run a task for the shards of this worker, which stay mapped between searches."""
    common = manifest._replace(shards=())  # the same key in all calls, for the cache of opened shards
    return run_task(manifest.shards, lambda shard: _open_shard(folder, shard, common), task, query)


class Cluster:
    """A `ShardExecutor` that distributes shards to workers, with about the same number of vectors per worker.

    Every search is one task per worker. If a worker dies, its task runs on another worker, which opens the shards.
    """

    def __init__(self, client: Any, folder: Path) -> None:
        self._client = client
        self._folder = folder

    def run(self, manifest: Manifest, task: Task, query: Any) -> list[Answer]:
        """As `ShardExecutor.run`, with one answer per worker.

        Raises
        ------
        ConnectionError
            If the cluster has no workers, or the scheduler does not respond.
        """
        number = uuid.uuid4().hex
        with answering(self._client):
            parts = _distributed(manifest, sorted(self._client.nthreads()))
            futures = [
                self._client.submit(
                    _run_on_worker, self._folder, part, task, query,
                    key=f"fpq-{task.__name__}-{number}-{i}", pure=False,
                    workers=[worker], allow_other_workers=True,
                )
                for i, (worker, part) in enumerate(parts.items())
            ]  # fmt: skip
            answers: list[Answer] = self._client.gather(futures)
        return answers

    def keep(self, shards: Iterable[Shard]) -> None:
        """Do nothing: the cache of a worker closes the least recently used shards."""


def _distributed(manifest: Manifest, workers: list[str]) -> dict[str, Manifest]:
    """The shards per worker: in descending order of size, each shard goes to the worker with the fewest vectors."""
    if not workers:
        raise ConnectionError("the Dask cluster has no workers")
    assigned: dict[str, list[Shard]] = {worker: [] for worker in workers}
    load = dict.fromkeys(workers, 0)
    for shard in sorted(manifest.shards, key=lambda shard: (-shard.n, shard.first)):
        worker = min(workers, key=lambda worker: load[worker])
        assigned[worker].append(shard)
        load[worker] += shard.n
    used = {worker: shards for worker, shards in assigned.items() if shards} or {workers[0]: []}
    return {worker: manifest._replace(shards=tuple(shards)) for worker, shards in used.items()}
