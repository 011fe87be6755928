"""Shards with replicas: rows that move when a worker comes, and latency while workers are slow at times.

python bench/replicas.py [THREADS]

First, the share of the rows that some worker has to open when a worker comes.

Then, searches on a LocalCluster in this process, with one and two replicas, hedged and not. Four workers search 16
shards of 1,000 rows. Most of a task is sleep, so that the workers do not compete for the cores of this machine: 0.2 s,
or 2 s while the worker is slow. A worker is slow for one second in 25, at random times, the same in all rows of the
table. THREADS (default 1) search at once, one query per call; a worker has as many threads.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import distributed
import numpy as np

import fpq
import fpq.dask
from fpq.dask import hedging, serve
from fpq.dask.placement import placed
from fpq.sharding.executor import run_task
from fpq.sharding.manifest import Shard

WORKERS = 4
SECONDS = 60  # per row of the table
WARM = 30  # queries that are not counted
SERVICE = 0.2  # seconds
SLOW_TIMES = 10
SLOW_EVERY = 25  # seconds, for one second


def slow_at_times(workers: list[str]) -> None:
    """Have each task take `SERVICE` seconds, and longer in the seconds in which its worker is slow."""
    begun = time.monotonic()
    times = np.random.default_rng(0).uniform(0, SLOW_EVERY - 1, (2 + SECONDS // SLOW_EVERY, len(workers)))

    def slow(*arguments: Any) -> Any:
        turn, now = divmod(time.monotonic() - begun, SLOW_EVERY)
        is_slow = 0 <= now - times[int(turn), workers.index(distributed.get_worker().address)] < 1
        time.sleep(SERVICE * (SLOW_TIMES if is_slow else 1))
        return run_task(*arguments)

    serve.run_task = slow  # type: ignore[assignment]


def measure(client: Any, manifest: Path, replicas: int, hedged: bool, threads: int) -> str:
    """A row of the table."""
    index = fpq.ShardedIndex(manifest, client=client, replicas=replicas)
    slow_at_times(sorted(client.nthreads()))
    sent: list[int] = []
    first_answers, late_after = hedging.first_answers, hedging.Times.late_after

    def counted(tasks: list[Any], *arguments: Any) -> Any:
        first = len(tasks)
        futures = first_answers(tasks, *arguments)
        sent.append(len(tasks) - first)
        return futures

    serve.first_answers = counted
    if not hedged:
        hedging.Times.late_after = lambda *_: np.inf  # type: ignore[method-assign]

    end = time.monotonic() + SECONDS

    def searches(seed: int) -> list[float]:
        rng, seconds = np.random.default_rng(seed), []
        while (begun := time.monotonic()) < end:
            index.search(rng.normal(size=16).astype(np.float32), 10)
            seconds.append(time.monotonic() - begun)
        return seconds[WARM // threads :]

    with ThreadPoolExecutor(threads) as pool:
        took = np.concatenate(list(pool.map(searches, range(threads)))) * 1e3
    serve.first_answers, hedging.Times.late_after = first_answers, late_after  # type: ignore[method-assign]
    cells = [f"{value:.0f}" for value in np.percentile(took, [50, 90, 99])]
    again = float(np.mean(sent)) if sent else 0.0
    return f"| {replicas} | {'yes' if hedged else 'no'} | {len(took)} | {' | '.join(cells)} | {again:.2f} |"


def moved(shards: int, workers: int, replicas: int, seed: int) -> float:
    """The share of the rows, of all replicas, that workers open which did not hold them before a worker came."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(500_000, 1_500_000, shards)
    entries = [Shard(f"{i}", int(n), 0, i << 21, (i << 21) + int(n) - 1, f"{i}") for i, n in enumerate(sizes)]
    names = [f"tcp://10.0.0.{i}:{rng.integers(1024, 65_536)}" for i in range(workers + 1)]
    before, after = (placed(entries, sorted(some), replicas) for some in (names[:-1], names))
    rows = sum(shard.n * len(set(after[shard]) - set(before[shard])) for shard in entries)
    return rows / int(sizes.sum()) / replicas


def main() -> None:
    print("| shards | workers | replicas | rows that move | at least |\n|---|---|---|---|---|")
    for shards, workers in ((40, 4), (40, 8), (1000, 64)):
        for replicas in (1, 2):
            share = np.mean([moved(shards, workers, replicas, seed) for seed in range(10)])
            print(f"| {shards} | {workers} | {replicas} | {share:.0%} | {1 / (workers + 1):.0%} |")
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    X = np.random.default_rng(0).normal(size=(16_000, 16)).astype(np.float32)
    with (
        tempfile.TemporaryDirectory() as folder,
        distributed.LocalCluster(
            n_workers=WORKERS, threads_per_worker=threads, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        manifest = fpq.dask.build(fpq.FlatIndex(), X, folder, shard_rows=1000)
        print(f"\n{threads} threads\n\n| replicas | hedged | queries | p50 ms | p90 ms | p99 ms | sent again |")
        print("|" + "---|" * 7)
        for replicas, hedged in ((1, False), (2, False), (2, True)):
            print(measure(client, manifest, replicas, hedged, threads), flush=True)


if __name__ == "__main__":
    main()
