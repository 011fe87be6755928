"""Many threads at the same moment: first uses, reads of all kinds, changes. Without a GIL they run in parallel."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest

import fpq
from fpq import _checks
from fpq.indexes.parts.lock import Lock
from fpq.sharding import executor

THREADS = 24
STEP = min(3, int(os.environ.get("FPQ_FAULT_STEP", "24")))  # of the lines before which another thread comes in
N, D = 1200, 40  # wide enough for sketches
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)).astype(np.float32)
X[N - 100 :] *= 3
Q = RNG.normal(size=(9, D)).astype(np.float32)
FEW = {"n_threads": 1}
INDEXES: dict[str, Callable[[], Any]] = {
    "flat": lambda: fpq.FlatIndex(**FEW),
    "flat ip": lambda: fpq.FlatIndex("ip", **FEW),
    "pq": lambda: fpq.PQIndex(8, nbits=4, keep_vectors=True, **FEW),
    "pq refined": lambda: fpq.PQIndex(8, nbits=4, rotation="pca", metric="cosine", refine="sq8", **FEW),
    "ivfpq": lambda: fpq.IVFPQIndex(12, 8, nbits=4, keep_vectors=True, **FEW),
    "ivfpq refined": lambda: fpq.IVFPQIndex(12, 8, nbits=4, metric="ip", refine="sq4", **FEW),
    "ivfpq rotated": lambda: fpq.IVFPQIndex(6, 8, nbits=4, local_rotations=True, **FEW),
    "multi": lambda: fpq.MultiVectorIndex(8, 8, keep_vectors=True, **FEW),
    "minhash": lambda: fpq.MinHashIndex(0.3, 32, **FEW),
    "minhash kept": lambda: fpq.MinHashIndex(0.3, 32, keep_sets=True, **FEW),
    "e2lsh": lambda: fpq.E2LSHIndex(n_tables=3, **FEW),
    "c2lsh": lambda: fpq.C2LSHIndex(n_hashes=20, **FEW),
    "pmlsh": lambda: fpq.PMLSHIndex(**FEW),
}


def together(works: Iterable[Callable[[], Any]]) -> list[Any]:
    """The results of calls that begin at the same moment, each on a thread of its own."""
    works = list(works)
    barrier = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)
    errors: list[BaseException] = []

    def run(i: int) -> None:
        try:
            barrier.wait(60)
            results[i] = works[i]()
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return results


def of(index: Any, x: Any) -> Any:
    """Rows as the index takes them: as vectors, as documents of two tokens, or as sets of integers."""
    if isinstance(index, fpq.MinHashIndex):
        return [set(np.argsort(row)[:9].tolist()) for row in np.asarray(x)]
    return np.stack([x, x[:, ::-1]], axis=1) if isinstance(index, fpq.MultiVectorIndex) else x


def filled(kind: str) -> Any:
    """With ids that are no row numbers, and rows that the tables of LSH do not contain yet."""
    index = INDEXES[kind]()
    index.fit(of(index, X))
    index.add(of(index, X[: N - 100]), ids=np.arange(N - 100) * 2)
    return index.add(of(index, X[N - 100 :]), ids=10_000 + np.arange(100))


def plain(answer: Any) -> Any:
    """An answer that can be compared."""
    if isinstance(answer, np.ndarray):
        return answer.tobytes()
    return [plain(each) for each in answer] if isinstance(answer, (tuple, list)) else answer


def reads_of(index: Any) -> list[Callable[[Any], Any]]:
    """Calls that read an index."""
    queries, some = of(index, Q), np.arange(0, 2000, 4)
    single = queries[:1] if isinstance(index, fpq.MinHashIndex) else queries[0]
    radius = {"l2": 45.0, "ip": 8.0, "cosine": 0.3, "jaccard": 0.3}[index.metric]
    if isinstance(index, fpq.MultiVectorIndex):
        radius = 0.6
    calls = [
        lambda index: index.search(single, 5),
        lambda index: index.search(queries, 3),
        lambda index: index.search(queries, 4, allowed=some),
        lambda index: index.search(queries, 5, n_threads=2),
        lambda index: index.range_search(queries[:2], radius),
        lambda index: [6 in index, 10_003 in index, 7 in index],
        lambda index: [index.ids, len(index), repr(index).split(", nbytes")[0]],
        lambda index: len(index._pieces()),
    ]
    if not isinstance(index, fpq.MinHashIndex) or index.keep_sets:
        calls.append(lambda index: index.reconstruct([0, 10_001]))
    if getattr(index, "keep_vectors", False):
        calls.append(lambda index: index.search(queries, 3, rerank=4))
    return calls


@pytest.mark.parametrize("kind", INDEXES)
def test_the_first_use_by_many_threads(kind: str, tmp_path: Path) -> None:
    """What is worked out by the first search, look-up or save is right if many threads come first."""
    index = filled(kind)
    calls = reads_of(index)
    expected = [plain(call(index.copy())) for call in calls]
    index.copy().save(tmp_path / "a")
    for turn in range(6):
        fresh = filled(kind) if turn % 3 == 0 else fpq.load(tmp_path / "a", mmap=turn % 3 == 1)
        fresh.n_threads = 1
        order = np.random.default_rng(turn).integers(len(calls), size=THREADS)
        if turn < 3:
            order[:] = turn  # all threads the same call
        for at, answer in zip(order, together(lambda at=at: calls[at](fresh) for at in order), strict=True):
            assert plain(answer) == expected[at], f"call {at}"


class Interruption:
    """Runs a call with another one, on a second thread, before a line of fpq: the n-th different one of the call."""

    def __init__(self, other: Callable[[], Any], at: int) -> None:
        self.lines: set[tuple[Any, int]] = set()
        self.found: Any = None
        self._other, self._at = other, at
        self._worker = threading.Thread(target=self._call)

    def run(self, call: Callable[[], Any]) -> Any:
        """The result of ``call()``."""
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return call()
        finally:
            sys.settrace(before)
            if len(self.lines) > self._at:
                self._worker.join()

    def _call(self) -> None:
        self.found = self._other()

    def _enter(self, frame: Any, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        return self._line if file.startswith(faults.PACKAGE) and not file.endswith("lock.py") else None

    def _line(self, frame: Any, event: str, argument: Any) -> Any:
        line = frame.f_code, frame.f_lineno
        if event == "line" and line not in self.lines:
            if len(self.lines) == self._at:
                self._worker.start()
                self._worker.join(0.5)  # it waits for a lock that the call holds here
            self.lines.add(line)
        return self._line


@pytest.mark.parametrize("kind", INDEXES)
def test_two_first_uses_of_which_one_comes_amid_the_other(kind: str) -> None:
    """Before a line of a search, look-up or save, another thread makes the same call; FPQ_FAULT_STEP=1: before each."""
    trained = INDEXES[kind]()
    trained.fit(of(trained, X))
    some = pickle.dumps(trained.add(of(trained, X[:400]), ids=np.arange(400) * 2))
    more = of(trained, X[400:420])

    def make() -> Any:
        return pickle.loads(some).add(more, ids=10_000 + np.arange(20))

    queries = of(trained, Q[:2])
    calls = [
        lambda index: index.search(queries, 3),
        lambda index: [4 in index, 10_003 in index, *[7 in index] * 9],
        lambda index: b"".join(index._pieces()),
    ]
    for call in calls:
        index = make()
        counter = Interruption(lambda: None, 1 << 60)
        expected = plain(counter.run(lambda call=call, index=index: call(index)))
        for at in range(0, len(counter.lines), STEP):
            index = make()
            between = Interruption(lambda call=call, index=index: call(index), at)
            assert plain(between.run(lambda call=call, index=index: call(index))) == expected, f"line {at}"
            assert plain(between.found) == expected, f"line {at}, the other thread"
            assert plain(call(index)) == expected, f"line {at}, afterwards"


@pytest.mark.parametrize("kind", INDEXES)
def test_changes_saves_and_copies_beside_searches(kind: str, tmp_path: Path) -> None:
    """Every search, file, pickle and copy shows the index after whole changes."""
    index = filled(kind)
    queries = of(index, Q)
    own = 10  # rows that a thread adds and removes
    more = of(index, RNG.normal(size=(own, D)).astype(np.float32))
    sizes = {N + own * threads for threads in range(THREADS)}

    def whole(found: Any) -> None:
        ids = found.ids
        assert len(ids) in sizes and len(np.unique(ids)) == len(ids)
        added = np.unique(ids[ids >= 100_000] // 1000, return_counts=True)[1]
        assert (added == own).all()

    def change(number: int) -> None:
        ids = 100_000 + 1000 * number + np.arange(own)
        for _ in range(3):
            index.add(more, ids=ids)
            index.update(more, ids=ids)
            assert ids[3] in index
            assert index.remove(ids) == own and ids[3] not in index
        index.add(more, ids=ids)

    def read(number: int) -> None:
        for _ in range(3):
            assert (index.search(queries, 3).ids < 100_000 + 1000 * THREADS).all()
            whole(pickle.loads(pickle.dumps(index)))
            whole(copy.deepcopy(index) if number % 2 else index.copy())
            index.save(tmp_path / f"{number % 3}")  # several threads save to one file
            whole(fpq.load(tmp_path / f"{number % 3}"))

    n_changes = THREADS // 3
    together(
        (lambda i=i: change(i)) if i < n_changes else (lambda i=i: read(i)) for i in range(THREADS)
    )  # fmt: skip
    assert len(index) == N + own * n_changes
    expected = filled(kind).search(queries, N)
    found = index.search(queries, N + own * n_changes)
    index.remove(index.ids[index.ids >= 100_000])
    again = index.search(queries, N)
    kept = [ids[(ids >= 0) & (ids < 100_000)] for ids in found.ids]
    if isinstance(index, (fpq.FlatIndex, fpq.PQIndex)):  # exact: the answers do not depend on where rows are
        assert all(set(ids) == set(np.arange(N - 100) * 2) | set(10_000 + np.arange(100)) for ids in kept)
        np.testing.assert_array_equal(np.sort(again.ids), np.sort(expected.ids))
    assert len(index) == N


def test_settings_beside_searches() -> None:
    """A search has one setting or another."""
    index = filled("ivfpq")
    efforts = [{"n_probe": n_probe, "rerank": rerank} for n_probe in (1, 3, 12) for rerank in (None, 2)]
    expected = {plain(index.search(Q, 3, **effort).ids) for effort in efforts}
    # The two settings are set one after the other, and a search may come between.
    done = threading.Event()

    def change() -> None:
        for turn in range(600):
            vars_of = efforts[turn % len(efforts)]
            index.n_probe, index.rerank = vars_of["n_probe"], vars_of["rerank"]
        done.set()

    def search() -> None:
        while not done.is_set():
            assert plain(index.search(Q, 3).ids) in expected

    together([change, *[search] * 5])


def test_the_same_training_on_many_threads() -> None:
    """The same seed gives the same bits, whatever other threads train."""
    for kind in ("pq refined", "ivfpq", "ivfpq rotated", "e2lsh"):
        states = together(lambda kind=kind: b"".join(filled(kind)._pieces()) for _ in range(8))
        assert len(set(states)) == 1, kind


def test_quantizers_that_do_not_change_are_read_by_many_threads() -> None:
    pq = fpq.ProductQuantizer(8, nbits=4, rotation="pca", n_threads=1).fit(X)
    kmeans = fpq.KMeans(10, n_threads=1).fit(X)
    calls = [
        lambda pq, kmeans: pq.encode(X),
        lambda pq, kmeans: pq.decode(codes),
        lambda pq, kmeans: pq.distance_table(Q),
        lambda pq, kmeans: kmeans.predict(X),
    ]
    codes = pq.encode(X)
    expected = [plain(call(pq, kmeans)) for call in calls]
    for _ in range(5):
        own = copy.deepcopy(pq), copy.deepcopy(kmeans)
        found = together(lambda call=call, own=own: call(*own) for call in calls * 6)
        assert [plain(each) for each in found] == expected * 6


def test_merges_in_both_directions() -> None:
    for _ in range(5):
        a = fpq.FlatIndex(**FEW).add(X[:50], ids=np.arange(50))
        others = [fpq.FlatIndex(**FEW).add(X[:10], ids=1000 * i + np.arange(10)) for i in range(1, 9)]
        more = fpq.FlatIndex(**FEW)
        together(
            [*[lambda other=other: a.merge(other) for other in others], *[lambda: more.merge(a.copy().reset())] * 4]
        )
        assert len(a) == 50 + 80 and len(more) == 0


def test_shards_that_come_and_go_beside_searches(tmp_path: Path) -> None:
    for i in range(3):
        fpq.FlatIndex(**FEW).add(X[400 * i : 400 * i + 400]).save(tmp_path / f"{i}.fpq")
    files = [tmp_path / f"{i}.fpq" for i in range(3)]
    index = fpq.ShardedIndex.create(tmp_path / "manifest.json", files, offsets=[0, 400, 800])
    expected = {len(index): plain(index.search(Q, 5).ids)}
    index.drop_shard("2.fpq")
    expected[len(index)] = plain(index.search(Q, 5).ids)
    done = threading.Event()

    def change() -> None:
        try:
            for _ in range(12):
                index.add_shard(tmp_path / "2.fpq", offset=800)
                index.drop_shard("2.fpq")
        finally:
            done.set()

    def search() -> None:
        while not done.is_set():
            assert plain(index.search(Q, 5).ids) in expected.values()
            assert 3 in index and len(index) in expected

    together([change, *[search] * 8])


def test_a_shard_is_dropped_amid_a_search_of_one_dropped_before(tmp_path: Path) -> None:
    for i in range(3):
        fpq.FlatIndex(**FEW).add(X[400 * i : 400 * i + 400]).save(tmp_path / f"{i}.fpq")
    files = [tmp_path / f"{i}.fpq" for i in range(3)]

    def make() -> tuple[fpq.ShardedIndex, Any]:
        index = fpq.ShardedIndex.create(tmp_path / "manifest.json", files, offsets=[0, 400, 800])
        content = index._manifest
        index.drop_shard("2.fpq")
        return index, content.with_shards(shard for shard in content.shards if shard.file == "2.fpq")

    index, before = make()
    counter = Interruption(lambda: None, 1 << 60)
    assert counter.run(lambda: index._run(before, executor.nbytes, None)[0][0]) > 0
    for at in range(len(counter.lines)):
        index, before = make()
        between = Interruption(lambda index=index: index.drop_shard("1.fpq"), at)
        assert between.run(lambda index=index, before=before: index._run(before, executor.nbytes, None)[0][0]) > 0
        assert between.found == 400 and len(index) == 400


@pytest.mark.parametrize("where", [":memory:", "folder"])
def test_collections(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upserts, deletions, searches by vector and by condition, and optimize, all at once."""
    monkeypatch.setattr("fpq.collection.folding.EXACT_ROWS", 500)
    path = where if where == ":memory:" else tmp_path / "c"
    with fpq.Collection.create(path, metric="l2", background=False, **FEW) as collection:
        collection.upsert(range(600), X[:600], {"n": [0] * 600})

        def change(number: int) -> None:
            keys = [10_000 + 100 * number + i for i in range(20)]
            for turn in range(4):
                collection.upsert(keys, X[600:620] + number, {"n": [turn + 1] * 20})
                assert len(collection.get(keys)) == 20
                collection.delete(keys[:5])

        def search(number: int) -> None:
            for _ in range(6):
                hits = collection.search(X[number], 3, where="n = 0")
                assert hits[0].key == number and len({hit.key for hit in hits}) == 3
                assert collection.search(X[number], 1)[0].key == number
                assert len(collection.keys("n = 0")) == 600

        changes = [lambda i=i: change(i) for i in range(6)]
        together([*changes, *[lambda i=i: search(i) for i in range(10)], collection.optimize])
        assert len(collection) == 600 + 6 * 15
        assert sorted(hit.key for hit in collection.search(X[0], 1000)) == sorted(collection)


def test_warnings_of_other_threads() -> None:
    """What one thread does quietly, another is warned of; and the filters of the process stay."""
    before = list(warnings.filters)
    quiet, warned = threading.Event(), threading.Event()

    def work() -> None:
        with _checks.quiet():
            quiet.set()
            assert warned.wait(60)
            fpq.KMeans(2).fit(X[:3])
            fpq.FlatIndex().search(X, 1)

    worker = threading.Thread(target=work)
    worker.start()
    assert quiet.wait(60)
    with pytest.warns(UserWarning, match="no vectors were added"):
        fpq.FlatIndex().search(X, 1)
    warned.set()
    worker.join()
    assert warnings.filters == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_threads_of_a_forked_child_come_first_together() -> None:
    """The lock of an index is made anew in the child, once, whichever thread comes first."""
    locks = [Lock() for _ in range(200)]
    child = os.fork()
    if not child:
        made: list[set[int]] = [set() for _ in locks]

        def use() -> None:
            for lock, mutexes in zip(locks, made, strict=True):
                with lock.reading():
                    mutexes.add(id(lock._readers))

        try:
            together([use] * THREADS)
            os._exit(0 if all(len(each) == 1 for each in made) else 8)
        except BaseException:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_re_ranking_gives_up_the_interpreter_lock() -> None:
    """A scan of few codes keeps the lock, but not if many numbers of vectors are read after it."""
    x = RNG.normal(size=(N, 256)).astype(np.float32)
    index = fpq.PQIndex(8, nbits=4, keep_vectors=True).fit(x).add(x)
    begun, ended, turns = threading.Event(), threading.Event(), 0

    def take_turns() -> None:
        nonlocal turns
        while not ended.is_set():
            turns += 1
            begun.set()
            time.sleep(0)

    interval = sys.getswitchinterval()
    worker = threading.Thread(target=take_turns)
    sys.setswitchinterval(100)  # nobody has to give up the lock
    try:
        worker.start()
        assert begun.wait(60)
        before = turns
        assert any(index.search(x[0], 10, rerank=N // 10, n_threads=1) and turns > before for _ in range(20_000))
    finally:
        ended.set()
        sys.setswitchinterval(interval)
        worker.join()
