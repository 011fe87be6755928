"""Collections against a model, killed writers, and readers beside a writer."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import fpq
from fpq import Collection
from fpq.collection import filters, folding, scan

KILLS = int(os.environ.get("FPQ_KILLS", "25"))
BATCH = 20
KEYS = st.integers(0, 12)


class Model(RuleBasedStateMachine):
    """A collection gives the answers of a dict of keys to vectors and metadata."""

    @initialize(few=st.booleans(), coded=st.booleans())
    def create(self, few: bool, coded: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.before = filters.FEW_BYTES, folding.OWN_ROWS
        filters.FEW_BYTES, folding.OWN_ROWS = (8 << 20 if few else 0), 4
        index = fpq.PQIndex(m=1, nbits=4, metric="l2", keep_vectors=True) if coded else None
        self.collection = Collection.create(
            Path(self.folder.name, "c"), metric="l2", index=index, background=False, n_threads=1
        )
        self.rows: dict[int, tuple[list[float], dict[str, Any]]] = {}

    @rule(
        batch=st.dictionaries(KEYS, st.tuples(st.lists(st.integers(-3, 3), min_size=2, max_size=2), KEYS), max_size=6)
    )
    def upsert(self, batch: dict[int, tuple[list[int], int]]) -> None:
        vectors = [vector for vector, _ in batch.values()] or np.empty((0, 2))
        self.collection.upsert(list(batch), vectors, [{"n": n} for _, n in batch.values()])
        self.rows.update({key: (vector, {"n": n}) for key, (vector, n) in batch.items()})

    @rule(keys=st.lists(KEYS, max_size=5))
    def delete(self, keys: list[int]) -> None:
        known = {key for key in keys if key in self.rows}
        if self.rows or not keys:
            assert self.collection.delete(keys) == len(known)
        for key in known:
            del self.rows[key]

    @rule(n=KEYS)
    def delete_where(self, n: int) -> None:
        if self.rows:
            assert self.collection.delete(where="n < ?", params=[n // 3]) == sum(
                row[1].get("n", 99) < n // 3 for row in self.rows.values()
            )
        self.rows = {key: row for key, row in self.rows.items() if not row[1].get("n", 99) < n // 3}

    @rule(key=KEYS, n=st.none() | KEYS)
    def edit(self, key: int, n: int | None) -> None:
        if key in self.rows:
            self.collection.update_metadata(key, {"n": n})
            self.rows[key] = self.rows[key][0], {} if n is None else {"n": n}

    @rule(train=st.booleans())
    def optimize(self, train: bool) -> None:
        self.collection.optimize(train=train)

    @rule()
    def reopen(self) -> None:
        self.collection.close()
        self.collection = Collection.open(Path(self.folder.name, "c"), background=False, n_threads=1)

    @rule(query=st.lists(st.integers(-3, 3), min_size=2, max_size=2), k=st.integers(1, 14), n=st.none() | KEYS)
    def search(self, query: list[int], k: int, n: int | None) -> None:
        if not self.rows:
            return
        kept = {key: row for key, row in self.rows.items() if n is None or row[1].get("n", 99) <= n}
        where = None if n is None or "n" not in self.collection.columns else "n <= ?"
        hits = self.collection.search(query, k, where=where, params=None if where is None else [n])
        distances = {key: float(((np.array(row[0]) - query) ** 2).sum()) for key, row in kept.items()}
        assert len({hit.key for hit in hits}) == len(hits) == min(k, len(kept))
        for hit in hits:
            assert hit.distance == distances[hit.key] and hit.metadata == kept[hit.key][1]  # type: ignore[index]
        if "PQIndex" not in self.collection.stats().index:
            assert [hit.distance for hit in hits] == sorted(distances.values())[:k]

    @invariant()
    def same_rows(self) -> None:
        if not hasattr(self, "rows"):
            return
        assert sorted(self.collection) == sorted(self.rows) and len(self.collection) == len(self.rows)
        for row in self.collection.get(list(self.rows)) if self.rows else []:
            vector, metadata = self.rows[row.key]  # type: ignore[index]
            assert row.vector.tolist() == vector and row.metadata == metadata

    def teardown(self) -> None:
        self.collection.close()
        filters.FEW_BYTES, folding.OWN_ROWS = self.before
        self.folder.cleanup()


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)

# A writer that says which batches are safe. Batch b writes its number to the keys b % 7 * BATCH and the following.
WRITER = f"""
import sys
import numpy as np
from fpq import Collection
from fpq.collection import background, folding
folding.LEAST_TAIL, folding.TAIL_SHARE, background.PAUSE = 30, 0.0, 0.0
collection = Collection.open(sys.argv[1], n_threads=1)
batch = int(sys.argv[2])
while True:
    keys = [batch % 7 * {BATCH} + i for i in range({BATCH})]
    collection.upsert(keys, np.full(({BATCH}, 4), batch), [{{"batch": batch}}] * {BATCH})
    collection.search(np.zeros(4))
    print(batch, flush=True)
    batch += 1
"""


def require_whole(collection: Collection, acknowledged: int) -> int:
    """Every acknowledged batch is there, every key once, no batch in parts; the number of the last batch."""
    keys = list(collection)
    rows = collection.get(keys)
    assert len(keys) == len(set(keys)) == len(collection) and len(keys) % BATCH == 0
    groups: dict[int, set[tuple[Any, ...]]] = {}
    for row in rows:
        groups.setdefault(row.key // BATCH, set()).add((row.metadata["batch"], *row.vector.tolist()))  # type: ignore
    assert all(len(group) == 1 for group in groups.values())
    batches = [next(iter(group))[0] for group in groups.values()]
    last = max(batches, default=-1)
    assert last in (acknowledged, acknowledged + 1) and sorted(batches) == list(range(max(0, last - 6), last + 1))
    hits = collection.search(np.full(4, last), 1000)
    assert sorted(hit.key for hit in hits) == sorted(keys)
    assert all(hit.distance == 4 * (last - hit.metadata["batch"]) ** 2 for hit in hits)
    return last


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no signal 9")
def test_killed_writers(tmp_path: Path) -> None:
    path = tmp_path / "c"
    Collection.create(path, metric="l2").close()
    last, rng = -1, np.random.default_rng(0)
    for _ in range(KILLS):
        command = [sys.executable, "-c", WRITER, str(path), str(last + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline()
            time.sleep(float(rng.random()) * 0.08)
            writer.send_signal(signal.SIGKILL)
            lines = writer.stdout.read().split("\n")
            acknowledged = max([last + 1, *(int(line) for line in lines[:-1] if line)])
        with Collection.open(path, background=False) as collection:
            last = require_whole(collection, acknowledged)


def test_readers_beside_a_writer(tmp_path: Path) -> None:
    """A reader sees whole batches, whatever the writer does: every search finds each key once."""
    path = tmp_path / "c"
    Collection.create(path, metric="l2").close()
    command = [sys.executable, "-c", WRITER, str(path), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        try:
            for _ in range(8):
                assert writer.stdout.readline()
            searches, seen = 0, set()
            with Collection.open(path, read_only=True) as reader, Collection.open(path, read_only=True) as other:
                while searches <= 20 or len(seen) <= 3 or not reader.stats().generation:
                    for each in (reader, other):
                        hits = each.search(np.zeros(4), 1000)
                        assert len({hit.key for hit in hits}) == len(hits) == 7 * BATCH
                        groups = {(hit.key // BATCH, hit.metadata["batch"]) for hit in hits}
                        assert len(groups) == 7
                        seen.add(max(batch for _, batch in groups))
                        searches += 1
        finally:
            writer.kill()
            writer.stdout.read()


def test_processes_write_one_after_the_other(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", metric="l2") as collection:
        failed = subprocess.run(
            [sys.executable, "-c", WRITER, str(tmp_path / "c"), "0"], capture_output=True, text=True, check=False
        )
        assert "BlockingIOError" in failed.stderr and "read_only=True" in failed.stderr
        collection.upsert([1], [[0, 0, 0, 0]])


def test_a_database_cannot_make_python_run_code(tmp_path: Path) -> None:
    index = fpq.IVFPQIndex(4, 2, metric="cosine")
    with Collection.create(tmp_path / "c", index=index, background=False) as collection:
        collection.upsert(list(range(1100)), np.random.default_rng(0).normal(size=(1100, 4)))
    with contextlib.closing(sqlite3.connect(tmp_path / "c" / "collection.sqlite")) as db:
        db.execute("UPDATE settings SET value = ? WHERE name = 'index'", [pickle.dumps(index)])
        db.commit()
    with Collection.open(tmp_path / "c", background=False) as collection:
        with pytest.raises(fpq.FormatError, match="pickle"):
            collection.optimize()
        assert len(collection) == 1100


def test_rows_that_are_replaced_during_every_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.eye(4)
    with Collection.create(tmp_path / "c", background=False) as writer:
        writer.upsert([0, 1, 2, 3], x)
        with Collection.open(tmp_path / "c", read_only=True) as reader:
            nearest = scan.nearest

            def replacing(*args: Any) -> Any:
                found = nearest(*args)
                writer.upsert([0, 1, 2, 3], x)
                return found

            monkeypatch.setattr(scan, "nearest", replacing)
            assert sorted(hit.key for hit in reader.search(x[0])) == [0, 1, 2, 3]
