"""Serving shards: manifests that another process replaces, replicas, late and killed workers."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_sharded import MAKERS, N, Q, X, same, shards

import fpq
from fpq.dask import hedging, placement
from fpq.sharding.manifest import Shard


def test_reload_takes_up_a_new_manifest(tmp_path: Path) -> None:
    builder = shards(MAKERS["ivf l2"], tmp_path, 5)
    server = fpq.ShardedIndex(tmp_path / "manifest.json")
    whole, lacking = MAKERS["ivf l2"]().add(X), MAKERS["ivf l2"]().add(X[:1200])
    with _searching(server, [whole, lacking]):
        for _ in range(8):
            assert builder.drop_shard("4.fpq") == 300 and len(server) == N
            assert server.reload() and len(server) == 1200 and not server.reload()
            same(server.search(Q, 9), lacking.search(Q, 9))
            builder.add_shard(tmp_path / "4.fpq", offset=1200)
            assert server.reload()
    same(server.search(Q, 9), whole.search(Q, 9))
    assert builder.remove(np.arange(700)) == 700 and server.reload() and not np.isin(server.ids, np.arange(700)).any()


@contextlib.contextmanager
def _searching(server: fpq.ShardedIndex, states: list[Any]) -> Iterator[None]:
    """Search in two threads meanwhile: each answer is that of one of `states`."""
    answers, seen, stop = [index.search(Q, 9).ids.tolist() for index in states], [], threading.Event()

    def search() -> None:
        while not stop.is_set():
            seen.append(server.search(Q, 9).ids.tolist())

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert seen and all(answer in answers for answer in seen)


def test_a_failed_reload_changes_nothing(tmp_path: Path) -> None:
    server = shards(MAKERS["pq l2"], tmp_path, 2)
    path = tmp_path / "manifest.json"
    expected, written = server.search(Q, 5), path.read_bytes()
    (tmp_path / "other").mkdir()
    other = shards(lambda: fpq.PQIndex(4, seed=1).fit(X), tmp_path / "other", 2)
    for content, error, message in (
        (b"{", fpq.FormatError, "JSON"),
        ((tmp_path / "other" / "manifest.json").read_bytes(), fpq.FormatError, "expected the parameters and codebooks"),
        (written.replace(b"0.fpq", b"9.fpq"), fpq.FormatError, r"1 of 2 shards .*9\.fpq"),
    ):
        path.write_bytes(content)
        with pytest.raises(error, match=message):
            server.reload()
        assert server.shards == other.shards
        same(server.search(Q, 5), expected)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        server.reload()


def test_a_change_of_another_process_is_not_undone(tmp_path: Path) -> None:
    builder = shards(fpq.FlatIndex, tmp_path, 3)
    server = fpq.ShardedIndex(tmp_path / "manifest.json")
    builder.drop_shard("2.fpq")
    files, written = sorted(tmp_path.iterdir()), (tmp_path / "manifest.json").read_bytes()
    for change in (
        lambda: server.drop_shard("0.fpq"), lambda: server.remove([3]),
        lambda: server.add_shard(tmp_path / "2.fpq", offset=N),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=r"manifest.json: another process has changed the manifest"):
            change()
        assert sorted(tmp_path.iterdir()) == files and (tmp_path / "manifest.json").read_bytes() == written
    assert len(server) == N and server.reload() and server.remove([3]) == 1


SHARDS = [Shard(f"{i}", 1000 + i % 3, 0, 2000 * i, 2000 * i + 1500, f"{i:064x}") for i in range(60)]


def test_placement_is_even_and_few_shards_move() -> None:
    workers = [f"tcp://10.0.0.{i}:8000" for i in range(9)]
    for replicas in (1, 2, 3):
        before, after = (placement.placed(SHARDS, some, replicas) for some in (workers[:8], workers))
        assert before == placement.placed(SHARDS[::-1], workers[7::-1], replicas)
        held = [sum(worker in each for each in before.values()) for worker in workers[:8]]
        assert all(len(set(each)) == replicas for each in before.values())
        assert max(held) <= 60 * replicas / 8 + 1
        moved = sum(len(set(after[shard]) - set(before[shard])) for shard in SHARDS)
        assert 60 * replicas / 9 - 1 <= moved <= 60 * replicas / 3
    assert set(placement.placed(SHARDS, workers[:2], 5)[SHARDS[0]]) == set(workers[:2])
    with pytest.raises(ConnectionError, match="no workers"):
        placement.placed(SHARDS, [], 1)


def test_a_slow_worker_does_not_say_when_tasks_are_late() -> None:
    times, workers = hedging.Times(), ["a", "b", "c", "d"]
    for worker, seconds in zip(workers, (1.0, 2.0, 3.0, 900.0), strict=True):
        sent = [hedging.Sent(None, worker, []) for _ in range(hedging.ENOUGH)]
        for task in sent:
            task.seconds = seconds
        assert times.late_after("kind", [workers]) == (np.inf if worker == "a" else 1.0 if worker != "d" else 2.0)
        times.note("kind", sent)
    assert times.late_after("kind", [workers]) == 2.0
    assert times.late_after("kind", [["a"], ["b"]]) == times.late_after("other", [workers]) == np.inf
    times.keep(["d"])
    assert times.late_after("kind", [workers]) == 900.0


def test_replicas_need_a_client(tmp_path: Path) -> None:
    shards(fpq.FlatIndex, tmp_path, 2)
    for wrong, message in ((2, "replicas: expected 1 without a client, got 2"), (0, "replicas: expected at least 1")):
        with pytest.raises(ValueError, match=message):
            fpq.ShardedIndex(tmp_path / "manifest.json", replicas=wrong)


# ---- on a cluster ----


@contextlib.contextmanager
def _cluster() -> Iterator[tuple[Any, Any]]:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield cluster, client


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with _cluster() as (_, client):
        yield client


def _before_tasks(action: Callable[[], Any] | None) -> None:
    """Have this worker do something before each search."""
    from fpq.dask import serve
    from fpq.sharding.executor import run_task

    def run(shards: Any, open_shard: Any, task: Any, query: Any) -> Any:
        if action is not None and task.__name__ == "nearest":
            action()
        return run_task(shards, open_shard, task, query)

    serve.run_task = run


class _Waits:
    """An action that touches `begun` and waits for a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> None:
        (self.folder / "begun").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.01)


class _Dies(_Waits):
    """An action that kills the worker, once."""

    def __call__(self) -> None:
        if not (self.folder / "begun").exists():
            (self.folder / "begun").touch()
            os.kill(os.getpid(), signal.SIGKILL)


def _opened() -> int:
    from fpq.dask import serve

    return int(serve._open_shard.cache_info().currsize)


def _names(dask_scheduler: Any) -> list[str]:
    return [key for key in dask_scheduler.tasks if key.startswith("fpq-nearest")]


@pytest.mark.parametrize("name", ["flat l2", "pq ip", "ivf cosine"])
def test_replicas_answer_as_one_index(name: str, client: Any, tmp_path: Path) -> None:
    one = MAKERS[name]().add(X)
    shards(MAKERS[name], tmp_path, 7)
    rerank = {} if "flat" in name else {"rerank": 3}
    for replicas in (1, 2, 3, 9):
        before = client.run(_opened)
        many = fpq.ShardedIndex(tmp_path / "manifest.json", client=client, replicas=replicas)
        assert sum(client.run(_opened).values()) > sum(before.values()) or replicas in (1, 9)
        for _ in range(3):
            same(many.search(Q, 7, **rerank), one.search(Q, 7, **rerank))
            same(many.range_search(Q, 9.0), one.range_search(Q, 9.0))
        assert all(number in many for number in (0, 700, N - 1)) and N not in many


def test_a_late_task_is_sent_to_another_worker(client: Any, tmp_path: Path) -> None:
    many, one = _serving(client, tmp_path)
    slow = sorted(client.nthreads())[0]
    client.run(_before_tasks, _Waits(tmp_path), workers=[slow])
    try:
        for _ in range(3):  # the worker gets one task, and then none until it has done that
            same(many.search(Q, 9), one.search(Q, 9))
        assert (tmp_path / "begun").exists()
        # On a busy machine others are late too, and their shards may be sent to this worker.
        assert [task.worker for task in many._executor._running if task.late].count(slow) == 1
        with pytest.raises(ValueError, match="keeps no vectors"):
            many.search(Q, 9, rerank=2)
    finally:
        (tmp_path / "go").touch()
    client.run(_before_tasks, None)
    for _ in range(3):
        same(many.search(Q, 9), one.search(Q, 9))


def _serving(client: Any, folder: Path) -> tuple[Any, Any]:
    """Shards with two replicas, which know how long searches take, and one index."""
    make = lambda: fpq.PQIndex(4).fit(X)  # noqa: E731
    shards(make, folder, 9)
    many = fpq.ShardedIndex(folder / "manifest.json", client=client, replicas=2)
    for _ in range(hedging.ENOUGH + 5):
        many.search(Q, 9)
    return many, make().add(X)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="timers of POSIX")
def test_an_interrupted_search_leaves_no_tasks(client: Any, tmp_path: Path) -> None:
    many, one = _serving(client, tmp_path)
    client.run(_before_tasks, _Waits(tmp_path))
    earlier = set(client.run_on_scheduler(_names))  # answers that came too late, of which no search has heard

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with pytest.raises(KeyboardInterrupt):
            many.search(Q, 9)
    finally:
        signal.signal(signal.SIGALRM, before)
    (tmp_path / "go").touch()
    client.run(_before_tasks, None)
    while set(client.run_on_scheduler(_names)) - earlier:
        time.sleep(0.01)
    same(many.search(Q, 9), one.search(Q, 9))


def test_shards_come_and_go_on_a_cluster(client: Any, tmp_path: Path) -> None:
    many, one = _serving(client, tmp_path)
    builder = fpq.ShardedIndex(tmp_path / "manifest.json")
    last = builder.shards[-1]
    start = N - builder.drop_shard(last)
    lacking = fpq.PQIndex(4).fit(X).add(X[:start])
    with _searching(many, [one, lacking]):
        for _ in range(3):
            assert many.reload() and len(many) == start
            same(many.search(Q, 9), lacking.search(Q, 9))
            builder.add_shard(tmp_path / last, offset=start)
            assert many.reload() and len(many) == N
            same(many.search(Q, 9), one.search(Q, 9))
            many.drop_shard(last)
            builder.reload()
            many.add_shard(tmp_path / last, offset=start)
            builder.reload()
            builder.drop_shard(last)


def test_workers_come_and_go(tmp_path: Path) -> None:
    with _cluster() as (cluster, client):
        many, one = _serving(client, tmp_path)
        victim = sorted(client.nthreads())[0]
        client.run(_before_tasks, _Dies(tmp_path), workers=[victim])
        same(many.search(Q, 9), one.search(Q, 9))
        assert (tmp_path / "begun").exists()
        client.wait_for_workers(3)
        same(many.search(Q, 9), one.search(Q, 9))
        cluster.scale(4)
        client.wait_for_workers(4)
        for _ in range(3):
            same(many.search(Q, 9), one.search(Q, 9))
        assert all(client.run(_opened).values())
        cluster.scale(1)
        while len(client.nthreads()) > 1:
            time.sleep(0.01)
        same(many.search(Q, 9), one.search(Q, 9))


def test_tune_outlives_a_worker(tmp_path: Path) -> None:
    make = lambda: fpq.C2LSHIndex().fit(X)  # noqa: E731
    here, found = shards(make, tmp_path, 5), X[:40] + np.float32(0.2)
    expected = here.tune(found, 5, 0.9)
    with _cluster() as (_, client):
        many = fpq.ShardedIndex(tmp_path / "manifest.json", client=client, replicas=2)
        client.run(_before_tasks, _Dies(tmp_path), workers=[sorted(client.nthreads())[0]])
        tuned = many.tune(found, 5, 0.9)
        assert (tmp_path / "begun").exists()
        assert [trial[:2] for trial in tuned.trials] == [trial[:2] for trial in expected.trials]
        assert many.n_candidates == here.n_candidates
        same(many.search(Q, 5), here.search(Q, 5))
        client.run(_before_tasks, _fails)
        with pytest.raises(MemoryError, match="no memory"):
            many.tune(found, 9, 0.99)
        client.run(_before_tasks, None)
        assert many.n_candidates == here.n_candidates
        same(many.search(Q, 5), here.search(Q, 5))
    with pytest.raises(ConnectionError, match="cluster"):
        many.tune(found, 5, 0.5)
    assert many.n_candidates == here.n_candidates


def _fails() -> None:
    raise MemoryError("no memory")
