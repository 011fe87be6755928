"""The commands of a collection, and the files of rows that they read and write."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
from fpq import cli
from fpq.cli import tables

X = np.random.default_rng(0).integers(-9, 9, (7, 3)).astype(np.float32)
NAMES = ["jsonl", "csv", "parquet"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 0) -> tuple[str, str]:
    assert cli.main(["collection", *map(str, argv)]) == code
    return capsys.readouterr()


def refused(capsys: pytest.CaptureFixture[str], message: str, *argv: object, code: int = 1) -> None:
    out, err = run(capsys, *argv, code=code)
    assert out == "" and err.startswith("fpq: ") and err.count("\n") == 1, err
    assert message in err


def json_lines(name: str, rows: list[Any]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return name


def some_rows() -> list[dict[str, Any]]:
    return [{"key": f"k{i}", "vector": X[i].tolist(), "year": 2000 + i, "lang": "dé"} for i in range(7)]


@pytest.fixture
def made(folder: Path) -> str:
    """A collection of seven rows."""
    with fpq.Collection.create("c", background=False) as collection:
        collection.upsert([f"k{i}" for i in range(7)], X, [{"year": 2000 + i, "lang": "dé"} for i in range(7)])
    return "c"


def content(name: str) -> dict[Any, Any]:
    with fpq.Collection.open(name, read_only=True) as collection:
        return {row.key: (row.vector.tolist(), row.metadata) for row in collection.get(list(collection))}


@pytest.mark.parametrize("ending", NAMES)
def test_a_collection_comes_back_from_every_format(made: str, capsys: Any, ending: str) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    out, _ = run(capsys, "export", made, f"x.{ending}", "--json", "--quiet")
    assert json.loads(out)["rows"] == 7
    out, _ = run(capsys, "create", "d", f"x.{ending}", "--json", "--quiet")
    assert json.loads(out) == {"collection": "d", "upserted": 7, "rows": 7, "dim": 3}
    assert content("d") == content(made)


@pytest.mark.parametrize("ending", NAMES)
def test_batches(made: str, capsys: Any, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(tables, "BATCH", 2)
    run(capsys, "export", made, f"x.{ending}", "--quiet")
    run(capsys, "create", "d", f"x.{ending}", "--quiet")
    assert content("d") == content(made)
    np.save("x.npy", -X)
    run(capsys, "upsert", "d", f"x.{ending}", "--vectors", "x.npy", "--quiet")
    assert [row[0] for row in content("d").values()] == (-X).tolist()


def test_values_of_csv_are_typed_per_column(capsys: Any) -> None:
    text = '\ufeffid,vector,a,b,c,d,e\n1,"[1, 0]",1,1,007,x,\n\n2,"[0, 1]",-2,2.5e1,12,,99999999999999999999\n'
    Path("x.csv").write_text(text, "utf-8")
    run(capsys, "create", "c", "x.csv", "--key", "id", "--quiet")
    found = content("c")
    assert found[1][1] == {"a": 1, "b": 1.0, "c": "007", "d": "x"}
    assert found[2][1] == {"a": -2, "b": 25.0, "c": "12", "e": "99999999999999999999"}
    assert [type(found[1][1][name]) for name in "ab"] == [int, float]


def test_keys_take_the_type_of_the_collection(capsys: Any) -> None:
    Path("x.csv").write_text('key,vector\n1,"[1, 0]"\n02,"[0, 1]"\n')
    key = uuid.uuid4()
    for name, keys in (("text", ["1"]), ("ints", [1]), ("ids", [key])):
        with fpq.Collection.create(name, background=False) as collection:
            collection.upsert(keys, [[3.0, 4.0]])
    run(capsys, "upsert", "text", "x.csv", "--quiet")
    assert list(content("text")) == ["1", "02"]
    run(capsys, "upsert", "ints", "x.csv", "--quiet")
    assert list(content("ints")) == [1, 2]
    refused(capsys, "x.csv, rows 1 to 2: keys: expected keys of type UUID", "upsert", "ids", "x.csv", "--quiet")
    run(capsys, "delete", "ids", key)
    run(capsys, "delete", "ints", "1")
    assert content("ids") == {} and list(content("ints")) == [2]


def test_declared_types_and_dates(capsys: Any) -> None:
    row = {"key": 1, "vector": [1, 0], "day": "2024-02-03", "ok": True, "code": "7", "tags": {"a": [1]}}
    types = [each for kind in ("day=date", "ok=bool", "code=str", "tags=dict") for each in ("--column", kind)]
    run(capsys, "create", "c", json_lines("x.jsonl", [row]), *types, "--indexed", "day", "--quiet")
    expected = {"day": datetime.date(2024, 2, 3), "ok": True, "code": "7", "tags": {"a": [1]}}
    assert content("c")[1][1] == expected
    run(capsys, "export", "c", "x.csv", "--quiet")
    run(capsys, "upsert", "c", "x.csv", "--quiet")
    assert content("c")[1][1] == expected
    Path("x.csv").write_text('key,vector,day\n1,"[1, 0]",soon\n')
    refused(capsys, "x.csv, rows 1 to 1: metadata: expected 'day' in its declared type", "upsert", "c", "x.csv")


def test_parquet_of_mixed_values(capsys: Any) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    with fpq.Collection.create("c", background=False, dtype="uint8") as collection:
        collection.upsert([1, 2], [[1, 2], [3, 4]], [{"a": 1, "b": b"x", "c": [1]}, {"a": "y", "d": 2.5}])
    run(capsys, "export", "c", "x.parquet", "--quiet")
    assert parquet.read_table("x.parquet").to_pylist() == [
        {"key": 1, "vector": [1, 2], "a": "1", "b": b"x", "c": "[1]", "d": None},
        {"key": 2, "vector": [3, 4], "a": "y", "b": None, "c": None, "d": 2.5},
    ]
    for name in ("x.csv", "x.jsonl"):
        refused(capsys, "b: expected values that text can express, got bytes", "export", "c", name, "--quiet")
        assert not Path(name).exists()


def test_a_later_row_replaces_an_earlier_one(capsys: Any) -> None:
    rows = [{"key": key, "vector": [i, 1], "i": i} for i, key in enumerate(["a", "b", "a"])]
    run(capsys, "create", "c", json_lines("x.jsonl", rows), "--quiet")
    assert content("c") == {"b": ([1, 1], {"i": 1}), "a": ([2, 1], {"i": 2})}


def test_search(made: str, capsys: Any) -> None:
    Path("q.json").write_text(json.dumps(X[3].tolist()))
    np.save("q.npy", X[:2])
    np.save("one.npy", X[3])
    out, _ = run(capsys, "search", made, "--query", "q.json", "-k", 2)
    assert out.splitlines()[0].split("\t")[:3] == ["0", "0", "k3"] and len(out.splitlines()) == 2
    assert run(capsys, "search", made, "--query", "one.npy", "-k", 2)[0] == out
    where = ["--where", "year >= ? AND lang = ?", "--param", "2005", "--param", "dé"]
    found = json.loads(run(capsys, "search", made, "--query", "q.npy", "--json", *where)[0])
    assert found["queries"] == 2 and found["k"] == 10
    assert {hit["key"] for hit in found["hits"][1]} == {"k5", "k6"}
    named = ["--where", "year = :y AND lang <> :l", "--param", "y=2001", "--param", "l=a=b"]
    found = json.loads(run(capsys, "search", made, "--query", "q.json", "--json", *named)[0])
    assert [hit["key"] for hit in found["hits"][0]] == ["k1"]


def test_bad_searches(made: str, capsys: Any) -> None:
    Path("q.json").write_text(json.dumps(X[3].tolist()))
    Path("flat.json").write_text("[1, 2]")
    Path("text.json").write_text('{"a": 1}')
    Path("bad.json").write_text("[1,")
    search = ["search", made, "--query", "q.json"]
    refused(capsys, "--where: expected a condition over the columns key, year, lang", *search, "--where", "no = 1")
    refused(capsys, "params: expected", *search, "--where", "year = ?")
    refused(capsys, "--param: expected --where", *search, "--param", "1", code=2)
    mixed = ["--where", "year = :y", "--param", "y=1", "--param", "2"]
    refused(capsys, "--param: expected NAME=VALUE for all", *search, *mixed, code=2)
    refused(capsys, "flat.json: expected", "search", made, "--query", "flat.json")
    refused(capsys, "text.json: expected a JSON list", "search", made, "--query", "text.json")
    refused(capsys, "bad.json: expected a JSON list", "search", made, "--query", "bad.json")
    refused(capsys, "none.npy", "search", made, "--query", "none.npy")
    refused(capsys, "none: expected a collection", "search", "none", "--query", "q.json")


def test_delete(made: str, capsys: Any) -> None:
    out, _ = run(capsys, "delete", made, "k0", "none", "--json")
    assert json.loads(out) == {"collection": made, "deleted": 1, "rows": 6}
    Path("old.csv").write_text("id\nk1\nk2\n")
    assert json.loads(run(capsys, "delete", made, "--keys", "old.csv", "--key", "id", "--json")[0])["deleted"] == 2
    assert json.loads(run(capsys, "delete", made, "--where", "year > 2004", "--json")[0])["deleted"] == 2
    assert list(content(made)) == ["k3", "k4"]
    refused(capsys, "expected a column 'key', got id", "delete", made, "--keys", "old.csv")
    refused(capsys, "expected one of KEY", "delete", made, code=2)
    refused(capsys, "expected one of KEY", "delete", made, "k3", "--where", "1", code=2)


def test_stats(made: str, capsys: Any) -> None:
    found = json.loads(run(capsys, "stats", made, "--json", "--recall-sample", 5)[0])
    assert found["rows"] == 7 and found["columns"] == ["year", "lang"] and found["recall"] == 1.0
    assert "rows" in run(capsys, "stats", made)[0]


def test_create_options(capsys: Any) -> None:
    run(capsys, "create", "c", "--dim", 3, "--metric", "l2", "--dtype", "float16")
    assert json.loads(run(capsys, "stats", "c", "--json")[0])["metric"] == "l2"
    refused(capsys, "expected no collection, got one", "create", "c")
    refused(capsys, "--indexed: expected names in columns", "create", "d", "--indexed", "year")
    refused(capsys, "expected ROWS", "create", "d", "--vectors", "x.npy", code=2)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["collection", "create", "d", "--column", "year=number"])
    assert not Path("d").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", b"", "expected a header"),
        ("x.csv", b"a,a\n", "expected different names of columns, got 'a' twice"),
        ("x.csv", b"key\n1\n", "expected a column 'vector', got key; --vector"),
        ("x.csv", b"vector\n[1]\n", "expected a column 'key', got vector; --key"),
        ("x.csv", b"key,vector\n1\n", "x.csv, line 2: expected 2 cells, got 1"),
        ("x.csv", b'key,vector\n1,"[1\n', "x.csv, line 2: expected CSV"),
        ("x.csv", b"key,vector\n1,2\n", "vectors: expected a JSON list of numbers, got 2"),
        ("x.csv", b"key,vector\n,[2]\n", "expected a value of 'key' in every row, got 1 rows without"),
        ("x.csv", b"key,vector\n1.5,[2]\n", "keys: expected str, int or UUID, got 1.5"),
        ("x.csv", b"key,vector,id\n1,[2],3\n", "metadata: expected other names than id"),
        ("x.csv", b"key,vector\n\xff,[2]\n", "expected text in UTF-8, got the byte 0xff"),
        ("x.jsonl", b'{"key": 1, "vector": [1]}\n{', "x.jsonl, line 2: expected JSON"),
        ("x.jsonl", b"[1]\n", "x.jsonl, line 1: expected a JSON object, got [1]"),
        ("x.jsonl", b'{"key": [1], "vector": [1]}\n', "keys: expected str, int or UUID, got [1]"),
        ("x.jsonl", b'{"key": 1}\n', "x.jsonl, rows 1 to 1: expected a column 'vector', got none"),
        ("x.jsonl", b'{"key": 1, "vector": ["a"]}\n', "vectors: expected an array of real numbers"),
        ("x.jsonl", b'{"key": 1, "vector": [NaN]}\n', "x.jsonl, rows 1 to 1: vectors: expected numbers"),
        ("x.jsonl", b'{"key": 1, "vector": [1]}\n{"key": 2, "vector": []}\n', "expected lists of one length"),
        ("x.parquet", b"PAR1", "expected a Parquet file"),
        ("x.txt", b"", "expected a name that ends in .csv, .jsonl, .ndjson, .parquet"),
    ],
)
def test_bad_files(name: str, text: bytes, message: str, capsys: Any) -> None:
    if name == "x.parquet":
        pytest.importorskip("pyarrow")
    Path(name).write_bytes(text)
    refused(capsys, message, "create", "c", name, "--quiet")
    assert not Path("c").exists()


def test_a_failed_batch_says_how_much_is_stored(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH", 2)
    rows = some_rows()
    rows[5]["vector"] = [1.0]
    refused(capsys, "x.jsonl, rows 5 to 6: ", "create", "c", json_lines("x.jsonl", rows), "--quiet")
    assert list(content("c")) == ["k0", "k1", "k2", "k3"]
    refused(capsys, "; the first 4 rows are stored", "upsert", "c", "x.jsonl", "--quiet")


def test_vectors_of_a_file(made: str, capsys: Any) -> None:
    np.save("x.npy", X[:6])
    x = json_lines("x.jsonl", some_rows())
    refused(capsys, "x.npy: expected 7 vectors, one per row of x.jsonl, got 6", "upsert", made, x, "--vectors", "x.npy")
    both = ["--vectors", "x.npy", "--vector", "v"]
    refused(capsys, "--vector, --vectors: expected one of the two", "upsert", made, x, *both, code=2)


def test_export_overwrites_nothing_by_accident(made: str, capsys: Any) -> None:
    before = {path.name: path.read_bytes() for path in Path(made).iterdir()}
    os.link(Path(made) / "collection.sqlite", "link.csv")
    refused(capsys, "expected another file to write to than the input", "export", made, "link.csv", "--force")
    assert {name: (Path(made) / name).read_bytes() for name in before} == before
    Path("x.csv").write_text("mine")
    refused(capsys, "x.csv: the file exists; --force overwrites it", "export", made, "x.csv")
    assert Path("x.csv").read_text() == "mine"
    run(capsys, "export", made, "x.csv", "--force", "--quiet")
    assert Path("x.csv").read_text("utf-8").startswith("key,vector,year,lang\nk0,")
    refused(capsys, "expected an existing folder", "export", made, "none/x.csv")


def test_parquet_needs_pyarrow(made: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    refused(capsys, "pip install pyarrow", "export", made, "x.parquet")
    refused(capsys, "pip install pyarrow", "upsert", made, "x.parquet")
