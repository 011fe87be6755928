"""A discrete simulation of a search in many shards, some of which are slow for a while.

Queries come at random (Poisson) to the root, go to one replica of every shard at once, the one that will be free
first, and are answered when the last shard is. A replica serves one query after the other. Its service takes 1 unit for
a query of average lists; a share `SLOW_SHARE` of the time, in spells of `SLOW_SPELL` units on average, it is
`SLOW_TIMES` times as slow (a neighbour, a page fault, a clock gone down). Half of the capacity without slow spells is
used (`LOAD`).

What a query scans varies: `scanned` is drawn per query and is the same in all shards, as they have the same centroids.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SHARDS = (1, 4, 16, 64, 256, 1024)
REPLICAS = (1, 2, 3)
QUERIES = 12_000
WARM = 1000  # of them, not counted
LOAD = 0.5
SLOW_TIMES = 5.0
SLOW_SHARE = 0.01
SLOW_SPELL = 10.0


def simulate(shards: int, replicas: int, scanned: np.ndarray, seed: int = 0) -> np.ndarray:
    """Units that each query takes, `scanned` being the rows of each, 1 on average."""
    rng = np.random.default_rng([seed, shards, replicas])
    work = rng.choice(scanned, QUERIES)
    arrivals = np.cumsum(rng.exponential(1 / (LOAD * replicas), QUERIES))
    free = np.zeros((shards, replicas))
    slow = rng.random((shards, replicas)) < SLOW_SHARE
    change = rng.exponential(np.where(slow, SLOW_SPELL, SLOW_SPELL * (1 / SLOW_SHARE - 1)))
    rows = np.arange(shards)
    took = np.empty(QUERIES)
    for i in range(QUERIES):
        while (due := change < arrivals[i]).any():
            slow[due] = ~slow[due]
            mean = np.where(slow[due], SLOW_SPELL, SLOW_SPELL * (1 / SLOW_SHARE - 1))
            change[due] += rng.exponential(mean)
        chosen = free.argmin(axis=1)
        start = np.maximum(free[rows, chosen], arrivals[i])
        end = start + work[i] * np.where(slow[rows, chosen], SLOW_TIMES, 1.0)
        free[rows, chosen] = end
        took[i] = end.max() - arrivals[i]
    return took[WARM:]


def report(scanned: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Print p50 and p99 against shards and replicas for each way to make lists, by what its queries scan."""
    found = []
    print("\n| lists | replicas | " + " | ".join(f"{s} shards" for s in SHARDS) + " |")
    print("|" + "---|" * (2 + len(SHARDS)))
    for name, rows in scanned.items():
        for replicas in REPLICAS:
            cells = []
            for shards in SHARDS:
                p50, p99 = np.percentile(simulate(shards, replicas, rows), [50, 99])
                cells.append(f"{p50:.1f}, {p99:.1f}")
                found.append({"lists": name, "replicas": replicas, "shards": shards, "p50": p50, "p99": p99})
            print(f"| {name} | {replicas} | {' | '.join(cells)} |")
    return found
