"""Hedged requests: a task that is late is sent to other workers too, and the first answer counts."""

from __future__ import annotations

import collections
import contextlib
import math
import queue
import statistics
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from fpq.sharding.manifest import Shard

RECENT = 100  # tasks of a worker whose times are kept
ENOUGH = 20  # of them, to say which task is late
LATE = 95  # per cent of the tasks of a worker that are not late
LONGEST_WAIT = 1.0  # seconds, as Ctrl-C does not end a wait on Windows


class Sent:
    """A task that was sent to a worker."""

    def __init__(self, future: Any, worker: str, shards: Sequence[Shard]) -> None:
        self.future = future
        self.worker = worker
        self.shards = shards
        self.rows = sum(shard.n for shard in shards)
        self.begun = time.monotonic()
        self.late = False
        self.seconds: float | None = None  # until `look` saw that the task had ended

    def look(self) -> bool:
        """See whether the task has ended, with an answer or an error."""
        if self.seconds is None and self.future.done():
            self.seconds = time.monotonic() - self.begun
        return self.seconds is not None


class Part:
    """A part of the shards: the task that searches it, and if that is late, tasks on other workers."""

    def __init__(self, first: Sent) -> None:
        self.first = first
        self.others: list[Sent] = []

    def answered(self) -> list[Sent]:
        """The tasks whose answers are that of the part; none if it has no answer yet."""
        if self.first.seconds is not None:
            return [self.first]
        return [] if any(task.seconds is None for task in self.others) else self.others


def first_answers(sent: list[Sent], late_after: float, send_again: Callable[[Sent], list[Sent]]) -> list[Any]:
    """Wait for answers to all tasks, and return the futures of the first ones.

    After `late_after` seconds a task is sent again, by `send_again`, whose tasks `sent` gets too. If a task fails, the
    only future is that of the task.
    """
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for task in sent:
        task.future.add_done_callback(ended.put)
    parts = [Part(task) for task in sent]
    while True:
        for task in sent:
            task.look()
        failed = [task.future for task in sent if task.future.status == "error"]
        if failed:
            return failed[:1]
        if all(part.answered() for part in parts):
            return [task.future for part in parts for task in part.answered()]
        wait = LONGEST_WAIT
        for part in (part for part in parts if not part.answered() and not part.others):
            left = part.first.begun + late_after - time.monotonic()
            if left > 0:
                wait = min(wait, left)
            else:
                part.first.late = True
                part.others = send_again(part.first)
                sent += part.others
                for task in part.others:
                    task.future.add_done_callback(ended.put)
        with contextlib.suppress(queue.Empty):
            ended.get(timeout=wait)


class Times:
    """How long recent tasks of each worker took, by kind of task."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[tuple[Hashable, str], collections.deque[float]] = {}

    def note(self, kind: Hashable, sent: Iterable[Sent]) -> None:
        """Note the times of tasks; a task without an answer has taken the time until now."""
        with self._lock:
            for task in sent:
                seconds = self._seconds.setdefault((kind, task.worker), collections.deque(maxlen=RECENT))
                seconds.append(time.monotonic() - task.begun if task.seconds is None else task.seconds)

    def keep(self, workers: Sequence[str]) -> None:
        """Forget the times of other workers."""
        with self._lock:
            self._seconds = {key: seconds for key, seconds in self._seconds.items() if key[1] in workers}

    def late_after(self, kind: Hashable, replicas: Iterable[Sequence[str]]) -> float:
        """Seconds after which a task is late, by the median of the workers, so that slow workers do not count.

        Infinite without replicas, or if too few times are known.
        """
        workers = {worker for each in replicas for worker in each if len(each) > 1}
        with self._lock:
            known = [sorted(self._seconds.get((kind, worker), ())) for worker in workers]
        late = [seconds[len(seconds) * LATE // 100] for seconds in known if len(seconds) >= ENOUGH]
        return statistics.median_low(late) if late else math.inf
