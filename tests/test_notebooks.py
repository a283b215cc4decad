"""Every notebook keeps the house's form, and every cell of it runs with the smallest parameters."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from notebook_runs import run_cells, run_here

from fmlib.params import check_params, profile_params, read_parameters

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))
SOLUTIONS = sorted((FOLDER / "exercises").glob("*.ipynb"))
PROFILES = sorted((FOLDER / "profiles").glob("*.toml"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path: Path, kind: str) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def is_parameters(cell) -> bool:
    return "parameters" in cell.metadata.get("tags", [])


def lines_of(cell) -> list[str]:
    return [line for line in cell.source.splitlines() if line.strip()]


def section(path: Path, heading: str) -> str:
    """The text from a heading to the next of its level."""
    prose = "\n".join(cell.source for cell in cells_of(path, "markdown"))
    found = re.search(rf"(?ms)^## {heading}\s*$(.*?)(?=^## |\Z)", prose)
    return found[1] if found else ""


@each_notebook
def test_it_opens_with_a_title_and_a_question(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    title, question = [line for line in first.source.splitlines() if line.strip()][:2]
    assert re.match(r"# \S", title)
    assert "?" in question


@each_notebook
def test_its_parameters_are_flat_and_know_the_run_folder(path):
    parameters = {p.name: p for p in read_parameters(path)}
    assert {"data", "data_root", "seed", "out"} <= parameters.keys()
    assert parameters["out"].default == f"runs/{path.stem}"
    assert all(p.help for p in parameters.values()), "each parameter needs a comment behind it"


@each_notebook
def test_it_is_short(path):
    code = cells_of(path, "code")
    assert len(nbformat.read(path, as_version=4).cells) <= 25
    assert sum(len(lines_of(cell)) for cell in code) <= 90
    for cell in code:  # a parameter needs a line of its own
        assert is_parameters(cell) or len(lines_of(cell)) <= 6, f"longer than 6 lines:\n{cell.source}"


@each_notebook
def test_it_defines_no_class_and_at_most_one_function(path):
    source = "\n".join(re.sub(r"(?m)^\s*[%!].*$", "", cell.source) for cell in cells_of(path, "code"))
    kinds = [type(node) for node in ast.walk(ast.parse(source))]
    assert ast.ClassDef not in kinds
    assert kinds.count(ast.FunctionDef) <= 1


@each_notebook
def test_it_shows_every_figure_it_draws(path):
    for cell in cells_of(path, "code"):
        if re.search(r"(?m)^\w+ = viz\.\w+\(", cell.source):  # a figure that is only assigned stays unseen
            last = ast.parse(cell.source).body[-1]
            assert isinstance(last, ast.Expr) or ".show" in cell.source, f"the figure is not shown:\n{cell.source}"


@each_notebook
def test_its_last_cell_writes_the_results(path):
    assert re.search(r"\bfinish\(", cells_of(path, "code")[-1].source)


@each_notebook
def test_it_ends_with_what_to_remember_and_three_exercises(path):
    assert section(path, "What to remember").strip()
    assert re.findall(r"(?m)^(\d)\. \S", section(path, "Exercises")) == ["1", "2", "3"]


@pytest.mark.parametrize("path", NOTEBOOKS + SOLUTIONS, ids=lambda path: path.stem)
def test_it_is_stored_without_outputs(path):
    assert not any(cell.outputs for cell in cells_of(path, "code"))


def test_all_are_stored_as_nbstripout_leaves_them():
    nbstripout = Path(sys.executable).with_name("nbstripout")
    done = subprocess.run([nbstripout, "--verify", *NOTEBOOKS, *SOLUTIONS], capture_output=True, text=True)
    assert done.returncode == 0, f"run nbstripout on what it names: {done.stdout}"


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_a_profile_speaks_of_notebooks_and_parameters_that_exist(profile):
    table = tomllib.loads(profile.read_text())
    assert table.pop("run").keys() == {"timeout"}
    assert table.pop("scenes", {}).keys() <= {"count", "seed", "size", "clouds", "missing"}
    assert table.keys() <= {path.stem for path in NOTEBOOKS}
    for name, values in table.items():
        declared = read_parameters(FOLDER / f"{name}.ipynb")
        defaults, types = ({p.name: getattr(p, key) for p in declared} for key in ("default", "type"))
        check_params(values, defaults, f"{profile.name}: {name}", types)


# ---- every cell runs --------------------------------------------------------------------------------------------


@each_notebook
def test_every_cell_runs(path, scenes, tmp_path):
    """Up to the first that trains in a kernel, as a reader runs them; the others where torch is loaded already."""
    out = tmp_path / "run"
    values = profile_params(path, "smoke")[0] | {"data_root": str(scenes), "out": str(out)}
    run = run_cells if path.name < "03" else run_here
    run(path, values, tmp_path)
    assert json.loads((out / "metrics.json").read_text())["headline"]
