"""`fpq.Collection` beside other embedded vector stores, on the same rows with the same conditions.

    pip install chromadb lancedb qdrant-client sqlite-vec apsw qann
    python bench/stores.py --rows 100000

Rows are made-up clusters of 384 dimensions with three columns, under cosine similarity. The stores that are installed
are measured in one process. The table shows:

- rows per second of inserts in batches of 1,000, without the index, and the seconds to build the index;
- bytes on disk, per row;
- the time of one query for 10 rows, without a condition and with conditions that 1, 10 and 50 % of the rows fulfil.
  Stores take turns; the median of the queries, and of the rounds the best. Beside the time stands the recall@10.

A store with a parameter of the search gets the smallest value that reaches the recall on the tuning queries, without a
condition; fpq chooses by `tune`. qann keeps its rows in memory, and is saved once at the end; sqlite-vec and the local
mode of Qdrant compare all rows. `docs/collection.md` quotes the results.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import fpq

DIM, BATCH, K = 384, 1000, 10
MOST_SECONDS = 5.0  # for the queries of a store and a condition, per round
SHARES = (None, 0.01, 0.1, 0.5)


def made_up(n: int, n_queries: int) -> tuple[Any, Any]:
    """Rows and queries around 1,000 centres, with 40 directions of variance in each cluster."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1000, DIM))
    directions = rng.normal(size=(40, DIM))

    def draw(rows: int) -> Any:
        spread = rng.normal(size=(rows, 40)) @ directions / 10
        x = centres[rng.integers(0, 1000, rows)] + spread + rng.normal(size=(rows, DIM), scale=0.2)
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    return draw(n), draw(n_queries)


class Store:
    """A vector store: `insert` batches, `build` an index, `search` for the row numbers of the nearest rows.

    The column `n` is a random permutation of the row numbers; a search with `below` finds the rows with n < below.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[tuple[int, ...]] = (0,)
    setting = 0

    def __init__(self, path: Path) -> None:
        self.path = path

    def insert(self, numbers: range, x: Any, n: Any) -> None:
        raise NotImplementedError

    def build(self) -> None:
        """Most stores have no step after the inserts."""

    def set(self, setting: int) -> None:
        self.setting = setting

    def tune(self, Q: Any, truth: Any, recall: float) -> None:
        """Keep the smallest setting that reaches the recall."""
        for setting in self.settings:
            self.set(setting)
            if measured_recall(self, Q, truth, None) >= recall:
                break

    def search(self, q: Any, below: int | None) -> Iterable[int]:
        raise NotImplementedError


def columns(numbers: range, n: Any) -> dict[str, list[Any]]:
    return {"n": n.tolist(), "lang": [("en", "de")[i % 2] for i in numbers], "score": [i / 7 for i in numbers]}


def as_dicts(numbers: range, n: Any) -> list[dict[str, Any]]:
    values = columns(numbers, n)
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


class Fpq(Store):
    name = "fpq.Collection"

    def __init__(self, path: Path) -> None:
        self.collection = fpq.Collection.create(path, DIM, "cosine", background=False)

    def insert(self, numbers: range, x: Any, n: Any) -> None:
        self.collection.upsert([f"row {i}" for i in numbers], x, columns(numbers, n))

    def build(self) -> None:
        self.collection.optimize()

    def tune(self, Q: Any, truth: Any, recall: float) -> None:
        self.collection.tune(Q, K, recall)

    def search(self, q: Any, below: int | None) -> Iterable[int]:
        condition = {} if below is None else {"where": "n < ?", "params": [below]}
        return [int(hit.key[4:]) for hit in self.collection.search(q, K, **condition)]


class Chroma(Store):
    name = "Chroma"
    modules = ("chromadb",)
    settings = (10, 20, 40, 80, 160, 320, 640)

    def __init__(self, path: Path) -> None:
        import chromadb

        client = chromadb.PersistentClient(path, chromadb.Settings(anonymized_telemetry=False))
        configuration = {"hnsw": {"space": "cosine"}}
        self.collection = client.create_collection("rows", configuration=configuration, embedding_function=None)

    def insert(self, numbers: range, x: Any, n: Any) -> None:
        self.collection.add([f"row {i}" for i in numbers], x, as_dicts(numbers, n))

    def set(self, setting: int) -> None:
        self.collection.modify(configuration={"hnsw": {"ef_search": setting}})

    def search(self, q: Any, below: int | None) -> Iterable[int]:
        where = None if below is None else {"n": {"$lt": below}}
        found = self.collection.query(q, n_results=K, where=where, include=[])
        return [int(key[4:]) for key in found["ids"][0]]


class Lance(Store):
    name = "LanceDB"
    modules = ("lancedb", "pyarrow")
    settings = (1, 2, 4, 8, 16, 32, 64, 128, 316)
    refine = 20
    index: ClassVar[dict[str, Any]] = {"index_type": "IVF_PQ", "num_partitions": 316, "num_sub_vectors": 96}

    def __init__(self, path: Path) -> None:
        import lancedb

        self.database = lancedb.connect(path)
        self.table: Any = None

    def insert(self, numbers: range, x: Any, n: Any) -> None:
        import pyarrow

        vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(x.ravel()), DIM)
        keys = [f"row {i}" for i in numbers]
        rows = pyarrow.table({"key": keys, "vector": vectors, **columns(numbers, n)})
        if self.table is None:
            self.table = self.database.create_table("rows", rows)
        else:
            self.table.add(rows)

    def build(self) -> None:
        self.table.optimize()
        self.table.create_index(metric="cosine", **self.index)
        self.table.create_scalar_index("n")

    def with_setting(self, query: Any) -> Any:
        return query.nprobes(self.setting)

    def search(self, q: Any, below: int | None) -> Iterable[int]:
        query = self.with_setting(self.table.search(q).distance_type("cosine").limit(K).refine_factor(self.refine))
        if below is not None:
            query = query.where(f"n < {below}", prefilter=True)
        return [int(key[4:]) for key in query.select(["key", "_distance"]).to_arrow()["key"].to_pylist()]


class LanceHNSW(Lance):
    name = "LanceDB, HNSW"
    settings = (20, 40, 80, 160, 320)
    refine = 2
    index: ClassVar[dict[str, Any]] = {"index_type": "IVF_HNSW_SQ"}

    def with_setting(self, query: Any) -> Any:
        return query.ef(self.setting)


class Qdrant(Store):
    name = "Qdrant, local mode"
    modules = ("qdrant_client",)

    def __init__(self, path: Path) -> None:
        from qdrant_client import QdrantClient, models

        self.models, self.client = models, QdrantClient(path=str(path))
        vectors = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
        self.client.create_collection("rows", vectors_config=vectors)

    def insert(self, numbers: range, x: Any, n: Any) -> None:
        batch = self.models.Batch(ids=list(numbers), vectors=x.tolist(), payloads=as_dicts(numbers, n))
        self.client.upsert("rows", batch)

    def search(self, q: Any, below: int | None) -> Iterable[int]:
        models, condition = self.models, None
        if below is not None:
            condition = models.Filter(must=[models.FieldCondition(key="n", range=models.Range(lt=below))])
        found = self.client.query_points("rows", query=q, limit=K, query_filter=condition, with_payload=False)
        return [point.id for point in found.points]


class SqliteVec(Store):
    name = "sqlite-vec"
    modules = ("sqlite_vec", "apsw")

    def __init__(self, path: Path) -> None:
        import apsw
        import sqlite_vec

        path.mkdir()
        self.connection = apsw.Connection(str(path / "rows.sqlite"))
        self.connection.enable_load_extension(True)
        self.connection.load_extension(sqlite_vec.loadable_path())
        self.connection.pragma("journal_mode", "WAL")
        columns = f"n INTEGER, lang TEXT, score FLOAT, vector FLOAT[{DIM}] DISTANCE_METRIC=cosine"
        self.connection.execute(f"CREATE VIRTUAL TABLE rows USING vec0(id INTEGER PRIMARY KEY, {columns})")

    def insert(self, numbers: range, x: Any, n: Any) -> None:
        rows = zip(numbers, *columns(numbers, n).values(), map(bytes, x), strict=True)
        with self.connection:
            self.connection.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", rows)

    def search(self, q: Any, below: int | None) -> Iterable[int]:
        query, values = "SELECT id FROM rows WHERE vector MATCH ? AND k = ?", [q.tobytes(), K]
        if below is not None:
            query, values = f"{query} AND n < ?", [*values, below]
        return [number for (number,) in self.connection.execute(query, values)]


class Qann(Store):
    name = "qann, HNSW with SQ8, in memory"
    modules = ("qann",)
    settings = (10, 20, 40, 80, 160, 320, 640)

    def __init__(self, path: Path) -> None:
        import qann

        path.mkdir()
        self.path, self.qann = path, qann
        self.index = qann.HNSWIndex(DIM, M=16, metric=qann.Metric.Cosine, seed=1)
        self.index.enable_sq(8)
        self.trained = False

    def insert(self, numbers: range, x: Any, n: Any) -> None:
        if not self.trained:
            self.index.train(x)
            self.trained = True
        self.index.add(x, metadata=columns(numbers, n))

    def build(self) -> None:
        self.index.save(self.path / "rows.qann")

    def set(self, setting: int) -> None:
        self.index.ef_search = setting

    def search(self, q: Any, below: int | None) -> Iterable[int]:
        condition = {} if below is None else {"where": self.qann.field("n") < below}
        return self.index.query(q, K, **condition)[0]


STORES = (Fpq, Chroma, Lance, LanceHNSW, SqliteVec, Qann, Qdrant)


def measured_recall(store: Store, Q: Any, truth: Any, below: int | None) -> float:
    found = [list(store.search(q, below)) for q in Q]
    return float(np.mean([len(set(row) & set(true)) / K for row, true in zip(found, truth, strict=True)]))


def median_seconds(store: Store, Q: Any, below: int | None) -> float:
    """The median time of a query, of those that the store answers in MOST_SECONDS."""
    times: list[float] = []
    for q in Q:
        if sum(times) > MOST_SECONDS:
            break
        start = time.perf_counter()
        store.search(q, below)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # Qdrant's local mode warns from 20,000 rows on
    X, Q = made_up(arguments.rows, 2 * arguments.queries)
    n = np.random.default_rng(1).permutation(arguments.rows)
    limits = [None if share is None else round(share * arguments.rows) for share in SHARES]
    truths = []
    for below in limits:
        rows = np.arange(arguments.rows) if below is None else np.flatnonzero(n < below)
        truths.append(rows[fpq.FlatIndex("ip").add(X[rows]).search(Q, K).ids])
    tuning, asked = slice(0, None, 2), slice(1, None, 2)
    folder = Path(tempfile.mkdtemp())
    stores: list[Store] = []
    try:
        for kind in STORES:
            if not all(importlib.util.find_spec(module) for module in kind.modules):
                print(f"{kind.name}: not installed")
                continue
            path = folder / kind.__name__
            store, start = kind(path), time.perf_counter()
            for first in range(0, arguments.rows, BATCH):
                numbers = range(first, first + BATCH)
                store.insert(numbers, X[first : first + BATCH], n[first : first + BATCH])
            middle = time.perf_counter()
            store.build()
            end = time.perf_counter()
            store.tune(Q[tuning], truths[0][tuning], arguments.recall)
            reached = measured_recall(store, Q[tuning], truths[0][tuning], None)
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            rate, setting = arguments.rows / (middle - start), f", setting {store.setting}" if store.setting else ""
            print(
                f"{kind.name}: {rate:,.0f} rows/s, index {end - middle:.1f} s, {size / arguments.rows:,.0f} bytes a row"
                f"{setting}, recall@10 of the tuning queries {reached:.3f}",
                flush=True,
            )
            stores.append(store)
            gc.collect()
        for below, share, truth in zip(limits, SHARES, truths, strict=True):
            print("no condition" if share is None else f"{share:.0%} of the rows")
            best = dict.fromkeys(stores, float("inf"))
            for _ in range(arguments.rounds):
                for store in stores:
                    best[store] = min(best[store], median_seconds(store, Q[asked], below))
            for store in stores:
                reached, ratio = measured_recall(store, Q[asked], truth[asked], below), best[store] / best[stores[0]]
                print(f"  {store.name}: {best[store] * 1e3:.2f} ms, {ratio:.2f} times, recall@10 {reached:.3f}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
