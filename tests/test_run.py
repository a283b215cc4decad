"""The runner: what counts as success, what a failed run leaves, and that nothing outlives its time limit."""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from fmlib.execute import execute
from fmlib.params import notebook_params, read_parameters
from fmlib.run import RunError, finish, run_key, run_notebook

PARAMETERS = 'out: str = "runs/small"  # run folder\nlr: float = 1e-3  # step size\nn: int = 2'
FINISH = 'finish({"title": "Small", "headline": {"lr": lr, "kind": type(lr).__name__}, "where": out}, out)'
CELLS = {
    "good": ["import matplotlib.pyplot as plt", "fig, ax = plt.subplots()", FINISH[:-1] + ', figures={"empty": fig})'],
    "failing": ["print('before')", "value = {}['nothing']", FINISH],
    "leaving": ["import sys\nsys.exit(0)", FINISH],
    "dying": ["import os\nos.kill(os.getpid(), 9)", FINISH],
    "careless": ["1 + 1"],
    "other": [FINISH],
    # a process that leaves its kernel's group, as torchrun's workers do
    "endless": [
        "import subprocess, time\nchild = subprocess.Popen(['sleep', '600'], start_new_session=True)",
        "open(out + '/child', 'w').write(str(child.pid));\ntime.sleep(600)",
        FINISH,
    ],
    "resumed": [
        "from pathlib import Path\nstate = Path(out, 'state')\nknown = state.exists()",
        "state.touch()\nassert known, 'interrupted'",
        FINISH,
    ],
}


def write_notebook(path: Path, cells: list[str], parameters: str = PARAMETERS) -> Path:
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    code = [new_code_cell(source) for source in ["from fmlib.run import finish", *cells]]
    title = new_markdown_cell("# A small run\n\n**What is $\\sigma^0$?**")
    nbformat.write(new_notebook(cells=[title, tagged, *code]), path)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict:
    """The outcome of every notebook in CELLS, two at a time: (run folder, metrics or error)."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str):
        notebook, out = write_notebook(folder / f"{name}.ipynb", CELLS[name]), folder / "reports" / name
        out.mkdir(parents=True)
        for old in ("stamp.json", "metrics.json"):  # of an earlier run
            (out / old).write_text('{"title": "old"}')
        try:
            result = run_notebook(notebook, out, {"lr": 1e-5}, timeout=20 if name == "endless" else 120)
        except RunError as error:
            result = error
        return name, (out, result)

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(run, sorted(CELLS, key="endless".__ne__)))


def test_a_good_run_returns_its_metrics_with_typed_parameters(runs):
    out, metrics = runs["good"]
    assert metrics["headline"] == {"lr": 1e-5, "kind": "float"}
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert json.loads((out / "params.json").read_text()) == {"out": "reports/good", "lr": 1e-5, "n": 2}


def test_a_good_run_leaves_a_complete_folder_and_nothing_beside_it(runs):
    out, metrics = runs["good"]
    names = {"good.ipynb", "good.html", "metrics.json", "params.json", "stamp.json", "figures"}
    assert {path.name for path in out.iterdir()} == names
    assert {path.name for path in (out / "figures").iterdir()} == {"empty.svg", "empty.pdf", "empty.png"}
    assert not (out.parent / ".good.running").exists()
    assert metrics["where"] == "reports/good"
    assert ".good.running" not in (out / "good.ipynb").read_text()


def test_the_stamp_says_where_a_result_comes_from(runs):
    stamp = json.loads((runs["good"][0] / "stamp.json").read_text())
    assert stamp["notebook"] == "good"
    assert stamp["command"] == "fmlib run good.ipynb --params params.json"
    assert stamp["params"]["lr"] == 1e-5
    assert stamp["torch"] == torch.__version__
    assert stamp["seconds"] > 0
    assert {"commit", "dirty", "data", "seed", "device", "python", "started"} <= stamp.keys()


def test_the_page_needs_no_network_and_shows_formulas(runs):
    page = (runs["good"][0] / "good.html").read_text()
    assert not re.search(r"""(src|href)=["']https?:""", page)
    assert "<script" not in page
    assert 'alt="\\sigma^0"' in page
    assert "<summary>Parameters of this run</summary>" in page


def test_two_runs_at_the_same_time_do_not_meet(runs):
    assert runs["other"][1]["where"] == "reports/other"


def test_a_failing_cell_is_named_and_the_old_results_stay(runs):
    out, error = runs["failing"]
    assert re.search(r"failing\.ipynb, cell 5 \(value = \{\}\['nothing'\]\): KeyError: 'nothing'\n", str(error))
    assert json.loads((out / "metrics.json").read_text()) == {"title": "old"}
    kept = nbformat.read(out / "failing.failed.ipynb", as_version=4)
    assert any(o.output_type == "error" for cell in kept.cells for o in cell.get("outputs", []))
    assert "KeyError" in (out / "failing.failed.html").read_text()
    assert "KeyError" in json.loads((out / "failure.json").read_text())["message"]


def test_leaving_early_with_status_0_is_a_failure(runs):
    out, error = runs["leaving"]
    assert re.search(r"cell 4 \(import sys\): SystemExit: 0 \(the cells after it never ran\)", str(error))
    assert json.loads((out / "metrics.json").read_text()) == {"title": "old"}


def test_old_metrics_do_not_count_as_success(runs):
    assert "ended without writing metrics.json" in str(runs["careless"][1])


def test_a_killed_kernel_is_a_failure(runs):
    assert re.search(r"dying\.ipynb, cell 4 \(import os\): the kernel died", str(runs["dying"][1]))


def test_the_time_limit_kills_a_run_with_all_its_processes(runs):
    out, error = runs["endless"]
    assert re.search(r"cell 5 \(open\(.*: stopped at the time limit of 20 s", str(error))
    child = int((out.parent / ".endless.running" / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_run_goes_on_from_what_an_interrupted_one_left(runs, tmp_path):
    out, error = runs["resumed"]
    assert "AssertionError: interrupted" in str(error)
    notebook = out.parent.parent / "resumed.ipynb"
    assert run_notebook(notebook, out, {"lr": 1e-5}, html=False)["headline"]["lr"] == 1e-5
    assert (out / "state").exists()
    assert not (out / "failure.json").exists()


def test_a_run_is_killed_when_the_runner_is_killed(tmp_path):
    notebook = write_notebook(tmp_path / "endless.ipynb", CELLS["endless"])
    runner = os.fork() or _run_and_exit(notebook, tmp_path)
    child = tmp_path / "child"
    deadline = time.monotonic() + 60
    while not (child.exists() and child.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(runner, 9)
    os.waitpid(runner, 0)
    pid = int(child.read_text())
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _lives(pid)


def _run_and_exit(notebook: Path, out: Path):
    execute(notebook, out / "executed.ipynb", {"out": str(out)}, out, None)
    os._exit(0)


def _lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


# ---- without a kernel -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"lrr": 1e-3}, r"small\.ipynb has no parameter 'lrr'; did you mean 'lr'\?"),
        ({"lr": "1e-05"}, r"small\.ipynb: parameter 'lr' must be float, got '1e-05'"),
        ({"n": True}, r"small\.ipynb: parameter 'n' must be int, got True"),
    ],
)
def test_bad_parameters_stop_a_run_before_it_starts(tmp_path, params, message):
    notebook = write_notebook(tmp_path / "small.ipynb", [FINISH])
    with pytest.raises(ValueError, match=message):
        run_notebook(notebook, tmp_path / "out", params)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    notebook = write_notebook(tmp_path / "small.ipynb", [FINISH])
    with pytest.raises(RunError, match="holds files that no run wrote"):
        run_notebook(notebook, tmp_path)
    assert notebook.exists()


def test_a_folder_that_is_being_written_is_refused(tmp_path):
    notebook = write_notebook(tmp_path / "small.ipynb", [FINISH])
    (tmp_path / ".out.running").mkdir()
    (tmp_path / ".out.running" / "running.json").write_text(f'{{"pid": {os.getppid()}, "key": ""}}')
    with pytest.raises(RunError, match=f"out is being run by process {os.getppid()}"):
        run_notebook(notebook, tmp_path / "out")


def test_parameters_are_read_with_type_and_help(tmp_path):
    notebook = write_notebook(tmp_path / "small.ipynb", [], 'lr: float = 1e-3  # step size\nbands: list[str] = ["B04"]')
    assert notebook_params(notebook) == {"lr": 1e-3, "bands": ["B04"]}
    assert [(p.type, p.help) for p in read_parameters(notebook)] == [("float", "step size"), ("list[str]", "")]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("lr: float = 1e-3\nsteps: int = 2 * 50", r"line 2: 'steps: int = 2 \* 50' is not a plain literal"),
        ("lr = 1e-3", r"line 1: expected 'name: type = literal', got 'lr = 0.001'"),
        ("lr: float = 'x'", r"line 1: parameter 'lr' must be float, got 'x'"),
        ("lr: float = 1\n%cd ..", r"line 2: invalid syntax"),
    ],
)
def test_a_parameters_cell_holds_annotated_literals_only(tmp_path, cell, message):
    with pytest.raises(ValueError, match=rf"small\.ipynb: parameters cell, {message}"):
        read_parameters(write_notebook(tmp_path / "small.ipynb", [], cell))


def test_the_key_of_a_run_ignores_prose_and_follows_code_and_parameters(tmp_path):
    notebook = write_notebook(tmp_path / "small.ipynb", ["x = 1"])
    key = run_key(notebook, {"n": 1})
    nb = nbformat.read(notebook, as_version=4)
    nb.cells[0].source = "# Another title"
    nbformat.write(nb, notebook)
    assert run_key(notebook, {"n": 1}) == key
    assert run_key(notebook, {"n": 2}) != key
    assert run_key(write_notebook(notebook, ["x = 2"]), {"n": 1}) != key


def test_finish_takes_numbers_of_numpy_and_torch(tmp_path):
    numbers = {"a": np.float32(0.5), "b": torch.tensor(2), "c": (np.int64(1), 0.25)}
    finish({"title": "t", "headline": numbers}, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["headline"] == {"a": 0.5, "b": 2, "c": [1, 0.25]}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"headline": {}}, r"needs a 'title'"),
        ({"title": "t"}, r"needs a 'title' .* and a 'headline'"),
        ({"title": "t", "headline": {"loss": float("nan")}}, r"metrics\['headline'\]\['loss'\] is nan"),
        ({"title": "t", "headline": {}, "table": [{"x": np.inf}]}, r"\['table'\]\[0\]\['x'\] is inf"),
        ({"title": "t", "headline": {"map": np.zeros(3)}}, r"\['map'\] is a ndarray"),
        ({"title": "t", "headline": {}, "thumbnail": "x"}, r"'thumbnail'\] is 'x', but the figures are \[\]"),
    ],
)
def test_finish_refuses_what_a_report_cannot_show(tmp_path, metrics, message):
    with pytest.raises(ValueError, match=message):
        finish(metrics, tmp_path)
    assert not (tmp_path / "metrics.json").exists()
