"""Manifests of many shards: bytes, time to read, bytes that a search on a cluster sends, and time to open a shard.

    python bench/manifests.py [--lists 1024] [--rows 5000]

Times are CPU seconds, the least of three. Shards are copies of one file of an IVFPQIndex of 96 dimensions.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import fpq
from fpq.sharding import manifest
from fpq.sharding.manifest import Manifest, Shard

OPENED = 100  # shards


def seconds(function: Callable[[], object]) -> float:
    """The least CPU time of three calls."""
    times = []
    for _ in range(3):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """Print a row per number of shards, and the time to open one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("lists", 1024), ("rows", 5000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    print("| shards | MB | read s | MB sent per search |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n in (1000, 10_000, 60_000):
            starts = range(0, n << 24, 1 << 24)
            shards = (Shard(f"shard-{i:012d}-{i:016x}.fpq", 1 << 24, i, i, i + (1 << 24) - 1, "a" * 64) for i in starts)
            content, path = Manifest("IVFPQIndex", "l2", 96, "b" * 64, tuple(shards)), folder / f"{n}.json"
            content.write(path)
            taken, sent = seconds(lambda path=path: manifest.read(path)), len(pickle.dumps(content))
            print(f"| {n:,} | {path.stat().st_size / 1e6:.1f} | {taken:.3f} | {sent / 1e6:.2f} |")
        x = np.random.default_rng(0).normal(size=(max(args.rows, 32 * args.lists), 96)).astype(np.float32)
        index = fpq.IVFPQIndex(args.lists, 16).fit(x).add(x[: args.rows])
        files = [folder / f"{i}.fpq" for i in range(OPENED)]
        for file in files:
            index.save(file)
        offsets = [i * args.rows for i in range(OPENED)]
        fpq.ShardedIndex.create(folder / "manifest.json", files, offsets=offsets)
        taken = seconds(lambda: fpq.ShardedIndex(folder / "manifest.json"))
        print(f"\nto open a shard of {args.rows:,} rows in {args.lists:,} lists: {taken / OPENED * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
