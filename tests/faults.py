"""Faults put on: a process killed while it saves, a full disk, no memory, Ctrl-C."""

from __future__ import annotations

import contextlib
import dis
import functools
import linecache
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fpq

SAVER = """
import sys, numpy as np, fpq
index = fpq.FlatIndex().add(np.zeros((int(sys.argv[2]), 64), np.float32))
other = fpq.FlatIndex().add(np.ones((int(sys.argv[2]), 64), np.float32))
print("ready", flush=True)
while True:
    index.save(sys.argv[1])
    other.save(sys.argv[1])
"""

# Work for minutes, on rows that take no memory.
INTERRUPTED = """
import sys, threading, os, signal, time, numpy as np, fpq
from faults import answers
rng = np.random.default_rng(0)
rows = rng.normal(size=(3000, 64)).astype(np.float32)
many = np.lib.stride_tricks.as_strided(rows, (60_000_000, 64), (0, 4))
some = np.tile(rows, (40, 1))
def refit(thing, x, **attributes):
    thing.fit(rows)
    vars(thing).update(attributes)
    return thing, lambda: thing.fit(x)
def index(index, call):
    index.fit(rows).add(rows)
    return index, lambda: call(index)
work = {
    "kmeans": lambda: refit(
        fpq.KMeans(10), many, n_clusters=20_000, n_iter=10_000, max_points_per_centroid=100),
    "capacity": lambda: refit(fpq.KMeans(10, capacity=1.0), some, n_clusters=3000, n_iter=10_000),
    "k-means++": lambda: refit(fpq.KMeans(10, init="k-means++"), some, n_clusters=30_000),
    "pq": lambda: refit(fpq.ProductQuantizer(16, nbits=4), many, nbits=8, n_iter=100_000, max_points_per_centroid=4000),
    "opq": lambda: refit(
        fpq.ProductQuantizer(16, nbits=4, rotation="opq"), rng.normal(size=(3000, 1500)).astype(np.float32)),
    "add": lambda: index(fpq.PQIndex(32, nbits=4, open_indexing=1.5), lambda index: index.add(many)),
    "flat add": lambda: index(fpq.FlatIndex(), lambda index: [index.add(many[:1_000_000]) for _ in range(100)]),
    "search": lambda: index(fpq.PQIndex(16), lambda index: index.add(np.tile(some, (5, 1))).search(some)),
}
thing, run = work[sys.argv[1]]()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would ignore it
before = answers(thing)
sent = []
def send():
    time.sleep(float(sys.argv[2]))
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=send).start()
try:
    run()
    print("was done before")
except KeyboardInterrupt:
    took = time.perf_counter() - sent[0]
    after = answers(thing)
    if sys.argv[1] in ("flat add", "search"):  # of several adds, each is done or not
        print(took, len(thing) % 1000 == 0)
    else:
        print(took, after == before)
sys.stdout.flush()
"""


def answers(thing: Any) -> bytes:
    """What an object holds and says."""
    if isinstance(thing, fpq.FlatIndex):  # has become large
        return repr([len(thing), thing.search(np.ones(thing.dim), k=3)]).encode()
    return b"".join(thing._pieces())


def run(code: str, *args: Any, **options: Any) -> subprocess.Popen[str]:
    """Python code in a process of its own that imports this fpq and this folder."""
    paths = [str(Path(__file__).parent), str(Path(fpq.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        **options,
    )


def can_limit_memory() -> bool:
    """Whether the system obeys RLIMIT_AS. qemu, as the system of one program, does not."""
    if sys.platform != "linux":
        return False
    import resource

    none = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    if resource.getrlimit(resource.RLIMIT_AS) != none:
        return True
    resource.setrlimit(resource.RLIMIT_AS, (1 << 46, none[1]))  # more than there is
    obeyed = resource.getrlimit(resource.RLIMIT_AS) != none
    resource.setrlimit(resource.RLIMIT_AS, none)
    return obeyed


def interrupted(what: str, after: float) -> tuple[float, bool]:
    """Seconds from Ctrl-C to the end of a call, and whether the object was as before."""
    process = run(INTERRUPTED, what, after)
    out = process.communicate(timeout=120)[0].split()
    return float(out[0]), out[1] == "True"


def kill_while_saving(path: Path, rows: int, moments: Any) -> dict[str, int]:
    """Kill a process that saves two indexes in turn, at each of the moments; what was then in the file."""
    found = {"old": 0, "new": 0, "unfinished files left": 0}
    last = -1.0
    for moment in moments:
        process = run(SAVER, path, rows)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        while not path.exists():
            time.sleep(0.001)
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        index = fpq.load(path)
        values = np.unique(index.reconstruct(index.ids[:: max(1, rows // 100)]))
        assert len(index) == rows and len(values) == 1 and values[0] in (0, 1)
        found["old" if values[0] == last else "new"] += 1
        last = float(values[0])
        for left in path.parent.glob(f".{path.name}.*.tmp"):
            found["unfinished files left"] += 1
            left.unlink()
    return found


def search_in_process(index: Any, Q: Any, out: Any = None) -> Any:
    """What a spawned process runs: it can import this module, but not a test file."""
    ids = index.search(Q, k=5).ids
    if out is not None:
        out.put(ids)
    return ids


PACKAGE = os.path.dirname(fpq.__file__) + os.sep
# Lines between a call and the `with` or `try` that undoes it: no signal is heeded there, they only call.
UNBROKEN = {("lock.py", name) for name in ("locked", "reading", "end", "uninterrupted")}

# Instructions that may run out of memory: calls, operators, indexing by slices and by arrays of row numbers.
ALLOCATING = ("CALL", "BINARY_", "INPLACE_", "STORE_SUBSCR", "STORE_SLICE", "BUILD_", "LIST_EXTEND", "UNARY_NEGATIVE")

Line = tuple[str, int, int]  # file, number, offset of an instruction in its function or -1 for the whole line


@functools.cache
def allocating(code: Any) -> frozenset[int]:
    """The offsets of the instructions of a function that may run out of memory, but for those of `with`."""
    return frozenset(each.offset for each in dis.get_instructions(code) if each.opname.startswith(ALLOCATING))


def begins_with(code: Any, line: int) -> bool:
    """Whether a line is a `with` statement."""
    return linecache.getline(code.co_filename, line).lstrip().startswith("with ")


class Lines:
    """Traces the lines of fpq that a call executes, and raises an error before a line is executed for the n-th time.

    The same for the instructions that may run out of memory: each is a place of its own in `counts`. What
    `uninterrupted` puts an interrupt off for does not count: it cannot fail.
    """

    def __init__(self, at: Line | None = None, times: int = 0, error: BaseException | None = None) -> None:
        self.counts: dict[Line, int] = {}
        self.raised = False
        self._at, self._left, self._error = at, times, error
        self._calls_of_uninterrupted = 0
        self._within = False

    def run(self, call: Any) -> Any:
        """The result of ``call()``."""
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return call()
        finally:
            sys.settrace(before)

    def _enter(self, frame: Any, event: str, argument: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return None
        if code.co_name == "uninterrupted":  # a generator: it is called to begin and to end
            self._calls_of_uninterrupted += 1
            self._within = True
            return self._leave_uninterrupted
        if self._within or (os.path.basename(code.co_filename), code.co_name) in UNBROKEN:
            return None
        frame.f_trace_opcodes = self._error is None or (self._at is not None and self._at[2] >= 0)
        begun: set[int] = set()  # lines with `with`: each comes again before it ends, where no signal is heeded either

        def line(frame: Any, event: str, argument: Any) -> Any:
            if event == "line" and frame.f_lineno not in begun:
                if begins_with(code, frame.f_lineno):
                    begun.add(frame.f_lineno)
                self._line((code.co_filename, frame.f_lineno, -1))
            elif event == "opcode" and frame.f_lasti in allocating(code) and not begins_with(code, frame.f_lineno):
                self._line((code.co_filename, frame.f_lineno, frame.f_lasti))
            return line

        return line

    def _leave_uninterrupted(self, frame: Any, event: str, argument: Any) -> Any:
        if event == "return":
            self._within = self._calls_of_uninterrupted % 2 == 1
        return self._leave_uninterrupted

    def _line(self, line: Line) -> None:
        if self._within:
            return
        if self._error is None:
            self.counts[line] = self.counts.get(line, 0) + 1
        elif line == self._at:
            self._left -= 1
            if self._left == 0:
                self.raised = True
                raise self._error


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Calls that are no part of the traced call."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)


def every_line(make: Any, call: Any, observe: Any, *, step: int = 1, salt: str = "") -> int:
    """Fail before each line of a call, or one in `step` of them; how many times it failed.

    Each line fails with MemoryError at its first and with KeyboardInterrupt at its last execution, and each instruction
    that may run out of memory, one in ``4 * step``, with MemoryError at its last execution. After that the
    object is seen to be as before, or as after a call that succeeds (when nothing was left to do but to return).

    Parameters
    ----------
    make : callable
        Makes the object.
    call : callable
        Takes the object.
    observe : callable
        Takes the object; all that can be seen of it, to be compared.
    """
    thing = make()
    before = observe(thing)
    tracer = Lines()
    tracer.run(lambda: call(thing))
    after = observe(thing)
    lines = sorted(tracer.counts.items())
    assert lines
    cases = [
        case
        for i, (line, times) in enumerate(line for line in lines if line[0][2] < 0)
        if (i + zlib.crc32(salt.encode())) % step == 0
        for case in ((line, 1, MemoryError("none left")), (line, times, KeyboardInterrupt()))
    ]
    instructions = [line for line in lines if line[0][2] >= 0][zlib.crc32(salt.encode()) % (4 * step) :: 4 * step]
    cases += [(line, times, MemoryError("none left")) for line, times in instructions]
    thing = make()
    failed = 0
    for line, times, error in cases:
        tracer = Lines(line, times, error)
        try:
            tracer.run(lambda: call(thing))
        except (MemoryError, KeyboardInterrupt):
            assert tracer.raised, line
        error.__traceback__ = error.__context__ = None  # they keep the frames of the failed call alive
        failed += tracer.raised
        found = observe(thing)
        if found != before:
            assert found == after, f"{type(error).__name__} at execution {times} of {line[0]}:{line[1]}"
            thing = make()
    call(thing)
    assert observe(thing) == after, "after all failures"
    return failed
