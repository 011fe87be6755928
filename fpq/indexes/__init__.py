"""The indexes: vectors under ids, searched for the nearest."""

from fpq.indexes.base import RangeResult, SearchResult
from fpq.indexes.flat import FlatIndex
from fpq.indexes.ivf import IVFPQIndex
from fpq.indexes.pq import PQIndex

__all__ = ["FlatIndex", "IVFPQIndex", "PQIndex", "RangeResult", "SearchResult"]
