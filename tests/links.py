"""Symbolic links, where the system makes them."""

from __future__ import annotations

from pathlib import Path

import pytest


def symlink(link: Path, target: str | Path) -> None:
    """Make a link, or skip the test: Windows asks for a privilege, and wine 8.0 makes none without an error."""
    try:
        link.symlink_to(target)
    except OSError as error:
        pytest.skip(f"no symbolic links here: {error}")
    if not link.is_symlink():
        pytest.skip("no symbolic links here")
