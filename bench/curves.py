"""Rate against recall: the best settings of an index, and its rate at a recall."""

from __future__ import annotations

import math
from typing import Any

Rows = list[dict[str, Any]]


def frontier(rows: Rows, measure: str = "recall@10", rate: str = "qps") -> Rows:
    """The rows that no other row beats in both, by ascending recall."""
    best: Rows = []
    for row in sorted(rows, key=lambda row: (-row[measure], -row[rate])):
        if not best or row[rate] > best[-1][rate]:
            best.append(row)
    return best[::-1]


def rate_at(rows: Rows, target: float, measure: str = "recall@10", rate: str = "qps") -> float:
    """Queries per second at a recall, between settings on the line of their logarithms; NaN: not reached."""
    best = frontier(rows, measure, rate)
    above = next((i for i, row in enumerate(best) if row[measure] >= target), None)
    if above is None:
        return math.nan
    if above == 0:
        return float(best[0][rate])
    low, high = best[above - 1], best[above]
    share = (target - low[measure]) / (high[measure] - low[measure])
    return float(low[rate] * (high[rate] / low[rate]) ** share)
