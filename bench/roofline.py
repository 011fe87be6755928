"""Each kernel as a share of what one core can do at most, measured in the same run. For x86 CPUs; needs a C compiler.

    python bench/roofline.py [--isa avx512] [--rounds 5] [--json FILE]

The limits are the rates of the one instruction or memory level that bounds a kernel: fused multiply-adds, byte
shuffles, reads. Work is counted as if nothing were skipped, so a kernel that skips work exactly can be above 1.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FLAGS = {"avx2": ["-mavx2", "-mfma"], "avx512": ["-DWIDE", "-mavx512f", "-mavx512bw", "-mavx512vbmi", "-mavx512vnni"]}
CHAINS = 12  # of roofline.c
LEVELS = {"L1": 16 << 10, "L2": 256 << 10, "memory": 256 << 20}


def best(run: Callable[[], Any], rounds: int) -> float:
    """The least of so many times, after a warm-up, in seconds."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def limits(isa: str, rounds: int) -> dict[str, float]:
    """Flops, bytes shuffled and bytes read a second."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "roofline.so")
        source = Path(__file__).with_suffix(".c")
        subprocess.run(
            [os.environ.get("CC", "cc"), "-O3", "-funroll-loops", "-fPIC", "-shared", *FLAGS[isa], source, "-o", made],
            check=True,
        )
        library = ctypes.CDLL(str(made))
    out = ctypes.create_string_buffer(64)
    width, n = (64 if isa == "avx512" else 32), 2_000_000
    per_call = n * CHAINS * width
    found = {"fma": 2 * per_call / 4 / best(lambda: library.multiply_add(ctypes.c_long(n), out), rounds)}
    for name in ("shuffle",) + (("permute", "dot") if isa == "avx512" else ()):
        found[name] = per_call / best(lambda name=name: getattr(library, name)(ctypes.c_long(n), out), rounds)
    memory = np.ones(max(LEVELS.values()) + 64, np.uint8)
    start = memory.ctypes.data + -memory.ctypes.data % 64
    for level, size in LEVELS.items():
        times = max(1, (1 << 28) // size)
        read = best(
            lambda size=size, times=times: library.read_memory(
                ctypes.c_void_p(start), ctypes.c_size_t(size), ctypes.c_long(times), out
            ),
            rounds,
        )
        found[level] = size * times / read
    return found


class Kernel(NamedTuple):
    """A piece of work, how much of what it is, and what runs it."""

    name: str
    limit: str
    work: float
    run: Callable[[], Any]


def kernels(wide: bool) -> list[Kernel]:
    """All on one thread and made-up uint8 or float32 rows."""
    import fpq
    from fpq import _native

    rng = np.random.default_rng(0)
    threads = {"n_threads": 1}
    many = rng.integers(0, 256, (200_000, 128), dtype=np.uint8)
    rows, queries = many[:50_000].astype(np.float32), rng.random((512, 128), dtype=np.float32) * 255
    found = []

    def add(name: str, limit: str, work: float, run: Callable[[], Any]) -> None:
        found.append(Kernel(name, limit, work, run))

    for m, k in ((32, 256), (16, 256), (8, 256), (1, 1024)):
        d = 128 // m
        books = rng.random((m, k, d), dtype=np.float32) * 255
        offsets, ids = np.arange(0, 129, d, dtype=np.int32), np.empty((m, len(rows)), np.int32)
        add(
            f"assign, {k} centroids of {d} dimensions", "fma", 2.0 * len(rows) * k * 128,
            lambda books=books, offsets=offsets, ids=ids: _native.assign(books, offsets, rows, None, ids, None, 1),
        )  # fmt: skip
    index = fpq.PQIndex(16, **threads).fit(rows[:20_000]).add(many)
    fine = fpq.PQIndex(32, nbits=4, **threads).fit(rows[:20_000]).add(many)
    # The entries of 8-bit codes take two look-ups of 128 where the CPU has them, else one of the 16 least entries.
    sieve = ("permute", 2) if wide else ("shuffle", 1)
    for k in (10, 100):
        add(
            f"scan of 8-bit codes, m=16, k={k}",
            sieve[0],
            sieve[1] * float(len(queries)) * len(many) * 16,
            lambda k=k: index.search(queries, k),
        )
        add(
            f"scan of 4-bit codes, m=32, k={k}",
            "shuffle",
            float(len(queries)) * len(many) * 32,
            lambda k=k: fine.search(queries, k),
        )
    add("scan of 8-bit codes, one query", sieve[0], sieve[1] * len(many) * 16.0, lambda: index.search(queries[:1], 10))
    add("encode uint8, m=16", "fma", 2.0 * len(many) * 256 * 128, lambda: index.quantizer.encode(many))
    flat, bytes_flat = fpq.FlatIndex(**threads).add(many.astype(np.float32)), fpq.FlatIndex(**threads).add(many)
    add("exact search, float32, batch", "fma", 2.0 * len(queries) * len(many) * 128, lambda: flat.search(queries, 10))
    add(
        "exact search, uint8, batch",
        "fma",
        2.0 * len(queries) * len(many) * 128,
        lambda: bytes_flat.search(queries, 10),
    )
    add("exact search, float32, one query", "memory", 4.0 * len(many) * 128, lambda: flat.search(queries[:1], 10))
    add("exact search, uint8, one query", "memory", 1.0 * len(many) * 128, lambda: bytes_flat.search(queries[:1], 10))
    kmeans = fpq.KMeans(1024, n_iter=10, max_points_per_centroid=100_000, **threads)
    add("k-means, 1024 centroids, 10 iterations", "fma", 2.0 * 10 * len(rows) * 1024 * 128, lambda: kmeans.fit(rows))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", choices=FLAGS, default="avx512")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ.update(FPQ_ISA=args.isa, OMP_NUM_THREADS="1")
    limit = limits(args.isa, args.rounds)
    print(f"one core, {args.isa}: " + ", ".join(f"{name} {rate / 1e9:.0f} G/s" for name, rate in limit.items()))
    shares = {}
    for kernel in kernels(args.isa == "avx512"):
        seconds = best(kernel.run, args.rounds)
        shares[kernel.name] = kernel.work / seconds / limit[kernel.limit]
        print(f"{kernel.name:48} {kernel.work / seconds / 1e9:7.1f} G/s  {shares[kernel.name]:5.2f} of {kernel.limit}")
    if args.json:
        args.json.write_text(json.dumps({"isa": args.isa, "limits": limit, "shares": shares}, indent=1))


if __name__ == "__main__":
    main()
