"""The indexes: vectors with ids, and the search for nearest neighbours."""

from fpq.indexes.base import RangeResult, SearchResult
from fpq.indexes.c2lsh import C2LSHIndex
from fpq.indexes.e2lsh import E2LSHIndex
from fpq.indexes.flat import FlatIndex
from fpq.indexes.ivf import IVFPQIndex
from fpq.indexes.minhash import MinHashIndex
from fpq.indexes.multi_vector import MultiVectorIndex
from fpq.indexes.pmlsh import PMLSHIndex
from fpq.indexes.pq import PQIndex

__all__ = [
    "C2LSHIndex",
    "E2LSHIndex",
    "FlatIndex",
    "IVFPQIndex",
    "MinHashIndex",
    "MultiVectorIndex",
    "PMLSHIndex",
    "PQIndex",
    "RangeResult",
    "SearchResult",
]
