"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read at import: on a busy machine threads that spin cost seconds

from fpq import _native


@pytest.fixture(params=_native.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn: forced, seen to have taken, and put back."""
    before = _native.isa()
    _native.use_isa(request.param)
    assert _native.isa() == request.param
    yield request.param
    _native.use_isa(before)


@pytest.hookimpl(tryfirst=True)
def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Fail for a test file that cannot be imported: `--doctest-ignore-import-errors`, meant for fpq, would skip it."""
    if report.skipped and "unable to import module" in str(report.longrepr) and "test_" in report.nodeid:
        report.outcome = "failed"


collect_ignore = ["typed"]  # a program for type checkers, not to be run
