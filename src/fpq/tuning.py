"""Choice of search settings by measurement: the recall and time of each setting on sample queries."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fpq import _checks, _native, metrics, progress, scaling
from fpq._checks import Array, Float32, Int64
from fpq.blocks import BlockInfo, Blocks
from fpq.learning.lloyd import Change
from fpq.metric import Metric

REPEATS = 3  # measurements of a setting
MAX_RERANK = 128  # the largest `rerank` that is measured
RECALLS = 0.8, 0.9, 0.95, 0.98, 0.99  # measured by `tune` of codes, for `search` by recall
PATIENCE = 10  # steps of the effort in which a recall must be within reach, by the growth in the last step
SLOWER = 1.4  # `fastest` stops at settings this many times slower than the fastest that reaches the recall

Setting = Mapping[str, int | None]


class Trial(NamedTuple):
    """One setting, its ``recall@k`` on the sample queries, and its time.

    Attributes
    ----------
    setting : dict
        The names and values of the search parameters.
    recall : float
        The share of the true neighbours found.
    seconds : float
        Seconds per query.
    """

    setting: Setting
    recall: float
    seconds: float


class Tuning(NamedTuple):
    """The measurements of `tune`; `print` shows a table.

    The table leaves out settings that are slower than another setting and reach no higher recall. Recall therefore
    grows with time from line to line.

    Attributes
    ----------
    trials : tuple of Trial
        All measured settings, in ascending order of cost.
    best : Trial
        The chosen setting.
    """

    trials: tuple[Trial, ...]
    best: Trial

    def __str__(self) -> str:
        names = list(self.best.setting)
        lines = ["".join(f"{name:>14}" for name in [*names, "recall", "us/query"])]
        for trial in self._undominated():
            values = "".join(f"{trial.setting[name] or '-':>14}" for name in names)
            chosen = "  <- chosen" if trial is self.best else ""
            lines.append(f"{values}{trial.recall:>14.4f}{trial.seconds * 1e6:>14.1f}{chosen}")
        return "\n".join(lines)

    def _undominated(self) -> list[Trial]:
        """The chosen trial, and all trials with a higher recall than every faster one, fastest first."""
        shown: list[Trial] = []
        highest = -1.0
        for trial in sorted(self.trials, key=lambda trial: (trial.seconds, -trial.recall)):
            if trial is self.best or trial.recall > highest:
                shown.append(trial)
            highest = max(highest, trial.recall)
        return shown


def recall_target(recall: float) -> float:
    """`recall` as a float from 0 to 1."""
    recall = _checks.real("recall", recall, 0)
    if recall > 1:
        raise ValueError(f"recall: expected a number from 0 to 1, got {recall}")
    return recall


def exact(
    rows: Array, queries: Float32, k: int, ids: Int64 | None, metric: Metric, n_threads: int
) -> tuple[Float32, Int64]:
    """The exact k <= n nearest stored rows: (nq, k) distances (inner products negated) and ids."""
    distances = np.empty((len(queries), k), dtype=np.float32)
    found = np.empty((len(queries), k), dtype=np.int64)
    with progress.stage("exact neighbours", len(queries), "queries", f"{len(queries):,} queries, {len(rows):,} rows"):
        norms = np.empty(len(rows), dtype=np.float32)
        _native.flat_norms(rows, norms, n_threads)
        power = scaling.for_search(metric.inner_product, scaling.largest(rows, norms, n_threads), queries)
        queries, own = scaling.scaled(queries, power), 0 if metric.inner_product else power
        answers = _native.TopK(distances, found)
        _native.flat_search(rows, norms, queries, ids, None, metric.kernel, answers, n_threads, own)
    return scaling.unscaled(distances, power, metric.inner_product), found


def exact_in_blocks(
    source: Blocks, prepare: Change, queries: Float32, k: int, ids: Int64, metric: Metric, n_threads: int
) -> Int64:
    """As `exact`, for rows in blocks: row i is the vector with id i, and rows of other ids are skipped."""
    distances = np.empty((len(queries), 0), dtype=np.float32)
    found = np.empty((len(queries), 0), dtype=np.int64)
    ascending_ids = np.sort(ids)
    n_searched = 0

    def search_block(block: Any, info: BlockInfo) -> None:
        nonlocal distances, found, n_searched
        x = info.shaped(block)
        block_ids = ascending_ids[slice(*np.searchsorted(ascending_ids, [info.start, info.start + len(x)]))]
        if not len(block_ids):
            return
        rows = prepare(info.finite(x[block_ids - info.start]), n_threads)
        nearest = exact(rows, queries, min(k, len(block_ids)), block_ids, metric, n_threads)
        distances, found = np.hstack([distances, nearest[0]]), np.hstack([found, nearest[1]])
        order = np.lexsort((found, distances), axis=-1)[:, :k]
        distances, found = np.take_along_axis(distances, order, -1), np.take_along_axis(found, order, -1)
        n_searched += len(block_ids)

    source.run("exact neighbours", search_block)
    if n_searched < len(ascending_ids):
        raise ValueError(f"X: expected a row for each id up to {ascending_ids[-1]}, got fewer rows")
    return found


def tune(
    search: Callable[[dict[str, int]], Int64], settings: Iterable[dict[str, int]], truth: Int64, recall: float
) -> Tuning:
    """The first setting that reaches a recall.

    Parameters
    ----------
    search : callable
        Takes a setting and returns the found ids (nq, k).
    settings : iterable of dict
        In ascending order of cost. Settings after the chosen one are not measured: the choice depends on recall only.
    truth : int64 (nq, k)
        The exact ids.
    recall : float
        The target: the share of the true ids that must be found.

    Returns
    -------
    Tuning

    Raises
    ------
    ValueError
        If no setting reaches the target; the message gives the best recall.
    """
    trials = []
    with progress.stage("settings", None, "settings") as advance:
        for setting in settings:
            seconds = []
            for _ in range(REPEATS):
                start = time.perf_counter()
                ids = search(setting)
                seconds.append(time.perf_counter() - start)
            trial = Trial(setting, metrics.recall_at_k(ids, truth), min(seconds) / len(truth))
            trials.append(trial)
            advance(1)
            if trial.recall >= recall:
                return Tuning(tuple(trials), trial)
    best = max(trials, key=lambda trial: trial.recall)
    raise ValueError(f"recall: {recall} is not reached, the best is {best.recall:.4f} at {best.setting}")


def steps(last: int, factor: float = 1.25, first: int = 1) -> list[int]:
    """Integers from `first` to `last` that grow by about `factor`."""
    values = [first]
    while values[-1] < last:
        values.append(min(last, max(values[-1] + 1, int(values[-1] * factor))))
    return values


def settings(
    n_lists: int | None, keeps_vectors: bool, refines: bool, n: int, k: int
) -> tuple[list[Setting], list[int | None]]:
    """The efforts and values of `rerank` that `tune` measures for codes of n vectors, in ascending order of cost."""
    efforts: list[Setting] = [{}] if n_lists is None else [{"n_probe": n_probe} for n_probe in steps(n_lists)]
    reranks: list[int | None] = [] if refines else [None]
    if keeps_vectors or refines:
        reranks += steps(min(MAX_RERANK, -(-n // k)), 1.4)[1 if reranks else 0 :]
    return efforts, reranks


def fastest(
    search: Callable[[Setting], Int64],
    efforts: Sequence[Setting],
    reranks: Sequence[int | None],
    truth: Int64,
    recall: float,
    others: Iterable[float] = (),
) -> Tuning:
    """The fastest combination of an effort and a `rerank` that reaches a recall.

    Recall grows with both, so the combinations at the target lie on a staircase. The search starts at the largest
    `rerank` and the smallest effort. Where the recall is reached, the least sufficient `rerank` is found by bisection;
    then the effort is increased. The corners of the staircase are measured again, in turn, and the fastest corner is
    chosen. The choice therefore depends on the machine and its load.

    The recall of a setting is the lower of two recalls, that of the even and that of the odd queries. A setting that
    reaches the target on one half by chance is not chosen.

    Parameters
    ----------
    search : callable
        Takes a setting and returns the found ids (nq, k).
    efforts : sequence of dict
        In ascending order of cost.
    reranks : sequence of int or None
        In ascending order of cost.
    truth, recall, returned value, errors
        As in `tune`.
    others : iterable of float
        Further recalls whose staircases are measured, as far as they are reached.
    """
    trials: dict[tuple[int, int], Trial] = {}

    def at(effort: int, level: int) -> Trial:
        if (effort, level) not in trials:
            setting = {**efforts[effort], "rerank": reranks[level]}
            trials[effort, level] = measured(search, setting, truth)
            advance(1)
        return trials[effort, level]

    def useful(trial: Trial) -> bool:
        """Whether no setting that reaches as much is clearly faster."""
        least = min(trial.recall, recall)
        return all(trial.seconds <= SLOWER * other.seconds for other in trials.values() if other.recall >= least)

    with progress.stage("settings", None, "settings") as advance:
        first, targets = 0, sorted({recall, *others})
        for target in targets:
            reached = _walk(at, len(efforts), len(reranks), first, target, thorough=target <= recall)
            if reached is None:
                break
            first = reached
        for _ in range(REPEATS - 1):
            again = [key for key, trial in trials.items() if trial.recall >= targets[0] and useful(trial)]
            for key in again:
                seconds = measured(search, trials[key].setting, truth).seconds
                trials[key] = trials[key]._replace(seconds=min(trials[key].seconds, seconds))
                advance(0)
    found = sorted(trials.values(), key=lambda trial: trial.seconds)
    best = next((trial for trial in found if trial.recall >= recall), None)
    if best is None:
        highest = max(found, key=lambda trial: trial.recall)
        reason = f"is not reached, the best is {highest.recall:.4f} at {dict(highest.setting)}"
        raise ValueError(f"recall: {recall} {reason}")
    return Tuning(tuple(found), best)


def _walk(
    at: Callable[[int, int], Trial], n_efforts: int, n_levels: int, first: int, recall: float, *, thorough: bool
) -> int | None:
    """Measure the corners of the staircase of a recall from the effort `first` on; the effort of the first, if any.

    Unless `thorough`, give up where the recall hardly grows with the effort.
    """
    effort, level, reached, quickest, before = first, n_levels - 1, None, math.inf, -math.inf
    while effort < n_efforts and level >= 0:
        trial = at(effort, level)
        if trial.recall >= recall:
            reached = effort if reached is None else reached
            least = bisect_left(range(level), True, key=lambda level: at(effort, level).recall >= recall)
            quickest = min(quickest, at(effort, least).seconds)
            level = least - 1
        elif trial.seconds > SLOWER * quickest:
            break
        elif reached is None and not thorough and PATIENCE * (trial.recall - before) < recall - trial.recall:
            break
        before = trial.recall
        effort += 1
    return reached


def measured(search: Callable[[Setting], Int64], setting: Setting, truth: Int64) -> Trial:
    """One search: the lower of the recalls of even and odd queries, and the time."""
    start = time.perf_counter()
    ids = search(setting)
    seconds = (time.perf_counter() - start) / len(truth)
    halves = [half for half in (slice(0, None, 2), slice(1, None, 2)) if len(truth[half])]
    return Trial(setting, min(metrics.recall_at_k(ids[half], truth[half]) for half in halves), seconds)
