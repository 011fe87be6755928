"""What bench/scale.py has measured, carried on to sizes that it cannot measure."""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

import numpy as np
from cost_model import ROWS_PER_LIST, assigned_in_two_levels, probed_in_two_levels, read

CORES = 64  # of a machine, each like one of those measured on
MEMORY = 256e9  # bytes of a machine, of which `FILLED` hold the index
FILLED = 0.75
PROBES = 64
QUERIES = 500  # at once
SHARD_ROWS = 1 << 24
CODE_BYTES, ID_BYTES, BLOCK = 16, 8, 64
SIZES = (1e8, 1e9, 1e12)
WORKERS = (1, 4, 16)


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
    """Machines, memory, build and search for n vectors with this design."""
    lists = 2 ** int(np.log2(4 * np.sqrt(n)))
    shards = int(np.ceil(n / SHARD_ROWS))
    slots = n + lists * shards * BLOCK / 2  # half a block of 64 is empty
    size = slots * (CODE_BYTES + ID_BYTES) + shards * lists * dim * 4  # every shard has the centroids
    machines = int(np.ceil(size / (FILLED * MEMORY)))
    per_list, per_row, per_assigned = fits["build"]
    assigning = n * per_assigned * assigned_in_two_levels(lists)
    build = shards * lists * per_list + n * per_row + assigning
    a, b, c, d, e = fits["search"]
    probing = machines * e * probed_in_two_levels(lists, PROBES)  # a process selects the probes for all its shards
    search = machines * a + shards * (b + c * read(lists, PROBES, QUERIES)) + d * PROBES * slots / lists + probing
    workers, times = np.array(list(fits["fan out"])), np.array(list(fits["fan out"].values()))
    slope, start = np.polyfit(workers, times, 1)
    busy = min(CORES, max(1, shards // machines))  # cores of a machine that one query can use: a shard each
    return {
        "n": n, "lists": lists, "shards": shards, "machines": machines, "index GB": size / 1e9,
        "fit h": fits["fit"][0] * ROWS_PER_LIST * lists**1.5 / CORES / 3600,
        "build h": build / (machines * CORES) / 3600, "share of two levels in build": assigning / build,
        "queries per s": machines * CORES / search, "share of the coarse quantizer in a search": probing / search,
        "latency ms": 1e3 * (search / machines / busy + start + slope * machines),
        "fan-out ms": 1e3 * (start + slope * machines),
        "kB per query over the network": machines * (dim * 4 + 10 * 12) / 1e3,
    }  # fmt: skip


def report(dim: int, fits: dict[str, Any]) -> list[dict[str, Any]]:
    """Print what is to be expected at `SIZES`."""
    print("\nfan-out: " + ", ".join(f"{w} workers {s * 1e3:.1f} ms" for w, s in fits["fan out"].items()))
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
