"""What changes when masks or one part of the design change: the grids behind notebook 03.

A run is a dict of `fmlib.train.TrainParams`, as everywhere; a row adds to its settings what was measured.
"""

import torch
from torch import Tensor

from fmlib import weights
from fmlib.compare import SCORES, TRAIN_DEFAULTS, CompareParams, pretrainings, probes
from fmlib.evaluate import reconstruction_error
from fmlib.launch import grid, launch_evaluations
from fmlib.masking import draw_masks
from fmlib.models.fusmae import PRESETS

QUESTIONS = {  # question → variant → what it changes; {} is the design itself
    "direction of the cross-attention": {
        "both ask": {},
        "only S1 asks": {"cross_queries": ["s1"]},
        "only S2 asks": {"cross_queries": ["s2"]},
    },
    "weights of the two directions": {"their own": {}, "shared": {"cross_shared": True}},
    "depth of the decoder": {f"{n} blocks": {"decoder_depth": n} for n in (1, 2, 4)},
    "width of the decoder": {f"{n} wide": {"decoder_embed_dim": n} for n in (48, 96, 192)},
    "target": {"raw": {"norm_target": "none"}, "normalised": {"norm_target": "patch"}},
    "modality dropout": {"0": {"sensor_drop": 0.0}, "0.2": {"sensor_drop": 0.2}, "0.4": {"sensor_drop": 0.4}},
}
SETTINGS = ("question", "variant", "fusion", "mask_strategy", "mask_ratio", "seed")


def mask_runs(p: CompareParams, fusions: list[str], strategies: list[str], ratios: list[float]) -> list[dict]:
    """Runs of every fusion, strategy, ratio and seed."""
    base = pretrainings(p, ["xaed"])[0] | {"out": f"{p.out}/masks"}
    seeds = range(p.seed, p.seed + p.seeds)
    return grid(base, fusion=fusions, mask_strategy=strategies, mask_ratio=ratios, seed=seeds)


def question_runs(p: CompareParams, questions: list[str], name: str = "xaed") -> list[dict]:
    """Runs of every variant of every question, and seed; each also says its ``"question"`` and ``"variant"``.

    The variant that is the design itself is one run, whichever question asks for it.

    Args:
        questions: keys of `QUESTIONS`.
        name: the design that is changed, one of `fmlib.compare.CONTENDERS`.
    """
    if unknown := [question for question in questions if question not in QUESTIONS]:
        raise ValueError(f"no question {unknown}; choose from {list(QUESTIONS)}")
    runs = []
    for base in pretrainings(p, [name]):
        for question in questions:
            for variant, changes in QUESTIONS[question].items():
                changes = {key: value for key, value in changes.items() if value != _value(base, key)}
                folder = f"{question}-{variant}".replace(" ", "_") if changes else "design"
                out = f"{p.out}/questions/{folder}-{base['seed']}"
                runs.append(base | changes | {"out": out, "question": question, "variant": variant})
    return runs


def _value(run: dict, key: str):
    """What a run sets, by its own word, its preset's or the default."""
    return run.get(key) or PRESETS[run["preset"]].get(key, run.get(key, TRAIN_DEFAULTS[key]))


def trainable(runs: list[dict]) -> list[dict]:
    """The runs as the training loop takes them: each folder once, without the names of questions."""
    apart = {run["out"]: run for run in runs}.values()
    return [{key: value for key, value in run.items() if key not in ("question", "variant")} for run in apart]


def reconstruction_rows(
    runs: list[dict], images: dict[str, Tensor], mask_ratio: float = 0.75, seed: int = 0
) -> list[dict]:
    """Relative error of each run's model, sensor and band, with the same independent masks for all.

    Args:
        runs: trained. images: {sensor: (N, C, H, W)} in physical units.

    Returns:
        Rows of settings with {"sensor", "band" (``"all"``, or its name), "error"}.
    """
    rows = []
    for run in runs:
        model = weights.load(f"{run['out']}/model")
        count, generator = len(next(iter(images.values()))), torch.Generator().manual_seed(seed)
        masks = draw_masks(model.grids, count, mask_ratio=mask_ratio, generator=generator)
        whole = reconstruction_error(model, images, masks)
        for name, bands in reconstruction_error(model, images, masks, by_band=True).items():
            found = {"all": whole[name]} | bands
            rows += [_settings(run) | {"sensor": name, "band": band, "error": error} for band, error in found.items()]
    return rows


def probe_rows(p: CompareParams, runs: list[dict], jobs: int = 1) -> list[dict]:
    """Scores of frozen features on the test part, all labels: rows of `run_protocol` with settings and ``"score"``."""
    shared = {**probes(p)[0], "fractions": [1.0]}
    asked = {
        run["out"]: shared | {"model": f"{run['out']}/model", "seed": run["seed"], "out": f"{run['out']}/probe"}
        for run in runs
    }
    found = dict(zip(asked, launch_evaluations(list(asked.values()), jobs), strict=True))
    return [row | _settings(run) | {"score": row[SCORES[row["task"]]]} for run in runs for row in found[run["out"]]]


def _settings(run: dict) -> dict:
    return {key: run[key] for key in SETTINGS if key in run}
