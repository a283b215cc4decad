# The graph of notebook runs: what feeds what, and what is stale.
#
#   snakemake --cores all --config profile=quick
#   snakemake --cores all --config profile=real data=/path/to/data
#
# A run is stale when its code cells, its parameters, fmlib's sources or the data manifests change (`run_key`); new
# prose alone does not run a notebook again. Results live in the run folder; its `.done` says they are up to date.

import os
import sys
import tomllib
from pathlib import Path

from fmlib.scenes.archive import VERSION
from fmlib.params import profile_params
from fmlib.run import run_key

PROFILE = config.get("profile", "quick")
DATA = str(config.get("data") or os.environ.get("FMLIB_DATA") or "data")
REPORT = f"reports/{PROFILE}"
NOTEBOOKS = sorted(path.stem for path in Path("notebooks").glob("[0-9]*.ipynb"))
USES_ALL_CORES = {"02_pretrain_fusmae"}
MADE = tomllib.loads(Path(f"notebooks/profiles/{PROFILE}.toml").read_text(encoding="utf-8")).get("scenes", {})
SCENES = [f"{DATA}/synthetic/scenes.json"] if MADE else []
FMLIB = f'"{sys.executable}" -m fmlib.cli'

if not MADE and not Path(DATA).is_dir():
    raise WorkflowError(f"profile {PROFILE} reads real data, but there is no folder {DATA}; give data=/path/to/data")


def key(wildcards):
    path = f"notebooks/{wildcards.notebook}.ipynb"
    return run_key(path, profile_params(path, PROFILE)[0] | {"data_root": DATA})


rule index:
    input:
        expand("{report}/{notebook}/.done", report=REPORT, notebook=NOTEBOOKS),
    output:
        f"{REPORT}/index.html",
    shell:
        f"{FMLIB} report {REPORT}"


rule scenes:
    output:
        update(f"{DATA}/synthetic/scenes.json"),  # update: an archive with other settings is not ours to remove
    params:
        options=" ".join(f"--{name} {value}" for name, value in MADE.items()),
        generator=VERSION,
    threads: workflow.cores
    shell:
        f'{FMLIB} scenes "{DATA}/synthetic" {{params.options}} --jobs {{threads}}'


rule run:
    input:
        SCENES,
    output:
        touch(f"{REPORT}/{{notebook}}/.done"),
    params:
        key=key,
    threads: lambda wildcards: workflow.cores if wildcards.notebook in USES_ALL_CORES else 1
    shell:
        f"OMP_NUM_THREADS={{threads}} {FMLIB} run notebooks/{{wildcards.notebook}}.ipynb"
        f' --profile {PROFILE} --set "data_root={DATA}"'
