"""Settings of the documentation: `sphinx-build -c docs . docs/_build/html`, from the root of the repository."""

import json
import re
from pathlib import Path

from fmlib import __version__
from fmlib.render import render_math

project = "The Fusion-MAE workbook"
release = __version__
copyright = "its contributors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
source_suffix = {".md": "markdown", ".ipynb": "markdown", ".rst": "restructuredtext"}
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "data_manifests/README.md",
    "docs/*.md",
    "docs/_build/api/*.rst",
    "notebooks/*.ipynb",
    "notebooks/exercises/*",
    "reports/README.md",
    "reports/published/README.md",
]
exclude_patterns = ["**/.*"]

html_theme = "furo"
html_title = project
html_show_sourcelink = False
myst_heading_anchors = 3

apidoc_modules = [{"path": "../fmlib", "destination": "docs/_build/api", "module_first": True}]
autodoc_default_options = {"ignore-module-all": True}  # what a package hands on is described where it is defined
autodoc_member_order = "bysource"
autodoc_typehints = "description"
default_role = "code"
suppress_warnings = ["ref.python", "docutils"]  # docstrings are written to be read as they stand

CONTENTS = """
```{toctree}
:hidden:
:caption: Lessons
:glob:
notebooks/*
docs/course
docs/instructor
notebooks/exercises/README
notebooks/exercises/*
```

```{toctree}
:hidden:
:caption: How to
docs/add_sensor
docs/add_dataset
docs/add_masking
docs/fuse_folder
docs/cluster
docs/speed
```

```{toctree}
:hidden:
:caption: Look up
docs/glossary
docs/faults
docs/numbers
reports/README
reports/published/README
data_manifests/README
CONTRIBUTING
docs/README
docs/_build/api/modules
```
"""
REDIRECT = '<!DOCTYPE html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=README.html">'


def read(app, docname: str, source: list[str]) -> None:
    """What Sphinx reads of a file: a notebook as its cells, formulas as pictures, the contents below the README."""
    text = source[0]
    path = Path(app.env.doc2path(docname))
    if path.suffix == ".ipynb":
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
        text = "\n\n".join(words if kind == "markdown" else f"```python\n{words}\n```" for kind, words in cells)
    if path.suffix != ".rst":
        text = re.sub(r"\]\(([^):#]+)\)", lambda link: to_readme(link, path.parent), render_math(text))
    source[0] = text + (CONTENTS if docname == root_doc else "")


def to_readme(link: re.Match, folder: Path) -> str:
    """A link to a folder leads to its README, as on a code host."""
    return f"]({link[1].rstrip('/')}/README.md)" if (folder / link[1]).is_dir() else link[0]


def finish(app, error) -> None:
    """The site opens at index.html."""
    if error is None and app.builder.format == "html":
        Path(app.outdir, "index.html").write_text(REDIRECT)


def setup(app) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read)
    app.connect("build-finished", finish)
