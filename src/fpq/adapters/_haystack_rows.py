"""Documents of Haystack as rows of a collection."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from haystack.dataclasses import ByteStream, Document, SparseEmbedding

from fpq._checks import Array
from fpq.adapters._columns import Columns

NO_EMBEDDING = "_no_embedding"
COLUMNS = Columns(["content", "_blob", "_blob_info", "_sparse_embedding", NO_EMBEDDING])


def row_of(document: Document) -> dict[str, Any]:
    """The metadata of the row of a document."""
    row = COLUMNS.stored(document.meta)
    row |= {"content": document.content, NO_EMBEDDING: True if document.embedding is None else None}
    if document.blob is not None:
        row |= {
            "_blob": document.blob.data,
            "_blob_info": {"mime_type": document.blob.mime_type, "meta": document.blob.meta},
        }
    if document.sparse_embedding is not None:
        row["_sparse_embedding"] = document.sparse_embedding.to_dict()
    return row


def document_of(key: Any, row: dict[str, Any], vector: Array | None, score: float | None = None) -> Document:
    """The document of a row."""
    blob, sparse = row.get("_blob"), row.get("_sparse_embedding")
    return Document(
        id=str(key),
        content=row.get("content"),
        blob=None if blob is None else ByteStream(data=blob, **row["_blob_info"]),
        meta=COLUMNS.restored(row),
        score=score,
        embedding=None if vector is None or NO_EMBEDDING in row else vector.tolist(),
        sparse_embedding=None if sparse is None else SparseEmbedding.from_dict(sparse),
    )


def vectors_of(documents: list[Document], dim: int | None) -> list[list[float]]:
    """The embeddings of documents, and zeros for those that have none; `dim`: None if it is not known yet."""
    known = [document.embedding for document in documents if document.embedding is not None]
    if dim is None and not known:
        raise ValueError("embedding_dim: expected a dimension, as no document has an embedding yet, got None")
    dim = len(known[0]) if dim is None else dim
    wrong = next((len(embedding) for embedding in known if len(embedding) != dim), None)
    if wrong is not None:
        raise ValueError(f"documents: expected embeddings of dimension {dim}, got {wrong}")
    return [[0.0] * dim if document.embedding is None else document.embedding for document in documents]


def different(metas: Iterable[dict[str, Any]], name: str) -> list[Any]:
    """The values of a name, each once; 1, 1.0 and True are different."""
    values = [meta[name] for meta in metas if name in meta]
    return list({(type(value), json.dumps(value, sort_keys=True, default=str)): value for value in values}.values())
