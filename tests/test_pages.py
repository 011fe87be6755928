"""The pages of docs/: they build without a warning, their links lead somewhere, and every public name has an entry."""

from __future__ import annotations

import importlib
import inspect
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import fpq

for needed in ("sphinx", "furo", "myst_parser", "numpydoc", "dask", "distributed", "sklearn"):
    pytest.importorskip(needed)

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "docs" / "conf.py").is_file():
    pytest.skip("no docs/ beside the tests", allow_module_level=True)

MODULES = (
    "fpq",
    "fpq.dask",
    "fpq.datasets",
    "fpq.interop",
    "fpq.metrics",
    "fpq.minhash",
    "fpq.progress",
    "fpq.sklearn",
)
ENTRIES = {  # what calls return
    "fpq.tuning.Tuning": ("trials", "best"),
    "fpq.tuning.Trial": ("setting", "recall", "seconds"),
    "fpq.indexes.lsh.LSHStats": ("buckets", "candidates", "verified"),
    "fpq.sharding.results.ShardedResult": ("missing",),
    "fpq.SearchResult": ("distances", "ids"),
    "fpq.RangeResult": ("lims", "distances", "ids"),
    "fpq.collection.Hit": ("key", "distance", "metadata", "vector"),
    "fpq.collection.Row": ("key", "vector", "metadata"),
    "fpq.PQIndex": ("rerank", "quantizer"),
    "fpq.IVFPQIndex": ("n_probe", "rerank", "quantizer"),
    "fpq.MultiVectorIndex": ("n_probe", "n_candidates", "rerank", "last_found", "quantizer"),
    "fpq.MinHashIndex": ("bands", "last_found"),
    "fpq.minhash.Pairs": ("pairs", "similarities"),
    "fpq.E2LSHIndex": ("n_probe", "last_stats"),
    "fpq.C2LSHIndex": ("n_candidates", "last_stats"),
    "fpq.PMLSHIndex": ("n_candidates", "last_stats"),
}
INTERNAL = {  # methods that other modules of fpq call
    "fpq.OpenIndexing": {"apply", "limit", "new_counts", "of"},
    "fpq.ProductQuantizer": {
        "adapt", "adc", "check_dim", "count", "decoded", "drawn", "encode_chunks", "fit_drawn", "lengths",
        "max_training_rows", "rotate", "unrotated",
    },
}  # fmt: skip


class Page(HTMLParser):
    """The anchors and the links of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.anchors.update(value for name, value in attrs if name == "id" and value)
        self.links += [value for name, value in attrs if name in {"href", "src"} and value]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages, from a copy of docs/ without earlier builds."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("_build"))
    for page in ROOT.glob("*.md"):
        shutil.copy(page, folder)
    for linked in ("bench", "examples"):
        if (ROOT / linked).is_dir():
            shutil.copytree(ROOT / linked, folder / linked, ignore=shutil.ignore_patterns("data", "__pycache__"))
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", folder / "docs", folder / "html"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder / "html"


def test_links_and_anchors_resolve(html: Path) -> None:
    pages = {path.resolve(): Page(path) for path in html.rglob("*.html")}
    assert len(pages) > 30
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if parts.scheme not in {"http", "https"}:  # docutils takes R@10 for a mail address
                    dead.append(f"{path.name}: {link}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                dead.append(f"{path.name}: {link}")
    assert not dead


def public_names() -> Iterator[str]:
    """The names in `__all__` of all modules, and the members of their classes that fpq defines."""
    for name, attributes in ENTRIES.items():
        yield from (name, *(f"{name}.{attribute}" for attribute in attributes))
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            thing, full = getattr(module, name), f"{module.__name__}.{name}"
            yield full
            if inspect.isclass(thing) and not issubclass(thing, (tuple, Exception)):
                ours = [kind for kind in thing.__mro__ if kind.__module__.startswith("fpq.")]
                for member in {member for kind in ours for member in vars(kind)} - INTERNAL.get(full, set()):
                    found = inspect.getattr_static(thing, member)
                    called = inspect.isfunction(found) or isinstance(found, property | classmethod)
                    if called and not member.startswith("_"):
                        yield f"{full}.{member}"


def test_public_names_have_entries(html: Path) -> None:
    from sphinx.util.inventory import InventoryFile

    with (html / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, name: name)
    entries = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    assert not sorted(set(public_names()) - entries)


def test_first_lines_of_the_package_name_its_classes() -> None:
    """`help(fpq)` begins with a line for each class."""
    assert fpq.__doc__ is not None
    assert [name for name in fpq.__all__ if name not in fpq.__doc__] == []
