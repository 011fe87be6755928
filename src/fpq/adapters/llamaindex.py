"""A vector store of LlamaIndex that keeps its nodes in a `fpq.Collection`; requires llama-index-core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from fpq import _checks
from fpq.adapters._columns import Columns
from fpq.adapters._conditions import Conditions, all_of, any_of, negated
from fpq.adapters._threads import in_thread
from fpq.collection import Collection, Hit

__all__ = ["FpqVectorStore"]

MMR_FACTOR = 4  # nodes per wanted node among which maximal marginal relevance chooses


class FpqVectorStore(BasePydanticVectorStore):
    """A vector store of LlamaIndex over a collection.

    The identifiers of nodes are the keys of the collection. The metadata of a row are those that LlamaIndex's
    `node_to_metadata_dict` makes of a node: the whole node as JSON, and its metadata by name for filters. "id", "key"
    and "_kinds" get an underscore at the end.

    Filters compare as in LlamaIndex's own `SimpleVectorStore`: a missing value fulfils "!=", "nin" and "is_empty" only.
    Numbers and texts are never less or greater than each other. "text_match_insensitive" ignores the case of ASCII
    letters.

    Similarities are those of the collection; for "l2", the L2 distance times -1.

    Parameters
    ----------
    collection : fpq.Collection
        A collection whose keys are str. The caller closes it.

    Examples
    --------
    >>> import fpq
    >>> from fpq.adapters.llamaindex import FpqVectorStore
    >>> from llama_index.core.schema import TextNode
    >>> from llama_index.core.vector_stores import VectorStoreQuery
    >>> with fpq.Collection.create(":memory:") as collection:
    ...     store = FpqVectorStore(collection)
    ...     cat = TextNode(id_="cat", text="a cat", metadata={"legs": 4}, embedding=[1.0, 0.0])
    ...     dog = TextNode(id_="dog", text="a dog", metadata={"legs": 3}, embedding=[0.6, 0.8])
    ...     ids = store.add([cat, dog])
    ...     found = store.query(VectorStoreQuery(query_embedding=[0.0, 1.0]))
    ...     found.nodes[0].text, found.nodes[0].metadata
    ('a dog', {'legs': 3})
    """

    stores_text: bool = True
    is_embedding_query: bool = True

    _collection: Collection = PrivateAttr()
    _columns: Columns = PrivateAttr()

    def __init__(self, collection: Collection) -> None:
        if not isinstance(collection, Collection):
            raise TypeError(f"collection: expected a fpq.Collection, got {type(collection).__name__}")
        super().__init__()
        self._collection = collection
        self._columns = Columns()

    @classmethod
    def class_name(cls) -> str:
        """The name of the class in LlamaIndex's files."""
        return "FpqVectorStore"

    @property
    def client(self) -> Collection:
        """The collection."""
        return self._collection

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Store nodes with their embeddings. Nodes with the same identifiers are replaced. All are stored, or none.

        Returns
        -------
        list of str
            The identifiers.
        """
        keys = [node.node_id for node in nodes]
        if keys:
            rows = [self._columns.stored(node_to_metadata_dict(node)) for node in nodes]
            self._collection.upsert(keys, [node.get_embedding() for node in nodes], rows)
        return keys

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document."""
        self._delete(*self._where(None, [ref_doc_id], None))

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete the nodes with these identifiers that fulfil the filters."""
        where, params = self._where(node_ids, None, filters)
        if where is None:
            raise ValueError("node_ids: expected node_ids or filters, got neither: clear() deletes all nodes")
        self._delete(where, params)

    def clear(self) -> None:
        """Delete all nodes."""
        self._delete("key IS NOT NULL", None)

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """The nodes with these identifiers that fulfil the filters, in the order in which they were stored.

        They have their embeddings. Without arguments: all nodes.
        """
        where, params = self._where(node_ids, None, filters)
        nodes = []
        for row in self._collection.get(where=where or "key IS NOT NULL", params=params):
            node = metadata_dict_to_node(row.metadata)
            node.embedding = row.vector.tolist()
            nodes.append(node)
        return nodes

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nodes nearest to a vector, nearest first.

        Parameters
        ----------
        query : VectorStoreQuery
            Its mode is "default" or "mmr". For "mmr" the `mmr_threshold` may be in `kwargs`, too, and
            `mmr_prefetch_factor`: of this many times `similarity_top_k` nodes (default 4), LlamaIndex's
            `get_top_k_mmr_embeddings` chooses those that are near the vector and unlike each other.

        Raises
        ------
        ValueError
            If the mode is another, or the query has no vector.
        """
        if query.mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
            raise ValueError(f"mode: expected default or mmr, got {getattr(query.mode, 'value', query.mode)}")
        if query.query_embedding is None:
            raise ValueError("query_embedding: expected a vector, got None")
        k = _checks.integer("similarity_top_k", query.similarity_top_k, 1)
        # Retrievers pass an empty list for all nodes.
        where, params = self._where(query.node_ids or None, query.doc_ids or None, query.filters)
        if query.mode == VectorStoreQueryMode.DEFAULT:
            hits = self._collection.search(query.query_embedding, k, where=where, params=params)
            return self._result(hits)
        factor = _checks.integer("mmr_prefetch_factor", kwargs.get("mmr_prefetch_factor", MMR_FACTOR), 1)
        hits = self._collection.search(query.query_embedding, k * factor, where=where, params=params, vectors=True)
        threshold = query.mmr_threshold if query.mmr_threshold is not None else kwargs.get("mmr_threshold")
        _, places = get_top_k_mmr_embeddings(
            query.query_embedding, [hit.vector for hit in hits], similarity_top_k=k, mmr_threshold=threshold
        )
        return self._result([hits[i] for i in places])

    async_add = in_thread(add)
    adelete = in_thread(delete)
    adelete_nodes = in_thread(delete_nodes)
    aclear = in_thread(clear)
    aget_nodes = in_thread(get_nodes)
    aquery = in_thread(query)

    def _delete(self, where: str | None, params: dict[str, Any] | None) -> None:
        self._collection.delete(where=where, params=params)

    def _where(
        self, node_ids: list[str] | None, doc_ids: list[str] | None, filters: MetadataFilters | None
    ) -> tuple[str | None, dict[str, Any] | None]:
        """The arguments `where` and `params` of a search."""
        conditions, parts = Conditions(self._collection.columns), []
        if node_ids is not None:
            parts.append(conditions.among("key", node_ids))
        if doc_ids is not None:
            parts.append(conditions.among(conditions.column("ref_doc_id"), doc_ids))
        if filters is not None and filters.filters:
            parts.append(self._tree(conditions, filters))
        return (all_of(parts), conditions.params) if parts else (None, None)

    def _tree(self, conditions: Conditions, filters: MetadataFilters) -> str:
        parts = [
            self._tree(conditions, each) if isinstance(each, MetadataFilters) else self._comparison(conditions, each)
            for each in filters.filters
        ]
        if filters.condition == FilterCondition.OR:
            return any_of(parts)
        return negated(any_of(parts)) if filters.condition == FilterCondition.NOT else all_of(parts)

    def _comparison(self, conditions: Conditions, filter: MetadataFilter) -> str:
        operator, value = filter.operator, filter.value
        column = conditions.column(self._columns.stored_name(filter.key))
        if operator == FilterOperator.IS_EMPTY:
            return f"({column} IS NULL OR {column} IN ('', '[]'))"
        if operator in LISTS and not isinstance(value, list):
            raise ValueError(f"filters: expected a list as value of {operator.value!r}, got {value!r}")
        if operator in (FilterOperator.IN, FilterOperator.NIN):
            inside = conditions.among(column, value)
            return inside if operator == FilterOperator.IN else negated(inside)
        if operator == FilterOperator.ANY:
            return conditions.has_any(column, value)
        if operator == FilterOperator.ALL:
            return conditions.has_all(column, value)
        if operator in (FilterOperator.EQ, FilterOperator.NE):
            same = "0" if value is None else conditions.equal(column, value)
            return same if operator == FilterOperator.EQ else negated(same)
        if operator == FilterOperator.CONTAINS and isinstance(value, (str, int, float)):
            return conditions.has_any(column, [value])
        if operator in TEXTS and isinstance(value, str):
            return conditions.has_text(column, value, ignore_case=operator == FilterOperator.TEXT_MATCH_INSENSITIVE)
        if operator in ORDERS and isinstance(value, (str, int, float)):
            return conditions.ordered(column, operator.value, value)
        expected = "a text" if operator in TEXTS else "a text or a number"
        raise ValueError(f"filters: expected {expected} as value of {operator.value!r}, got {value!r}")

    def _result(self, hits: list[Hit]) -> VectorStoreQueryResult:
        similarities = [hit.distance for hit in hits]
        if self._collection.metric == "l2":
            similarities = [-math.sqrt(distance) for distance in similarities]
        return VectorStoreQueryResult(
            nodes=[metadata_dict_to_node(hit.metadata) for hit in hits],
            similarities=similarities,
            ids=[str(hit.key) for hit in hits],
        )


LISTS = (FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL)
TEXTS = (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE)
ORDERS = (FilterOperator.GT, FilterOperator.GTE, FilterOperator.LT, FilterOperator.LTE)
