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
        self._changed = threading.Condition(threading.Lock())
        self._readers: set[int] = set()
        self._writer: int | None = None
        self._waiting = 0

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Held while the index is read."""
        me = threading.get_ident()
        if self._process != os.getpid():
            self._renew()
        if me in self._readers or self._writer == me:
            yield
            return
        try:
            with self._changed:
                while self._writer is not None or self._waiting:
                    self._changed.wait()
                self._readers.add(me)
            yield
        finally:  # of an interrupt too, wherever it came
            with self._changed:
                self._readers.discard(me)
                if not self._readers:
                    self._changed.notify_all()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Held while the index is changed."""
        me = threading.get_ident()
        if self._process != os.getpid():
            self._renew()
        if me in self._readers:
            raise RuntimeError("an index cannot be changed within a search of the same thread")
        if self._writer == me:
            yield
            return
        try:
            with self._changed:
                self._waiting += 1
                try:
                    while self._writer is not None or self._readers:
                        self._changed.wait()
                    self._writer = me
                finally:
                    self._waiting -= 1
            yield
        finally:
            with self._changed:
                if self._writer == me:
                    self._writer = None
                self._changed.notify_all()


F = TypeVar("F", bound=Callable[..., Any])


def reads(method: F) -> F:
    """For a public method that reads an index: others may run at the same time, changes wait."""

    @functools.wraps(method)
    def locked(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._lock.reading():
            return method(self, *args, **kwargs)

    return cast(F, locked)


def writes(method: F) -> F:
    """For a public method that changes an index: it runs alone, and not on a mapped index."""

    @functools.wraps(method)
    def locked(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._require_writable()
        with self._lock.writing():
            return method(self, *args, **kwargs)

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
