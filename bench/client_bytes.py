"""Bytes that workers send to the client of `fpq.dask.fit`, by option of an IVFPQIndex of 16 bytes.

    python bench/client_bytes.py [--n 400000] [--lists 1024] [--dim 96]

Rows are made up: uint8, or float32 for "cosine". There is one worker; sums are made by chunks, whoever has them, so
more workers send as much. Columns: all results, rows among them, other results, and the step that sends most at once.
"""

from __future__ import annotations

import argparse
from typing import Any

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

import fpq
import fpq.dask
from fpq.dask import training

OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "list_capacity=1.5": {"list_capacity": 1.5},
    "open_indexing=1.5": {"open_indexing": 1.5},
    "local_rotations": {"local_rotations": True},
    'metric="cosine", anisotropy=1': {"metric": "cosine", "anisotropy": 1},
    'metric="cosine"': {"metric": "cosine"},
    'refine="sq8"': {"refine": "sq8"},
}


def size(value: Any) -> int:
    """Bytes of the arrays in a result."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    return sum(map(size, value)) if isinstance(value, (list, tuple)) else 0


def main() -> None:
    """Print a row per option."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("n", 400_000), ("lists", 1024), ("dim", 96)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    centres = rng.uniform(64, 192, (1000, args.dim))
    x = np.empty((args.n, args.dim), np.uint8)
    for start in range(0, args.n, 10_000):
        block = centres[rng.integers(1000, size=len(x[start : start + 10_000]))]
        x[start : start + 10_000] = (block + rng.normal(scale=20, size=block.shape)).clip(0, 255)
    received: list[tuple[str, int]] = []
    results = training.ClusterRows.results

    def counted(self: Any, name: str, calls: Any) -> Any:
        found = results(self, name, calls)
        received.append((name, size(found)))
        return found

    training.ClusterRows.results = counted  # type: ignore[method-assign]
    print("| option | MB | rows | others | most at once |\n|---|---|---|---|---|")
    with (
        LocalCluster(1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as c,
    ):
        for name, options in OPTIONS.items():
            received.clear()
            rows = x.astype(np.float32) if "cosine" in name else x
            index = fpq.IVFPQIndex(args.lists, 16, **options)
            fpq.dask.fit(index, da.from_array(rows, chunks=(50_000, args.dim)), client=c)
            total, taken = sum(n for _, n in received), sum(n for step, n in received if step == "take")
            step, most = max(received, key=lambda each: each[1])
            sizes = (each / 1e6 for each in (total, taken, total - taken, most))
            print(f"| {name} |", " | ".join(f"{each:.1f}" for each in sizes), f"({step}) |", flush=True)


if __name__ == "__main__":
    main()
