"""Saving and loading an index of 500,000 SIFT vectors: rates, time to map, memory, and the speed of a mapped index.

    python bench/files.py [--rounds 3]

Rates stand beside what writing and syncing the same bytes, reading them, and BLAKE2b take in the same round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import fpq
from fpq import _format, threads

PEAK = """
import sys, fpq
def peak():  # resource.ru_maxrss begins with the parent's
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1e3 for line in file if line.startswith("VmHWM"))
index = fpq.load(sys.argv[1]) if sys.argv[2] == "save" else None
before = peak()
if index is None:
    index = fpq.load(sys.argv[1])
else:
    index.save(sys.argv[1] + ".again")
print(peak() - before)
"""


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(name: str, index: fpq.FlatIndex | fpq.PQIndex, queries: np.ndarray, folder: Path, rounds: int) -> None:
    path, raw = folder / "index", folder / "raw"
    index.save(path)
    data = path.read_bytes()

    def write() -> None:
        with open(raw, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def digest() -> None:
        with _format.Digests(threads.resolve(None)) as digests:
            digests.end(digests.begin(memoryview(data)))

    calls = {
        "disk": write,
        "read": raw.read_bytes,
        "BLAKE2b": digest,
        "save": lambda: index.save(path),
        "load": lambda: fpq.load(path),
        "map": lambda: fpq.load(path, mmap=True),
    }
    write()
    took = {each: min(seconds(call) for _ in range(rounds)) for each, call in calls.items()}
    rates = ", ".join(f"{each} {len(data) / 1e9 / took[each]:.2f} GB/s" for each in calls if each != "map")
    print(f"{name}, {len(data) / 1e6:.0f} MB: {rates}; mapped in {took['map'] * 1e3:.1f} ms")
    mapped = fpq.load(path, mmap=True)
    mapped.search(queries)
    ratios = [
        seconds(lambda: mapped.search(queries)) / seconds(lambda: index.search(queries)) for _ in range(2 * rounds + 1)
    ]
    print(f"    search, mapped to in memory: {statistics.median(ratios):.2f} of the time")
    for work in ("save", "load"):
        command = [sys.executable, "-c", PEAK, str(path), work]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"    peak memory in {work}: +{float(done.stdout):.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows = fpq.datasets.load("sift500k").base
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for name, index in (
            ("FlatIndex, float32", fpq.FlatIndex().add(rows.astype(np.float32))),
            ("PQIndex, 16 bytes and vectors", fpq.PQIndex(16, keep_vectors=True).fit(rows).add(rows)),
        ):
            measure(name, index, rows[:200], Path(folder), args.rounds)


if __name__ == "__main__":
    main()
