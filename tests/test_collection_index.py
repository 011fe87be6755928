"""The index of a collection: training, folding in the foreground and the background, exact distances, recall."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
from fpq import Collection
from fpq.collection import background, filters, folding

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(40, 16))
X = (CENTRES[RNG.integers(0, 40, 3000)] + 0.4 * RNG.normal(size=(3000, 16))).astype(np.float32)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes are trained early."""
    monkeypatch.setattr(folding, "EXACT_ROWS", 1000)
    monkeypatch.setattr(folding, "LEAST_TAIL", 200)
    monkeypatch.setattr(background, "PAUSE", 0.0)


INDEXES = {
    "IVF": lambda: fpq.IVFPQIndex(20, m=8, metric="l2", keep_vectors=True, residual=False),
    "IVF codes": lambda: fpq.IVFPQIndex(20, m=8, metric="l2"),
    "PQ": lambda: fpq.PQIndex(m=8, metric="l2"),
    "refined": lambda: fpq.PQIndex(m=4, metric="l2", refine="sq8"),
    "E2LSH": lambda: fpq.E2LSHIndex(metric="l2"),
    "flat": lambda: fpq.FlatIndex(metric="l2"),
}


def test_close_lets_go_of_the_files(tmp_path: Path) -> None:
    """Windows deletes no file that is open or mapped."""
    folder = tmp_path / "größe 日本 1"
    writer = Collection.create(folder, metric="l2", background=False)
    writer.upsert(range(2500), X[:2500])
    writer.optimize()
    reader = Collection.open(folder, read_only=True)
    assert writer.search(X[7], 1)[0].key == reader.search(X[7], 1)[0].key == 7
    mapped = [weakref.ref(collection._state().index) for collection in (writer, reader)]
    writer.close()
    reader.close()
    assert [index() for index in mapped] == [None, None]
    with Collection.open(folder, background=False) as again:
        again.upsert(range(2500, 3000), X[2500:])
        again.optimize()
        assert again.search(X[2900], 1)[0].key == 2900
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", INDEXES)
@pytest.mark.parametrize("place", ["memory", "folder"])
def test_index_of_the_user(name: str, place: str, tmp_path: Path) -> None:
    path = ":memory:" if place == "memory" else tmp_path / "c"
    with Collection.create(path, metric="l2", index=INDEXES[name](), background=False) as collection:
        collection.upsert(range(2500), X[:2500], {"n": list(range(2500))})
        collection.optimize()
        assert type(INDEXES[name]()).__name__ in collection.stats().index and collection.stats().tail == 0
        collection.upsert(range(2400, 3000), X[2400:], {"n": list(range(2400, 3000))})
        assert collection.stats().tail == 600 and collection.stats().removed == 100
        check(collection, range(3000), 0.4)
        collection.optimize()
        assert collection.stats().removed == 0 and len(collection) == 3000
        collection.delete(list(range(0, 3000, 3)))
        kept = [i for i in range(3000) if i % 3]
        check(collection, kept, 0.4)
    if place == "folder":
        with Collection.open(path) as collection:
            check(collection, kept, 0.4)
            assert list(collection) == kept


def check(collection: Collection, kept: Any, recall: float) -> None:
    """Distances are exact, rows come once and in order, filters hold, and enough of the true neighbours are found."""
    numbers = np.array(kept)
    Q = X[::100] + np.float32(0.05)
    _, true = fpq.FlatIndex().add(X[numbers], numbers).search(Q, k=10)
    found = collection.search(Q, k=10)
    shares = []
    for query, hits, truth in zip(Q, found, true, strict=True):
        keys = [hit.key for hit in hits]
        distances = np.array([hit.distance for hit in hits])
        assert len(set(keys)) == 10 and (np.diff(distances) >= 0).all() and set(keys) <= set(kept)
        assert np.allclose(distances, ((X[keys] - query) ** 2).sum(axis=1), rtol=1e-4, atol=1e-4)
        shares.append(len(set(keys) & set(truth.tolist())) / 10)
    assert np.mean(shares) >= recall
    for where in ("n % 2 = 0", "n % 50 = 0"):
        for hits in collection.search(Q, k=10, where=where):
            step = 2 if "% 2" in where else 50
            assert len(hits) == min(10, sum(i % step == 0 for i in kept))
            assert all(hit.metadata["n"] % step == 0 for hit in hits)
    radius = found[0][4].distance
    near = collection.range_search(Q[:3], radius)
    assert all(hit.distance <= radius for hits in near for hit in hits) and len(near[0]) >= 1


def test_recommended_index_is_trained_and_tuned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fpq")
    with Collection.create(tmp_path / "c", background=False) as collection:
        collection.upsert(range(900), X[:900])
        collection.optimize()
        assert "FlatIndex" in collection.stats().index and collection.stats().trained_rows is None
        assert collection.search(X[5], 3, recall=0.5) == collection.search(X[5], 3)  # exact: no effect
        assert collection.tune(X[:5]) is None


def test_large_collection_has_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    from fpq import recommendation

    monkeypatch.setattr(recommendation, "FLAT_ROWS", 100)
    monkeypatch.setattr(recommendation, "PQ_ROWS", 200)
    with Collection.create(":memory:", metric="l2", background=False) as collection:
        collection.upsert(range(1200), X[:1200], {"n": list(range(1200))})
        collection.optimize()
        stats = collection.stats(recall_sample=50)
        assert "IVFPQIndex" in stats.index and stats.trained_rows == 1200 and stats.recall is not None
        assert stats.recall >= 0.8 and "recall@10" in str(stats)
        hits, plan = collection.search(X[3], 10, recall=0.8, explain=True)
        assert len(hits) == 10 and "search of the index" in plan.method
        assert collection.tune(X[:300] + np.float32(0.01), recall=0.9) is not None
        with pytest.raises(ValueError, match="recall"):
            collection.tune(X[:300], recall=2)
        before = collection.stats().trained_rows
        monkeypatch.setattr(folding, "GROWTH", 2)
        collection.upsert(range(3000), X, {"n": list(range(3000))})
        collection.optimize()
        assert before == 1200 and collection.stats().trained_rows == 3000


def test_drift_trains_again(monkeypatch: pytest.MonkeyPatch) -> None:
    index = fpq.PQIndex(m=8, metric="l2")
    with Collection.create(":memory:", metric="l2", index=index, background=False) as collection:
        collection.upsert(range(1500), X[:1500])
        collection.optimize()
        collection.upsert(range(1500, 2000), X[1500:2000])
        collection.optimize()
        assert collection.stats().trained_rows == 1500
        collection.upsert(range(2000, 3000), X[2000:] * 3 + 5)
        collection.optimize()
        assert collection.stats().trained_rows == 3000


def test_background(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", metric="l2") as collection:
        for start in range(0, 3000, 100):
            collection.upsert(range(start, start + 100), X[start : start + 100], {"n": list(range(start, start + 100))})
            assert collection.search(X[start + 7], 1)[0].key == start + 7
        collection._background.wait()
        assert collection.stats().generation > 0
        check(collection, range(3000), 0.99)
    files = {path.name for path in (tmp_path / "c").iterdir()}
    assert len([name for name in files if name.startswith("index-")]) == 1


def test_errors_of_the_background_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(folding, "fold", fail)
    with Collection.create(":memory:") as collection:
        collection.upsert(range(300), X[:300])
        collection._background.wait()
        with pytest.raises(OSError, match="no space"):
            len(collection)
        assert len(collection) == 300
        collection._background.wait()
        collection._background._error = None


def test_failed_saves_leave_the_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Collection.create(tmp_path / "c", metric="l2", background=False) as collection:
        collection.upsert(range(300), X[:300], {"n": list(range(300))})
        collection.optimize()
        collection.upsert(range(300, 400), X[300:400], {"n": list(range(300, 400))})

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(fpq.FlatIndex, "save", full)
        with pytest.raises(OSError, match="No space"):
            collection.optimize()
        monkeypatch.undo()
        check(collection, range(400), 1.0)
        collection.optimize()
        check(collection, range(400), 1.0)


def test_removals_during_a_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that change while an index file is made show their new state before and after."""
    real = folding._publish
    with Collection.create(":memory:", metric="l2", background=False) as collection:
        collection.upsert(range(500), X[:500], {"n": list(range(500))})

        def publish(*arguments: Any) -> None:
            collection.delete([1, 2])
            collection.upsert([3, 600], X[[2999, 600]], {"n": [3, 600]})
            assert collection.search(X[3], 1)[0].key != 3
            real(*arguments)

        monkeypatch.setattr(folding, "_publish", publish)
        collection.optimize()
        assert len(collection) == 499 and collection.stats().tail == 2 and collection.stats().removed == 3
        assert [collection.search(X[i], 1)[0].key for i in (4, 2999, 600)] == [4, 3, 600]
        assert not {1, 2} & {hit.key for hit in collection.search(X[1], 499)}
        assert sorted(hit.key for hit in collection.search(X[1], 600)) == sorted(collection)


def test_threads(tmp_path: Path) -> None:
    """Writers and searchers of several threads: no error, no key twice, no row of another version of its key."""
    failures: list[BaseException] = []
    stop = threading.Event()
    with Collection.create(tmp_path / "c", metric="l2") as collection:
        collection.upsert(range(500), X[:500], {"n": [0] * 500})

        def guarded(work: Any) -> None:
            try:
                while not stop.is_set():
                    work()
            except BaseException as error:
                failures.append(error)

        def write() -> None:
            some = np.random.default_rng().permutation(700)[:50].tolist()
            collection.upsert(some, X[some], {"n": [1] * 50})
            collection.delete(some[:5])

        def search() -> None:
            keys = [hit.key for hit in collection.search(X[7], 200, where="n >= 0")]
            assert len(keys) == len(set(keys)) and len(keys) > 150

        workers = [threading.Thread(target=guarded, args=(work,)) for work in (write, write, search, search)]
        for worker in workers:
            worker.start()
        time.sleep(1.0)
        stop.set()
        for worker in workers:
            worker.join()
        assert not failures
        assert sorted(hit.key for hit in collection.search(X[0], 1000)) == sorted(collection)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_process_is_refused() -> None:
    with Collection.create(":memory:") as collection:
        child = os.fork()
        if not child:
            try:
                len(collection)
            except RuntimeError as error:
                os._exit(7 if "forked process" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_mistakes_about_the_index(tmp_path: Path) -> None:
    for index, error in [
        (fpq.FlatIndex("l2"), "index: expected an index with metric='cosine'"),
        (fpq.FlatIndex("cosine").add(X[:3]), "index: expected an index without rows"),
        ("IVF", "index: expected an index of fpq"),
    ]:
        with pytest.raises((ValueError, TypeError), match=error):
            Collection.create(tmp_path / "c", index=index)  # type: ignore[arg-type]


def test_few_matches_are_searched_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    with Collection.create(":memory:", metric="l2", background=False) as collection:
        collection.upsert(range(3000), X, {"n": list(range(3000))})
        few = collection.search(X[:20], 10, where="n % 9 = 0", explain=True)
        monkeypatch.setattr(filters, "FEW_BYTES", 0)
        many = collection.search(X[:20], 10, where="n % 9 == 0", explain=True)
        assert few[0] == many[0] and "few rows" in few[1].method and "all rows" in many[1].method
