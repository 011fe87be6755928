"""Inverted lists of sift500k grown in batches, and tuned: ``python bench/lists.py [--rounds 3] [--batches 50]``.

The time of adding all rows in batches beside that of one call, alternating, and whether both give the same answers.
Then what `tune` finds for targets of recall on half of the queries, and the recall of these settings on the others.
"""

import argparse
import time

import numpy as np

import fpq
from fpq import datasets, metrics

K = 10
TARGETS = (0.8, 0.9, 0.95, 0.99)


def seconds_to_add(index: fpq.IVFPQIndex, base: np.ndarray, batches: int) -> float:
    """Add the rows in as many calls."""
    start = time.perf_counter()
    for part in np.array_split(base, batches):
        index.add(part)
    return time.perf_counter() - start


def main() -> None:
    """Print a line of growing and one a target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=50)
    options = parser.parse_args()
    loaded = datasets.load("sift500k")
    base, queries, truth = np.asarray(loaded.base), np.asarray(loaded.query), np.asarray(loaded.groundtruth)[:, :K]

    seconds: dict[int, list[float]] = {1: [], options.batches: []}
    answers = {}
    for _ in range(options.rounds):
        for batches, taken in seconds.items():
            index = fpq.IVFPQIndex(1024).fit(base)
            taken.append(seconds_to_add(index, base, batches))
            answers[batches] = index.search(queries, K, n_probe=32)
    bulk, grown = (float(np.median(taken)) for taken in seconds.values())
    same = all(map(np.array_equal, answers[1], answers[options.batches]))
    print(f"{len(base)} rows in {options.batches} batches: {grown / bulk:.2f} of the time of one; same answers: {same}")

    half = len(queries) // 2
    for residual in (True, False):
        index = fpq.IVFPQIndex(1024, residual=residual, keep_vectors=True).fit(base).add(base)
        for target in TARGETS:
            tuned = index.tune(queries[:half], K, recall=target).best
            held_out = metrics.recall_at_k(index.search(queries[half:], K).ids, truth[half:], K)
            print(
                f"residual={residual!s:5}  target {target:.2f}  measured {tuned.recall:.4f}  held out {held_out:.4f}  "
                f"n_probe={index.n_probe} rerank={index.rerank}"
            )


if __name__ == "__main__":
    main()
