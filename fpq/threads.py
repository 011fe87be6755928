"""How many threads a call uses, the threads of Python, and BLAS work in blocks whose bits do not depend on them."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from fpq import _checks, _native
from fpq._checks import Float64

T = TypeVar("T")
R = TypeVar("R")

MOST_THREADS = max(32, 4 * (os.cpu_count() or 1))  # more would take memory and give no speed
NO_QUOTA = 1 << 16  # CPUs
SMALL_MATRIX = 1024  # rows

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_native.after_fork)


def resolve(n_threads: int | None) -> int:
    """The number of threads for a call.

    Parameters
    ----------
    n_threads : int or None
        ``None`` is what the environment says: OMP_NUM_THREADS, ``threadpoolctl`` limits, the CPUs this process may
        run on, the CPU quota of its control group. More than four times the CPUs of the machine (or 32, if that is
        more) count as that many. Where the system gives fewer threads, a call uses fewer.

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
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else NO_QUOTA
    except (OSError, ValueError):
        return NO_QUOTA


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


class Workers:
    """Threads that work through calls while their owner goes on.

    A thread starts when a call comes and no other thread is free. Where the system gives no thread at all, the owner
    makes the call itself: `concurrent.futures` refuses calls after the end of the main thread, in handlers of `atexit`
    and in threads that go on; some versions of Python start no thread then.

    Parameters
    ----------
    n_threads : int
        At most.
    within : context manager, optional
        What each thread enters before its first call and leaves after its last one.
    """

    def __init__(self, n_threads: int, within: contextlib.AbstractContextManager[Any] | None = None) -> None:
        self._n_threads = n_threads
        self._within = contextlib.nullcontext() if within is None else within
        self._threads: list[threading.Thread] = []
        self._calls: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self._changed = threading.Condition()
        self._free = 0  # threads that wait for a call
        self._open = True

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, function: Callable[..., R], *arguments: Any) -> Future[R]:
        """Have ``function(*arguments)`` called."""
        future: Future[R] = Future()
        with self._changed:
            if self._free <= len(self._calls) and len(self._threads) < self._n_threads:
                self._start()
            if self._threads:
                self._calls.append((future, function, arguments))
                self._changed.notify()
                return future
        _call(future, function, arguments)
        return future

    def close(self, *, wait: bool = True) -> None:
        """Drop the calls that no thread has begun; the threads end after what they have begun.

        Parameters
        ----------
        wait : bool, default True
            Until they have ended.
        """
        with self._changed:
            self._open = False
            self._calls.clear()
            self._changed.notify_all()
        for thread in self._threads if wait else ():
            thread.join()

    def _start(self) -> None:
        """Start one more thread, if the system gives one."""
        if sys.is_finalizing():  # a new thread would wait for ever for Python's lock
            return
        thread = threading.Thread(target=self._work)
        self._threads.append(thread)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            self._threads.remove(thread)

    def _work(self) -> None:
        with self._within:
            while (call := self._next()) is not None:
                _call(*call)
                del call  # and what it holds, before the wait for the next one

    def _next(self) -> tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None:
        with self._changed:
            self._free += 1
            while self._open and not self._calls:
                self._changed.wait()
            self._free -= 1
            return self._calls.popleft() if self._calls else None


def _call(future: Future[R], function: Callable[..., R], arguments: tuple[Any, ...]) -> None:
    try:
        future.set_result(function(*arguments))
    except BaseException as error:
        if threading.current_thread() is threading.main_thread() and not isinstance(error, Exception):
            raise  # Ctrl-C
        future.set_exception(error)
    finally:
        del future  # the error's frames would hold it, and it holds the error


class _OneBlasThread:
    """BLAS on one thread a call until all users have left: OpenBLAS may hang if that changes amid a call."""

    def __init__(self) -> None:
        self._users = 0
        self._limit = contextlib.ExitStack()
        self.unlock()

    def unlock(self) -> None:
        """Make a new lock. A forked child must, as a thread that is not there may hold the old one."""
        self._lock = threading.Lock()

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

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ONE_BLAS_THREAD.unlock)


def blas_map(function: Callable[[T], R], items: Iterable[T], n_threads: int) -> list[R]:
    """``[function(item) for item in items]`` on `n_threads` threads, each calling BLAS on one thread of its own.

    BLAS may round differently when it splits a product among threads; a product of its own for each item, and sums over
    items in their order, do not depend on the number of threads.
    """
    with _ONE_BLAS_THREAD:
        workers = Workers(n_threads, _ONE_BLAS_THREAD)
        finished = False
        try:
            futures = [workers.submit(function, item) for item in items]
            while wait(futures, timeout=0.1).not_done:  # Windows heeds Ctrl-C only between waits
                pass
            finished = True
        finally:  # nothing stops a decomposition, and some take minutes: after Ctrl-C it is left to itself
            workers.close(wait=finished)
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
