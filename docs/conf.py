"""Sphinx configuration."""

import zennit_neon

project = "zennit_neon"
author = "the zennit_neon developers"
release = version = zennit_neon.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
autosummary_generate = False
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "zennit_neon"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False
nitpicky = False
doctest_global_setup = """
import numpy as np
import torch
import zennit_neon as neon
"""
doctest_test_doctest_blocks = ""  # docstrings are run by pytest
