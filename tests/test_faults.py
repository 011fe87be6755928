"""Faults leave files whole and indexes as they were. bench/faults.py does the same at length."""

from __future__ import annotations

import contextlib
import copy
import os
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest

import fpq
from fpq import _arrays, _native

X = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
WIDE = np.hstack([X, X])  # wide enough for sketches
posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


@posix
def test_killed_while_saving(tmp_path: Path) -> None:
    found = faults.kill_while_saving(tmp_path / "a", 20_000, np.random.default_rng(0).random(6) * 0.05)
    assert found["old"] + found["new"] == 6


@posix
@pytest.mark.parametrize("what", ["kmeans", "capacity", "k-means++", "pq", "opq", "add", "flat add", "search"])
def test_interrupt(what: str) -> None:
    _, unchanged = faults.interrupted(what, 0.7)
    assert unchanged


FULL = """
import resource, signal, sys, numpy as np, fpq
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
index = fpq.FlatIndex().add(np.ones((5000, 16), np.float32))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    index.save(sys.argv[1])
except OSError as error:
    print(error.errno, len(index), index.search(np.ones(16), k=1).ids[0])
"""


@posix
def test_no_room_for_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    fpq.FlatIndex().add(X).save(path)
    before = path.read_bytes()
    out = faults.run(FULL, path).communicate(timeout=60)[0].split()
    assert out[1:] == ["5000", "0"]
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_any_step_of_saving_fails(
    call: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    fpq.FlatIndex().add(X).save(path)
    before = path.read_bytes()

    def fail(*_: Any) -> Any:
        raise error

    target = "fpq._files.pieces" if call == "write" else f"fpq._files.os.{call}"
    with monkeypatch.context() as patch:
        patch.setattr(target, fail)
        with pytest.raises(type(error)):
            fpq.FlatIndex("ip").save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a"]
    fpq.FlatIndex("ip").save(path)
    assert fpq.load(path).metric == "ip"


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    path = tmp_path / "a"
    fpq.FlatIndex().save(path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            fpq.FlatIndex("ip").save(path)
    finally:
        tmp_path.chmod(0o700)
    assert fpq.load(path).metric == "l2"


INDEXES: dict[str, Callable[[], Any]] = {
    "flat": lambda: fpq.FlatIndex().add(X),
    "flat ids": lambda: fpq.FlatIndex("cosine").add(X.astype(np.float16), ids=np.arange(500) * 2),
    "pq": lambda: fpq.PQIndex(4, nbits=5).fit(X).add(X),
    "pq open": lambda: (
        fpq.PQIndex(4, nbits=5, open_indexing=1.5, keep_vectors=True).fit(X).add(X, ids=np.arange(500) * 2)
    ),
    "ivfpq": lambda: fpq.IVFPQIndex(5, 4, nbits=5).fit(X).add(X),
    "ivfpq refined": lambda: fpq.IVFPQIndex(5, 4, nbits=5, refine="sq4").fit(X).add(X, ids=np.arange(500) * 2),
    "ivfpq open": lambda: (
        fpq.IVFPQIndex(5, 4, nbits=5, residual=False, open_indexing=1.5, list_capacity=1.1, keep_vectors=True)
        .fit(X)
        .add(X, ids=np.arange(500) * 2)
    ),
    "e2lsh": lambda: fpq.E2LSHIndex(n_tables=2, n_hashes=2).fit(WIDE).add(WIDE),
    "c2lsh": lambda: fpq.C2LSHIndex(n_hashes=20).fit(WIDE).add(WIDE, ids=np.arange(500) * 2),
    "pmlsh": lambda: fpq.PMLSHIndex().fit(WIDE).add(WIDE, ids=np.arange(500) * 2),
}


class Fails:
    """Raises at the n-th call of any of the functions that take memory or compute; no memory stays no memory."""

    def __init__(self, patch: pytest.MonkeyPatch, error: BaseException, at: int) -> None:
        self.left = at
        self.error = error
        # Those that commit a change cannot fail; an interrupt is put off while they run.
        names = [name for name in _native.__dict__ if callable(getattr(_native, name)) and not name.startswith("_")]
        for name in set(names) - {"put_codes", "pmlsh_put", "ids_insert", "ids_remove"}:
            patch.setattr(_native, name, self.wrapped(getattr(_native, name)))
        patch.setattr(_arrays.np, "zeros", self.wrapped(np.zeros))
        patch.setattr(_arrays.np, "empty", self.wrapped(np.empty))
        patch.setattr(_arrays.np, "concatenate", self.wrapped(np.concatenate))
        patch.setattr(_arrays.np, "sort", self.wrapped(np.sort))
        patch.setattr(_arrays.np, "arange", self.wrapped(np.arange))

    def wrapped(self, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0 or (self.left < 0 and isinstance(self.error, MemoryError)):
                raise self.error
            return function(*args, **kwargs)

        return call


@pytest.mark.parametrize("name", INDEXES)
def test_no_later_file_holds_the_rows_of_a_failed_add(name: str, tmp_path: Path) -> None:
    index = INDEXES[name]()
    rows = X if index.dim == 16 else WIDE
    untouched = copy.deepcopy(index)
    with pytest.raises(ValueError, match="finite"):
        index.add(iter([rows[:400], rows[400:] * np.nan]))
    for each, path in ((index, tmp_path / "a"), (untouched, tmp_path / "b")):
        each.add(rows[:190]).save(path)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("error", [MemoryError("none left"), KeyboardInterrupt()])
@pytest.mark.parametrize("name", INDEXES)
@pytest.mark.parametrize(
    "change", ["add", "add stream", "add with ids", "remove", "remove all", "update", "merge", "reset", "fit"]
)
def test_failing_changes_leave_the_index_alone(
    change: str, name: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = INDEXES[name]()
    rows = X if index.dim == 16 else WIDE
    if change == "fit":
        index.remove(index.ids)
    untouched = copy.deepcopy(index)
    other = index.copy().reset().add(rows[:130], ids=np.arange(2000, 2130))
    calls = {
        "merge": lambda i: i.merge(other),
        "add": lambda i: i.add(rows[:70]),
        "add with ids": lambda i: i.add(rows[:70].astype(np.float64), ids=np.arange(9000, 9070)),
        "remove": lambda i: i.remove(np.arange(20, 300, 2)),
        "add stream": lambda i: i.add(rows[:70] if "lsh" in name else iter([rows[:5], rows[5:70]])),
        "remove all": lambda i: i.remove(i.ids),
        "update": lambda i: i.update(rows[:70] * 2, ids=np.arange(460, 600, 2)),
        "reset": lambda i: i.reset(),
        "fit": lambda i: i.fit(rows[:300] * 2),
    }
    index.search(rows[:1], allowed=index.ids)  # makes the tables of ids, which are then to be kept
    before = observable(untouched)
    at = 0
    while True:
        at += 1 if at < 60 else at // 10  # training repeats itself
        with monkeypatch.context() as patch:
            faulty = Fails(patch, error, at)
            with contextlib.suppress(MemoryError, KeyboardInterrupt):
                calls[change](index)
        if faulty.left > 0:
            break
        assert observable(index) == before
    assert at > 1 or (change == "fit" and "flat" in name)
    calls[change](untouched)
    assert observable(index) == observable(untouched)


@pytest.mark.parametrize("name", INDEXES)
@pytest.mark.parametrize("change", ["add", "add stream", "remove", "update", "merge", "fit"])
def test_what_becomes_visible_takes_no_memory(change: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that could fail is done between the first and the last statement of a change."""
    index = INDEXES[name]()
    rows = np.tile(X if index.dim == 16 else WIDE, (20, 1))
    index.add(rows, ids=np.arange(len(rows)) + 1000)
    peaks = []

    @contextlib.contextmanager
    def measured() -> Any:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        yield
        peaks.append(tracemalloc.get_traced_memory()[1] - before)

    for module in ("changes", "parts.streaming"):
        monkeypatch.setattr(f"fpq.indexes.{module}.uninterrupted", measured)
    other = index.copy().reset().add(rows, ids=np.arange(len(rows)) + 20_000)
    peaks.clear()
    if change == "fit":
        index.remove(index.ids)
        index = copy.deepcopy(index)
        peaks.clear()
    tracemalloc.start()
    try:
        if change == "add":
            index.add(rows)
        elif change == "remove":
            assert index.remove(np.arange(1000, 11000, 3)) > 3000
        elif change == "merge":
            index.merge(other)
        elif change == "update":
            index.update(rows[:4000], ids=np.arange(8000, 12000))
        elif change == "fit":
            index.fit(rows[:400] * 2)
        elif "lsh" not in name:
            with pytest.raises(ValueError, match="partition 1"):
                index.add(iter([rows, rows[:, :3]]))
    finally:
        tracemalloc.stop()
    assert peaks or (change == "fit" and "flat" in name) or (change == "add stream" and "lsh" in name)
    assert max(peaks, default=0) < 30_000, peaks


def observable(index: Any) -> Any:
    found = index.search(X[:5] if index.dim == 16 else WIDE[:5], k=4)
    arrays = [each.tobytes() for each in (index.ids, *found, index.reconstruct(index.ids))]
    return arrays, index._state().params, b"".join(map(bytes, index._pieces()))


@pytest.mark.skipif(not faults.can_limit_memory(), reason="no RLIMIT_AS")
def test_memory_that_runs_out_in_add() -> None:
    code = """
import resource, numpy as np, fpq
rows = np.random.default_rng(0).normal(size=(1000, 64)).astype(np.float32)
index = fpq.FlatIndex(n_threads=1).add(rows)
before = index.search(rows[:5]).ids.tolist()
many = np.lib.stride_tricks.as_strided(rows, (20_000_000, 64), (0, 4))
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29), -1))
try:
    index.add(many)
except MemoryError:
    print(len(index), index.search(rows[:5]).ids.tolist() == before, len(index.add(rows)))
"""
    process = faults.run(code, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert out.split() == ["1000", "True", "2000"], err
