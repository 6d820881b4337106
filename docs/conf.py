"""How the documentation is built: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

import module_table

from savers._version import __version__

project = "tasksavers"
author = "the tasksavers developers"
copyright = "the tasksavers developers, Apache-2.0"  # noqa: A001 (Sphinx names it so)
release = __version__
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "_generated"]
html_theme = "furo"
html_title = "tasksavers"
html_show_sphinx = False

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # attributes of a class stand once, in its own description
autodoc_typehints = "none"  # the docstrings name types, with shapes and units
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}

module_table.write(DOCS.parent, DOCS / "_generated" / "modules.md")
