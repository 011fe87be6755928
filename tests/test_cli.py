"""The command line: exit codes, one-line errors, what it passes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fpq
from fpq import cli, demo


def test_module_gives_version(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fpq", "--version"]  # from a folder where no checkout gets in the way
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"fpq {fpq.__version__}\n"


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    assert "fpq demo --json" in capsys.readouterr().out


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "fpq demo --json" in err and "build an index" in err


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["version"] == fpq.__version__
    assert shown["isa"] == fpq.cpu_info()["isa"]


def test_demo_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(demo, "run", lambda *args, **options: calls.append((args, options)))
    assert cli.main(["demo"]) == 0
    assert cli.main(["demo", "--data=d", "--out=o.png", "--threads=3", "--json"]) == 0
    assert calls == [
        ((None, "fpq-demo.png", None), {"as_json": False}),
        (("d", "o.png", 3), {"as_json": True}),
    ]


@pytest.mark.parametrize(
    "argv",
    [["nonsense"], ["demo", "--threads", "0"], ["demo", "--threads", "x"], ["info", "x", "y"]],
)
def test_usage_errors(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2
    assert "usage: fpq" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("too\n  few images"), 1, "fpq: too few images\n"),
        (FileNotFoundError(2, "No such file", "x"), 1, "fpq: [Errno 2] No such file: 'x'\n"),
        (MemoryError(), 1, "fpq: MemoryError\n"),
        (KeyboardInterrupt(), 130, "fpq: interrupted\n"),
    ],
)
def test_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(demo, "run", fail)
    assert cli.main(["demo"]) == code
    assert capsys.readouterr().err == line


@pytest.mark.skipif(sys.platform == "win32", reason="a closed pipe is another error there")
def test_closed_pipe_is_quiet(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from fpq import cli\n"
        "read, write = os.pipe()\n"
        "os.close(read)\n"
        "os.dup2(write, 1)\n"
        "sys.exit(cli.main(['info']))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
