"""Speed of `fpq.Collection`: upserts, searches with conditions, and a loop of one upsert and one search.

    python bench/collection.py --rows 100000

Vectors are random clusters of 128 dimensions; a row has three metadata columns. The table shows:

- rows per second of `upsert` in batches of 1,000, and of SQLite's bare transactions of the same bytes;
- searches for one query that a condition restricts to a share of the rows, as a multiple of the time without condition;
  the conditions repeat, so that the matching rows are known;
- percentiles of one upsert and one search, beside those of a bare commit of SQLite on the same disk, in turns.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import fpq

DIM, BATCH = 128, 1000


def batches(n: int) -> Iterator[tuple[range, np.ndarray, dict[str, list[object]]]]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1000, DIM)).astype(np.float32)
    for start in range(0, n, BATCH):
        x = centres[rng.integers(0, 1000, BATCH)] + rng.normal(size=(BATCH, DIM), scale=0.5).astype(np.float32)
        numbers = range(start, start + BATCH)
        columns = {"n": list(numbers), "lang": ["en", "de"] * (BATCH // 2), "score": rng.random(BATCH).tolist()}
        yield numbers, x.astype(np.float32), columns


def bare(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, key, n, lang, score, vector)")
    return connection


def seconds(work: Callable[[], object], repeats: int = 30) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def upserts(collection: fpq.Collection, connection: sqlite3.Connection, n: int) -> None:
    ours = theirs = 0.0
    for numbers, x, columns in batches(n):
        keys = [f"key {i}" for i in numbers]
        start = time.perf_counter()
        collection.upsert(keys, x, columns)
        middle = time.perf_counter()
        connection.execute("BEGIN")
        rows = zip(numbers, keys, *columns.values(), map(memoryview, x), strict=True)
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.execute("COMMIT")
        end = time.perf_counter()
        ours, theirs = ours + middle - start, theirs + end - middle
    print(f"upsert: {n / ours:,.0f} rows/s; SQLite alone {n / theirs:,.0f} rows/s, {ours / theirs:.2f} times its time")


def filtered(collection: fpq.Collection, n: int) -> None:
    Q = np.concatenate([x for _, x, _ in batches(BATCH)])[:200]
    every = [seconds(lambda q=q: collection.search(q)) for q in Q[:20]]
    print(f"search: {np.median(every) * 1e6:,.0f} us")
    for percent in (0.1, 1, 3, 5, 10, 50):
        params = [round(n * percent / 100)]
        first = time.perf_counter()
        _, plan = collection.search(Q[0], where="n < ?", params=params, explain=True)
        first = time.perf_counter() - first
        times = [seconds(lambda q=q, p=params: collection.search(q, where="n < ?", params=p), 10) for q in Q[:20]]
        ratio = np.median(times) / np.median(every)
        print(f"search, {percent:g} % of rows: {ratio:.2f} times; the first {first * 1e3:.0f} ms; {plan.method}")


def loop(collection: fpq.Collection, connection: sqlite3.Connection, n: int, rounds: int) -> None:
    rng = np.random.default_rng(1)
    ours, theirs, last = [], [], n
    for i in range(rounds):
        x = rng.normal(size=DIM).astype(np.float32)
        key, start = f"key {rng.integers(0, n)}" if i % 2 else f"new {i}", time.perf_counter()
        collection.upsert(key, x, {"n": i, "lang": "en", "score": 0.5})
        assert collection.search(x)[0].key == key
        ours.append(time.perf_counter() - start)
        start, last = time.perf_counter(), last + 1
        connection.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", (last, key, i, "en", 0.5, memoryview(x)))
        theirs.append(time.perf_counter() - start)
    for name, times in ("upsert and search", ours), ("bare commit of SQLite", theirs):
        p50, p99, most = np.percentile(np.array(times) * 1e3, [50, 99, 100])
        print(f"{name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, largest {most:.2f} ms")
    p50, p99 = (np.percentile(ours, part) / np.percentile(theirs, part) for part in (50, 99))
    print(f"ratio of the p50 {p50:.2f}, of the p99 {p99:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1000, help="of the loop of one upsert and one search")
    parser.add_argument("--folder", help="a folder on the disk to measure")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        connection = bare(folder / "bare.sqlite")
        collection = fpq.Collection.create(folder / "c", DIM, "l2", background=False)
        upserts(collection, connection, arguments.rows)
        start = time.perf_counter()
        collection.optimize()
        print(f"optimize: {time.perf_counter() - start:.1f} s")
        print(collection.stats(recall_sample=200))
        filtered(collection, arguments.rows)
        loop(collection, connection, arguments.rows, arguments.rounds)
        collection.close()
        connection.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
