"""Any number of threads search an index, or one changes it."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast


class Lock:
    """A lock for many readers or one writer; waiting writers go before new readers.

    A thread that holds the lock may take it again to read; it may not go over from reading to writing. A forked child
    begins with a free lock: a thread that held it is not there.
    """

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._process = os.getpid()
        self._mutex = threading.Lock()  # Ctrl-C cannot come between its taking and the block that it is taken for
        self._changed = threading.Condition(self._mutex)
        self._readers: set[int] = set()
        self._writer: int | None = None
        self._waiting: set[int] = set()  # to write

    def holds(self, me: int, *, to_write: bool = False) -> bool:
        """Whether thread `me` has the lock already."""
        if self._process != os.getpid():
            self._renew()
        if to_write and me in self._readers:
            raise RuntimeError("an index cannot be changed within a search of the same thread")
        return self._writer == me or me in self._readers

    def begin_reading(self, me: int) -> None:
        """Wait for writers."""
        with self._mutex:
            while self._writer is not None or self._waiting:
                self._changed.wait()
            self._readers.add(me)

    def begin_writing(self, me: int) -> None:
        """Wait for all others."""
        with self._mutex:
            self._waiting.add(me)
            while self._writer is not None or self._readers:
                self._changed.wait()
            self._writer = me
            self._waiting.discard(me)

    def end(self, me: int) -> None:
        """Give up what thread `me` has or waits for: an interrupt may come before `begin_...` has got it."""
        try:
            self._end(me)
        except BaseException:  # Ctrl-C has come amid
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
        """Held while the index is read."""
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
    """For a public method that reads an index: others may run at the same time, changes wait."""

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
    """For a public method that changes an index: it runs alone, and not on a mapped index."""

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
    """Put Ctrl-C off to the end: for the few statements that make a change visible, which all happen or none."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came: list[Any] = []
    signal.signal(signal.SIGINT, lambda *args: came.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            before(*came[-1])
