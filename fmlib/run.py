"""Runs a notebook as a batch job: typed parameters, a time limit, a stamp, and results that appear whole or not at all.

    metrics = run_notebook("notebooks/01_explore_data.ipynb", "reports/quick/01_explore_data", {"seed": 1})

A run folder holds `params.json`, the executed notebook and its HTML, `metrics.json`, `stamp.json` and `figures/`.
"""

import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from fmlib import __version__
from fmlib.execute import execute
from fmlib.files import write_json
from fmlib.params import check_params, read_parameters
from fmlib.render import notebook_page
from fmlib.sources import FMLIB, used_sources

NOT_OURS = {"papermill-error-cell-tag", "injected-parameters"}  # cells that papermill adds


class RunError(RuntimeError):
    """A notebook run that did not succeed."""


def run_notebook(
    notebook: str | Path,
    out_dir: str | Path,
    params: dict[str, Any] | None = None,
    timeout: float | None = None,
    html: bool = True,
) -> dict[str, Any]:
    """Run a notebook in its own process; the run folder is replaced only when everything went well.

    Success means that no cell failed *and* the notebook's last cell wrote `metrics.json`: a cell that calls
    `sys.exit(0)` ends papermill without an error, so papermill's word alone does not count.

    Args:
        notebook: path of an .ipynb file with a `parameters` cell; it runs in the root of its repository.
        out_dir: the run folder; the notebook's parameter `out` is set to it.
        params: values for the notebook's parameters; the others keep their defaults.
        timeout: limit of wall-clock time in seconds; the run and all its processes are killed at the limit.
        html: also write the notebook as a page.

    Returns:
        The content of `metrics.json`.

    Raises:
        ValueError: a parameter that the notebook does not have, or of the wrong type.
        RunError: a failed run. The earlier results in `out_dir` stay; the failed notebook is kept beside them.
    """
    notebook, out_dir = Path(notebook).resolve(), Path(out_dir).resolve()
    declared = {p.name: p for p in read_parameters(notebook)}
    given = {**(params or {}), "out": out_dir.as_posix()}
    types = {name: p.type for name, p in declared.items()}
    full = check_params(given, {name: p.default for name, p in declared.items()}, notebook.name, types)
    _refuse_foreign_folder(out_dir)
    root = repository(notebook)
    work = _working_folder(out_dir, run_key(notebook, full))
    injected = {name: full[name] for name in given} | {"out": work.as_posix()}
    started, clock = datetime.now(UTC), time.monotonic()
    problem = execute(notebook, work / notebook.name, injected, root, timeout)
    seconds = time.monotonic() - clock
    if problem or not (work / "metrics.json").is_file():
        raise _failed(notebook, work, out_dir, problem)
    full["out"] = _rename_paths(work, out_dir, root)
    metrics = json.loads((work / "metrics.json").read_text(encoding="utf-8"))
    write_json(work / "params.json", full)
    write_json(work / "stamp.json", stamp(notebook, full, started, seconds, metrics.get("data")))
    if html:
        notebook_page(work / notebook.name)
    _swap(work, out_dir)
    return metrics


def run_key(notebook: str | Path, params: dict[str, Any]) -> str:
    """Digest of all that shapes a run: code cells, parameters, fmlib's files it uses, data manifests; not the prose."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode())
    digest.update("".join("".join(c["source"]) for c in cells if c["cell_type"] == "code").encode())
    shown = FMLIB / "render.py"  # it shows results, it does not shape them
    manifests = (repository(notebook) / "data_manifests").glob("*.toml")
    for path in [*(path for path in used_sources(notebook) if path != shown), *sorted(manifests)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _working_folder(out_dir: Path, key: str) -> Path:
    """A hidden folder beside the run folder, where the run grows.

    An interrupted run with the same key left its training checkpoints here, and goes on from them.
    """
    work = out_dir.parent / f".{out_dir.name}.running"
    note = work / "running.json"
    if note.is_file():
        left = json.loads(note.read_text(encoding="utf-8"))
        if left["pid"] != os.getpid() and psutil.pid_exists(left["pid"]):
            raise RunError(
                f"{out_dir.name} is being run by process {left['pid']}; wait for it or stop it; "
                f"if that process is no run of this notebook, remove {work}"
            )
        if left["key"] != key:
            shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    (work / "metrics.json").unlink(missing_ok=True)  # only what this run writes counts
    write_json(note, {"key": key, "pid": os.getpid()})
    return work


def repository(path: str | Path) -> Path:
    """The nearest folder above `path` that holds a pyproject.toml, else the folder of `path`."""
    parents = Path(path).resolve().parents
    return next((folder for folder in parents if (folder / "pyproject.toml").is_file()), parents[0])


def _refuse_foreign_folder(out_dir: Path) -> None:
    """A run replaces its folder as a whole, so it must be a run folder."""
    ours = any((out_dir / name).is_file() for name in ("stamp.json", "failure.json"))
    if out_dir.exists() and not ours and (out_dir.is_file() or any(out_dir.iterdir())):
        raise RunError(f"{out_dir} holds files that no run wrote; choose another folder or empty it")


# ---- what a run leaves behind -----------------------------------------------------------------------------------


def _failed(notebook: Path, work: Path, out_dir: Path, problem: str | None) -> RunError:
    """Keep the failed notebook and a note of the failure beside the earlier results; returns the error to raise."""
    out_dir.mkdir(exist_ok=True)
    kept = out_dir / f"{notebook.stem}.failed.ipynb"
    message, trace = f"{notebook.name}: {problem}", ""
    if (work / notebook.name).is_file():
        os.replace(work / notebook.name, kept)
        trace = f"\n  executed notebook with the traceback: {kept}"
        try:
            message = notebook.name + _diagnosis(kept, problem)
            notebook_page(kept)
        except ValueError:  # papermill writes in place: a kill or a full disk can tear it
            trace = f"\n  executed notebook, torn: {kept}"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(out_dir / "failure.json", {"notebook": notebook.name, "message": message, "time": now})
    return RunError(message + trace)


def _diagnosis(executed: Path, problem: str | None) -> str:
    """Name the last cell that was started, and why it is the last."""
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    cells = [cell for cell in cells if not NOT_OURS & set(cell["metadata"].get("tags", []))]
    started = [i for i, cell in enumerate(cells) if cell["metadata"].get("papermill", {}).get("start_time")]
    last = cells[started[-1]] if started else {"source": "", "outputs": []}
    error = next((o for o in last.get("outputs", []) if o["output_type"] == "error"), None)
    if not problem and not error:
        return ": ended without writing metrics.json; its last cell must call fmlib.run.finish"
    if error:
        problem = " ".join(f"{error['ename']}: {error['evalue']}".split())[:300]
        problem += " (the cells after it never ran)" if error["ename"] == "SystemExit" else ""
    elif "DeadKernelError" in problem:
        problem = "the kernel died; the usual cause is too little memory"
    first_line = "".join(last["source"]).strip().partition("\n")[0]
    return f", cell {started[-1] + 1 if started else 0} ({first_line}): {problem}"


def _rename_paths(work: Path, out_dir: Path, root: Path) -> str:
    """Let the files of a run speak of their final folder, relative to the repository; returns that name."""
    final = (out_dir.relative_to(root) if out_dir.is_relative_to(root) else out_dir).as_posix()
    for path in work.rglob("*"):
        if path.suffix in (".ipynb", ".json", ".jsonl"):
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(work.as_posix(), final), encoding="utf-8")
    return final


def _swap(work: Path, out_dir: Path) -> None:
    (work / "running.json").unlink()
    old = work.with_name(f"{work.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out_dir.exists():
        os.replace(out_dir, old)
    os.replace(work, out_dir)
    shutil.rmtree(old, ignore_errors=True)


# ---- the last cell ----------------------------------------------------------------------------------------------


def finish(metrics: dict[str, Any], out: str | Path, *, figures: dict[str, Any] | None = None) -> Path:
    """Write the results of a notebook; its last cell calls this.

    Args:
        metrics: what the report shows, all numbers finite:
            "title" (str): the run in a few words;
            "headline" (dict): the few numbers that answer the notebook's question, label → number, text, or
                [mean, standard deviation];
            "table" (list of dicts, optional): one dict a row, column → value of the same kinds;
            "thumbnail" (str, optional): the figure that stands for the run; default: the first;
            "data" (str, optional): checksum of the data used, goes into the stamp;
            anything else that JSON can hold.
        out: the run folder (the notebook's parameter `out`).
        figures: matplotlib Figures by file name; each is saved as `figures/NAME.svg`, `.pdf` and `.png`.

    Returns:
        The path of `metrics.json`.

    Raises:
        ValueError: a missing title or headline, a thumbnail that is no figure, a NaN, or what JSON cannot hold.
    """
    figures, out = figures or {}, Path(out)
    if not isinstance(metrics.get("title"), str) or not isinstance(metrics.get("headline"), dict):
        raise ValueError("metrics needs a 'title' (text) and a 'headline' (label → number, text or [mean, spread])")
    if metrics.get("thumbnail") not in (None, *figures):
        raise ValueError(f"metrics['thumbnail'] is {metrics['thumbnail']!r}, but the figures are {list(figures)}")
    plain = _plain(metrics, "metrics") | {"figures": list(figures)}
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        from fmlib.viz import save_figure

        save_figure(figure, out / "figures" / name)
    write_json(out / "metrics.json", plain)  # last: its presence says that all the rest is there
    return out / "metrics.json"


def _plain(value: Any, key: str) -> Any:
    """Numbers of NumPy and torch become Python's; NaN and infinity are errors that name their key."""
    if isinstance(value, dict):
        return {str(k): _plain(v, f"{key}[{k!r}]") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{key}[{i}]") for i, v in enumerate(value)]
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} is {value}; results must be finite numbers")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{key} is a {type(value).__name__}; results hold numbers, text, lists and dicts")


def stamp(
    notebook: Path, params: dict[str, Any], started: datetime, seconds: float, data: str | None = None
) -> dict[str, Any]:
    """Say where a result comes from.

    Args:
        notebook: that was run, in its repository.
        params: the parameters of the run.
        started: when it began (UTC).
        seconds: how long it took.
        data: checksum of the data it read.

    Returns:
        The notebook's name, the command that makes the run anew with the parameters beside, commit (and whether files
        differed from it), parameters, data, seed, device, versions, start and duration.
    """
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    root = repository(notebook)
    status = _git(root, "status", "--porcelain")
    return {
        "notebook": notebook.stem,
        "command": f"fmlib run {os.path.relpath(notebook, root)} --params params.json",
        "commit": _git(root, "rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "params": params,
        "data": data,
        "seed": params.get("seed"),
        "device": device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fmlib": __version__,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
    }


def _git(root: str | Path, *command: str) -> str | None:
    """The output of a git command; None without git, a repository or a commit."""
    try:
        done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
