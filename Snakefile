# The graph of notebook runs: what feeds what, what is stale, and what each run asks of a machine.
#
#   snakemake --cores all --config profile=quick
#   snakemake --cores all --config profile=real data=/path/to/data
#   snakemake --cores all --config experiment=experiments/masks.toml                 (fmlib/grid.py)
#   snakemake --profile profiles/slurm --config profile=full data=/path/to/data      (docs/cluster.md)
#
# A run is stale when its code cells, its parameters, the files of fmlib that it uses or the data manifests change
# (`run_key`); new prose alone does not run a notebook again, the report shows it beside the old results. Results live
# in the run folder; its `.done` says they are up to date.

import os
import re
import sys
import tomllib
from pathlib import Path

from fmlib.params import profile_params
from fmlib.run import run_key
from fmlib.sources import FMLIB, used_sources

PROFILE = config.get("profile", "quick")
EXPERIMENT = config.get("experiment", "")
DATA = str(config.get("data") or os.environ.get("FMLIB_DATA") or "data")
ROOT = config.get("root", ".")  # where this repository lies for the jobs, if not where they start
PYTHON = f'cd "{ROOT}" && "{sys.executable}" -m'
MADE = tomllib.loads(Path(f"notebooks/profiles/{PROFILE}.toml").read_text(encoding="utf-8")).get("scenes", {})
GENERATOR = (FMLIB / "scenes/archive.py").read_text(encoding="utf-8")  # read, not imported: that takes seconds

# RUNS: name of the run folder → (notebook, parameters)
if EXPERIMENT:
    from fmlib.grid import read_experiment

    grid = read_experiment(EXPERIMENT, data_root=DATA)
    REPORT = os.path.relpath(grid.folder)
    RUNS = {name: (os.path.relpath(grid.notebook), params) for name, params in grid.runs.items()}
    MADE = MADE if any(params.get("data", "synthetic") == "synthetic" for params in grid.runs.values()) else {}
    START = f'{PYTHON} fmlib.grid run "{EXPERIMENT}" {{wildcards.run}} "{DATA}"'
    SHOW = f'{PYTHON} fmlib.grid compare "{EXPERIMENT}"'
else:
    REPORT = f"reports/{PROFILE}"
    paths = sorted(map(str, Path("notebooks").glob("[0-9]*.ipynb")))
    RUNS = {Path(path).stem: (path, profile_params(path, PROFILE)[0] | {"data_root": DATA}) for path in paths}
    START = f'{PYTHON} fmlib.cli run notebooks/{{wildcards.run}}.ipynb --profile {PROFILE} --set "data_root={DATA}"'
    SHOW = f"{PYTHON} fmlib.cli report {REPORT}"
    if not MADE and not Path(DATA).is_dir():
        raise WorkflowError(f"profile {PROFILE} reads real data, but there is no folder {DATA}; give data=/path/to/data")

SCENES = [f"{DATA}/synthetic/scenes.json"] if MADE else []
NOTEBOOKS = {path: FMLIB / "launch.py" in used_sources(path) for path, _ in RUNS.values()}  # does it start trainings?


def needed(run):
    """What must be there before a run starts: made scenes, and the runs whose folders its parameters name.

    A parameter names a run by a path in its folder (a checkpoint), and all of them by the folder of the report.
    """
    named = {Path(value) for value in RUNS[run][1].values() if isinstance(value, str)}
    others = {other: Path(REPORT, other) for other in RUNS if other != run}
    used = [o for o, at in others.items() if at.parent in named or any(at in path.parents for path in named)]
    return SCENES + [f"{REPORT}/{other}/.done" for other in used]


def names(trains):
    """The runs that start trainings, or the others, as a regular expression."""
    return "|".join(re.escape(name) for name, (path, _) in RUNS.items() if NOTEBOOKS[path] == trains) or "none"


localrules:
    index,


rule index:  # names no output: it asks for every run, also where an index is left from before, and shows new prose
    input:
        expand("{report}/{run}/.done", report=REPORT, run=RUNS),
    shell:
        SHOW


rule scenes:
    output:
        update(f"{DATA}/synthetic/scenes.json"),  # update: an archive with other settings is not ours to remove
    params:
        options=" ".join(f"--{name} {value}" for name, value in MADE.items()),
        generator=int(re.search(r"(?m)^VERSION = (\d+)", GENERATOR)[1]),
    threads: workflow.cores
    shell:
        f'{PYTHON} fmlib.cli scenes "{DATA}/synthetic" {{params.options}} --jobs {{threads}}'


rule look:  # runs that read, compute and draw in their own process
    input:
        lambda wildcards: needed(wildcards.run),
    output:
        touch(f"{REPORT}/{{run}}/.done"),
    params:
        key=lambda wildcards: run_key(*RUNS[wildcards.run]),
    wildcard_constraints:
        run=names(trains=False),
    threads: 1
    shell:
        f"export OMP_NUM_THREADS={{threads}}; {START}"


use rule look as train with:  # runs that start trainings, which take the whole machine, or a GPU
    wildcard_constraints:
        run=names(trains=True),
    threads: workflow.cores
