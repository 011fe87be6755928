"""How many threads a call uses, the threads of Python, and BLAS work in blocks whose bits do not depend on them."""

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


class Call(Generic[R]):
    """A call that another thread makes, and its result.

    `concurrent.futures.Future` and `threading.Condition` take their locks in Python code: Ctrl-C that comes just then
    leaves such a lock taken, and whoever wants it waits for ever. Here the owner's thread takes locks in C code only.
    """

    def __init__(self, function: Callable[..., R], arguments: tuple[Any, ...]) -> None:
        self._work: tuple[Callable[..., R], tuple[Any, ...]] | None = (function, arguments)
        self._found: list[R] = []
        self._error: BaseException | None = None
        self._running = threading.Lock()
        self._running.acquire()

    def make(self) -> None:
        """Make the call."""
        assert self._work is not None
        function, arguments = self._work
        try:
            self._found.append(function(*arguments))
        except BaseException as error:
            self._error = error
        finally:
            self._work = None
            self._running.release()

    def result(self) -> R:
        """Wait for the result; raise what the call has raised."""
        while not self._running.acquire(timeout=0.1):  # Windows heeds Ctrl-C only between waits
            pass
        self._running.release()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._found[0]


class Workers:
    """Threads that make calls while their owner goes on.

    Where the system gives no thread, the owner makes the calls itself: `concurrent.futures` refuses calls after the end
    of the main thread, in handlers of `atexit` and in threads that go on; some versions of Python start no thread then.

    Parameters
    ----------
    n_threads : int
        At most. A call starts a thread as long as there are fewer.
    within : context manager, optional
        What each thread enters before its first call and leaves after its last one.
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
        """Have ``function(*arguments)`` called."""
        call = Call(function, arguments)
        if len(self._threads) < self._n_threads:
            self._start()
        if self._threads:
            self._calls.put(call)
        else:
            call.make()
        return call

    def close(self, *, wait: bool = True) -> None:
        """Drop the calls that no thread has begun; the threads end after what they have begun.

        Parameters
        ----------
        wait : bool, default True
            Until they have ended.
        """
        with contextlib.suppress(Empty):
            while True:
                self._calls.get_nowait()
        self._calls.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _start(self) -> None:
        """Start one more thread, if the system gives one."""
        if sys.is_finalizing():  # a new thread would wait for ever for Python's lock
            return
        # Ctrl-C may come before `close`: the threads end with their owner too. Not by `__del__`: Python drops the
        # KeyboardInterrupt that comes within one, and this callback has no line of Python.
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
    owner: weakref.ref[Workers],  # kept, as its callback ends the thread
) -> None:
    """What a thread does until None comes, which it leaves for the others."""
    with within or contextlib.nullcontext():
        while (call := calls.get()) is not None:
            call.make()
            del call  # and its result, before the wait for the next one
    calls.put(None)


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


def parallel_map(function: Callable[[T], R], items: Iterable[T], n_threads: int) -> list[R]:
    """``[function(item) for item in items]`` on `n_threads` threads, each calling BLAS on one thread of its own.

    BLAS may round differently when it splits a product among threads; a product of its own for each item, and sums over
    items in their order, do not depend on the number of threads.
    """
    with _ONE_BLAS_THREAD:
        workers = Workers(n_threads, _ONE_BLAS_THREAD)
        wait = False  # nothing stops a decomposition, and some take minutes: after Ctrl-C it is left to itself
        try:
            calls = [workers.submit(function, item) for item in items]
            found = [call.result() for call in calls]
            wait = True
        except Exception:
            wait = True
            raise
        finally:
            workers.close(wait=wait)
    return found


def blas_decompose(function: Callable[[Float64], R], matrix: Float64) -> R:
    """``function(matrix)``, a decomposition, with BLAS on one thread.

    A large matrix takes minutes, on another thread, so that Ctrl-C is heeded. A small one takes a moment and is
    decomposed on this thread, where the memory that it frees will be used again: allocators keep it for its thread.
    """
    if len(matrix) > SMALL_MATRIX:
        return parallel_map(function, [matrix], 1)[0]
    with _ONE_BLAS_THREAD:
        return function(matrix)
