"""Codes of 4 bits beside codes of 8 bits, where vectors are kept: rate at a recall on one thread.

    FPQ_ISA=avx2 python bench/bits.py [sift500k glove50 minilm] [--queries 3000] [--rounds 3]

Each index is an IVFPQIndex of plain codes: the m that `fpq.recommend` takes for 8 bits, and 1.5 times as many
subquantizers of 4 bits, in three quarters of the bytes. The searches of all settings alternate; a rate is the best of
the rounds, by CPU time, and rates between two settings are interpolated.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from curves import rate_at
from widths import METRICS, K, loaded

import fpq
from fpq.recommendation import byte_codes, fewer_bits

PROBES = (8, 12, 16, 24, 32, 48, 64, 96)
RERANKS = (2, 4, 6, 8, 12, 16, 24)
TARGETS = (0.9, 0.95, 0.98)


def measure(name: str, n_queries: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of recall and rate, by index."""
    base, queries, truth = loaded(name, n_queries)
    d = base.shape[1]
    n_lists = fpq.recommend(base, metric=METRICS[name]).index.n_lists
    byte_m = byte_codes(d, METRICS[name])[0][0]
    indexes = {
        f"{m} codes of {nbits} bits": fpq.IVFPQIndex(
            n_lists, m, nbits=nbits, metric=METRICS[name], residual=False, keep_vectors=True
        ).fit(base).add(base)
        for m, nbits in ((byte_m, 8), (fewer_bits(byte_m, d), 4))
    }  # fmt: skip
    rows: dict[str, list[dict[str, Any]]] = {key: [] for key in indexes}
    for n_probe in PROBES:
        for rerank in RERANKS:
            seconds: dict[str, list[float]] = {key: [] for key in indexes}
            ids = {}
            for _ in range(rounds):
                for key, index in indexes.items():
                    start = time.process_time()
                    ids[key] = index.search(queries, K, n_probe=n_probe, rerank=rerank, n_threads=1).ids
                    seconds[key].append(time.process_time() - start)
            for key, own in ids.items():
                recall = fpq.metrics.recall_at_k(own, truth, K)
                rows[key].append({"recall@10": recall, "qps": len(queries) / min(seconds[key])})
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(METRICS))
    parser.add_argument("--queries", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{fpq.cpu_info()['isa']}, queries per second at recall@10 of {', '.join(map(str, TARGETS))}")
    for name in options.sets:
        found = {key: [rate_at(own, target) for target in TARGETS]
                 for key, own in measure(name, options.queries, options.rounds).items()}  # fmt: skip
        bytes_, bits = found.values()
        for key, own in found.items():
            print(f"| {name}, {key} | {' | '.join(f'{rate:,.0f}' for rate in own)} |", flush=True)
        print(f"| ratio | {' | '.join(f'{a / b:.2f}' for a, b in zip(bits, bytes_, strict=True))} |", flush=True)


if __name__ == "__main__":
    main()
