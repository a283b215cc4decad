"""Taking up a training run where it stopped: its state, its log, and what must not have changed."""

import json
from dataclasses import asdict
from pathlib import Path

import torch

from fmlib.files import write_beside, write_text

# What may differ when a run is taken up again: it does not shape the result (`init` no longer does).
FREE = {"out", "data_root", "init", "device", "num_threads", "log_every", "save_every", "validate_every"}
FREE |= {"compile", "compile_mode"}


def save_state(out: Path, params, model, optimizer, step: int) -> None:
    """Write everything a run needs to go on after `step` as `out/state.pt`, in one file that is renamed when whole."""
    state = {"step": step, "params": asdict(params), "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    write_beside(out / "state.pt", lambda path: torch.save(state, path))


def resume(out: Path, params, model, optimizer, write: bool = True) -> int:
    """Load the run in `out` into model and optimiser, if there is one, and cut its log back to that step (`write`).

    Returns:
        The number of steps done: 0 for a new run.

    Raises:
        ValueError: the run has other parameters, or its state is damaged.
    """
    if not (out / "state.pt").exists():
        if write:
            (out / "log.jsonl").unlink(missing_ok=True)
        return 0
    state = _read(out / "state.pt")
    if listed := changes(params, state["params"]):
        raise ValueError(f"{out} holds a run with other parameters ({listed}); choose another `out` or remove it")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if write:
        kept = [record for record in read_log(out) if record["step"] <= state["step"]]
        lines = "".join(json.dumps(record) + "\n" for record in kept)
        write_text(out / "log.jsonl", lines)
    return state["step"]


def changes(params, stored: dict, free: set[str] = FREE) -> str:
    """How parameters differ from stored ones, in words: empty where what they shape is the same.

    Args:
        params: a dataclass. stored: values by name; newer parameters may lack. free: names that may differ.
    """
    here, there = asdict(params), asdict(type(params)()) | stored
    changed = [name for name in here if name not in free and here[name] != there[name]]
    return ", ".join(f"{name} was {there[name]!r}, is {here[name]!r}" for name in changed)


def total_steps(params) -> int:
    """Optimiser steps of a run, of all its stages where `steps` has one entry for each."""
    return sum(params.steps) if isinstance(params.steps, list) else params.steps


def finished(params) -> bool:
    """Whether the folder `params.out` holds the model of a run with these parameters, trained to its end."""
    out = Path(params.out)
    if not (out / "params.json").exists() or not (out / "model" / "config.json").exists():
        return False
    done = max((record["step"] for record in read_log(out)), default=0)
    return done == total_steps(params) and not changes(params, json.loads((out / "params.json").read_text()))


def read_log(out: str | Path) -> list[dict]:
    """The records of a run's `log.jsonl`; a last line torn by a kill or a full disk is left out."""
    path, records = Path(out) / "log.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def read_validation(out: str | Path) -> list[dict]:
    """The validations in a run's log: {"step", "loss" (all sensors), and each sensor's own loss by its name}."""
    checked = [record for record in read_log(out) if "validation" in record]
    return [{"step": r["step"], "loss": sum(r["validation"].values())} | r["validation"] for r in checked]


def _read(path: Path) -> dict:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ValueError(f"{path} cannot be read ({error}); remove it to start this run anew") from error
