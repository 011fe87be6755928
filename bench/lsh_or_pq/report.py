"""The table and the figure of a run."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

from bench.curves import Rows, frontier, rate_at
from bench.paper.figures import save

TARGETS = (0.5, 0.8, 0.9, 0.95, 0.99)
FAMILIES = {
    "FlatIndex": ("black", "*"),
    "E2LSH": ("#d55e00", "o"),
    "C2LSH": ("#b07a00", "s"),
    "PQ": ("#0072b2", "^"),
    "IVFPQ": ("#cc79a7", "D"),
    "faiss IVF": ("#009e73", "v"),
    "faiss RaBitQ": ("#555555", "P"),
}
PANELS = {"Vectors kept, ranked by exact distances": True, "Codes only": False}


def by_index(result: dict[str, Any]) -> dict[str, Rows]:
    """The rows of each index."""
    return {index: list(rows) for index, rows in itertools.groupby(result["rows"], lambda row: row["index"])}


def table(result: dict[str, Any]) -> str:
    """Rates at some recalls, as Markdown."""
    head = ["index", "bytes per vector", "build s", "best recall@10", *(f"q/s at {target:g}" for target in TARGETS)]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for index, rows in by_index(result).items():
        rates = (rate_at(rows, target, "recall") for target in TARGETS)
        lines.append([
            index, f"{rows[0]['bytes']:.0f}", f"{rows[0]['build_s']:.1f}", f"{max(r['recall'] for r in rows):.3f}",
            *("-" if math.isnan(rate) else f"{rate:,.0f}" for rate in rates),
        ])  # fmt: skip
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(result: dict[str, Any], stem: Path) -> None:
    """One curve per index, in a panel for indexes that keep the vectors or in one for codes, as SVG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(7.6, 10), layout="constrained", facecolor="white")
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    for axes, (title, exact) in zip(panels, PANELS.items(), strict=True):
        for index, rows in by_index(result).items():
            if exact == any(word in index for word in ("rerank", "LSH", "exact")):
                points = [(row["recall"], row["qps"]) for row in frontier(rows, "recall")]
                look = _look(index, len(points) == 1)
                axes.plot(*zip(*points, strict=True), label=f"{_name(index)}: {rows[0]['bytes']:,.0f}", **look)
        axes.set(yscale="log", ylabel="queries per second, one thread")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(0.2, 1.01)
        axes.tick_params(labelbottom=True)
        axes.set_title(title, loc="left", fontsize=12, weight="bold")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=10.5, loc="upper center", bbox_to_anchor=(0.45, -0.15), ncols=2,
                    title="index: bytes per vector, all included", title_fontsize=10.5)  # fmt: skip
        axes.set_xlabel("recall@10: share of the 10 nearest among the 10 found")
    figure.suptitle(f"{result['set']}: {result['n']:,} vectors of {result['d']} bytes", fontsize=13)
    save(figure, stem)


def _name(index: str) -> str:
    """`PQIndex 24, rerank` as `PQIndex, m = 24, rerank`, `faiss RaBitQ 24` as `faiss RaBitQ, 24-byte codes`."""
    index = re.sub(r"^(\w*PQIndex) (\d+)", r"\1, m = \2", index)
    return re.sub(r"^(faiss .*RaBitQ) (\d+)", r"\1, \2-byte codes", index)


def _look(index: str, single: bool) -> dict[str, Any]:
    """A colour and a marker per family; no line through a single point; a large marker for long codes."""
    color, marker = next(look for start, look in FAMILIES.items() if index.startswith(start))
    large = any(word in index for word in (" 84", " 106"))
    size = 13 if marker == "*" or large else 6
    return {"color": color, "marker": marker, "linestyle": "none" if single else "-", "markersize": size}
