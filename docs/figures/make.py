"""Draw the figures of docs/: python docs/figures/make.py [NAME ...], all by default.

The figure `rounding` needs the data set minilm: see fpq.datasets.load.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

import fpq

HERE = Path(__file__).resolve().parent
INK, BLUE, ORANGE, GREEN, PALE = "#222222", "#1f6fb4", "#d9730d", "#2f8f4e", "#eef3f8"
QUERIES, K = 100, 100
matplotlib.rcParams.update({"svg.hashsalt": "fpq", "font.size": 12, "font.family": "DejaVu Sans"})


def main(names: list[str]) -> None:
    """Draw the figures with these names."""
    figures = {
        "choosing": choosing, "tables": tables, "quantize": quantize, "prune": prune, "rounding": rounding,
        "refine": refine, "merge": merge,
    }  # fmt: skip
    for name in names or figures:
        save(figures[name](), name)


def save(figure: Figure, name: str) -> None:
    figure.savefig(HERE / f"{name}.svg", facecolor="white", metadata={"Date": None})


def canvas(width: float, height: float) -> tuple[Figure, Any]:
    """A figure of so many inches, coordinates in inches from the top left."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    return figure, axes


def box(axes: Any, x: float, y: float, w: float, h: float, text: str, colour: str, filled: bool = False) -> None:
    shape = FancyBboxPatch(
        (x + 0.06, y + 0.06), w - 0.12, h - 0.12, boxstyle="round,pad=0.06,rounding_size=0.1",
        fc=colour if filled else PALE, ec=colour, lw=1.6,
    )  # fmt: skip
    axes.add_patch(shape)
    axes.text(x + w / 2, y + h / 2, text, ha="center", va="center", color="white" if filled else INK, linespacing=1.35)


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], label: str = "", dx: float = 0.1) -> None:
    style = {"arrowstyle": "-|>", "color": INK, "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
    if label:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        sideways = start[1] == end[1]
        axes.text(x if sideways else x + dx, y - 0.1 if sideways else y, label,
                  ha="center" if sideways else "left", va="bottom" if sideways else "center", color=INK)  # fmt: skip


def choosing() -> Figure:
    """From questions, down the left, to classes at the right."""
    figure, axes = canvas(9.6, 7.1)
    questions = [
        ("Up to tens of thousands of vectors,\nor exact answers wanted?", "FlatIndex()"),
        ("A proven bound on the error wanted,\nand the vectors fit into memory?", "C2LSHIndex()"),
        ("Up to a few hundred\nthousand vectors?", "PQIndex(m, keep_vectors=True)\nthen tune"),
        ("Does one machine\nhold all vectors?", "IVFPQIndex(n_lists, m,\nkeep_vectors=True), then tune"),
    ]
    for i, (question, answer) in enumerate(questions):
        top = 0.2 + 1.3 * i
        box(axes, 0.3, top, 4.0, 0.95, question, BLUE)
        box(axes, 5.3, top, 4.0, 0.95, answer, BLUE, filled=True)
        arrow(axes, (4.3, top + 0.475), (5.3, top + 0.475), "yes")
        arrow(axes, (2.3, top + 0.95), (2.3, top + 1.3), "no")
    box(axes, 0.3, 5.4, 4.0, 0.95, "fpq.dask.build and\nShardedIndex", BLUE, filled=True)
    box(axes, 5.3, 5.4, 4.0, 0.95, "No memory for the vectors?\nkeep_vectors=path, or codes alone", ORANGE)
    axes.plot([7.3, 7.3], [5.05, 5.4], color=ORANGE, lw=1.4, ls="--")
    note = "m: an eighth of the dimensions, at least 25. n_lists: twice the square root of the number of vectors."
    axes.text(4.8, 6.75, note, ha="center", va="center", fontsize=11, color="0.25")
    return figure


def cells(
    axes: Any,
    x: float,
    y: float,
    values: list[Any],
    colour: str = BLUE,
    width: float = 0.5,
    marked: tuple[int, ...] = (),
) -> None:
    """A row of values in boxes, some of them filled."""
    for i, value in enumerate(values):
        fill = colour if i in marked else "white"
        axes.add_patch(Rectangle((x + width * i, y), width, 0.36, fc=fill, ec=colour, lw=1))
        ink = "white" if i in marked else INK
        axes.text(x + width * (i + 0.5), y + 0.18, value, ha="center", va="center", fontsize=10, color=ink)


def tables() -> Figure:
    """A query, its sub-vectors, a table for each, the entries that a code adds up."""
    figure, axes = canvas(10, 3.6)
    axes.text(0.3, 0.35, "query", weight="bold", va="center")
    axes.text(3.3, 0.35, "look-up tables: squared distance to each codeword", weight="bold", va="center")
    axes.text(8.6, 0.35, "a code", weight="bold", va="center")
    entries = [[4.1, 0.3, 2.6, 7.2], [1.9, 3.3, 0.8, 5.0], [6.4, 2.2, 9.1, 0.5]]
    codes = [1, 2, 0]
    for j, (row, code) in enumerate(zip(entries, codes, strict=True)):
        y = 0.75 + 0.7 * j
        box(axes, 0.3, y - 0.06, 1.9, 0.48, f"sub-vector {j}", BLUE)
        arrow(axes, (2.25, y + 0.18), (3.2, y + 0.18))
        cells(axes, 3.3, y, [*row, "...", round(3.7 - j, 1)], ORANGE, 0.7, (code,))
        cells(axes, 8.75, y, [code], GREEN, 0.5)
        arrow(axes, (8.7, y + 0.18), (7.6, y + 0.18))
    axes.text(3.3, 3.05, "distance = 0.3 + 0.8 + 6.4 = 7.5, added in this order", va="center", fontsize=12)
    return figure


def quantize() -> Figure:
    """A table of floats, above its least, in bytes."""
    figure, axes = canvas(10, 3.0)
    entries = [4.1, 0.3, 2.6, 7.2, 1.4]
    above = [round(entry - min(entries), 1) for entry in entries]
    scale = 254 / 6.0
    values = [min(255, int(value * scale)) for value in above]
    steps: list[tuple[str, list[Any], str]] = [
        ("a look-up table", entries, ORANGE),
        ("minus its least entry", above, ORANGE),
        ("times the scale, rounded down", values, BLUE),
    ]
    for i, (text, row, colour) in enumerate(steps):
        y = 0.35 + 0.7 * i
        axes.text(0.3, y, text, weight="normal" if i else "bold", va="center")
        cells(axes, 4.3, y - 0.18, [*row[:4], "...", row[4]], colour, 0.9)
    note = (
        "The threshold is 6.0 above the sum of the least entries of all tables: the scale makes it 254.\n"
        "Larger entries saturate at 255."
    )
    axes.text(0.3, 2.5, note, va="center", fontsize=11, color="0.25", linespacing=1.4)
    return figure


def prune() -> Figure:
    """A code block, its look-ups, its byte sums, the rows that are left."""
    figure, axes = canvas(10, 4.4)
    rng = np.random.default_rng(3)
    axes.text(0.3, 0.35, "one code block: 64 rows", weight="bold", va="center")
    axes.text(4.45, 0.35, "byte tables", weight="bold", va="center")
    axes.text(6.55, 0.35, "byte sums", weight="bold", va="center")
    axes.text(8.2, 0.35, "left over", weight="bold", va="center")
    names = ["subquantizer 3", "subquantizer 0", "...", "subquantizer 9"]
    for i, name in enumerate(names):
        y = 0.75 + 0.75 * i
        if name == "...":
            axes.text(1.9, y + 0.2, "...", ha="center", va="center")
            axes.text(5.1, y + 0.2, "...", ha="center", va="center")
            continue
        axes.text(0.3, y - 0.02, name, fontsize=10, color="0.35", va="bottom")
        for c, code in enumerate(rng.integers(0, 256, 8)):
            last = c == 7
            axes.add_patch(Rectangle((0.3 + 0.42 * c, y), 0.42, 0.36, fc=PALE, ec=BLUE, lw=1))
            axes.text(0.51 + 0.42 * c, y + 0.18, "..." if c == 6 else code, ha="center", va="center", fontsize=10)
            if last:
                arrow(axes, (3.72, y + 0.18), (4.4, y + 0.18))
        table = rng.permutation([0, *rng.integers(1, 120, 4)]).tolist()
        for c, entry in enumerate([*table[:3], "...", table[3]]):
            axes.add_patch(Rectangle((4.45 + 0.34 * c, y), 0.34, 0.36, fc="white", ec=ORANGE, lw=1))
            axes.text(4.62 + 0.34 * c, y + 0.18, entry, ha="center", va="center", fontsize=10)
        axes.plot([6.15, 6.38], [y + 0.18, y + 0.18], color=INK, lw=1.4)
    sums = [255, 91, 255, 255, 212, 255, 255]
    for i, value in enumerate(sums):
        y, near = 0.75 + 0.37 * i, value < 255
        colour = GREEN if near else "0.7"
        axes.add_patch(Rectangle((6.75, y), 0.6, 0.33, fc="#e7f4ea" if near else "white", ec=colour, lw=1.2))
        axes.text(7.05, y + 0.165, value, ha="center", va="center", fontsize=10, color=INK if near else "0.55")
        if near:
            arrow(axes, (7.4, y + 0.165), (8.15, y + 0.165))
            axes.text(8.22, y + 0.165, "exact float sum", va="center", fontsize=10)
    axes.plot([6.38, 6.38], [0.93, 3.18], color=INK, lw=1.4)
    arrow(axes, (6.38, 2.04), (6.7, 2.04))
    axes.text(0.3, 3.72, "The tables that prune most come first. A row whose byte sum saturates at 255 has a distance\n"
              "above the threshold: it cannot be among the k nearest.",
              va="center", fontsize=11, color="0.25", linespacing=1.4)  # fmt: skip
    return figure


def rounding() -> Figure:
    """Rows that byte sums leave per row of the answer, with one sum and with partial sums."""
    data = fpq.datasets.load("minilm")
    base, queries = np.asarray(data.base, np.float32), np.asarray(data.query[:QUERIES], np.float32)
    sizes = (16, 32, 48, 64, 96)
    one, partial = [], []
    for m in sizes:
        index = fpq.PQIndex(m).fit(base).add(base)
        codes, limits = index.codes, index.search(queries, K).distances[:, -1]
        left = np.zeros(2)
        for table, limit in zip(index.quantizer.distance_table(queries), limits, strict=True):
            above, width = table - table.min(axis=1, keepdims=True), float(limit) - float(table.min(axis=1).sum())
            entries = np.take_along_axis(above, codes.T.astype(np.int64), axis=1)
            left += [_left(entries, width, 1), _left(entries, width, -(-m // 8))]
        one.append(left[0] / K / QUERIES)
        partial.append(left[1] / K / QUERIES)
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(sizes, one, color=ORANGE, marker="s", lw=2, label="one sum of 8 bits")
    axes.plot(sizes, partial, color=BLUE, marker="o", lw=2, label="partial sums of 8 bytes, added in 16 bits")
    axes.set_yscale("log")
    axes.set_yticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    axes.set_xticks(sizes)
    axes.set_xlabel("subquantizers")
    axes.set_ylabel("rows left per row of the answer")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    axes.set_title(f"{len(base):,} MiniLM embeddings, k = {K}, mean of {QUERIES} queries", fontsize=12)
    return figure


def _left(entries: np.ndarray, width: float, partial_sums: int) -> int:
    """Rows whose sums do not exceed that of the threshold; entries (m, n) above the minima of their tables."""
    largest = 254 if partial_sums == 1 else int(254 * partial_sums / 1.5)
    rounded = np.minimum(np.floor(entries * (largest / width)), 255)
    sums = sum(np.minimum(rounded[i::partial_sums].sum(axis=0), 255) for i in range(partial_sums))
    return int((sums <= largest).sum())


def refine() -> Figure:
    """Rows that are left, their exact distances, the heap, the threshold."""
    figure, axes = canvas(10, 3.2)
    box(axes, 0.3, 0.6, 2.5, 1.1, "rows left by prune,\nup to 128 at a time", GREEN)
    box(axes, 3.5, 0.6, 2.4, 1.1, "exact distances by\nfloat32 tables", ORANGE)
    box(axes, 7.2, 0.6, 2.5, 1.1, "heap of the\nk nearest", BLUE, filled=True)
    arrow(axes, (2.8, 1.15), (3.5, 1.15))
    arrow(axes, (5.9, 1.15), (7.2, 1.15), "≤ threshold")
    axes.plot([8.45, 8.45, 1.55], [1.72, 2.4, 2.4], color=INK, lw=1.4)
    arrow(axes, (1.55, 2.4), (1.55, 1.75))
    note = "the k-th distance is the next threshold; quantize again when it has come down by 1/16 of the range"
    axes.text(5.0, 2.62, note, ha="center", va="center", fontsize=11, color="0.25")
    return figure


def merge() -> Figure:
    """Many queries share tiles of codes; a few share the codes among threads."""
    figure, axes = canvas(10, 3.9)
    axes.text(0.3, 0.35, "many queries: a query batch per thread", weight="bold", va="center")
    axes.text(5.3, 0.35, "a few queries: a range of codes per thread", weight="bold", va="center")
    for t in range(2):
        y = 0.75 + 1.3 * t
        box(axes, 0.3, y, 1.7, 0.95, f"thread {t}\nqueries", BLUE)
        arrow(axes, (2.0, y + 0.475), (2.6, y + 0.475))
        box(axes, 2.6, y, 1.9, 0.95, "all codes,\ntile by tile", ORANGE)
        box(axes, 5.3, y, 1.9, 0.95, f"thread {t}\nrange of codes", BLUE)
        arrow(axes, (7.2, y + 0.475), (8.0, 1.85))
    box(axes, 8.0, 1.35, 1.7, 1.0, "merge\nby distance,\nthen id", GREEN, filled=True)
    note = (
        "The k smallest pairs (distance, id) do not depend on the order in which rows come:\n"
        "any number of threads gives the same answer."
    )
    axes.text(0.3, 3.5, note, va="center", fontsize=11, color="0.25", linespacing=1.4)
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
