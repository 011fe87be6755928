"""Rows that are never in memory together: the same index as from all at once, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
from fpq.indexes.parts.true_neighbors import true_neighbors

N, D = 2000, 12
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
BYTES = (X * 30 + 120).clip(0, 255).astype(np.uint8)
Q = X[:20] + np.float32(0.1)
MAKERS: dict[str, Callable[[], Any]] = {
    "flat": fpq.FlatIndex,
    "flat cosine": lambda: fpq.FlatIndex("cosine"),
    "pq": lambda: fpq.PQIndex(4, nbits=4, keep_vectors=True),
    "pq cosine": lambda: fpq.PQIndex(4, nbits=4, metric="cosine", rotation="pca", keep_vectors=True),
    "ivf": lambda: fpq.IVFPQIndex(9, 4, nbits=4, keep_vectors=True),
    "e2lsh": lambda: fpq.E2LSHIndex(n_tables=3),
    "e2lsh cosine": lambda: fpq.E2LSHIndex(n_tables=2, n_hashes=3, width=0.5, metric="cosine"),
    "c2lsh": fpq.C2LSHIndex,
    "pmlsh": fpq.PMLSHIndex,
}


def same(a: Any, b: Any) -> None:
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


def state(index: Any) -> dict[str, Any]:
    params, arrays = index._state()
    return {**params, **{name: array.copy() for name, array in arrays.items()}}


def memmapped(folder: Path, x: np.ndarray) -> np.memmap:
    np.save(folder / "x.npy", x)
    mapped: np.memmap = np.load(folder / "x.npy", mmap_mode="r")
    return mapped


def blocks(x: np.ndarray, rows: int = 300) -> Iterator[np.ndarray]:
    return (x[i : i + rows] for i in range(0, len(x), rows))


def sources(folder: Path, x: np.ndarray) -> dict[str, Callable[[], Any]]:
    da = pytest.importorskip("dask.array")
    return {
        "memmap": lambda: memmapped(folder, x),
        "generator": lambda: blocks(x),
        "list": lambda: list(blocks(x)),
        "chunks": lambda: da.from_array(x, chunks=(700, 5)),
        "unknown": lambda: (lambda a: a[a[:, 0] > -1000])(da.from_array(x, chunks=(300, D))),
    }


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int16"])
@pytest.mark.parametrize("name", MAKERS)
def test_blocks_give_the_same_index(name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fpq.indexes.parts.streaming.ROWS", 128)
    x = (X if dtype == "float32" else BYTES).astype(dtype)
    ids = np.random.default_rng(1).permutation(3 * N)[:N]
    one = MAKERS[name]().fit(x).add(x, ids=ids).add(x)
    for source in sources(tmp_path, x).values():
        index = MAKERS[name]()
        assert index.fit(source()) is index
        assert index.add(source(), ids=ids) is index and index.add(source()) is index
        assert len(index) == 2 * N
        same(index.ids, one.ids)
        if name not in ("ivf",):  # whose lists may have their blocks in another order
            mine, its = state(index), state(one)
            assert mine.keys() == its.keys()
            for key in mine:
                np.testing.assert_array_equal(mine[key], its[key])
        for options in ({}, {"rerank": 3} if "pq" in name or "ivf" in name else {}, {"allowed": ids[:50]}):
            same(index.search(Q, 7, **options), one.search(Q, 7, **options))
    many = x[:700]
    for queries in sources(tmp_path, many).values():
        same(one.search(queries(), 5, n_threads=1), one.search(many, 5))


def test_nothing_comes() -> None:
    index = fpq.PQIndex(4, nbits=4).fit(X)
    assert len(index.add(iter([]))) == 0
    assert len(index.add(blocks(X[:0]))) == 0
    assert index.search(iter([]), 3).ids.shape == (0, 3)
    assert len(index.add(iter([X[:0], X[:5], X[:0]]))) == 5
    with pytest.raises(ValueError, match="X: expected at least"):
        fpq.PQIndex(4, nbits=4).fit(iter([]))


def _nan(block: np.ndarray) -> np.ndarray:
    block = block.copy()
    block[3, 3] = np.nan
    return block


def _fails(block: np.ndarray) -> np.ndarray:
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (_nan, ValueError, "partition 2: .*got NaN or infinity in row 3"),
        (lambda block: block[:, :5], ValueError, "partition 2: .*dimension 12, got dimension 5"),
        (lambda block: block.astype(np.float64), TypeError, "partition 2: expected dtype float32 .*float64"),
        (lambda block: block[0], ValueError, "partition 2: expected shape"),
        (_fails, OSError, "gone"),
    ],
)
@pytest.mark.parametrize("name", [*MAKERS, "limited"])
@pytest.mark.parametrize("have", [0, 100])
def test_a_failed_add_changes_nothing(name: str, have: int, value: Any, error: type, message: str) -> None:
    make = MAKERS.get(name, lambda: fpq.IVFPQIndex(9, 4, nbits=4, list_capacity=1.5, open_indexing=2.0))
    index = make().fit(X).add(X[:have], ids=np.arange(have) * 2)
    before, found = state(index), index.search(Q, 9)
    with pytest.raises(error, match=message):
        index.add(value(block) if number == 2 else block for number, block in enumerate(blocks(X)))
    after = state(index)
    assert after.keys() == before.keys() and len(index) == have
    if "ivf" not in name and name != "limited":
        for key in before:
            np.testing.assert_array_equal(after[key], before[key])
    same(index.search(Q, 9), found)
    same(index.add(X).search(Q, 9), make().fit(X).add(X[:have], ids=np.arange(have) * 2).add(X).search(Q, 9))


def test_ids_have_to_match() -> None:
    for ids in (np.arange(N - 1), np.arange(N + 1), np.arange(N) // 2):
        index = fpq.FlatIndex()
        with pytest.raises(ValueError, match="ids: "):
            index.add(blocks(X), ids=ids)
        assert len(index) == 0 and index.dim is None


def test_limits_of_a_mapped_array_hold_over_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fpq.indexes.parts.streaming.ROWS", 128)
    x = memmapped(tmp_path, X)
    for make in (
        lambda: fpq.PQIndex(4, nbits=4, open_indexing=1.5),
        lambda: fpq.IVFPQIndex(9, 4, nbits=4, list_capacity=1.2),
    ):
        same(make().fit(x).add(x).search(Q, 9), make().fit(X).add(X).search(Q, 9))


MEASURE = """
import sys
from pathlib import Path
import numpy as np
import fpq

def peak(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024

N, D, ROWS = 1_500_000, 64, 50_000
rng = np.random.default_rng(0)
blocks = lambda: (rng.integers(0, 256, size=(ROWS, D), dtype=np.uint8) for _ in range(N // ROWS))
sample = next(blocks())
index = fpq.PQIndex(4, nbits=4).fit(sample)
index.add(sample[:100]).remove(np.arange(100))
before = peak("VmRSS")
index.add(blocks())
print(peak("VmHWM") - before, index.nbytes, N * D)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_that_of_the_index_and_a_block() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    more, index, rows = map(int, done.stdout.split())
    assert more < 3 * index + (24 << 20) < rows  # while an array grows, the old and the new one are there


class Fresh:
    """Blocks of X, each of which is made when the one before it is gone."""

    def __init__(self) -> None:
        self._starts = iter(range(0, N, 300))
        self._made: list[weakref.ref[np.ndarray]] = []

    def __iter__(self) -> Fresh:
        return self

    def __next__(self) -> np.ndarray:
        assert all(made() is None for made in self._made)
        start = next(self._starts)
        block = X[start : start + 300].copy()
        self._made.append(weakref.ref(block))
        return block


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="needs reference counts")
@pytest.mark.parametrize("name", ["flat", "pq", "ivf", "e2lsh", "c2lsh", "pmlsh"])
def test_a_block_is_released_before_the_next(name: str, tmp_path: Path) -> None:
    MAKERS[name]().fit(X).add(Fresh()).search(Fresh(), 3)
    pytest.importorskip("dask")
    import fpq.dask

    learned = fpq.dask.fit(MAKERS[name](), Fresh())
    fpq.dask.build(learned, Fresh(), tmp_path)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_tune_with_rows_and_queries_in_blocks(metric: str, tmp_path: Path) -> None:
    index = fpq.IVFPQIndex(9, 4, nbits=8, metric=metric).fit(X).add(X[::-2], ids=np.arange(N)[::-2])
    expected = index.tune(Q, 5, 0.1, X=X)
    queries = index._queries(Q, 1)[0]
    truth = true_neighbors(index, queries, 5, X, None, 1)
    for make in sources(tmp_path, X).values():
        np.testing.assert_array_equal(true_neighbors(index, queries, 5, make(), None, 1), truth)
        tuned = index.tune(blocks(Q, 7), 5, 0.1, X=make())
        assert tuned.trials[0].recall in {trial.recall for trial in expected.trials}
    with pytest.raises(ValueError, match="a row for each id up to 1999"):
        index.tune(Q, 5, X=blocks(X[:1500]))
    with pytest.raises(ValueError, match="dimension 12, got dimension 5"):
        index.tune(Q, 5, X=blocks(X[:, :5]))
    with pytest.raises(ValueError, match="at least one query"):
        index.tune(iter([]), 5, X=X)
