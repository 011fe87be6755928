"""How Sphinx renders this folder: python -m sphinx -W -b html docs docs/_build."""

from __future__ import annotations

import inspect
import re
from typing import Any

from numpydoc.docscrape import ClassDoc, Parameter
from sphinx.ext.autodoc import ALL
from sphinx.util.inspect import TypeAliasForwardRef

from fpq import __version__

project = "fpq"
author = "the fpq contributors"
copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
suppress_warnings = [
    "myst.xref_missing"
]  # links to files of the checkout outside docs/, right where they are read there

autosummary_generate = False  # the pages of docs/api are written by hand
numpydoc_show_class_members = False  # autodoc lists them
numpydoc_xref_param_type = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = {
    name: name for name in ("Array", "ArrayLike", "Float32", "Float64", "Int32", "Int64", "UInt8", "UInt64")
}
TypeAliasForwardRef.__repr__ = lambda alias: alias.name  # Sphinx shows the repr of "Float32 | None"
python_maximum_signature_line_length = 100  # longer signatures have a line per parameter
toc_object_entries_show_parents = "hide"
default_role = "py:obj"  # a name in single backticks links to its entry, if it has one

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"fpq {version}"
html_static_path = ["_static"]
html_css_files = ["fpq.css"]


def attributes(kind: type) -> list[Parameter]:
    """The section `Attributes` of a class, a Parameter per name, without the properties: autodoc lists these."""
    found = []
    for entry in ClassDoc(kind, config={"show_class_members": False})["Attributes"]:
        names = [name.strip() for name in entry.name.split(",")]
        found += [Parameter(name, entry.type, entry.desc) for name in names]
    return [entry for entry in found if not isinstance(getattr(kind, entry.name, None), property)]


def methods(kind: type, members: Any) -> list[str]:
    """The public methods that a page lists, those of the class before those of its bases."""
    if not members:
        return []
    bases = [base for base in kind.__mro__ if base.__module__.startswith("fpq.")]
    public = dict.fromkeys(name for base in bases for name in vars(base) if not name.startswith("_"))
    called = [name for name in public if callable(getattr(kind, name)) and not isinstance(getattr(kind, name), type)]
    return called if members is ALL else [name for name in called if name in members]


def drop_attributes(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Take the section `Attributes` out of the docstring of a class, before numpydoc sees it."""
    if what not in {"class", "exception"}:
        return
    text = "\n".join(lines)
    lines[:] = re.sub(r"(?ms)^Attributes\n-{3,}\n.*?(?=^\w[\w ]*\n-{3,}$|\Z)", "", text).splitlines()


def append_members(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A table of the methods; a directive, and so an entry in the index of the pages, for each attribute."""
    if what not in {"class", "exception"} or not inspect.isclass(obj):
        return
    if names := methods(obj, options.get("members")):
        summary = [f"   ~{obj.__qualname__}.{name}" for name in names]
        lines += ["", ".. rubric:: Methods", "", ".. autosummary::", "   :nosignatures:", "", *summary]
    for entry in attributes(obj):
        lines += ["", f".. attribute:: {entry.name}"]
        text = [f"   {line}" for line in entry.desc]
        if re.fullmatch(r"[\w.]+( (or|of) [\w.]+)*", entry.type):
            lines += [f"   :type: {entry.type}", "", *text]
        else:  # Sphinx would read `float32 (n, d)` as a Python expression
            lines += ["", f"   ``{entry.type}``{':' * bool(text)}", *text] if entry.type else ["", *text]


def skip_fields(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Skip the fields of named tuples: `append_members` describes them."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Any) -> None:
    """Replace numpydoc's list of attributes."""
    app.connect("autodoc-process-docstring", drop_attributes, priority=400)  # numpydoc has 500
    app.connect("autodoc-process-docstring", append_members, priority=600)
    app.connect("autodoc-skip-member", skip_fields)
