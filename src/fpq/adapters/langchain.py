"""A vector store of LangChain that keeps its documents in a `fpq.Collection`; requires langchain-core."""

from __future__ import annotations

import contextlib
import math
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from fpq import _checks
from fpq.adapters._columns import Columns
from fpq.adapters._conditions import Conditions, all_of
from fpq.collection import Collection, Hit
from fpq.collection import metadata as metadata_

__all__ = ["FpqVectorStore"]

Filter = Mapping[str, Any] | str
Params = Sequence[Any] | Mapping[str, Any]


class FpqVectorStore(VectorStore):
    """A vector store of LangChain over a collection.

    The identifiers of documents are the keys of the collection. The text of a document is stored under one metadata
    name, and its metadata under their own names: "id", "key", "_kinds" and the name of the text get an underscore at
    the end. Metadata that are None are not stored.

    Methods that search take two more arguments. `filter` is a dict of metadata and the values that they must have, or
    an SQL condition as in `Collection.search`. `params` are the values of the condition.

    Parameters
    ----------
    embedding : Embeddings
    collection : fpq.Collection
        A collection whose keys are str. The caller closes it.
    text_name : str, default "text"
        The metadata name under which texts are stored.

    Attributes
    ----------
    collection : fpq.Collection

    Examples
    --------
    >>> import fpq
    >>> from fpq.adapters.langchain import FpqVectorStore
    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> with fpq.Collection.create(":memory:") as collection:
    ...     store = FpqVectorStore(DeterministicFakeEmbedding(size=8), collection)
    ...     ids = store.add_texts(["a cat", "a dog"], [{"legs": 4}, {"legs": 3}])
    ...     store.similarity_search("a dog", k=1)[0].page_content
    ...     store.similarity_search("a dog", filter={"legs": 4})[0].page_content
    'a dog'
    'a cat'
    """

    def __init__(self, embedding: Embeddings, collection: Collection, *, text_name: str = "text") -> None:
        if not isinstance(collection, Collection):
            raise TypeError(f"collection: expected a fpq.Collection, got {type(collection).__name__}")
        self.collection = collection
        self._embedding = embedding
        metadata_.check_name(text_name)
        if text_name.endswith("_"):
            raise ValueError(f"text_name: expected a name without an underscore at the end, got {text_name!r}")
        self._text_name = text_name
        self._columns = Columns([text_name])

    @property
    def embeddings(self) -> Embeddings:
        """The embedding model."""
        return self._embedding

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        path: str | os.PathLike[str] = ":memory:",
        text_name: str = "text",
        **kwargs: Any,
    ) -> FpqVectorStore:
        """Create a collection and add texts.

        Parameters
        ----------
        texts : list of str
        embedding : Embeddings
        metadatas : list of dict, optional
        ids : list of str, optional
        path : path, default ":memory:"
            A new or empty folder, or ":memory:".
        text_name : str, default "text"
        **kwargs
            Arguments of `Collection.create`.
        """
        collection = Collection.create(path, **kwargs)
        try:
            store = cls(embedding, collection, text_name=text_name)
            store.add_texts(texts, metadatas, ids=ids)
        except BaseException:
            collection.close()
            raise
        return store

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Embed and store texts. All texts are stored, or none.

        Parameters
        ----------
        texts : iterable of str
        metadatas : list of dict, optional
        ids : list of str or None, optional
            Documents with these identifiers are replaced. Default: new identifiers.

        Returns
        -------
        list of str
            The identifiers.
        """
        contents = list(texts)
        metadata = [{}] * len(contents) if metadatas is None else list(metadatas)
        given = [None] * len(contents) if ids is None else list(ids)
        for name, values in (("metadatas", metadata), ("ids", given)):
            if len(values) != len(contents):
                raise ValueError(f"{name}: expected one per text, {len(contents)}, got {len(values)}")
        keys = [str(uuid.uuid4()) if key is None else key for key in given]
        rows = [
            {self._text_name: text, **self._columns.stored(each)} for text, each in zip(contents, metadata, strict=True)
        ]
        if keys:
            self.collection.upsert(keys, self._embedding.embed_documents(contents), rows)
        return keys

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents. Identifiers that do not exist are ignored.

        Parameters
        ----------
        ids : list of str, optional
            Default: all documents, as LangChain defines it.
        """
        if ids is None:
            self.collection.delete(where="key IS NOT NULL")
        else:
            self.collection.delete(list(ids))
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents with these identifiers, without those that do not exist."""
        found = []
        for key in ids:
            with contextlib.suppress(KeyError):
                row = self.collection.get(key)
                found.append(self._document(row.key, row.metadata))
        return found

    def similarity_search(
        self, query: str, k: int = 4, *, filter: Filter | None = None, params: Params | None = None, **kwargs: Any
    ) -> list[Document]:
        """The k documents nearest to a query, nearest first."""
        found = self.similarity_search_with_score(query, k, filter=filter, params=params)
        return [document for document, _ in found]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Filter | None = None, params: Params | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The k documents nearest to a query, and the `distance` of each hit: for cosine, the similarity."""
        vector = self._embedding.embed_query(query)
        return self.similarity_search_with_score_by_vector(vector, k, filter=filter, params=params)

    def similarity_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        *,
        filter: Filter | None = None,
        params: Params | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """The k documents nearest to a vector, nearest first."""
        found = self.similarity_search_with_score_by_vector(embedding, k, filter=filter, params=params)
        return [document for document, _ in found]

    def similarity_search_with_score_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        *,
        filter: Filter | None = None,
        params: Params | None = None,
        **kwargs: Any,
    ) -> list[tuple[Document, float]]:
        """The k documents nearest to a vector, and the `distance` of each hit: for cosine, the similarity."""
        hits = self._hits(embedding, k, filter, params)
        return [(self._document(hit.key, hit.metadata), hit.distance) for hit in hits]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
        params: Params | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Of the `fetch_k` documents nearest to a query, k that are near the query and unlike each other."""
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(
            vector, k, fetch_k, lambda_mult, filter=filter, params=params
        )

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
        params: Params | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Of the `fetch_k` documents nearest to a vector, k that are near the vector and unlike each other."""
        k = _checks.integer("k", k, 1)
        hits = self._hits(embedding, fetch_k, filter, params, vectors=True)
        query, found = np.array(embedding, np.float32), [np.asarray(hit.vector, np.float32) for hit in hits]
        chosen = maximal_marginal_relevance(query, found, lambda_mult, k)
        return [self._document(hits[i].key, hits[i].metadata) for i in chosen]

    def _hits(
        self, vector: list[float], k: int, filter: Filter | None, params: Params | None, vectors: bool = False
    ) -> list[Hit]:
        where, params = self._condition(filter, params)
        hits: list[Hit] = self.collection.search(vector, k, where=where, params=params, vectors=vectors)
        return hits

    def _document(self, key: Any, metadata: dict[str, Any]) -> Document:
        text = metadata.get(self._text_name)
        content = "" if text is None else str(text)
        return Document(id=str(key), page_content=content, metadata=self._columns.restored(metadata))

    def _condition(self, filter: Filter | None, params: Params | None) -> tuple[str | None, Params | None]:
        """The arguments `where` and `params` of a search."""
        if filter is None or isinstance(filter, str):
            return filter, params
        if not isinstance(filter, Mapping):
            raise TypeError(f"filter: expected a dict or an SQL condition, got {type(filter).__name__}")
        if params is not None:
            raise ValueError("params: expected none with a dict as filter")
        names = [self._columns.stored_name(name) for name in filter]
        for name in names:
            metadata_.check_name(name)
        conditions = Conditions(names)
        parts = [
            conditions.equal(conditions.column(name), value) for name, value in zip(names, filter.values(), strict=True)
        ]
        return (all_of(parts), conditions.params) if parts else (None, None)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """Scores as LangChain defines them: 1 is the best; for vectors of length 1, most scores are in 0 to 1."""
        if self.collection.metric == "l2":
            return lambda distance: 1 - math.sqrt(distance / 2)
        return lambda similarity: similarity
