"""What searches of codes with the same arguments have in common."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fpq import _native
from fpq._checks import Float32, Int64


class Plan(NamedTuple):
    """A search of all codes for k neighbours, worked out but for the queries."""

    codes: _native.Codes
    ranking: _native.Ranking | None
    k: int
    exact: int  # candidates that are ranked by `ranking`; 0: none
    refined: int  # candidates that are ranked by refinement codes; 0: none
    n_probe: int

    def nearest(self, queries: Float32, rotated: Float32, n_threads: int) -> tuple[Float32, Int64]:
        """The k nearest neighbours of prepared queries, before and after their rotation."""
        n = len(queries)
        distances, ids = np.empty((n, self.k), np.float32), np.empty((n, self.k), np.int64)
        answers = _native.TopK(distances, ids, True, self.ranking, queries, self.exact)
        self.codes.search(rotated, answers, n_threads, self.refined, self.n_probe, queries if self.n_probe else None)
        return distances, ids
