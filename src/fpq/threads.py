"""The number of threads of a call, Python threads, and BLAS calls whose bits do not depend on the number of threads."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from threadpoolctl import ThreadpoolController

from fpq import _checks, _native
from fpq._checks import Float64

T = TypeVar("T")
R = TypeVar("R")

MOST_THREADS = max(32, 4 * (os.cpu_count() or 1))  # more threads cost memory without a gain in speed
NO_QUOTA = 1 << 16  # CPUs of a control group without a quota
SMALL_MATRIX = 1024  # rows of the largest matrix that is decomposed on the calling thread

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_native.after_fork)


def resolve(n_threads: int | None) -> int:
    """The number of threads for a call.

    Parameters
    ----------
    n_threads : int or None
        ``None``: all available cores, or OMP_NUM_THREADS, or the limit of ``threadpoolctl``; at most the CPU quota of
        the control group of this process. Numbers above ``max(32, 4 * CPUs)`` are reduced to that number. If the system
        provides fewer threads, the call uses these.

    Raises
    ------
    ValueError, TypeError
        If `n_threads` is not an integer of at least 1.
    """
    if n_threads is not None:
        return min(_checks.integer("n_threads", n_threads, 1), MOST_THREADS)
    return max(1, min(_native.max_threads(), _cgroup_cpus()))


@functools.cache
def _cgroup_cpus() -> int:
    """The CPU quota of the control group, rounded up (Linux containers)."""
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


class Call(Generic[R]):
    """A function call for another thread, and its result.

    `concurrent.futures.Future` and `threading.Condition` acquire their locks in Python code. A Ctrl-C at that moment
    leaves the lock acquired, and the next thread waits for it for ever. This class acquires locks in C code only.
    """

    def __init__(self, function: Callable[..., R], arguments: tuple[Any, ...]) -> None:
        self._work: tuple[Callable[..., R], tuple[Any, ...]] | None = (function, arguments)
        self._result: list[R] = []
        self._error: BaseException | None = None
        self._running = threading.Lock()
        self._running.acquire()

    def make(self) -> None:
        """Make the call."""
        assert self._work is not None
        function, arguments = self._work
        try:
            self._result.append(function(*arguments))
        except BaseException as error:
            self._error = error
        finally:
            self._work = None
            self._running.release()

    def result(self) -> R:
        """Wait for the result; raise the error of the call."""
        while not self._running.acquire(timeout=0.1):  # Windows handles Ctrl-C only between waits
            pass
        self._running.release()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._result[0]


class Workers:
    """Threads that make calls while their owner continues.

    If the system starts no thread, the owner makes the calls itself. After the end of the main thread, in `atexit`
    handlers and in threads that are still running, some versions of Python start no threads, and `concurrent.futures`
    refuses calls.

    Parameters
    ----------
    n_threads : int
        The maximum. Each call starts a thread until the maximum is reached.
    within : context manager, optional
        Each thread enters the context before its first call and leaves it after its last one.
    """

    def __init__(self, n_threads: int, within: contextlib.AbstractContextManager[Any] | None = None) -> None:
        self._n_threads = n_threads
        self._within = within
        self._threads: list[threading.Thread] = []
        self._calls: SimpleQueue[Call[Any] | None] = SimpleQueue()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, function: Callable[..., R], *arguments: Any) -> Call[R]:
        """Queue the call ``function(*arguments)``."""
        call = Call(function, arguments)
        if len(self._threads) < self._n_threads:
            self._start()
        if self._threads:
            self._calls.put(call)
        else:
            call.make()
        return call

    def close(self, *, wait: bool = True) -> None:
        """Drop the calls that have not started; each thread ends after its current call.

        Parameters
        ----------
        wait : bool, default True
            Wait for the end of the threads.
        """
        with contextlib.suppress(Empty):
            while True:
                self._calls.get_nowait()
        self._calls.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _start(self) -> None:
        """Start one more thread, if the system allows."""
        if sys.is_finalizing():  # a new thread would wait for the interpreter lock for ever
            return
        # After a Ctrl-C before `close`, this callback ends the threads when their owner is deleted. It executes no
        # Python code; a `__del__` would, and Python drops a KeyboardInterrupt inside `__del__`.
        owner = weakref.ref(self, functools.partial(self._calls.put, None))
        thread = threading.Thread(target=_make_calls, args=(self._calls, self._within, owner))
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            return
        self._threads.append(thread)


def _make_calls(
    calls: SimpleQueue[Call[Any] | None],
    within: contextlib.AbstractContextManager[Any] | None,
    owner: weakref.ref[Workers],  # a reference, because the callback of a deleted weakref is never called
) -> None:
    """The loop of a thread: make calls until None, and put None back for the other threads."""
    with within or contextlib.nullcontext():
        while (call := calls.get()) is not None:
            call.make()
            del call  # free the result before waiting for the next call
    calls.put(None)


class _OneBlasThread:
    """BLAS on one thread until the last user leaves: OpenBLAS may hang if the limit changes during a call."""

    def __init__(self) -> None:
        self._users = 0
        self._limit = contextlib.ExitStack()
        self.unlock()

    def unlock(self) -> None:
        """Make a new lock. In a forked child, a thread of the parent may hold the old one for ever."""
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


def parallel_map(function: Callable[[T], R], items: Iterable[T], n_threads: int) -> list[R]:
    """``[function(item) for item in items]`` on `n_threads` threads, with single-threaded BLAS in each.

    BLAS may round differently when it splits a product among threads. The results here do not depend on the number of
    threads: each item has its own product, and the results are in the order of the items.
    """
    with _ONE_BLAS_THREAD:
        workers = Workers(n_threads, _ONE_BLAS_THREAD)
        wait = False  # after Ctrl-C: a decomposition cannot be stopped and may take minutes
        try:
            calls = [workers.submit(function, item) for item in items]
            results = [call.result() for call in calls]
            wait = True
        except Exception:
            wait = True
            raise
        finally:
            workers.close(wait=wait)
    return results


def blas_decompose(function: Callable[[Float64], R], matrix: Float64) -> R:
    """The decomposition ``function(matrix)`` with single-threaded BLAS.

    A large matrix takes minutes and is decomposed on another thread, so that this thread handles Ctrl-C. A small matrix
    is decomposed on this thread, because allocators reuse freed memory on the same thread only.
    """
    if len(matrix) > SMALL_MATRIX:
        return parallel_map(function, [matrix], 1)[0]
    with _ONE_BLAS_THREAD:
        return function(matrix)
