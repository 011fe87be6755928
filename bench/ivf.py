"""Inverted files on sift500k: queries a second against recall, beside faiss and, where installed, ScaNN.

    python bench/peers.py ivf [--threads 2] [--rounds 3] [--batch 5000] [--only fpq,faiss] [--json FILE] [--png FILE]

Each index lives in a process of its own; the searches of one effort alternate over all settings, `--batch` queries
in one call. A row gives the median rate of searches for ten, recall of the true nearest and the share of the ten
nearest among these ten (R@1, recall@10), the share of queries whose nearest is among 100, where 100 are asked for
(R@100), and the bytes a vector that the index takes. The last table gives the rate of each at a recall@10, by its best
settings.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LISTS = 1024
EFFORTS = (1, 2, 4, 8, 16, 24, 32, 48, 64)  # lists, or 1/8 of efSearch
TARGETS = (0.8, 0.9, 0.95, 0.99)
Search = Callable[[np.ndarray, int, int, int], np.ndarray]  # queries, k, effort, candidates a neighbour -> ids
RERANKS = (3, 5, 8, 12, 16, 24)


class Method(NamedTuple):
    """An index, and how many candidates a neighbour are ranked by their vectors; 0: none."""

    build: Callable[[int, np.ndarray], tuple[Search, int]]
    reranks: tuple[int, ...] = (0,)


def fpq_index(threads: int, base: np.ndarray, **parameters: Any) -> tuple[Search, int]:
    """IVFPQIndex; uint8 vectors where there is re-ranking."""
    import fpq

    index = fpq.IVFPQIndex(LISTS, n_threads=threads, **parameters).fit(base).add(base)
    return lambda q, k, effort, rerank: index.search(q, k, n_probe=effort, rerank=rerank or None).ids, index.nbytes


def faiss_index(threads: int, base: np.ndarray, factory: str, parameter: str = "nprobe", scale: int = 1) -> Any:
    """An index of faiss's factory; the effort times `scale` goes into `parameter`."""
    import faiss

    faiss.omp_set_num_threads(threads)
    vectors = base.astype(np.float32)
    index = faiss.index_factory(vectors.shape[1], factory)
    index.train(vectors)
    index.add(vectors)
    space = faiss.ParameterSpace()

    def search(queries: np.ndarray, k: int, effort: int, _: int) -> np.ndarray:
        space.set_index_parameter(index, parameter, effort * scale)
        return index.search(queries, k)[1]

    return search, len(faiss.serialize_index(index))


def scann_index(threads: int, base: np.ndarray) -> tuple[Search, int]:
    """ScaNN: a tree, asymmetric hashing in 16 bytes, re-ordering by float32 vectors."""
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

    def search(queries: np.ndarray, k: int, effort: int, rerank: int) -> np.ndarray:
        if len(queries) == 1:
            return index.search(queries[0], k, rerank * k, effort)[0][None]
        return index.search_batched_parallel(queries, k, rerank * k, effort)[0]

    return search, len(base) * (16 + 4 * base.shape[1])


METHODS = {
    "fpq IVF1024,PQ16": Method(fpq_index),
    "fpq IVF1024,PQ16 plain": Method(lambda threads, base: fpq_index(threads, base, residual=False)),
    "fpq IVF1024,PQ16 + u8": Method(lambda threads, base: fpq_index(threads, base, keep_vectors=True), RERANKS),
    "fpq IVF1024,PQ16 plain + u8": Method(
        lambda threads, base: fpq_index(threads, base, residual=False, keep_vectors=True), RERANKS
    ),
    "faiss IVF1024,PQ16": Method(lambda threads, base: faiss_index(threads, base, "IVF1024,PQ16")),
    "faiss IVF1024,PQ32x4fs": Method(lambda threads, base: faiss_index(threads, base, "IVF1024,PQ32x4fs")),
    "faiss IVF1024,PQ32x4fsr": Method(lambda threads, base: faiss_index(threads, base, "IVF1024,PQ32x4fsr")),
    "faiss IVF1024,RaBitQ": Method(lambda threads, base: faiss_index(threads, base, "IVF1024,RaBitQ")),
    "faiss HNSW16": Method(lambda threads, base: faiss_index(threads, base, "HNSW16", "efSearch", 8)),
    "scann 1024 + f32": Method(scann_index, RERANKS),
}


def serve(method: str, threads: int, batch: int, pipe: Connection) -> None:
    """Build one index, then search when told: (k, effort, candidates a neighbour) -> seconds, ids."""
    from fpq import datasets

    loaded = datasets.load("sift500k")
    base, queries = np.asarray(loaded.base), np.asarray(loaded.query).astype(np.float32)
    try:
        start = time.perf_counter()
        search, nbytes = METHODS[method].build(threads, base)
        pipe.send((time.perf_counter() - start, nbytes / len(base)))
    except (ImportError, RuntimeError) as error:  # not installed, or not in this release of faiss
        pipe.send(str(error))
        return
    for k, effort, rerank in iter(pipe.recv, None):
        start = time.perf_counter()
        ids = [search(queries[i : i + batch], k, effort, rerank) for i in range(0, len(queries), batch)]
        pipe.send((time.perf_counter() - start, np.concatenate(ids)))


def recalls(ten: np.ndarray, hundred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Shares of true neighbours among ids (nq, 10) and (nq, 100)."""
    return {
        "R@1": float((ten[:, :1] == truth[:, :1]).mean()),
        "recall@10": float(np.mean([np.isin(t[:10], i).mean() for i, t in zip(ten, truth, strict=True)])),
        "R@100": float((hundred == truth[:, :1]).any(1).mean()),
    }


def frontier(rows: list[dict[str, Any]], measure: str) -> list[dict[str, Any]]:
    """The rows that no other row beats in both, by ascending recall."""
    best: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (-row[measure], -row["qps"])):
        if not best or row["qps"] > best[-1]["qps"]:
            best.append(row)
    return best[::-1]


def rate_at(rows: list[dict[str, Any]], target: float) -> float:
    """Queries a second at a recall, between settings on the line of their logarithms; NaN: not reached."""
    best = frontier(rows, "recall@10")
    above = next((i for i, row in enumerate(best) if row["recall@10"] >= target), None)
    if above is None:
        return math.nan
    if above == 0:
        return float(best[0]["qps"])
    low, high = best[above - 1], best[above]
    share = (target - low["recall@10"]) / (high["recall@10"] - low["recall@10"])
    return float(low["qps"] * (high["qps"] / low["qps"]) ** share)


def plot(rows: list[dict[str, Any]], path: Path, threads: int, batch: int) -> None:
    """One curve a method, of its best settings, one panel a measure of recall."""
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 15, "axes.titlesize": 16})
    figure, panels = plt.subplots(1, 3, figsize=(19, 9.5), sharey=True, layout="constrained")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    labels = {
        "R@1": "R@1: share of queries whose nearest comes first",
        "recall@10": "recall@10: share of the ten nearest among ten",
        "R@100": "R@100: share of queries whose nearest\nis among 100 (the rates are of ten)",
    }
    for axes, (measure, label) in zip(panels, labels.items(), strict=True):
        for number, method in enumerate(methods):
            mine = frontier([row for row in rows if row["method"] == method], measure)
            axes.plot(
                [row[measure] for row in mine], [row["qps"] for row in mine],
                "o-" if method.startswith("fpq") else "s--", color=plt.get_cmap("tab10")(number % 10),
                linewidth=2.5 if method.startswith("fpq") else 1.8, markersize=6,
                label=f"{method}, {mine[0]['bytes']:.0f} bytes a vector",
            )  # fmt: skip
        axes.set(xlabel=label, yscale="log")
        axes.grid(alpha=0.3, which="both")
    panels[0].set_ylabel(f"queries a second (batches of {batch:,})")
    figure.suptitle(f"sift500k: 500,000 vectors of 128 bytes, {threads} threads; the best settings of each")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=14)
    figure.savefig(path, dpi=80)


def main(arguments: list[str]) -> None:
    """Print the tables; write JSON and picture if asked to."""
    import fpq
    from fpq import datasets

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=5000, help="queries in one call")
    parser.add_argument("--efforts", type=int, nargs="+", default=EFFORTS)
    parser.add_argument("--only", default="", help="comma-separated beginnings of methods")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args(arguments)
    context, pipes = multiprocessing.get_context("spawn"), {}
    isa = os.environ.get("FPQ_ISA", fpq.cpu_info()["isa"])
    print(f"fpq: {isa}\n{'':34}{'build s':>8}{'bytes a vector':>16}")
    for method in METHODS:
        if not method.startswith(tuple(options.only.split(","))):
            continue
        pipe, theirs = context.Pipe()
        context.Process(target=serve, args=(method, options.threads, options.batch, theirs), daemon=True).start()
        built = pipe.recv()
        if isinstance(built, str):
            print(f"{method:34}left out: {built}")
        else:
            print(f"{method:34}{built[0]:8.1f}{built[1]:16.0f}", flush=True)
            pipes[method] = pipe, built[1]
    truth = np.asarray(datasets.load("sift500k").groundtruth)
    rows = []
    for effort in options.efforts:
        print(f"\n{'effort ' + str(effort):34}{'queries/s':>10}{'R@1':>8}{'recall@10':>11}{'R@100':>8}")
        settings = [(method, rerank) for method in pipes for rerank in METHODS[method].reranks]
        answers: dict[tuple[str, int], list[tuple[float, np.ndarray]]] = {setting: [] for setting in settings}
        for _ in range(options.rounds + 1):
            for method, rerank in settings:
                pipes[method][0].send((10, effort, rerank))
                answers[method, rerank].append(pipes[method][0].recv())
        for method, rerank in settings:
            pipe, nbytes = pipes[method]
            pipe.send((100, effort, rerank))
            found = recalls(answers[method, rerank][-1][1], pipe.recv()[1], truth)
            seconds = statistics.median(seconds for seconds, _ in answers[method, rerank][1:])
            row = {"method": method, "effort": effort, "rerank": rerank, "bytes": nbytes, **found}
            rows.append(row | {"qps": len(truth) / seconds})
            name = method + (f" x{rerank}" if rerank else "")
            print(f"{name:34}{len(truth) / seconds:10.0f}{row['R@1']:8.3f}{row['recall@10']:11.3f}{row['R@100']:8.3f}",
                  flush=True)  # fmt: skip
        if options.json:
            run = {name: getattr(options, name) for name in ("threads", "rounds", "batch")}
            options.json.write_text(json.dumps({"isa": isa, **run, "rows": rows}, indent=1))
        if options.png:
            plot(rows, options.png, options.threads, options.batch)
    print(f"\n{'queries/s at recall@10':34}" + "".join(f"{target:>10}" for target in TARGETS))
    for method in pipes:
        mine = [row for row in rows if row["method"] == method]
        print(f"{method:34}" + "".join(f"{rate_at(mine, target):10.0f}" for target in TARGETS))
