"""Ctrl-C ends every long call within a second, and the index is as before."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest

import fpq

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="timers of POSIX")

AFTER = 0.2  # seconds from the beginning of a call to the signal
MOST = 1.0  # seconds that a call may go on, of the time that its thread has the CPU: other programs may be running
D = 64
RNG = np.random.default_rng(0)
X = RNG.normal(size=(20_000, D)).astype(np.float32)
ENDLESS = np.lib.stride_tricks.as_strided(X, (50_000_000, D), (0, 4))  # takes no memory
MANY = np.tile(X, (10, 1))
WIDE = RNG.normal(size=(2000, 4096)).astype(np.float32)


class Interrupted(BaseException):
    """What the handler of the signal raises."""


def interrupt(call: Callable[[], Any]) -> None:
    """Make a call, send a signal amid it, and see that it ends soon."""

    def stop(*_: Any) -> None:
        raise Interrupted

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, stop),
        signal.SIGALRM: signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT)),
    }
    begin = time.thread_time()
    signal.setitimer(signal.ITIMER_REAL, AFTER, AFTER)  # again: callbacks of the collector drop what they raise
    try:
        with pytest.raises(Interrupted):
            call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert time.thread_time() - begin < AFTER + MOST


INDEXES: dict[str, Callable[[], Any]] = {
    "flat": fpq.FlatIndex,
    "pq": lambda: fpq.PQIndex(32, 8, keep_vectors=True).fit(X[:4000]),
    "ivf": lambda: fpq.IVFPQIndex(16, 32, 8, keep_vectors=True).fit(X[:4000]),
    "e2lsh": lambda: fpq.E2LSHIndex(16, 8).fit(X[:4000]),
    "c2lsh": lambda: fpq.C2LSHIndex(200).fit(X[:4000]),
}


@pytest.fixture(scope="module")
def filled() -> dict[str, Any]:
    return {name: make().add(X) for name, make in INDEXES.items()}


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("name", INDEXES)
def test_search(name: str, n_threads: int, filled: dict[str, Any]) -> None:
    effort = {"ivf": {"n_probe": 16}, "e2lsh": {"n_probe": 60_000}, "c2lsh": {"n_candidates": 20_000}}.get(name, {})
    interrupt(lambda: [filled[name].search(MANY, 100, n_threads=n_threads, **effort) for _ in range(100)])


@pytest.mark.parametrize("name", INDEXES)
def test_range_search(name: str, filled: dict[str, Any]) -> None:
    interrupt(lambda: [filled[name].range_search(MANY[:20_000], 1.0) for _ in range(100)])


@pytest.mark.parametrize("name", ["pq", "ivf"])
def test_search_with_rerank(name: str, filled: dict[str, Any]) -> None:
    interrupt(lambda: filled[name].search(MANY[:20_000], 10, rerank=500))


def test_one_query_with_many_probes() -> None:
    """All rows are in the bucket of the query, in each table."""
    index = fpq.E2LSHIndex(1000, 1, 1e6).fit(WIDE).add(WIDE)
    index._tables, index._sketcher = index._tables._replace(sketches=None), None  # each row's distance is to be taken
    interrupt(lambda: [index.search(WIDE[0], 10, n_probe=1 << 20) for _ in range(1000)])


@pytest.mark.parametrize("name", INDEXES)
def test_add(name: str) -> None:
    index = INDEXES[name]().add(X[:100])
    before = faults.answers(index)
    interrupt(lambda: index.add(ENDLESS[: 10_000_000 if name in ("flat", "e2lsh", "c2lsh") else None]))
    assert len(index) == 100 and faults.answers(index) == before


@pytest.mark.parametrize("name", INDEXES)
def test_fit(name: str) -> None:
    index = {
        "flat": fpq.FlatIndex,
        "pq": lambda: fpq.PQIndex(32, 8, rotation="opq"),
        "ivf": lambda: fpq.IVFPQIndex(1000, 32, 8),
        "e2lsh": lambda: fpq.E2LSHIndex(200, 16),
        "c2lsh": fpq.C2LSHIndex,
    }[name]()
    rows = WIDE if name.endswith("lsh") else ENDLESS
    interrupt(lambda: [index.fit(rows) for _ in range(1000)] if name.endswith("lsh") else index.fit(rows))
    if name not in ("flat", "e2lsh", "c2lsh"):
        assert not index.is_trained


@pytest.mark.parametrize("name", ["pq", "ivf", "e2lsh", "c2lsh"])
def test_tune(name: str, filled: dict[str, Any]) -> None:
    index = filled[name]
    before = {key: vars(index).get(key) for key in ("n_probe", "rerank", "n_candidates")}
    interrupt(lambda: index.tune(MANY + np.float32(0.1), 10, 0.999))
    assert {key: vars(index).get(key) for key in before} == before


@pytest.mark.parametrize("name", INDEXES)
def test_add_and_remove_again_and_again(name: str, filled: dict[str, Any]) -> None:
    """Each call is done or not."""
    index = filled[name]
    n = len(index)

    def change() -> None:
        while True:
            index.add(X[:2000], ids=np.arange(1_000_000, 1_002_000))
            index.remove(np.arange(1_000_000, 1_002_000))

    interrupt(change)
    assert len(index) in (n, n + 2000)
    index.remove(np.arange(1_000_000, 1_002_000))
    assert len(index) == n
    assert index.search(X[:5], 1).ids.ravel().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", INDEXES)
def test_save_and_load(name: str, filled: dict[str, Any], tmp_path: Path) -> None:
    index = filled[name]
    index.save(tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    interrupt(lambda: [index.save(tmp_path / "a") for _ in range(1000)])
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == before
    interrupt(lambda: [fpq.load(tmp_path / "a") for _ in range(1000)])
    interrupt(lambda: [fpq.load(tmp_path / "a", mmap=True).verify() for _ in range(1000)])


def test_learning() -> None:
    kmeans = fpq.KMeans(2000, n_iter=1000, max_points_per_centroid=10_000)
    interrupt(lambda: kmeans.fit(ENDLESS))
    trained = fpq.KMeans(200).fit(X)
    interrupt(lambda: trained.predict(ENDLESS))
    pq = fpq.ProductQuantizer(32, 8).fit(X)
    interrupt(lambda: [pq.encode(MANY) for _ in range(1000)])
    interrupt(lambda: [pq.decode(pq.encode(X)) for _ in range(1000)])
