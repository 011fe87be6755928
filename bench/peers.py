"""fpq beside faiss on the same work: the same data and threads, alternating, each library in its own process.

    python bench/peers.py ivf | lsh                 # see bench/ivf.py, bench/lsh.py
    python bench/peers.py kernels [--threads 2] [--rounds 5] [--only train,encode,search] [--json FILE]

A ratio is the median of faiss's times divided by the median of fpq's; the spread beside it is the least and the
largest ratio of neighbouring runs. A figure above 1 means that fpq is faster.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MNIST_ROWS = 50_000
FAISS_LEVELS = {"scalar": "NONE", "avx2": "AVX2", "avxvnni": "AVX2", "avx512bw": "AVX512", "avx512": "AVX512"}


def data(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows, base rows and queries of a data set, uint8."""
    from fpq import datasets

    loaded = datasets.load(name)
    base = np.ascontiguousarray(loaded.base)
    return (base[:MNIST_ROWS] if name == "mnist" else base), base, np.asarray(loaded.query)


class Fpq:
    """The work as fpq does it. Every method returns (seconds, figure), the figure to be compared beside the time."""

    def __init__(self, threads: int) -> None:
        import fpq

        self.fpq, self.threads = fpq, threads
        self.version = f"fpq {fpq.__version__} ({fpq.cpu_info()['isa']})"

    def train(self, name: str, m: int, nbits: int) -> tuple[float, float]:
        x = data(name)[0]
        pq = self.fpq.ProductQuantizer(m, nbits=nbits, n_threads=self.threads)
        start = time.perf_counter()
        pq.fit(x)
        seconds = time.perf_counter() - start
        return seconds, squared_error(x, lambda rows: pq.decode(pq.encode(rows)))

    def prepare(self, name: str, m: int, nbits: int) -> None:
        train, base, queries = data(name)
        self.index = self.fpq.PQIndex(m, nbits=nbits, n_threads=self.threads).fit(train).add(base)
        self.base, self.queries = base, queries

    def encode(self) -> tuple[float, float]:
        start = time.perf_counter()
        self.index.quantizer.encode(self.base)
        return time.perf_counter() - start, float(len(self.base))

    def kmeans(self, k: int, rows: int, n_iter: int) -> tuple[float, float]:
        x = data("sift500k")[0][:rows].astype(np.float32)
        kmeans = self.fpq.KMeans(
            k, n_iter=n_iter, init="k-means++", max_points_per_centroid=rows, n_threads=self.threads
        )
        start = time.perf_counter()
        kmeans.fit(x)
        return time.perf_counter() - start, objective(x, kmeans.centroids)

    def search(self, k: int, n_queries: int, single: bool) -> tuple[float, float]:
        queries = self.queries[:n_queries].astype(np.float32)
        start = time.perf_counter()
        if single:
            for query in queries:
                self.index.search(query[None], k)
        else:
            self.index.search(queries, k)
        seconds = time.perf_counter() - start
        return seconds / len(queries), 0.0


class Faiss:
    """The same work as faiss does it; float32 copies of the data are made before the clock starts."""

    def __init__(self, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)
        self.faiss = faiss
        level = os.environ.get("FAISS_SIMD_LEVEL") or "its own choice of instruction set"
        self.version = f"faiss {faiss.__version__} ({level})"

    def train(self, name: str, m: int, nbits: int) -> tuple[float, float]:
        x = data(name)[0].astype(np.float32)
        index = self.faiss.IndexPQ(x.shape[1], m, nbits)
        start = time.perf_counter()
        index.train(x)
        seconds = time.perf_counter() - start
        return seconds, squared_error(x, lambda rows: index.sa_decode(index.sa_encode(rows)))

    def prepare(self, name: str, m: int, nbits: int) -> None:
        train, base, queries = data(name)
        self.base, self.queries = base.astype(np.float32), queries
        self.index = self.faiss.index_factory(base.shape[1], f"PQ{m}x{nbits}" + ("fs" if nbits == 4 else ""))
        self.index.train(train.astype(np.float32))
        self.index.add(self.base)

    def encode(self) -> tuple[float, float]:
        start = time.perf_counter()
        self.index.sa_encode(self.base)
        return time.perf_counter() - start, float(len(self.base))

    def kmeans(self, k: int, rows: int, n_iter: int) -> tuple[float, float]:
        x = data("sift500k")[0][:rows].astype(np.float32)
        kmeans = self.faiss.Kmeans(x.shape[1], k, niter=n_iter, max_points_per_centroid=rows)
        start = time.perf_counter()
        kmeans.train(x)
        return time.perf_counter() - start, objective(x, kmeans.centroids)

    search = Fpq.search


def objective(x: np.ndarray, centroids: np.ndarray) -> float:
    """The sum of the squared distances of the rows to their nearest centroids."""
    from fpq import KMeans

    kmeans = KMeans(len(centroids))
    kmeans.centroids = centroids
    nearest = centroids[kmeans.predict(x)]
    return float(((x - nearest) ** 2).sum(dtype=np.float64))


def squared_error(x: np.ndarray, reconstruct: Callable[[np.ndarray], np.ndarray]) -> float:
    """Mean squared error of the reconstructions of 50,000 rows."""
    total, rows = 0.0, x[:MNIST_ROWS]
    for start in range(0, len(rows), 8192):
        block = rows[start : start + 8192].astype(np.float32)
        total += float(((reconstruct(block) - block) ** 2).sum(dtype=np.float64))
    return total / len(rows)


def serve(library: str, threads: int, pipe: Connection) -> None:
    """A process that does one library's work when told."""
    worker = {"fpq": Fpq, "faiss": Faiss}[library](threads)
    pipe.send(worker.version)
    for method, arguments in iter(pipe.recv, None):
        pipe.send(getattr(worker, method)(*arguments))


class Peer:
    """The other end of `serve`."""

    def __init__(self, library: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(library, threads, theirs), daemon=True)
        self.process.start()
        self.version = self.pipe.recv()

    def __call__(self, method: str, *arguments: Any) -> Any:
        self.pipe.send((method, arguments))
        return self.pipe.recv()


class Row(NamedTuple):
    """One line of the table."""

    work: str
    fpq_seconds: float
    faiss_seconds: float
    ratio: float
    lowest: float
    highest: float
    fpq_figure: float
    faiss_figure: float


def compare(work: str, ours: Peer, theirs: Peer, rounds: int, method: str, *arguments: Any) -> Row:
    """Alternate the two, after one warm-up each."""
    pairs = [(ours(method, *arguments), theirs(method, *arguments)) for _ in range(rounds + 1)][1:]
    seconds = [[pair[side][0] for pair in pairs] for side in (0, 1)]
    ratios = [faiss / fpq for fpq, faiss in zip(*seconds, strict=True)]
    ours_median, theirs_median = (statistics.median(s) for s in seconds)
    return Row(work, ours_median, theirs_median, theirs_median / ours_median, min(ratios), max(ratios),
               pairs[-1][0][1], pairs[-1][1][1])  # fmt: skip


def kernels(ours: Peer, theirs: Peer, rounds: int, only: set[str]) -> Iterator[Row]:
    """Training, encoding and flat search."""
    for name, m in (("mnist", 8), ("mnist", 16), ("sift500k", 16)):
        try:
            data(name)
        except FileNotFoundError as error:
            print(f"{name} left out: {error}", file=sys.stderr)
            continue
        title = f"{name} m={m}"
        if "train" in only and name == "sift500k":
            yield compare("k-means 1024 x 128, 100,000 rows", ours, theirs, rounds, "kmeans", 1024, 100_000, 10)
        if "train" in only:
            yield compare(f"train {title}", ours, theirs, rounds, "train", name, m, 8)
        if only & {"encode", "search"}:
            ours("prepare", name, m, 8)
            theirs("prepare", name, m, 8)
        if "encode" in only:
            yield compare(f"encode {title}", ours, theirs, rounds, "encode")
        if "search" in only:
            for k in (10, 100):
                yield compare(f"search {title} k={k}, batch of 1000", ours, theirs, rounds, "search", k, 1000, False)
                yield compare(f"search {title} k={k}, single", ours, theirs, rounds, "search", k, 100, True)
        if "search" in only and name == "sift500k":
            theirs("prepare", name, 32, 4)
            for k in (10, 100):
                yield compare(f"  beside PQ32x4fs k={k}, batch of 1000", ours, theirs, rounds, "search", k, 1000, False)
            ours("prepare", name, 32, 4)
            for k in (10, 100):
                work = f"4-bit codes, m=32, beside PQ32x4fs k={k}"
                yield compare(work, ours, theirs, rounds, "search", k, 1000, False)


def main() -> None:
    """Run, print the table, write the JSON file."""
    if sys.argv[1:2] in (["ivf"], ["lsh"]):
        return importlib.import_module(sys.argv[1]).main(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=["kernels"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", help="force both: scalar, avx2, avxvnni, avx512 (FPQ_ISA, FAISS_SIMD_LEVEL)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="train,encode,search", help="comma-separated: train, encode, search")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    if options.isa:
        os.environ["FPQ_ISA"] = options.isa
        os.environ["FAISS_SIMD_LEVEL"] = FAISS_LEVELS[options.isa]
    ours, theirs = Peer("fpq", options.threads), Peer("faiss", options.threads)
    print(f"{ours.version} beside {theirs.version}, {options.threads} threads, median of {options.rounds}\n")
    print(f"{'':42}{'fpq s':>10}{'faiss s':>10}{'ratio':>8}  {'spread':14}squared error")
    rows = []
    for row in kernels(ours, theirs, options.rounds, set(options.only.split(","))):
        rows.append(row._asdict())
        errors = f"{row.fpq_figure:.6g} / {row.faiss_figure:.6g}" if row.work.startswith(("train", "k-means")) else ""
        print(f"{row.work:42}{row.fpq_seconds:10.4g}{row.faiss_seconds:10.4g}{row.ratio:7.2f}x  "
              f"{f'{row.lowest:.2f} - {row.highest:.2f}':14}{errors}", flush=True)  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({"fpq": ours.version, "faiss": theirs.version, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
