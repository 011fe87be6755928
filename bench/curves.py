"""Rate against recall: the best settings of an index, and its rate at a recall."""

from __future__ import annotations

import math
from typing import Any


def frontier(rows: list[dict[str, Any]], measure: str, rate: str = "qps") -> list[dict[str, Any]]:
    """The rows that no other row beats in both, by ascending recall."""
    best: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (-row[measure], -row[rate])):
        if not best or row[rate] > best[-1][rate]:
            best.append(row)
    return best[::-1]


def rate_at(rows: list[dict[str, Any]], target: float, rate: str = "qps") -> float:
    """Queries per second at a recall@10, between settings on the line of their logarithms; NaN: not reached."""
    best = frontier(rows, "recall@10", rate)
    above = next((i for i, row in enumerate(best) if row["recall@10"] >= target), None)
    if above is None:
        return math.nan
    if above == 0:
        return float(best[0][rate])
    low, high = best[above - 1], best[above]
    share = (target - low["recall@10"]) / (high["recall@10"] - low["recall@10"])
    return float(low[rate] * (high[rate] / low[rate]) ** share)
