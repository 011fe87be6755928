"""Inverted files on sift500k: queries a second against recall, beside faiss and, where installed, ScaNN.

    python bench/peers.py ivf [--threads 2] [--rounds 3] [--only fpq,faiss] [--json FILE] [--png FILE]

Each index lives in a process of its own; the searches of one effort alternate over all of them, a batch of all
queries in one call. A row gives the median rate, recall of the true nearest among the first 1 and 100, the share of the
ten nearest found among ten (10@10), and the bytes a vector that the index takes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

LISTS = 1024
EFFORTS = (1, 2, 4, 8, 16, 32, 64, 128)  # lists, or 1/16 of efSearch
LAST_OF_CODES = 64  # for what does not rank by vectors
Search = Callable[[np.ndarray, int, int], np.ndarray]  # queries, k, effort -> ids


def fpq_index(threads: int, base: np.ndarray, **parameters: Any) -> tuple[Search, int]:
    """IVFPQIndex; `rerank` times as many candidates as neighbours are re-scored by kept vectors."""
    import fpq

    rerank = parameters.pop("rerank", None)
    index = fpq.IVFPQIndex(LISTS, n_threads=threads, keep_vectors=rerank is not None, **parameters).fit(base).add(base)
    return lambda q, k, effort: index.search(q, k, n_probe=effort, rerank=rerank).ids, index.nbytes


def faiss_index(threads: int, base: np.ndarray, factory: str, parameter: str = "nprobe", scale: int = 1) -> Any:
    """An index of faiss's factory; the effort times `scale` goes into `parameter`."""
    import faiss

    faiss.omp_set_num_threads(threads)
    vectors = base.astype(np.float32)
    index = faiss.index_factory(vectors.shape[1], factory)
    index.train(vectors)
    index.add(vectors)
    space = faiss.ParameterSpace()

    def search(queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        space.set_index_parameter(index, parameter, effort * scale)
        return index.search(queries, k)[1]

    return search, len(faiss.serialize_index(index))


def scann_index(threads: int, base: np.ndarray, reorder: int) -> tuple[Search, int]:
    """ScaNN: a tree, asymmetric hashing in 16 bytes, re-ordering of `reorder` times k by float32 vectors."""
    import scann

    vectors = base.astype(np.float32)
    index = (
        scann.scann_ops_pybind.builder(vectors, 10, "squared_l2")
        .set_n_training_threads(threads)
        .tree(LISTS, 32, training_sample_size=250_000)
        .score_ah(4, anisotropic_quantization_threshold=0.2)
        .reorder(100)
        .build()
    )
    index.set_num_threads(threads)

    def search(queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        return index.search_batched_parallel(queries, k, reorder * k, effort)[0]

    return search, len(base) * (16 + 4 * base.shape[1])


METHODS: dict[str, Callable[[int, np.ndarray], tuple[Search, int]]] = {
    "fpq IVF1024,PQ16": fpq_index,
    "fpq IVF1024,PQ16 plain": lambda threads, base: fpq_index(threads, base, residual=False),
    "fpq IVF1024,PQ16 + u8 x10": lambda threads, base: fpq_index(threads, base, rerank=10),
    "fpq IVF1024,PQ16 plain + u8 x3": lambda threads, base: fpq_index(threads, base, residual=False, rerank=3),
    "fpq IVF1024,PQ16 plain + u8 x5": lambda threads, base: fpq_index(threads, base, residual=False, rerank=5),
    "fpq IVF1024,PQ16 plain + u8 x20": lambda threads, base: fpq_index(threads, base, residual=False, rerank=20),
    "faiss IVF1024,PQ16": lambda threads, base: faiss_index(threads, base, "IVF1024,PQ16"),
    "faiss IVF1024,PQ32x4fs": lambda threads, base: faiss_index(threads, base, "IVF1024,PQ32x4fs"),
    "faiss IVF1024,PQ32x4fsr": lambda threads, base: faiss_index(threads, base, "IVF1024,PQ32x4fsr"),
    "faiss IVF1024,RaBitQ": lambda threads, base: faiss_index(threads, base, "IVF1024,RaBitQ"),
    "faiss HNSW16": lambda threads, base: faiss_index(threads, base, "HNSW16", "efSearch", 16),
    "scann 1024 + f32 x10": lambda threads, base: scann_index(threads, base, 10),
    "scann 1024 + f32 x30": lambda threads, base: scann_index(threads, base, 30),
}
EXACT = (" x", "HNSW")  # in the names of methods that rank by vectors


def serve(method: str, threads: int, pipe: Connection) -> None:
    """Build one index, then search when told: (k, effort) -> seconds, ids."""
    from fpq import datasets

    loaded = datasets.load("sift500k")
    base, queries = np.asarray(loaded.base), np.asarray(loaded.query).astype(np.float32)
    try:
        start = time.perf_counter()
        search, nbytes = METHODS[method](threads, base)
        pipe.send((time.perf_counter() - start, nbytes / len(base)))
    except (ImportError, RuntimeError) as error:  # not installed, or not in this release of faiss
        pipe.send(str(error))
        return
    for k, effort in iter(pipe.recv, None):
        start = time.perf_counter()
        ids = search(queries, k, effort)
        pipe.send((time.perf_counter() - start, np.asarray(ids)))


def recalls(ids: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Shares of true neighbours among ids (nq, 100)."""
    return {
        "R@1": float((ids[:, :1] == truth[:, :1]).mean()),
        "10@10": float(np.mean([np.isin(t[:10], i[:10]).mean() for i, t in zip(ids, truth, strict=True)])),
        "R@100": float((ids == truth[:, :1]).any(1).mean()),
    }


def plot(rows: list[dict[str, Any]], path: Path, threads: int) -> None:
    """One curve a method, one panel a measure of recall."""
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 15, "axes.titlesize": 16})
    figure, panels = plt.subplots(1, 3, figsize=(19, 9.5), sharey=True, layout="constrained")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    labels = {
        "R@1": "R@1: share of queries whose nearest comes first",
        "10@10": "10@10: share of the ten nearest among ten",
        "R@100": "R@100: share of queries\nwhose nearest is among 100",
    }
    for axes, (measure, label) in zip(panels, labels.items(), strict=True):
        for number, method in enumerate(methods):
            mine = [row for row in rows if row["method"] == method]
            axes.plot(
                [row[measure] for row in mine], [row["qps"] for row in mine],
                "o-" if method.startswith("fpq") else "s--", color=plt.get_cmap("tab20")(number % 20),
                linewidth=2.5 if method.startswith("fpq") else 1.8, markersize=6,
                label=f"{method}, {mine[0]['bytes']:.0f} bytes a vector",
            )  # fmt: skip
        axes.set(xlabel=label, yscale="log")
        axes.grid(alpha=0.3, which="both")
    panels[0].set_ylabel("queries a second (batches of 5,000)")
    figure.suptitle(f"sift500k: 500,000 vectors of 128 bytes, {threads} threads; by lists looked into or efSearch / 16")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=14)
    figure.savefig(path, dpi=80)


def main(arguments: list[str]) -> None:
    """Print the table; write JSON and picture if asked to."""
    from fpq import datasets

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--efforts", type=int, nargs="+", default=EFFORTS)
    parser.add_argument("--only", default="", help="comma-separated beginnings of methods")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args(arguments)
    context, pipes = multiprocessing.get_context("spawn"), {}
    print(f"{'':34}{'build s':>8}{'bytes a vector':>16}")
    for method in METHODS:
        if not method.startswith(tuple(options.only.split(","))):
            continue
        pipe, theirs = context.Pipe()
        context.Process(target=serve, args=(method, options.threads, theirs), daemon=True).start()
        built = pipe.recv()
        if isinstance(built, str):
            print(f"{method:34}left out: {built}")
        else:
            print(f"{method:34}{built[0]:8.1f}{built[1]:16.0f}", flush=True)
            pipes[method] = pipe, built[1]
    truth = np.asarray(datasets.load("sift500k").groundtruth)
    rows = []
    for effort in options.efforts:
        print(f"\n{'effort ' + str(effort):34}{'queries/s':>10}{'R@1':>8}{'10@10':>8}{'R@100':>8}")
        here = {
            method: pipe
            for method, pipe in pipes.items()
            if effort <= LAST_OF_CODES or any(word in method for word in EXACT)
        }
        seconds: dict[str, list[float]] = {method: [] for method in here}
        for _ in range(options.rounds + 1):
            for method, (pipe, _) in here.items():
                pipe.send((10, effort))
                seconds[method].append(pipe.recv()[0])
        for method, (pipe, nbytes) in here.items():
            pipe.send((100, effort))
            row = {"method": method, "effort": effort, "bytes": nbytes, **recalls(pipe.recv()[1], truth)}
            row["qps"] = len(truth) / statistics.median(seconds[method][1:])
            rows.append(row)
            print(f"{method:34}{row['qps']:10.0f}{row['R@1']:8.3f}{row['10@10']:8.3f}{row['R@100']:8.3f}", flush=True)
        if options.json:
            made = {"threads": options.threads, "rounds": options.rounds, "rows": rows}
            options.json.write_text(json.dumps(made, indent=1))
        if options.png:
            plot(rows, options.png, options.threads)
