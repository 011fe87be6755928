"""Learning on two Dask workers of one thread each, beside one process of two threads: time, memory, bits.

python bench/learn_on_workers.py [--times 3] [CASE ...]

The vectors are made up: 1,000 centres, normal noise, float32, in a file of 150 MB that all processes map. Each fit
runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import distributed
import numpy as np

import fpq
import fpq.dask

N, D = 1_200_000, 32
KEYS = "seconds", "cpu", "peak", "worker"
CASES: dict[str, Callable[[], Any]] = {
    "4,096 lists": lambda: fpq.IVFPQIndex(4096, 16),
    "8,192 lists": lambda: fpq.IVFPQIndex(8192, 16),
    "8,192 lists, cosine": lambda: fpq.IVFPQIndex(8192, 16, metric="cosine"),
    "8,192 lists, list_capacity": lambda: fpq.IVFPQIndex(8192, 16, list_capacity=1.5),
    "1,024 lists, list_capacity": lambda: fpq.IVFPQIndex(1024, 16, list_capacity=1.5),
    "1,024 lists, local_rotations": lambda: fpq.IVFPQIndex(1024, 16, local_rotations=True),
    "cosine": lambda: fpq.PQIndex(16, metric="cosine"),
    "PCA": lambda: fpq.PQIndex(16, rotation="pca"),
    "OPQ": lambda: fpq.PQIndex(16, rotation="opq"),
    "OpenIndexing": lambda: fpq.PQIndex(16, open_indexing=1.5),
}


def write(path: Path) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1000, D)).astype(np.float32) * 2
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (N, D))
    for start in range(0, N, 100_000):
        rows[start : start + 100_000] = centres[rng.integers(1000, size=100_000)]
        rows[start : start + 100_000] += rng.standard_normal((100_000, D), np.float32)


def peak_mb() -> float:
    """VmHWM of this process, with all pages mapped from files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return int(sizes["VmHWM"]) / 1024


def imports() -> None:
    import fpq.dask  # noqa: F401


def once(case: str, way: str, path: str) -> dict[str, Any]:
    x, index = np.load(path, mmap_mode="r"), CASES[case]()
    if way == "workers":
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster, set_as_default=False) as client,
        ):
            client.run(imports)
            before = time.process_time() + sum(client.run(time.process_time).values())
            start = time.perf_counter()
            fpq.dask.fit(index, x, client=client)
            seconds = time.perf_counter() - start
            cpu = time.process_time() + sum(client.run(time.process_time).values()) - before
            worker = max(client.run(peak_mb).values())
    else:
        index.n_threads = 2
        before, start = time.process_time(), time.perf_counter()
        index.fit(x)
        seconds, cpu, worker = time.perf_counter() - start, time.process_time() - before, 0.0
    arrays = index._state().arrays
    digest = blake2b(b"".join(np.ascontiguousarray(arrays[name]).tobytes() for name in sorted(arrays))).hexdigest()
    return {"seconds": seconds, "cpu": cpu, "peak": peak_mb(), "worker": worker, "digest": digest}


def median(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in KEYS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all of {', '.join(CASES)}")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.once:
        print(json.dumps(once(args.cases[0], *args.once)))
        return
    print("| | one process s | core s | two workers s | core s | peak MB, one process | client | worker | same bits |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "x.npy"))
        for case in args.cases or CASES:
            found: dict[str, list[dict[str, Any]]] = {"one": [], "workers": []}
            for _ in range(args.times):
                for way, runs in found.items():
                    command = [sys.executable, __file__, case, "--once", way, str(Path(folder, "x.npy"))]
                    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                    runs.append(json.loads(done.stdout.splitlines()[-1]))
            one, workers = (median(runs) for runs in found.values())
            same = len({run["digest"] for runs in found.values() for run in runs}) == 1
            print(
                f"| {case} | {one['seconds']:.1f} | {one['cpu']:.1f} "
                f"| {workers['seconds']:.1f} | {workers['cpu']:.1f} | "
                f"{one['peak']:.0f} | {workers['peak']:.0f} | {workers['worker']:.0f} | {'yes' if same else 'no'} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
