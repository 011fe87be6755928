"""Build rate, search time and memory of shards against n, and the cost model of docs/scale.md fitted to them.

    python bench/scale.py [--sizes 100000,200000,300000,500000,1000000] [--left-out 200000,500000] [--dim 96]
                          [--lists 1024] [--shard-rows 100000] [--json FILE]

Vectors are made up block by block and never in memory together: 1,000 centres uniform in 64 to 192 in each dimension,
each row a centre plus normal noise of standard deviation 20, rounded and clipped to 0 ... 255 (uint8); block i comes
from ``default_rng([seed, i])``, centres from ``default_rng(seed)``. Every size runs in a process of its own; its peak
memory is what is not mapped from files (RssAnon, sampled every 10 ms). Times are the shortest of 3 builds and of 15
searches, without the making up: on a shared machine the shortest vary least.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SEED = 7
K = 10
QUERIES = 500
PROBES = (1, 4, 16, 64)
ROUNDS = 3


def block(number: int, rows: int, dim: int) -> np.ndarray:
    centres = np.random.default_rng(SEED).integers(64, 193, size=(1000, dim)).astype(np.float32)
    rng = np.random.default_rng([SEED, number])
    x = centres[rng.integers(len(centres), size=rows)] + rng.normal(scale=20, size=(rows, dim)).astype(np.float32)
    return x.round().clip(0, 255).astype(np.uint8)


class Source:
    """Blocks of n rows, and how many seconds it took to make them up."""

    def __init__(self, n: int, rows: int, dim: int) -> None:
        self._shape = n, rows, dim
        self.seconds = 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        n, rows, dim = self._shape
        for number, start in enumerate(range(0, n, rows)):
            begin = time.perf_counter()
            x = block(number, min(rows, n - start), dim)
            self.seconds += time.perf_counter() - begin
            yield x


class Peak(threading.Thread):
    """The largest RssAnon, in MB, until `stop`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.value = 0.0
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(0.01):
            lines = Path("/proc/self/status").read_text().splitlines()
            line = next(line for line in lines if line.startswith("RssAnon"))
            self.value = max(self.value, int(line.split()[1]) / 1000)

    def stop(self) -> float:
        self._over.set()
        self.join()
        return self.value


def timed(function: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def measure(case: tuple[int, int, int, int]) -> dict[str, Any]:
    n, dim, lists, rows = case
    import fpq
    import fpq.dask

    peak = Peak()
    with tempfile.TemporaryDirectory() as folder:
        index = fpq.IVFPQIndex(lists, m=16)
        source = Source(n, rows, dim)
        fitting, _ = timed(lambda: fpq.dask.fit(index, source))
        fitting -= source.seconds
        building = []
        for number in range(ROUNDS):
            source = Source(n, rows, dim)
            seconds, manifest = timed(lambda s=source, i=number: fpq.dask.build(index, s, f"{folder}/{i}"))
            building.append(seconds - source.seconds)
        disk = sum(path.stat().st_size for path in manifest.parent.iterdir())
        build_peak = peak.stop()
        many = fpq.ShardedIndex(manifest)
        queries = block(10**6, QUERIES, dim)
        scanned = {probes: scanned_rows(index, manifest.parent, many.shards, queries, probes) for probes in PROBES}
        many.search(queries, K, n_probe=max(PROBES))  # pages come in
        search = dict.fromkeys(PROBES, np.inf)
        for _ in range(5 * ROUNDS):  # in turn, so that what disturbs one disturbs all
            for probes in PROBES:
                seconds, _ = timed(lambda p=probes: many.search(queries, K, n_probe=p))
                search[probes] = min(search[probes], seconds / QUERIES)
    return {
        "n": n, "shards": -(-n // rows), "fit s": fitting, "build s": min(building),
        "bytes a vector": disk / n, "peak MB": build_peak, "search s": search, "scanned": scanned,
    }  # fmt: skip


def scanned_rows(index: Any, folder: Path, shards: list[str], queries: np.ndarray, probes: int) -> float:
    """Rows that a query scans, in whole blocks of 64, as the list sizes tell before any search."""
    import fpq

    probed = index._coarse.probe(queries.astype(np.float32), probes, False, 1)
    rows = sum(-(-fpq.load(folder / shard, mmap=True).list_sizes // 64) * 64 for shard in shards)
    return float(rows[probed].sum(axis=1).mean())


def build_terms(point: dict[str, Any]) -> list[float]:
    """Build seconds = a * shards + b * n."""
    return [point["shards"], point["n"]]


def search_terms(point: dict[str, Any], probes: int) -> list[float]:
    """Seconds a query = a + shards * (b + c * probes) + d * scanned rows."""
    shards = point["shards"]
    return [1.0, shards, shards * probes, point["scanned"][probes]]


def fitted(terms: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Coefficients of at least 0 with the least squared relative errors: drop the most negative until none is left."""
    keep = list(range(terms.shape[1]))
    while True:
        scaled = terms[:, keep] / seconds[:, None]
        found = np.linalg.lstsq(scaled, np.ones(len(seconds)), rcond=None)[0]
        if (found >= 0).all():
            whole = np.zeros(terms.shape[1])
            whole[keep] = found
            return whole
        keep.pop(int(np.argmin(found * scaled.max(axis=0))))


def report(points: list[dict[str, Any]], left_out: list[int]) -> None:
    print(
        "| n | shards | fit s | build s | bytes a vector | peak MB | " + " | ".join(f"p{p} us" for p in PROBES) + " |"
    )
    print("|" + "---|" * (6 + len(PROBES)))
    for point in points:
        times = " | ".join(f"{point['search s'][p] * 1e6:.0f}" for p in PROBES)
        print(
            f"| {point['n']} | {point['shards']} | {point['fit s']:.2f} | {point['build s']:.2f} "
            f"| {point['bytes a vector']:.2f} | {point['peak MB']:.0f} | {times} |"
        )
    used = [point for point in points if point["n"] not in left_out]
    build = fitted(np.array([build_terms(p) for p in used]), np.array([p["build s"] for p in used]))
    pairs = [(point, probes) for point in used for probes in PROBES]
    search = fitted(
        np.array([search_terms(point, probes) for point, probes in pairs]),
        np.array([point["search s"][probes] for point, probes in pairs]),
    )
    print(f"\nbuild s = {build[0]:.3g} shards + {build[1]:.3g} n")
    a, b, c, d = search
    print(f"s a query = {a:.3g} + {b:.3g} shards + {c:.3g} shards probes + {d:.3g} scanned\n")
    print("| left out | measured | predicted | error |\n|---|---|---|---|")
    for point in points:
        if point["n"] in left_out:
            rows = [("build s", point["build s"], float(np.dot(build, build_terms(point))))]
            for probes in PROBES:
                predicted = float(np.dot(search, search_terms(point, probes))) * 1e6
                rows.append((f"us a query, {probes} probes", point["search s"][probes] * 1e6, predicted))
            for what, measured, predicted in rows:
                error = predicted / measured - 1
                print(f"| n = {point['n']}, {what} | {measured:.4g} | {predicted:.4g} | {error:+.0%} |")


def numbers(text: str) -> list[int]:
    return [int(float(part)) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=numbers, default=[100_000, 200_000, 300_000, 500_000, 1_000_000])
    parser.add_argument("--left-out", type=numbers, default=[200_000, 500_000])
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--lists", type=int, default=1024)
    parser.add_argument("--shard-rows", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases = [(n, options.dim, options.lists, options.shard_rows) for n in options.sizes]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        points = list(pool.imap(measure, cases, chunksize=1))
    if options.json:
        options.json.write_text(json.dumps(points, indent=1))
    report(points, options.left_out)


if __name__ == "__main__":
    main()
