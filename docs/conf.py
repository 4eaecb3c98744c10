"""Configuration of Sphinx. `make docs` writes the pages to build/docs and fails on a warning."""

import dirprune

project = "dirprune"
author = "The dirprune developers"
copyright = author
release = version = dirprune.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
napoleon_google_docstring = True
autosummary_generate = True
autodoc_typehints = "none"
html_theme = "alabaster"
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository outside docs/
