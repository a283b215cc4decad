"""One checkpoint, one protocol, one file of scores: what a grid of evaluations is made of.

    python -m fmlib.evaluate --model=runs/xaed-0/model --protocol=ombria --out=runs/xaed-0/linear
    python -m fmlib.evaluate params.json --methods="['finetuned']" --steps=300
    python -m fmlib.evaluate first.json second.json …       # each for itself, the data read once

Writes `scores.json` into the folder `out`: {"params", "rows"}, rows as of `run_protocol`. A folder that holds the
scores of these parameters is left as it is, so that a grid goes on where it stopped.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import torch

from fmlib.data import preload
from fmlib.data.records import Records
from fmlib.evaluate.presets import PROTOCOLS, Protocol
from fmlib.evaluate.protocol import open_splits, run_protocol
from fmlib.evaluate.trees import tree_rows
from fmlib.files import write_json
from fmlib.models.mae import check_choices
from fmlib.params import check_params, run_each
from fmlib.recipe import pick_device
from fmlib.resume import changes
from fmlib.weights import load

METHODS = ("linear", "finetuned", "trees")
FREE = {"out", "data_root", "device", "num_threads"}  # these do not shape the scores


@dataclass(frozen=True)
class EvaluateParams:
    """All settings of one evaluation; 0 and empty lists leave the protocol's."""

    model: str = ""  # checkpoint folder; not for trees
    protocol: str = "ombria"  # see `fmlib.evaluate.PROTOCOLS`
    data_root: str = "data"  # folder that holds the data sets
    methods: list[str] = field(default_factory=lambda: ["linear"])  # linear, finetuned, trees
    sensors: list[str] = field(default_factory=list)  # sets of sensors, e.g. "s1", "s1+s2"
    pools: list[str] = field(default_factory=list)  # cls, mean, sensors, dense
    fractions: list[float] = field(default_factory=list)  # shares of the labels
    seed: int = 0  # of the draw of labels, of heads and of fine-tuning
    train_crop: int = 0  # side of the central window that frozen features are trained and chosen on, pixels
    tile: int = 0  # side of the windows that images are seen in, pixels
    # fine-tuning
    crop: int = 0  # side of the random crops in training, pixels
    steps: int = 0  # optimiser steps instead of epochs
    epochs: int = 0
    validations: int = 0  # looks at the validation part
    batch_size: int = 0
    lr: float = 0.0
    layer_decay: float = 0.0  # 1 from random weights
    # system
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    num_threads: int = 0  # CPU threads; 0: torch's choice
    out: str = "runs/evaluate"  # folder of the scores


TYPES = {"methods": "list[str]", "sensors": "list[str]", "pools": "list[str]", "fractions": "list[float]"}


def read_params(given: dict) -> EvaluateParams:
    """Flat values by name → `EvaluateParams`; raises ValueError on an unknown name, a wrong type or choice."""
    p = EvaluateParams(**check_params(given, asdict(EvaluateParams()), "fmlib.evaluate", TYPES))
    check_choices(protocol=(p.protocol, tuple(PROTOCOLS)), **{f"method {m}": (m, METHODS) for m in p.methods})
    if not p.model and set(p.methods) - {"trees"}:
        raise ValueError(f"methods {p.methods} need a checkpoint folder: set `model`")
    return p


def evaluate(given: dict | EvaluateParams) -> list[dict]:
    """Carry out what the parameters say, unless its scores are there already.

    Returns:
        Rows as of `run_protocol`.
    """
    p = given if isinstance(given, EvaluateParams) else read_params(given)
    if (rows := read_scores(p)) is not None:
        return rows
    if p.num_threads:
        torch.set_num_threads(p.num_threads)
    protocol = as_asked(p)
    splits = _splits(p.protocol, p.data_root)
    rows = tree_rows(protocol, splits) if "trees" in p.methods else []
    if p.model:
        rows += run_protocol(protocol, load(p.model, pick_device(p.device)), methods=p.methods, splits=splits)
    Path(p.out).mkdir(parents=True, exist_ok=True)
    write_json(Path(p.out) / "scores.json", {"params": asdict(p), "rows": rows}, indent=None)
    return rows


def read_scores(p: EvaluateParams) -> list[dict] | None:
    """The rows in `p.out`, if they are of these parameters; None if there are none.

    Raises:
        ValueError: the folder holds scores of other parameters.
    """
    path = Path(p.out) / "scores.json"
    if not path.exists():
        return None
    held = json.loads(path.read_text())
    if listed := changes(p, held["params"], FREE):
        raise ValueError(f"{path} holds scores of other parameters ({listed}); choose another `out` or remove it")
    return held["rows"]


def as_asked(p: EvaluateParams) -> Protocol:
    """The protocol with what the parameters change."""
    protocol = PROTOCOLS[p.protocol]
    sets = [tuple(names.split("+")) for names in p.sensors]
    changes = {"sensors": sets, "pools": p.pools, "fractions": p.fractions, "tile": p.tile, "train_crop": p.train_crop}
    changes = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items() if value}
    tuning = ("crop", "tile", "steps", "epochs", "validations", "batch_size", "lr", "layer_decay")
    tuning = {key: getattr(p, key) for key in tuning if getattr(p, key)}
    finetune = replace(protocol.finetune, **tuning) if protocol.finetune else None
    return replace(protocol, **changes, seeds=(p.seed,), finetune=finetune)


@lru_cache(maxsize=1)
def _splits(protocol: str, data_root: str) -> dict:
    """The data sets of a protocol, in memory unless they are packed."""
    splits = open_splits(PROTOCOLS[protocol], data_root)
    return {part: data if isinstance(data, Records) else preload(data) for part, data in splits.items()}


def main(argv: list[str] | None = None) -> None:
    """`python -m fmlib.evaluate [params.json …] [--name=value …]`: each file is an evaluation, names hold for all."""
    run_each(_print_rows, argv, asdict(EvaluateParams()), TYPES)


def _print_rows(given: dict) -> None:
    for row in evaluate(given):
        scores = {k: f"{v:.4f}" for k, v in row.items() if isinstance(v, float) and k != "fraction"}
        print(row["method"], row["sensors"], row["tested"], row["pool"], row["fraction"], scores, flush=True)
