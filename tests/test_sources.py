"""Which files of fmlib a notebook uses, and so what makes its results stale."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from fmlib import run, sources
from fmlib.run import run_key
from fmlib.sources import FMLIB, used_sources

NOTEBOOKS = sorted((FMLIB.parent / "notebooks").glob("[0-9]*.ipynb"))


def names(notebook: Path) -> set[str]:
    return {path.relative_to(sources.FMLIB).as_posix() for path in used_sources(notebook)}


@pytest.fixture
def uses(tmp_path):
    """The files that some code uses, as paths within fmlib."""

    def uses(*cells: str) -> set[str]:
        path = tmp_path / "some.ipynb"
        nbformat.write(new_notebook(cells=[*map(new_code_cell, cells), new_markdown_cell("import fmlib.fetch")]), path)
        return names(path)

    return uses


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A package of a few files under the name fmlib: it stands in for the real one."""
    files = {
        "__init__.py": "from pathlib import Path\n",
        "masks.py": "from . import words\n",
        "words.py": "",
        "lazy.py": "def f():\n    from .masks import draw\n\n    return draw\n",
        "run_it.py": 'start = ["python", "-m", "fmlib.tool"]\n',
        "choose.py": 'def choose(name):\n    return import_module(f"fmlib.readers.{name}")\n',
        "drawn.py": 'style = open("paper.mplstyle")\n',
        "paper.mplstyle": "",
        "tool/__init__.py": "",
        "tool/__main__.py": "import fmlib.words\n",
        "readers/__init__.py": "",
        "readers/one.py": "",
        "readers/two.py": "from ..masks import draw\n",
        "rooms/__init__.py": "from .east import a\nfrom .west import b\n\n\ndef c():\n    return b\n",
        "rooms/east.py": "",
        "rooms/west.py": "from ..words import w\n",
        "broken.py": "def (:\n",
    }
    for name, text in files.items():
        path = tmp_path / "fmlib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(sources, "FMLIB", tmp_path / "fmlib")


BOTH = {"__init__.py", "masks.py", "words.py"}
ROOMS = {"__init__.py", "rooms/__init__.py", "rooms/west.py", "words.py"}


@pytest.mark.usefixtures("house")
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import numpy", set()),
        ("import fmlib.words", {"__init__.py", "words.py"}),
        ("import fmlib.words as w\nw.x", {"__init__.py", "words.py"}),
        ("from fmlib.masks import draw", BOTH),
        ("def f():\n    from fmlib.masks import draw", BOTH),
        ("from fmlib import lazy", BOTH | {"lazy.py"}),
        ("run(module='fmlib.words')", {"__init__.py", "words.py"}),
        ("from fmlib import run_it", {"__init__.py", "run_it.py", "tool/__init__.py", "tool/__main__.py", "words.py"}),
        ("from fmlib import choose", BOTH | {"choose.py"} | {f"readers/{n}.py" for n in ("__init__", "one", "two")}),
        ("from fmlib import drawn", {"__init__.py", "drawn.py", "paper.mplstyle"}),
        ("from fmlib import rooms\nrooms.b()", ROOMS),
        ("from fmlib import rooms\nrooms.a()", ROOMS | {"rooms/east.py"}),  # its own function c needs b
        ("from fmlib.rooms import c", ROOMS),
        ("from fmlib import rooms\nprint(rooms)", ROOMS | {"rooms/east.py"}),
        ("from fmlib.rooms import *", ROOMS | {"rooms/east.py"}),
        ("%matplotlib inline\n!ls\nimport fmlib.words", {"__init__.py", "words.py"}),
        ("# import fmlib.words\nprint('see fmlib.words')", set()),
    ],
)
def test_it_follows(uses, code, expected):
    assert uses(code) == expected


@pytest.mark.usefixtures("house")
def test_a_broken_file_is_named(uses):
    with pytest.raises(ValueError, match=r"broken\.py, line 1: .*; mend it first"):
        uses("from fmlib import broken")


def test_what_a_figure_needs_is_not_what_all_figures_need(uses):
    used = uses("from fmlib import viz\nviz.mask_gallery()")
    assert {"viz/masks.py", "viz/style.py", "modality.py", "paper.mplstyle"} <= used
    assert not used & {"viz/places.py", "evaluate/metrics.py", "train.py"}


def test_a_notebook_that_trains_uses_what_its_processes_run():
    used = names(FMLIB.parent / "notebooks" / "02_pretrain_fusmae.ipynb")
    assert {"launch.py", "train.py", "masking.py", "models/fusmae.py", "data/ombria.py"} <= used


# ---- what makes a run stale -------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of fmlib and of the notebooks, to be changed."""
    for name in ("fmlib", "notebooks", "data_manifests"):
        shutil.copytree(FMLIB.parent / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pyproject.toml").touch()
    for module in (sources, run):
        monkeypatch.setattr(module, "FMLIB", tmp_path / "fmlib")
    return tmp_path


def keys(folder: Path) -> dict[str, str]:
    return {path.stem: run_key(path, {"seed": 0}) for path in (folder / "notebooks").glob("[0-9]*.ipynb")}


def stale_after(folder: Path, name: str) -> set[str]:
    """The notebooks whose key changes with one more line in a file."""
    before = keys(folder)
    with (folder / name).open("a") as file:
        file.write("# one more line\n")
    return {name for name, key in keys(folder).items() if key != before[name]}


@pytest.mark.parametrize("name", ["masking.py", "viz/places.py", "models/fusmae.py", "data/sample.py"])
def test_a_changed_file_makes_stale_what_uses_it_and_nothing_else(copy, name):
    expected = {path.stem for path in NOTEBOOKS if name in names(copy / "notebooks" / path.name)}
    assert stale_after(copy, f"fmlib/{name}") == expected


def test_masking_matters_where_masks_are_drawn(copy):
    stale = stale_after(copy, "fmlib/masking.py")
    assert "02_pretrain_fusmae" in stale
    assert not {"00_start_here", "01_explore_data", "01b_check_my_data"} & stale


@pytest.mark.parametrize("name", ["fmlib/cli.py", "fmlib/report.py", "fmlib/render.py", "README.md"])
def test_what_only_shows_results_makes_nothing_stale(copy, name):
    assert stale_after(copy, name) == set()


def test_the_style_of_figures_and_the_manifests_matter(copy):
    assert "01_explore_data" in stale_after(copy, "fmlib/paper.mplstyle")
    assert stale_after(copy, "data_manifests/synthetic.toml") == {path.stem for path in NOTEBOOKS}
