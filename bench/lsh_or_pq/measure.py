"""Speed and recall of every index and setting, each index in a process of its own."""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from typing import Any

import numpy as np

from bench.lsh_or_pq.indexes import K, indexes


def vectors(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Base and queries, uint8."""
    from fpq import datasets

    loaded = datasets.load(name)
    return np.ascontiguousarray(loaded.base), np.ascontiguousarray(loaded.query)


def serve(name: str, key: str, n_queries: int, pipe: Any) -> None:
    """Build one index, send its build time, bytes and settings; then search when told: setting -> seconds, ids."""
    base, queries = vectors(name)
    queries = queries[:n_queries]
    start = time.perf_counter()
    try:
        built = indexes(name)[key](base)
    except ImportError as error:
        pipe.send(str(error))
        return
    pipe.send((time.perf_counter() - start, built.nbytes / len(base), list(built.settings)))
    for setting in iter(pipe.recv, None):
        start = time.perf_counter()
        ids = built.search(queries, setting[0])
        pipe.send((time.perf_counter() - start, np.asarray(ids)))


def run(name: str, n_queries: int, rounds: int) -> dict[str, Any]:
    """All rows of one data set."""
    import fpq

    base, queries = vectors(name)
    truth = fpq.FlatIndex().add(base).search(queries[:n_queries], K).ids
    context, pipes, rows = multiprocessing.get_context("spawn"), {}, []
    for key in indexes(name):
        pipe, theirs = context.Pipe()
        context.Process(target=serve, args=(name, key, n_queries, theirs), daemon=True).start()
        theirs.close()  # so that its end is noticed
        built = pipe.recv()
        if isinstance(built, str):
            print(f"{name}, {key}: left out, {built}", file=sys.stderr)
            continue
        pipes[key] = pipe
        facts = {"index": key, "bytes": built[1], "build_s": built[0]}
        rows += [facts | {"setting": setting, "seconds": []} for setting in built[2]]
        print(f"{name}, {key}: {built[0]:.1f} s, {built[1]:.0f} bytes per vector", file=sys.stderr, flush=True)
    for _ in range(rounds):
        for row in rows:
            pipe = pipes[row["index"]]
            pipe.send((row["setting"],))
            seconds, ids = pipe.recv()
            row["seconds"].append(seconds)
            row["recall"] = fpq.metrics.recall_at_k(ids, truth)
    for row in rows:
        row["qps"] = len(truth) / statistics.median(row["seconds"])
    for pipe in pipes.values():
        pipe.send(None)
    return {"set": name, "n": len(base), "d": base.shape[1], "queries": len(truth), "rounds": rounds,
            "fpq": fpq.__version__, "isa": fpq.cpu_info()["isa"], "rows": rows}  # fmt: skip
