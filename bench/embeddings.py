"""Embeddings under cosine similarity: recall@10, bytes and speed of fpq beside HNSW.

    python bench/embeddings.py minilm glove50 --recall 0.95 --rounds 5

Each method is set to the recall on the even queries: fpq by `tune`, HNSW by the smallest sufficient `ef` of a list. The
lines show the recall on the odd queries. Searches are batches of all odd queries; the methods take turns, and the speed
is the median over the rounds. faiss comes with the extra `bench`; hnswlib is measured if it is installed.
`docs/embeddings.md` quotes the results.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fpq

K = 10
EF = (10, 15, 20, 30, 45, 65, 100, 150, 220, 330, 500, 750)


class Queries(NamedTuple):
    """Queries with the ids of their true neighbours, and the recall to reach on them."""

    rows: Any
    truth: Any
    recall: float


class Method(NamedTuple):
    """A built index with its setting; `search` takes queries and returns ids."""

    name: str
    build: float
    bytes: float
    setting: str
    search: Callable[[Any], Any]


def fpq_method(index: Any, base: Any, tuning: Queries) -> Method:
    """Build and tune. If no setting reaches the recall, the index does not re-rank."""
    start = time.perf_counter()
    index.fit(base).add(base)
    build = time.perf_counter() - start
    lists = {"n_probe": index.n_lists} if isinstance(index, fpq.IVFPQIndex) else {}
    alone = fpq.metrics.recall_at_k(index.search(tuning.rows, K, **lists).ids, tuning.truth)
    try:
        best = index.tune(tuning.rows, K, tuning.recall, neighbors=tuning.truth).best
        setting = ", ".join(f"{name}={value}" for name, value in best.setting.items())
    except ValueError as error:
        setting = str(error)
    setting += f" (recall@10 without re-ranking {alone:.3f})"
    name = f"{type(index).__name__}, m = {index.quantizer.m}"
    return Method(name, build, index.nbytes / len(index), setting, lambda q: index.search(q, K).ids)


def smallest_ef(set_ef: Callable[[int], None], search: Callable[[Any], Any], tuning: Queries) -> str:
    for ef in EF:
        set_ef(ef)
        if fpq.metrics.recall_at_k(search(tuning.rows), tuning.truth) >= tuning.recall:
            break
    return f"ef={ef}"


def faiss_hnsw(base: Any, tuning: Queries, threads: int) -> Method:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexHNSWFlat(base.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    unit = base / np.linalg.norm(base, axis=1, keepdims=True)
    start = time.perf_counter()
    index.add(unit)
    build = time.perf_counter() - start

    def search(q: Any) -> Any:
        return index.search(q.astype(np.float32), K)[1]

    def set_ef(ef: int) -> None:
        index.hnsw.efSearch = ef

    setting = smallest_ef(set_ef, search, tuning)
    return Method("faiss HNSW16", build, faiss.serialize_index(index).nbytes / len(base), setting, search)


def hnswlib_hnsw(base: Any, tuning: Queries, threads: int) -> Method:
    import hnswlib

    index = hnswlib.Index("cosine", base.shape[1])
    index.init_index(len(base), ef_construction=100, M=16)
    index.set_num_threads(threads)
    start = time.perf_counter()
    index.add_items(base)
    build = time.perf_counter() - start

    def search(q: Any) -> Any:
        return index.knn_query(q.astype(np.float32), K)[0].astype(np.int64)

    setting = smallest_ef(index.set_ef, search, tuning)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        index.save_index(str(path))
        size = path.stat().st_size
    return Method("hnswlib M=16", build, size / len(base), setting, search)


def indexes(n: int, dim: int, threads: int) -> list[Any]:
    """The indexes of fpq, up to the m that docs/choosing.md recommends."""
    m = max(dim // 8, min(dim // 2, 25))
    common = {"metric": "cosine", "keep_vectors": True, "n_threads": threads}
    codes = [fpq.PQIndex(m=few, **common) for few in (m // 3, 2 * m // 3, m)]
    in_lists = min(m, -(-dim // 3))
    return [*codes, fpq.IVFPQIndex(2 * int(n**0.5), m=in_lists, residual=False, **common)]


def run(name: str, recall: float, rounds: int, threads: int) -> None:
    data = fpq.datasets.load(name)
    base, queries = np.asarray(data.base), np.asarray(data.query)
    exact = fpq.FlatIndex("cosine", n_threads=threads).add(base)
    truth = exact.search(queries, K).ids
    tuning = Queries(queries[::2], truth[::2], recall)
    methods = [Method("FlatIndex", 0, exact.nbytes / len(base), "", lambda q: exact.search(q, K).ids)]
    methods += [fpq_method(index, base, tuning) for index in indexes(*base.shape, threads)]
    for build in (faiss_hnsw, hnswlib_hnsw):
        try:
            methods.append(build(base.astype(np.float32), tuning, threads))
        except ImportError as error:
            print(f"left out: {error}")
    seconds: list[list[float]] = [[] for _ in methods]
    for _ in range(rounds):
        for method, taken in zip(methods, seconds, strict=True):
            start = time.perf_counter()
            method.search(queries[1::2])
            taken.append(time.perf_counter() - start)
    for method, taken in zip(methods, seconds, strict=True):
        found = fpq.metrics.recall_at_k(method.search(queries[1::2]), truth[1::2])
        rate, low, high = (len(truth) // 2 / s for s in (statistics.median(taken), max(taken), min(taken)))
        print(
            f"{name}, {method.name}: recall@10 {found:.4f}, {method.bytes:.0f} bytes per vector, {method.setting}, "
            f"build {method.build:.1f} s, {rate:,.0f} queries/s ({low:,.0f} to {high:,.0f})",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["minilm", "glove50"])
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    for name in options.names:
        run(name, options.recall, options.rounds, options.threads)
