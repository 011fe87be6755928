"""A document store of Haystack over a collection."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import importlib.util
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpq import Collection, FlatIndex

pytest.importorskip("haystack", reason="Haystack is not installed")

from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import ByteStream, SparseEmbedding
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
from haystack.errors import FilterError
from haystack.testing import document_store as standard
from haystack.utils.filters import document_matches_filter

from fpq.adapters.haystack import FpqDocumentStore, FpqEmbeddingRetriever

SYNC = [
    standard.DocumentStoreBaseExtendedTests,
    standard.CountDocumentsByFilterTest,
    standard.CountUniqueMetadataByFilterTest,
    standard.GetMetadataFieldsInfoTest,
    standard.GetMetadataFieldMinMaxTest,
    standard.GetMetadataFieldUniqueValuesTest,
]


class Standard:
    """What Haystack's own tests of document stores need."""

    @pytest.fixture
    def document_store(self, tmp_path: Path) -> Iterator[FpqDocumentStore]:
        store = FpqDocumentStore(tmp_path / "documents", embedding_dim=768)
        yield store
        store.close()

    @staticmethod
    def assert_documents_are_equal(received: list[Document], expected: list[Document]) -> None:
        """Embeddings come back as float32."""
        rounded = [
            document if document.embedding is None
            else dataclasses.replace(document, embedding=np.float32(document.embedding).tolist())
            for document in expected
        ]  # fmt: skip
        assert received == rounded


class TestStandard(Standard, *SYNC):  # type: ignore[misc]
    """Haystack's own tests."""

    def test_write_documents(self, document_store: FpqDocumentStore) -> None:
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents([document])
        assert document_store.filter_documents() == [document]


if importlib.util.find_spec("pytest_asyncio"):
    from haystack.testing import document_store_async

    ASYNC = [each for name, each in vars(document_store_async).items() if name.endswith("AsyncTest")]

    class TestStandardAsync(Standard, *ASYNC):  # type: ignore[misc]
        """Haystack's own tests of asynchronous methods."""

        @pytest.mark.asyncio
        async def test_write_documents_async(self, document_store: FpqDocumentStore) -> None:
            document = Document(content="test doc")
            assert await document_store.write_documents_async([document]) == 1
            with pytest.raises(DuplicateDocumentError):
                await document_store.write_documents_async([document])


VECTORS = {"v": [1.0, 0.0, 0.0], "w": [2.0, 1.0, 0.0], "x": [0.0, 1.0, 0.0], "y": [0.0, 2.0, 1.0], "z": [0.0, 0.0, 1.0]}


def store(**settings: Any) -> FpqDocumentStore:
    made = FpqDocumentStore(**settings)
    made.write_documents([
        Document(id=key, content=f"text {key}", meta={"n": i, "name": key, "in": {"a": {"b": i}}}, embedding=vector)
        for i, (key, vector) in enumerate(VECTORS.items())
    ])  # fmt: skip
    return made


def where(field: str, operator: str, value: Any) -> dict[str, Any]:
    return {"field": field, "operator": operator, "value": value}


def logic(operator: str, *conditions: Any) -> dict[str, Any]:
    return {"operator": operator, "conditions": list(conditions)}


def found(made: FpqDocumentStore, filters: Any) -> str:
    return "".join(document.id for document in made.filter_documents(filters))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (where("id", "in", ["v", "z", "?"]), "vz"),
        (where("content", "==", "text w"), "w"),
        (where("n", ">", 2), "yz"),
        (where("meta.in.a.b", "<", 2), "vw"),
        (where("meta.in.a.c", "==", None), "vwxyz"),
        (where("meta.in", "==", {"a": {"b": 3}}), "y"),
        (where("meta.in.a", "in", [{"b": 3}, {"b": 0}]), "vy"),
        (where("in.a.b", "==", 1), ""),
        (where("meta.unknown", "!=", 1), "vwxyz"),
        (where("meta.unknown", "not in", [1, None]), ""),
        (where("meta.name", ">", 1), ""),
        (where("meta.n", "<", "2020-01-01"), ""),
        (where("meta.n", "in", []), ""),
        (where("meta.n", "==", True), "w"),
        (logic("NOT", where("meta.n", ">", 0), where("meta.n", "<", 3)), "vyz"),
        (logic("NOT", logic("OR", where("meta.n", "==", 0), where("meta.unknown", ">", 0))), "wxyz"),
        (logic("AND"), "vwxyz"),
        (logic("OR"), ""),
        (logic("AND", where("meta.n", ">=", 1), logic("OR", where("id", "==", "v"), where("id", "==", "y"))), "y"),
    ],
)
def test_filters(filters: dict[str, Any], expected: str) -> None:
    made = store()
    assert found(made, filters) == expected
    assert sorted(document.id for document in made.embedding_retrieval([1.0, 1.0, 1.0], filters)) == list(expected)


@pytest.mark.parametrize(
    "filters",
    [
        ["a list"],
        where("n", "=", 1),
        where("n", ["=="], 1),
        where(1, "==", 1),  # type: ignore[arg-type]
        where("embedding", "==", None),
        where("blob.mime_type", "==", "text/plain"),
        where("meta", "==", {}),
        where('meta.in.a"b', "==", 1),
        where("meta.in.\0", "==", 1),
        where("n", ">", "a text"),
        where("n", ">", {}),
        where("n", ">", "2020-13-01"),
        logic("XOR", where("n", "==", 1)),
        {"operator": "AND", "conditions": where("n", "==", 1)},
        logic("AND", "n == 1"),
    ],
)
def test_wrong_filters(filters: Any) -> None:
    made = store()
    with pytest.raises(FilterError, match="filters: expected"):
        made.filter_documents(filters)
    with pytest.raises(FilterError, match="filters: expected"):
        made.delete_by_filter(filters)
    assert made.count_documents() == 5


DATES = [
    "2024-02-03", "2024-02-03T00:00:00", "2024-02-03T00:00:00Z", "2024-02-03T01:00:00+01:00", "2024-02-03 04:05",
    "2024-02-02T23:59:59.999", "2024-02-03T00:00:00.001-00:30", "2024-02-02T19:00:00-05:00",
    datetime.datetime(2024, 2, 3), datetime.datetime(2024, 2, 3, 2, tzinfo=datetime.timezone.utc),
]  # fmt: skip


@pytest.mark.parametrize("operator", ["==", "!=", ">", ">=", "<", "<=", "in", "not in"])
def test_dates_are_compared_as_haystack_does(operator: str) -> None:
    made = FpqDocumentStore(embedding_dim=1)
    documents = [Document(id=str(i), meta={"date": date}) for i, date in enumerate(DATES)] + [Document(id="none")]
    made.write_documents(documents)
    for value in DATES:
        filters = where("meta.date", operator, [value] if "in" in operator else value)
        expected = [document.id for document in documents if document_matches_filter(filters, document)]
        assert [document.id for document in made.filter_documents(filters)] == expected, value
    day = datetime.date(2024, 2, 3)
    assert made.filter_documents(where("meta.date", ">=", day)) == made.filter_documents(
        where("meta.date", ">=", day.isoformat())
    )


def test_only_dates_are_compared_as_dates() -> None:
    made = FpqDocumentStore(embedding_dim=1)
    texts = ["2024", "now", "12:00", "2460000.5", "a text", "2024-02-03 and more", "-", ""]
    made.write_documents([Document(id=str(i), meta={"date": text}) for i, text in enumerate(texts)])
    for operator in (">", "<="):
        assert found(made, where("meta.date", operator, "2024-02-03")) == ""
    assert found(made, where("meta.date", "==", "2024")) == "0"


def _random_filter(rng: random.Random, depth: int = 3) -> dict[str, Any]:
    if depth and rng.random() < 0.5:
        parts = [_random_filter(rng, depth - 1) for _ in range(rng.randrange(4))]
        return logic(rng.choice(["AND", "OR", "NOT"]), *parts)
    values = [None, 0, 1, 2.5, True, False, "", "a", "B", ["a", 1], [], {"x": 1}, "2024-02-03", {"y": {"z": None}}]
    field = rng.choice(["n", "meta.n", "meta.any", "meta.in.x", "meta.in.y.z", "meta.unknown", "id", "content"])
    operator = rng.choice(["==", "!=", "in", "not in", ">", "<="])
    if operator in ("in", "not in"):
        return where(field, operator, rng.choices(values, k=rng.randrange(4)))
    if operator in (">", "<="):
        return where(rng.choice(["meta.n", "meta.in.x"]), operator, rng.choice([None, 0, 1.5, True]))
    return where(field, operator, rng.choice(values))


def test_filters_agree_with_those_of_haystack() -> None:
    rng = random.Random(0)
    values = [None, 0, 1, 2.5, True, "", "a", "B", ["a", 1], [], {"x": 1}, "2024-02-03T00:00:00", {"y": {"z": 1}}]
    documents = []
    for i in range(60):
        numbers = [None, 0, 1, 2.5, True, -1]
        inside = rng.choice([None, {}, {"x": rng.choice(numbers)}, {"y": {"z": rng.choice(values)}}, [1], "text"])
        meta = {"n": rng.choice(numbers), "any": rng.choice(values), "in": inside}
        content = rng.choice([None, "", "a"])
        documents.append(Document(id=str(i), content=content, meta={k: v for k, v in meta.items() if v is not None}))
    made = FpqDocumentStore(embedding_dim=1)
    made.write_documents(documents)
    for _ in range(500):
        filters = _random_filter(rng)
        expected = [document.id for document in documents if document_matches_filter(filters, document)]
        assert [document.id for document in made.filter_documents(filters)] == expected, filters
        assert made.count_documents_by_filter(filters) == len(expected)


@pytest.mark.parametrize("name", ['n" = 1 OR "n', "n) OR (1", "n; DROP TABLE rows", "key", "_kinds", "", "\0", "a'b"])
def test_hostile_names_and_values(name: str) -> None:
    made = store()
    for field in (f"meta.{name}", name, f"meta.in.{name}"):
        if "in." not in field or ('"' not in field and field.isprintable()):
            assert found(made, where(field, "==", "' OR 1 --")) == ""
            assert found(made, where(field, "in", ["' OR 1 --"])) == ""
            assert found(made, where(field, ">", 0)) == ""
            assert found(made, where(field, "!=", '"')) == "vwxyz"
    assert found(made, where("meta.name", "in", [name, 'v" OR 1', "' OR '1"])) == ""
    assert made.count_documents() == 5


def test_documents_survive() -> None:
    made = FpqDocumentStore()
    meta = {"id": 1, "id_": 2, "KEY": "k", "content": "c", "_blob": [1], "_no_embedding": 0, "flag": True, "f": 1.5}
    documents = [
        Document(id="all", content="a text", meta=meta, embedding=[1.0, 0.5]),
        Document(id="blob", blob=ByteStream(b"\0\xff", {"a": [1]}, "image/png"), embedding=[0.0, 1.0]),
        Document(id="empty", blob=ByteStream(b""), content=""),
        Document(id="sparse", sparse_embedding=SparseEmbedding([1, 5], [0.5, 0.25]), meta={"d": {"e": [None, "ü"]}}),
        Document(id="day", meta={"day": datetime.datetime(2024, 2, 3, tzinfo=datetime.timezone.utc)}),
    ]
    assert made.write_documents(documents) == 5
    assert made.filter_documents() == documents
    assert found(made, where("meta.content", "==", "c")) == found(made, where("meta.KEY", "==", "k")) == "all"
    nearest = made.embedding_retrieval([0.0, 2.0], top_k=1, return_embedding=True)
    assert nearest == [Document.from_dict(documents[1].to_dict() | {"score": nearest[0].score})]
    made.write_documents([Document(id="none", meta={"a": None, "b": 1})])
    assert made.filter_documents(where("id", "==", "none"))[0].meta == {"b": 1}


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_no_search_finds_documents_without_embeddings(metric: Any) -> None:
    made = store(metric=metric)
    plain = made.embedding_retrieval([0.0, 0.0, 0.0] if metric == "l2" else [-1.0, 0.0, 0.0], top_k=9)
    assert len(plain) == 5
    made.write_documents([Document(id="none", content="none"), Document(id="zeros", embedding=[0.0, 0.0, 0.0])])
    ids = [document.id for document in made.embedding_retrieval([-1.0, 0.0, 0.0], top_k=9)]
    assert sorted(ids) == ["v", "w", "x", "y", "z", "zeros"]
    assert made.embedding_retrieval([0.0, 0.0, 1.0], where("id", "==", "none")) == []
    (none, zeros) = made.filter_documents(where("id", "in", ["none", "zeros"]))
    assert none.embedding is None and zeros.embedding == [0.0, 0.0, 0.0]
    made.write_documents([Document(id="none", embedding=[1.0, 1.0, 1.0])], DuplicatePolicy.OVERWRITE)
    assert made.embedding_retrieval([1.0, 1.0, 1.0], where("id", "==", "none"))[0].id == "none"


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_retrieval(metric: Any) -> None:
    made = store(metric=metric)
    hits = made.collection.search([0.5, 2.0, 1.0], k=5)
    documents = made.embedding_retrieval([0.5, 2.0, 1.0])
    scores = [document.score for document in documents]
    assert [document.id for document in documents] == [hit.key for hit in hits]
    assert scores == pytest.approx([-(hit.distance**0.5) if metric == "l2" else hit.distance for hit in hits])
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
    assert all(document.embedding is None for document in documents)
    with pytest.raises(ValueError, match="top_k: expected at least 1, got 0"):
        made.embedding_retrieval([0.5, 2.0, 1.0], top_k=0)
    assert FpqDocumentStore().embedding_retrieval([1.0]) == []


def test_policies() -> None:
    made = store()
    old, new, twice = Document(id="v"), Document(id="new"), Document(id="new", content="second")
    for policy in (DuplicatePolicy.NONE, DuplicatePolicy.FAIL):
        for documents in ([new, old], [new, twice]):
            with pytest.raises(DuplicateDocumentError, match="documents: expected new identifiers, got"):
                made.write_documents(documents, policy)
    assert made.count_documents() == 5
    assert made.write_documents([old, new, twice], DuplicatePolicy.SKIP) == 1
    assert [d.content for d in made.filter_documents(where("id", "in", ["v", "new"]))] == ["text v", None]
    assert made.write_documents([old, new, twice], DuplicatePolicy.OVERWRITE) == 2
    assert [d.content for d in made.filter_documents(where("id", "in", ["v", "new"]))] == [None, "second"]
    assert made.write_documents([]) == 0


def test_changes_by_filter() -> None:
    made = store()
    assert made.update_by_filter(where("meta.n", ">", 2), {"n": None, "id": 7}) == 2
    assert found(made, where("meta.n", "==", None)) == found(made, where("meta.id", "==", 7)) == "yz"
    assert made.update_by_filter({}, {"all": [1]}) == 5 and made.update_by_filter({}, {}) == 5
    assert made.delete_by_filter(where("meta.id", "!=", 7)) == 3
    assert made.get_metadata_fields_info() == {
        "name": {"type": "keyword"}, "in": {"type": "keyword"}, "id": {"type": "int"}, "all": {"type": "keyword"},
    }  # fmt: skip
    assert made.count_unique_metadata_by_filter({}, ["meta.all", "name", "n"]) == {"meta.all": 1, "name": 2, "n": 0}
    assert made.get_metadata_field_unique_values("all") == ([[1]], 1)
    made.update_by_filter(where("id", "==", "y"), {"name": 1})
    assert made.get_metadata_field_min_max("name") == {"min": None, "max": None}
    assert made.delete_by_filter({}) == 2


def test_mistakes() -> None:
    made = FpqDocumentStore()
    with pytest.raises(ValueError, match="embedding_dim: expected a dimension, as no document has an embedding yet"):
        made.write_documents([Document(id="a")])
    with pytest.raises(ValueError, match="documents: expected embeddings of dimension 2, got 3"):
        made.write_documents([Document(id="a", embedding=[1.0, 2.0]), Document(id="b", embedding=[1.0, 2.0, 3.0])])
    with pytest.raises(TypeError, match="metadata: expected"):
        made.write_documents([Document(id="a", embedding=[1.0], meta={"a": object()})])
    assert made.count_documents() == 0
    with pytest.raises(ValueError, match="embedding_dim: expected at least 1, got 0"):
        FpqDocumentStore(embedding_dim=0)
    with pytest.raises(ValueError, match="metric: expected one of"):
        FpqDocumentStore(metric="manhattan")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="document_store: expected a FpqDocumentStore, got str"):
        FpqEmbeddingRetriever("store")
    with pytest.raises(ValueError, match="top_k: expected at least 1, got 0"):
        FpqEmbeddingRetriever(made, top_k=0)
    FpqDocumentStore("never opened").close()
    made.close()
    with pytest.raises(ValueError, match="Collection: expected an open collection"):
        made.count_documents()


def test_a_folder_is_opened_again(tmp_path: Path) -> None:
    made = store(path=tmp_path, embedding_dim=3, metric="l2")
    reader = FpqDocumentStore(tmp_path, metric="l2", read_only=True)
    assert found(reader, {}) == "vwxyz"
    made.delete_documents(["v", "nobody"])
    assert found(reader, {}) == "wxyz"
    with pytest.raises(PermissionError):
        reader.delete_all_documents()
    with pytest.raises(BlockingIOError):
        FpqDocumentStore(tmp_path, metric="l2").count_documents()
    made.close()
    for settings, name in (({}, "metric"), ({"metric": "l2", "embedding_dim": 4}, "embedding_dim")):
        for _ in range(2):
            with pytest.raises(ValueError, match=f"{name}: expected that of the collection"):
                FpqDocumentStore(tmp_path, **settings).count_documents()  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        FpqDocumentStore(tmp_path / "nothing", read_only=True).count_documents()
    again = FpqDocumentStore(tmp_path, metric="l2")
    assert found(again, {}) == "wxyz"
    again.close()
    reader.close()


def test_an_empty_collection_gets_the_dimension(tmp_path: Path) -> None:
    Collection.create(tmp_path, index=FlatIndex("cosine")).close()
    made = FpqDocumentStore(tmp_path, embedding_dim=3)
    made.write_documents([Document(id="a")])
    assert made.collection.dim == 3 and made.count_documents() == 1
    made.close()


def test_pipelines(tmp_path: Path) -> None:
    made = store(path=tmp_path)
    assert FpqDocumentStore.from_dict(made.to_dict()).to_dict() == made.to_dict()
    pipeline = Pipeline()
    pipeline.add_component("writer", DocumentWriter(made))
    pipeline.run({"writer": {"documents": [Document(id="new", embedding=[0.1, 0.1, 0.1], meta={"n": 9})]}})
    made.close()
    filters = where("meta.n", ">", 1)
    retriever = FpqEmbeddingRetriever(
        FpqDocumentStore(tmp_path, read_only=True),
        filters=filters, top_k=2, return_embedding=True, filter_policy=FilterPolicy.MERGE,
    )  # fmt: skip
    search = Pipeline()
    search.add_component("retriever", retriever)
    search = Pipeline.loads(search.dumps(), allowed_modules=["fpq.adapters.haystack"])
    documents = search.run({"retriever": {"query_embedding": [1.0, 1.0, 1.0]}})["retriever"]["documents"]
    assert [document.id for document in documents] == ["new", "y"]
    assert documents[0].embedding == np.float32([0.1, 0.1, 0.1]).tolist()
    arguments = {"query_embedding": [1.0, 1.0, 1.0], "filters": where("id", "in", ["w", "y", "z"]), "top_k": 1}
    assert search.run({"retriever": arguments})["retriever"]["documents"][0].id == "y"
    loaded = search.get_component("retriever")
    assert isinstance(loaded, FpqEmbeddingRetriever) and loaded.to_dict() == retriever.to_dict()
    assert asyncio.run(loaded.run_async(**arguments)) == loaded.run(**arguments)  # type: ignore[arg-type]
    assert FpqEmbeddingRetriever(made, filters=filters).filter_policy == FilterPolicy.REPLACE
    loaded.document_store.close()


def test_threads_share_a_store() -> None:
    made = store()

    def work(number: int) -> int:
        written = 0
        for i in range(10):
            document = Document(id=f"shared {i}", meta={f"n{number}": i}, embedding=[1.0, 1.0, float(i)])
            written += made.write_documents([document], DuplicatePolicy.SKIP)
            assert made.embedding_retrieval([1.0, 1.0, float(i)], where("id", "==", f"shared {i}"))
        return written

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(work, range(4))) == 10
    assert made.count_documents() == 15
