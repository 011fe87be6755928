"""Vectors that are never in memory together: built and searched by one process and by two workers.

    python bench/out_of_core.py [--n 20000000] [--dim 96] [--rows 500000] [--lists 1024] [--probes 16]
                                [--killed 5000000] [--vectors FILE] [--folder DIR] [--json FILE]

The vectors of bench/scale.py go block by block into a file of --n * --dim bytes. Then, each in processes of its own:

- exact: the true neighbours of 1,000 queries, by `fpq.FlatIndex` block by block; kept beside the vectors.
- here: one process with two threads learns (`fpq.dask.fit`) and builds shards of --rows (`fpq.dask.build`) from an
  iterable of blocks.
- search: one process maps these shards (`fpq.ShardedIndex`) and searches them with each number of --probes, and for 200
  queries in all lists: the recall that the codes can reach.
- cluster: a LocalCluster of two workers with a thread each maps the file, learns, builds and searches.
- memory: one thread adds the first million rows, in memory, to the same index: the rate that the others are held
  against.
- killed: two workers build the first --killed rows, and one is killed as it encodes. The files are compared with those
  of a build in one process.

Peak memory is VmHWM, all pages that a process has had in memory, also those mapped from files, and RssAnon, the pages
that are not from files, sampled every 10 ms. Rates per core are rows a second of CPU time: other work on the machine,
which takes turns with this one, counts less. The neighbours of a query within its centre are nearly noise, so the
recall of codes is low.
"""

from __future__ import annotations

import argparse
import copy
import filecmp
import json
import multiprocessing
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import threadpoolctl
from scale import K, Peak, block, cpu_timed, numbers, scanned_rows, timed

QUERIES = 1000
IN_ALL_LISTS = 200  # queries for which all lists are searched
MADE = 100_000  # rows that are made up at a time
COMPARED = 1_000_000  # rows that are compared with the queries at a time
IN_MEMORY = 1_000_000
KILLED_SHARDS = 10
ROUNDS = 3
WORKER_MEMORY = "6GiB"

Row = dict[str, Any]


class Case(NamedTuple):
    vectors: str  # the file
    folder: str
    n: int
    dim: int
    rows: int  # of a shard
    lists: int
    probes: list[int]
    killed: int

    def queries(self) -> np.ndarray:
        return block(10**6, QUERIES, self.dim)

    def starts(self, rows: int) -> Iterator[tuple[int, int]]:
        return ((start, min(self.n, start + rows)) for start in range(0, self.n, rows))

    def pieces(self, rows: int) -> Iterator[np.ndarray]:
        return (piece(self.vectors, self.dim, *ends) for ends in self.starts(rows))

    def mapped(self) -> np.ndarray:
        return np.memmap(self.vectors, np.uint8, "r", shape=(self.n, self.dim))

    def true_ids(self) -> Path:
        return Path(f"{self.vectors}.{self.n}.npy")


def make_up(case: Case) -> None:
    with open(case.vectors, "wb") as file:
        for number, (start, stop) in enumerate(case.starts(MADE)):
            file.write(block(number, stop - start, case.dim).tobytes())


def piece(path: str, dim: int, start: int, stop: int) -> np.ndarray:
    return np.fromfile(path, np.uint8, (stop - start) * dim, offset=start * dim).reshape(-1, dim)


def high_water() -> float:
    """The VmHWM of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1000


def exact(case: Case) -> list[Row]:
    import fpq

    if case.true_ids().exists():
        return []
    queries = case.queries()
    distances, ids = np.empty((QUERIES, 0), np.float32), np.empty((QUERIES, 0), np.int64)
    begin = time.perf_counter()
    for number, x in enumerate(case.pieces(COMPARED)):
        found, rows = fpq.FlatIndex().add(x).search(queries, K)
        distances, ids = np.hstack([distances, found]), np.hstack([ids, rows + number * COMPARED])
        nearest = np.lexsort((ids, distances))[:, :K]
        distances, ids = (np.take_along_axis(each, nearest, 1) for each in (distances, ids))
    np.save(case.true_ids(), ids)
    return [{"way": "exact", "search s": time.perf_counter() - begin}]


def searches(
    case: Case, many: Any, rounds: int = ROUNDS, n: int = QUERIES, cpu: Callable[[], float] = time.process_time
) -> list[Row]:
    """The median rates of searches for the first n queries, in turn, and their recall."""
    import fpq

    queries, true = case.queries()[:n], np.load(case.true_ids())[:n]
    seconds: dict[int, list[float]] = {probes: [] for probes in case.probes}
    core_seconds: dict[int, list[float]] = {probes: [] for probes in case.probes}
    recall = {}
    for _ in range(rounds):
        for probes in case.probes:
            before = cpu()
            took, found = timed(lambda p=probes: many.search(queries, K, n_probe=p))
            core_seconds[probes].append(cpu() - before)
            seconds[probes].append(took)
            recall[probes] = fpq.metrics.recall_at_k(found.ids, true, K)
    return [
        {
            "probes": p, "queries / s": n / statistics.median(seconds[p]),
            "queries / s / core": n / statistics.median(core_seconds[p]), "recall@10": recall[p],
        }
        for p in case.probes
    ]  # fmt: skip


def here(case: Case) -> list[Row]:
    import fpq
    import fpq.dask

    peak = Peak()
    fitting, index = timed(lambda: fpq.dask.fit(fpq.IVFPQIndex(case.lists, 16), case.pieces(case.rows)))
    fit_cpu, fit_peak = time.process_time(), high_water()
    index.save(f"{case.folder}/index.fpq")
    before = time.process_time()
    building, manifest = timed(lambda: fpq.dask.build(index, case.pieces(case.rows), f"{case.folder}/here"))
    cpu = time.process_time() - before
    peaks = high_water(), peak.stop()
    disk = sum(path.stat().st_size for path in manifest.parent.iterdir())
    return [{
        "way": "one process", "n": case.n, "lists": case.lists, "shards": -(-case.n // case.rows), "queries": QUERIES,
        "fit s": fitting, "fit core s": fit_cpu, "build s": building, "rows / s / core": case.n / cpu,
        "bytes per vector": disk / case.n, "fit VmHWM MB": fit_peak, "VmHWM MB": peaks[0], "RssAnon MB": peaks[1],
    }]  # fmt: skip


def search(case: Case) -> list[Row]:
    import fpq

    peak = Peak()
    opening, many = timed(lambda: fpq.ShardedIndex(f"{case.folder}/here/manifest.json"))
    all_lists = searches(case._replace(probes=[case.lists]), many, 1, IN_ALL_LISTS)  # also maps the pages of all lists
    rows = searches(case, many)
    memory = {"open s": opening, "VmHWM MB": high_water(), "RssAnon MB": peak.stop()}
    index, folder = fpq.load(f"{case.folder}/index.fpq"), Path(case.folder, "here")
    for row in rows:
        row["scanned"] = scanned_rows(index, folder, many.shards, case.queries(), row["probes"])
    return [{"way": "one process", **row} for row in (*rows, *all_lists, memory)]


def on_cluster(case: Case) -> list[Row]:
    import distributed

    import fpq
    import fpq.dask

    def begin(dask_worker: Any) -> None:
        dask_worker.peak = Peak()

    def end(dask_worker: Any) -> float:
        return float(dask_worker.peak.stop())

    def cpu() -> float:
        return float(sum(client.run(time.process_time).values()))

    x, peak = case.mapped(), Peak()
    with (
        distributed.LocalCluster(2, threads_per_worker=1, memory_limit=WORKER_MEMORY, dashboard_address=None) as two,
        distributed.Client(two, set_as_default=False) as client,
    ):
        client.run(begin)
        fitting, index = timed(lambda: fpq.dask.fit(fpq.IVFPQIndex(case.lists, 16), x, client=client))
        before = cpu()
        building, manifest = timed(
            lambda: fpq.dask.build(index, x, f"{case.folder}/cluster", client=client, shard_rows=case.rows)
        )
        core_seconds = cpu() - before
        built = {
            "way": "cluster", "fit s": fitting, "build s": building, "rows / s / core": case.n / core_seconds,
            "VmHWM MB": list(client.run(high_water).values()), "RssAnon MB": list(client.run(end).values()),
            "VmHWM MB of the client": high_water(), "RssAnon MB of the client": peak.stop(),
        }  # fmt: skip
        many = fpq.ShardedIndex(manifest, client=client)
        searches(case, many, 1)  # maps pages
        rows = searches(case, many, cpu=cpu)
    return [built, *({"way": "cluster", **row} for row in rows)]


def in_memory(case: Case) -> list[Row]:
    """The rates of one thread that adds a million rows in memory, and that builds shards of them, in turn."""
    import fpq
    import fpq.dask

    index: Any = fpq.load(f"{case.folder}/index.fpq")
    some = case._replace(n=min(case.n, IN_MEMORY))
    x = piece(case.vectors, case.dim, 0, some.n)
    adding, building = [], []
    with threadpoolctl.threadpool_limits(1):
        for number in range(ROUNDS):
            adding.append(cpu_timed(lambda: copy.copy(index).add(x))[0])
            source, folder = some.pieces(case.rows), f"{case.folder}/memory-{number}"
            building.append(cpu_timed(lambda s=source, f=folder: fpq.dask.build(index, s, f))[0])
    return [
        {"way": "added in memory", "rows / s / core": some.n / min(adding)},
        {"way": "built into shards, one thread", "rows / s / core": some.n / min(building)},
    ]


def killed(case: Case) -> list[Row]:
    import dask
    import dask.array as da
    import distributed

    import fpq
    import fpq.dask

    some = case._replace(n=min(case.n, case.killed))
    rows, marker = some.n // KILLED_SHARDS, f"{case.folder}/marker"

    def fatal(path: str, dim: int, start: int, stop: int) -> np.ndarray:
        if start >= some.n // 2 and not os.path.exists(marker):
            Path(marker).touch()
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return piece(path, dim, start, stop)

    parts = [(dask.delayed(fatal)(case.vectors, case.dim, a, b), (b - a, case.dim)) for a, b in some.starts(rows)]
    x = da.concatenate([da.from_delayed(part, shape, np.uint8) for part, shape in parts])
    index: Any = fpq.load(f"{case.folder}/index.fpq")
    expected = fpq.dask.build(index, some.pieces(rows), f"{case.folder}/whole")
    with (
        distributed.LocalCluster(2, threads_per_worker=1, memory_limit=WORKER_MEMORY, dashboard_address=None) as two,
        distributed.Client(two) as client,
    ):
        before = set(client.run(os.getpid).values())
        manifest = fpq.dask.build(index, x, f"{case.folder}/killed", client=client)
        gone = before - set(client.run(os.getpid).values())
    many = fpq.ShardedIndex(manifest)
    many.verify()
    names = [path.name for path in expected.parent.iterdir()]
    same = filecmp.cmpfiles(expected.parent, manifest.parent, names, shallow=False)[0]
    return [{
        "way": "killed", "workers killed": len(gone), "rows": some.n, "rows built": len(many),
        "files": len(names), "files with the same bits": len(same),
    }]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20_000_000)
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--rows", type=int, default=500_000, help="rows of a shard")
    parser.add_argument("--lists", type=int, default=1024)
    parser.add_argument("--probes", type=numbers, default=[16])
    parser.add_argument("--killed", type=int, default=5_000_000, help="rows of the build in which a worker is killed")
    parser.add_argument("--vectors", type=Path, help="a file of vectors, made up unless it exists; default: temporary")
    parser.add_argument("--folder", type=Path, help="where the files go; default: a temporary folder")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measured = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        vectors = options.vectors or Path(folder, "vectors")
        case = Case(
            str(vectors), folder, options.n, options.dim, options.rows, options.lists, options.probes, options.killed
        )
        if not vectors.exists():
            print(f"made up in {timed(lambda: make_up(case))[0]:.0f} s", flush=True)
        for way in (exact, here, search, on_cluster, in_memory, killed):
            if way in (on_cluster, killed):  # the workers are processes of their own
                rows = way(case)
            else:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    rows = pool.apply(way, (case,))
            measured += rows
            for row in rows:
                values = ((k, f"{v:,.3f}" if isinstance(v, float) else v) for k, v in row.items())
                print(", ".join(f"{key} {value}" for key, value in values), flush=True)
            if options.json:
                options.json.write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
