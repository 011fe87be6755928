"""A collection: vectors with keys and metadata in a folder, with searches by vector and by SQL conditions."""

from fpq.collection.collection import Collection
from fpq.collection.results import CollectionStats, Hit, Row, SearchPlan

__all__ = ["Collection", "CollectionStats", "Hit", "Row", "SearchPlan"]
