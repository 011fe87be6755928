"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from bench.paper.measure import Row
from bench.paper.survey import Effect
from bench.paper.tune import Trial, choose

PAPER = """\
| the paper's table 2 | PQ (Java) | FPQ (Java) | scikit-learn |
|---|---|---|---|
| time, train + test (s) | 2996.45 | 498.33 | 739.28 |
| memory | 239.5 MB | 329.1 MB | 1.4 GB |
| accuracy (%) | 94.32 | 93.69 | 94.48 |
"""


def markdown(head: list[str], rows: Iterable[Iterable[str]]) -> str:
    """A table, its first column left-aligned, the others right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def costs(rows: list[Row]) -> str:
    """Time, memory and accuracy."""
    head = ["system", "train s", "test s", "total s", "CPU s", "peak MB above the input", "bytes an image"]
    head += ["1-NN %", "5-NN %", "R@1", "R@10", "R@100"]
    return markdown(head, (_cost(row) for row in rows))


def _cost(row: Row) -> list[str]:
    quality = row.quality
    return [
        row.title,
        *(f"{seconds:.2f}" for seconds in (row.train_s, row.test_s, row.total_s, row.cpu_s)),
        "-" if row.peak_mb is None else f"{row.peak_mb:.0f}",
        f"{row.bytes_per_image:,}",
        *(f"{100 * quality[key]:.2f}" for key in ("accuracy_1nn", "accuracy_5nn")),
        *(f"{quality[key]:.3f}" if key in quality else "-" for key in (f"one_recall_at_{k}" for k in (1, 10, 100))),
    ]


def digit_zero(rows: list[Row]) -> str:
    """The class 0 against the others, by the nearest neighbour's label."""
    keys = ["recall", "precision", "fallout", "printed_precision", "printed_fallout"]
    head = ["class 0 against the rest, 1-NN", "recall %", "precision %", "fallout %"]
    head += ["printed “precision” (TP+TN)/all %", "printed “fallout” FP/(FP+FN) %"]
    return markdown(head, ([row.title, *(f"{100 * row.quality[key]:.2f}" for key in keys)] for row in rows))


def targets(rows: list[Row]) -> str:
    """What fpq aims at, as far as the systems were measured."""
    by = {row.system: row for row in rows}
    lines = []

    def line(aim: str, value: float, bound: float, unit: str, at_most: bool = False) -> None:
        met = value <= bound if at_most else value >= bound
        sign = "at most" if at_most else "at least"
        lines.append([aim, f"{sign} {bound:.4g}{unit}", f"{value:.4g}{unit}", "yes" if met else "**no**"])

    def point(key: str, name: str = "accuracy_1nn") -> float:
        return round(100 * by[key].quality[name], 6)

    if {"fpq", "sklearn"} <= by.keys():
        ours, exact = by["fpq"], by["sklearn"]
        line("scikit-learn's total time / FPQ's", exact.total_s / ours.total_s, 4, "x")
        for key in ("sklearn", "sklearn-uint8"):
            peaks = ours.peak_mb, by[key].peak_mb if key in by else None
            if peaks[0] and peaks[1]:
                line(f"peak memory above the input: {by[key].title} / FPQ", peaks[1] / peaks[0], 20, "x")
        line("bytes an image: scikit-learn / FPQ", exact.bytes_per_image / ours.bytes_per_image, 20, "x")
        line("FPQ's 1-NN accuracy, with exact search's as the bound", point("fpq"), point("sklearn"), " %")
        line("FPQ's 5-NN accuracy, the same", point("fpq", "accuracy_5nn"), point("sklearn", "accuracy_5nn"), " %")
    if {"fpq", "faiss-pq"} <= by.keys():
        line("faiss IndexPQ's total time / FPQ's", by["faiss-pq"].total_s / by["fpq"].total_s, 6, "x")
    for key in [key for key in by if key.startswith("paper-") and "plain-pq" in by]:
        name = by[key].title.removeprefix("FPQ, ")
        line(f"plain PQ's total time / FPQ's, {name}", by["plain-pq"].total_s / by[key].total_s, 6, "x")
        line(f"1-NN points that it loses to plain PQ, {name}", point("plain-pq") - point(key), 0.6, "", at_most=True)
    return markdown(["aim", "bound", "measured", "met"], lines)


def open_indexing(effects: list[Effect]) -> str:
    """What the limits do."""
    head = ["codebooks", "counters", "candidates", "c", "squared error", "1-NN %", "5-NN %", "entropy, bits"]
    head += ["centroids unused %", "largest count / fair share", "the same, counted as printed"]
    return markdown(head, (_effect(effect) for effect in effects))


def _effect(effect: Effect) -> list[str]:
    return [
        effect.codebooks,
        *(["nearest only", "1", "-"] if effect.c is None else [effect.scope, str(effect.candidates), f"{effect.c:g}"]),
        f"{effect.squared_error:,.0f}",
        *(f"{100 * share:.2f}" for share in (effect.accuracy_1nn, effect.accuracy_5nn)),
        f"{effect.entropy_bits:.3f}",
        f"{100 * effect.unused:.2f}",
        f"{effect.largest:.2f}",
        f"{effect.largest_shared:.2f}",
    ]


def tuning(trials: list[Trial]) -> str:
    """The validation table, the choice in bold."""
    choice = choose(trials)
    head = ["rotation", "dimensions", "c", "1-NN %", "5-NN %", "seconds"]

    def cells(trial: Trial) -> list[str]:
        settings = trial.settings
        c = settings["open_indexing"]
        mark = "**" if trial is choice else ""
        return [
            f"{mark}{settings['rotation']}{mark}", str(settings["rotation_dim"]), "-" if c is None else f"{c:g}",
            f"{100 * trial.accuracy_1nn:.2f}", f"{100 * trial.accuracy_5nn:.2f}", f"{trial.seconds:.2f}",
        ]  # fmt: skip

    return markdown(head, map(cells, trials))
