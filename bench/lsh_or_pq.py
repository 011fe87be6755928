"""LSH or PQ? Queries a second on one thread against recall, with bytes a vector, beside faiss's RaBitQ.

    python bench/lsh_or_pq.py [--sets mnist,sift500k] [--rounds 3] [--queries 500] [--out docs/lsh-or-pq]
    python bench/lsh_or_pq.py --draw              # only the figures and tables, from the JSON files of an earlier run

Each index lives in a process of its own, built with all threads; then all queries are searched in one call on one
thread, and the rounds alternate over all indexes and settings: a rate is the median of its rounds. 10@10 is the
share of the ten true neighbours among the ten found. Bytes are all that the index holds, vectors and ids included, over
the number of vectors: `nbytes` of fpq, the size of the serialized index of faiss.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

K = 10
TARGETS = (0.5, 0.8, 0.9, 0.95, 0.99)
LISTS = {"mnist": 256, "sift500k": 1024}
PROBES = (1, 2, 4, 8, 16, 32, 64, 128)
RERANKS = (5, 10, 20, 40)  # candidates a neighbour
Search = Callable[[np.ndarray, Any], np.ndarray]  # queries, setting -> ids


class Built(NamedTuple):
    """An index, the settings to try, how to search it, and the bytes it holds."""

    settings: Iterable[Any]
    search: Search
    nbytes: int


def lsh(kind: str, settings: Iterable[int], option: str) -> Callable[[np.ndarray], Built]:
    """An LSH index with its defaults, `option` for the effort."""

    def build(base: np.ndarray) -> Built:
        import fpq

        index = getattr(fpq, kind)().fit(base).add(base)
        return Built(settings, lambda q, s: index.search(q, K, n_threads=1, **{option: s}).ids, index.nbytes)

    return build


def flat(base: np.ndarray) -> Built:
    """Exact search."""
    import fpq

    index = fpq.FlatIndex().add(base)
    return Built([None], lambda q, _: index.search(q, K, n_threads=1).ids, index.nbytes)


def pq(m: int, reranks: Iterable[int | None] = (None,), **options: Any) -> Callable[[np.ndarray], Built]:
    """PQIndex; with a number in `reranks` it keeps the vectors."""

    def build(base: np.ndarray) -> Built:
        import fpq

        index = fpq.PQIndex(m, keep_vectors=any(reranks), **options).fit(base).add(base)
        return Built(reranks, lambda q, r: index.search(q, K, rerank=r, n_threads=1).ids, index.nbytes)

    return build


def ivfpq(n_lists: int, m: int, rerank: bool = False, **options: Any) -> Callable[[np.ndarray], Built]:
    """IVFPQIndex by the number of probes and, if it keeps the vectors, of candidates."""
    settings = list(itertools.product(PROBES, RERANKS if rerank else (None,)))

    def build(base: np.ndarray) -> Built:
        import fpq

        index = fpq.IVFPQIndex(n_lists, m, keep_vectors=rerank, **options).fit(base).add(base)

        def search(queries: np.ndarray, setting: tuple[int, int | None]) -> np.ndarray:
            return index.search(queries, K, n_probe=setting[0], rerank=setting[1], n_threads=1).ids

        return Built(settings, search, index.nbytes)

    return build


def faiss_index(factory: str, settings: Iterable[Any]) -> Callable[[np.ndarray], Built]:
    """An index of faiss's factory; a setting is the number of probes, or that and the factor of its re-ranking."""

    def build(base: np.ndarray) -> Built:
        import faiss

        vectors = base.astype(np.float32)
        index = faiss.index_factory(vectors.shape[1], factory)
        index.train(vectors)
        index.add(vectors)
        space, refined = faiss.ParameterSpace(), isinstance(index, faiss.IndexRefine)
        faiss.omp_set_num_threads(1)

        def search(queries: np.ndarray, setting: Any) -> np.ndarray:
            probe, factor = setting
            if probe is not None:
                space.set_index_parameter(index, "nprobe", probe)
            if refined:
                index.k_factor = factor
            return index.search(queries.astype(np.float32), K)[1]

        return Built(settings, search, len(faiss.serialize_index(index)))

    return build


def methods(name: str) -> dict[str, Callable[[np.ndarray], Built]]:
    """What is compared; numbers are bytes a code.

    RaBitQ takes 24 for 128 dimensions (all of SIFT, or the first principal ones), 106 for MNIST's 784, and 84 with four
    bits for each of 128 dimensions.
    """
    lists = LISTS[name]
    rotated = {"rotation": "pca" if name == "mnist" else None}
    if name == "mnist":
        rotated["rotation_dim"] = 128
    front = "PCAR128" if name == "mnist" else "RR"
    probes, refined = (list(itertools.product(PROBES, reranks)) for reranks in ((None,), RERANKS))
    found = {
        "FlatIndex, exact": flat,
        "E2LSHIndex": lsh("E2LSHIndex", (2, 8, 16, 32, 64, 128, 256, 512, 1024, 2048), "n_probe"),
        "C2LSHIndex": lsh("C2LSHIndex", (20, 50, 100, 200, 400, 800, 1600, 3200, 6400, 12800), "n_candidates"),
        "PQIndex 24": pq(24, **rotated),
        "PQIndex 16, rerank": pq(16, (1, 2, 5, 10, 20, 40, 80), **rotated),
        "IVFPQIndex 24": ivfpq(lists, 24, **rotated),
        "IVFPQIndex 24, not residual": ivfpq(lists, 24, residual=False, **rotated),
        "IVFPQIndex 16, rerank": ivfpq(lists, 16, True, residual=False, **rotated),
        "faiss RaBitQ 24": faiss_index(f"{front},RaBitQ", [(None, None)]),
        "faiss RaBitQ 24, fast scan": faiss_index(f"{front},RaBitQfs", [(None, None)]),
        "faiss IVF RaBitQ 24": faiss_index(f"{front},IVF{lists},RaBitQ", probes),
        "faiss IVF RaBitQ 24, fast scan": faiss_index(f"{front},IVF{lists},RaBitQfs", probes),
        "faiss IVF RaBitQ 24, fast scan, rerank": faiss_index(f"{front},IVF{lists},RaBitQfs,Refine(SQ8)", refined),
    }
    if name == "mnist":
        found["PQIndex 106"] = pq(106, rotation="pca", rotation_dim=212)
        found["faiss RaBitQ 106, fast scan"] = faiss_index("RR,RaBitQfs", [(None, None)])
    else:
        found["PQIndex 84"] = pq(84)
        found["faiss RaBitQ 84, fast scan"] = faiss_index("RR,RaBitQfs4", [(None, None)])
    return found


def serve(name: str, method: str, pipe: Any) -> None:
    """Build one index, send its build time, bytes and settings; then search when told: setting -> seconds, ids."""
    base, queries = vectors(name)
    start = time.perf_counter()
    try:
        built = methods(name)[method](base)
    except ImportError as error:
        pipe.send(str(error))
        return
    queries = queries[: pipe.recv()]
    pipe.send((time.perf_counter() - start, built.nbytes / len(base), list(built.settings)))
    for setting in iter(pipe.recv, None):
        start = time.perf_counter()
        ids = built.search(queries, setting[0])
        pipe.send((time.perf_counter() - start, np.asarray(ids)))


def vectors(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Base and queries, uint8."""
    from fpq import datasets

    loaded = datasets.load(name)
    return np.ascontiguousarray(loaded.base), np.ascontiguousarray(loaded.query)


def run(name: str, n_queries: int, rounds: int) -> dict[str, Any]:
    """All rows of one data set."""
    import fpq

    base, queries = vectors(name)
    truth = fpq.FlatIndex().add(base).search(queries[:n_queries], K).ids
    context, pipes, rows = multiprocessing.get_context("spawn"), {}, []
    for method in methods(name):
        pipe, theirs = context.Pipe()
        context.Process(target=serve, args=(name, method, theirs), daemon=True).start()
        pipe.send(n_queries)
        built = pipe.recv()
        if isinstance(built, str):
            print(f"{name}, {method}: left out, {built}", file=sys.stderr)
            continue
        pipes[method] = pipe
        rows += [
            {"method": method, "setting": setting, "bytes": built[1], "build_s": built[0], "seconds": []}
            for setting in built[2]
        ]
        print(f"{name}, {method}: {built[0]:.1f} s, {built[1]:.0f} bytes a vector", file=sys.stderr, flush=True)
    for _ in range(rounds):
        for row in rows:
            pipe = pipes[row["method"]]
            pipe.send((row["setting"],))
            seconds, ids = pipe.recv()
            row["seconds"].append(seconds)
            row["recall"] = fpq.metrics.intersection_at_k(ids, truth)
    for row in rows:
        row["qps"] = len(truth) / statistics.median(row["seconds"])
    for pipe in pipes.values():
        pipe.send(None)
    return {"set": name, "n": len(base), "d": base.shape[1], "queries": len(truth), "rounds": rounds,
            "fpq": fpq.__version__, "isa": fpq.cpu_info()["isa"], "rows": rows}  # fmt: skip


def at_recall(rows: list[dict[str, Any]], recall: float) -> float | None:
    """The rate at a recall: of the fastest setting that reaches it, or between it and the one below, by logarithms."""
    best = frontier(rows)
    if best[0]["recall"] >= recall:
        return best[0]["qps"]
    for below, above in itertools.pairwise(best):
        if below["recall"] < recall <= above["recall"]:
            share = (recall - below["recall"]) / (above["recall"] - below["recall"])
            return math.exp((1 - share) * math.log(below["qps"]) + share * math.log(above["qps"]))
    return None


def frontier(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The settings than which no other is both faster and better, by rising recall."""
    kept: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (-row["recall"], -row["qps"])):
        if not kept or row["qps"] > kept[-1]["qps"]:
            kept.append(row)
    return kept[::-1]


def by_method(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {
        method: list(rows) for method, rows in itertools.groupby(result["rows"], lambda row: row["method"])
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Rates at some recalls, as Markdown."""
    head = ["index", "bytes a vector", "build s", "best 10@10", *(f"q/s at {target:g}" for target in TARGETS)]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for method, rows in by_method(result).items():
        cells = [at_recall(rows, target) for target in TARGETS]
        best = max(row["recall"] for row in rows)
        lines.append([
            method, f"{rows[0]['bytes']:.0f}", f"{rows[0]['build_s']:.1f}", f"{best:.3f}",
            *("-" if cell is None else f"{cell:,.0f}" for cell in cells),
        ])  # fmt: skip
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def look(method: str) -> dict[str, Any]:
    """Colour by family, solid where vectors are kept to rank by exact distances."""
    families = {"Flat": ("black", "*"), "E2LSH": ("#d55e00", "o"), "C2LSH": ("#e69f00", "s"), "PQ": ("#0072b2", "^"),
                "IVFPQ": ("#56b4e9", "D"), "faiss IVF": ("#009e73", "v"), "faiss RaBitQ": ("#004d38", "P")}  # fmt: skip
    color, marker = next(families[key] for key in sorted(families, reverse=True) if method.startswith(key))
    exact = "rerank" in method or "LSH" in method
    style: dict[str, Any] = {"color": color, "marker": marker, "linestyle": "-" if exact else "--", "markersize": 6}
    if not exact and "Flat" not in method:
        style["markerfacecolor"] = "white"
    if "Flat" in method:
        style["markersize"] = 14
    if any(word in method for word in ("106", "84")):
        style["alpha"], style["markersize"] = 0.7, 9
    if method in ("faiss IVF RaBitQ 24", "IVFPQIndex 24"):
        style["alpha"] = 0.45
    return style


def draw(result: dict[str, Any], stem: Path) -> None:
    """One curve an index, PNG and SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 5.2), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for method, rows in by_method(result).items():
        points = [(row["recall"], row["qps"]) for row in frontier(rows)]
        label = f"{method}: {rows[0]['bytes']:.0f} bytes"
        axes.plot(*zip(*points, strict=True), label=label, **look(method))
    axes.set(xlabel="10@10, share of the ten true neighbours found", ylabel="queries a second, one thread", yscale="log")
    axes.set_xlim(0.2, 1.01)
    axes.set_title(f"{result['set']}: {result['n']:,} vectors of {result['d']} bytes", loc="left", fontsize=13)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9.5, loc="center left", bbox_to_anchor=(1, 0.5), title="bytes a vector in all")
    with matplotlib.rc_context({"svg.hashsalt": "fpq", "svg.fonttype": "none"}):
        figure.savefig(stem.with_suffix(".png"), dpi=110)
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})


def main() -> None:
    """Measure, write JSON, tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="mnist,sift500k")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs", "lsh-or-pq"), help="folder")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.sets.split(","):
        stem = options.out / name
        if not options.draw:
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
            result = run(name, options.queries, options.rounds) | {"load_before": load}
            stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        result = json.loads(stem.with_suffix(".json").read_text())
        print(f"{name}\n\n{table(result)}")
        draw(result, stem)


if __name__ == "__main__":
    main()
