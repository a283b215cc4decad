"""Grids of notebook runs: every combination once, wrong names refused, and a page that compares them offline."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from test_run import write_notebook

from fmlib import grid
from fmlib.grid import comparison_page, main, parallel_coordinates, read_experiment
from fmlib.params import profile_params, read_parameters

REPO = Path(__file__).resolve().parent.parent
PUBLISHED = sorted(path.parent.name for path in (REPO / "reports" / "published").glob("*/params.json"))
PARAMETERS = 'out: str = "runs/small"  # run folder\nlr: float = 1e-3\nkinds: list[str] = ["a"]\nmode: str = "x"'
FINISH = 'finish({"title": "T", "headline": {"lr": lr, "error": [2 * lr, 0.1]}}, out)'
TOML = 'notebook = "small"\n[parameters]\nmode = "y"\n[grid]\nlr = [0.1, 0.3]\nkinds = [["a"], ["a", "b"]]\n'


@pytest.fixture
def described(tmp_path):
    """A repository of one small notebook; returns a function that writes its experiment."""
    for name in ("notebooks", "experiments"):
        (tmp_path / name).mkdir()
    (tmp_path / "pyproject.toml").touch()
    write_notebook(tmp_path / "notebooks" / "small.ipynb", [FINISH], PARAMETERS)

    def write(text: str):
        path = tmp_path / "experiments" / "some.toml"
        path.write_text(text)
        return path

    return write


def test_every_combination_is_a_run_with_a_name_of_its_own(described, tmp_path):
    found = read_experiment(described(TOML), mode="z")
    assert found.varied == ("lr", "kinds")
    assert list(found.runs) == ["0.1-a", "0.1-a_b", "0.3-a", "0.3-a_b"]
    assert found.runs["0.3-a_b"] == {"mode": "z", "lr": 0.3, "kinds": ["a", "b"]}
    assert found.folder == tmp_path / "runs" / "experiments" / "some"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grid]\nlr = [0.1]", r"some\.toml: has \['grid'\]; expected notebook = \"NAME\""),
        (TOML + "[more]\n", r"some\.toml: has \['grid', 'more', .*; expected"),
        ('notebook = "gone"', r"some\.toml: there is no notebook .*gone\.ipynb"),
        ('notebook = "small"\n[grid]\nlr = 0.1', r"some\.toml: grid\.lr must be a list of the values to try"),
        ('notebook = "small"\n[grid]\nlr = []', r"grid\.lr must be a list of the values to try"),
        (
            'notebook = "small"\n[grid]\nrl = [0.1]',
            r"some\.toml: small\.ipynb has no parameter 'rl'; it has out, lr",
        ),
        ('notebook = "small"\n[grid]\nlr = [0.1, 0.1]', r"two runs would be called '0\.1'; leave out values"),
        ('notebook = "small"\n[grid]\nlr = ["fast"]', r"parameter 'lr' must be float, got 'fast'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(described, text, message):
    with pytest.raises(ValueError, match=message):
        read_experiment(described(text))


@pytest.fixture
def compared(described):
    """The page of an experiment of four runs: two with results, one that failed, one not run."""
    found = read_experiment(described(TOML))
    for name, error in (("0.1-a", 0.5), ("0.3-a", 0.25)):
        (found.folder / name).mkdir(parents=True)
        (found.folder / name / "small.html").touch()
        headline = {"error": [error, 0.01], "verdict": "a < b"}
        (found.folder / name / "metrics.json").write_text(json.dumps({"headline": headline}))
    (found.folder / "0.1-a_b").mkdir()
    (found.folder / "0.1-a_b" / "failure.json").write_text(json.dumps({"message": "cell 3: <nothing>"}))
    return comparison_page(found).read_text()


def test_the_page_shows_parameters_beside_numbers(compared):
    rows = re.findall(r"(?s)<tr( class=failed)?>(.*?)</tr>", compared.partition("<tbody>")[2])
    assert len(rows) == 4
    assert '<a href="0.1-a/small.html">' in rows[0][1]
    assert re.search(r'data-key="0\.5">0\.500 <span class="spread">± 0\.010', rows[0][1])
    assert "a &lt; b" in rows[0][1]
    assert "cell 3: &lt;nothing&gt;" in rows[1][1]
    assert [bool(failed) for failed, _ in rows] == [False, True, False, True]
    assert "2 of them without results" in compared


def test_the_page_needs_no_network(compared):
    assert not re.search(r"""(src|href)=["']?https?:""", compared)


def test_parallel_coordinates_have_a_line_a_run_and_an_axis_a_column_that_varies():
    rows = [{"run": str(i), "mode": "xy"[i % 2], "lr": i, "same": 1, "error": [1 - i, 0.1]} for i in range(3)]
    svg = parallel_coordinates(rows, ["mode", "lr", "same", "error"])
    tree = ElementTree.fromstring(svg)
    assert len(tree.findall("path")) == 3
    assert len(tree.findall("line")) == 3
    first, last = (re.findall(r"[\d.]+,([\d.]+)", path.get("d")) for path in tree.findall("path")[::2])
    assert (float(first[1]), float(last[1])) == (280, 50)  # lr: the lowest at the bottom, the highest at the top
    assert (float(first[2]), float(last[2])) == (50, 280)  # error falls as lr rises
    assert parallel_coordinates(rows, ["same", "lr"]) == ""


def test_one_run_of_the_grid_and_the_page_by_command(described, capsys, monkeypatch):
    seen = {}

    def fake(notebook, out, params):
        seen[out.name] = params
        return {"title": f"ran {notebook.stem}"}

    monkeypatch.setattr(grid, "run_notebook", fake)
    path = described(TOML.replace("kinds = ", "# "))
    main(["run", str(path), "0.3"])
    assert seen == {"0.3": {"mode": "y", "lr": 0.3}}
    main(["compare", str(path)])
    assert capsys.readouterr().out.splitlines() == [
        "ran small",
        str(path.parent.parent / "runs/experiments/some/index.html"),
    ]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_result_is_made_anew_by_its_experiment_or_the_profile(name):
    folder, experiment = REPO / "reports" / "published" / name, REPO / "experiments" / f"{name}.toml"
    published, stamp = (json.loads((folder / file).read_text()) for file in ("params.json", "stamp.json"))
    notebook = REPO / "notebooks" / f"{stamp['notebook']}.ipynb"
    if experiment.is_file():
        [made] = read_experiment(experiment).runs.values()
    else:
        made = profile_params(notebook, "real")[0]
    made = {p.name: p.default for p in read_parameters(notebook)} | made
    for free in ("out", "data_root", "jobs"):  # they change no result
        published.pop(free, None)
    assert {key: made.get(key) for key in published} == published
