"""The graph of runs: what is fresh stays, what is stale runs, and what each run asks of a machine.

No notebook runs: in a copy of the workbook a stand-in for the command line only notes what it was asked for.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fmlib.sources import FMLIB, used_sources

REPO = FMLIB.parent
COLLECTS = "10_paper_figures"  # the results of all others
READS_02 = "04_attention_maps"  # the checkpoint that 02 trains
TRAINS = {p.stem for p in (REPO / "notebooks").glob("[0-9]*.ipynb") if FMLIB / "launch.py" in used_sources(p)}


PLUGINS = {
    "slurm": ["snakemake_executor_plugin_slurm"],
    "kubernetes": ["snakemake_executor_plugin_kubernetes", "snakemake_storage_plugin_fs"],
}
EXPERIMENT = """
notebook = "02_pretrain_fusmae"
[grid]
mask_strategy = ["independent", "consistent"]
steps = [1, 2]
"""
STAND_IN = """
import sys
from pathlib import Path

if sys.argv[1] == "scenes":
    Path(sys.argv[2], "scenes.json").write_text("{}")
elif sys.argv[1] == "report":
    Path(sys.argv[2], "index.html").touch()
elif "00_start_here" in sys.argv[2] and Path("broken").exists():
    sys.exit("a failing notebook")
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the workbook in which everything has been run once."""
    root = tmp_path_factory.mktemp("workbook")
    for name in ("fmlib", "notebooks", "data_manifests", "profiles"):
        shutil.copytree(REPO / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "pyproject.toml"):
        shutil.copy(REPO / name, root)
    (root / "fmlib" / "cli.py").write_text(STAND_IN)
    assert snakemake(root).returncode == 0
    return root


def snakemake(root: Path, *words: str, given: str = "profile=quick") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *words, "--config", given]
    env = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def to_run(root: Path, *words: str, **given: str) -> dict[str, str]:
    """The runs that a dry run would start, each with what is said of its job."""
    done = snakemake(root, "--dry-run", *words, **given)
    assert done.returncode == 0, done.stdout[-3000:]
    found = [(re.search(r"wildcards: run=([\w.-]+)", job), job) for job in re.split(r"(?m)^(?=rule )", done.stdout)]
    return {name[1]: job for name, job in found if name}


def test_only_what_is_stale_runs(copy):
    assert to_run(copy) == {}

    notebook = copy / "notebooks" / "01_explore_data.ipynb"
    cells = json.loads(notebook.read_text())
    next(cell for cell in cells["cells"] if cell["cell_type"] == "markdown")["source"] = ["# Another title\n\n**Why?**"]
    notebook.write_text(json.dumps(cells))
    assert to_run(copy) == {}  # the report shows new prose without a run

    pretraining = copy / "notebooks" / "02_pretrain_fusmae.ipynb"
    before = pretraining.read_text()
    pretraining.write_text(before.replace("viz.use_style()", "viz.use_style()  # and run again"))
    assert to_run(copy).keys() == {"02_pretrain_fusmae", READS_02, COLLECTS}
    pretraining.write_text(before)

    with (copy / "fmlib" / "masking.py").open("a") as file:
        file.write("# one more line\n")
    users = {p.stem for p in (REPO / "notebooks").glob("[0-9]*.ipynb") if FMLIB / "masking.py" in used_sources(p)}
    assert to_run(copy).keys() == users | {COLLECTS}
    assert "01_explore_data" not in users


def test_a_failing_notebook_stops_only_what_collects_its_results_and_is_run_again(copy):
    (copy / "broken").touch()
    failed = snakemake(copy, "--forceall", "--keep-going")
    (copy / "broken").unlink()
    assert failed.returncode == 1
    assert to_run(copy).keys() == {"00_start_here", COLLECTS}


def test_an_experiment_is_a_run_for_every_combination(copy):
    (copy / "experiments").mkdir()
    (copy / "experiments" / "steps.toml").write_text(EXPERIMENT)
    jobs = to_run(copy, given="experiment=experiments/steps.toml")
    assert jobs.keys() == {"independent-1", "independent-2", "consistent-1", "consistent-2"}
    assert all("rule train" in job and "runs/experiments/steps/" in job for job in jobs.values())


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_a_cluster_gives_a_gpu_to_notebooks_that_train(copy, name):
    for plugin in PLUGINS[name]:
        pytest.importorskip(plugin, reason="pip install -e '.[cluster]'")
    jobs = to_run(copy, "--profile", f"profiles/{name}", "--forceall")
    assert {name for name, job in jobs.items() if "gpu=1" in job} == TRAINS
    assert {name for name, job in jobs.items() if "rule train" in job} == TRAINS


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_a_profile_speaks_of_rules_that_exist(name):
    profile = yaml.safe_load((REPO / "profiles" / name / "config.yaml").read_text())
    rules = (REPO / "Snakefile").read_text()
    assert profile["executor"] == name
    assert profile["set-resources"]["train"]["gpu"] == 1
    assert all(f"rule {rule}" in rules or f" as {rule} " in rules for rule in profile["set-resources"])
