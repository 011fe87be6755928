"""Single queries: microseconds per call of `search` with one query, and the rate of several Python threads together.

    python bench/singles.py [--rows 500000] [--lists 1024] [--threads 1,2]
    python bench/singles.py --save DIRECTORY        # build the indexes once, for several runs
    python bench/singles.py --load DIRECTORY

Data: sift500k, k = 10. A time is the least mean of 20 passes over 200 queries. A rate is the largest of three periods
of half a second, in which each thread calls `search` in a loop. faiss (one OpenMP thread), hnswlib and usearch follow
where they are installed. To compare two versions of fpq, alternate runs of both with the same saved indexes.
"""

from __future__ import annotations

import argparse
import importlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fpq
from fpq import datasets

K = 10
QUERIES, PASSES, PERIODS = 200, 20, 3
SECONDS = 0.5
Search = Callable[[np.ndarray], Any]


def microseconds(search: Search, queries: np.ndarray) -> float:
    """The least mean time of a call."""
    least = float("inf")
    for _ in range(PASSES):
        start = time.perf_counter()
        for query in queries:
            search(query)
        least = min(least, time.perf_counter() - start)
    return least / len(queries) * 1e6


def rate(search: Search, queries: np.ndarray, n_threads: int) -> float:
    """The largest number of calls per second of all threads together."""
    return max(_period(search, queries, n_threads) for _ in range(PERIODS))


def _period(search: Search, queries: np.ndarray, n_threads: int) -> float:
    counts, done = [0] * n_threads, threading.Event()

    def work(number: int) -> None:
        while not done.is_set():
            for query in queries:
                search(query)
            counts[number] += len(queries)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(n_threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    time.sleep(SECONDS)
    done.set()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - start)


def built(x: np.ndarray, n_lists: int) -> dict[str, Any]:
    """The indexes of fpq by name."""
    sample = x[:: max(1, len(x) // 125_000)]
    return {
        "pq": fpq.PQIndex(16).fit(sample).add(x[:20_000]),
        "ivf": fpq.IVFPQIndex(n_lists, 16).fit(sample).add(x),
        "ivf-kept": fpq.IVFPQIndex(n_lists, 16, keep_vectors=True).fit(sample).add(x),
        "ivf-sq8": fpq.IVFPQIndex(n_lists, 16, refine="sq8").fit(sample).add(x),
    }


def of_fpq(indexes: dict[str, Any]) -> dict[str, Search]:
    """The searches of fpq by name."""
    searches: dict[str, Search] = {}
    for n_threads in (1, None):
        for name, index in indexes.items():
            for n_probe in (None,) if name == "pq" else (1, 8):
                options: dict[str, Any] = {} if n_probe is None else {"n_probe": n_probe}
                if name == "ivf-kept":
                    options["rerank"] = 4
                title = ", ".join([name, *(f"{key}={value}" for key, value in options.items())])

                def search(q: np.ndarray, index: Any = index, n_threads: Any = n_threads, o: Any = options) -> Any:
                    return index.search(q, K, n_threads=n_threads, **o)

                searches[f"{title}, n_threads={n_threads}"] = search
    return searches


def of_others(x: np.ndarray, n_lists: int) -> dict[str, Search]:
    """The searches of other libraries by name, of those that are installed."""
    x, searches = x.astype(np.float32), {}
    if faiss := _installed("faiss"):
        faiss.omp_set_num_threads(1)
        index = faiss.IndexIVFPQ(faiss.IndexFlatL2(x.shape[1]), x.shape[1], n_lists, 16, 8)
        index.train(x[:: max(1, len(x) // 125_000)])
        index.add(x)
        index.precompute_table()
        for n_probe in (1, 8):
            parameters = faiss.SearchParametersIVF(nprobe=n_probe)
            searches[f"faiss IVFPQ, n_probe={n_probe}"] = lambda q, p=parameters: index.search(q[None], K, params=p)
    if hnswlib := _installed("hnswlib"):
        graph = hnswlib.Index("l2", x.shape[1])
        graph.init_index(len(x[:50_000]), M=16, ef_construction=100)
        graph.add_items(x[:50_000])
        graph.set_ef(16)
        searches["hnswlib, 50,000 rows, ef=16"] = lambda q: graph.knn_query(q, K, num_threads=1)
    if usearch := _installed("usearch.index"):
        other = usearch.Index(ndim=x.shape[1], metric="l2sq", dtype="f32", connectivity=16, expansion_search=16)
        other.add(np.arange(len(x[:50_000])), x[:50_000])
        searches["usearch, 50,000 rows, expansion=16"] = lambda q: other.search(q, K, threads=1)
    return searches


def _installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--lists", type=int, default=1024)
    parser.add_argument("--threads", default="1,2", help="numbers of Python threads")
    parser.add_argument("--save", type=Path, help="build the indexes of fpq, save them here, and end")
    parser.add_argument("--load", type=Path, help="indexes of fpq from --save")
    arguments = parser.parse_args()

    data = datasets.load("sift500k")
    x, queries = np.ascontiguousarray(data.base)[: arguments.rows], np.ascontiguousarray(data.query)[:QUERIES]
    if arguments.load:
        indexes = {path.stem: fpq.load(path) for path in sorted(arguments.load.glob("*.fpq"))}
    else:
        indexes = built(x, arguments.lists)
    if arguments.save:
        for name, index in indexes.items():
            index.save(arguments.save / f"{name}.fpq")
        return
    counts = [int(count) for count in arguments.threads.split(",")]
    searches = of_fpq(indexes) | ({} if arguments.load else of_others(x, arguments.lists))
    titles = ["us float32", "us uint8", *(f"1/s, {count} thread(s)" for count in counts)]
    print(f"{'':42}" + "".join(f"{title:>18}" for title in titles))
    for name, search in searches.items():
        singles = queries.astype(np.float32)
        own = name in of_fpq(indexes)
        figures = [microseconds(search, singles), microseconds(search, queries) if own else float("nan")]
        figures += [rate(search, singles, count) for count in counts]
        print(f"{name:42}" + "".join(f"{figure:18,.1f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
