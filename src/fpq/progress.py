"""Progress of calls that take long: log lines, progress bars, lines of text, or your own function.

A long call consists of stages. `fit` has "sample", "lists" (the centroids of inverted lists), "rotation" and
"codebooks", or those that the index needs; `fit` of an LSH index has "hashes", `KMeans.fit` has "centroids". `add` has
"assignment" (of rows to lists) or "hashes", and "rows"; of rows in blocks, only "rows". `tune` has "exact neighbours"
and "settings", a search for queries in blocks "search", `fpq.dask.build` "encode", and `save` "file". An `add` of fewer
than 100,000 rows in one array, a search for queries in one array, and files below 100 MB report nothing.

The logger "fpq" gets one line of level INFO per finished stage, for any `verbose`::

    logging.basicConfig(level=logging.INFO)  # INFO:fpq:IVFPQIndex.fit: lists: 1,024 centroids from ..., 2.31 s

The setting `verbose` of indexes, `KMeans` and `ProductQuantizer` shows more:

False
    Nothing.
True
    A progress bar in a terminal or a notebook. Elsewhere, a line on standard error every 10 seconds, and one per
    finished stage.
a function
    Call the function with a `Progress`: at the start and at the end of each stage, and at most 10 times per second in
    between. The calls come from the thread that called `fit` or `add`. The function may search the index, but not
    change it. An exception in the function ends the call and leaves the object as it was, which is a way to cancel.
    Copies and pickles of the object have verbose=False instead of the function, and files never contain `verbose`.

For example:

>>> import numpy as np, fpq
>>> def show(progress):
...     if progress.done == progress.total:
...         print(progress.stage, progress.done, progress.unit)
>>> X = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
>>> index = fpq.IVFPQIndex(n_lists=20, m=4, verbose=show).fit(X)
sample 2000 rows
lists 10 iterations
codebooks 25 iterations
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, TypeVar, cast

__all__ = ["Progress"]

LEAST_ROWS = 100_000  # a call with fewer rows in one array reports nothing
LEAST_BYTES = 100_000_000  # of a file
SECONDS = 0.1  # between reports within a stage
LINE_SECONDS = 10.0  # between lines of text

F = TypeVar("F", bound=Callable[..., Any])
Advance = Callable[[int], None]  # counts finished units

_logger = logging.getLogger("fpq")
_importing = threading.Lock()


class Progress(NamedTuple):
    """The progress of one stage of a call.

    Attributes
    ----------
    stage : str
        The name of the stage.
    done : int
        Finished units: 0 in the first report of a stage, `total` in the last and in no other.
    total : int or None
        Units of the whole stage; None if the number is unknown before the end.
    unit : str
        The plural name of a unit: "iterations", "rows", "queries", "settings" or "bytes".
    seconds : float
        Time since the start of the stage.
    """

    stage: str
    done: int
    total: int | None
    unit: str
    seconds: float


class _Report:
    """A call of code of the user: a progress function, or a handler of log lines."""


class _Call:
    """A call that reports its stages; a stage within a stage is part of the outer one."""

    def __init__(self, name: str, verbose: bool | Callable[[Progress], None]) -> None:
        self.name = name
        self.verbose = verbose
        self.in_stage = False


def _no_call() -> None:
    """The reference of a thread without a call."""


class _Local(threading.local):
    """The present call of this thread; tasks on other threads report nothing."""

    # A weak reference: an interrupt before the end of `call` below leaves no call behind.
    reference: Callable[[], _Call | None] = staticmethod(_no_call)
    report: Callable[[], _Report | None] = staticmethod(_no_call)  # while code of the user runs


_local = _Local()


def telling() -> bool:
    """Whether this thread runs code of the user, called by a stage."""
    return _local.report() is not None


def _tell(show: Callable[..., None], *arguments: Any) -> None:
    """Call code of the user."""
    report = _Report()
    try:
        _local.report = weakref.ref(report)
        show(*arguments)
    finally:
        _local.report = _no_call


def silent(n: int) -> None:
    """Count units of a stage that nobody sees."""


_SILENT = nullcontext(silent)
_NO_CALL = nullcontext()


@contextmanager
def call(name: str, verbose: bool | Callable[[Progress], None]) -> Iterator[None]:
    """A context whose stages are reported under `name`; within another call, the stages belong to that call."""
    if _local.reference() is not None:
        yield
        return
    present = _Call(name, verbose)
    try:
        _local.reference = weakref.ref(present)
        yield
    finally:
        _local.reference = _no_call


def method(owner: Any, name: str, rows: int = LEAST_ROWS) -> AbstractContextManager[None]:
    """The `call` of a method that works on this number of rows; few rows are not reported."""
    if rows < LEAST_ROWS:
        return _NO_CALL
    return call(f"{type(owner).__name__}.{name}", getattr(owner, "verbose", False))


def reported(function: F) -> F:
    """Decorate a public method whose stages are reported."""

    @functools.wraps(function)
    def reporting(self: Any, *args: Any, **kwargs: Any) -> Any:
        with method(self, function.__name__):
            return function(self, *args, **kwargs)

    return cast(F, reporting)


def stage(name: str, total: int | None, unit: str, about: str = "") -> AbstractContextManager[Advance]:
    """A context whose value counts finished units of a stage of the present call.

    `about` describes the finished stage in lines of text. The end of the stage may raise the exception of a callback:
    no stage may contain or follow the commit of a change.
    """
    call = _local.reference()
    return _SILENT if call is None or call.in_stage else _reported(call, name, total, unit, about)


@contextmanager
def saving(owner: Any, n: int) -> Iterator[Advance]:
    """A context for writing a file of n bytes, whose value counts them; a small file is not reported."""
    with method(owner, "save", LEAST_ROWS if n >= LEAST_BYTES else 0), stage("file", n, "bytes") as advance:
        yield advance


@contextmanager
def _reported(call: _Call, name: str, total: int | None, unit: str, about: str) -> Iterator[Advance]:
    title = f"{call.name}: {name}"
    start = time.perf_counter()
    done, due = 0, start + SECONDS

    def advance(n: int) -> None:
        nonlocal done, due
        done += n
        now = time.perf_counter()
        if now >= due and done != total:  # the last report comes at the end of the stage
            _tell(show, Progress(name, done, total, unit, now - start))
            due = time.perf_counter() + SECONDS

    try:
        call.in_stage = True
        with _shown(call.verbose, title, total, unit) as show:
            _tell(show, Progress(name, 0, total, unit, 0.0))
            yield advance
            seconds = time.perf_counter() - start
            done = done if total is None else total  # k-means may end early
            _tell(show, Progress(name, done, done, unit, seconds))
    finally:
        call.in_stage = False
    line = f"{title}: {about or f'{done:,} {unit}'}, {seconds:.2f} s"
    if call.verbose is True and sys.stderr is not None and not _in_notebook():
        _print(line)
    _tell(_logger.info, "%s", line)


def _in_terminal() -> bool:
    """Whether standard error is a terminal; the writers of some editors do not say."""
    try:
        return bool(sys.stderr.isatty())
    except (AttributeError, ValueError):  # ValueError: a closed file
        return False


def _print(line: str) -> None:
    """Print a line on standard error, if it takes one."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def _in_notebook() -> bool:
    """Whether standard error is the output of a notebook cell."""
    return type(sys.stderr).__module__.startswith("ipykernel")


@contextmanager
def _shown(
    verbose: bool | Callable[[Progress], None], title: str, total: int | None, unit: str
) -> Iterator[Callable[[Progress], None]]:
    """A context whose value shows the progress of a stage."""
    if callable(verbose):
        yield verbose
    elif not verbose or sys.stderr is None:  # None: a program without a console on Windows
        yield lambda progress: None
    elif _in_terminal() or _in_notebook():
        with _bar(title, total, unit) as bar:
            yield lambda progress: cast(None, bar.update(progress.done - bar.n))
    else:
        yield _lines(title)


def _bar(title: str, total: int | None, unit: str) -> Any:
    """A tqdm bar. In a notebook, finished bars stay; in a terminal, a line of text replaces them."""
    with _importing, warnings.catch_warnings():  # of two threads, one would keep the filters of the other
        warnings.simplefilter("ignore")  # tqdm warns of its own stability, and of missing widgets
        from tqdm.auto import tqdm
    notebook = _in_notebook()
    return tqdm(
        total=total, desc=title, unit=f" {unit}", unit_scale=(total or 0) >= 1000, miniters=0, leave=notebook,
        delay=0 if notebook else 1,
    )  # fmt: skip


def _lines(title: str) -> Callable[[Progress], None]:
    """A function that prints a line of text every LINE_SECONDS."""
    due = LINE_SECONDS

    def show(progress: Progress) -> None:
        nonlocal due
        if progress.seconds >= due and progress.done != progress.total:  # a line for the finished stage follows
            due = progress.seconds + LINE_SECONDS
            of = "" if progress.total is None else f" of {progress.total:,}"
            _print(f"{title}: {progress.done:,}{of} {progress.unit}, {progress.seconds:.0f} s")

    return show
