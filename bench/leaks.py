"""Whether memory stays level: resident memory over many searches, changes, saves, loads and trainings.

    python bench/leaks.py [--searches 10000] [--cycles 200]

Each kind of work runs a tenth of its turns first, then all of them; the growth meanwhile must stay under 2 MB.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

import fpq

LIMIT = 2 << 20


def resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def growth(name: str, turn: Callable[[], object], turns: int) -> bool:
    for _ in range(turns // 10):
        turn()
    before = resident()
    for _ in range(turns):
        turn()
    grown = resident() - before
    print(f"{name:<28}{turns:>7} turns: {grown / 1024:+9.0f} kB")
    return grown < LIMIT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=10_000)
    parser.add_argument("--cycles", type=int, default=200)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20_000, 32)).astype(np.float32)
    queries = rows[:3].copy()
    flat = fpq.FlatIndex().add(rows[:2000], ids=np.arange(2000) * 2)
    pq = fpq.PQIndex(8, keep_vectors=True, open_indexing=1.5).fit(rows).add(rows)
    level = True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a")

        def save_and_load() -> None:
            pq.save(path)
            fpq.load(path).search(queries)
            mapped = fpq.load(path, mmap=True)
            mapped.verify()
            mapped.search(queries, rerank=2)

        def change() -> None:
            pq.add(rows[:100], ids=np.arange(100) + 10**6)
            pq.remove(np.arange(100) + 10**6)

        def refuse() -> None:
            for bad in (np.full((1, 32), np.nan), np.zeros((1, 31)), "x"):
                try:
                    pq.search(bad)
                except (TypeError, ValueError):
                    pass

        level &= growth("FlatIndex.search", lambda: flat.search(queries, k=5), args.searches)
        level &= growth("PQIndex.search", lambda: pq.search(queries, k=5), args.searches)
        level &= growth("PQIndex.search, rerank", lambda: pq.search(queries, k=5, rerank=3), args.searches)
        level &= growth("bad queries", refuse, args.searches)
        level &= growth("range_search", lambda: pq.range_search(queries, 20.0), args.cycles)
        level &= growth("add and remove", change, args.cycles)
        level &= growth("save, load, map, verify", save_and_load, args.cycles)
        level &= growth(
            "fit", lambda: fpq.ProductQuantizer(4, nbits=4, rotation="opq").fit(rows[:2000]), args.cycles // 4
        )
    return int(not level)


if __name__ == "__main__":
    sys.exit(main())
