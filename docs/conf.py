"""How Sphinx renders this folder: python -m sphinx -W -b html docs docs/_build."""

from fpq import __version__

project = "fpq"
author = "the fpq contributors"
copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "numpydoc"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
suppress_warnings = [
    "myst.xref_missing"
]  # links to files of the checkout outside docs/, right where they are read there

numpydoc_show_class_members = False  # autodoc lists them
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings tell types and shapes
default_role = "code"  # the docstrings' single backticks

html_theme = "furo"
html_title = f"fpq {version}"
