"""The examples of README.md and docs/ run as they are printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from fpq import cli

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.is_file()]
WITH_CODE = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]
if not WITH_CODE:
    pytest.skip("no README.md and docs/ beside the tests", allow_module_level=True)


@pytest.mark.filterwarnings("ignore:.*row.*centroids:RuntimeWarning")
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python blocks one after the other in one namespace, `fpq` commands between them, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    if "sklearn import" in text:
        pytest.importorskip("sklearn")
    names: dict[str, Any] = {"__name__": page.stem}
    try:
        for block in BLOCK.finditer(text):
            language, code = block.groups()
            line = text[: block.start()].count("\n") + 1
            if language == "python":
                for package in ("pandas", "distributed"):
                    if re.search(rf"import .*\b{package}\b", code):
                        pytest.importorskip(package)
                for framework in ("langchain_core", "llama_index.core", "haystack"):
                    if f"from {framework}" in code:
                        pytest.importorskip(framework)
                exec(compile("\n" * line + code, str(page), "exec"), names)
            else:
                for command in code.splitlines():
                    if command.startswith("fpq "):
                        assert cli.main(shlex.split(command)[1:]) == 0, command
    finally:
        if "client" in names:
            names["client"].close()  # other tests would take it as the default client, and its threads need memory


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing
