"""How many threads a call uses, and BLAS work in blocks that gives the same bits for any number of them."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from fpq import _checks, _native
from fpq._checks import Float64

T = TypeVar("T")
R = TypeVar("R")

MOST_THREADS = 1 << 16
SMALL_MATRIX = 1024  # rows

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
        return min(_checks.integer("n_threads", n_threads, 1), MOST_THREADS)
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
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else MOST_THREADS
    except (OSError, ValueError):
        return MOST_THREADS


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


class _OneBlasThread:
    """BLAS on one thread a call until all users have left: OpenBLAS may hang if that changes amid a call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limit = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._limit.enter_context(_controller().limit(limits=1, user_api="blas"))
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._limit.close()


_ONE_BLAS_THREAD = _OneBlasThread()


def blas_map(function: Callable[[T], R], items: Iterable[T], n_threads: int) -> list[R]:
    """``[function(item) for item in items]`` on `n_threads` threads, each calling BLAS on one thread of its own.

    BLAS may round differently when it splits a product among threads; a product of its own for each item, and sums over
    items in their order, do not depend on the number of threads.
    """
    _ONE_BLAS_THREAD.__enter__()
    pool = ThreadPoolExecutor(n_threads)

    def end() -> None:
        pool.shutdown(cancel_futures=True)
        _ONE_BLAS_THREAD.__exit__()

    try:
        futures = [pool.submit(function, item) for item in items]
        while wait(futures, timeout=0.1).not_done:  # Windows heeds Ctrl-C only between waits
            pass
    except BaseException:  # nothing stops a decomposition, and some take minutes: leave it to itself
        threading.Thread(target=end).start()
        raise
    end()
    return [future.result() for future in futures]


def blas_decompose(function: Callable[[Float64], R], matrix: Float64) -> R:
    """``function(matrix)``, a decomposition, with BLAS on one thread.

    A large matrix takes minutes, on another thread, so that Ctrl-C is heeded. A small one takes a moment and is
    decomposed on this thread, where the memory that it frees will be used again: allocators keep it for its thread.
    """
    if len(matrix) > SMALL_MATRIX:
        return blas_map(function, [matrix], 1)[0]
    with _ONE_BLAS_THREAD:
        return function(matrix)
