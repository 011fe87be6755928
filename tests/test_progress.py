"""Progress of long calls: log lines, bars, lines of text, callbacks."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
from fpq import cli, progress, storage
from fpq.indexes.parts import coarse, two_level
from fpq.progress import Progress

N = 1200
X = np.random.default_rng(0).normal(size=(N, 12)).astype(np.float32)
Q = X[:40] + np.float32(0.1)

pytestmark = pytest.mark.filterwarnings("ignore:.*training rows for:RuntimeWarning")


class Recorder:
    """A callback that keeps its reports, and raises once when a stage begins."""

    def __init__(self, stop_at: str | None = None) -> None:
        self.reports: list[Progress] = []
        self.threads: set[int] = set()
        self.stop_at = stop_at

    def __call__(self, report: Progress) -> None:
        self.reports.append(report)
        self.threads.add(threading.get_ident())
        if report.stage == self.stop_at and report.done == report.total:
            raise InterruptedError(report.stage)

    def taken(self) -> list[tuple[str, int | None, str]]:
        """The stages since the last call, each with its final count and unit, after checks of all reports."""
        reports, self.reports = self.reports, []
        assert self.threads <= {threading.get_ident()}
        stages: list[list[Progress]] = []
        for report in reports:
            if not report.done and (not stages or stages[-1][-1].done == stages[-1][-1].total):
                stages.append([])
            stages[-1].append(report)
        for stage in stages:
            assert len({report.stage for report in stage}) == len({report.unit for report in stage}) == 1
            assert stage[0].done == stage[0].seconds == 0
            assert [report.done for report in stage] == sorted(report.done for report in stage)
            assert [report.seconds for report in stage] == sorted(report.seconds for report in stage)
            assert [report.done == report.total for report in stage] == [False] * (len(stage) - 1) + [True]
            assert all(report.total in (None, stage[-1].total) for report in stage)
        return [(stage[-1].stage, stage[-1].total, stage[-1].unit) for stage in stages]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small adds are reported."""
    monkeypatch.setattr(progress, "LEAST_ROWS", 100)
    monkeypatch.setattr(progress.method, "__defaults__", (100,))


KINDS: dict[str, tuple[Callable[..., Any], list[tuple[str, int, str]], list[tuple[str, int, str]]]] = {
    "kmeans": (lambda: fpq.KMeans(5, n_iter=7), [("centroids", 7, "iterations")], []),
    "quantizer": (
        lambda: fpq.ProductQuantizer(3, nbits=4, rotation="pca", n_iter=7),
        [("rotation", 1, "iterations"), ("codebooks", 7, "iterations")],
        [],
    ),
    "flat": (fpq.FlatIndex, [], [("rows", N, "rows")]),
    "pq": (
        lambda: fpq.PQIndex(3, nbits=4, rotation="opq", keep_vectors=True),
        [("sample", N, "rows"), ("rotation", 16, "iterations"), ("codebooks", 25, "iterations")],
        [("rows", N, "rows")],
    ),
    "ivfpq": (
        lambda: fpq.IVFPQIndex(6, 3, nbits=4, keep_vectors=True),
        [("sample", N, "rows"), ("lists", 10, "iterations"), ("codebooks", 25, "iterations")],
        [("assignment", N, "rows"), ("rows", N, "rows")],
    ),
    "e2lsh": (
        lambda: fpq.E2LSHIndex(n_tables=2, n_hashes=2),
        [("hashes", N, "rows")],
        [("hashes", N, "rows"), ("rows", N, "rows")],
    ),
    "c2lsh": (
        lambda: fpq.C2LSHIndex(n_hashes=20),
        [("hashes", N, "rows")],
        [("hashes", N, "rows"), ("rows", N, "rows")],
    ),
    "pmlsh": (
        fpq.PMLSHIndex,
        [("hashes", N, "rows")],
        [("hashes", N, "rows"), ("rows", N, "rows")],
    ),
}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("kind", KINDS)
def test_stages(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    make, fit, add = KINDS[kind]
    thing, recorder = make(), Recorder()
    thing.verbose = recorder
    name = type(thing).__name__
    with caplog.at_level(logging.INFO, "fpq"):
        thing.fit(X)
        assert recorder.taken() == fit
        assert [line.split(", ")[0].split(": ")[:2] for line in caplog.messages] == [
            [f"{name}.fit", stage] for stage, _, _ in fit
        ]
        if not add:
            return
        caplog.clear()
        thing.add(X)
        assert recorder.taken() == add
        lines = [[f"{name}.add", stage, f"{N:,} rows"] for stage, _, _ in add]
        assert [line.rsplit(", ", 1)[0].split(": ") for line in caplog.messages] == lines
        caplog.clear()
        thing.add(X[:1])
        thing.search(Q, 3)
        thing.range_search(Q, 1.0)
        thing.remove([0])
        assert not recorder.reports
        assert not caplog.messages


def test_log_line(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.INFO, "fpq"):
        fpq.IVFPQIndex(6, 3, nbits=4).fit(X)
    assert [record.levelname for record in caplog.records] == ["INFO"] * 3
    assert caplog.messages[1].startswith("IVFPQIndex.fit: lists: 6 centroids from 1,200 rows, ")
    assert caplog.messages[2].startswith("IVFPQIndex.fit: codebooks: 3 x 16 centroids from 1,200 rows, ")
    assert all(line.endswith(" s") for line in caplog.messages)
    assert not logging.getLogger("fpq").handlers
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["e2lsh", "c2lsh", "pmlsh", "pq", "ivfpq"])
def test_tune(kind: str) -> None:
    recorder = Recorder()
    index = KINDS[kind][0]().fit(X).add(X)
    index.verbose = recorder
    index.tune(Q, 3, 0.1)
    exact, settings = recorder.taken()
    assert exact == ("exact neighbours", len(Q), "queries")
    assert settings[::2] == ("settings", "settings")


def blocks() -> Iterator[Any]:
    yield from np.split(X, 4)


@pytest.mark.parametrize("sized", [True, False])
def test_blocks(sized: bool) -> None:
    recorder = Recorder()
    index = fpq.IVFPQIndex(6, 3, nbits=4, verbose=recorder)
    if sized:
        array = pytest.importorskip("dask.array").from_array(X, chunks=(300, -1))
    index.fit(array if sized else blocks())
    assert [stage for stage, _, _ in recorder.taken()] == ["sample", "lists", "codebooks"]
    index.add(array if sized else blocks())
    assert recorder.taken() == [("rows", N, "rows")]
    index.search(blocks(), 3)
    assert recorder.taken() == [("search", N, "rows")]
    index.tune(Q, 3, 0.1, X=array if sized else blocks())
    assert recorder.taken()[0] == ("exact neighbours", N, "rows")


def test_two_levels_of_lists(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(coarse, "LEAST_LISTS", 16)
    monkeypatch.setattr(two_level, "LEAST_LISTS", 16)
    recorder = Recorder()
    with caplog.at_level(logging.INFO, "fpq"):
        fpq.IVFPQIndex(30, 3, nbits=4, verbose=recorder).fit(X)
    assert recorder.taken()[1] == ("lists", 30, "centroids")
    assert len(caplog.messages) == 3  # the clusterings within the stage have no lines


def test_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = fpq.FlatIndex().add(X)
    index.verbose = recorder = Recorder()
    index.save(tmp_path / "a")
    assert not recorder.reports
    monkeypatch.setattr(progress, "LEAST_BYTES", 1000)
    index.save(tmp_path / "a")
    ((stage, total, unit),) = recorder.taken()
    assert (stage, unit) == ("file", "bytes")
    assert total is not None
    assert X.nbytes < total < (tmp_path / "a").stat().st_size
    before = (tmp_path / "a").read_bytes()
    index.add(X)
    recorder.stop_at = "file"
    with pytest.raises(InterruptedError):
        index.save(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == before
    assert storage.load(tmp_path / "a").verbose is False  # type: ignore[attr-defined]


def test_dask_build(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    array = pytest.importorskip("dask.array")
    import fpq.dask

    recorder = Recorder()
    for rows in (blocks, lambda: array.from_array(X, chunks=(300, -1))):
        index = fpq.PQIndex(3, nbits=4, verbose=recorder)
        fpq.dask.fit(index, rows())
        assert [stage for stage, _, _ in recorder.taken()] == ["sample", "codebooks"]
        with caplog.at_level(logging.INFO, "fpq"):
            fpq.dask.build(index, rows(), tmp_path)
        assert recorder.taken() == [("encode", N, "rows")]
        assert caplog.messages[-1].startswith("dask.build: encode: 1,200 rows, ")


# ---- a callback that raises ----


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("kind", "stage"), [(kind, stage[0]) for kind, made in KINDS.items() for stage in made[1]])
def test_a_callback_cancels_fit(kind: str, stage: str) -> None:
    thing = KINDS[kind][0]()
    thing.verbose = Recorder(stage)
    before = pickle.dumps(thing)
    with pytest.raises(InterruptedError):
        thing.fit(X)
    assert pickle.dumps(thing) == before
    thing.verbose = again = Recorder()
    thing.fit(X)
    assert again.taken() == KINDS[kind][1]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("in_blocks", [False, True])
@pytest.mark.parametrize("kind", ["flat", "pq", "ivfpq", "e2lsh", "c2lsh", "pmlsh"])
def test_a_callback_cancels_add(kind: str, in_blocks: bool) -> None:
    index = KINDS[kind][0]().fit(X).add(X[:50])
    before = pickle.dumps(index)
    for stage in {"rows"} if in_blocks else {stage for stage, _, _ in KINDS[kind][2]}:
        index.verbose = Recorder(stage)
        with pytest.raises(InterruptedError):
            index.add(blocks() if in_blocks else X)
        index.verbose = False
        assert len(index) == 50
        assert pickle.dumps(index) == before
    assert len(index.add(X)) == 50 + N


def test_a_callback_cancels_tune() -> None:
    index = fpq.IVFPQIndex(6, 3, nbits=4, keep_vectors=True, verbose=Recorder("settings")).fit(X).add(X)
    with pytest.raises(InterruptedError):
        index.tune(Q, 3, 0.1)
    assert (index.n_probe, index.rerank) == (6, None)


# ---- the setting ----


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_copies_leave_out_the_callback(duplicate: Callable[[Any], Any]) -> None:
    lock = threading.Lock()  # cannot be pickled
    for kind in KINDS:
        thing = KINDS[kind][0]()
        thing.verbose = lambda report: lock.release()
        assert duplicate(thing).verbose is False
        thing.verbose = True
        assert duplicate(thing).verbose is True


def test_other_values_are_refused() -> None:
    for value in ("x", 2, None, np.eye(2)):
        with pytest.raises(ValueError, match=r"^verbose: expected True, False or a function, got "):
            fpq.KMeans(3, verbose=value)  # type: ignore[arg-type]


def test_a_callback_trains_another_object() -> None:
    inner = Recorder()
    reports: list[Progress] = []

    def outer(report: Progress) -> None:
        reports.append(report)
        fpq.KMeans(2, verbose=inner).fit(X[:50])

    fpq.KMeans(3, verbose=outer).fit(X)
    assert {report.stage for report in reports} == {"centroids"}
    assert not inner.reports  # a part of the outer call


# ---- text ----

SHOW = """
import sys
import numpy as np
import fpq
from fpq import progress
assert "tqdm" not in sys.modules and "logging" in sys.modules
progress.LINE_SECONDS = float(sys.argv[1])
progress.SECONDS = 0.0
X = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
fpq.IVFPQIndex(6, 2, nbits=4, verbose=True).fit(X).add(X)
print({"IPython", "ipywidgets"} & set(sys.modules))
"""

AT_ONCE = """
import tqdm.auto
init = tqdm.auto.tqdm.__init__
tqdm.auto.tqdm.__init__ = lambda self, **options: init(self, **{**options, "delay": 0})
"""


def test_lines_without_a_terminal() -> None:
    command = [sys.executable, "-W", "error", "-c", SHOW]
    for seconds in ("1e9", "0"):
        done = subprocess.run([*command, seconds], capture_output=True, text=True, check=True)
        assert done.stdout == "set()\n"
        assert "\r" not in done.stderr
        lines = [line.rsplit(", ", 1)[0].removeprefix("IVFPQIndex.fit: ") for line in done.stderr.splitlines()]
        finished = [
            "sample: 3,000 rows", "lists: 6 centroids from 1,536 rows", "codebooks: 2 x 16 centroids from 3,000 rows",
        ]  # fmt: skip
        if seconds == "0":
            assert {"lists: 1 of 10 iterations", "codebooks: 1 of 25 iterations"} < set(lines)
            assert list(dict.fromkeys(line for line in lines if line in finished)) == finished
        else:
            assert lines == finished


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
def test_bars_in_a_terminal() -> None:
    import fcntl
    import pty
    import termios

    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    code = SHOW.replace("X =", AT_ONCE + "X =")
    with subprocess.Popen([sys.executable, "-c", code, "1e9"], stderr=terminal, stdout=subprocess.PIPE) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                piece = os.read(controller, 1 << 16)
            except OSError:  # how Linux reports the end
                break
            if not piece:
                break
            shown += piece
        os.close(controller)
        assert process.wait() == 0
    text = shown.decode()
    assert "IVFPQIndex.fit: codebooks:   0%" in text
    assert "| 0/25 [" in text
    assert re.search(r"\r *\rIVFPQIndex.fit: codebooks: 2 x 16 centroids from 3,000 rows, [\d.]+ s\r\n$", text)


def test_no_standard_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    fpq.KMeans(3, verbose=True).fit(X)
    assert capsys.readouterr().out == ""


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", X)
    build = ["build", str(tmp_path / "x.npy"), str(tmp_path / "i.fpq"), "--m", "3", "--nbits", "4"]
    assert cli.main(build) == 0
    stages = [line.split(": ")[:2] for line in capsys.readouterr().err.splitlines()]
    assert stages == [["fpq build", name] for name in ("read", "sample", "codebooks", "rows", "file")]
    assert cli.main([*build, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("change", ["add", "remove", "reset", "update"])
def test_a_callback_cannot_change_its_own_index(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LEAST_ROWS", 1)
    index = fpq.FlatIndex().add(X[:9])
    calls: dict[str, Callable[[], Any]] = {
        "add": lambda: index.add(X[:2]),
        "remove": lambda: index.remove([0]),
        "reset": index.reset,
        "update": lambda: index.update(X[:1], [0]),
    }
    found = []

    def show(_: Any) -> None:
        found.append(index.search(X[0], 1).ids[0])  # a search is fine
        calls[change]()

    index.verbose = show
    with pytest.raises(RuntimeError, match="cannot be changed by a progress function"):
        index.add(X)
    index.verbose = False
    assert found == [0] and len(index) == 9
    assert len(index.add(X[:1])) == 10


def test_standard_error_that_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class Writer:
        def write(self, text: str) -> None:
            raise OSError

    monkeypatch.setattr(sys, "stderr", Writer())
    monkeypatch.setattr(progress, "LEAST_ROWS", 1)
    index = fpq.FlatIndex()
    index.verbose = True
    assert len(index.add(X)) == len(X)
