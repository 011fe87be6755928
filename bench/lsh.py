"""Recall@10 against queries per second of LSH indexes, beside exact search.

    python bench/peers.py lsh [--sets mnist,sift500k] [--methods e2lsh,c2lsh,pmlsh,pmlsh-rules,faiss,falconn]
                              [--queries 300] [--rounds 3] [--cpu] [--json FILE] [--png FILE]

Every index runs in a process of its own, where exact search by FlatIndex alternates with it: a ratio is the index's
median rate divided by that of exact search measured at the same time. "single" is one query a call on one thread,
"batch" all queries in one call on all threads. Rates of a shared machine vary, ratios less so; "--cpu" counts the CPU
time of the process instead, for one thread on a machine with other load. Memory is what the process grew by for the
index with its vectors, the data set itself not counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

K = 10
TARGETS = (0.9, 0.95)
Search = Callable[[np.ndarray, int], np.ndarray]  # queries, threads -> ids


class E2LSH:
    """fpq.E2LSHIndex with its defaults."""

    def __init__(self, base: np.ndarray, threads: int) -> None:
        import fpq

        self.index = fpq.E2LSHIndex(n_threads=threads).fit(base).add(base)
        self.text = f"{self.index.n_tables} tables x {self.index.n_hashes} hashes"

    def settings(self) -> list[int]:
        return [8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024, 2048]

    def search(self, setting: int) -> Search:
        return lambda q, threads: self.index.search(q, K, n_probe=setting, n_threads=threads).ids


class C2LSH:
    """fpq.C2LSHIndex with its defaults."""

    def __init__(self, base: np.ndarray, threads: int) -> None:
        import fpq

        self.index = fpq.C2LSHIndex(n_threads=threads).fit(base).add(base)
        self.text = f"{self.index.n_hashes} hashes"

    def settings(self) -> list[int]:
        return [50, 100, 200, 400, 800, 1600, 3200, 6400, 12800]

    def search(self, setting: int) -> Search:
        return lambda q, threads: self.index.search(q, K, n_candidates=setting, n_threads=threads).ids


class PMLSH:
    """fpq.PMLSHIndex with its defaults; settings are numbers of candidates."""

    def __init__(self, base: np.ndarray, threads: int) -> None:
        import fpq

        self.index = fpq.PMLSHIndex(n_threads=threads).fit(base).add(base)
        self.text = f"{self.index.n_hashes} projections"

    def settings(self) -> list[int]:
        return [50, 100, 200, 400, 800, 1600, 3200, 6400, 12800]

    def search(self, setting: int) -> Search:
        return lambda q, threads: self.index.search(q, K, n_candidates=setting, n_threads=threads).ids


class PMLSHRules:
    """fpq.PMLSHIndex with its stop rules; settings are delta in thousandths. The build is that of one index."""

    def __init__(self, base: np.ndarray, threads: int) -> None:
        import fpq

        self.base, self.make = base, fpq.PMLSHIndex
        self.index = self.make(n_threads=threads).fit(base).add(base)
        self.text = f"{self.index.n_hashes} projections, by the stop rules"

    def settings(self) -> list[int]:
        return [500, 200, 100, 50, 20, 10, 5, 2, 1]

    def search(self, setting: int) -> Search:
        index = self.make(delta=setting / 1000).fit(self.base).add(self.base)
        return lambda q, threads: index.search(q, K, n_threads=threads).ids


class Faiss:
    """faiss IndexLSH (sign bits, exhaustive) with 4 bits a dimension, its best rows ranked again exactly."""

    def __init__(self, base: np.ndarray, threads: int) -> None:
        import faiss

        self.faiss, d = faiss, base.shape[1]
        faiss.omp_set_num_threads(threads)
        self.index = faiss.IndexRefineFlat(faiss.IndexLSH(d, min(1024, 4 * d), True, True))
        x = base.astype(np.float32)
        self.index.train(x)
        self.index.add(x)
        self.text = f"{min(1024, 4 * d)} bits"

    def settings(self) -> list[int]:
        return [2, 5, 10, 20, 40, 80, 160, 320]

    def search(self, setting: int) -> Search:
        def search(q: np.ndarray, threads: int) -> np.ndarray:
            self.faiss.omp_set_num_threads(threads)
            self.index.k_factor = setting
            return np.asarray(self.index.search(q, K)[1])

        return search


class Falconn:
    """FALCONN's cross-polytope tables on centred float32 vectors; one thread a query object."""

    def __init__(self, base: np.ndarray, threads: int) -> None:
        import falconn

        self.centre = base.mean(0, dtype=np.float64).astype(np.float32)
        self.x = base.astype(np.float32) - self.centre
        parameters = falconn.LSHConstructionParameters()
        parameters.dimension = base.shape[1]
        parameters.lsh_family = falconn.LSHFamily.CrossPolytope
        parameters.distance_function = falconn.DistanceFunction.EuclideanSquared
        parameters.l = 20
        parameters.num_rotations = 1
        parameters.seed = 5721840
        parameters.num_setup_threads = threads
        parameters.storage_hash_table = falconn.StorageHashTable.BitPackedFlatHashTable
        bits = max(10, round(float(np.log2(len(base)))) - 1)
        falconn.compute_number_of_hash_functions(bits, parameters)
        self.table = falconn.LSHIndex(parameters)
        self.table.setup(self.x)
        self.query = self.table.construct_query_object()
        self.text = f"20 tables, {bits} bits"

    def settings(self) -> list[int]:
        return [20, 40, 80, 160, 320, 640, 1280, 2560, 5120]

    def search(self, setting: int) -> Search:
        def search(q: np.ndarray, threads: int) -> np.ndarray:
            self.query.set_num_probes(setting)
            ids = np.full((len(q), K), -1)
            for i, row in enumerate(q - self.centre):
                found = self.query.find_k_nearest_neighbors(row, K)
                ids[i, : len(found)] = found
            return ids

        return search


METHODS: dict[str, Any] = {
    "e2lsh": E2LSH,
    "c2lsh": C2LSH,
    "pmlsh": PMLSH,
    "pmlsh-rules": PMLSHRules,
    "faiss": Faiss,
    "falconn": Falconn,
}


def resident() -> int:
    """Bytes of memory that this process has."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def rate(search: Search, queries: np.ndarray, single: bool, threads: int, cpu: bool) -> float:
    clock = time.process_time if cpu else time.perf_counter
    start = clock()
    if single:
        for i in range(len(queries)):
            search(queries[i : i + 1], 1)
    else:
        search(queries, threads)
    return len(queries) / (clock() - start)


def measure(method: str, name: str, n_queries: int, rounds: int, threads: int, cpu: bool, pipe: Any) -> None:
    """In a process of its own: build, then all settings up to a recall of 0.99. Sends rows, then None."""
    import fpq

    data = fpq.datasets.load(name)
    base, queries = np.ascontiguousarray(data.base), np.asarray(data.query)[:n_queries].astype(np.float32)
    before = resident()
    start = time.perf_counter()
    try:
        tested = METHODS[method](base, threads)
    except ImportError as error:
        pipe.send({"method": method, "set": name, "error": str(error)})
        pipe.send(None)
        return
    build, memory = time.perf_counter() - start, resident() - before
    flat = fpq.FlatIndex().add(base)
    truth = flat.search(queries, K).ids

    def exact(q: np.ndarray, threads: int) -> np.ndarray:
        return flat.search(q, K, n_threads=threads).ids

    for setting in tested.settings():
        search = tested.search(setting)
        recall = fpq.metrics.recall_at_k(search(queries, 1), truth)
        row: dict[str, Any] = {
            "method": method, "set": name, "what": tested.text, "setting": setting, "recall": recall,
            "build_s": build, "memory_mb": memory / 1e6,
        }  # fmt: skip
        for kind in ("single", "batch"):
            single = kind == "single"
            few = queries[: 20 if single else n_queries]
            pairs = [
                (rate(search, queries, single, threads, cpu), rate(exact, few, single, threads, cpu))
                for _ in range(rounds)
            ]
            ours, theirs = (statistics.median(rates) for rates in zip(*pairs, strict=True))
            row |= {f"{kind}_qps": ours, f"{kind}_exact_qps": theirs, f"{kind}_ratio": ours / theirs}
        pipe.send(row)
        if recall > 0.99:
            break
    pipe.send(None)


def rows_of(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    for name in options.sets.split(","):
        for method in options.methods.split(","):
            pipe, theirs = context.Pipe()
            arguments = (method, name, options.queries, options.rounds, options.threads, options.cpu, theirs)
            process = context.Process(target=measure, args=arguments)
            process.start()
            theirs.close()
            try:
                yield from iter(pipe.recv, None)
            except EOFError:
                yield {"method": method, "set": name, "error": "its process died"}
            process.join()


def at_recall(rows: list[dict[str, Any]], recall: float, key: str) -> float | None:
    """A rate at a recall, between the two settings around it by the logarithm; None if it is not reached."""
    points = sorted((row["recall"], row[key]) for row in rows)
    for (r0, y0), (r1, y1) in itertools.pairwise(points):
        if r0 <= recall <= r1:
            share = (recall - r0) / (r1 - r0) if r1 > r0 else 0.0
            return float(np.exp((1 - share) * np.log(y0) + share * np.log(y1)))
    return points[0][1] if points and points[0][0] >= recall else None


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = sorted({row["set"] for row in rows})
    figure, axes = pyplot.subplots(1, len(names), figsize=(6 * len(names), 4.5), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        here = [row for row in rows if row["set"] == name]
        for method in dict.fromkeys(row["method"] for row in here):
            curve = [row for row in here if row["method"] == method]
            axis.plot([r["recall"] for r in curve], [r["single_ratio"] for r in curve], marker="o", label=method)
        axis.axhline(1, color="grey", linewidth=1)
        axis.set(title=f"{name}, one thread, single queries", xlabel="recall@10", yscale="log",
                 ylabel="queries per second / exact search")  # fmt: skip
        axis.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main(arguments: list[str]) -> None:
    """Run, print the tables, write JSON and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="mnist,sift500k")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--json", type=Path, default=Path("lsh.json"))
    parser.add_argument("--png", type=Path, default=Path("lsh.png"))
    options = parser.parse_args(arguments)
    rows = []
    print(f"{'':22}{'setting':>8}{'recall':>8}{'single QPS':>12}{'x exact':>9}{'batch QPS':>11}{'x exact':>9}")
    for row in rows_of(options):
        if "error" in row:
            print(f"{row['set']:10}{row['method']:12} left out: {row['error']}")
            continue
        rows.append(row)
        print(f"{row['set']:10}{row['method']:12}{row['setting']:8}{row['recall']:8.3f}{row['single_qps']:12.0f}"
              f"{row['single_ratio']:8.1f}x{row['batch_qps']:11.0f}{row['batch_ratio']:8.1f}x", flush=True)  # fmt: skip
    print(f"\n{'':22}{'build s':>8}{'MB':>7}" + "".join(f"{f'single, batch at {t}':>24}" for t in TARGETS))
    for key in dict.fromkeys((row["set"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["set"], row["method"]) == key]
        cells = ""
        for target in TARGETS:
            found = [at_recall(mine, target, f"{kind}_ratio") for kind in ("single", "batch")]
            cells += f"{', '.join('-' if value is None else f'{value:.1f}x' for value in found):>24}"
        line = f"{key[0]:10}{key[1]:12}{mine[0]['build_s']:8.1f}{mine[0]['memory_mb']:7.0f}{cells}"
        print(f"{line}  {mine[0]['what']}")
    options.json.write_text(json.dumps(rows, indent=1))
    if rows:
        plot(rows, options.png)
