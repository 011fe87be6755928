"""The paper's figures 7, 8 and 9, and what OpenIndexing does, as SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.paper.measure import Row
from bench.paper.survey import Effect
from bench.paper.systems import CS

LOOKS = {
    "sklearn": ("scikit-learn, exact", "#555555", "s"),
    "plain-pq": ("plain PQ, one thread", "#d55e00", "^"),
    "paper-shared-1.5": ("FPQ, paper's settings", "#0072b2", "o"),
    "fpq": ("FPQ, recommended", "#009e73", "D"),
}
PANELS = {
    "squared_error": ("squared error per image\n(thousands of grey levels²)", 1e-3),
    "accuracy_1nn": ("accuracy, 1-NN (%)", 100),
    "entropy_bits": ("entropy of\na sub-code (bits)", 1),
    "unused": ("centroids without\na row (%)", 100),
    "largest": ("largest count,\nin equal shares", 1),
}


def growth(rows: list[Row], name: str, folder: Path) -> list[Path]:
    """Time, accuracy and memory against the number of training rows."""
    written = [
        _growth(rows, "time", "train + test (s)", lambda r: r.total_s, name, folder, log=True),
        _growth(rows, "accuracy", "accuracy, 1-NN (%)", lambda r: 100 * r.quality["accuracy_1nn"], name, folder),
    ]
    if all(row.peak_mb is not None for row in rows):
        label = "peak memory above the input (MB)"
        written.append(_growth(rows, "memory", label, lambda r: r.peak_mb, name, folder, log=True))
    return written


def _growth(rows: list[Row], what: str, label: str, value: Any, name: str, folder: Path, log: bool = False) -> Path:
    figure, axes = _figure(7, 4.2)
    for system, (title, color, marker) in LOOKS.items():
        points = [(row.n_train / 1000, value(row)) for row in rows if row.system == system]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, label=title)
    axes.set_xlabel("training rows (thousands)")
    axes.set_ylabel(label)
    axes.set_title(f"{name}: {label.split(' (')[0]}", loc="left", fontsize=13)
    if log:
        _logarithmic(axes)
    axes.legend(frameon=False, fontsize=10, loc="center left", bbox_to_anchor=(1, 0.5))
    return save(figure, folder / f"{name}-{what}")


def open_indexing(effects: list[Effect], name: str, folder: Path) -> Path:
    """Each figure of the survey against c, one column of panels per set of codebooks."""
    titles = list(dict.fromkeys(effect.codebooks for effect in effects))
    figure, grid = _figure(3.8 * len(titles), 12, len(PANELS), len(titles))
    for axes_row, (key, (label, factor)) in zip(grid, PANELS.items(), strict=True):
        for axes, title in zip(axes_row, titles, strict=True):
            _panel(axes, [effect for effect in effects if effect.codebooks == title], key, factor)
            axes.set_ylabel(label)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(f"{name}: {title}", fontsize=12)
    for axes in grid[-1]:
        axes.set_xlabel("c: limit, in equal shares")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=11)
    return save(figure, folder / f"{name}-openindexing")


def _panel(axes: Any, effects: list[Effect], key: str, factor: float) -> None:
    colors, styles = {2: "#d55e00", 8: "#0072b2", 256: "#009e73"}, {"shared": "--", "subspace": "-"}
    words = {"shared": "shared counters", "subspace": "a counter per subspace"}
    for scope, style in styles.items():
        for candidates, color in colors.items():
            chosen = [e for e in effects if (e.scope, e.candidates) == (scope, candidates)]
            label = f"{candidates} candidates, {words[scope]}"
            axes.plot([e.c for e in chosen], [factor * getattr(e, key) for e in chosen], style, color=color,
                      marker="o", markersize=4, label=label)  # fmt: skip
    without = next(effect for effect in effects if effect.c is None)
    axes.axhline(factor * getattr(without, key), color="0.4", linestyle=":", label="nearest only")
    if key == "largest":
        _logarithmic(axes)
    if key == "unused":
        axes.set_ylim(bottom=0, top=max(0.5, axes.get_ylim()[1]))
    axes.set_xticks(CS, [f"{c:g}" for c in CS])
    axes.grid(alpha=0.3)


def _logarithmic(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3) if high > 100 * low else (1, 2, 3, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _figure(width: float, height: float, *shape: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.subplots(*shape, squeeze=False) if shape else figure.add_subplot()
    if not shape:
        axes.grid(alpha=0.3)
    return figure, axes


def save(figure: Any, stem: Path) -> Path:
    """`stem`.svg."""
    import matplotlib

    path = stem.with_name(f"{stem.name}.svg")
    with matplotlib.rc_context({"svg.hashsalt": "fpq"}):  # the same bytes for the same figures
        figure.savefig(path, metadata={"Date": None})
    return path
