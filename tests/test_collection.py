"""Collections: rows by key, metadata, and what `upsert`, `get`, `delete` and iteration promise."""

from __future__ import annotations

import datetime
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import fpq
from fpq import Collection

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 8)).astype(np.float32)
KEYS = [f"k{i}" for i in range(60)]


@pytest.fixture(params=["memory", "folder"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Collection]:
    path = ":memory:" if request.param == "memory" else tmp_path / "c"
    with Collection.create(path, metric="l2", background=False) as collection:
        yield collection


@pytest.fixture
def filled(empty: Collection) -> Collection:
    empty.upsert(KEYS, X, {"year": list(range(60)), "lang": ["en", "de", None] * 20})
    return empty


def test_upsert_get_and_replace(filled: Collection) -> None:
    assert len(filled) == 60 and "k3" in filled and "x" not in filled and 3 not in filled
    assert list(filled) == KEYS and filled.dim == 8 and filled.metric == "l2"
    row = filled.get("k4")
    assert row.key == "k4" and np.array_equal(row.vector, X[4]) and row.metadata == {"year": 4, "lang": "de"}
    filled.upsert("k4", X[0] + 1, {"year": -1})
    assert len(filled) == 60 and list(filled)[-1] == "k4"
    assert filled.get("k4").metadata == {"year": -1} and np.array_equal(filled.get("k4").vector, X[0] + 1)
    assert [row.key for row in filled.get(["k9", "k2", "k9"])] == ["k9", "k2", "k9"]
    with pytest.raises(KeyError, match="nobody"):
        filled.get(["k1", "nobody"])
    filled.upsert([], np.empty((0, 8)))
    assert filled.get([]) == [] and len(filled) == 60


def test_delete(filled: Collection) -> None:
    assert filled.delete(["k1", "k1", "nobody"]) == 1 and filled.delete("k1") == 0
    assert filled.delete(where="year >= ? AND lang = 'en'", params=[30]) == 10
    assert len(filled) == 49 == len(list(filled))
    with pytest.raises(ValueError, match="either keys or where"):
        filled.delete()
    with pytest.raises(ValueError, match="either keys or where"):
        filled.delete("k2", where="year = 2")


def test_search_finds_what_exact_search_finds(filled: Collection) -> None:
    distances, ids = fpq.FlatIndex().add(X).search(X[:5] + 0.1, k=7)
    for hits, row, near in zip(filled.search(X[:5] + 0.1, 7), ids, distances, strict=True):
        assert [hit.key for hit in hits] == [KEYS[i] for i in row]
        assert np.array_equal(np.array([hit.distance for hit in hits], np.float32), near)
    one = filled.search(X[3], k=2, vectors=True)
    assert (
        one[0].key == "k3" and one[0].metadata == {"year": 3} | {"lang": "en"} and np.array_equal(one[0].vector, X[3])
    )
    lims, distances, ids = fpq.FlatIndex().add(X).range_search(X[:2], 9.0)
    for i, hits in enumerate(filled.range_search(X[:2], 9.0)):
        assert [hit.key for hit in hits] == [KEYS[j] for j in ids[lims[i] : lims[i + 1]]]
    assert len(filled.search(X[0], k=100)) == 60


def test_empty_collection(empty: Collection) -> None:
    assert len(empty) == 0 and list(empty) == [] and "a" not in empty and empty.dim is None
    assert empty.search(np.ones(5)) == [] and empty.search(np.ones((2, 5))) == [[], []]
    assert empty.range_search(np.ones(5), 1.0) == [] and empty.delete("a") == 0
    empty.optimize()
    with pytest.raises(KeyError):
        empty.get("a")
    assert empty.stats(5).rows == 0


JSON = "CASE WHEN json_valid(value) THEN value ->> '$.a[0]' = 1 END"
VALUES: list[Any] = [
    "text", "", "naïve \U0001f600", 7, -(1 << 63), 0.5, True, False, b"\0bytes", {"a": [1, None]}, [1, "b"], [],
    datetime.datetime(2024, 5, 6, 7, 8, 9, 10), datetime.date(2024, 5, 6),
]  # fmt: skip


def test_metadata_come_back_as_they_went_in(empty: Collection) -> None:
    empty.upsert(range(len(VALUES)), X[: len(VALUES)], [{"value": value, "gone": None} for value in VALUES])
    found = [row.metadata["value"] for row in empty.get(range(len(VALUES)))]
    assert found == VALUES and list(map(type, found)) == list(map(type, VALUES))
    assert "gone" not in empty.get(0).metadata
    assert [hit.key for hit in empty.search(X[0], where="value = ?", params=[VALUES[-1]])] == [13]
    assert [hit.key for hit in empty.search(X[0], where=JSON)] == [9]


def test_forms_of_metadata(empty: Collection) -> None:
    empty.upsert([1, 2], X[:2], {"a": np.array([1, 2]), "b": ("x", None)})
    empty.upsert([3, 4], X[:2], [{"a": np.int64(3)}, None])
    empty.upsert(5, X[0], {"a": 5, "b": float("nan")})
    assert [row.metadata for row in empty.get([1, 2, 3, 4, 5])] == [
        {"a": 1, "b": "x"},
        {"a": 2},
        {"a": 3},
        {},
        {"a": 5},
    ]
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": pandas.array([1, None], "Int64"), "c": pandas.to_datetime(["2024-01-02", None])})
    empty.upsert(pandas.Series([6, 7]), X[:2], frame)
    assert empty.get(6).metadata == {"a": 1, "c": datetime.datetime(2024, 1, 2)} and empty.get(7).metadata == {}


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_tables(empty: Collection, library: str) -> None:
    module = pytest.importorskip(library)
    content = {"a": [1, 2], "b": ["x", None], "c": [[1], [2, 3]]}
    table = module.DataFrame(content) if library == "polars" else module.table(content)
    empty.upsert(table["b"].fill_null("y"), X[:2], table)
    assert [row.metadata for row in empty.get(["x", "y"])] == [{"a": 1, "b": "x", "c": [1]}, {"a": 2, "c": [2, 3]}]


def test_names_of_metadata(empty: Collection) -> None:
    names = ["order", "page number", "größe", "a-b", "rowid", "x'y", "[z]"]
    empty.upsert("a", X[0], dict.fromkeys(names, 1))
    assert empty.get("a").metadata == dict.fromkeys(names, 1) and empty.columns == names
    assert len(empty.search(X[0], where='"order" = 1 AND "page number" = 1 AND größe = 1 AND rowid = 1')) == 1
    for wrong, error in [({"Order": 1}, "'order', got 'Order'"), ({"id": 1}, "other names"), ({'a"': 1}, "printable")]:
        with pytest.raises(ValueError, match=error):
            empty.upsert("b", X[0], wrong)
    with pytest.raises(ValueError, match="at most 500 names"):
        empty.upsert("b", X[0], {f"n{i}": i for i in range(500)})
    assert empty.columns == names and len(empty) == 1
    empty.upsert("b", X[0], {"new": 1})
    assert empty.columns == [*names, "new"]


def test_keys(empty: Collection) -> None:
    ids = [uuid.UUID(int=i) for i in range(3)]
    empty.upsert(ids, X[:3])
    assert list(empty) == ids and empty.get(ids[1]).key == ids[1] and empty.search(X[2], 1)[0].key == ids[2]
    with pytest.raises(TypeError, match="keys: expected keys of type UUID, got 'a'"):
        empty.upsert("a", X[0])


def test_update_metadata(filled: Collection) -> None:
    filled.update_metadata(["k1", "k2"], [{"year": [1]}, {"lang": "fr", "new": True}])
    assert filled.get("k1").metadata == {"year": [1]} and filled.get("k2").metadata["new"] is True
    filled.update_metadata("k1", {"year": None, "lang": "it"})
    assert filled.get("k1").metadata == {"lang": "it"} and list(filled) == KEYS
    with pytest.raises(KeyError, match="nobody"):
        filled.update_metadata(["k3", "nobody"], {"year": [0, 0]})
    assert filled.get("k3").metadata["year"] == 3


def test_declared_columns(tmp_path: Path) -> None:
    columns = {"year": int, "score": float, "when": datetime.date, "tags": list, "ok": bool}
    with Collection.create(tmp_path, columns=columns, indexed=["year"]) as collection:
        good = {"year": 1, "score": 2, "when": datetime.date(2024, 1, 1), "tags": ["a"], "ok": True, "more": "x"}
        collection.upsert("a", X[0], good)
        assert collection.get("a").metadata == good
        plan = collection.search(X[0], where="year = 1", explain=True)[1]
        assert "by year" in plan.sql[0] and "by year" in str(plan) and plan.matches == 1
        for name, value in [("year", 1.5), ("year", True), ("score", "x"), ("when", "2024"), ("ok", 1), ("tags", {})]:
            with pytest.raises(TypeError, match=f"metadata: expected values of '{name}' of type"):
                collection.upsert("b", X[0], {name: value})
        collection.index_column("more")
        assert "by more" in collection.search(X[0], where="more = 'x'", explain=True)[1].sql[0]
        with pytest.raises(ValueError, match="name: expected one of year"):
            collection.index_column("nothing")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((["a", "a"], X[:2]), "keys: expected different keys, got 'a' more than once"),
        ((["a"], X[:2]), "vectors: expected 1 vectors, one per key, got 2"),
        ((["a"], X[:1, :5]), "vectors: expected vectors of dimension 8"),
        ((["a"], X[:1] * np.nan), "vectors: expected numbers that are finite"),
        (([1], X[:1]), "keys: expected keys of type str, got 1"),
        (([True], X[:1]), "keys: expected str, int or UUID, got True"),
        (([b"a"], X[:1]), "keys: expected str, int or UUID"),
        ((["\ud800"], X[:1]), "keys: expected text"),
        ((["a"], X[:1], [{"x": 1 << 63}]), "metadata: expected integers of 64 bits for 'x'"),
        ((["a"], X[:1], [{"x": {1}}]), "metadata: expected str, int"),
        ((["a"], X[:1], [{"x": {"y": float("nan")}}]), "metadata: expected 'x' as JSON"),
        ((["a"], X[:1], [{1: 2}]), "metadata: expected names of type str"),
        ((["a"], X[:1], {"x": [1, 2]}), "metadata: expected 1 values of 'x', one per key, got 2"),
        ((["a"], X[:1], [{}, {}]), "metadata: expected 1 dicts"),
        ((["a"], X[:1], [3]), "metadata: expected a dict or None per row"),
        ((["a"], X[:1], "text"), "metadata: expected a list of dicts"),
        ((["a"], X[:1], {"x": "y"}), "metadata: expected a list of values of 'x'"),
    ],
)
def test_failed_upserts_change_nothing(filled: Collection, arguments: Any, error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=error):
        filled.upsert(*arguments)
    assert list(filled) == KEYS and filled.columns == ["year", "lang"]


def test_types_of_vectors() -> None:
    with Collection.create(":memory:", dtype="uint8", metric="l2") as collection:
        collection.upsert([1], [[0, 255]])
        assert collection.get(1).vector.dtype == np.uint8 and collection.search([0, 250])[0].distance == 25
        for wrong in (0.5, 256, -1):
            with pytest.raises(ValueError, match="vectors: expected whole numbers of type uint8"):
                collection.upsert([1], [[0, wrong]])
    with Collection.create(":memory:", dtype=np.float16) as collection:
        collection.upsert([1], [[0.1, 2]])
        with pytest.raises(ValueError, match="vectors: expected numbers within float16"):
            collection.upsert([1], [[1e6, 0]])
    with pytest.raises(ValueError, match="dtype: expected one of"):
        Collection.create(":memory:", dtype="int64")


def test_create_and_open(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with pytest.raises(FileNotFoundError, match="expected a collection"):
        Collection.open(path)
    with Collection.create(path, 8, "ip") as collection:
        collection.upsert("a", X[0], {"x": 1})
        with pytest.raises(BlockingIOError, match="expected no other writer"):
            Collection.open(path)
        with Collection.open(path, read_only=True) as reader:
            assert list(reader) == ["a"]
            with pytest.raises(PermissionError, match="read_only"):
                reader.delete("a")
            with pytest.raises(PermissionError, match="read_only"):
                reader.optimize()
    with pytest.raises(FileExistsError, match="expected no collection"):
        Collection.create(path)
    with Collection.open(path) as collection:
        assert collection.metric == "ip" and collection.get("a").metadata == {"x": 1} and "n=1" in repr(collection)
    with pytest.raises(ValueError, match="expected an open collection"):
        collection.search(X[0])
    assert "closed" in repr(collection)
    collection.close()
    with pytest.raises(TypeError, match=r"Collection\.create"):
        Collection()
    with pytest.raises(TypeError, match="expected no pickling"):
        __import__("pickle").dumps(collection)
    with pytest.raises(ValueError, match="metric: expected one of"):
        Collection.create(tmp_path / "c", metric="hamming")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="columns: expected one of"):
        Collection.create(tmp_path / "c", columns={"a": complex})
    with pytest.raises(ValueError, match="indexed: expected names in columns"):
        Collection.create(tmp_path / "c", indexed=["a"])


def test_damaged_files(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", background=False) as collection:
        collection.upsert(KEYS, X)
        collection.optimize()
    (index,) = (tmp_path / "c").glob("index-*.fpq")
    data = index.read_bytes()
    index.write_bytes(b"nonsense" + data[8:])
    with pytest.raises(fpq.FormatError, match="index-1"):
        Collection.open(tmp_path / "c")
    index.unlink()
    with pytest.raises(FileNotFoundError, match="index-1"):
        Collection.open(tmp_path / "c")
    index.write_bytes(data)
    database = tmp_path / "c" / "collection.sqlite"
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE settings SET value = 9 WHERE name = 'format'")
    connection.close()
    with pytest.raises(fpq.FormatError, match="format 1, got format 9"):
        Collection.open(tmp_path / "c")
    for content in (b"no database at all" * 100, database.read_bytes()[:100] + b"x" * 9000):
        database.write_bytes(content)
        with pytest.raises(fpq.FormatError, match=r"collection\.sqlite"):
            Collection.open(tmp_path / "c")


@pytest.mark.parametrize(("message", "error"), [("database or disk is full", OSError), ("disk I/O error", OSError)])
def test_full_disk(filled: Collection, message: str, error: type[Exception]) -> None:
    failing = mock.Mock(side_effect=sqlite3.OperationalError(message))
    with mock.patch.object(filled._store.writer, "many", failing), pytest.raises(error, match="disk"):
        filled.upsert(["new", "k1"], X[:2])
    assert list(filled) == KEYS and filled.search(X[1], 1)[0].key == "k1"
    filled.upsert(["new"], X[:1])
    assert len(filled) == 61
