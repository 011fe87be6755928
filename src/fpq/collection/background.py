"""The thread that folds the tail while searches and upserts go on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

PAUSE = 3.0  # times the duration of the last fold: folding takes at most a quarter of the time

_logger = logging.getLogger("fpq")


class Background:
    """Runs a function on a thread when asked to, one run at a time."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._not_before = 0.0
        self._error: BaseException | None = None

    def ask(self) -> None:
        """Start the function, unless it runs or has just run."""
        with self._lock:
            if (self._thread is not None and self._thread.is_alive()) or time.monotonic() < self._not_before:
                return
            self._thread = threading.Thread(target=self._run, name="fpq-collection")
            self._thread.start()

    def _run(self) -> None:
        start = time.monotonic()
        try:
            self._work()
        except BaseException as error:
            _logger.exception("Collection: the background thread failed")
            self._error = error
        end = time.monotonic()
        self._not_before = end + PAUSE * (end - start)

    def wait(self) -> None:
        """Wait for the end of a run."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def raise_error(self) -> None:
        """Raise the error of the last run, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error
