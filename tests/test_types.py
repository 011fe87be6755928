"""Type checkers see the types of the installed package in a user's program, under their strict settings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "typed" / "program.py"
WRONG = {n for n, line in enumerate(PROGRAM.read_text(encoding="utf-8").splitlines(), 1) if line.endswith("# wrong")}


def test_mypy(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", f"--config-file={tmp_path / 'none'}"]
    (tmp_path / "none").write_text("[mypy]\n")
    output = subprocess.run([*command, PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    errors = {int(line) for line in re.findall(r"program\.py:(\d+): error", output)}
    assert errors == WRONG, output


def test_pyright(tmp_path: Path) -> None:
    pytest.importorskip("pyright")
    (tmp_path / "program.py").write_text("# pyright: strict\n" + PROGRAM.read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "program.py"]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    found = json.loads(output)["generalDiagnostics"]
    assert {each["range"]["start"]["line"] for each in found} == WRONG, output
