"""Choosing search settings by measurement: recall and time of each on sample queries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from fpq import _checks, _native, metrics
from fpq._checks import Array, Float32, Int64

REPEATS = 3


class Trial(NamedTuple):
    """One setting: its recall@k on the sample queries and the seconds a query took."""

    setting: dict[str, int]
    recall: float
    seconds: float


class Tuning(NamedTuple):
    """What `tune` measured; prints as a table.

    Attributes
    ----------
    trials : tuple of Trial
        In the order in which they were measured.
    best : Trial
        The one that was chosen.
    """

    trials: tuple[Trial, ...]
    best: Trial

    def __str__(self) -> str:
        names = list(self.best.setting)
        lines = ["".join(f"{name:>14}" for name in [*names, "recall", "us/query"])]
        for trial in self.trials:
            values = "".join(f"{trial.setting[name]:>14}" for name in names)
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
    distances = np.empty((len(queries), k), dtype=np.float32)
    found = np.empty((len(queries), k), dtype=np.int64)
    _native.flat_search(rows, norms, queries, ids, None, inner_product, distances, found, n_threads)
    return distances, found


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
