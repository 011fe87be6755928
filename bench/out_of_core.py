"""Twenty million vectors that are never in memory together: built and searched by two workers, and by one process.

    python bench/out_of_core.py [--n 20000000] [--dim 96] [--rows 500000] [--lists 1024] [--folder DIR] [--json FILE]

The vectors of bench/scale.py go block by block into a file of --n * --dim bytes. Then, each in processes of its own:

- cluster: a LocalCluster of two workers with a thread each reads pieces of the file, learns (`fpq.dask.fit`), builds
  shards of --rows (`fpq.dask.build`) and searches them (`fpq.ShardedIndex`).
- here: one process with two threads does the same from an iterable of blocks.
- memory: one thread adds the first million rows, in memory, to the same index: the rate that the others are held
  against.

Peak memory is VmHWM, all pages that a process has had in memory, also those mapped from files. Rates per core are rows
a second of CPU time: other work on the machine, which takes turns with this one, counts less.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
from scale import K, block, timed

QUERIES = 1000
PROBES = 16
MADE = 100_000  # rows that are made up at a time
IN_MEMORY = 1_000_000
ROUNDS = 3


def make_up(path: Path, n: int, dim: int) -> None:
    with path.open("wb") as file:
        for number, start in enumerate(range(0, n, MADE)):
            file.write(block(number, min(MADE, n - start), dim).tobytes())


def piece(path: str, dim: int, start: int, stop: int) -> np.ndarray:
    x = np.fromfile(path, np.uint8, (stop - start) * dim, offset=start * dim)
    return x.reshape(-1, dim)


def pieces(path: str, n: int, dim: int, rows: int) -> Iterator[np.ndarray]:
    for start in range(0, n, rows):
        yield piece(path, dim, start, min(n, start + rows))


def cpu_timed(function: Any) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def done(
    way: str, n: int, fitting: float, building: float, cpu: float, searching: float, peak: float
) -> dict[str, Any]:
    return {
        "way": way, "fit s": fitting, "build s": building, "rows / s / core": n / cpu,
        "queries / s": QUERIES / searching, "peak MiB": peak,
    }  # fmt: skip


def on_cluster(path: str, folder: str, n: int, dim: int, rows: int, lists: int) -> list[dict[str, Any]]:
    import dask
    import dask.array as da
    import distributed

    import fpq
    import fpq.dask

    read = dask.delayed(piece)
    starts = range(0, n, rows)
    parts = [(read(path, dim, s, min(n, s + rows)), (min(n, s + rows) - s, dim)) for s in starts]
    x = da.concatenate([da.from_delayed(part, shape, np.uint8) for part, shape in parts])
    queries = block(10**6, QUERIES, dim)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, memory_limit="2GiB", dashboard_address=None) as two,
        distributed.Client(two) as client,
    ):
        fitting, index = timed(lambda: fpq.dask.fit(fpq.IVFPQIndex(lists, 16), x))
        before = sum(client.run(time.process_time).values())
        building, manifest = timed(lambda: fpq.dask.build(index, x, f"{folder}/cluster"))
        cpu = sum(client.run(time.process_time).values()) - before
        many = fpq.ShardedIndex(manifest, client=client)
        many.search(queries, K, n_probe=PROBES)
        searching, _ = timed(lambda: many.search(queries, K, n_probe=PROBES))
        peaks = list(client.run(peak_mib).values())
    index.save(f"{folder}/index.fpq")
    return [done("cluster, each worker", n, fitting, building, cpu, searching, max(peaks))]


def here(path: str, folder: str, n: int, dim: int, rows: int, lists: int) -> list[dict[str, Any]]:
    import fpq
    import fpq.dask

    queries = block(10**6, QUERIES, dim)
    fitting, index = timed(lambda: fpq.dask.fit(fpq.IVFPQIndex(lists, 16), pieces(path, n, dim, rows)))
    before = time.process_time()
    building, manifest = timed(lambda: fpq.dask.build(index, pieces(path, n, dim, rows), f"{folder}/here"))
    cpu = time.process_time() - before
    many = fpq.ShardedIndex(manifest)
    many.search(queries, K, n_probe=PROBES)
    searching, _ = timed(lambda: many.search(queries, K, n_probe=PROBES))
    return [done("one process", n, fitting, building, cpu, searching, peak_mib())]


def in_memory(path: str, folder: str, n: int, dim: int, rows: int, lists: int) -> list[dict[str, Any]]:
    """The rates of one thread that adds a million rows in memory, and that builds shards of them, in turn."""
    import fpq
    import fpq.dask

    index: Any = fpq.load(f"{folder}/index.fpq")
    n = min(n, IN_MEMORY)
    x = piece(path, dim, 0, n)
    adding, building = [], []
    with threadpoolctl.threadpool_limits(1):
        for number in range(ROUNDS):
            adding.append(cpu_timed(lambda: copy.copy(index).add(x)))
            source = pieces(path, n, dim, rows)
            building.append(cpu_timed(lambda s=source, i=number: fpq.dask.build(index, s, f"{folder}/m{i}")))
    return [
        {"way": "added in memory", "rows / s / core": n / min(adding)},
        {"way": "built into shards, one thread", "rows / s / core": n / min(building)},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20_000_000)
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--lists", type=int, default=1024)
    parser.add_argument("--folder", type=Path, help="where the files go; default: a temporary folder")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measured = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "vectors"
        print(f"made up in {timed(lambda: make_up(path, options.n, options.dim))[0]:.0f} s", flush=True)
        case = (str(path), folder, options.n, options.dim, options.rows, options.lists)
        for way in (on_cluster, here, in_memory):
            if way is on_cluster:  # its workers are processes of their own
                rows = way(*case)
            else:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    rows = pool.apply(way, case)
            measured += rows
            for row in rows:
                values = ((k, f"{v:,.1f}" if isinstance(v, float) else v) for k, v in row.items())
                print(", ".join(f"{key} {value}" for key, value in values), flush=True)
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
