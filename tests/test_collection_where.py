"""Conditions of users: what they find, and that they read nothing but the rows."""

from __future__ import annotations

import signal
import sqlite3
import threading
import uuid
from typing import Any

import numpy as np
import pytest

from fpq import Collection
from fpq.collection import filters, guard

X = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Collection.create(tmp_path_factory.mktemp("c"), metric="l2", background=False) as made:
        years = list(range(200))
        tags = [{"n": i % 3, "list": [i % 5, "x;y"]} for i in years]
        made.upsert(range(200), X, {"year": years, "name": [f"it's {i}" for i in years], "tags": tags})
        yield made


def found(collection: Collection, where: str, params: Any = None) -> list[Any]:
    return sorted(hit.key for hit in collection.search(X[0], k=200, where=where, params=params))


@pytest.mark.parametrize(
    ("where", "params", "expected"),
    [
        ("year < 5", None, [0, 1, 2, 3, 4]),
        ("year BETWEEN ? AND ?", [3, 5], [3, 4, 5]),
        ("year = :year OR key = :key", {"year": 3, "key": 7}, [3, 7]),
        ("name = 'it''s 9'", None, [9]),
        ("name = ?", ["it's 9'); DROP TABLE rows; --"], []),
        ("name LIKE '%s 19_' -- all of them", None, list(range(190, 200))),
        ("year /* a ) comment ( ; */ < 2", None, [0, 1]),
        ('"year" IN (1, 2) AND [year] <> 1 AND `year` = 2', None, [2]),
        ("tags ->> '$.n' = 1 AND year < 6", None, [1, 4]),
        ("json_extract(tags, '$.list[0]') = 4 AND year < 12", None, [4, 9]),
        ("EXISTS (SELECT 1 FROM json_each(tags, '$.list') WHERE value = ?) AND year < 9", [3], [3, 8]),
        (
            "EXISTS (SELECT 1 FROM json_each(rows.tags, '$.list') AS j WHERE j.value = rows.year) AND rows.key < 9",
            None,
            [0, 1, 2, 3, 4],
        ),
        ("length(name) = 6 AND upper(name) GLOB 'IT*' AND abs(-year) < 2", None, [0, 1]),
        ("year IS NULL", None, []),
        ("1", None, list(range(200))),
    ],
)
def test_conditions(collection: Collection, where: str, params: Any, expected: list[int]) -> None:
    assert found(collection, where, params) == expected
    assert found(collection, where, params) == expected  # from the cache


def is_refused_by_sqlite(condition: str) -> bool:
    """Newer versions take any number of parentheses."""
    try:
        sqlite3.connect(":memory:").execute(f"SELECT {condition}")
    except sqlite3.OperationalError:
        return True
    return False


HOSTILE = [
    "1; DROP TABLE rows",
    "1) OR (1",
    "(1",
    "1)",
    "'",
    '"year',
    "`year",
    "[year",
    "/* open",
    "1 -- )\n) OR (1",
    ";",
    "\0",
    "EXISTS (SELECT 1 FROM sqlite_master)",
    "EXISTS (SELECT 1 FROM sqlite_schema)",
    "(SELECT count(*) FROM vectors) > 0",
    "(SELECT vector FROM vectors LIMIT 1) IS NOT NULL",
    "EXISTS (SELECT 1 FROM settings)",
    "EXISTS (SELECT 1 FROM removed)",
    "EXISTS (SELECT 1 FROM pragma_table_info('rows'))",
    "EXISTS (SELECT 1 FROM pragma_database_list)",
    "load_extension('evil')",
    "readfile('/etc/passwd')",
    "randomblob(1000000000)",
    "zeroblob(1000000000)",
    "writefile('x', 'y')",
    "printf('%1000000000d', 1)",
    "fts3_tokenizer('x')",
    "random() > 0",
    "last_insert_rowid()",
    "sqlite_version() > ''",
    "EXISTS (SELECT 1 FROM dbstat)",
    "DROP TABLE rows",
    "PRAGMA writable_schema = 1",
    "ATTACH 'x' AS y",
    "year = 1 LIMIT 1",
    "year ORDER BY year",
    "SELECT 1",
    "1 UNION SELECT 1",
    "year = (WITH RECURSIVE a(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM a) SELECT max(x) FROM a)",
    '"no such column" = "no such column"',
    "nothing = 1",
    "",
    "   ",
    "name MATCH 'x'",
    "name REGEXP 'x'",
    "?1 = 2",
    "year = (SELECT max(year) FROM rows)",
    "year = (SELECT 1 FROM main.rows)",
    "year = (SELECT 1 FROM 'rows')",
    'year = (SELECT 1 FROM "rows")',
    "year = (SELECT 1 FROM json_each(tags), rows AS r)",
    "year = (SELECT 1 FROM [ROWS] r)",
    "year = (SELECT 1 FROM (SELECT 1))",
    "year = (WITH a AS (SELECT 1) SELECT 1 FROM a)",
    "(VALUES (1)) = 1",
    "1 IN rows",
    "1 IN ('a', 'rows') OR key IN main.rows",
    "(SELECT 1 FROM rows/**/ r)",
    "(SELECT year FROM(rows))",
    "group_concat(name) > ''",
    "count(*) > 1",
    "NOT (" * 2000 + "1" + ")" * 2000,
    *filter(is_refused_by_sqlite, ["(" * 2000 + "1" + ")" * 2000]),
    "+".join("1" * 40_000),
    "x" * 200_000,
]


@pytest.mark.parametrize("where", HOSTILE, ids=lambda where: where[:30])
def test_hostile_conditions_are_refused(collection: Collection, where: str) -> None:
    with pytest.raises(ValueError, match=r"^(where|params): expected"):
        collection.search(X[0], where=where)
    with pytest.raises(ValueError, match=r"^(where|params): expected"):
        collection.delete(where=where)
    assert len(collection) == 200


def test_long_conditions_are_interrupted(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SECONDS", 0.05)
    each = ", ".join(f"json_tree(tags) AS t{i}" for i in range(12))
    where = f"(SELECT count(*) FROM {each}) > 0"
    with pytest.raises(ValueError, match=r"where: .* takes longer"):
        collection.search(X[0], where=where)
    monkeypatch.undo()
    assert found(collection, "year = 4") == [4]


@pytest.mark.parametrize(
    ("where", "params", "error", "message"),
    [
        (3, None, TypeError, "where: expected a condition in SQL, got 3"),
        ("year = ?", None, ValueError, "params: expected the values"),
        ("year = ?", [1, 2], ValueError, "params: expected the values"),
        ("year = :a", {"b": 1}, ValueError, "params: expected the values"),
        ("year = ?", "1", TypeError, "params: expected a list of values or a dict"),
        ("year = ?", [{1}], TypeError, "params"),
        (None, [1], ValueError, "params: expected None without where"),
        ("year = ?", [1 << 70], ValueError, "64 bits"),
    ],
)
def test_mistakes(collection: Collection, where: Any, params: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        collection.search(X[0], where=where, params=params)


@pytest.mark.parametrize("few", [False, True])
def test_known_matches_follow_changes(few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer of a repeated condition is that of a new one after each kind of change."""
    if not few:
        monkeypatch.setattr(filters, "FEW_BYTES", 0)
    conditions = ["n > 50", "n % 2 = 0 AND date('now') > '2000-01-01'", "n > ?"]
    with Collection.create(":memory:", metric="l2", background=False) as collection:
        collection.upsert(range(100), X[:100], {"n": list(range(100))})
        content = dict(enumerate(range(100)))

        def check() -> None:
            for where in conditions:
                expected = {
                    "n > 50": [key for key, n in content.items() if n > 50],
                    "n > ?": [key for key, n in content.items() if n > 90],
                    conditions[1]: [key for key, n in content.items() if n % 2 == 0],
                }[where]
                params = [90] if "?" in where else None
                for _ in range(2):
                    assert found(collection, where, params) == sorted(expected)

        check()
        collection.upsert([200, 5], X[:2], {"n": [300, 77]})
        content |= {200: 300, 5: 77}
        check()
        collection.delete([60, 99])
        content.pop(60), content.pop(99)
        check()
        collection.optimize()
        check()
        collection.update_metadata([61, 3], {"n": [1, 95]})
        content |= {61: 1, 3: 95}
        check()
        collection.delete(where="n > 94")
        content = {key: n for key, n in content.items() if n <= 94}
        collection.upsert(99, X[1], {"n": 51})
        content[99] = 51
        check()


def test_names_in_quotes_are_columns_of_any_case(collection: Collection) -> None:
    assert found(collection, '"YEAR" = 3 AND "key" = 3') == [3]


def test_rows_and_keys_by_condition() -> None:
    with Collection.create(":memory:") as made:
        assert made.keys() == made.keys("key = 1") == made.get(where="key = 1") == []
        made.upsert(["b", "a", "c"], X[:3], {"year": [3, 1, 2]})
        made.upsert("b", X[3], {"year": 4, "new": True})
        assert made.keys() == list(made) == ["a", "c", "b"]
        assert made.keys("year > ?", [1]) == ["c", "b"]
        rows = made.get(where="year > :year OR key = 'a'", params={"year": 2})
        assert [(row.key, row.metadata) for row in rows] == [("a", {"year": 1}), ("b", {"year": 4, "new": True})]
        assert np.array_equal([row.vector for row in rows], X[[1, 3]])
        assert made.get(where="year IS NULL") == made.keys("year IS NULL") == []
        for arguments in ({}, {"keys": ["a"], "where": "year = 1"}):
            with pytest.raises(ValueError, match="keys: expected either keys or where"):
                made.get(**arguments)  # type: ignore[call-overload]
        with pytest.raises(ValueError, match="params: expected None without where"):
            made.keys(params=[1])
        with pytest.raises(ValueError, match="where: expected a condition over the columns"):
            made.keys("nothing = 1")
    with Collection.create(":memory:") as made:
        identities = [uuid.UUID(int=i) for i in range(2)]
        made.upsert(identities, X[:2])
        assert made.keys() == [row.key for row in made.get(where="key IS NOT NULL")] == identities


def test_interrupts() -> None:
    numbers = list(range(2000))
    long = "(SELECT count(*) FROM json_each(:x), json_each(:x), json_each(:x)) > n"
    with Collection.create(":memory:") as collection:
        collection.upsert([1, 2], [[1, 0], [0, 1]], {"n": [1, 2]})
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background programs may ignore the signal
        timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
        timer.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                collection.search([1, 0], where=long, params={"x": numbers})
        finally:
            timer.join()
            signal.signal(signal.SIGINT, before)
        assert len(collection.search([1, 0], where="n > 1")) == 1
