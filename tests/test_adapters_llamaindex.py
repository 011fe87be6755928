"""A vector store of LlamaIndex over a collection. LlamaIndex has no tests for vector stores of others."""

from __future__ import annotations

import asyncio
import datetime
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import fpq

pytest.importorskip("llama_index.core", reason="LlamaIndex is not installed")

from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.schema import (
    Document,
    ImageNode,
    IndexNode,
    MediaResource,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from fpq.adapters.llamaindex import FpqVectorStore

VECTORS = {"v": [1.0, 0.0, 0.0], "w": [2.0, 1.0, 0.0], "x": [0.0, 1.0, 0.0], "y": [0.0, 2.0, 1.0], "z": [0.0, 0.0, 1.0]}


def node(key: str, metadata: dict[str, Any] | None = None, source: str | None = None, **settings: Any) -> TextNode:
    relationships = {} if source is None else {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=source)}
    vector = settings.pop("embedding", VECTORS.get(key, [1.0, 1.0, 1.0]))
    return TextNode(
        id_=key, text=f"text {key}", metadata=metadata or {}, embedding=vector, relationships=relationships, **settings
    )


def store(**settings: Any) -> FpqVectorStore:
    made = FpqVectorStore(fpq.Collection.create(":memory:", **settings))
    made.add([
        node(key, {"n": i, "name": f"node {key}", "tags": ["all", key]}, source="first" if i < 2 else "second")
        for i, key in enumerate(VECTORS)
    ])  # fmt: skip
    return made


def where(key: str, value: Any, operator: str = "==") -> MetadataFilter:
    return MetadataFilter(key=key, value=value, operator=FilterOperator(operator))


def tree(condition: str, *filters: Any) -> MetadataFilters:
    return MetadataFilters(filters=list(filters), condition=FilterCondition(condition))


def found(made: FpqVectorStore, *filters: Any) -> str:
    return "".join(each.node_id for each in made.get_nodes(filters=tree("and", *filters)))


def near(made: FpqVectorStore, vector: list[float], k: int = 5, **settings: Any) -> list[str] | None:
    return made.query(VectorStoreQuery(query_embedding=vector, similarity_top_k=k, **settings)).ids


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        (where("n", 2), "x"),
        (where("n", 2.0), "x"),
        (where("n", "2"), ""),
        (where("n", 2, "!="), "vwyz"),
        (where("n", 2, ">"), "yz"),
        (where("n", 2, ">="), "xyz"),
        (where("n", 2, "<"), "vw"),
        (where("n", 2.5, "<="), "vwx"),
        (where("n", "", ">"), ""),
        (where("name", 0, ">"), ""),
        (where("name", "node x", ">"), "yz"),
        (where("n", [0, 4, 9], "in"), "vz"),
        (where("n", [0, 4, 9], "nin"), "wxy"),
        (where("n", [], "in"), ""),
        (where("n", [], "nin"), "vwxyz"),
        (where("tags", "x", "contains"), "x"),
        (where("name", "de x", "contains"), "x"),
        (where("tags", ["v", "y", "?"], "any"), "vy"),
        (where("tags", [], "any"), ""),
        (where("tags", ["all", "x"], "all"), "x"),
        (where("tags", ["x", "y"], "all"), ""),
        (where("tags", ["all", "x"]), "x"),
        (where("name", "DE x", "text_match"), ""),
        (where("name", "DE X", "text_match_insensitive"), "x"),
        (where("name", "%", "text_match"), ""),
        (where("tags", None, "is_empty"), ""),
        (where("unknown", None, "is_empty"), "vwxyz"),
        (where("unknown", 1), ""),
        (where("unknown", 1, "!="), "vwxyz"),
        (where("n", None), ""),
        (where("n", None, "!="), "vwxyz"),
        (tree("or", where("n", 0), where("n", 4)), "vz"),
        (tree("not", where("n", 0), where("n", 4)), "wxy"),
        (tree("not", where("unknown", 0)), "vwxyz"),
        (tree("and"), "vwxyz"),
        (tree("or", where("n", 0), tree("and", where("n", 0, ">"), tree("not", where("n", 3, "<")))), "vyz"),
    ],
)
def test_filters(filter: Any, expected: str) -> None:
    made = store()
    assert found(made, filter) == expected
    assert sorted(near(made, [1.0, 1.0, 1.0], filters=tree("and", filter)) or []) == list(expected)


def _random_filter(rng: random.Random) -> MetadataFilter:
    kind = rng.choice(["n", "s", "t"])
    number, text = rng.choice([0, 1, 2.5, -1]), rng.choice(["", "a", "ab", "B", "é", '["a"]', "%"])
    some = {"n": [0, 1, 2], "s": ["a", "ab", "b"], "t": ["a", "b"]}[kind][: rng.randrange(4)]
    comparisons = {"n": ("==", "!=", ">", ">=", "<", "<="), "s": ("==", "!=", ">", "<=", "text_match", "contains")}
    choices: list[tuple[str, Any]] = [("is_empty", None)]
    if kind == "t":
        choices += [("contains", text), ("contains", 1), ("any", some), ("all", some), ("==", some), ("!=", some)]
    else:
        choices += [(each, number if kind == "n" else text) for each in comparisons[kind]]
        choices += [("in", some), ("nin", some)]
    if kind == "s":
        choices += [("any", some), ("all", some), ("text_match_insensitive", "A")]
    operator, value = rng.choice(choices)
    return where(kind, value, operator)


def _random_tree(rng: random.Random, depth: int = 3) -> MetadataFilters:
    parts = [
        _random_tree(rng, depth - 1) if depth and rng.random() < 0.4 else _random_filter(rng)
        for _ in range(rng.randint(1, 3))
    ]
    return tree(rng.choice(["and", "or", "not"]), *parts)


def _expected(filters: MetadataFilters, metadata: dict[str, Any]) -> bool:
    results = [
        _expected(each, metadata)
        if isinstance(each, MetadataFilters)
        else build_metadata_filter_fn(lambda _: metadata, tree("and", each))("")
        for each in filters.filters
    ]
    if filters.condition == FilterCondition.AND:
        return all(results)
    return any(results) == (filters.condition == FilterCondition.OR)


def test_filters_agree_with_those_of_llamaindex() -> None:
    rng = random.Random(0)
    rows: list[dict[str, Any]] = []
    for _ in range(60):
        row = {
            "n": rng.choice([None, 0, 1, 2, 2.5, -3]),
            "s": rng.choice([None, "", "a", "ab", "B", "aB", "é%"]),
            "t": rng.choice([None, [], ["a"], ["a", "b"], ["b", 1], ["a", "a", 2.5, None]]),
        }
        rows.append({name: value for name, value in row.items() if value is not None or rng.random() < 0.5})
    made = FpqVectorStore(fpq.Collection.create(":memory:"))
    made.add([node(str(i), row) for i, row in enumerate(rows)])
    for _ in range(400):
        filters = _random_tree(rng)
        keys = [each.node_id for each in made.get_nodes(filters=filters)]
        assert keys == [str(i) for i, row in enumerate(rows) if _expected(filters, row)], filters


@pytest.mark.parametrize(
    "name", ['n" = 1 OR "n', "n) OR (1", "n; DROP TABLE rows", "key", "id", "_kinds", "", "'", "\0"]
)
def test_hostile_names_and_values(name: str) -> None:
    made = store()
    for operator in FilterOperator:
        value = ["' OR 1 --", '"'] if operator.value in ("in", "nin", "any", "all") else "' OR 1 --"
        expected = "vwxyz" if operator.value in ("!=", "nin", "is_empty") else ""
        assert found(made, where(name, value, operator.value)) == expected
        if operator.value != "is_empty":
            assert found(made, where("name", value, operator.value)).strip("vwxyz") == ""
    assert len(made.client) == 5


def test_names_of_metadata() -> None:
    made = store()
    names = ["id", "id_", "KEY", "_kinds", "value", "atom", "type", "path", "select", "a.b", "a b", "doc_id", "text"]
    metadata = {name: [name, i] for i, name in enumerate(names)}
    made.add([node("all", metadata)])
    (back,) = made.get_nodes(["all"])
    assert back.metadata == metadata
    for name in names:
        if name != "doc_id":  # which LlamaIndex uses itself
            assert found(made, where(name, name, "contains")) == "all"
            assert found(made, where(name, [name], "all")) == "all"
            assert found(made, where(name, ["?", name], "any")) == "all"
    with pytest.raises(ValueError, match="metadata: expected names of 1 to"):
        made.add([node("other", {'a"b': 1})])
    assert len(made.client) == 6


def test_nodes_survive() -> None:
    made = FpqVectorStore(fpq.Collection.create(":memory:"))
    metadata = {"none": None, "nested": {"a": [1, {"b": None}]}, "flag": True, "float": 1.5, "ä": "ß", "list": [1, "2"]}
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="source", metadata={"m": 1})}
    nodes = [
        TextNode(
            text="a text", metadata=metadata, start_char_idx=3, end_char_idx=9, relationships=source,
            excluded_embed_metadata_keys=["flag"], excluded_llm_metadata_keys=["ä"], text_template="{content}",
        ),
        TextNode(text=""),
        IndexNode(text="index", index_id="other", metadata={"a": 1}),
        ImageNode(text="image", image="aGVsbG8=", metadata={"a": 2}),
        Node(text_resource=MediaResource(text="media"), metadata={"a": 3}),
    ]  # fmt: skip
    for i, each in enumerate(nodes):
        each.embedding = [float(i), 1.0]
    assert made.add(nodes) == [each.node_id for each in nodes]
    assert made.get_nodes() == nodes
    assert [type(each) for each in made.get_nodes()] == list(map(type, nodes))
    result = made.query(VectorStoreQuery(query_embedding=[9.0, 1.0], similarity_top_k=1))
    assert result.nodes is not None
    assert result.nodes[0].get_content() == "media" and result.nodes[0].embedding is None
    made.add([TextNode(id_="day", metadata={"day": datetime.date(2024, 2, 3)}, embedding=[1.0, 0.0])])
    assert found(made, where("day", "2024-01-01", ">")) == "day"


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_queries(metric: str) -> None:
    made = store(metric=metric)
    result = made.query(VectorStoreQuery(query_embedding=[0.0, 2.0, 1.0], similarity_top_k=5))
    assert result.nodes is not None and result.ids is not None and result.similarities is not None
    hits = made.client.search([0.0, 2.0, 1.0], k=5)
    assert result.ids == [hit.key for hit in hits] == [each.node_id for each in result.nodes]
    assert result.similarities == sorted(result.similarities, reverse=True)
    if metric == "l2":
        assert result.similarities == pytest.approx([-(hit.distance**0.5) for hit in hits])
    else:
        assert result.similarities == [hit.distance for hit in hits]
    assert near(made, [0.5, 2.0, 1.0], doc_ids=["first"], k=1) == ["w"]
    assert near(made, [0.0, 2.0, 1.0], node_ids=["v", "z"], doc_ids=["second"]) == ["z"]
    assert near(made, [0.0, 2.0, 1.0], node_ids=[], doc_ids=[]) == result.ids
    assert near(FpqVectorStore(fpq.Collection.create(":memory:")), [1.0]) == []


def test_long_lists() -> None:
    made = store()
    unknown = [f"unknown {i}" for i in range(50_000)]
    assert [each.node_id for each in made.get_nodes(["y", *unknown, "v"])] == ["v", "y"]
    assert found(made, where("name", [*unknown, "node x"], "in")) == "x"
    assert found(made, where("name", [*unknown, "node x"], "nin")) == "vwyz"
    assert found(made, where("n", [*range(3, 5000)], "in")) == "yz"
    made.delete_nodes([*unknown, "z"])
    assert found(made) == "vwxy"


def test_marginal_relevance() -> None:
    made = store()
    made.add([node("copy", {"n": 9}, embedding=VECTORS["v"])])
    query = VectorStoreQuery(query_embedding=[1.0, 0.1, 0.1], similarity_top_k=2, mode=VectorStoreQueryMode.MMR)
    assert set(near(made, [1.0, 0.1, 0.1], k=2) or []) == {"v", "copy"}
    ids, similarities = made.query(query).ids or [], made.query(query).similarities or []
    assert len({"v", "copy"} & set(ids)) == 1
    known = {hit.key: hit.distance for hit in made.client.search([1.0, 0.1, 0.1], k=6)}
    assert similarities == pytest.approx([known[key] for key in ids])
    assert set(made.query(query, mmr_threshold=1.0).ids or []) == {"v", "copy"}
    query.mmr_threshold = 1.0
    assert set(made.query(query, mmr_threshold=0.0).ids or []) == {"v", "copy"}
    query.filters = tree("and", where("n", 4, "<="))
    assert "copy" not in (made.query(query, mmr_prefetch_factor=1).ids or [])
    with pytest.raises(ValueError, match="mmr_prefetch_factor: expected at least 1, got 0"):
        made.query(query, mmr_prefetch_factor=0)


def test_deletes() -> None:
    made = store()
    made.delete("nobody")
    made.delete("first")
    assert found(made) == "xyz"
    made.delete_nodes(["x", "y", "nobody"], tree("and", where("n", 2, ">")))
    assert found(made) == "xz"
    made.delete_nodes([])
    assert made.get_nodes([]) == []
    made.delete_nodes(filters=tree("and", where("n", 2)))
    assert found(made) == "z"
    for filters in (None, tree("and")):
        with pytest.raises(ValueError, match="node_ids: expected node_ids or filters"):
            made.delete_nodes(filters=filters)
    made.clear()
    assert found(made) == "" and len(made.client) == 0
    made.delete("first")
    made.add([node("v")])
    assert found(made) == "v"


@pytest.mark.parametrize("mode", [mode for mode in VectorStoreQueryMode if mode.value not in ("default", "mmr")])
def test_other_modes_are_refused(mode: VectorStoreQueryMode) -> None:
    with pytest.raises(ValueError, match=f"mode: expected default or mmr, got {mode.value}"):
        near(store(), [1.0, 0.0, 0.0], mode=mode)


def test_mistakes() -> None:
    made = store()
    with pytest.raises(TypeError, match=r"collection: expected a fpq.Collection, got str"):
        FpqVectorStore("folder")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="query_embedding: expected a vector, got None"):
        made.query(VectorStoreQuery(query_str="a text"))
    with pytest.raises(ValueError, match="similarity_top_k: expected at least 1, got 0"):
        near(made, [1.0, 0.0, 0.0], k=0)
    for operator in ("in", "nin", "any", "all"):
        with pytest.raises(ValueError, match=f"filters: expected a list as value of '{operator}', got 'a'"):
            found(made, where("n", "a", operator))
    for operator, value, expected in [
        ("contains", ["a"], "a text or a number"), (">", None, "a text or a number"), ("<=", [1], "a text or a number"),
        ("text_match", 1, "a text"), ("text_match_insensitive", None, "a text"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=f"filters: expected {expected} as value of '{operator}'"):
            found(made, where("n", value, operator))
    many = [where("tags", "x", "contains")] * 20
    assert found(made, *many) == "x"
    with pytest.raises(ValueError, match="filters: expected at most 20 comparisons of lists"):
        found(made, *many, where("tags", "x", "contains"))
    with pytest.raises(ValueError, match="embedding not set"):
        made.add([TextNode(text="no vector")])
    with pytest.raises(ValueError, match="keys: expected different keys"):
        made.add([node("a"), node("a")])
    assert made.add([]) == []
    assert len(made.client) == 5


def test_async() -> None:
    async def work(made: FpqVectorStore) -> None:
        assert await made.async_add([node("new", {"n": 7})]) == ["new"]
        result = await made.aquery(VectorStoreQuery(query_embedding=[1.0, 1.0, 1.0]))
        assert result.ids == ["new"]
        assert len(await made.aget_nodes(["new", "v"], filters=None)) == 2
        await made.adelete_nodes(["new"])
        await made.adelete("first")
        queries = [VectorStoreQuery(query_embedding=vector) for vector in VECTORS.values()] * 4
        results = await asyncio.gather(*map(made.aquery, queries))
        assert {tuple(each.ids or ()) for each in results} <= {("x",), ("y",), ("z",)}
        await made.aclear()
        assert await made.aget_nodes() == []

    asyncio.run(work(store()))


def test_threads_share_a_store() -> None:
    made = store()

    def work(number: int) -> None:
        for i in range(10):
            made.add([node(f"{number}/{i}", {"n": 100 + number, f"name {number}": i})])
            assert len(near(made, [1.0, 1.0, 1.0], k=50, filters=tree("and", where("n", 100 + number))) or []) == i + 1

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert len(made.client) == 45


def test_an_index_of_llamaindex(tmp_path: Path) -> None:
    embedding = MockEmbedding(embed_dim=8)
    documents = [Document(id_=f"document {i}", text=f"words {i}", metadata={"i": i}) for i in range(4)]
    with fpq.Collection.create(tmp_path / "nodes") as collection:
        context = StorageContext.from_defaults(vector_store=FpqVectorStore(collection))
        index = VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=embedding)
        index.delete_ref_doc("document 3")
    with fpq.Collection.open(tmp_path / "nodes", read_only=True) as collection:
        index = VectorStoreIndex.from_vector_store(FpqVectorStore(collection), embed_model=embedding)
        results = index.as_retriever(similarity_top_k=9).retrieve("words")
        assert sorted(each.node.get_content() for each in results) == ["words 0", "words 1", "words 2"]
        retriever = index.as_retriever(filters=tree("and", where("i", 1, ">=")), similarity_top_k=9)
        assert sorted(each.metadata["i"] for each in retriever.retrieve("words")) == [1, 2]
