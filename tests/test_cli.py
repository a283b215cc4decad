"""The command line: help, errors in one line, and parameters from profile, file and words."""

import json
import signal
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import fmlib.run
from fmlib.cli import main
from fmlib.params import profile_params


@pytest.fixture
def notebook(tmp_path):
    """A notebook in a repository of its own, with a profile beside it."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    profile = "[run]\ntimeout = 2\n[01_small]\nlr = 0.5\nn = 7\n"
    (tmp_path / "notebooks" / "profiles" / "quick.toml").write_text(profile)
    cell = 'out: str = "runs/01_small"  # run folder\nlr: float = 1e-3  # step size\nn: int = 2\ndata: str = "auto"'
    nb = new_notebook(cells=[new_code_cell(cell, metadata={"tags": ["parameters"]})])
    path = tmp_path / "notebooks" / "01_small.ipynb"
    nbformat.write(nb, path)
    return path


@pytest.fixture
def asked(monkeypatch) -> list:
    """Stands in for the runner: collects what it was asked for."""
    calls = []

    def run(*args):
        calls.append(args)
        return {"title": "Small", "headline": {"loss": 0.5}}

    monkeypatch.setattr(fmlib.run, "run_notebook", run)
    return calls


def test_help_needs_no_torch():
    code = "import sys\nfrom fmlib.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules, 'papermill' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "run a notebook as a batch job" in done.stdout
    assert done.stdout.endswith("False False\n")


def test_run_lays_words_over_file_over_profile(notebook, asked, tmp_path, capsys):
    (tmp_path / "p.json").write_text(json.dumps({"n": 8, "lr": 0.25}))
    command = ["run", str(notebook), "--profile", "quick", "--params", str(tmp_path / "p.json"), "--set", "lr=1e-4"]
    assert main(command) == 0
    folder = tmp_path / "reports" / "quick" / "01_small"
    assert asked == [(notebook, folder, {"lr": 1e-4, "n": 8}, 120)]
    assert "loss: 0.5" in capsys.readouterr().out


def test_run_without_a_profile_uses_the_notebooks_own_folder(notebook, asked, tmp_path):
    assert main(["run", str(notebook), "--set", "data=1e5", "--timeout", "9"]) == 0
    assert asked == [(notebook, tmp_path / "runs" / "01_small", {"data": "1e5"}, 9)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "lrr=1"], "no parameter 'lrr'; did you mean 'lr'?"),
        (["--set", "n=1.5"], "parameter 'n' must be int, got 1.5 (float)"),
        (["--set", "n"], "a setting reads name=value, got 'n'"),
        (["--profile", "quikc"], "no profile 'quikc' in "),
        (["--params", "nowhere.json"], "No such file or directory: 'nowhere.json'"),
    ],
)
def test_our_errors_are_one_line_and_status_1(notebook, asked, capsys, words, message):
    assert main(["run", str(notebook), *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("fmlib: ")
    assert error.count("\n") == 1
    assert not asked


def test_a_caller_keeps_its_own_way_with_signals(notebook, monkeypatch):
    seen, before = [], signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(fmlib.run, "run_notebook", lambda *_: seen.append(signal.getsignal(signal.SIGTERM)))
    with pytest.raises(TypeError):  # there are no metrics to print
        main(["run", str(notebook)])
    assert seen[0] is not before  # while it works, it ends its processes first
    assert signal.getsignal(signal.SIGTERM) is before


def test_debug_shows_the_traceback(notebook):
    with pytest.raises(ValueError, match="no parameter 'lrr'"):
        main(["--debug", "run", str(notebook), "--set", "lrr=1"])


def test_other_errors_keep_their_traceback(notebook, monkeypatch):
    def broken(*args):
        raise KeyError("a bug")

    monkeypatch.setattr(fmlib.run, "run_notebook", broken)
    with pytest.raises(KeyError, match="a bug"):
        main(["run", str(notebook)])


def test_unknown_words_are_refused(notebook, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["report", "reports/quick", "--quik"])
    assert "unknown: --quik" in capsys.readouterr().err


def test_params_lists_name_type_default_and_help(notebook, capsys):
    assert main(["params", str(notebook)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["out", "str", "'runs/01_small'", "run", "folder"],
        ["lr", "float", "0.001", "step", "size"],
    ]


def test_a_profile_without_the_notebook_leaves_its_defaults(notebook):
    assert profile_params(notebook, "quick") == ({"lr": 0.5, "n": 7}, 2)
    assert profile_params(notebook.with_name("02_other.ipynb"), "quick") == ({}, 2)


def test_data_lists_and_shows_what_is_known(tmp_path, capsys):
    assert main(["data", "--root", str(tmp_path), "list"]) == 0
    assert "synthetic" in capsys.readouterr().out
    assert main(["data", "show", "synthetic"]) == 0
    assert "sensor    s1:" in capsys.readouterr().out
    assert main(["data", "show", "synthetik"]) == 1
    assert "no data set 'synthetik'" in capsys.readouterr().err


def test_train_hands_on_its_words(capsys):
    assert main(["train", "--stepps=3"]) == 1
    assert "did you mean 'steps'?" in capsys.readouterr().err
