"""A readers-writer lock: any number of threads search an index at the same time, or one thread changes the index."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import Any, TypeVar, cast

from fpq import progress

_process = os.getpid()  # which itself takes a system call
_renewing = threading.Lock()


def _note_fork() -> None:
    global _process, _renewing
    _process, _renewing = os.getpid(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


class _NoMemo(dict[str, Any]):
    """A memo that stays empty."""

    def __setitem__(self, name: str, value: Any) -> None:
        """Keep nothing."""


class Lock:
    """A lock for many readers or one writer. A waiting writer goes before new readers.

    Readers may keep in the dictionary `memo` what they have worked out from the state that the lock guards. A writer
    forgets it.

    A thread that holds the lock may take the lock again to read, but a reader cannot become a writer. In a forked
    process the lock is free, as the threads that held the lock do not exist in that process.
    """

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._mutex = threading.Lock()  # its `with` is atomic: Ctrl-C cannot come between acquisition and block
        self._changed = threading.Condition(self._mutex)
        self._readers: set[int] = set()
        self._writer: int | None = None
        self._waiting: set[int] = set()  # threads that wait to write
        self._sleep = False  # whether a thread may wait for a change
        self.memo: dict[str, Any] = {}
        self._process = _process  # at last: other threads then use the rest

    def holds(self, me: int, *, to_write: bool = False) -> bool:
        """Whether thread `me` holds the lock."""
        if self._process != _process:
            with _renewing:
                if self._process != _process:
                    self._renew()
        if to_write and me in self._readers:
            raise RuntimeError("an index cannot be changed within a search by the same thread")
        return self._writer == me or me in self._readers

    def begin_reading(self, me: int) -> None:
        """Wait for all writers, then take the lock to read."""
        with self._mutex:
            while self._writer is not None or self._waiting:
                self._sleep = True
                self._changed.wait()
            self._readers.add(me)

    def begin_writing(self, me: int) -> None:
        """Wait for all readers and writers, then take the lock to write."""
        with self._mutex:
            self._waiting.add(me)
            while self._writer is not None or self._readers:
                self._sleep = True
                self._changed.wait()
            self._writer = me
            self._waiting.discard(me)
            self.memo = _NoMemo()  # for searches by progress functions of the change

    def end(self, me: int) -> None:
        """Release what thread `me` holds, and cancel what it waits for: an interrupt can come within `begin_...`.

        An interrupt can also come as this function begins, or within: callers then call it once more.
        """
        with self._mutex:
            self._readers.discard(me)
            self._waiting.discard(me)
            if self._writer == me:
                self._writer, self.memo = None, {}
            if self._sleep and not self._readers:
                self._changed.notify_all()
                self._sleep = False

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the lock to read."""
        me = get_ident()
        if self.holds(me):
            yield
            return
        try:
            self.begin_reading(me)
            yield
        finally:
            try:
                self.end(me)
            except BaseException:
                self.end(me)
                raise


F = TypeVar("F", bound=Callable[..., Any])


def reads(method: F) -> F:
    """Decorate a public method that reads an index: other readers may run at the same time, writers wait."""

    @functools.wraps(method)
    def locked(self: Any, *args: Any, **kwargs: Any) -> Any:
        me, lock = get_ident(), self._lock
        if lock.holds(me):
            return method(self, *args, **kwargs)
        try:
            lock.begin_reading(me)
            return method(self, *args, **kwargs)
        finally:
            try:
                lock.end(me)
            except BaseException:
                lock.end(me)
                raise

    return cast(F, locked)


def writes(method: F) -> F:
    """Decorate a public method that changes an index: the method runs alone, and fails on a mapped index."""

    @functools.wraps(method)
    def locked(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._require_writable()
        me, lock = get_ident(), self._lock
        if lock.holds(me, to_write=True):
            if progress.telling():
                raise RuntimeError("an index cannot be changed by a progress function or log handler of its own change")
            return method(self, *args, **kwargs)
        try:
            lock.begin_writing(me)
            return method(self, *args, **kwargs)
        finally:
            try:
                lock.end(me)
            except BaseException:
                lock.end(me)
                raise

    return cast(F, locked)


# Signals whose handlers may raise: Ctrl-C, timeouts, requests to end. Windows lacks most.
DEFERRED = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGUSR1", "SIGUSR2", "SIGINT")
    if hasattr(signal, name)
)


# The functions behind those of `signal`, which also convert numbers to enums and so take a microsecond.
_signal: Any = sys.modules.get("_signal", signal)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer Ctrl-C and other signals with handlers in Python to the end of the block.

    The statements that make a change visible thus run all or not at all.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _deferring(*(number for number in DEFERRED if callable(_signal.getsignal(number)))):
        yield


@contextlib.contextmanager
def _deferring(*numbers: int) -> Iterator[None]:
    if not numbers:
        yield
        return
    before: Any = _signal.getsignal(numbers[0])
    received: list[Any] = []
    _signal.signal(numbers[0], lambda *args: received.append(args))
    try:
        with _deferring(*numbers[1:]):
            yield
    finally:
        _signal.signal(numbers[0], before)
        if received:
            before(*received[-1])
