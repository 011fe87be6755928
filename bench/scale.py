"""Build rate, search time and memory of shards against n, and the cost model of docs/scale.md fitted to them.

    python bench/scale.py [--sizes 100000,...] [--left-out 200000,...] [--dim 96] [--lists 1024,32768]
                          [--shard-rows 100000] [--json FILE] [--figure FILE] [--measured FILE] [--out-of-core FILE]

It goes on with bench/extrapolate.py and bench/stragglers.py; ``--measured FILE`` reports on the JSON of an earlier run.
``--out-of-core FILE`` names the JSON of bench/out_of_core.py, which the model predicts before it is fitted to it too.

Vectors are made up block by block and never in memory together: 1,000 centres uniform in 64 to 192 in each dimension,
each row a centre plus normal noise of standard deviation 20, rounded and clipped to 0 ... 255 (uint8); block i comes
from ``default_rng([seed, i])``, centres from ``default_rng(seed)``. Every size runs in a process of its own; its peak
memory is what is not mapped from files (RssAnon, sampled every 10 ms). Times are seconds of a core, the CPU time of the
process with two threads: other work on the machine counts less. They are the least of 3 builds and of 9 searches,
without the making up.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cost_model
import extrapolate
import numpy as np
import stragglers

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin would count as work

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
    """Blocks of n rows, and how many seconds of a core it took to make them up."""

    def __init__(self, n: int, rows: int, dim: int) -> None:
        self._shape = n, rows, dim
        self.seconds = 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        n, rows, dim = self._shape
        for number, start in enumerate(range(0, n, rows)):
            size = min(rows, n - start)
            seconds, x = cpu_timed(lambda i=number, size=size: block(i, size, dim))
            self.seconds += seconds
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


def cpu_timed(function: Any) -> tuple[float, Any]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def measure(case: tuple[int, int, int, int]) -> dict[str, Any]:
    n, dim, lists, rows = case
    import fpq
    import fpq.dask

    peak = Peak()
    with tempfile.TemporaryDirectory() as folder:
        index = fpq.IVFPQIndex(lists, m=16)
        source = Source(n, rows, dim)
        fitting, _ = cpu_timed(lambda: fpq.dask.fit(index, source))
        fitting -= source.seconds
        building = []
        for number in range(ROUNDS):
            source = Source(n, rows, dim)
            seconds, manifest = cpu_timed(lambda s=source, i=number: fpq.dask.build(index, s, f"{folder}/{i}"))
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
                seconds, _ = cpu_timed(lambda p=probes: many.search(queries, K, n_probe=p))
                search[probes] = min(search[probes], seconds / QUERIES)
    return {
        "n": n, "lists": lists, "shards": -(-n // rows), "queries": QUERIES, "fit s": fitting, "build s": min(building),
        "bytes per vector": disk / n, "peak MB": build_peak, "search s": search, "scanned": scanned,
    }  # fmt: skip


def scanned_rows(index: Any, folder: Path, shards: list[str], queries: np.ndarray, probes: int) -> float:
    """Rows that a query scans, in whole blocks of 64, as the list sizes tell before any search."""
    import fpq

    probed = index._coarse.probe(queries.astype(np.float32), probes, 1)
    rows = sum(-(-fpq.load(folder / shard, mmap=True).list_sizes // 64) * 64 for shard in shards)
    return float(rows[probed].sum(axis=1).mean())


def report(points: list[dict[str, Any]]) -> None:
    """Print the measurements."""
    columns = ("lists", "n", "shards", "fit s", "build s", "bytes per vector", "peak MB")
    print("| " + " | ".join([*columns, *(f"p{p} us" for p in PROBES)]) + " |")
    print("|" + "---|" * (len(columns) + len(PROBES)))
    for point in points:
        cells = [f"{point[name]:.2f}" if isinstance(point[name], float) else str(point[name]) for name in columns]
        print("| " + " | ".join([*cells, *(f"{seconds * 1e6:.0f}" for seconds in point["search s"].values())]) + " |")


def out_of_core(path: Path) -> dict[str, Any]:
    """The point that bench/out_of_core.py has measured in one process."""
    rows = [row for row in json.loads(path.read_text()) if row["way"] == "one process"]
    point = next(row for row in rows if "n" in row)
    point |= {"fit s": point["fit core s"], "build s": point["n"] / point["rows / s / core"]}
    searches = [row for row in rows if "scanned" in row]
    point["search s"] = {row["probes"]: 1 / row["queries / s / core"] for row in searches}
    point["scanned"] = {row["probes"]: row["scanned"] for row in searches}
    return point


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
        "build core s": ("build (core s)", "o"),
        "core us per query, 16 probes": ("16 probes (core µs per query)", "s"),
        "core us per query, 64 probes": ("64 probes (core µs per query)", "^"),
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
    return {"points": points, "fan out": fan_out, "scanned": scanned}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=numbers, default=[100_000, 200_000, 500_000, 1_000_000, 2_000_000])
    parser.add_argument("--left-out", type=numbers, default=[200_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--lists", type=numbers, default=[1024, 32768])
    parser.add_argument("--shard-rows", type=int, default=100_000)
    parser.add_argument("--measured", type=Path, help="a file of --json to report on, instead of measuring")
    parser.add_argument("--out-of-core", type=Path, help="JSON of bench/out_of_core.py: predicted, then fitted to")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path, help="a .svg or .png file")
    options = parser.parse_args()
    found = from_json(options.measured) if options.measured else measured(options)
    if options.json:  # before the report
        options.json.write_text(json.dumps(found, indent=1))
    report(found["points"])
    fitted_to = [point for point in found["points"] if point["n"] not in options.left_out]
    left_out = [point for point in found["points"] if point["n"] in options.left_out]
    more = [out_of_core(options.out_of_core)] if options.out_of_core else []
    found["model"] = cost_model.model_of(fitted_to)
    found["left out"] = cost_model.errors_of(found["model"], left_out + more)
    if more:
        found["model"] = cost_model.model_of(fitted_to + more)
        cost_model.errors_of(found["model"], left_out + more)
    fits = {**found["model"], "fan out": found["fan out"]}
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
