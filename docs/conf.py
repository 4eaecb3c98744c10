"""Configuration of Sphinx. `make docs` writes the pages to build/docs and fails on a warning."""

import sys
from pathlib import Path

import dirprune

sys.path.insert(0, str(Path(__file__).parent))
import generate

generate.write()

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
    "sphinx_gallery.gen_gallery",
]
sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "generated/tutorials",
    "filename_pattern": "/",  # run every page
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "min_reported_time": 1000,  # times would change with every build
    "write_computation_times": False,
    "show_signature": False,
}
exclude_patterns = ["tutorials", "gallery"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
napoleon_google_docstring = True
autosummary_generate = True
autodoc_typehints = "none"
html_theme = "alabaster"
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository outside docs/
