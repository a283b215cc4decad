"""Faults of machines: what is killed, full, damaged or locked is told from what is whole; see docs/faults.md."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from test_report import report  # noqa: F401
from test_run import FINISH, write_notebook

from fmlib import launch
from fmlib.cli import main
from fmlib.evaluate.command import EvaluateParams, read_scores
from fmlib.files import write_beside, write_json
from fmlib.report import build_index
from fmlib.resume import finished, read_log, resume, save_state
from fmlib.run import RunError, finish, run_key, run_notebook

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "faults.md"


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- the page -----------------------------------------------------------------------------------------------------


def test_every_test_that_the_page_names_exists():
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", PAGE.read_text())
    assert len(named) > 35
    assert [f"{file}::{name}" for file, name in named if f"def {name}(" not in (REPO / file).read_text()] == []


def test_every_test_of_this_file_is_on_the_page():
    mine = re.findall(r"(?m)^def (test_\w+)\(", Path(__file__).read_text())[2:]
    assert [name for name in mine if f"`tests/test_faults.py::{name}`" not in PAGE.read_text()] == []


# ---- killed -------------------------------------------------------------------------------------------------------


def killed_while(work) -> None:
    """Run `work` in a process of its own that has to die of SIGKILL."""
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def die_half_way(beside: Path) -> None:
    beside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_file_that_is_being_written_when_the_process_is_killed_keeps_its_old_content(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text("old")
    killed_while(lambda: write_beside(path, die_half_way))
    assert path.read_text() == "old"
    write_beside(path, lambda beside: beside.write_text("new"))
    assert path.read_text() == "new"


def test_scores_of_a_killed_evaluation_do_not_count(tmp_path):
    p = EvaluateParams(model="m", out=str(tmp_path))
    killed_while(lambda: write_beside(tmp_path / "scores.json", die_half_way))
    assert read_scores(p) is None


def test_a_log_torn_anywhere_is_read_to_its_last_whole_line(tmp_path):
    records = [{"step": step, "validation": {"s1": 0.5}} for step in (1, 2)]
    whole = "".join(json.dumps(record) + "\n" for record in records)
    for length in range(len(whole)):
        (tmp_path / "log.jsonl").write_text(whole[:length])
        assert read_log(tmp_path) == records[: whole[: length + 1].count("\n")]


@pytest.fixture
def notebook(tmp_path, monkeypatch) -> Path:
    """A notebook whose runs need no kernel: each writes its results at once, with the number of the run."""
    path, count = write_notebook(tmp_path / "small.ipynb", [FINISH]), iter(range(1, 9))

    def execute(notebook, output, params, root, timeout):
        shutil.copy(notebook, output)
        finish({"title": "Small", "headline": {"run": next(count)}}, params["out"])

    monkeypatch.setattr("fmlib.run.execute", execute)
    return path


def runs_before_and_after(notebook: Path, monkeypatch, target: str, fault, error) -> None:
    """A run, one that meets a fault, and one without: old results stay, then the new ones stand."""
    out = notebook.parent / "report" / "small"
    assert run_notebook(notebook, out, html=False)["headline"] == {"run": 1}
    before = contents(out)
    with monkeypatch.context() as patch:
        patch.setattr(target, fault)
        with pytest.raises(error):
            run_notebook(notebook, out, html=False)
    assert contents(out) == before
    run_notebook(notebook, out, html=False)
    assert json.loads((out / "metrics.json").read_text())["headline"]["run"] > 1
    assert [path.name for path in out.parent.iterdir()] == ["small"]


def test_a_runner_killed_between_its_two_renames_loses_no_training(notebook, monkeypatch):
    out, whole = notebook.parent / "report" / "small", os.replace
    run_notebook(notebook, out, html=False)

    def second_never_happens(source, target):
        if Path(target) == out:
            raise KeyboardInterrupt
        whole(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("fmlib.run.os.replace", second_never_happens)
        with pytest.raises(KeyboardInterrupt):
            run_notebook(notebook, out, html=False)
    assert not out.exists()  # absent, so the graph runs it again; what it had trained is still there
    (out.parent / ".small.running" / "state.pt").touch()
    run_notebook(notebook, out, html=False)
    assert (out / "state.pt").exists()
    assert [path.name for path in out.parent.iterdir()] == ["small"]


# ---- a full disk --------------------------------------------------------------------------------------------------


def test_a_disk_full_while_a_run_is_stamped_leaves_the_old_results(notebook, monkeypatch):
    runs_before_and_after(notebook, monkeypatch, "fmlib.run.stamp", no_room, OSError)


def test_a_disk_full_while_results_are_written_leaves_the_old_results(tmp_path, monkeypatch):
    finish({"title": "old", "headline": {}}, tmp_path)
    monkeypatch.setattr("pathlib.Path.write_text", no_room)
    with pytest.raises(OSError, match="No space left"):
        finish({"title": "new", "headline": {}}, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_bytes())["title"] == "old"


@dataclass
class Steps:
    """Parameters of a training, as far as its state needs them."""

    out: str = ""
    steps: int = 8


def state_of(out: Path, step: int) -> tuple[Steps, torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, step)
    return Steps(str(out)), model, torch.optim.SGD(model.parameters(), lr=0.1)


def test_a_disk_full_while_a_training_saves_its_state_keeps_the_last_one(tmp_path, monkeypatch):
    save_state(tmp_path, *state_of(tmp_path, 4), step=4)

    def torn(_, path):
        Path(path).write_bytes(b"half")
        no_room()

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", torn)
        with pytest.raises(OSError, match="No space left"):
            save_state(tmp_path, *state_of(tmp_path, 8), step=8)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    p, model, optimizer = state_of(tmp_path, 0)
    assert resume(tmp_path, p, model, optimizer) == 4
    assert (model.weight == 4).all()


# ---- damage and death ---------------------------------------------------------------------------------------------


def test_a_report_with_unreadable_files_names_them_and_shows_the_rest(report):  # noqa: F811
    good, other = report / "01_good", report / "05_torn"
    shutil.copytree(good, other)
    (other / "metrics.json").write_text('{"title": "To')
    (good / "01_good.ipynb").write_text('{"cells": [{"cell_')
    page = build_index(report).read_text()
    assert "01_good.ipynb cannot be read; run the notebook again" in page
    assert "metrics.json cannot be read; run the notebook again" in page
    assert "Radar &amp; optics" in page
    assert "02_failed, cell 3" in page


def test_a_notebook_torn_by_a_kill_is_a_failed_run_that_keeps_the_old_results(notebook, monkeypatch):
    out = notebook.parent / "small"
    run_notebook(notebook, out, html=False)
    before = contents(out)

    def torn(notebook, output, params, root, timeout):
        output.write_text('{"cells": [{"cell_type": "co')
        return "stopped at the time limit of 20 s"

    monkeypatch.setattr("fmlib.run.execute", torn)
    with pytest.raises(RunError, match=r"(?s)small\.ipynb: stopped at the time limit of 20 s.*torn: .*failed\.ipynb"):
        run_notebook(notebook, out)
    assert before.items() <= contents(out).items()
    assert "time limit" in json.loads((out / "failure.json").read_text())["message"]


def test_a_training_killed_for_memory_says_so(tmp_path, monkeypatch):
    def start(module, batch, ranks):
        (tmp_path / "printed.txt").write_text("step 1\nstep 2\n")
        return subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])

    monkeypatch.setattr(launch, "_start", start)
    with pytest.raises(RuntimeError, match=r"(?s)status -9 \(killed; the usual cause is too little memory\):.*step 2"):
        launch._processes("fmlib.train", [[({}, tmp_path)]], 1, 0.05, lambda shown: shown)


# ---- clocks -------------------------------------------------------------------------------------------------------


def test_no_clock_decides_what_is_stale_or_finished(tmp_path):
    notebook = write_notebook(tmp_path / "small.ipynb", [FINISH])
    key, p = run_key(notebook, {"n": 1}), Steps(str(tmp_path), steps=4)
    save_state(tmp_path, *state_of(tmp_path, 4), step=4)
    write_json(tmp_path / "params.json", {"out": str(tmp_path), "steps": 4})
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model" / "config.json", {})
    (tmp_path / "log.jsonl").write_text('{"step": 4, "time": 4e9}\n')
    for year in (2001, 2101):
        for path in (notebook, *tmp_path.rglob("*")):
            os.utime(path, (31557600 * (year - 1970),) * 2)
        assert run_key(notebook, {"n": 1}) == key
        assert finished(p)


def test_a_clock_set_back_during_a_run_gives_no_negative_duration(notebook, monkeypatch):
    monkeypatch.setattr("time.time", iter(range(10**9, 0, -1000)).__next__)
    run_notebook(notebook, notebook.parent / "small", html=False)
    assert json.loads((notebook.parent / "small" / "stamp.json").read_text())["seconds"] >= 0


# ---- read-only ----------------------------------------------------------------------------------------------------


def test_a_read_only_reports_folder_stops_a_run_before_it_starts(notebook, monkeypatch, capsys):
    make = Path.mkdir

    def read_only(path, *args, **options):
        if path.name == ".small.running":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        make(path, *args, **options)

    monkeypatch.setattr("fmlib.run.execute", lambda *_: pytest.fail("the notebook ran"))
    monkeypatch.setattr(Path, "mkdir", read_only)
    assert main(["run", str(notebook), "--out", str(notebook.parent / "report" / "small")]) == 1
    assert re.search(r"fmlib: .*Read-only file system: .*\.small\.running", capsys.readouterr().err)


def test_a_folder_that_turns_read_only_keeps_the_old_results(notebook, monkeypatch):
    def read_only(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    runs_before_and_after(notebook, monkeypatch, "fmlib.run.stamp", read_only, PermissionError)
