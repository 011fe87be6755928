"""Time, memory and quality of a system, in a process of its own."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from bench.paper import data
from bench.paper.systems import SYSTEMS
from fpq import FlatIndex, metrics

VOTES = 5
DEPTH = 100
POSITIVE = 0  # the paper's P is the digit 0, its N any other


class Task(NamedTuple):
    """One system on one split."""

    system: str
    data: str
    n_train: int
    n_test: int
    threads: int
    unseen: bool = False  # test rows from the data set's own test file
    depth: int = DEPTH  # neighbours for the recalls, searched for off the clock


@dataclass(frozen=True)
class Row:
    """What a system cost and how well it answered; shares are of 1, memory in MB (10**6 bytes) above the input."""

    system: str
    title: str
    n_train: int
    train_s: float
    test_s: float
    cpu_s: float
    peak_mb: float | None
    bytes_per_image: int
    quality: dict[str, float]

    @property
    def total_s(self) -> float:
        """Train and test, the paper's time."""
        return self.train_s + self.test_s


def in_own_process(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
    """The results, each from a fresh process, one at a time; no daemon, where scikit-learn takes one thread only."""
    context = multiprocessing.get_context("spawn")
    for task in tasks:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_answer, args=(theirs, function, task))
        process.start()
        theirs.close()
        try:
            yield ours.recv()
        except EOFError:
            raise RuntimeError(f"the process of {task} ended without a result") from None
        finally:
            process.join()


def _answer(pipe: Connection, function: Callable[[Any], Any], task: Any) -> None:
    pipe.send(function(task))


def available_threads() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Measured(NamedTuple):
    """What comes back from the process of a system."""

    train_s: float
    test_s: float
    cpu_s: float  # of all threads, train and test: tells more than seconds where others use the machine too
    peak_mb: float | None
    bytes_per_image: int
    ids: np.ndarray


def measure(task: Task) -> Measured:
    """Train on the clock, search for a few neighbours on the clock, then for many off it."""
    system = SYSTEMS[task.system]
    split = data.split(task.data, task.n_train, task.n_test, unseen=task.unseen)
    train, test = (images.astype(system.given, copy=False) for images in (split.train, split.test))
    del split
    for module in system.modules:
        importlib.import_module(module)
    threads = 1 if system.single_thread else task.threads
    with threadpool_limits(threads):
        before = _restart_peak()
        start, cpu = time.perf_counter(), time.process_time()
        built = system.build(train, threads)
        middle = time.perf_counter()
        ids = built.search(test, VOTES)
        end, cpu = time.perf_counter(), time.process_time() - cpu
        peak = None if before is None else max(_status("VmHWM") - before, 0.0)
        if task.depth > VOTES:
            ids = built.search(test, task.depth)
    return Measured(middle - start, end - middle, cpu, peak, built.bytes_per_image, np.asarray(ids, np.int64))


def rows(tasks: list[Task], say: Callable[[str], None]) -> Iterator[Row]:
    """Measure and judge, one row a task."""
    splits: dict[tuple[Any, ...], tuple[data.Split, np.ndarray | None]] = {}
    for task, measured in zip(tasks, in_own_process(measure, tasks), strict=True):
        title = SYSTEMS[task.system].title
        say(f"{title}, {task.n_train:,} rows: {measured.train_s:.2f} + {measured.test_s:.2f} s")
        key = task[1:]
        if key not in splits:
            split = data.split(task.data, task.n_train, task.n_test, unseen=task.unseen)
            splits[key] = split, truth(split, task.threads) if task.depth > VOTES else None
        yield Row(task.system, title, task.n_train, *measured[:-1], judge(measured.ids, *splits[key]))


def truth(split: data.Split, threads: int) -> np.ndarray:
    """The true nearest neighbour of each test row."""
    return FlatIndex(n_threads=threads).add(split.train).search(split.test, 1)[1]


def judge(ids: np.ndarray, split: data.Split, true_ids: np.ndarray | None = None) -> dict[str, float]:
    """Accuracies; with `true_ids`, recalls and the figures of the digit 0 too."""
    labels = split.train_labels[ids[:, :VOTES]]
    quality = {
        "accuracy_1nn": metrics.accuracy(labels[:, 0], split.test_labels),
        "accuracy_5nn": metrics.accuracy(metrics.vote(labels), split.test_labels),
    }
    if true_ids is None:
        return quality
    for k in (1, 10, 100):
        if k <= ids.shape[1]:
            quality[f"one_recall_at_{k}"] = metrics.one_recall_at_k(ids, true_ids, k)
    predicted, true = labels[:, 0], split.test_labels
    for name, function in (("recall", metrics.recall), ("precision", metrics.precision), ("fallout", metrics.fallout)):
        quality[name] = function(predicted, true, POSITIVE)
    tp, fp, fn, tn = metrics.confusion(predicted, true, POSITIVE)
    quality["printed_fallout"] = fp / (fp + fn) if fp + fn else float("nan")
    quality["printed_precision"] = (tp + tn) / (tp + fp + fn + tn)
    return quality


def _restart_peak() -> float | None:
    """Restart the high-water mark of this process and give its memory now, in MB; None where there is no /proc."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return None


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024 / 1e6
