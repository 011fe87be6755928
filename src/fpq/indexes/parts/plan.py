"""What searches of codes have in common, worked out once for many searches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fpq import _native
from fpq._checks import Float32, Int64
from fpq.indexes.parts.vector_file import VectorFile

if TYPE_CHECKING:
    from fpq.indexes.base import Bits
    from fpq.indexes.pq_base import CodeIndex

REFINED = 10  # the candidates per neighbour that refinement codes rank, unless `rerank` says how many


class Plan(NamedTuple):
    """A search of all codes for k neighbours with the same arguments, but for the queries."""

    arguments: tuple[int, int | None, int | None]  # k, rerank, n_probe
    codes: _native.Codes
    ranking: _native.Ranking | None
    refined: int  # candidates that are ranked by refinement codes; 0: none
    exact: int  # candidates that are ranked by `ranking`; 0: none
    n_probe: int

    def nearest(self, queries: Float32, rotated: Float32, n_threads: int) -> tuple[Float32, Int64]:
        """The k nearest neighbours of prepared queries, before and after their rotation."""
        shape = len(queries), self.arguments[0]
        distances, ids = np.empty(shape, np.float32), np.empty(shape, np.int64)
        answers = _native.TopK(distances, ids, True, self.ranking, queries, self.exact)
        self.codes.search(rotated, answers, n_threads, self.refined, self.n_probe, queries if self.n_probe else None)
        return distances, ids


def planned(index: CodeIndex, k: int, rerank: int | None, n_probe: int | None) -> Plan | None:
    """The plan of searches with these arguments; None: not all of their stages are one call of the kernels."""
    arguments, memo = (k, rerank, n_probe), index._lock.memo
    plan: Plan | None = memo.get("plan")
    if plan is not None and plan.arguments == arguments:
        return plan
    codes, (refined, exact) = searched(index, 0, None), stages(index, k, rerank)
    if (exact and isinstance(index._vectors, VectorFile)) or (n_probe is not None and not codes.selects(n_probe)):
        return None
    plan = Plan(arguments, codes, index._ranking(0) if exact else None, refined, exact, n_probe or 0)
    memo["plan"] = plan
    return plan


def stages(index: CodeIndex, k: int, rerank: int | None) -> tuple[int, int]:
    """How many codes a search for the k nearest refines, and how many vectors it reads; 0: none."""
    if index.refine is None:
        return 0, 0 if rerank is None else min(rerank * k, len(index))
    refined = min((rerank or REFINED) * k, len(index))
    return refined, min(refined, k + k // 2 + 8) if index.keep_vectors else 0


def searched(index: CodeIndex, power: int, allowed: Bits | None) -> _native.Codes:
    """The codes as searches for queries scaled by 2**power read them; `allowed`: bits of rows, None: all."""
    is_usual, memo = not power and allowed is None, index._lock.memo
    codes: _native.Codes | None = memo.get("codes") if is_usual else None
    if codes is None:
        refined = None
        if index._refinement is not None:
            planes, of_candidates = index._columns.planes(), index._candidate_ids()
            refined = index._refinement.native(planes, len(index), *of_candidates, index._metric.inner_product, power)
        codes = index._native_codes(refined, power, allowed)
        if is_usual:
            memo["codes"] = codes
    return codes
