"""How much of each call only one thread can do, and the speed-up to expect from this on 4, 8 and 64 cores.

    python bench/serial.py [--only TEXT] [--rounds 3] [--json docs/data/serial.json]

A call is cut into tasks for 64 threads, but its tasks run one after another on one thread, each of them timed
(`fpq_trace` in csrc/fpq.h). Time outside tasks counts as serial. A parallel region of P cores takes the time that its
measured tasks take if each core takes the next task as soon as it is free. The expected speed-up is the time of all of
it on one thread, divided by the serial time plus the times of the regions. The column "64 by Amdahl" leaves the tasks
out of account: 1 / (s + (1 - s) / 64) for the serial share s.

Python threads (`fpq.threads.parallel_map`) count as regions. BLAS runs on one thread: fpq calls it within tasks, or
for a decomposition (eigh, svd), which runs on one thread in fpq and counts as serial; the last column is its share.
Memory bandwidth, clock rates and the start of threads are not modelled, so real speed-ups are lower.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}  # no other thread takes CPU time

import numpy as np

import fpq
from fpq import _native, threads

CORES = (4, 8, 64)
Call = Callable[[], Any]


class Traced(NamedTuple):
    """A call: seconds in all, in decompositions, and of each task of each region."""

    total: float
    decomposed: float
    regions: list[np.ndarray]

    @property
    def serial(self) -> float:
        """Seconds outside tasks."""
        return self.total - sum(float(tasks.sum()) for tasks in self.regions)

    def expected(self, cores: int) -> float:
        """The expected speed-up."""
        return self.total / (self.serial + sum(makespan(tasks, cores) for tasks in self.regions))


def makespan(tasks: np.ndarray, cores: int) -> float:
    """Seconds until the last task has ended, if each core takes the next task as soon as it is free."""
    if len(tasks) <= cores:
        return float(tasks.max(initial=0))
    busy = [0.0] * cores
    for seconds in tasks.tolist():
        heapq.heapreplace(busy, busy[0] + seconds)
    return max(busy)


LOG = np.empty(1 << 24, np.float32)
_regions: list[np.ndarray] = []
_decomposed: list[float] = []


def take_log() -> None:
    """End the log of the kernels, and keep its regions."""
    used, at = _native.trace(None), 0
    assert used <= len(LOG), "the log is full"
    while at < used:
        n = int(LOG[at])
        _regions.append(LOG[at + 1 : at + 1 + n].astype(np.float64))
        at += 1 + n


def one_after_another(function: Callable[[Any], Any], items: Iterable[Any], _: int) -> list[Any]:
    """`threads.parallel_map` on one thread, logged as a region; regions of its tasks are not."""
    results, seconds = [], []
    take_log()
    with threads._ONE_BLAS_THREAD:
        for item in items:
            start = time.process_time()
            results.append(function(item))
            seconds.append(time.process_time() - start)
    _native.trace(LOG)
    if len(seconds) > 1:
        _regions.append(np.array(seconds))
    return results


def decompose(function: Callable[[Any], Any], matrix: Any) -> Any:
    """`threads.blas_decompose`, with its time logged."""
    start = time.process_time()
    with threads._ONE_BLAS_THREAD:
        result = function(matrix)
    _decomposed.append(time.process_time() - start)
    return result


def traced(call: Call) -> Traced:
    """Make the call, one task after another."""
    _regions.clear()
    _decomposed.clear()
    _native.trace(LOG)
    start = time.process_time()
    try:
        call()
    finally:
        total = time.process_time() - start
        take_log()
    return Traced(total, sum(_decomposed), list(_regions))


def paired(x: np.ndarray) -> np.ndarray:
    """Twice as many rows of twice the dimension: each row beside two others."""
    rng = np.random.default_rng(0)
    return np.vstack([np.hstack([x, x[rng.permutation(len(x))]]) for _ in range(2)])


def works() -> Iterator[tuple[str, Callable[[int], Iterator[tuple[str, Call]]]]]:
    """Names of objects, and the calls of each object for a number of threads."""
    sets = [fpq.datasets.load(name) for name in ("sift500k", "minilm")]
    sift, text = (np.asarray(each.base, np.float32) for each in sets)
    sift_queries, text_queries = (np.asarray(each.query, np.float32) for each in sets)

    def index(
        make: Callable[[int], Any], x: np.ndarray = sift, queries: np.ndarray = sift_queries[:2000], **named: Any
    ) -> Callable[[int], Iterator[tuple[str, Call]]]:
        def calls(n: int) -> Iterator[tuple[str, Call]]:
            made = make(n)
            yield "fit", lambda: made.fit(x)

            def add() -> None:
                made.reset()
                made.add(x)

            yield "add", add
            yield "search", lambda: made.search(queries, 10, **named)
            yield "search, 1 query", lambda: [made.search(query, 10, **named) for query in queries[:50]]

        return calls

    def kmeans(k: int, x: np.ndarray) -> Callable[[int], Iterator[tuple[str, Call]]]:
        def calls(n: int) -> Iterator[tuple[str, Call]]:
            made = fpq.KMeans(k, n_iter=10, max_points_per_centroid=64, n_threads=n)
            yield "fit", lambda: made.fit(x)

        return calls

    pq, ivf = fpq.PQIndex, fpq.IVFPQIndex
    yield "KMeans(2048), 768 dimensions", kmeans(2048, paired(text))
    yield "PQIndex(16)", index(lambda n: pq(16, n_threads=n))
    yield "PQIndex(16), OPQ", index(lambda n: pq(16, rotation="opq", n_threads=n))
    yield "PQIndex(16), PCA", index(lambda n: pq(16, rotation="pca", n_threads=n))
    yield "PQIndex(16), OpenIndexing", index(lambda n: pq(16, open_indexing=1.5, n_threads=n))
    yield "PQIndex(16), sq6", index(lambda n: pq(16, refine="sq6", n_threads=n))
    yield "PQIndex(96), text", index(lambda n: pq(96, n_threads=n), text, text_queries[:2000])
    yield "IVFPQIndex(1024, 16)", index(lambda n: ivf(1024, 16, n_threads=n), n_probe=16)
    yield "IVFPQIndex(1024, 16), plain codes", index(lambda n: ivf(1024, 16, residual=False, n_threads=n), n_probe=16)
    yield "IVFPQIndex(1024, 16), OPQ", index(lambda n: ivf(1024, 16, rotation="opq", n_threads=n), n_probe=16)
    yield "IVFPQIndex(1024, 16), capacity", index(lambda n: ivf(1024, 16, list_capacity=1.5, n_threads=n), n_probe=16)
    yield (
        "IVFPQIndex(1024, 96), text, sq6",
        index(lambda n: ivf(1024, 96, refine="sq6", n_threads=n), text, text_queries[:2000], n_probe=16, rerank=4),
    )
    yield "IVFPQIndex(8192, 16)", index(lambda n: ivf(8192, 16, n_threads=n), n_probe=16)
    yield "FlatIndex", index(lambda n: fpq.FlatIndex(n_threads=n))
    yield "E2LSHIndex", index(lambda n: fpq.E2LSHIndex(n_threads=n), queries=sift_queries[:500])
    yield "C2LSHIndex", index(lambda n: fpq.C2LSHIndex(n_threads=n), queries=sift_queries[:100])
    yield "PMLSHIndex", index(lambda n: fpq.PMLSHIndex(n_threads=n), queries=sift_queries[:100])


def measure(call: Call, rounds: int) -> Traced:
    """The fastest of some rounds, which other work of the machine disturbed least."""
    return min((traced(call) for _ in range(rounds)), key=lambda each: each.total)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="calls whose name contains this text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to save the results")
    options = parser.parse_args()
    threads.MOST_THREADS = CORES[-1]
    threads.parallel_map, threads.blas_decompose = one_after_another, decompose
    print("| call | seconds, 1 core | serial | 4 cores | 8 cores | 64 cores | 64 by Amdahl | decompositions |")
    print("|---|---|---|---|---|---|---|---|")
    rows: dict[str, dict[str, Any]] = {}
    for name, calls in works():
        if options.only and options.only not in name:
            continue
        for kind, call in calls(CORES[-1]):
            found = measure(call, options.rounds)
            share = found.serial / found.total
            speedups = {cores: round(found.expected(cores), 2) for cores in CORES}
            rows[f"{name}: {kind}"] = {
                "seconds": round(found.total, 5), "serial": round(share, 5), "speedup": speedups,
                "amdahl": round(1 / (share + (1 - share) / CORES[-1]), 2),
                "decomposed": round(found.decomposed / found.total, 5),
                "regions": len(found.regions), "tasks": sum(map(len, found.regions)),
            }  # fmt: skip
            print(
                f"| {name}: {kind} | {found.total:.3f} | {share:.1%} | "
                f"{' | '.join(f'{each:.1f}' for each in speedups.values())} | "
                f"{1 / (share + (1 - share) / CORES[-1]):.0f} | {found.decomposed / found.total:.1%} |", flush=True,
            )  # fmt: skip
    if options.json:
        about = {"isa": _native.isa(), "numpy": np.__version__, "python": sys.version.split()[0]}
        options.json.write_text(json.dumps({"about": about, "calls": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
