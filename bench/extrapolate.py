"""What bench/scale.py has measured, carried on to sizes that it cannot measure."""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

import numpy as np

CORES = 64  # of a machine, each like one of those measured on
MEMORY = 256e9  # bytes of a machine, of which `FILLED` hold the index
FILLED = 0.75
PROBES = 64
SHARD_ROWS = 1 << 24
LISTS_MEASURED = 1024
ROWS_PER_LIST = 128  # that fit learns from
FIT_ITERATIONS = 10
SIZES = (1e8, 1e9, 1e12)
WORKERS = (1, 4, 16)


def coarse_seconds(dim: int) -> tuple[float, float]:
    """Seconds of a core to compare a row, and a query, with a centroid of the lists."""
    from fpq.indexes.parts.coarse import CoarseQuantizer

    rng = np.random.default_rng(0)
    coarse = CoarseQuantizer(rng.normal(size=(8192, dim)).astype(np.float32), False, 1)
    x = rng.normal(size=(8192, dim)).astype(np.float32)
    best = [np.inf, np.inf]
    for _ in range(3):
        for i, call in enumerate((lambda: coarse.nearest(x, 1), lambda: coarse.probe(x[:1024], PROBES, 1))):
            start = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - start)
    return best[0] / (8192 * 8192), best[1] / (1024 * 8192)


def fan_out_seconds() -> dict[int, float]:
    """Seconds of a search for one query, which takes no time itself, with so many workers, threads of this process."""
    import distributed

    import fpq
    import fpq.dask

    x = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        manifest = fpq.dask.build(fpq.FlatIndex(), x, folder, shard_rows=5)
        for workers in WORKERS:
            with (
                distributed.LocalCluster(
                    workers, threads_per_worker=1, processes=False, dashboard_address=None
                ) as cluster,
                distributed.Client(cluster) as client,
            ):
                many = fpq.ShardedIndex(manifest, client=client)
                times = []
                for _ in range(60):
                    start = time.perf_counter()
                    many.search(x[0], 1)
                    times.append(time.perf_counter() - start)
            seconds[workers] = statistics.median(times[10:])
    return seconds


def at(n: float, dim: int, fits: dict[str, Any]) -> dict[str, Any]:
    """Machines, memory, build and search for n vectors with today's design."""
    per_row, (a, b, c, d) = fits["build"][1], fits["search"]
    assign, probe = fits["coarse"]
    machines = int(np.ceil(n * fits["bytes"] / (FILLED * MEMORY)))
    lists = 2 ** int(np.log2(4 * np.sqrt(n)))
    shards = max(machines, int(np.ceil(n / SHARD_ROWS)))
    scanned = PROBES * (n / lists + 32 * shards)  # half a block of 64 is empty
    coarse = shards * (lists - LISTS_MEASURED) * probe
    threads = fits["threads"]
    search = threads * (a + shards * (b + c * PROBES) + d * scanned) + coarse  # seconds of a core a query
    build = n * (threads * per_row + (lists - LISTS_MEASURED) * assign)
    workers, times = np.array(list(fits["fan out"])), np.array(list(fits["fan out"].values()))
    slope, start = np.polyfit(workers, times, 1)
    busy = min(CORES, max(1, shards // machines))  # cores of a machine that one query can use: a shard each
    return {
        "n": n, "lists": lists, "shards": shards, "machines": machines, "index GB": n * fits["bytes"] / 1e9,
        "fit h": FIT_ITERATIONS * ROWS_PER_LIST * lists * lists * assign / CORES / 3600,
        "build h": build / (machines * CORES) / 3600, "of it coarse": n * lists * assign / build,
        "queries / s": machines * CORES / search, "coarse of a search": coarse / search,
        "latency ms": 1e3 * (search / machines / busy + start + slope * machines),
        "fan-out ms": 1e3 * (start + slope * machines),
        "kB a query over the network": machines * (dim * 4 + 10 * 12) / 1e3,
    }  # fmt: skip


def report(dim: int, fits: dict[str, Any]) -> list[dict[str, Any]]:
    """Print what is to be expected at `SIZES`."""
    assign, probe = fits["coarse"]
    print(
        f"\na row against a centroid {assign * 1e9:.2f} ns, a query against a centroid {probe * 1e9:.2f} ns of a core"
    )
    print("fan-out: " + ", ".join(f"{w} workers {s * 1e3:.1f} ms" for w, s in fits["fan out"].items()))
    found = [at(n, dim, fits) for n in SIZES]
    print("\n| | " + " | ".join(f"{row['n']:.0e}" for row in found) + " |")
    print("|" + "---|" * (1 + len(found)))
    for key in found[0]:
        if key != "n":
            print(
                f"| {key} | "
                + " | ".join(f"{row[key]:,.3g}" if row[key] < 1000 else f"{row[key]:,.0f}" for row in found)
                + " |"
            )
    return found
