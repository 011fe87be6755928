"""What a limit on the length of lists does: ``python bench/balance.py [--data sift500k] [--lists 1024] [--probes 8]``.

Lengths of lists, codes that a query scans, coverage of its ten true neighbours by the probed lists, and the time of
single queries on one thread, without and with ``list_capacity``; the same training rows and seed. Times alternate.
"""

import argparse
import time

import numpy as np

import fpq
from fpq import datasets

CAPACITIES = (None, 2.0, 1.5, 1.25, 1.0)


def percentiles(values: np.ndarray) -> str:
    """p50, p99 and p99.9."""
    return " ".join(f"{value:9.0f}" for value in np.percentile(values, [50, 99, 99.9]))


def main() -> None:
    """Print one line a capacity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sift500k")
    parser.add_argument("--lists", type=int, default=1024)
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    loaded = datasets.load(options.data)
    base, queries = (np.asarray(a).reshape(len(a), -1) for a in (loaded.base, loaded.query))
    queries, truth = queries.astype(np.float32), np.asarray(loaded.groundtruth)[:, :10]
    print(
        f"{'':10}{'longest':>9}{'coverage':>10}   {'codes scanned p50, p99, p99.9':32}{'microseconds p50, p99, p99.9'}"
    )
    print(f"{'capacity':10}{'/ mean':>9}{'of 10':>10}")
    indexes = {c: fpq.IVFPQIndex(options.lists, list_capacity=c).fit(base).add(base) for c in CAPACITIES}
    seconds = {c: np.full((options.rounds, len(queries)), np.inf) for c in CAPACITIES}
    for turn in range(options.rounds):
        for c, index in indexes.items():
            for i, query in enumerate(queries):
                start = time.perf_counter()
                index.search(query, 10, n_probe=options.probes, n_threads=1)
                seconds[c][turn, i] = time.perf_counter() - start
    for c, index in indexes.items():
        nearest = fpq.FlatIndex().add(index.centroids).search(queries, options.probes).ids
        probed = index.list_sizes[nearest].sum(1)
        lists = index.lists_of(truth.ravel()).reshape(truth.shape)
        coverage = (lists[:, :, None] == nearest[:, None]).any(2).mean()
        longest = index.list_sizes.max() / index.list_sizes.mean()
        times = percentiles(seconds[c].min(0) * 1e6)
        print(f"{c!s:10}{longest:9.2f}{coverage:10.3f}   {percentiles(probed):32}{times}")


if __name__ == "__main__":
    main()
