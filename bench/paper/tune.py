"""The recommended settings, chosen on training rows alone: ``python -m bench.paper --tune``.

The last tenth of the training rows is held out; every setting is trained on the others. Of the settings with
OpenIndexing, as FPQ has it, those are taken that are within 0.1 points of the highest accuracy by a vote of five, mean
of three seeds; of these those that take at most a quarter longer than the quickest, as times vary by a tenth. The
choice is the one of them that keeps most dimensions, and so comes nearest to the true distances; of several the most
accurate. PQ without OpenIndexing stands for comparison.
"""

from __future__ import annotations

import itertools
import time
from typing import Any, NamedTuple

import numpy as np

from bench.paper import data, measure
from fpq import PQIndex

SEEDS = (0, 1, 2)
WITHIN = 0.001
LONGER = 1.25
DIMS = (32, 64, 128)
CS = (None, 1.0, 1.5)


class Trial(NamedTuple):
    """One setting; accuracies are means over the seeds, seconds the median of fit, add and search."""

    settings: dict[str, Any]
    accuracy_1nn: float
    accuracy_5nn: float
    seconds: float


def trials(task: measure.Task) -> list[Trial]:
    """All settings, in a process that is the caller's affair."""
    whole = data.split(task.data, task.n_train, 0)
    held = len(whole.train) // 10
    parts = whole.train[:-held], whole.train_labels[:-held], whole.train[-held:], whole.train_labels[-held:]
    split = data.Split(*parts)
    return [_trial(split, *point, task.threads) for point in itertools.product(("pca", "opq"), DIMS, CS)]


def _trial(split: data.Split, rotation: str, dim: int, c: float | None, threads: int) -> Trial:
    settings = {"m": 16, "rotation": rotation, "rotation_dim": dim, "open_indexing": c}
    seconds, accuracies = [], []
    for seed in SEEDS:
        start = time.perf_counter()
        index = PQIndex(seed=seed, n_threads=threads, **settings).fit(split.train).add(split.train)
        ids = index.search(split.test, measure.VOTES)[1]
        seconds.append(time.perf_counter() - start)
        accuracies.append(measure.judge(ids, split))
    means = (float(np.mean([a[key] for a in accuracies])) for key in ("accuracy_1nn", "accuracy_5nn"))
    return Trial(settings, *means, float(np.median(seconds)))


def choose(found: list[Trial]) -> Trial:
    """By the rule at the top."""
    limited = [trial for trial in found if trial.settings["open_indexing"]]
    best = max(trial.accuracy_5nn for trial in limited)
    accurate = [trial for trial in limited if trial.accuracy_5nn >= best - WITHIN]
    quickest = min(trial.seconds for trial in accurate)
    quick = [trial for trial in accurate if trial.seconds <= LONGER * quickest]
    return max(quick, key=lambda trial: (trial.settings["rotation_dim"], trial.accuracy_5nn))
