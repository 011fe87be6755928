"""The table and the figure of a run."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

from bench.paper.figures import save

TARGETS = (0.5, 0.8, 0.9, 0.95, 0.99)
FAMILIES = {
    "FlatIndex": ("black", "*"),
    "E2LSH": ("#d55e00", "o"),
    "C2LSH": ("#e69f00", "s"),
    "PQ": ("#0072b2", "^"),
    "IVFPQ": ("#56b4e9", "D"),
    "faiss IVF": ("#009e73", "v"),
    "faiss RaBitQ": ("#004d38", "P"),
}
Rows = list[dict[str, Any]]


def frontier(rows: Rows) -> Rows:
    """The settings than which no other is both faster and better, by rising recall."""
    kept: Rows = []
    for row in sorted(rows, key=lambda row: (-row["recall"], -row["qps"])):
        if not kept or row["qps"] > kept[-1]["qps"]:
            kept.append(row)
    return kept[::-1]


def at_recall(rows: Rows, recall: float) -> float | None:
    """The rate at a recall: of the fastest setting that reaches it, or between it and the one below, by logarithms."""
    best = frontier(rows)
    if best[0]["recall"] >= recall:
        return best[0]["qps"]
    for below, above in itertools.pairwise(best):
        if below["recall"] < recall <= above["recall"]:
            share = (recall - below["recall"]) / (above["recall"] - below["recall"])
            return math.exp((1 - share) * math.log(below["qps"]) + share * math.log(above["qps"]))
    return None


def by_index(result: dict[str, Any]) -> dict[str, Rows]:
    """The rows of each index."""
    return {index: list(rows) for index, rows in itertools.groupby(result["rows"], lambda row: row["index"])}


def table(result: dict[str, Any]) -> str:
    """Rates at some recalls, as Markdown."""
    head = ["index", "bytes a vector", "build s", "best recall@10", *(f"q/s at {target:g}" for target in TARGETS)]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for index, rows in by_index(result).items():
        rates = (at_recall(rows, target) for target in TARGETS)
        lines.append([
            index, f"{rows[0]['bytes']:.0f}", f"{rows[0]['build_s']:.1f}", f"{max(r['recall'] for r in rows):.3f}",
            *("-" if rate is None else f"{rate:,.0f}" for rate in rates),
        ])  # fmt: skip
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(result: dict[str, Any], stem: Path) -> None:
    """One curve an index, PNG and SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 5), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for index, rows in by_index(result).items():
        points = [(row["recall"], row["qps"]) for row in frontier(rows)]
        axes.plot(*zip(*points, strict=True), label=f"{index}: {rows[0]['bytes']:.0f}", **_look(index))
    axes.set(
        xlabel="recall@10, share of the ten true neighbours found", ylabel="queries a second, one thread", yscale="log"
    )
    axes.set_xlim(0.2, 1.01)
    axes.set_title(f"{result['set']}: {result['n']:,} vectors of {result['d']} bytes", loc="left", fontsize=13)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=10.5, loc="center left", bbox_to_anchor=(1, 0.5),
                title="index, bytes a code: bytes a vector in all", alignment="left")  # fmt: skip
    save(figure, stem)


def _look(index: str) -> dict[str, Any]:
    """Colour by family; solid lines and full markers where vectors are kept to rank by exact distances."""
    color, marker = next(look for start, look in FAMILIES.items() if index.startswith(start))
    exact = any(word in index for word in ("rerank", "LSH", "exact"))
    large = any(word in index for word in (" 84", " 106"))
    return {
        "color": color,
        "marker": marker,
        "linestyle": "-" if exact else "--",
        "markerfacecolor": color if exact else "white",
        "markersize": 13 if marker == "*" else 10 if large else 6,
    }
