"""Ids of rows: numbered on from the largest ever used, 64 bits everywhere."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq

LAST = int(np.iinfo(np.int64).max)
X = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)


def indexes() -> list[fpq.PQIndex | fpq.FlatIndex]:
    return [fpq.FlatIndex(), fpq.PQIndex(4, 4, keep_vectors=True).fit(X)]


def test_the_largest_id() -> None:
    last = np.iinfo(np.int64).max
    for index in indexes():
        index.add(X[:1], [last])
        assert index.search(X[0], 1).ids.tolist() == [last]
        with pytest.raises(ValueError, match=f"^ids: none left after {last}"):
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
            patch.setattr(np, "concatenate", fail)
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


@pytest.mark.parametrize(
    "make",
    [
        fpq.FlatIndex,
        lambda: fpq.PQIndex(4, 4),
        lambda: fpq.IVFPQIndex(4, 4, 4, keep_vectors=True),
        fpq.E2LSHIndex,
        fpq.C2LSHIndex,
    ],
)
def test_the_largest_id_in_a_file(make: Any, tmp_path: Path) -> None:
    """An index that holds or has held it can be saved, loaded and changed; only numbering on has come to its end."""
    rows = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    index = make().fit(rows)
    index.add(rows[:3], ids=[5, 6, LAST])
    for held in (True, False):
        index.save(tmp_path / "a")
        for other in (fpq.load(tmp_path / "a"), fpq.load(tmp_path / "a", mmap=True), copy.deepcopy(index)):
            assert (LAST in other.search(rows[2], 3).ids) == (LAST in other.ids) == held
            other.search(rows[2], 1, allowed=[5, LAST])
        with pytest.raises(ValueError, match=r"^ids: none left"):
            index.add(rows[:1])
        index.add(rows[:0])
        index.add(rows[4:5], ids=[7 + held])
        assert index.remove([LAST]) == held
