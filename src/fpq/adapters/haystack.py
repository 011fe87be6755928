"""A document store of Haystack that keeps its documents in a `fpq.Collection`; requires haystack-ai."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from haystack import component, default_from_dict, default_to_dict
from haystack.dataclasses import Document
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy, FilterPolicy, apply_filter_policy

from fpq import _checks
from fpq.adapters._conditions import all_of
from fpq.adapters._haystack_filters import Filters
from fpq.adapters._haystack_rows import COLUMNS, NO_EMBEDDING, different, document_of, row_of, vectors_of
from fpq.adapters._threads import in_thread
from fpq.collection import Collection, Row
from fpq.collection.store import FILE
from fpq.metric import METRICS, NAMES_ELSEWHERE, MetricName

__all__ = ["FpqDocumentStore", "FpqEmbeddingRetriever"]

Filter = dict[str, Any]

ALL = "key IS NOT NULL"


class FpqDocumentStore:
    """A document store of Haystack over a collection.

    The identifiers of documents are the keys of the collection. The text is the metadata value "content", and the
    metadata have their own names: "id", "key", "_kinds", "content", "_blob", "_blob_info", "_sparse_embedding" and
    "_no_embedding" get an underscore at the end. Metadata that are None are not stored.

    A document without an embedding is stored with a zero vector and the value "_no_embedding". No search finds it.

    Filters are those of Haystack. Dates in ISO format are compared as times, to the millisecond. Numbers, texts and
    dates are never less or greater than each other.

    Parameters
    ----------
    path : path, default ":memory:"
        The folder of a collection, which is opened when it is first used, and created if there is none. ":memory:" for
        a new collection in memory.
    embedding_dim : int, optional
        Dimension of the embeddings. Default: that of the collection or of the first document. A new collection needs it
        if the first documents have no embeddings.
    metric : {"cosine", "ip", "l2"}, default "cosine"
    read_only : bool, default False
        Open beside a writer, such as another store with the same path.

    Examples
    --------
    >>> from fpq.adapters.haystack import FpqDocumentStore, FpqEmbeddingRetriever
    >>> from haystack import Document
    >>> store = FpqDocumentStore()
    >>> store.write_documents([
    ...     Document(id="cat", content="a cat", meta={"legs": 4}, embedding=[1.0, 0.0]),
    ...     Document(id="dog", content="a dog", meta={"legs": 3}, embedding=[0.6, 0.8]),
    ... ])
    2
    >>> [document.id for document in store.filter_documents({"field": "meta.legs", "operator": ">", "value": 3})]
    ['cat']
    >>> retriever = FpqEmbeddingRetriever(store, top_k=1)
    >>> retriever.run([0.0, 1.0])["documents"][0].content
    'a dog'
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = ":memory:",
        *,
        embedding_dim: int | None = None,
        metric: MetricName = "cosine",
        read_only: bool = False,
    ) -> None:
        self.path = os.fspath(path)
        self.embedding_dim = None if embedding_dim is None else _checks.integer("embedding_dim", embedding_dim, 1)
        self.metric = _checks.choice("metric", metric, tuple(METRICS), NAMES_ELSEWHERE)
        self.read_only = read_only
        self._collection: Collection | None = None
        self._opening = threading.Lock()
        self._changing = threading.Lock()  # of calls that read and then write

    @property
    def collection(self) -> Collection:
        """The collection."""
        with self._opening:
            if self._collection is None:
                self._collection = self._opened()
            return self._collection

    def _opened(self) -> Collection:
        exists = self.path != ":memory:" and (Path(self.path) / FILE).exists()
        if not exists and not self.read_only:
            return Collection.create(self.path, self.embedding_dim, self.metric)
        collection = Collection.open(self.path, self.read_only)
        try:
            if self.metric != collection.metric:
                raise ValueError(f"metric: expected that of the collection, {collection.metric!r}, got {self.metric!r}")
            dim = collection.dim or self.embedding_dim
            if self.embedding_dim not in (None, dim):
                raise ValueError(f"embedding_dim: expected that of the collection, {dim}, got {self.embedding_dim}")
        except BaseException:
            collection.close()
            raise
        return collection

    def close(self) -> None:
        """Close the collection, if it was opened."""
        if self._collection is not None:
            self._collection.close()

    def to_dict(self) -> dict[str, Any]:
        """The settings of the store, as Haystack writes them into pipelines."""
        settings = {name: getattr(self, name) for name in ("path", "embedding_dim", "metric", "read_only")}
        return dict(default_to_dict(self, **settings))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FpqDocumentStore:
        """A store with these settings."""
        store: FpqDocumentStore = default_from_dict(cls, data)
        return store

    def count_documents(self) -> int:
        """The number of documents."""
        return len(self.collection)

    def filter_documents(self, filters: Filter | None = None) -> list[Document]:
        """The documents that fulfil a filter, in the order in which they were written."""
        return [document_of(row.key, row.metadata, row.vector) for row in self._rows(filters)]

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Store documents. All are stored, or none.

        Parameters
        ----------
        documents : list of Document
        policy : DuplicatePolicy
            What happens to documents whose identifiers are in the store or were in the list before. Default: FAIL.

        Returns
        -------
        int
            The number of written documents.

        Raises
        ------
        DuplicateDocumentError
            If the policy is FAIL or NONE, and an identifier is in the store or more than once in the list.
        ValueError
            If the documents are not as described, or have embeddings of another dimension.
        """
        if isinstance(documents, str) or not isinstance(documents, Iterable):
            raise ValueError(f"documents: expected a list of documents, got {type(documents).__name__}")
        documents = list(documents)
        for document in documents:
            if not isinstance(document, Document):
                raise ValueError(f"documents: expected documents, got {type(document).__name__}")
        chosen: dict[str, Document] = {}
        with self._changing:
            for document in documents:
                if policy == DuplicatePolicy.OVERWRITE or not (document.id in chosen or document.id in self.collection):
                    chosen[document.id] = document
                elif policy != DuplicatePolicy.SKIP:
                    raise DuplicateDocumentError(f"documents: expected new identifiers, got {document.id!r} again")
            if chosen:
                new = list(chosen.values())
                self.collection.upsert(
                    list(chosen), vectors_of(new, self.collection.dim or self.embedding_dim), list(map(row_of, new))
                )
        return len(chosen)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents. Identifiers that do not exist are ignored."""
        self.collection.delete(list(document_ids))

    def delete_all_documents(self) -> None:
        """Delete all documents."""
        self.delete_by_filter({})

    def delete_by_filter(self, filters: Filter) -> int:
        """Delete the documents that fulfil a filter; their number. An empty filter: all documents."""
        where, params = self._where(filters)
        return self.collection.delete(where=where or ALL, params=params)

    def update_by_filter(self, filters: Filter, meta: dict[str, Any]) -> int:
        """Set metadata of the documents that fulfil a filter, and keep their others; the number of these documents."""
        with self._changing:
            keys = self.collection.keys(*self._where(filters))
            if keys and meta:
                self.collection.update_metadata(keys, [COLUMNS.stored(meta)] * len(keys))
        return len(keys)

    def count_documents_by_filter(self, filters: Filter) -> int:
        """The number of documents that fulfil a filter."""
        return len(self.collection.keys(*self._where(filters)))

    def count_unique_metadata_by_filter(self, filters: Filter, metadata_fields: list[str]) -> dict[str, int]:
        """The numbers of different values that the documents that fulfil a filter have."""
        metas = self._metas(filters)
        return {field: len(different(metas, _name(field))) for field in metadata_fields}

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """The types of metadata by name: "boolean", "int", "float" or "keyword"."""
        types = {bool: "boolean", int: "int", float: "float"}
        return {
            name: {"type": types.get(type(value), "keyword")}
            for meta in self._metas(None)
            for name, value in meta.items()
        }

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        """The least and the greatest value of a name; None for both if there is none, or some cannot be compared."""
        values = different(self._metas(None), _name(metadata_field))
        try:
            return {"min": min(values), "max": max(values)}
        except (TypeError, ValueError):
            return {"min": None, "max": None}

    def get_metadata_field_unique_values(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: Filter | None = None,
    ) -> tuple[list[Any], int]:
        """The different values of a name in the order of their texts, `size` of them from number `from_`; their number.

        Parameters
        ----------
        metadata_field : str
        search_term : str, optional
            Only values whose text contains this one, whatever the case.
        from_, size : int
        filters : dict, optional
            Only values of documents that fulfil this filter.
        """
        values = different(self._metas(filters), _name(metadata_field))
        if search_term:
            values = [value for value in values if search_term.lower() in str(value).lower()]
        values.sort(key=lambda value: (str(value), type(value).__name__))
        return values[from_ : from_ + size], len(values)

    def embedding_retrieval(
        self,
        query_embedding: list[float],
        filters: Filter | None = None,
        top_k: int = 10,
        return_embedding: bool = False,
    ) -> list[Document]:
        """The documents nearest to a vector, nearest first.

        Their scores are the similarities of `Collection.search`; for "l2", the L2 distance times -1.
        """
        top_k = _checks.integer("top_k", top_k, 1)
        where, params = self._where(filters, embedded=True)
        hits = self.collection.search(query_embedding, top_k, where=where, params=params, vectors=return_embedding)
        scores = [-math.sqrt(hit.distance) if self.metric == "l2" else hit.distance for hit in hits]
        return [document_of(hit.key, hit.metadata, hit.vector, score) for hit, score in zip(hits, scores, strict=True)]

    count_documents_async = in_thread(count_documents)
    filter_documents_async = in_thread(filter_documents)
    write_documents_async = in_thread(write_documents)
    delete_documents_async = in_thread(delete_documents)
    delete_all_documents_async = in_thread(delete_all_documents)
    delete_by_filter_async = in_thread(delete_by_filter)
    update_by_filter_async = in_thread(update_by_filter)
    count_documents_by_filter_async = in_thread(count_documents_by_filter)
    count_unique_metadata_by_filter_async = in_thread(count_unique_metadata_by_filter)
    get_metadata_fields_info_async = in_thread(get_metadata_fields_info)
    get_metadata_field_min_max_async = in_thread(get_metadata_field_min_max)
    get_metadata_field_unique_values_async = in_thread(get_metadata_field_unique_values)
    embedding_retrieval_async = in_thread(embedding_retrieval)

    def _where(self, filters: Filter | None, *, embedded: bool = False) -> tuple[str | None, dict[str, Any] | None]:
        """The arguments `where` and `params` of a search; `embedded`: only documents with embeddings."""
        names = self.collection.columns
        translated = Filters(COLUMNS, names)
        parts = [translated.condition(filters)] if filters else []
        if embedded and NO_EMBEDDING in names:
            parts.append(translated.is_missing(NO_EMBEDDING))
        return (all_of(parts), translated.params) if parts else (None, None)

    def _rows(self, filters: Filter | None) -> list[Row]:
        where, params = self._where(filters)
        return self.collection.get(where=where or ALL, params=params)

    def _metas(self, filters: Filter | None) -> list[dict[str, Any]]:
        return [COLUMNS.restored(row.metadata) for row in self._rows(filters)]


def _name(field: str) -> str:
    return field.removeprefix("meta.")


@component
class FpqEmbeddingRetriever:
    """A component of Haystack that finds the documents of a `FpqDocumentStore` nearest to a vector.

    Parameters
    ----------
    document_store : FpqDocumentStore
    filters : dict, optional
    top_k : int, default 10
    return_embedding : bool, default False
        Whether documents have their embeddings.
    filter_policy : FilterPolicy, default FilterPolicy.REPLACE
        How `filters` of `run` go together with those of the component.
    """

    def __init__(
        self,
        document_store: FpqDocumentStore,
        *,
        filters: Filter | None = None,
        top_k: int = 10,
        return_embedding: bool = False,
        filter_policy: FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        if not isinstance(document_store, FpqDocumentStore):
            expected = "expected a FpqDocumentStore"
            raise TypeError(f"document_store: {expected}, got {type(document_store).__name__}")
        self.document_store = document_store
        self.filters = filters
        self.top_k = _checks.integer("top_k", top_k, 1)
        self.return_embedding = return_embedding
        self.filter_policy = filter_policy

    def to_dict(self) -> dict[str, Any]:
        """The settings of the component, as Haystack writes them into pipelines."""
        settings: dict[str, Any] = {name: getattr(self, name) for name in ("filters", "top_k", "return_embedding")}
        settings |= {"document_store": self.document_store.to_dict(), "filter_policy": self.filter_policy.value}
        return dict(default_to_dict(self, **settings))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FpqEmbeddingRetriever:
        """A component with these settings."""
        settings = dict(data["init_parameters"])
        settings["document_store"] = FpqDocumentStore.from_dict(settings["document_store"])
        if "filter_policy" in settings:
            settings["filter_policy"] = FilterPolicy.from_str(settings["filter_policy"])
        retriever: FpqEmbeddingRetriever = default_from_dict(cls, data | {"init_parameters": settings})
        return retriever

    @component.output_types(documents=list[Document])
    def run(
        self, query_embedding: list[float], filters: Filter | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """The documents nearest to a vector.

        Parameters
        ----------
        query_embedding : list of float
        filters : dict, optional
        top_k : int, optional
            Default: that of the component.

        Returns
        -------
        dict
            The list `documents`, nearest first.
        """
        documents = self.document_store.embedding_retrieval(
            query_embedding,
            apply_filter_policy(self.filter_policy, self.filters, filters),
            self.top_k if top_k is None else top_k,
            self.return_embedding,
        )
        return {"documents": documents}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query_embedding: list[float], filters: Filter | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """The same as `run`, in a thread."""
        return await asyncio.to_thread(self.run, query_embedding, filters, top_k)
