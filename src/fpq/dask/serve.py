"""Search of shards on the workers of a Dask cluster."""

from __future__ import annotations

import collections
import functools
import threading
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fpq._arrays import aligned
from fpq.dask.client import answering
from fpq.dask.hedging import Sent, Times, first_answers
from fpq.dask.placement import placed
from fpq.sharding import manifest as manifests
from fpq.sharding.executor import Answer, Task, open_only, run_task
from fpq.sharding.manifest import Manifest, Shard
from fpq.sharding.merge import ShardQuery

MOST_OPEN = 4096  # mapped shards per worker

_open_shard = functools.lru_cache(maxsize=MOST_OPEN)(manifests.open_shard)


def _run_on_worker(folder: Path, manifest: Manifest, task: Task, query: Any) -> Answer:
    """Run a task for the shards of this worker, which stay mapped between searches."""
    if isinstance(query, ShardQuery):
        query = query._replace(queries=aligned(query.queries))
    common = manifest._replace(shards=())  # the same key in all calls, for the cache of opened shards
    return run_task(manifest.shards, lambda shard: _open_shard(folder, shard, common), task, query)


class Cluster:
    """A `ShardExecutor` that distributes shards to workers, each shard to `replicas` workers.

    A search is about one task per worker. If a task is late, its shards are sent to other workers too, and the first
    answer counts. If a worker dies, its tasks run on other workers, which open the shards.
    """

    def __init__(self, client: Any, folder: Path, replicas: int) -> None:
        self._client = client
        self._folder = folder
        self._replicas = replicas
        self._placement: tuple[list[str], dict[Shard, list[str]]] = [], {}  # all workers, and those of each shard
        self._times = Times()
        self._running: list[Sent] = []  # also tasks whose answer came too late
        self._lock = threading.Lock()  # for `_running`

    def open(self, manifest: Manifest) -> list[Answer]:
        """As `ShardExecutor.open`, on all workers of each shard."""
        held = collections.defaultdict(list)
        with answering(self._client):
            for shard, workers in self._workers(manifest).items():
                for worker in workers:
                    held[worker].append(shard)
            sent = [self._submit(manifest, open_only, None, *part) for part in held.items()]
            answers: list[Answer] = self._client.gather([each.future for each in sent])
        return answers

    def run(self, manifest: Manifest, task: Task, query: Any) -> list[Answer]:
        """As `ShardExecutor.run`.

        Raises
        ------
        ConnectionError
            If the cluster has no workers, or the scheduler does not respond.
        """
        if not manifest.shards:
            return [_run_on_worker(self._folder, manifest, task, query)]
        kind = task, len(getattr(query, "queries", ())).bit_length()
        sent: list[Sent] = []

        def send_again(late: Sent) -> list[Sent]:
            others = {shard: [each for each in workers[shard] if each != late.worker] for shard in late.shards}
            return self._send(manifest, task, query, others)

        try:
            with answering(self._client):
                workers = self._workers(manifest)
                sent += self._send(manifest, task, query, workers)
                futures = [each.future for each in sent]
                if self._replicas > 1:
                    late_after = self._times.late_after(kind, workers.values())
                    futures = first_answers(sent, late_after, send_again)
                answers: list[Answer] = self._client.gather(futures)
        except BaseException:
            for each in sent:
                each.future.release()  # a task that has not begun will not
            raise
        finally:
            self._forget_done()
        self._times.note(kind, sent)
        return answers

    def keep(self, shards: Iterable[Shard]) -> None:
        """Do nothing: the cache of a worker closes the least recently used shards."""

    def _workers(self, manifest: Manifest) -> dict[Shard, list[str]]:
        """The workers of each shard."""
        all_workers = sorted(self._client.nthreads())
        known, workers = self._placement
        if all_workers != known or not workers.keys() >= set(manifest.shards):
            workers = placed(manifest.shards, all_workers, self._replicas)
            self._placement = all_workers, workers
            self._times.keep(all_workers)
        return {shard: workers[shard] for shard in manifest.shards}

    def _send(self, manifest: Manifest, task: Task, query: Any, workers: dict[Shard, list[str]]) -> list[Sent]:
        """Send each shard to one of its workers: none that is late, if possible, and with the fewest rows to search."""
        parts = collections.defaultdict(list)
        rows: collections.Counter[str] = collections.Counter()
        self._forget_done()
        with self._lock:
            for each in self._running:
                rows[each.worker] += each.rows
            late = {each.worker for each in self._running if each.late}
            for shard in sorted(workers, key=lambda shard: -shard.n):
                worker = min(workers[shard], key=lambda worker: (worker in late, rows[worker]))
                parts[worker].append(shard)
                rows[worker] += shard.n
            sent = [self._submit(manifest, task, query, *part) for part in parts.items()]
            self._running += sent
        return sent

    def _submit(self, manifest: Manifest, task: Task, query: Any, worker: str, shards: Sequence[Shard]) -> Sent:
        future = self._client.submit(
            _run_on_worker, self._folder, manifest._replace(shards=tuple(shards)), task, query,
            key=f"fpq-{task.__name__}-{uuid.uuid4().hex}", pure=False, workers=[worker], allow_other_workers=True,
        )  # fmt: skip
        return Sent(future, worker, shards)

    def _forget_done(self) -> None:
        with self._lock:
            self._running = [each for each in self._running if not each.look()]
