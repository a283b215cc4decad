"""MaeFuse's parts and training, compared: the runs behind notebook 06; what they fuse is in `fmlib.fusion_results`.

One encoder and one decoder (stage 0) serve all variants; each trains its own fusion layer on them, with as many steps.
"""

import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from fmlib.compare import TRAIN_DEFAULTS, command
from fmlib.launch import launch
from fmlib.models.mae import check_choices
from fmlib.params import check_params
from fmlib.train_fusion import FusionParams

GUIDED = ("align", "fuse")
VARIANTS = {  # name → fusion layer, stages after the decoder's, and what trains in stage "fuse"
    "token mean": ("mean", (), ""),
    "CFM": ("cfm", GUIDED, "cfm"),
    "CFM + MFM": ("cfm_mfm", GUIDED, "cfm+mfm"),
    "concat + MFM": ("concat", GUIDED, "cfm+mfm"),
    "align only": ("cfm_mfm", ("align",), "cfm+mfm"),
    "no align": ("cfm_mfm", ("fuse",), "cfm+mfm"),
    "open decoder": ("cfm_mfm", GUIDED, "cfm+mfm+decoder"),
}
PUBLISHED = {  # by data set: MaeFuse's published row, and the mean image as measured on all of its pairs
    "roadscene": [
        {"method": "MaeFuse as published, other weights and training", "CC": 0.653, "SCD": 1.714}
        | {"PSNR (toolbox)": 63.92, "Nabf": 0.028, "NLPD": 0.599},
        {"method": "mean image, all 221 pairs", "CC": 0.661, "SCD": 1.363}
        | {"PSNR (toolbox)": 64.73, "Nabf": 0.0, "NLPD": 0.525},
    ]
}
FUSION_DEFAULTS = asdict(FusionParams())


@dataclass(frozen=True)
class StudyParams:
    """All settings; the names are those of notebook 06."""

    data: str = "synthetic-ir"  # manifest of infrared–visible pairs
    data_root: str = "data"  # folder that holds the data sets
    out: str = "runs/fusion_study"  # folder of all results
    train_data: list[str] = field(default_factory=list)  # manifests to train fusion on; empty: data
    encoder_data: str = "synthetic-grey"  # manifest of windows that the encoder is pretrained on
    encoder: str = ""  # a trained one instead: checkpoint folder, weight file or timm's name
    variants: list[str] = field(default_factory=lambda: list(VARIANTS))  # those to train
    seed: int = 0  # the first
    seeds: int = 1  # trainings of each variant's fusion layer
    test_pairs: int = 0  # pairs of the test split that are fused and scored; 0: all
    preset: str = "nano"  # size of the encoder
    img_size: int = 32  # side of the crops in training, pixels
    zoom: float = 1.0  # crops of up to so many times img_size, squeezed to it: large shapes are seen, too
    patch_size: int = 4  # side of a patch, pixels
    decoder_depth: int = 2  # blocks of the decoder
    encoder_steps: int = 240  # optimiser steps of the encoder's pretraining
    encoder_lr: float = 8e-3  # for a batch of 256; scaled with the batch
    encoder_batch_size: int = 32  # windows a step of it
    steps: list[int] = field(default_factory=lambda: [300, 40, 120])  # of the decoder, alignment, fusion
    lr: list[float] = field(default_factory=lambda: [2e-3, 1e-3, 1e-3])  # of the same
    loss_weights: list[float] = field(default_factory=lambda: [0.0, 1.0, 2.0])  # intensity, gradient, Laplacian
    loss_scales: int = 1  # the same of halved, quartered, … pictures, so many in all; 1 as released
    loss_border: bool = True  # outermost pixels count, neighbours beyond them are 0, as released
    batch_size: int = 8  # pairs a step
    jobs: int = 2  # processes at the same time; 0: all in this one
    device: str = "auto"


def read_params(given: dict) -> StudyParams:
    """Flat values by name → `StudyParams`; raises ValueError on an unknown name, a wrong type or choice."""
    p = StudyParams(**check_params(given, asdict(StudyParams()), "fmlib.fusion_study"))
    check_choices(**{f"variant {name}": (name, tuple(VARIANTS)) for name in p.variants})
    if len(p.steps) != 3 or len(p.lr) != 3:
        raise ValueError(f"steps {p.steps} and lr {p.lr} need three entries: decoder, alignment, fusion")
    return p


def only_study_params(values: dict) -> StudyParams:
    """Those of `values` that are settings of the study: how a notebook hands on its own."""
    return read_params({f.name: values[f.name] for f in fields(StudyParams) if f.name in values})


# -- runs ---------------------------------------------------------------------------------------------------------


def encoder_runs(p: StudyParams) -> list[dict]:
    """The encoder's pretraining by `fmlib.train`; none where a trained one is given."""
    run = {"data": p.encoder_data, "fusion": "none", "norm_target": "none", "lr": p.encoder_lr}
    run |= {"steps": p.encoder_steps, "batch_size": p.encoder_batch_size, "warmup": p.encoder_steps // 10}
    run |= {key: getattr(p, key) for key in ("data_root", "preset", "img_size", "patch_size", "seed", "device")}
    return [] if p.encoder else [run | {"out": f"{p.out}/runs/encoder"}]


def decoder_runs(p: StudyParams) -> list[dict]:
    """Stage 0 by `fmlib.train_fusion`: the decoder that all variants start from."""
    run = {"encoder": p.encoder or f"{p.out}/runs/encoder/model", "decoder_depth": p.decoder_depth, "fusion": "mean"}
    run |= {"stages": ["reconstruct"], "train": ["decoder"], "steps": p.steps[:1], "lr": p.lr[:1]}
    return [_shared(p) | run | {"out": f"{p.out}/runs/decoder"}]


def variant_runs(p: StudyParams) -> list[dict]:
    """Trainings of the fusion layers by `fmlib.train_fusion`, of every variant and seed.

    Each takes as many steps as alignment and fusion together, in the stages that it has.
    """
    runs, lr = [], dict(zip(GUIDED, p.lr[1:], strict=True))
    for (name, seed), folder in run_folders(p).items():
        fusion, stages, last = VARIANTS[name]
        run = {"init": f"{p.out}/runs/decoder/model", "fusion": fusion, "seed": seed}
        run |= {key: getattr(p, key) for key in ("loss_weights", "loss_scales", "loss_border")}
        run |= {"clip_grad": 1.0}  # the fusion loss is one of grey levels, hundreds at first
        run |= {"stages": list(stages), "lr": [lr[stage] for stage in stages]}
        run |= {"steps": p.steps[1:] if len(stages) == 2 else [sum(p.steps[1:])] * len(stages)}
        run |= {"train": [last.removesuffix("+decoder") if stage == "align" else last for stage in stages]}
        runs.append(_shared(p) | run | {"out": folder})
    return runs


def train(p: StudyParams) -> list[Path]:
    """Train what is not trained yet, encoder, decoder, fusion layers: the folders of the last."""
    one = min(p.jobs, 1)
    launch(encoder_runs(p), one)
    launch(decoder_runs(p), one, module="fmlib.train_fusion")
    return launch(variant_runs(p), p.jobs, module="fmlib.train_fusion")


def run_folders(p: StudyParams) -> dict[tuple[str, int], str]:
    """Run folder of each variant and seed."""
    seeds = range(p.seed, p.seed + p.seeds)
    return {(name, seed): f"{p.out}/runs/{slug(name)}-{seed}" for name in p.variants for seed in seeds}


def commands(p: StudyParams) -> list[dict]:
    """For the first seed, the commands of all trainings: {"model", "command"}."""
    found = [{"model": "encoder", "command": command("train", run, TRAIN_DEFAULTS)} for run in encoder_runs(p)]
    runs = [run for run in (*decoder_runs(p), *variant_runs(p)) if run["seed"] == p.seed]
    words = [command("train_fusion", run, FUSION_DEFAULTS) for run in runs]
    return found + [{"model": name, "command": c} for name, c in zip(("decoder", *p.variants), words, strict=True)]


def slug(name: str) -> str:
    """A variant's name as part of a path."""
    return re.sub(r"[^a-z]+", "_", name.lower())


def _shared(p: StudyParams) -> dict:
    keys = ("data_root", "img_size", "zoom", "batch_size", "seed", "device")
    return {"data": p.train_data or [p.data], "warmup": min(min(p.steps) // 4, 50)} | {
        key: getattr(p, key) for key in keys
    }
