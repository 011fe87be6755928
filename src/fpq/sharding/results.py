"""The results of a sharded index."""

from __future__ import annotations

from fpq.indexes.base import RangeResult, SearchResult


class ShardedResult(SearchResult):
    """A `SearchResult` (``distances, ids``) with the names of missing shards.

    Attributes
    ----------
    missing : dict
        The errors of shards that were not searched, by file name. Always empty without ``allow_partial``.
    """

    missing: dict[str, str]


class ShardedRangeResult(RangeResult):
    """A `RangeResult` with the names of missing shards: `missing` is as in `ShardedResult`."""

    missing: dict[str, str]
