"""A readers-writer lock: any number of threads search an index at the same time, or one thread changes the index."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast


class Lock:
    """A lock for many readers or one writer. A waiting writer goes before new readers.

    A thread that holds the lock may take the lock again to read, but a reader cannot become a writer. In a forked
    process the lock is free, as the threads that held the lock do not exist in that process.
    """

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._process = os.getpid()
        self._mutex = threading.Lock()  # its `with` is atomic: Ctrl-C cannot come between acquisition and block
        self._changed = threading.Condition(self._mutex)
        self._readers: set[int] = set()
        self._writer: int | None = None
        self._waiting: set[int] = set()  # threads that wait to write

    def holds(self, me: int, *, to_write: bool = False) -> bool:
        """Whether thread `me` holds the lock."""
        if self._process != os.getpid():
            self._renew()
        if to_write and me in self._readers:
            raise RuntimeError("an index cannot be changed within a search by the same thread")
        return self._writer == me or me in self._readers

    def begin_reading(self, me: int) -> None:
        """Wait for all writers, then take the lock to read."""
        with self._mutex:
            while self._writer is not None or self._waiting:
                self._changed.wait()
            self._readers.add(me)

    def begin_writing(self, me: int) -> None:
        """Wait for all readers and writers, then take the lock to write."""
        with self._mutex:
            self._waiting.add(me)
            while self._writer is not None or self._readers:
                self._changed.wait()
            self._writer = me
            self._waiting.discard(me)

    def end(self, me: int) -> None:
        """Release what thread `me` holds, and cancel what it waits for: an interrupt can come within `begin_...`."""
        try:
            self._end(me)
        except BaseException:  # Ctrl-C came during the release
            self._end(me)
            raise

    def _end(self, me: int) -> None:
        with self._mutex:
            self._readers.discard(me)
            self._waiting.discard(me)
            if self._writer == me:
                self._writer = None
            if not self._readers:
                self._changed.notify_all()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the lock to read."""
        me = threading.get_ident()
        if self.holds(me):
            yield
            return
        try:
            self.begin_reading(me)
            yield
        finally:
            self.end(me)


F = TypeVar("F", bound=Callable[..., Any])


def reads(method: F) -> F:
    """Decorate a public method that reads an index: other readers may run at the same time, writers wait."""

    @functools.wraps(method)
    def locked(self: Any, *args: Any, **kwargs: Any) -> Any:
        me, lock = threading.get_ident(), self._lock
        if lock.holds(me):
            return method(self, *args, **kwargs)
        try:
            lock.begin_reading(me)
            return method(self, *args, **kwargs)
        finally:
            lock.end(me)

    return cast(F, locked)


def writes(method: F) -> F:
    """Decorate a public method that changes an index: the method runs alone, and fails on a mapped index."""

    @functools.wraps(method)
    def locked(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._require_writable()
        me, lock = threading.get_ident(), self._lock
        if lock.holds(me, to_write=True):
            return method(self, *args, **kwargs)
        try:
            lock.begin_writing(me)
            return method(self, *args, **kwargs)
        finally:
            lock.end(me)

    return cast(F, locked)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block: the statements that make a change visible run all or not at all."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    received: list[Any] = []
    signal.signal(signal.SIGINT, lambda *args: received.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if received:
            before(*received[-1])
