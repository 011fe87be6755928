"""Inverted files on sift500k: queries per second against recall, beside faiss and, where installed, ScaNN.

    python bench/peers.py ivf [--threads 2] [--rounds 3] [--batch 5000] [--only fpq,faiss] [--json FILE] [--plot FILE]
    python bench/ivf.py docs/data/ivf.json docs/ivf.svg     # draw the picture of an earlier run

Each index lives in a process of its own; the searches of one effort alternate over all settings, `--batch` queries
in one call. A row gives the median rate of searches for ten, R@1 and recall@10 of these searches, R@100 of searches for
a hundred (`fpq.metrics` defines these measures), and the bytes per vector that the index takes. The last table gives
the rate of each index at a recall@10, by its best settings.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from curves import frontier, rate_at

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


class Look(NamedTuple):
    """How a method is drawn: its label stands at a place in the panel (0 to 1), with a line to one of its points."""

    name: str
    colour: str
    place: tuple[float, float]
    point: float  # 0: the first point of the curve, 1: the last


FPQ, PLAIN, FAISS, SCANN = "#0072b2", "#d55e00", "#555555", "#008060"
CODES = {
    "fpq IVF1024,PQ16": Look("IVFPQIndex(1024)", FPQ, (0.5, 0.94), 0.13),
    "fpq IVF1024,PQ16 plain": Look("IVFPQIndex(1024,\nresidual=False)", PLAIN, (0.73, 0.7), 0.5),
    "faiss IVF1024,PQ16": Look("faiss IVF1024,PQ16", FAISS, (0.73, 0.2), 0.7),
    "faiss IVF1024,PQ32x4fs": Look("faiss IVF1024,\nPQ32x4fs", FAISS, (0.215, 0.435), 1.0),
    "faiss IVF1024,PQ32x4fsr": Look("faiss IVF1024,PQ32x4fsr", FAISS, (0.03, 0.14), 0.85),
    "faiss IVF1024,RaBitQ": Look("faiss IVF1024,RaBitQ", FAISS, (0.03, 0.27), 1.0),
}
VECTORS = {
    "fpq IVF1024,PQ16 + u8": Look("IVFPQIndex(1024,\nkeep_vectors=True)", FPQ, (0.03, 0.48), 0.1),
    "fpq IVF1024,PQ16 plain + u8": Look(
        "IVFPQIndex(1024, residual=False,\nkeep_vectors=True)", PLAIN, (0.5, 0.94), 0.17
    ),
    "scann 1024 + f32": Look("ScaNN, float32 vectors", SCANN, (0.27, 0.36), 0.3),
    "faiss HNSW16": Look("faiss HNSW16", FAISS, (0.5, 0.2), 0.5),
}


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Queries per second against recall@10: a panel for codes alone, a panel for methods that hold the vectors."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(7.6, 9), layout="constrained", facecolor="white")
    panels = figure.subplots(2, 1)
    titles = "Codes only, 25 to 33 bytes per vector", "Vectors kept for re-ranking, 157 to 656 bytes per vector"
    for axes, title, looks in zip(panels, titles, (CODES, VECTORS), strict=True):
        for method, look in looks.items():
            mine = frontier([row for row in rows if row["method"] == method], "recall@10")
            if not mine:
                continue
            ours = method.startswith("fpq")
            axes.plot(
                [row["recall@10"] for row in mine], [row["qps"] for row in mine], "o-" if ours else "s--",
                color=look.colour, linewidth=2.2 if ours else 1.5, markersize=5,
            )  # fmt: skip
            point = mine[round(look.point * (len(mine) - 1))]
            axes.annotate(
                f"{look.name}, {point['bytes']:.0f} B", (point["recall@10"], point["qps"]), look.place,
                textcoords="axes fraction", ha="left", va="center", color=look.colour,
                arrowprops={"arrowstyle": "-", "color": look.colour, "lw": 0.8, "shrinkA": 2, "shrinkB": 4},
            )  # fmt: skip
        axes.margins(x=0.02)
        axes.set_title(title, loc="left", fontsize=12, weight="bold")
        axes.set(yscale="log", ylabel="queries per second")
        axes.set_xlabel("recall@10: share of the 10 nearest among the 10 found")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    panels[0].set_xlim(right=0.76)
    with matplotlib.rc_context({"svg.hashsalt": "fpq"}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


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
    parser.add_argument("--plot", type=Path, help="a .svg or .png file")
    options = parser.parse_args(arguments)
    context, pipes = multiprocessing.get_context("spawn"), {}
    isa = os.environ.get("FPQ_ISA", fpq.cpu_info()["isa"])
    print(f"fpq: {isa}\n{'':34}{'build s':>8}{'bytes per vector':>17}")
    for method in METHODS:
        if not method.startswith(tuple(options.only.split(","))):
            continue
        pipe, theirs = context.Pipe()
        context.Process(target=serve, args=(method, options.threads, options.batch, theirs), daemon=True).start()
        built = pipe.recv()
        if isinstance(built, str):
            print(f"{method:34}left out: {built}")
        else:
            print(f"{method:34}{built[0]:8.1f}{built[1]:17.0f}", flush=True)
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
        if options.plot:
            plot(rows, options.plot)
    print(f"\n{'queries/s at recall@10':34}" + "".join(f"{target:>10}" for target in TARGETS))
    for method in pipes:
        mine = [row for row in rows if row["method"] == method]
        print(f"{method:34}" + "".join(f"{rate_at(mine, target):10.0f}" for target in TARGETS))
    for pipe, _ in pipes.values():
        pipe.send(None)


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["rows"], Path(sys.argv[2]))
