"""The arguments of a search of codes, after their check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fpq import _checks, threads
from fpq.indexes.parts.operating_points import chosen

if TYPE_CHECKING:
    from fpq.indexes.pq_base import CodeIndex


class Arguments(NamedTuple):
    """Arguments of a search, and what follows from them.

    The index keeps them for the next search: if that has the same objects as arguments, nothing is checked again.
    """

    k: int
    n_threads: int | None
    rerank: int | None
    n_probe: int | None
    n_resolved: int  # threads; if n_threads is None, their number depends on the environment at the time of the search
    by_codes: bool  # whether the codes alone rank the neighbours
    effort: dict[str, Any]  # further arguments of `_ranked`


def checked(
    index: CodeIndex, k: int, recall: float | None, n_threads: int | None, rerank: int | None, n_probe: int | None
) -> Arguments:
    """Check the arguments of a search of a trained index. Without `recall`, they include those of the attributes."""
    index._require_trained()
    effort: dict[str, Any] = {"n_probe": n_probe, "rerank": rerank}
    if recall is None:
        for name, value in effort.items():
            effort[name] = None if value is None else _checks.integer(name, value, 1)
        index._require_ranked(effort["rerank"])
    else:
        effort = dict(chosen(index._points, k, recall, effort))
        n_threads = index.n_threads if n_threads is None else n_threads
    n_resolved, by_codes = threads.resolve(n_threads), effort["rerank"] is None and index.refine is None
    found = Arguments(_checks.integer("k", k, 1), n_threads, rerank, n_probe, n_resolved, by_codes, effort)
    # Integers cannot change, and are told from other objects by identity: 1, True and 1.0 are equal.
    if recall is None and all(value is None or type(value) is int for value in found[:4]):
        index._lock.memo["arguments"] = found
    return found
