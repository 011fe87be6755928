"""Build rate, search time and memory of shards against n, and the cost model of docs/scale.md fitted to them.

    python bench/scale.py [--sizes 100000,...] [--left-out 200000,...] [--dim 96] [--lists 1024,32768]
                          [--shard-rows 100000] [--json FILE] [--figure FILE] [--measured FILE]

It goes on with bench/extrapolate.py and bench/stragglers.py; ``--measured FILE`` reports on the JSON of an earlier run.

Vectors are made up block by block and never in memory together: 1,000 centres uniform in 64 to 192 in each dimension,
each row a centre plus normal noise of standard deviation 20, rounded and clipped to 0 ... 255 (uint8); block i comes
from ``default_rng([seed, i])``, centres from ``default_rng(seed)``. Every size runs in a process of its own; its peak
memory is what is not mapped from files (RssAnon, sampled every 10 ms). Times are the shortest of 3 builds and of 9
searches, without the making up: on a shared machine the shortest vary least.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import extrapolate
import numpy as np
import stragglers

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
        for _ in range(3 * ROUNDS):  # in turn, so that what disturbs one disturbs all
            for probes in PROBES:
                seconds, _ = timed(lambda p=probes: many.search(queries, K, n_probe=p))
                search[probes] = min(search[probes], seconds / QUERIES)
    return {
        "n": n, "lists": lists, "shards": -(-n // rows), "fit s": fitting, "build s": min(building),
        "bytes per vector": disk / n, "peak MB": build_peak, "search s": search, "scanned": scanned,
    }  # fmt: skip


def scanned_rows(index: Any, folder: Path, shards: list[str], queries: np.ndarray, probes: int) -> float:
    """Rows that a query scans, in whole blocks of 64, as the list sizes tell before any search."""
    import fpq

    probed = index._coarse.probe(queries.astype(np.float32), probes, 1)
    rows = sum(-(-fpq.load(folder / shard, mmap=True).list_sizes // 64) * 64 for shard in shards)
    return float(rows[probed].sum(axis=1).mean())


def fit_terms(point: dict[str, Any]) -> list[float]:
    """Fit seconds of two levels = a * training rows * sqrt(lists)."""
    return [min(point["n"], extrapolate.ROWS_PER_LIST * point["lists"]) * math.sqrt(point["lists"])]


def build_terms(point: dict[str, Any]) -> list[float]:
    """Build seconds = a * shards * lists + n * (b + c * centroids), the centroids that a row meets in two levels."""
    n, lists = point["n"], point["lists"]
    return [point["shards"] * lists, n, n * extrapolate.assigned_in_two_levels(lists)]


def search_terms(point: dict[str, Any], probes: int) -> list[float]:
    """Seconds a query = a + shards * (b + c * probes) + d * scanned rows + e * centroids that a query meets."""
    shards, lists = point["shards"], point["lists"]
    return [1.0, shards, shards * probes, point["scanned"][probes], extrapolate.probed(lists, probes)]


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


def report(points: list[dict[str, Any]], left_out: list[int]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Print measurements, the model fitted to them, and its errors at the points left out."""
    print(
        "| lists | n | shards | fit s | build s | bytes per vector | peak MB | "
        + " | ".join(f"p{p} us" for p in PROBES)
        + " |"
    )
    print("|" + "---|" * (7 + len(PROBES)))
    for point in points:
        times = " | ".join(f"{point['search s'][p] * 1e6:.0f}" for p in PROBES)
        print(
            f"| {point['lists']} | {point['n']} | {point['shards']} | {point['fit s']:.2f} | {point['build s']:.2f} "
            f"| {point['bytes per vector']:.2f} | {point['peak MB']:.0f} | {times} |"
        )
    used = [point for point in points if point["n"] not in left_out]
    build = fitted(np.array([build_terms(p) for p in used]), np.array([p["build s"] for p in used]))
    pairs = [(point, probes) for point in used for probes in PROBES]
    search = fitted(
        np.array([search_terms(point, probes) for point, probes in pairs]),
        np.array([point["search s"][probes] for point, probes in pairs]),
    )
    two_levels = [p for p in used if extrapolate.assigned_in_two_levels(p["lists"])]
    fit = fitted(np.array([fit_terms(p) for p in two_levels]), np.array([p["fit s"] for p in two_levels]))
    print(f"\nfit s = {fit[0]:.3g} rows sqrt(lists)")
    print("build s = {:.3g} shards lists + n ({:.3g} + {:.3g} centroids)".format(*build))
    print(
        "s a query = {:.3g} + {:.3g} shards + {:.3g} shards probes + {:.3g} scanned + {:.3g} centroids\n".format(
            *search
        )
    )
    print("| left out | measured | predicted | error |\n|---|---|---|---|")
    errors = []
    for point in points:
        if point["n"] in left_out:
            name = f"{point['lists']} lists, n = {point['n']}"
            rows = [("build s", point["build s"], float(np.dot(build, build_terms(point))))]
            for probes in PROBES:
                predicted = float(np.dot(search, search_terms(point, probes))) * 1e6
                rows.append((f"us per query, {probes} probes", point["search s"][probes] * 1e6, predicted))
            for what, measured, predicted in rows:
                error = predicted / measured - 1
                errors.append({"of": name, "what": what, "measured": measured, "predicted": predicted})
                print(f"| {name}, {what} | {measured:.4g} | {predicted:.4g} | {error:+.0%} |")
    return {"fit": fit.tolist(), "build": build.tolist(), "search": search.tolist()}, errors


def scanned_by_lists() -> dict[str, np.ndarray]:
    """What queries scan of sift500k, 1 on average of the first way, without and with a limit on lists."""
    import fpq

    data = fpq.datasets.load("sift500k")
    x, queries = np.asarray(data.base[:100_000]), np.asarray(data.query[:1000], np.float32)
    found = {}
    for name, capacity in (("as they come", None), ("balanced, list_capacity=1.5", 1.5)):
        index: Any = fpq.IVFPQIndex(256, m=16, list_capacity=capacity).fit(x).add(x)
        probed = index._coarse.probe(queries, 16, 1)
        found[name] = index.list_sizes[probed].sum(axis=1).astype(np.float64)
    mean = found["as they come"].mean()
    return {name: rows / mean for name, rows in found.items()}


def figure(path: Path, measured: dict[str, Any]) -> None:
    """The model beside what it was not fitted to, and the simulated stragglers, as a .svg or .png file."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    drawing = Figure(figsize=(7.6, 8.4), layout="constrained", facecolor="white")
    model, slow = drawing.subplots(2, 1)
    series = {
        "build s": ("build (s)", "o"),
        "us per query, 16 probes": ("16 probes (µs per query)", "s"),
        "us per query, 64 probes": ("64 probes (µs per query)", "^"),
    }
    for what, (label, marker) in series.items():
        rows = [row for row in measured["left out"] if row["what"] == what]
        model.loglog([r["measured"] for r in rows], [r["predicted"] for r in rows], marker, markersize=8, label=label)
    ends = np.array(model.get_xlim())
    model.fill_between(ends, ends * 0.75, ends * 1.25, color="0.9", label="within 25 %", zorder=0)
    model.plot(ends, ends, color="0.5", linewidth=1)
    model.set(xlabel="measured", ylabel="predicted by the model", xlim=ends)
    model.set_title("Sizes that the model was not fitted to", loc="left", weight="bold")
    for i, name in enumerate(dict.fromkeys(row["lists"] for row in measured["stragglers"])):
        for replicas in stragglers.REPLICAS:
            rows = [r for r in measured["stragglers"] if r["lists"] == name and r["replicas"] == replicas]
            label, style = f"{replicas} replica{'s' * (replicas > 1)}, lists {name.split(',')[0]}", ["-", "--"][i]
            shards, p99 = [r["shards"] for r in rows], [r["p99"] for r in rows]
            slow.loglog(shards, p99, style, marker="o", color=f"C{replicas}", label=label)
    slow.set(xlabel="shards", ylabel="latency, in mean times of a shard's search", ylim=(1.5, 2000))
    slow.set_title("99th percentile of latency with slow machines, simulated", loc="left", weight="bold")
    slow.set_xticks(stragglers.SHARDS)
    slow.xaxis.set_minor_locator(NullLocator())
    for axes in (model, slow):
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    with matplotlib.rc_context({"svg.hashsalt": "fpq"}):
        drawing.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def numbers(text: str) -> list[int]:
    return [int(float(part)) for part in text.split(",")]


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """All measurements, in processes of their own."""
    cases = [(n, options.dim, lists, options.shard_rows) for lists in options.lists for n in options.sizes]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        points = list(pool.imap(measure, cases, chunksize=1))
    scanned = {name: rows.tolist() for name, rows in scanned_by_lists().items()}
    fan_out = extrapolate.fan_out_seconds()
    return {"points": points, "fan out": fan_out, "scanned": scanned, "threads": os.cpu_count()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=numbers, default=[100_000, 200_000, 500_000, 1_000_000, 2_000_000])
    parser.add_argument("--left-out", type=numbers, default=[200_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--lists", type=numbers, default=[1024, 32768])
    parser.add_argument("--shard-rows", type=int, default=100_000)
    parser.add_argument("--measured", type=Path, help="a file of --json to report on, instead of measuring")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path, help="a .svg or .png file")
    options = parser.parse_args()
    found = from_json(options.measured) if options.measured else measured(options)
    if options.json:  # before the report
        options.json.write_text(json.dumps(found, indent=1))
    found["model"], found["left out"] = report(found["points"], options.left_out)
    fits = {**found["model"], "fan out": found["fan out"], "threads": found["threads"]}
    found["extrapolated"] = extrapolate.report(options.dim, fits)
    found["stragglers"] = stragglers.report({name: np.array(rows) for name, rows in found["scanned"].items()})
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if options.figure:
        figure(options.figure, found)


def from_json(path: Path) -> dict[str, Any]:
    """Measurements as they were written: JSON makes strings of the numbers that are keys."""
    found: dict[str, Any] = json.loads(path.read_text())
    for point in found["points"]:
        for key in ("search s", "scanned"):
            point[key] = {int(probes): value for probes, value in point[key].items()}
    found["fan out"] = {int(workers): value for workers, value in found["fan out"].items()}
    return found


if __name__ == "__main__":
    main()
