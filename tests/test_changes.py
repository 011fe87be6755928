"""`in`, `reset`, `copy`, `update` and `merge` of all indexes."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq

N, D = 300, 34  # wide enough for sketches
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)).astype(np.float32)
Q = X[:5] + np.float32(0.1)
KINDS: dict[str, Callable[[], Any]] = {
    "flat": fpq.FlatIndex,
    "flat cosine": lambda: fpq.FlatIndex("cosine"),
    "pq": lambda: fpq.PQIndex(4, nbits=4, metric="ip"),
    "pq kept": lambda: fpq.PQIndex(4, nbits=4, rotation="pca", open_indexing=1.5, keep_vectors=True),
    "ivfpq": lambda: fpq.IVFPQIndex(6, 4, nbits=4, residual=False),
    "ivfpq kept": lambda: fpq.IVFPQIndex(6, 4, nbits=4, open_indexing=1.5, list_capacity=1.2, keep_vectors=True),
    "e2lsh": lambda: fpq.E2LSHIndex(n_tables=3, n_hashes=2),
    "c2lsh": lambda: fpq.C2LSHIndex(n_hashes=30, metric="cosine"),
    "pmlsh": lambda: fpq.PMLSHIndex(ratio=1.5),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def trained(kind: str) -> Any:
    return KINDS[kind]().fit(X)


def filled(kind: str) -> Any:
    """With even ids, of which some have been removed."""
    index = trained(kind).add(X, ids=np.arange(N) * 2)
    index.remove(np.arange(0, 100, 10))
    return index


def mapped(kind: str, folder: Path) -> Any:
    filled(kind).save(folder / "a.fpq")
    return fpq.load(folder / "a.fpq", mmap=True)


# ---- in ----


@every_kind
@pytest.mark.parametrize("numbered", [True, False])
def test_in(kind: str, numbered: bool) -> None:
    index = trained(kind).add(X) if numbered else filled(kind)
    present = set(index.ids.tolist())
    for number in [*range(-3, 700), 2**63 - 1, 2**63, -(2**63), 10**30]:
        assert (number in index) == (number in present), number
    first = int(index.ids[0])
    assert np.int8(first % 100) in index or not numbered
    assert np.uint64(first) in index and np.array(first) in index
    for other in (None, "4", b"4", 4.0, 4.5, np.float32(4), True, np.True_, object(), slice(4)):
        assert other not in index
    for several in ([first], (first,), np.array([first]), {first}):
        with pytest.raises(TypeError, match=rf"^ids: expected one integer, got {type(several).__name__}: np.isin"):
            several in index  # noqa: B015


@every_kind
def test_in_of_other_states(kind: str, tmp_path: Path) -> None:
    assert 0 not in KINDS[kind]() and 0 not in trained(kind)
    index = mapped(kind, tmp_path)
    assert 2 in index and 0 not in index and 3 not in index


# ---- reset ----


def answers(index: Any) -> Any:
    """All that a user sees of an index, apart from the order of its rows."""
    ids = np.sort(index.ids)
    found = [ids.tolist(), len(index), index.is_trained]
    if index.dim is not None:
        found += [array.tolist() for array in index.search(Q, 20)]
        found += [array.tolist() for array in index.range_search(Q, 0.0 if index.metric != "l2" else 40.0)]
        found.append(index.reconstruct(ids).tolist())
    return found


def contents(index: Any) -> bytes:
    """All that an index saves."""
    return b"".join(map(bytes, index._pieces()))


@every_kind
def test_reset(kind: str) -> None:
    index, fresh = filled(kind), trained(kind)
    index.search(Q, 3, allowed=index.ids)  # builds the hash table of the ids
    settings = {name: vars(index)[name] for name in ("n_probe", "rerank", "n_candidates") if name in vars(index)}
    assert index.reset() is index
    assert len(index) == 0 and len(index.ids) == 0 and 2 not in index and index.is_trained
    assert {name: vars(index)[name] for name in settings} == settings
    assert contents(index) == contents(fresh)
    assert index.dim == fresh.dim
    assert (index.search(Q, 3).ids == -1).all() if index.dim else index.dim is None
    index.add(X[:40]), fresh.add(X[:40])
    assert index.ids.tolist() == list(range(40))
    assert contents(index) == contents(fresh) and answers(index) == answers(fresh)
    assert contents(KINDS[kind]().reset()) == contents(KINDS[kind]())


@every_kind
def test_reset_of_a_mapped_index(kind: str, tmp_path: Path) -> None:
    index = mapped(kind, tmp_path)
    with pytest.raises(ValueError, match="is mapped from a file and cannot be changed"):
        index.reset()
    assert answers(index) == answers(filled(kind))


def test_a_reset_flat_index_takes_another_dimension() -> None:
    index = fpq.FlatIndex().add(X).reset()
    assert index.dim is None
    assert index.add(X[:, :3].astype(np.float16)).dim == 3


# ---- copy ----


def arrays_of(value: Any) -> list[np.ndarray]:
    """The arrays of an object of fpq, wherever they are."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, (list, tuple)):
        return [array for each in value for array in arrays_of(each)]
    own = type(value).__module__.startswith("fpq.") and hasattr(value, "__dict__")
    return [array for each in vars(value).values() for array in arrays_of(each)] if own else []


@every_kind
def test_copy(kind: str) -> None:
    index = filled(kind)
    index.n_threads = 1
    for name in ("n_probe", "rerank", "n_candidates"):
        if name in vars(index) and not (name == "rerank" and not index.keep_vectors):
            setattr(index, name, 3)
    twin = index.copy()
    assert type(twin) is type(index) and twin.n_threads == 1 and twin.verbose == index.verbose
    assert contents(twin) == contents(index) and answers(twin) == answers(index)
    assert twin._lock is not index._lock and twin._lock.holds(0) is False
    for ours in arrays_of(index):
        assert not any(np.shares_memory(ours, theirs) for theirs in arrays_of(twin) if theirs.size)
    before = contents(index)
    twin.remove(twin.ids[::3])
    twin.add(X[:50] * 2)
    assert contents(index) == before
    before = contents(twin)
    index.add(X[:50])
    index.reset()
    assert contents(twin) == before


@every_kind
def test_copy_of_other_states(kind: str, tmp_path: Path) -> None:
    for index in (KINDS[kind](), trained(kind), filled(kind).reset()):
        assert contents(index.copy()) == contents(index)
    index = mapped(kind, tmp_path)
    twin = index.copy()
    assert answers(twin) == answers(index)
    twin.add(X[:3])
    assert len(twin) == len(index) + 3
    with pytest.raises(ValueError, match="is mapped from a file"):
        index.add(X[:3])


def test_copy_with_a_file_of_vectors(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    index = fpq.PQIndex(4, nbits=4, keep_vectors=tmp_path / "x.npy").fit(X).add(X)
    twin = index.copy()
    assert twin.keep_vectors == index.keep_vectors and answers(twin) == answers(index)
    (tmp_path / "x.npy").rename(tmp_path / "y.npy")
    with pytest.raises(ValueError, match="the file of the vectors cannot be read"):
        index.copy()


# ---- update ----


def by_id(index: Any) -> Any:
    """What an index keeps of each row, in the order of the ids, and what it counts."""
    ids = np.sort(index.ids)
    rows = index._ids.rows(ids)
    found: list[Any] = [ids.tolist(), index._ids.next_id]
    if index._vectors.dim is not None:
        found += [index._vectors.data.dtype, index._vectors.data[rows].tolist()]
    if isinstance(index, (fpq.PQIndex, fpq.IVFPQIndex)) and index.is_trained:
        found += [index._codes(index._places(rows)).tolist(), None if index._counts is None else index._counts.tolist()]
    if isinstance(index, fpq.IVFPQIndex) and index.is_trained:
        found += [index.lists_of(ids).tolist(), index._max_residual.tolist()]
        assert index._lists.layout.sizes.sum() == len(index)
    return found


UPDATES: dict[str, Callable[[Any], Any]] = {
    "some": lambda index: index.ids[::3],
    "all": lambda index: index.ids,
    "one": lambda index: index.ids[7:8],
    "the last": lambda index: index.ids[-40:],
    "some and new": lambda index: np.r_[index.ids[::5], np.arange(1, 99, 2), 5000],
    "new": lambda index: np.arange(701, 750),
    "none": lambda index: np.arange(0),
}


@every_kind
@pytest.mark.parametrize("which", UPDATES)
@pytest.mark.parametrize("numbered", [True, False])
def test_update_is_remove_and_add(kind: str, which: str, numbered: bool) -> None:
    index = trained(kind).add(X) if numbered else filled(kind)
    ids = np.random.default_rng(3).permutation(np.unique(UPDATES[which](index)))
    rows = np.random.default_rng(4).normal(size=(len(ids), D)).astype(np.float32)
    twin = index.copy()
    for table in (False, True):
        if table:
            index.search(Q, 3, allowed=index.ids)  # builds the hash tables, which are then to be right
            index.reconstruct(index.ids)
        assert index.update(rows * (1 + table), ids) is index
        twin.remove(ids)
        twin.add(rows * (1 + table), ids=ids)
        assert by_id(index) == by_id(twin) and answers(index) == answers(twin)
        assert "ivf" in kind or contents(index) == contents(twin)
        for number in (*ids[:20], 1, 3, 600, 5000):
            assert (number in index) == (number in twin)
    index.remove(ids[::2]), twin.remove(ids[::2])
    assert by_id(index.add(X[:30])) == by_id(twin.add(X[:30])) and answers(index) == answers(twin)


@every_kind
def test_many_updates_in_a_row(kind: str) -> None:
    index = filled(kind)
    rng, twin = np.random.default_rng(5), index.copy()
    for _ in range(30):
        ids = rng.choice(700, rng.integers(1, 60), replace=False)
        rows = rng.normal(size=(len(ids), D)).astype(rng.choice([np.float32, np.float16]))
        index.update(rows, ids)
        twin.remove(ids)
        twin.add(rows, ids)
    assert by_id(index) == by_id(twin) and answers(index) == answers(twin)
    assert answers(index.copy()) == answers(index)
    if kind == "ivfpq kept":
        assert index.list_sizes.max() <= np.ceil(1.2 * len(index) / 6)


@every_kind
def test_update_of_other_states(kind: str, tmp_path: Path) -> None:
    empty, filled_now = trained(kind).update(X, np.arange(N)), trained(kind).add(X)
    assert answers(empty) == answers(filled_now)
    if not KINDS[kind]().is_trained:
        with pytest.raises(ValueError, match="is not trained: call fit first"):
            KINDS[kind]().update(X, np.arange(N))
    index = mapped(kind, tmp_path)
    with pytest.raises(ValueError, match="is mapped from a file and cannot be changed"):
        index.update(X[:1], [2])
    assert answers(index) == answers(filled(kind))


@every_kind
@pytest.mark.parametrize(
    ("x", "ids", "error"),
    [
        (X[:2], [2, 2], "ids: expected unique ids, got 2 more than once"),
        (X[:2], [2], r"ids: expected 2 ids for 2 row\(s\), got 1"),
        (X[:2], [2, -1], "ids: expected ids of at least 0, got -1"),
        (X[:2], [2.0, 4.0], "ids: expected integer ids, got dtype float64"),
        (X[:2], ["2", "4"], "ids: expected integer ids"),
        (X[:2], None, "ids: expected integer ids, got dtype object"),
        (X[:2, :5], [2, 4], f"X: expected vectors of dimension {D}, got dimension 5"),
        (X[:2] * np.nan, [2, 4], "X: expected numbers that are finite"),
        (X[0], [2], "X: expected a 2-d array"),
    ],
)
def test_wrong_updates(kind: str, x: Any, ids: Any, error: str) -> None:
    index = filled(kind)
    before = contents(index)
    with pytest.raises((ValueError, TypeError), match=f"^{error}"):
        index.update(x, ids)
    assert contents(index) == before


@every_kind
@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_update_that_fails_after_the_addition(kind: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    index = filled(kind)
    index.search(Q, 3, allowed=index.ids)
    before, seen, ids = contents(index), answers(index), index.ids[::2]

    def fail(*_: Any) -> Any:
        assert len(index) > N - 10  # the new rows are in
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(type(index), "_removing", fail)
        with pytest.raises(type(error)):
            index.update(X[: len(ids)] + 1, ids)
    assert contents(index) == before and answers(index) == seen
    twin = filled(kind)
    twin.remove(ids)
    twin.add(X[: len(ids)] + 1, ids)
    assert by_id(index.update(X[: len(ids)] + 1, ids)) == by_id(twin)


def test_update_with_a_file_of_vectors(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    index = fpq.PQIndex(4, nbits=4, keep_vectors=tmp_path / "x.npy").fit(X).add(X)
    with pytest.raises(ValueError, match=r"^update: expected an index that holds its vectors, got one that reads them"):
        index.update(X[:2], [0, 1])
    assert len(index) == N


def test_searches_never_miss_what_is_updated() -> None:
    index = fpq.FlatIndex(n_threads=1).add(X)
    stop = threading.Event()
    missed: list[int] = []

    def search() -> None:
        while not stop.is_set():
            found = index.search(X[:5], 1)
            if found.ids.ravel().tolist() != [0, 1, 2, 3, 4] or (found.distances > 0).any():
                missed.append(1)

    searcher = threading.Thread(target=search)
    searcher.start()
    try:
        for _ in range(300):
            index.update(X[:200], np.arange(200))
    finally:
        stop.set()
        searcher.join()
    assert missed == [] and len(index) == N


# ---- merge ----


def other_of(kind: str, index: Any, ids: Any) -> Any:
    """Another index with the training of `index`."""
    rows = np.random.default_rng(9).normal(size=(len(ids), D)).astype(np.float32)
    return index.copy().reset().add(rows, ids)


@every_kind
@pytest.mark.parametrize("mapped_other", [False, True])
def test_merge(kind: str, mapped_other: bool, tmp_path: Path) -> None:
    index = filled(kind)
    other = other_of(kind, index, np.arange(130) * 2 + 1)
    other.remove([5, 7])
    if mapped_other:
        other.save(tmp_path / "b.fpq")
        other = fpq.load(tmp_path / "b.fpq", mmap=True)
    before, alone = by_id(index), by_id(other)
    index.search(Q, 3, allowed=index.ids)
    assert index.merge(other) is index
    assert by_id(other) == alone and len(index) == len(before[0]) + 128
    ids = np.sort(index.ids)
    assert ids.tolist() == sorted(before[0] + alone[0])
    merged = by_id(index)
    if index._vectors.dim is not None:
        kept = dict(zip(before[0], before[3], strict=True)) | dict(zip(alone[0], alone[3], strict=True))
        assert merged[3] == [kept[each] for each in ids.tolist()]
    if isinstance(index, (fpq.PQIndex, fpq.IVFPQIndex)):
        at = 4 if index.keep_vectors else 2
        codes = dict(zip(before[0], before[at], strict=True)) | dict(zip(alone[0], alone[at], strict=True))
        assert merged[at] == [codes[each] for each in ids.tolist()]
        if index._counts is not None:
            assert (np.array(merged[at + 1]) == np.array(before[at + 1]) + np.array(alone[at + 1])).all()
    assert answers(index.copy()) == answers(index)
    index.save(tmp_path / "c.fpq")
    assert answers(fpq.load(tmp_path / "c.fpq")) == answers(index)
    index.remove(other.ids)
    assert by_id(index)[0] == before[0] and 1 not in index and 0 not in index and 2 in index


@every_kind
def test_merge_finds_what_both_find(kind: str) -> None:
    """A search that misses nothing finds the nearest of both."""
    index = filled(kind)
    other = other_of(kind, index, np.arange(130) * 2 + 1)
    effort = {"IVFPQIndex": {"n_probe": 6}, "E2LSHIndex": {"n_probe": 10**6}, "C2LSHIndex": {"n_candidates": 10**6}}
    effort["PMLSHIndex"] = effort["C2LSHIndex"]
    options: dict[str, Any] = effort.get(type(index).__name__, {})
    sign = 1 if index.metric == "l2" else -1
    parts = [each.search(Q, 20, **options).distances * sign for each in (index, other)]
    found = index.merge(other).search(Q, 20, **options).distances * sign
    np.testing.assert_array_equal(found, np.sort(np.concatenate(parts, axis=1), axis=1)[:, :20])


@every_kind
def test_merge_of_other_states(kind: str, tmp_path: Path) -> None:
    index = filled(kind)
    before = by_id(index)
    assert by_id(index.merge(trained(kind))) == before
    assert by_id(trained(kind).merge(index))[0] == before[0] and by_id(index) == before
    with pytest.raises(ValueError, match=r"^ids: expected ids that are not in the index, got 52$"):
        index.merge(other_of(kind, index, [1, 52, 99]))
    with pytest.raises(ValueError, match=r"^other: expected another index, got this index itself"):
        index.merge(index)
    for wrong in (None, X, fpq.KMeans(3), fpq.FlatIndex if kind.startswith("flat") else fpq.FlatIndex()):
        with pytest.raises(TypeError, match=rf"^other: expected {type(index).__name__}, got {type(wrong).__name__}$"):
            index.merge(wrong)
    assert by_id(index) == before
    with pytest.raises(ValueError, match="is mapped from a file and cannot be changed"):
        mapped(kind, tmp_path).merge(trained(kind))


OTHERS: list[tuple[Callable[[], Any], Callable[[], Any], str]] = [
    (fpq.FlatIndex, lambda: fpq.FlatIndex("ip"), "metric = 'l2', got 'ip'"),
    (lambda: fpq.FlatIndex().add(X), lambda: fpq.FlatIndex().add(X[:, :3], range(900, 1200)), "dim = 34, got 3"),
    (lambda: fpq.PQIndex(4, nbits=4).fit(X), lambda: fpq.PQIndex(4, nbits=4, seed=1).fit(X), "codebooks"),
    (lambda: fpq.PQIndex(4, nbits=4).fit(X), lambda: fpq.PQIndex(2, nbits=4).fit(X), "m = 4, got 2"),
    (lambda: fpq.PQIndex(4, nbits=4).fit(X), lambda: fpq.PQIndex(4, nbits=5).fit(X), "nbits = 4, got 5"),
    (lambda: fpq.PQIndex(4, nbits=4).fit(X), lambda: fpq.PQIndex(4, nbits=4, rotation="pca").fit(X), "rotation = None"),
    (lambda: fpq.PQIndex(4, nbits=4).fit(X), lambda: fpq.PQIndex(4, nbits=4).fit(X[:, :30]), "dim = 34, got 30"),
    (
        lambda: fpq.PQIndex(4, nbits=4).fit(X), lambda: fpq.PQIndex(4, nbits=4, keep_vectors=True).fit(X),
        "keep_vectors = False, got True",
    ),
    (
        lambda: fpq.PQIndex(4, nbits=4, open_indexing=1.5).fit(X),
        lambda: fpq.PQIndex(4, nbits=4, open_indexing=1.2).fit(X),
        "open_indexing = OpenIndexing",
    ),
    (lambda: fpq.IVFPQIndex(6, 4, nbits=4).fit(X), lambda: fpq.IVFPQIndex(5, 4, nbits=4).fit(X), ""),
    (
        lambda: fpq.IVFPQIndex(6, 4, nbits=4).fit(X), lambda: fpq.IVFPQIndex(6, 4, nbits=4, list_capacity=1.5).fit(X),
        "",
    ),
    (
        lambda: fpq.E2LSHIndex(n_tables=3, n_hashes=2).fit(X),
        lambda: fpq.E2LSHIndex(n_tables=4, n_hashes=2).fit(X),
        "n_tables = 3, got 4",
    ),
    (
        lambda: fpq.E2LSHIndex(n_tables=3, n_hashes=2).fit(X),
        lambda: fpq.E2LSHIndex(n_tables=3, n_hashes=2, seed=1).fit(X),
        "",
    ),
    (
        lambda: fpq.C2LSHIndex(n_hashes=30, width=3.0).fit(X),
        lambda: fpq.C2LSHIndex(n_hashes=30, width=3.0, seed=1).fit(X),
        "",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("one", "two", "difference"), OTHERS)
def test_merge_of_indexes_that_differ(one: Any, two: Any, difference: str) -> None:
    index = one()
    before = contents(index)
    with pytest.raises(ValueError, match=f"^other: expected an index with the same {difference}"):
        index.merge(two())
    assert contents(index) == before


def test_merge_of_indexes_that_are_not_trained() -> None:
    trained_one = fpq.PQIndex(4, nbits=4).fit(X)
    for one, two in ((trained_one, fpq.PQIndex(4, nbits=4)), (fpq.PQIndex(4, nbits=4), trained_one)):
        with pytest.raises(ValueError, match="PQIndex is not trained: call fit first"):
            one.merge(two)


def test_merge_with_a_file_of_vectors(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    index = fpq.PQIndex(4, nbits=4, keep_vectors=tmp_path / "x.npy").fit(X)
    other = index.copy().add(X[100:], np.arange(100, N))
    whole = index.copy().add(X)
    index.add(X[:100]).merge(other)
    for ours, theirs in zip(index.search(Q, 9, rerank=3), whole.search(Q, 9, rerank=3), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_two_threads_merge_indexes_into_each_other() -> None:
    first = fpq.FlatIndex(n_threads=1).add(X, np.arange(N))
    second = fpq.FlatIndex(n_threads=1).add(X, np.arange(N) + 10**6)
    done: list[str] = []

    def work(index: Any, other: Any, mine: Any) -> None:
        for _ in range(200):
            index.remove(np.setdiff1d(index.ids, mine))
            with contextlib.suppress(ValueError):  # the other index has already these vectors
                index.merge(other)
            other.search(Q, 1)
        done.append("done")

    threads = [
        threading.Thread(target=work, args=(first, second, np.arange(N)), daemon=True),
        threading.Thread(target=work, args=(second, first, np.arange(N) + 10**6), daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert done == ["done", "done"]


class Named(fpq.PQIndex):
    """A user's class."""

    note: str


def test_copies_of_a_subclass() -> None:
    index = Named(4, nbits=4).fit(X)
    index.note = "mine"
    with pytest.raises(AttributeError, match="a subclass declares its own: label: type"):
        index.label = "x"
    twin = index.copy().add(X[:9])
    assert type(twin) is Named and twin.note == "mine"
    assert len(index.merge(twin)) == 9


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal")
def test_handlers_that_raise_wait_for_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    index = fpq.FlatIndex()

    def timed_out(*_: Any) -> None:
        raise TimeoutError

    commit = type(index._vectors).commit

    def interrupted(self: Any, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        commit(self, *arguments)

    monkeypatch.setattr(type(index._vectors), "commit", interrupted)
    before = signal.signal(signal.SIGUSR1, timed_out)
    try:
        with pytest.raises(TimeoutError):
            index.add(X[:9])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(index) == 9 and (index.search(X[:9], 1).ids[:, 0] == np.arange(9)).all()
