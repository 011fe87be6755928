"""Choosing search settings by measurement: recall and time of each on sample queries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fpq import _checks, _native, metrics, scaling
from fpq._checks import Array, Float32, Int64
from fpq.blocks import BlockInfo, Blocks
from fpq.learning.lloyd import Change

REPEATS = 3
SLOWER = 2.0  # times the fastest setting that serves: where `fastest` stops going on to dearer ones

Setting = Mapping[str, int | None]


class Trial(NamedTuple):
    """One setting: its recall@k on the sample queries and the seconds a query took."""

    setting: Setting
    recall: float
    seconds: float


class Tuning(NamedTuple):
    """What `tune` measured; prints as a table.

    Attributes
    ----------
    trials : tuple of Trial
        From cheap to dear.
    best : Trial
        The one that was chosen.
    """

    trials: tuple[Trial, ...]
    best: Trial

    def __str__(self) -> str:
        names = list(self.best.setting)
        lines = ["".join(f"{name:>14}" for name in [*names, "recall", "us/query"])]
        for trial in self.trials:
            values = "".join(f"{trial.setting[name] or '-':>14}" for name in names)
            chosen = "  <- chosen" if trial is self.best else ""
            lines.append(f"{values}{trial.recall:>14.4f}{trial.seconds * 1e6:>14.1f}{chosen}")
        return "\n".join(lines)


def recall_target(recall: float) -> float:
    """The checked argument `recall`."""
    recall = _checks.real("recall", recall, 0)
    if recall > 1:
        raise ValueError(f"recall: expected a number from 0 to 1, got {recall}")
    return recall


def exact(
    rows: Array, queries: Float32, k: int, ids: Int64 | None, inner_product: bool, n_threads: int
) -> tuple[Float32, Int64]:
    """The k <= n nearest of stored rows, exactly: (nq, k) distances (negated inner products) and ids."""
    norms = np.empty(len(rows), dtype=np.float32)
    _native.flat_norms(rows, norms, n_threads)
    power = scaling.for_search(inner_product, scaling.largest(rows, norms, n_threads), queries)
    queries, own = scaling.scaled(queries, power), 0 if inner_product else power
    distances = np.empty((len(queries), k), dtype=np.float32)
    found = np.empty((len(queries), k), dtype=np.int64)
    _native.flat_search(rows, norms, queries, ids, None, inner_product, _native.TopK(distances, found), n_threads, own)
    return scaling.unscaled(distances, power, inner_product), found


def exact_in_blocks(
    source: Blocks, prepare: Change, queries: Float32, k: int, ids: Int64, inner_product: bool, n_threads: int
) -> Int64:
    """As `exact`, of rows that come in blocks: row i is the vector with id i, rows of other ids are passed over."""
    distances = np.empty((len(queries), 0), dtype=np.float32)
    found = np.empty((len(queries), 0), dtype=np.int64)
    wanted = np.sort(ids)
    seen = 0

    def see(block: Any, where: BlockInfo) -> None:
        nonlocal distances, found, seen
        x = where.shaped(block)
        here = wanted[slice(*np.searchsorted(wanted, [where.start, where.start + len(x)]))]
        if not len(here):
            return
        rows = prepare(where.finite(x[here - where.start]), n_threads)
        more, names = exact(rows, queries, min(k, len(here)), here, inner_product, n_threads)
        distances, found = np.hstack([distances, more]), np.hstack([found, names])
        order = np.lexsort((found, distances), axis=-1)[:, :k]
        distances, found = np.take_along_axis(distances, order, -1), np.take_along_axis(found, order, -1)
        seen += len(here)

    source.run("exact", see)
    if seen < len(wanted):
        raise ValueError(f"X: expected a row for each id up to {wanted[-1]}, got too few rows")
    return found


def tune(
    search: Callable[[dict[str, int]], Int64], settings: Iterable[dict[str, int]], truth: Int64, recall: float
) -> Tuning:
    """The first of the settings that reaches a recall.

    Parameters
    ----------
    search : callable
        Takes a setting and gives the found ids (nq, k).
    settings : iterable of dict
        From cheap to dear; measured up to the one that is chosen, so that the choice does not depend on timing.
    truth : int64 (nq, k)
        The exact ids.
    recall : float
        The target: share of the true ids that must be found.

    Returns
    -------
    Tuning

    Raises
    ------
    ValueError
        If no setting reaches the target; the message gives the best recall.
    """
    trials = []
    for setting in settings:
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            ids = search(setting)
            seconds.append(time.perf_counter() - start)
        trial = Trial(setting, metrics.intersection_at_k(ids, truth), min(seconds) / len(truth))
        trials.append(trial)
        if trial.recall >= recall:
            return Tuning(tuple(trials), trial)
    best = max(trials, key=lambda trial: trial.recall)
    raise ValueError(f"recall: {recall} is not reached, the best is {best.recall:.4f} at {best.setting}")


def steps(last: int, factor: float = 1.25) -> list[int]:
    """1, ..., `last`, each about `factor` times the one before."""
    values = [1]
    while values[-1] < last:
        values.append(min(last, max(values[-1] + 1, int(values[-1] * factor))))
    return values


def fastest(
    search: Callable[[Setting], Int64],
    efforts: Sequence[Setting],
    reranks: Sequence[int | None],
    truth: Int64,
    recall: float,
) -> Tuning:
    """The fastest combination of an effort and a `rerank` that reaches a recall.

    Recall grows with both, so the combinations that just reach it lie on a staircase: from the largest `rerank` and the
    smallest effort on, less re-ranking as long as the recall is reached, else more effort. Those on its corners are
    measured again, by turns, and the fastest of them is chosen. So the choice depends on the machine and its load.

    The recall of a setting is the lower one of two: that of the queries in even and that of those in odd places. This
    keeps the setting that was lucky with one sample from being chosen.

    Parameters
    ----------
    search : callable
        Takes a setting and gives the found ids (nq, k).
    efforts : sequence of dict
        From cheap to dear.
    reranks : sequence of int or None
        From cheap to dear.
    truth : int64 (nq, k)
        The exact ids.
    recall : float
        The target: share of the true ids that must be found.

    Returns
    -------
    Tuning

    Raises
    ------
    ValueError
        If no setting reaches the target; the message gives the best recall.
    """
    trials: list[Trial] = []
    corners: list[Trial] = []
    effort, level = 0, len(reranks) - 1
    while effort < len(efforts) and level >= 0:
        trial = measured(search, {**efforts[effort], "rerank": reranks[level]}, truth)
        trials.append(trial)
        if trial.recall >= recall:
            corners.append(trial)
            level -= 1
        elif corners and trial.seconds > SLOWER * min(corner.seconds for corner in corners):
            break
        else:
            effort += 1
    if not corners:
        best = max(trials, key=lambda trial: trial.recall)
        raise ValueError(f"recall: {recall} is not reached, the best is {best.recall:.4f} at {dict(best.setting)}")
    limit = SLOWER * min(corner.seconds for corner in corners)
    for _ in range(REPEATS - 1):
        for i, trial in enumerate(trials):
            if trial.recall >= recall and trial.seconds <= limit:
                again = measured(search, trial.setting, truth)
                trials[i] = trial._replace(seconds=min(trial.seconds, again.seconds))
    best = min((trial for trial in trials if trial.recall >= recall), key=lambda trial: trial.seconds)
    return Tuning(tuple(sorted(trials, key=lambda trial: trial.seconds)), best)


def measured(search: Callable[[Setting], Int64], setting: Setting, truth: Int64) -> Trial:
    """One search: the lower recall of the queries in even and in odd places, and the time."""
    start = time.perf_counter()
    ids = search(setting)
    seconds = (time.perf_counter() - start) / len(truth)
    halves = [half for half in (slice(0, None, 2), slice(1, None, 2)) if len(truth[half])]
    return Trial(setting, min(metrics.intersection_at_k(ids[half], truth[half]) for half in halves), seconds)
