"""Inverted lists that grow in batches, the recall that `search(recall=...)` reaches, and the number of lists.

    python bench/lists.py grow [--rounds 3] [--batches 50]
    python bench/lists.py recall [sift500k minilm glove50]
    python bench/lists.py sweep [sift500k minilm glove50] [--rounds 3]

grow: the time of adding all rows of sift500k in batches beside that of one call, alternating, and whether both give the
same answers. recall: `tune` measures on half of the queries; the recall@10 of the others at several targets. sweep:
queries per second at a recall@10 by the number of lists, in multiples of sqrt(n). The best setting of a grid counts,
its rate is the best of the rounds, and the numbers of lists take turns. Two threads, batches of all queries.
"""

import argparse
import math
import time
from typing import Any

import numpy as np
from curves import rate_at
from pareto_methods import SETS

import fpq
from fpq import datasets, metrics

K, THREADS = 10, 2
TARGETS = (0.8, 0.85, 0.9, 0.95, 0.97, 0.99)
TIMES = (0.5, 1, 1.5, 2, 4)  # lists in multiples of sqrt(n)
SHARES = (0.0125, 0.02, 0.03, 0.045, 0.07, 0.1, 0.15, 0.22, 0.32)  # of 1,024 lists; fewer probes of more, shorter lists
RERANKS = (4, 8, 16, 32)


def seconds_to_add(index: fpq.IVFPQIndex, base: np.ndarray, batches: int) -> float:
    """Add the rows in as many calls."""
    start = time.perf_counter()
    for part in np.array_split(base, batches):
        index.add(part)
    return time.perf_counter() - start


def grow(rounds: int, batches: int) -> None:
    """Print the time of batches relative to that of one call."""
    loaded = datasets.load("sift500k")
    base, queries = np.asarray(loaded.base), np.asarray(loaded.query)
    seconds: dict[int, list[float]] = {1: [], batches: []}
    answers = {}
    for _ in range(rounds):
        for calls, taken in seconds.items():
            index = fpq.IVFPQIndex(1024).fit(base)
            taken.append(seconds_to_add(index, base, calls))
            answers[calls] = index.search(queries, K, n_probe=32)
    bulk, grown = (float(np.median(taken)) for taken in seconds.values())
    same = all(map(np.array_equal, answers[1], answers[batches]))
    print(f"{len(base)} rows in {batches} batches: {grown / bulk:.2f} of the time of one; same answers: {same}")


def prepared(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Base vectors, queries, true neighbours, and the metric."""
    loaded, metric = datasets.load(name), "l2" if SETS[name].metric == "l2" else "cosine"
    base, queries = np.asarray(loaded.base), np.asarray(loaded.query)
    return base, queries, fpq.FlatIndex(metric).add(base).search(queries, K).ids, metric


def recall(name: str) -> None:
    """Print the recall of held-out queries for each target."""
    base, queries, truth, metric = prepared(name)
    for options in {"residual": True, "keep_vectors": True}, {"keep_vectors": True}, {"refine": "sq8"}:
        made: dict[str, Any] = {"residual": False, "metric": metric, "n_threads": THREADS} | options
        index = fpq.IVFPQIndex(SETS[name].lists, SETS[name].m, **made).fit(base).add(base)
        start = time.perf_counter()
        index.tune(queries[::2], K, neighbors=truth[::2])
        print(f"{name}, {options}: tune took {time.perf_counter() - start:.0f} s, {len(truth[::2])} queries")
        for target in TARGETS:
            try:
                found = index.search(queries[1::2], K, recall=target).ids
            except ValueError as error:
                print(f"  {target:.2f}: {error}")
                continue
            print(f"  {target:.2f}: {metrics.recall_at_k(found, truth[1::2], K):.4f}")


def sweep(name: str, rounds: int) -> None:
    """Print a line per number of lists."""
    base, queries, truth, metric = prepared(name)
    settings: dict[str, Any] = {"residual": False, "metric": metric, "n_threads": THREADS}
    settings |= {"refine": "sq8"} if name == "minilm" else {"keep_vectors": True}
    indexes = {}
    for times in TIMES:
        n_lists = int(times * math.sqrt(len(base)))
        indexes[times] = fpq.IVFPQIndex(n_lists, SETS[name].m, **settings).fit(base).add(base)
    rows: dict[Any, dict[str, Any]] = {}
    for turn in range(rounds + 1):
        for share in SHARES:
            for rerank in RERANKS:
                for times, index in indexes.items():
                    n_probe = max(1, round(share * 5.7 * (index.n_lists or 1) ** 0.75))
                    row = rows.setdefault((times, share, rerank), {"times": times, "qps": 0.0})
                    if turn and not 0.87 <= row["recall@10"] <= 0.997:
                        continue
                    start = time.perf_counter()
                    ids = index.search(queries, K, n_probe=n_probe, rerank=rerank).ids
                    rate = len(queries) / (time.perf_counter() - start)
                    row["recall@10"] = metrics.recall_at_k(ids, truth, K)
                    row["qps"] = max(row["qps"], rate) if turn else 0.0
    print(f"{name}, {len(base):,} vectors: queries per second at a recall@10 of 0.9, 0.95, 0.99")
    for times, index in indexes.items():
        mine = [row for row in rows.values() if row["times"] == times and row["qps"]]
        rates = "".join(f"{rate_at(mine, target):10.0f}" for target in (0.9, 0.95, 0.99))
        print(
            f"  {times:4} sqrt(n) = {index.n_lists:6} lists {index.nbytes / len(base):8.1f} bytes {rates}", flush=True
        )


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["grow", "recall", "sweep"])
    parser.add_argument("sets", nargs="*", metavar="SET", default=list(SETS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=50)
    options = parser.parse_args()
    if options.what == "grow":
        grow(options.rounds, options.batches)
    for name in options.sets:
        if options.what == "recall":
            recall(name)
        elif options.what == "sweep":
            sweep(name, options.rounds)


if __name__ == "__main__":
    main()
