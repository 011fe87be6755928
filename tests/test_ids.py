"""Ids of rows: numbered on from the largest ever used, 64 bits everywhere."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fpq
from fpq._arrays import GrowingArray
from fpq.indexes.parts import ids as ids_module
from fpq.indexes.parts.ids import Ids

X = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)


def indexes() -> list[fpq.PQIndex | fpq.FlatIndex]:
    return [fpq.FlatIndex(), fpq.PQIndex(4, nbits=4, keep_vectors=True).fit(X)]


def test_the_largest_id() -> None:
    last = np.iinfo(np.int64).max
    for index in indexes():
        index.add(X[:1], [last])
        assert index.search(X[0], 1).ids.tolist() == [last]
        with pytest.raises(ValueError, match=f"^ids: expected ids, got None: no number is left after {last}"):
            index.add(X[:1])
        assert index.add(X[:0]).add(X[1:2], [3]).ids.tolist() == [last, 3]
        assert index.remove([last]) == 1
        assert index.add(X[:1], [last]).ids.tolist() == [3, last]


def test_no_memory_for_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError

    for index in indexes():
        index.add(X[:100], np.arange(100) * 2)
        before = index.search(X, 5)
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(GrowingArray, "reserve", fail)
            index.add(X[100:], np.arange(100) * 2 + 1)
        for ours, expected in zip(index.search(X, 5), before, strict=True):
            np.testing.assert_array_equal(ours, expected)
        assert index.add(X[100:]).search(X, 1).ids.shape == (200, 1)
        np.testing.assert_array_equal(index.reconstruct([199, 298]), X[[100, 199]])


def test_ids_have_64_bits_where_integers_have_32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in NumPy 1 on Windows, which makes 32-bit integers unless told otherwise."""
    arange, full = np.arange, np.full
    made = indexes()
    monkeypatch.setattr(np, "arange", lambda *a, dtype=np.int32: arange(*a, dtype=dtype))
    monkeypatch.setattr(np, "full", lambda shape, value, dtype=np.int32: full(shape, value, dtype))
    for index in made:
        index.add(X[:100]).add(X[100:])
        assert index.ids.dtype == index.range_search(X[:3], 5.0).ids.dtype == np.int64
        assert index.search(X[:9], 3, allowed=[1, 2]).ids.dtype == np.int64
        np.testing.assert_array_equal(index.reconstruct([1]), X[1:2])
        assert index.remove([3, 150]) == 2
        assert index.remove(index.ids) == 198
        assert index.add(X[:2]).ids.tolist() == [200, 201]
        assert index.ids.dtype == np.int64


LARGEST = int(np.iinfo(np.int64).max)


def in_a_row(n: int) -> Any:
    return np.arange(n, dtype=np.int64)


PATTERNS: dict[str, Callable[[int], Any]] = {
    "in a row": in_a_row,
    "equal low bits": lambda n: in_a_row(n) << 20,
    "multiples of 2**32": lambda n: in_a_row(n) << 32,
    "multiples of 2**48": lambda n: in_a_row(min(n, 1 << 15)) << 48,
    "the largest": lambda n: LARGEST - in_a_row(n),
    "random": lambda n: np.unique(np.random.default_rng(0).integers(0, LARGEST, n)),
    "equal high bits": lambda n: (1 << 62) + in_a_row(n) * 3,
    "pairs": lambda n: np.concatenate([in_a_row(n // 2), (1 << 62) + in_a_row(n // 2)]),
}


def agrees(ids: Ids, expected: set[int], absent: Any) -> None:
    """See that each id is found where it is, and none that is not there."""
    values = ids.values
    assert set(values.tolist()) == expected and len(values) == len(expected) == ids.n
    np.testing.assert_array_equal(ids._find(values.copy()), np.arange(ids.n))
    missing = np.setdiff1d(absent, values).astype(np.int64)
    assert (ids._find(missing) == -1).all()


@pytest.mark.parametrize("scans", [0, 8])
@pytest.mark.parametrize("narrow", [(1 << 32) - 2, 0])  # entries of 4 and of 8 bytes
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_ids_beside_a_set(data: st.DataObject, narrow: int, scans: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids_module, "NARROW_PLACES", narrow)
        patch.setattr(ids_module, "SCANS", scans)
        ids, model, next_id = Ids(), set(), 0
        pool = np.unique(np.concatenate([make(40) for make in PATTERNS.values()]))
        pool = pool[: data.draw(st.sampled_from([40, len(pool)]))]  # the largest ids leave no numbers
        for _ in range(data.draw(st.integers(1, 12))):
            rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
            what = data.draw(st.sampled_from(["add", "add", "number", "remove", "remove most", "copy", "fail"]))
            n = data.draw(st.integers(0, 60))
            if what in ("add", "fail"):
                free = np.setdiff1d(pool, sorted(model))
                chosen = rng.permutation(free)[:n]
                commit = ids.adding(ids.new(chosen, len(chosen)), len(chosen))
                if what == "add":
                    commit()
                    model |= set(chosen.tolist())
                    next_id = max(next_id, int(chosen.max(initial=-1)) + 1)
            elif what == "number" and next_id + n <= LARGEST:
                ids.adding(ids.new(None, n), n)()
                model |= set(range(next_id, next_id + n))
                next_id += n
            elif what.startswith("remove"):
                share = 0.9 if what == "remove most" else 0.2
                gone = [each for each in sorted(model) if rng.random() < share]
                removal = ids.plan_removal(ids.known_rows(np.array([*gone, LARGEST - 1000])))
                assert len(removal.rows) == len(gone)
                ids.removing(removal)()
                model -= set(gone)
            elif what == "copy":
                ids = copy.copy(ids)
            agrees(ids, model, pool)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_tables_stay_spread_out(pattern: str) -> None:
    """Also after many removals: a look-up goes on to the next empty entry."""
    ids, values, rng = Ids(), np.random.default_rng(1).permutation(PATTERNS[pattern](1 << 16)), np.random.default_rng(0)
    ids.adding(ids.new(values, len(values)), len(values))()
    if ids._values is None:
        return
    for _ in range(20):
        gone = rng.permutation(values)[: len(values) // 4]
        ids.removing(ids.plan_removal(ids.known_rows(gone)))()
        ids.adding(ids.new(gone, len(gone)), len(gone))()
    agrees(ids, set(values.tolist()), values + 1 if values.max() < LARGEST else values - 1)
    entries = ids._table._entries
    assert entries is not None
    words = entries[0].view(np.uint32)
    assert np.count_nonzero(words) == len(values) <= len(words) // 2
    empty = np.flatnonzero(words == 0)
    assert np.diff(empty).max() < 100


WIDE = np.random.default_rng(0).normal(size=(500, 32)).astype(np.float32)
KINDS: dict[str, Callable[[], Any]] = {
    "flat": lambda: fpq.FlatIndex("ip"),
    "pq": lambda: fpq.PQIndex(4, nbits=5).fit(WIDE),
    "pq kept": lambda: fpq.PQIndex(4, nbits=5, keep_vectors=True, metric="cosine").fit(WIDE),
    "ivfpq": lambda: fpq.IVFPQIndex(7, 4, nbits=5).fit(WIDE),
    "ivfpq kept": lambda: fpq.IVFPQIndex(7, 4, nbits=5, keep_vectors=True, residual=False).fit(WIDE),
    "e2lsh": lambda: fpq.E2LSHIndex(n_tables=2, n_hashes=2).fit(WIDE),
    "c2lsh": lambda: fpq.C2LSHIndex(n_hashes=20).fit(WIDE),
    "pmlsh": lambda: fpq.PMLSHIndex(n_hashes=8).fit(WIDE),
}
CHOICES: dict[str, Callable[[], Any]] = {
    "rows": lambda: None,
    "even": lambda: np.random.default_rng(1).permutation(500) * 2,
    "random": lambda: np.random.default_rng(1).integers(0, LARGEST, 500),
    "largest": lambda: LARGEST - in_a_row(500) * (1 << 40),
}


def whole(kind: str) -> dict[str, Any]:
    """Options with which a search looks at all rows."""
    return {
        "ivfpq": {"n_probe": 7},
        "e2lsh": {"n_probe": 1 << 16},
        "c2lsh": {"n_candidates": 500},
        "pmlsh": {"n_candidates": 500},
    }.get(kind.split()[0], {})


def ranking(index: Any, kind: str, query: Any) -> Any:
    """All rows from the nearest on."""
    return index.search(query, len(index), **whole(kind))


def filters(index: Any, rng: np.random.Generator) -> list[tuple[Any, set[int]]]:
    """Filters, and the ids that they leave."""
    ids = index.ids
    found: list[tuple[Any, set[int]]] = []
    for n in (0, 1, 5, len(ids) // 2, len(ids)):
        some = rng.permutation(ids)[:n]
        found.append((some, set(some.tolist())))
        if ids.max() < 10_000:
            mask = np.zeros(int(ids.max()) + 1 + n, dtype=np.bool_)
            mask[some] = True
            found.append((mask, set(some.tolist())))
            found.append((np.repeat(mask, 2)[::2], set(some.tolist())))
    found.append((np.concatenate([ids[:9], ids[:9], [LARGEST - 5]]), set(ids[:9].tolist())))
    return found


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("kind", KINDS)
def test_allowed_ids_are_those_of_the_whole_ranking(kind: str, choice: str) -> None:
    index, rng, given_ids = KINDS[kind](), np.random.default_rng(0), CHOICES[choice]()
    index.add(WIDE, ids=given_ids)
    for change in ("none", "removed", "added again"):
        ids = np.sort(index.ids)
        if change == "removed":
            gone = ids[::7]
            assert index.remove(gone) == len(gone)
        elif change == "added again":
            index.add(WIDE[: len(gone)], ids=rng.permutation(gone))
        distances, order = ranking(index, kind, WIDE[3])
        for allowed, left in filters(index, rng):
            kept = np.isin(order, sorted(left))
            result = index.search(WIDE[3], 20, allowed=allowed, **whole(kind))
            n = min(20, len(left))
            np.testing.assert_array_equal(result.ids[:n], order[kept][:n])
            np.testing.assert_array_equal(result.distances[:n], distances[kept][:n])
            assert (result.ids[n:] == -1).all()
            if kind.startswith("ivf"):
                near = index.range_search(WIDE[3], distances[len(order) // 3], allowed=allowed, n_probe=7)
                assert set(near.ids.tolist()) == set(order[distances <= distances[len(order) // 3]].tolist()) & left


@pytest.mark.parametrize("kind", KINDS)
def test_rows_one_by_one(kind: str) -> None:
    """The same answers as from one `add`, whatever is called between, and the same files but for the inverted lists."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(200) * 3
    whole_index, index = KINDS[kind]().add(WIDE[:200], ids=ids), KINDS[kind]()
    for i in range(200):
        index.add(WIDE[i : i + 1], ids=ids[i : i + 1])
        if i % 60 == 50:
            index.search(WIDE[:2], 3, allowed=ids[: i + 1])
            with pytest.raises(ValueError, match=f"^ids: expected ids that are not in the index, got {ids[3]}"):
                index.add(WIDE[:1], ids=ids[3:4])
    for ours, expected in zip(ranking(index, kind, WIDE[:9]), ranking(whole_index, kind, WIDE[:9]), strict=True):
        np.testing.assert_array_equal(ours, expected)
    if not kind.startswith("ivf"):
        assert b"".join(index._pieces()) == b"".join(whole_index._pieces())
    for i in rng.permutation(200):
        assert index.remove(ids[i]) == 1 and index.remove(ids[i]) == 0
        index.add(WIDE[i : i + 1], ids=ids[i : i + 1])
    for ours, expected in zip(ranking(index, kind, WIDE[:9]), ranking(whole_index, kind, WIDE[:9]), strict=True):
        np.testing.assert_array_equal(ours, expected)
    for i in rng.permutation(200):
        assert index.remove(ids[i]) == 1
    assert len(index) == 0 and index.search(WIDE[:2], 3, allowed=ids).ids.max() == -1


@pytest.mark.parametrize("kind", KINDS)
def test_tables_of_ids_are_not_part_of_copies(kind: str, tmp_path: Path) -> None:
    index = KINDS[kind]().add(WIDE, ids=CHOICES["even"]())
    allowed = index.ids[::3]
    expected = index.search(WIDE[:9], 5, allowed=allowed)
    index.save(tmp_path / "a")
    for other in (
        pickle.loads(pickle.dumps(index)), copy.copy(index), copy.deepcopy(index), fpq.load(tmp_path / "a"),
        fpq.load(tmp_path / "a", mmap=True),
    ):  # fmt: skip
        found: list[Any] = []

        def search(other: Any = other, found: list[Any] = found) -> None:
            found.append(other.search(WIDE[:9], 5, allowed=allowed))

        threads = [threading.Thread(target=search) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for each in found:
            np.testing.assert_array_equal(each.ids, expected.ids)
        assert len(found) == 4
    other = copy.copy(index)
    index.remove(allowed)
    np.testing.assert_array_equal(other.search(WIDE[:9], 5, allowed=allowed).ids, expected.ids)
    assert (index.search(WIDE[:9], 5, allowed=allowed).ids == -1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_add_of_blocks_takes_its_ids_back(kind: str) -> None:
    if kind in ("e2lsh", "c2lsh", "pmlsh"):  # which add no blocks
        return
    for ids in (None, np.arange(300) * 2):
        index = KINDS[kind]().add(WIDE[:100], ids=None if ids is None else ids[:100])
        index.search(WIDE[0], 3, allowed=index.ids)
        before = b"".join(index._pieces())
        given_ids = np.concatenate([np.arange(1000, 1100), [1000], np.arange(1200, 1299)])
        with pytest.raises(ValueError, match="expected ids that are not in the index"):
            index.add(iter([WIDE[:100], WIDE[100:200]]), ids=given_ids)
        assert b"".join(index._pieces()) == before
        assert index.search(WIDE[0], 3, allowed=[1000, 1001]).ids.max() == -1
        index.add(WIDE[:3]).add(WIDE[3:5], ids=[1000, 1001])
        assert sorted(index.search(WIDE[0], 3, allowed=[1000, 1001], **whole(kind)).ids.tolist()) == [-1, 1000, 1001]


def test_negative_and_huge_ids_of_a_mapped_file(tmp_path: Path) -> None:
    for kind in ("flat", "pq kept", "ivfpq", "ivfpq kept", "c2lsh", "pmlsh"):
        KINDS[kind]().add(WIDE, ids=CHOICES["even"]()).save(tmp_path / "a")
        for value in (7, -1, -(1 << 62), LARGEST):
            index = fpq.load(tmp_path / "a", mmap=True)
            damaged = np.full(500, value)
            index._ids._values = GrowingArray.of(damaged)
            if kind.startswith("ivf"):
                index._lists.slot_ids = GrowingArray.of(np.full(index._lists.slot_ids.data.shape, value))
            assert index.search(WIDE[:3], 2, allowed=np.arange(100)).ids.max() in (-1, 7)
            if index._ids.largest < 1000:
                for share in (1, 50):
                    index.search(WIDE[:3], 2, allowed=np.arange(1000) % share == 0)


def lists_of_ids(ids: Any, **options: Any) -> fpq.IVFPQIndex:
    index = fpq.IVFPQIndex(4, 4, nbits=4, seed=0, **options).fit(WIDE).add(WIDE[: len(ids)], ids)
    index.n_probe = 4
    return index


@pytest.mark.parametrize("options", [{}, {"refine": "sq4"}, {"keep_vectors": True}])
@pytest.mark.parametrize("mmap", [False, True])
def test_lists_hold_ids_in_four_bytes_where_they_fit(options: dict[str, Any], mmap: bool, tmp_path: Path) -> None:
    largest = np.iinfo(np.int32).max
    low = np.arange(largest - 99, largest + 1)
    narrow, wide = lists_of_ids(low, **options), lists_of_ids(low + 1, **options)
    assert (narrow._lists.slot_ids.data.dtype, wide._lists.slot_ids.data.dtype) == (np.int32, np.int64)
    for index, ids in ((narrow, low), (wide, low + 1)):
        index.save(tmp_path / "a")
        loaded = fpq.load(tmp_path / "a", mmap=mmap)
        assert loaded._lists.slot_ids.data.dtype == index._lists.slot_ids.data.dtype
        for each in (index, loaded):
            found = each.search(WIDE[:5], 3, allowed=ids[::2])
            assert found.ids.dtype == np.int64 and set(found.ids.ravel().tolist()) <= set(ids[::2].tolist())
            np.testing.assert_array_equal(
                each.search(WIDE[:5], 3).ids - ids[0], narrow.search(WIDE[:5], 3).ids - low[0]
            )
            np.testing.assert_array_equal(each.lists_of(ids), narrow.lists_of(low))


def test_lists_widen_their_ids_for_the_first_large_one() -> None:
    large = 1 << 31
    index, same = lists_of_ids(np.arange(100)), lists_of_ids(np.arange(100))
    index.lists_of(np.arange(100))  # builds the table of ids
    held = index._lists.slot_ids.data.copy()
    with pytest.raises(ValueError, match="NaN"):
        index.add(np.full((1, WIDE.shape[1]), np.nan), [large])
    assert index._lists.slot_ids.data.dtype == np.int32
    index.add(WIDE[100:200], ids=np.arange(large, large + 100))
    same.add(WIDE[100:200])
    assert index._lists.slot_ids.data.dtype == np.int64
    np.testing.assert_array_equal(index._lists.slot_ids.data[: len(held)].ravel()[held.ravel() > 0], held[held > 0])
    expected = same.search(WIDE[:9], 7).ids
    np.testing.assert_array_equal(
        index.search(WIDE[:9], 7).ids, np.where(expected < 100, expected, expected - 100 + large)
    )
    assert index.remove(np.arange(large + 1, large + 100)) == 99
    assert sorted(index.ids.tolist()) == [*range(100), large]
    np.testing.assert_array_equal(index.reconstruct([5, large]), same.reconstruct([5, 100]))
    index.update(WIDE[:1], [large])
    np.testing.assert_array_equal(index.reconstruct([large]), same.reconstruct([0]))


@pytest.mark.parametrize(
    "make",
    [
        fpq.FlatIndex,
        lambda: fpq.PQIndex(4, nbits=4),
        lambda: fpq.IVFPQIndex(4, 4, nbits=4, keep_vectors=True),
        fpq.E2LSHIndex,
        fpq.C2LSHIndex,
        fpq.PMLSHIndex,
    ],
)
def test_the_largest_id_in_a_file(make: Any, tmp_path: Path) -> None:
    """An index that holds or has held it can be saved, loaded and changed; only numbering on has come to its end."""
    rows = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    index = make().fit(rows)
    index.add(rows[:3], ids=[5, 6, LARGEST])
    for held in (True, False):
        index.save(tmp_path / "a")
        for other in (fpq.load(tmp_path / "a"), fpq.load(tmp_path / "a", mmap=True), copy.deepcopy(index)):
            assert (LARGEST in other.search(rows[2], 3).ids) == (LARGEST in other.ids) == held
            other.search(rows[2], 1, allowed=[5, LARGEST])
        with pytest.raises(ValueError, match=r"^ids: expected ids, got None"):
            index.add(rows[:1])
        index.add(rows[:0])
        index.add(rows[4:5], ids=[7 + held])
        assert index.remove([LARGEST]) == held
