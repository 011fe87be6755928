"""Loads hostile files by the ten thousand: cut, flipped, mixed up, made by hand with fitting digests.

    python bench/fuzz_load.py [--cases 120000] [--seed 0]

Each batch runs in a process of its own, so that a crash or a hang is seen and told with its seed. Every case must end
in FormatError or the original data; a file made by hand with fitting digests may also load as a sound object, which is
then searched and changed. One case in twenty is made of files of 2 MB, for the memory that Python and NumPy take while
loading: a case that takes more than twice the file's size is wrong too.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import os
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

import fpq

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import hostile

BATCH = 2000
LIMIT_SECONDS = 300  # for a batch
SLACK = 64 * 1024  # what loading takes whatever the file


def batch(seed: int, result: str) -> None:
    large = large_files()
    ends: collections.Counter[str] = collections.Counter()
    most = 0.0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        path = Path(folder, "a")
        for case in range(BATCH):
            rng = np.random.default_rng([seed, case])
            kind = hostile.KINDS[case // 20 % 4 if case % 20 < 1 else case % 4]
            data, whole = hostile.hostile(kind, rng, large if case % 20 < 1 else hostile.FILES)
            try:
                if whole in large:
                    most = max(most, memory(data, path))
                    assert most <= 2, "too much memory"
                ends[f"{kind}: {hostile.check(kind, data, whole, path, mmap=bool(case // 4 % 2))}"] += 1
            except BaseException as error:
                print(f"seed {seed} case {case} ({kind}): {error!r}", file=sys.stderr)
                ends["WRONG"] += 1
    Path(result).write_text(repr((dict(ends), most)))


def large_files() -> list[bytes]:
    rows = np.random.default_rng(0).normal(size=(16_000, 32)).astype(np.float32)
    ids = np.arange(len(rows)) * 3
    indexes = (
        fpq.FlatIndex().add(rows, ids=ids),
        fpq.PQIndex(8, nbits=5, open_indexing=1.5, keep_vectors=True).fit(rows[:2000]).add(rows, ids=ids),
        fpq.IVFPQIndex(40, 8, keep_vectors=True).fit(rows[:6000]).add(rows, ids=ids),
        fpq.E2LSHIndex(n_tables=3, width=4.0).fit(rows[:2000]).add(rows, ids=ids),
        fpq.C2LSHIndex(n_hashes=30, width=4.0).fit(rows[:2000]).add(rows, ids=ids),
        fpq.PMLSHIndex().fit(rows[:2000]).add(rows, ids=ids),
    )
    return [hostile.contents(index) for index in indexes]


def memory(data: bytes, path: Path) -> float:
    """Peak bytes while loading, less SLACK, as a multiple of the file's size."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        fpq.load(path)
    except fpq.FormatError:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return max(0, peak - SLACK) / max(1, len(data))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=120_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    ends: collections.Counter[str] = collections.Counter()
    most, start = 0.0, time.perf_counter()
    for seed in range(args.seed, args.seed + -(-args.cases // BATCH)):
        with tempfile.NamedTemporaryFile() as result:
            process = multiprocessing.get_context("spawn").Process(target=batch, args=(seed, result.name))
            process.start()
            process.join(LIMIT_SECONDS)
            if process.is_alive():
                process.kill()
                ends["HANG"] += 1
                print(f"seed {seed}: hangs", file=sys.stderr)
            elif process.exitcode:
                ends["CRASH"] += 1
                print(f"seed {seed}: exit code {process.exitcode}", file=sys.stderr)
            else:
                counts, peak = eval(Path(result.name).read_text())
                ends.update(counts)
                most = max(most, peak)
    for name, count in sorted(ends.items()):
        print(f"{name:<24}{count:>8}")
    print(f"{sum(ends.values())} cases in {time.perf_counter() - start:.0f} s; memory at most {most:.2f} x the file")
    return int(any(ends[name] for name in ("WRONG", "HANG", "CRASH")))


if __name__ == "__main__":
    sys.exit(main())
