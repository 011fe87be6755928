"""Operating points: the fastest search setting for each recall, from the measurements of `tune`."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from fpq import _checks
from fpq._checks import Array, Float64, Int64
from fpq.storage import Check, FormatError, State, Stored
from fpq.tuning import Trial, recall_target


class Point(NamedTuple):
    """A setting and its recall and time; n_probe is 0 for an index without lists, rerank 0 for no re-ranking."""

    recall: float
    seconds: float
    n_probe: int
    rerank: int


class OperatingPoints:
    """Settings in ascending order of recall, each faster than all that follow.

    Parameters
    ----------
    k : int
        The number of neighbours for which the recalls hold.
    recalls : float64 (p,)
        Strictly ascending.
    n_probes : int64 (p,) or None
        None: of an index without lists.
    reranks : int64 (p,)
        0: no re-ranking.
    """

    def __init__(self, k: int, recalls: Float64, n_probes: Int64 | None, reranks: Int64) -> None:
        self.k = k
        self.recalls: list[float] = recalls.tolist()
        names = {"rerank": reranks} | ({} if n_probes is None else {"n_probe": n_probes})
        values = zip(*(column.tolist() for column in names.values()), strict=True)
        self.settings = [{name: value or None for name, value in zip(names, row, strict=True)} for row in values]

    @classmethod
    def measured(cls, k: int, trials: Sequence[Trial]) -> OperatingPoints:
        """The operating points of measured settings, and of the settings between them."""
        has_lists = "n_probe" in trials[0].setting
        points = [
            Point(trial.recall, trial.seconds, trial.setting.get("n_probe") or 0, trial.setting.get("rerank") or 0)
            for trial in trials
        ]
        best: list[Point] = []
        for point in sorted((*points, *_between(points)), key=lambda point: (point.seconds, -point.recall)):
            if not best or point.recall > best[-1].recall:
                best.append(point)
        recalls, _, n_probes, reranks = (np.array(column) for column in zip(*best, strict=True))
        return cls(k, recalls, n_probes if has_lists else None, reranks)

    def setting(self, k: int, recall: float) -> dict[str, int | None]:
        """The arguments of the fastest search that reaches a recall@k."""
        if k != self.k:
            raise ValueError(f"recall: expected k={self.k}, for which tune has measured, got k={k}")
        if recall > self.recalls[-1]:
            most = math.floor(self.recalls[-1] * 1e4) / 1e4
            raise ValueError(f"recall: expected at most {most:.4f}, the highest that tune has measured, got {recall}")
        return self.settings[bisect_left(self.recalls, recall)]

    def state(self) -> State:
        """The parameter and the arrays that a file stores."""
        arrays: dict[str, Array] = {"tuned_recalls": np.array(self.recalls)}
        for name in self.settings[0]:
            arrays[f"tuned_{name}s"] = np.array([setting[name] or 0 for setting in self.settings], np.int64)
        return State({"tuned_k": self.k}, arrays)

    @classmethod
    def from_state(cls, stored: Stored, *, has_lists: bool) -> OperatingPoints | None:
        """What a file stores; None: nothing."""
        if "tuned_k" not in stored.params:
            return None
        shape = stored.shape("tuned_recalls")
        if len(shape) != 1 or not shape[0]:
            raise FormatError(f"tuned_recalls: expected shape (p,) with p of at least 1, got {shape}")
        recalls = stored.array("tuned_recalls", np.float64, shape, Check("ascending numbers from 0 to 1", _ascend))
        positive = Check("integers of at least 1", lambda counts: bool((counts >= 1).all()))
        natural = Check("integers of at least 0", lambda counts: bool((counts >= 0).all()))
        n_probes = stored.array("tuned_n_probes", np.int64, shape, positive) if has_lists else None
        reranks = stored.array("tuned_reranks", np.int64, shape, natural)
        return cls(stored.count("tuned_k", 1), recalls, n_probes, reranks)


def chosen(points: OperatingPoints | None, k: int, recall: float, given: dict[str, int | None]) -> dict[str, Any]:
    """The setting for a recall; an error if the caller has given a part of it."""
    k, recall = _checks.integer("k", k, 1), recall_target(recall)
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name}: expected None, as recall={recall} chooses it, got {value}")
    if points is None:
        raise ValueError(f"recall: expected None, as no tune has succeeded since fit, reset or load, got {recall}")
    return points.setting(k, recall)


def _between(points: list[Point]) -> Iterator[Point]:
    """The settings between measured settings that differ in n_probe alone, or in rerank alone.

    Recall is taken as linear in the logarithm of the parameter: recall is concave there, and the estimate is not too
    high. Time is taken as linear in the parameter.
    """
    for name, other in ("n_probe", "rerank"), ("rerank", "n_probe"):
        for _, line in groupby(sorted(points, key=attrgetter(other, name)), key=attrgetter(other)):
            for low, high in pairwise(line):
                first, last = getattr(low, name), getattr(high, name)
                if not first or high.recall <= low.recall:
                    continue
                for value in range(first + 1, last):
                    recall = low.recall + (high.recall - low.recall) * math.log(value / first) / math.log(last / first)
                    seconds = low.seconds + (high.seconds - low.seconds) * (value - first) / (last - first)
                    yield low._replace(recall=recall, seconds=seconds, **{name: value})


def _ascend(recalls: Float64) -> bool:
    return bool(recalls[0] >= 0 and recalls[-1] <= 1 and (np.diff(recalls) > 0).all())
