"""Start trainings and evaluations as processes of their own, a few at a time, and follow them.

A notebook trains this way: its kernel keeps its memory, a run that dies takes nothing with it, and the same call after
an interruption goes on where the runs stopped.
"""

import os
import subprocess
import sys
import time
from dataclasses import fields
from importlib import import_module
from itertools import product
from pathlib import Path

from fmlib.files import write_json
from fmlib.progress import watched
from fmlib.recipe import TrainParams
from fmlib.resume import finished, read_log, read_validation, total_steps

__all__ = [
    "grid",
    "launch",
    "launch_evaluations",
    "only_train_params",
    "raw_first",
    "read_log",
    "read_validation",
]  # all a notebook needs to train


def only_train_params(values: dict) -> dict:
    """Those of `values` that are parameters of the training loop: how a notebook hands on its own."""
    known = {f.name for f in fields(TrainParams)}
    return {name: value for name, value in values.items() if name in known}


def grid(settings: dict, **choices) -> list[dict]:
    """Every combination of choices as the parameters of a run, each in a folder of its own.

    Args:
        settings: what all runs share; their folders lie in ``settings["out"]``, named by their choices.
        choices: values by parameter name, e.g. ``fusion=["xad", "xaed"], seed=range(3)``.
    """
    combinations = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    return [settings | c | {"out": f"{settings['out']}/{'-'.join(map(str, c.values()))}"} for c in combinations]


def launch(
    runs: list[dict], jobs: int = 1, poll: float = 1.0, module: str = "fmlib.train", ranks: int = 1
) -> list[Path]:
    """Train several models, `jobs` at a time; finished runs are not run again.

    Args:
        runs: parameters of each, as the module's `read_params` takes them, each with an `out` of its own.
        jobs: processes at the same time; the CPU's cores, or OMP_NUM_THREADS, are shared out among them. 0: no process
            of their own, one run after the other in this one: for a debugger, and for runs of a few steps.
        poll: seconds between two looks at them.
        module: what trains: ``"fmlib.train"``, ``"fmlib.train_fusion"`` or ``"fmlib.train_msift"``.
        ranks: processes that train one model together (`fmlib.distributed`; ``"fmlib.train"`` alone): a card each.

    Returns:
        The run folders, in the order given.

    Raises:
        ValueError: bad parameters, or two runs with one `out`.
        RuntimeError: a run failed; the message ends with the last lines it printed.
    """
    params = [import_module(module).read_params(run) for run in runs]
    folders, total = _folders(params), max(sum(map(total_steps, params)), 1)
    todo = [(runs[number], folders[number]) for number, p in enumerate(params) if not finished(p)]
    if jobs == 0:
        for run, _ in todo:
            import_module(module).train(run)
        return folders
    batches = _shared_out(todo, jobs) if ranks == 1 else [[run] for run in todo]
    _processes(module, batches, jobs, poll, lambda shown: _show(folders, total, shown), ranks)
    return folders


def launch_evaluations(runs: list[dict], jobs: int = 1, poll: float = 1.0) -> list[dict]:
    """Score several models, `jobs` at a time; scores that are there are not made again.

    Args:
        runs: parameters of each (`fmlib.evaluate.command.EvaluateParams`), each with an `out` of its own.
        jobs, poll: as for `launch`.

    Returns:
        The rows of each run, in the order given.

    Raises:
        ValueError, RuntimeError: as for `launch`.
    """
    from fmlib.evaluate.command import evaluate, read_params, read_scores

    params = [read_params(run) for run in runs]
    folders = _folders(params)
    missing = [(runs[n], folders[n]) for n, p in enumerate(params) if read_scores(p) is None]

    def show(shown: int) -> int:
        done = sum((folder / "scores.json").exists() for folder in folders)
        if done > shown:
            print(f"{done} of {len(folders)} evaluations", flush=True)
        return max(done, shown)

    if jobs == 0:
        for run, _ in missing:
            evaluate(run)
    else:
        _processes("fmlib.evaluate", _shared_out(missing, jobs), jobs, poll, show)
    return [read_scores(p) for p in params]


def _folders(params: list) -> list[Path]:
    folders = [Path(p.out) for p in params]
    if len(set(folders)) < len(folders):
        raise ValueError("two runs have the same `out`; give each a folder of its own")
    return folders


def _shared_out(runs: list, jobs: int) -> list[list]:
    """As many batches as jobs: a process for each run would spend seconds on importing torch before its first step."""
    return [runs[start::jobs] for start in range(min(jobs, len(runs)))]


def _processes(module: str, batches: list[list[tuple[dict, Path]]], jobs: int, poll: float, show, ranks=1) -> None:
    """Run `python -m module` for each batch of (parameters, folder), `jobs` at a time."""
    cores = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    threads = max(cores // (jobs * ranks), 1)
    waiting, running, shown = list(batches), {}, -1
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                batch = [({"num_threads": threads} | run, folder) for run, folder in waiting.pop(0)]
                running[batch[0][1]] = _start(module, batch, ranks)
            time.sleep(poll)
            for folder in [f for f, process in running.items() if process.poll() is not None]:
                _check(running.pop(folder), folder)
            shown = show(shown)
    finally:
        for process in running.values():
            process.terminate()


def raw_first(runs: list[dict], steps: int, jobs: int = 1) -> list[dict]:
    """Train each run on raw patches first, and let it start from there.

    A patch's colour is a much louder signal than the detail inside it, and teaches a small model where to look; with
    normalised targets alone it would stay on the first plateau for thousands of steps.

    Args:
        runs: as for `launch`.
        steps: optimiser steps with ``norm_target="none"``, in a folder `raw` inside each run's; 0: no such stage.
        jobs: as for `launch`.

    Returns:
        The runs, each with its `init`.
    """
    if not steps:
        return runs
    raw = [run | {"norm_target": "none", "steps": steps, "out": f"{run['out']}/raw"} for run in runs]
    return [run | {"init": f"{folder}/model"} for run, folder in zip(runs, launch(raw, jobs), strict=True)]


def _start(module: str, batch: list[tuple[dict, Path]], ranks: int) -> subprocess.Popen:
    """A process for all runs of a batch; what it prints goes into the first one's folder."""
    asked = [folder / "asked.json" for _, folder in batch]
    for (run, folder), path in zip(batch, asked, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, run)
    env = os.environ | {"OMP_NUM_THREADS": str(batch[0][0]["num_threads"]), "FMLIB_BATCH": "1"}
    with open(asked[0].with_name("printed.txt"), "w") as printed:
        together = ["torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"] if ranks > 1 else []
        command = [sys.executable, "-m", *together, module, *map(str, asked)]
        return subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, env=env)


def _check(process: subprocess.Popen, folder: Path):
    if process.returncode:
        tail = (folder / "printed.txt").read_text().strip().splitlines()[-3:]
        why = " (killed; the usual cause is too little memory)" if process.returncode == -9 else ""
        raise RuntimeError(f"the process for {folder} ended with status {process.returncode}{why}:\n" + "\n".join(tail))


def _show(folders: list[Path], total: int, shown: int) -> int:
    """Print how far all runs are together: every tenth when headless, on one line that moves when watched."""
    last = [log[-1] for log in map(read_log, folders) if log]
    tenth = 10 * sum(record["step"] for record in last) // total
    if tenth > shown and last:
        losses = ", ".join(f"{record['loss']:.3f}" for record in last)
        end = "\r" if watched() and tenth < 10 else "\n"
        print(f"{10 * tenth:3d} % of {total} steps in {len(folders)} runs; losses {losses}", end=end, flush=True)
    return max(tenth, shown)
