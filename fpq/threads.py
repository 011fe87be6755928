"""How many threads a call uses, and BLAS work in blocks that gives the same bits for any number of them."""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from fpq import _checks, _native

T = TypeVar("T")
R = TypeVar("R")

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_native.after_fork)


def resolve(n_threads: int | None) -> int:
    """The number of threads for a call.

    Parameters
    ----------
    n_threads : int or None
        ``None`` is what the environment says: OMP_NUM_THREADS, ``threadpoolctl`` limits, the CPUs this process may
        run on, the CPU quota of its control group.

    Raises
    ------
    ValueError, TypeError
        If it is not an integer of at least 1.
    """
    if n_threads is not None:
        return _checks.integer("n_threads", n_threads, 1)
    return max(1, min(_native.max_threads(), _cgroup_cpus()))


@functools.cache
def _cgroup_cpus() -> int:
    """CPUs that the control group's quota pays for (Linux containers)."""
    group = Path("/sys/fs/cgroup")
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or the quota is "max"
        pass
    try:
        quota, period = ((group / f"cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else 1 << 16
    except (OSError, ValueError):
        return 1 << 16


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def blas_map(function: Callable[[T], R], items: Iterable[T], n_threads: int) -> list[R]:
    """``[function(item) for item in items]`` on `n_threads` threads, each calling BLAS on one thread of its own.

    BLAS may round differently when it splits a product among threads; a product of its own for each item, and sums over
    items in their order, do not depend on the number of threads.
    """
    with _controller().limit(limits=1, user_api="blas"):
        return _map(function, list(items), n_threads)


def _map(function: Callable[[T], R], items: list[T], n_threads: int) -> list[R]:
    """``[function(item) for item in items]`` on threads that an interrupt leaves to themselves.

    A decomposition may take longer than someone who has pressed Ctrl-C likes to wait, and nothing stops it: it ends in
    the background. The end of the program waits for it, as OpenBLAS hangs there when one of its callers has vanished.
    """
    results: dict[int, R] = {}
    failures: list[BaseException] = []
    left = iter(range(len(items)))  # of one consumer at a time

    def work() -> None:
        while not failures:
            with lock:
                at = next(left, -1)
            if at < 0:
                return
            try:
                results[at] = function(items[at])
            except BaseException as error:
                failures.append(error)

    lock = threading.Lock()
    workers = [threading.Thread(target=work) for _ in range(min(n_threads, len(items)))]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():
                worker.join(0.1)  # Windows heeds Ctrl-C only between waits
    except BaseException as error:
        failures.append(error)
        raise
    if failures:
        raise failures[0]
    return [results[at] for at in range(len(items))]
