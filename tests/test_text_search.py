"""The example that searches a folder of text files."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="the example counts words by scikit-learn")


@pytest.fixture
def example() -> Any:
    spec = importlib.util.spec_from_file_location(
        "text_search", Path(__file__).parents[1] / "examples" / "text_search.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_folder_of_texts(example: Any, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "a.md").write_text("# Saving\n\nAn index is saved in one file.\n\n---\n\nApples are red.", "utf-8")
    (tmp_path / "below" / "b.txt").write_text("Threads share one index.", "utf-8")
    (tmp_path / "c.bin").write_text("An index is saved in one file.", "utf-8")
    with pytest.raises(SystemExit, match="call `index` first"):
        example.search(tmp_path, "index", 1, None, None)
    assert example.index(tmp_path, None) == (2, 2)
    assert example.index(tmp_path, None) == (0, 2)
    hits = example.search(tmp_path, "how do I save an index in a file?", 2, None, None)
    assert [(hit.key, hit.metadata["text"]) for hit in hits[:1]] == [("a.md#1", "An index is saved in one file.")]
    hits = example.search(tmp_path, "index", 5, "path LIKE ?", ["below/%"])
    assert [hit.key for hit in hits] == ["below/b.txt#0"]

    (tmp_path / "a.md").write_text("Pears are green.", "utf-8")
    os.utime(tmp_path / "a.md", (1, 1))
    (tmp_path / "below" / "b.txt").unlink()
    assert example.index(tmp_path, "words") == (1, 1)
    assert [hit.key for hit in example.search(tmp_path, "pears", 5, None, None)] == ["a.md#0"]
    with pytest.raises(SystemExit, match="--model: expected 'words'"):
        example.index(tmp_path, "other")
