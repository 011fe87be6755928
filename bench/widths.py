"""Recall of codes alone by the number of subquantizers m, and what m costs where vectors are kept.

    python bench/widths.py [sift500k glove50 minilm] [--tuned glove50] [--threads 2] [--queries 2000]

The first table has recall@10 of a PQIndex without re-ranking for m = d/8, d/4, d/3 and d/2, and the noise by which a
search warns of coarse codes (`fpq/indexes/parts/recall_ceiling.py`). The second table, for the sets of `--tuned`, has
the rate of an IVFPQIndex that keeps its vectors, at recalls of 0.95 and 0.99: of the fastest setting that `tune`
measured, as a share of the rate at m = d/2.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np

import fpq
from fpq.indexes.parts import recall_ceiling

METRICS = {"sift500k": "l2", "glove50": "ip", "minilm": "cosine"}
DIVISORS = (8, 4, 3, 2)
TARGETS = (0.95, 0.99)
K = 10


def loaded(name: str, n_queries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors, queries and the ids of their true neighbours."""
    data = fpq.datasets.load(name)
    base = np.asarray(data.base)
    base = base if base.dtype == np.uint8 else base.astype(np.float32)
    queries = np.asarray(data.query)[:n_queries].astype(np.float32)
    return base, queries, fpq.FlatIndex(METRICS[name]).add(base).search(queries, K).ids


def alone(name: str, m: int, base: np.ndarray, queries: np.ndarray, truth: np.ndarray, threads: int) -> str:
    """recall@10 without re-ranking, and the noise."""
    index = fpq.PQIndex(m, metric=METRICS[name], n_threads=threads).fit(base).add(base)
    distances, ids = index.search(queries, K)
    noise = recall_ceiling.noise(index.quantizer, index._metric, queries, distances)
    return f"{fpq.metrics.recall_at_k(ids, truth):.2f} (m = {m}, noise {noise:.2f})"


def rates(name: str, m: int, base: np.ndarray, queries: np.ndarray, truth: np.ndarray, threads: int) -> list[float]:
    """Queries per second at each target; NaN: not reached."""
    n_lists = int(2 * math.sqrt(len(base)))
    index = fpq.IVFPQIndex(n_lists, m, metric=METRICS[name], keep_vectors=True, n_threads=threads).fit(base).add(base)
    found: list[float] = []
    for target in TARGETS:
        try:
            found.append(1 / index.tune(queries, K, target, neighbors=truth).best.seconds)
        except ValueError:
            found.append(math.nan)
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(METRICS))
    parser.add_argument("--tuned", nargs="*", default=["glove50"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--queries", type=int, default=2000)
    options = parser.parse_args()
    data: dict[str, Any] = {name: loaded(name, options.queries) for name in {*options.sets, *options.tuned}}
    for name in options.sets:
        base = data[name][0]
        widths = [-(-base.shape[1] // divisor) if divisor < 4 else base.shape[1] // divisor for divisor in DIVISORS]
        row = [alone(name, m, *data[name], options.threads) for m in widths]
        print(f"| {name}, {METRICS[name]} | {' | '.join(row)} |", flush=True)
    for name in options.tuned:
        d = data[name][0].shape[1]
        found = {m: rates(name, m, *data[name], options.threads) for m in (-(-d // 2), -(-d // 3), d // 4, d // 8)}
        best = found[-(-d // 2)]
        for m, own in found.items():
            shares = [f"{a / b:.2f}" if a == a else "not reached" for a, b in zip(own, best, strict=True)]
            print(f"| {name}, m = {m} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
