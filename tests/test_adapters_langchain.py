"""A vector store of LangChain over a collection."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fpq

pytest.importorskip("langchain_core", reason="LangChain is not installed")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from fpq.adapters.langchain import FpqVectorStore

try:
    from langchain_tests.integration_tests import VectorStoreIntegrationTests
except ImportError:
    pass
else:
    for _, function in inspect.getmembers(VectorStoreIntegrationTests, inspect.iscoroutinefunction):
        pytest.mark.asyncio(function)

    class TestStandard(VectorStoreIntegrationTests):
        """LangChain's own tests of vector stores."""

        @pytest.fixture
        def vectorstore(self, tmp_path: Path) -> Iterator[FpqVectorStore]:
            with fpq.Collection.create(tmp_path / "documents") as collection:
                yield FpqVectorStore(self.get_embeddings(), collection)


class Letters(Embeddings):
    """Vectors of the numbers of a, b and c in a text."""

    def embed_query(self, text: str) -> list[float]:
        return [float(text.count(letter)) for letter in "abc"]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return list(map(self.embed_query, texts))


TEXTS = ["a", "aab", "b", "bbc", "c"]
METADATA: list[dict[str, Any]] = [{"n": i, "even": i % 2 == 0, "tags": ["x", i]} for i in range(5)]


def store(**settings: Any) -> FpqVectorStore:
    return FpqVectorStore.from_texts(TEXTS, Letters(), METADATA, ids=list("vwxyz"), **settings)


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


def test_filters() -> None:
    documents = store()
    assert ids(documents.similarity_search("a", filter={"n": 3})) == ["y"]
    assert ids(documents.similarity_search("a", filter={"even": True})) == ["v", "x", "z"]
    assert ids(documents.similarity_search("a", filter={"even": False, "n": 1})) == ["w"]
    assert ids(documents.similarity_search("a", filter={"tags": ["x", 2]})) == ["x"]
    assert ids(documents.similarity_search("a", filter={})) == ["v", "w", "x", "y"]
    assert ids(documents.similarity_search("a", filter="n > ? AND text = 'c'", params=[2])) == ["z"]
    documents.add_texts(["ab"], ids=["new"])
    assert ids(documents.similarity_search("a", filter={"n": None})) == ["new"]
    with pytest.raises(ValueError, match="params: expected none"):
        documents.similarity_search("a", filter={"n": 1}, params=[1])
    with pytest.raises(TypeError, match="filter: expected a dict or an SQL condition, got int"):
        documents.similarity_search("a", filter=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="metadata: expected names"):
        documents.similarity_search("a", filter={'n" = 1 OR "n': 1})


def test_names_that_the_collection_needs() -> None:
    documents = store()
    metadata = {"id": 1, "id_": 2, "ID__": 3, "key": "k", "_kinds": [1], "text": "t", "text_": None, "idea_": 5}
    documents.add_texts(["abc"], [metadata], ids=["all"])
    (found,) = documents.get_by_ids(["all"])
    assert found.page_content == "abc"
    assert found.metadata == {name: value for name, value in metadata.items() if value is not None}
    assert ids(documents.similarity_search("a", filter={"text": "t", "id": 1, "id_": 2})) == ["all"]
    with pytest.raises(ValueError, match="text_name: expected a name without an underscore"):
        FpqVectorStore(Letters(), documents.collection, text_name="text_")


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_scores(metric: str) -> None:
    documents = store(metric=metric)
    found = documents.similarity_search_with_score("aab", k=5)
    hits = documents.collection.search([2.0, 1.0, 0.0], k=5)
    assert [(document.id, score) for document, score in found] == [(hit.key, hit.distance) for hit in hits]
    assert found == documents.similarity_search_with_score_by_vector([2.0, 1.0, 0.0], k=5)
    assert ids(documents.similarity_search_by_vector([2.0, 1.0, 0.0], k=2)) == [hit.key for hit in hits[:2]]
    if metric != "ip":
        relevant = documents.similarity_search_with_relevance_scores("c", k=1)
        assert relevant[0][0].id == "z"
        assert relevant[0][1] == pytest.approx(1)


def test_marginal_relevance_prefers_documents_unlike_each_other() -> None:
    documents = store()
    documents.add_texts(["aa"], ids=["copy of v"])
    assert set(ids(documents.similarity_search("a", k=2))) == {"v", "copy of v"}
    assert ids(documents.max_marginal_relevance_search("a", k=2, lambda_mult=0.1))[1] not in {"v", "copy of v"}
    assert ids(documents.max_marginal_relevance_search("a", k=1, filter={"n": 4})) == ["z"]
    retriever = documents.as_retriever(search_type="mmr", search_kwargs={"k": 2, "filter": {"even": False}})
    assert sorted(ids(retriever.invoke("a"))) == ["w", "y"]


def test_retriever_and_async() -> None:
    documents = store()
    retriever = documents.as_retriever(search_kwargs={"k": 2, "filter": "n < :most", "params": {"most": 4}})
    assert ids(retriever.invoke("bb")) == ["x", "y"]
    assert ids(asyncio.run(retriever.ainvoke("bb"))) == ["x", "y"]


def test_deletes() -> None:
    documents = store()
    assert documents.delete(["v", "unknown"])
    assert sorted(documents.collection) == list("wxyz")
    assert documents.delete()
    assert len(documents.collection) == 0
    assert documents.similarity_search("a") == []
    assert documents.get_by_ids(["v"]) == []


def test_a_folder_is_opened_again(tmp_path: Path) -> None:
    first = store(path=tmp_path, metric="l2", text_name="content")
    first.collection.close()
    with fpq.Collection.open(tmp_path, read_only=True) as collection:
        again = FpqVectorStore(Letters(), collection, text_name="content")
        assert again.similarity_search("c", k=1) == [Document(id="z", page_content="c", metadata=METADATA[4])]
        assert isinstance(again.embeddings, Letters)


def test_failed_calls_change_nothing(tmp_path: Path) -> None:
    documents = store()
    with pytest.raises(ValueError, match="metadatas: expected one per text, 2, got 1"):
        documents.add_texts(["a", "b"], [{}])
    with pytest.raises(ValueError, match="ids: expected one per text, 1, got 2"):
        documents.add_texts(["a"], ids=["p", "q"])
    with pytest.raises(ValueError, match="keys: expected different keys"):
        documents.add_texts(["a", "b"], ids=["p", "p"])
    with pytest.raises(TypeError, match="metadata: expected"):
        documents.add_texts(["a", "b"], [{}, {"n": object()}])
    assert len(documents.collection) == 5
    assert documents.add_texts([]) == []
    with pytest.raises(TypeError, match=r"collection: expected a fpq.Collection, got str"):
        FpqVectorStore(DeterministicFakeEmbedding(size=3), "folder")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="metadatas"):
        FpqVectorStore.from_texts(["a"], Letters(), [], path=tmp_path / "new")
    fpq.Collection.open(tmp_path / "new").close()
