"""What a supervised run of MsIFT is made of: its parameters, its data, the model and the optimiser they describe."""

import copy
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, PolyLRScheduler
from torch import Tensor, nn

from fmlib.data import open_dataset, preload
from fmlib.data.batches import Preloaded
from fmlib.data.houston_files import cut_windows as around_pixels
from fmlib.evaluate.features import covers, pair_views, read_views
from fmlib.evaluate.metrics import IGNORE
from fmlib.evaluate.probe import seeded
from fmlib.evaluate.windows import with_coarse_classes, with_labels
from fmlib.modality import Modality
from fmlib.models.mae import check_choices
from fmlib.models.msift import TASKS, MsIFT, msift
from fmlib.params import check_params, declared_types


@dataclass(frozen=True)
class MsiftParams:
    """All settings of a run; the names are those of the notebooks' parameter cells."""

    # data
    data: str = "ombria"  # name of a manifest
    data_root: str = "data"  # folder that holds the data sets
    task: str = "segmentation"  # pixel, image, segmentation
    sensors: list[str] = field(default_factory=list)  # those of its sensors to use; empty: all
    views: list[str] = field(default_factory=list)  # dates of one place, stacked as bands; empty: samples alone
    validation: str = "validation"  # split that the best step is chosen on; empty: the last step counts
    test: str = "test"  # split that is scored once
    scheme: str = ""  # how to split a data set that can be split in several ways; empty: its reader's own
    fold: int = -1  # of a data set that is split in folds; -1: none
    split_seed: int = -1  # deals its folds; -1: the reader's own
    held_back: float = 0.0  # share of its training part that becomes validation, where a data set has none
    label: str = "label"  # field that holds the labels: label, map
    coarse: bool = False  # maps of BigEarthNet: its 19 classes become the five of CORINE's level 1
    window: int = 0  # side of windows cut around labelled pixels of maps (task pixel); 0: samples as they are
    windows: int = 16  # so many are cut from each image
    asked_class: int = 1  # task image, of maps: does this class cover ...
    asked_share: float = 0.2  # more than this share of the labelled pixels?
    # model
    preset: str = "small"  # paper, small, tiny
    fusion: str = "msift"  # msift, add, concat, concat_conv, single
    aux: bool = True  # the answers before the decoder's count in the loss
    as_published: bool | None = None  # keep the published code's quirks; None: as the preset
    depth: int = 0  # layers of encoder and decoder each; 0: the preset's
    patch_size: int = 0  # side of a token in places of the feature map; 0: the preset's
    # augmentation
    crop: int = 0  # side of random crops in training, pixels; 0: whole images
    rotate: bool = False  # quarter turns besides flips; radar looks sideways
    band_noise: float = 0.0  # each band of a sample is brighter or darker by a random share of its deviation: this one
    shift_train: float = 0.0  # one source is displaced by up to so many pixels in training
    angle_train: float = 0.0  # and rotated by up to so many degrees
    shift_sensor: str = ""  # which source; empty: the last
    # optimisation
    optimizer: str = "adamw"  # adamw, sgd (momentum 0.9)
    schedule: str = "cosine"  # cosine to 0, poly (power 0.9, to 1 % of lr)
    steps: int = 1000  # optimiser steps
    batch_size: int = 16  # samples a step
    lr: float = 1e-3  # as it is: not scaled by the batch
    warmup: int = 50  # steps of linear warm-up
    weight_decay: float = 0.05  # not on biases, norms and positions
    clip_grad: float = 1.0  # largest gradient norm; 0: no clipping
    # system
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    precision: str = "auto"  # auto: bf16 on CUDA, fp32 elsewhere; or fp32, bf16
    num_threads: int = 0  # CPU threads; 0: torch's choice
    log_every: int = 20  # steps between log lines
    save_every: int = 100  # steps between checkpoints
    validate_every: int = 100  # steps between validations
    out: str = "runs/msift"  # run folder

    @property
    def kind(self) -> str:
        """The task as `fmlib.evaluate` names it: single or segmentation."""
        return "segmentation" if self.task == "segmentation" else "single"


TYPES = declared_types(MsiftParams)
# what "tiny" changes in the preset "small": for made images of a few pixels, learned in a minute
TINY = {"extractor": "none", "neck_dim": 16, "embed_dim": 64, "num_heads": 1, "mlp_dim": 128}
TINY |= {"depth": 1, "drop": 0.0, "head_dim": 0}

# How each task was trained for the paper (the published configurations); batches as on all their GPUs together.
_SGD = {"preset": "paper", "optimizer": "sgd", "warmup": 0, "clip_grad": 0.0}
PUBLISHED = {
    "pixel": _SGD | {"task": "pixel", "lr": 1e-3, "weight_decay": 1e-4, "batch_size": 96},  # 500 epochs
    "image": _SGD | {"task": "image", "lr": 1e-3, "weight_decay": 1e-4, "batch_size": 2},  # 200 epochs
    "segmentation": _SGD
    | {"schedule": "poly", "lr": 1e-2, "weight_decay": 5e-4, "steps": 85_600, "batch_size": 2, "crop": 896},
}


class Part(NamedTuple):
    """A split: its data set and the sample numbers (N, V) of each row's views."""

    data: object
    indices: np.ndarray


class Batch(NamedTuple):
    """images {sensor: (B, C, H, W)}, views stacked; present {sensor: (B,) bool}; labels (B,) or (B, H, W)."""

    images: dict[str, Tensor]
    present: dict[str, Tensor]
    labels: Tensor
    places: list[str]
    ids: list[str]


def read_params(given: dict) -> MsiftParams:
    """Flat values by name → `MsiftParams`; raises ValueError on an unknown name or a wrong type."""
    return MsiftParams(**check_params(given, asdict(MsiftParams()), "fmlib.train_msift", TYPES))


def build(p: MsiftParams, data) -> MsIFT:
    """The untrained model that `p` describes, for the sources and classes of a data set."""
    options = TINY if p.preset == "tiny" else {}
    options = options | {"fusion": p.fusion, "num_classes": len(answers(p, data)), "aux": p.aux}
    changed = {key: getattr(p, key) for key in ("as_published", "depth", "patch_size")}
    options |= {key: value for key, value in changed.items() if value is False or value}
    options |= {"img_size": p.crop} if p.crop else {}
    sources = [stack_views(modality, p.views) for modality in data.modalities.values()]
    preset = "small" if p.preset == "tiny" else p.preset
    return seeded(lambda: msift(preset, sources, p.task, **options), p.seed)


def make_optimizer(model: nn.Module, p: MsiftParams):
    """AdamW or SGD with timm's parameter groups, and a schedule counted in steps."""
    groups = param_groups_weight_decay(model, p.weight_decay, no_weight_decay_list=["fuse.pos"])
    kinds = {"adamw": torch.optim.AdamW, "sgd": lambda *a, **k: torch.optim.SGD(*a, momentum=0.9, **k)}
    optimizer = kinds[p.optimizer](groups, lr=p.lr)
    warmup = {"warmup_t": min(p.warmup, p.steps - 1), "warmup_lr_init": 0.0, "warmup_prefix": True}
    options = warmup | {"t_initial": p.steps - warmup["warmup_t"], "t_in_epochs": False}
    if p.schedule == "poly":
        return optimizer, PolyLRScheduler(optimizer, power=0.9, lr_min=0.01 * p.lr, **options)
    return optimizer, CosineLRScheduler(optimizer, **options)


def check(p: MsiftParams) -> None:
    """Raise ValueError where parameters do not go together."""
    check_choices(task=(p.task, TASKS), precision=(p.precision, ("auto", "fp32", "bf16")))
    check_choices(optimizer=(p.optimizer, ("adamw", "sgd")), schedule=(p.schedule, ("cosine", "poly")))
    if p.steps < 1 or p.batch_size < 2:
        raise ValueError(f"steps {p.steps} must be at least 1, batch_size {p.batch_size} at least 2: batch norm")
    if p.window and (p.task != "pixel" or p.views):
        raise ValueError(
            f"window={p.window} cuts windows of single dates for task 'pixel', but the task is {p.task!r} with "
            f"views={p.views}; leave the window or the views out"
        )
    if p.shift_sensor and p.sensors and p.shift_sensor not in p.sensors:
        raise ValueError(f"shift_sensor {p.shift_sensor!r} is not among sensors={p.sensors}")


# -- data -----------------------------------------------------------------------------------------------------------


def open_parts(p: MsiftParams) -> dict[str, Part]:
    """The splits of a run, in memory: {"train", "validation" (unless there is none), "test"}."""
    return seen_parts(p, read_parts(p))


def read_parts(p: MsiftParams) -> dict[str, Part]:
    """The splits as they are on disk, for runs that share them; see `seen_parts`."""
    options = {"fold": p.fold} if p.fold >= 0 else {}
    options |= {"seed": p.split_seed} if p.split_seed >= 0 else {}
    options |= {"scheme": p.scheme} if p.scheme else {}
    options |= {"validation": p.held_back} if p.held_back else {}
    options |= {"with_map": True} if p.label == "map" else {}
    parts = {}
    for part, split in (("train", "train"), ("validation", p.validation), ("test", p.test)):
        if split:
            data = _in_memory(open_dataset(p.data, split, p.data_root, tuple(p.sensors) or None, **options))
            data = data if p.label == "label" else with_labels(data, p.label)
            data = with_coarse_classes(data) if p.coarse else data
            parts[part] = Part(data, pair_views(data, p.views) if p.views else np.arange(len(data))[:, None])
    return parts


def _in_memory(data) -> Preloaded:
    """A data set held in memory; windows that its reader holds there already are not read one by one."""
    if not hasattr(data, "windows"):
        return preload(data)
    held = Preloaded(data, len(data))
    held.arrays = data.windows | {"label": data.labels}
    held.present = {name: np.ones(len(data), bool) for name in held.arrays}
    extras = (data.read(index).extras for index in range(len(data)))
    held.extras = [{key: extra[key] for key in ("id", "place")} for extra in extras]
    return held


def seen_parts(p: MsiftParams, parts: dict[str, Part]) -> dict[str, Part]:
    """What a run sees of splits that were read: its sensors alone, and windows where it asks for them."""
    found = {}
    for name, (data, indices) in parts.items():
        if p.sensors:
            data = copy.copy(data)
            data.modalities = {sensor: data.modalities[sensor] for sensor in p.sensors}
        if p.window:
            data = cut_windows(data, p.window, p.windows)
            indices = np.arange(len(data))[:, None]
        found[name] = Part(data, indices)
    return found


def cut_windows(data: Preloaded, side: int, count: int) -> Preloaded:
    """Windows around labelled pixels of maps: one sample a pixel, whose place is that of its image.

    Args:
        data: with labels (N, H, W), 255 where there is none, and images as large.
        side: of the windows in pixels, odd. count: pixels of each image, drawn evenly and the same every time.
    """
    rng, found = np.random.default_rng(0), {name: [] for name in (*data.modalities, "label")}
    windows = Preloaded(data, 0)
    for number in np.flatnonzero(data.present["label"]):
        label = data.arrays["label"][number]
        known = np.argwhere(label != IGNORE)
        rows, cols = known[rng.permutation(len(known))[:count]].T
        for name in data.modalities:
            found[name].append(around_pixels(data.arrays[name][number], rows, cols, side))
        found["label"].append(label[rows, cols])
        names = (f"{row:03}-{col:03}" for row, col in zip(rows, cols, strict=True))
        windows.extras += [data.extras[number] | {"id": f"{data.extras[number]['id']}/{name}"} for name in names]
    windows.arrays = {name: np.concatenate(arrays) for name, arrays in found.items()}
    counts = [len(label) for label in found["label"]]
    windows.present = {name: np.repeat(data.present[name][data.present["label"]], counts) for name in found}
    return windows


def stack_views(modality: Modality, views: list[str]) -> Modality:
    """The source whose bands are those of several dates, in their order: "before VV", "after VV"."""
    if len(views) < 2:
        return modality
    named = lambda bands: [f"{view} {band}" for view in views for band in bands]  # noqa: E731
    groups = [[f"{view} {band}" for band in group] for view in views for group in modality.groups]
    stats = {key: getattr(modality, key) * len(views) for key in ("mean", "std")}
    rgb = named(modality.rgb)[-len(modality.rgb) :]
    return modality.replace(bands=named(modality.bands), groups=groups, rgb=rgb, **stats)


def read_batch(part: Part, rows, names: list[str], device) -> Batch:
    """Some rows of a part, their views stacked as bands; a source is present where all its views are."""
    views, labels, places, ids = read_views(part.data, part.indices[rows], names, device)
    if labels is None:
        raise ValueError(f"not all of {ids[:5]} have a label; with dates, name in `views` those up to the labelled one")
    seen = [name for name in names if all(name in images for images, _ in views)]
    images = {name: torch.cat([images[name] for images, _ in views], dim=1) for name in seen}
    present = {name: torch.stack([here[name] for _, here in views]).all(0) for name in seen}
    return Batch(images, present, labels.to(device), places, ids)


def answers(p: MsiftParams, data: Preloaded) -> tuple[str, ...]:
    """What the model chooses from: the data set's classes or, of maps asked for one answer an image, no and yes."""
    return ("no", "yes") if p.task == "image" and data.arrays["label"].ndim == 3 else tuple(data.classes)


def task_labels(p: MsiftParams, labels: Tensor) -> Tensor:
    """Of maps, for one answer an image: does `asked_class` cover more than `asked_share` of the labelled pixels?"""
    if p.task == "segmentation" or labels.ndim == 1:
        return labels
    return covers(labels, p.asked_class, p.asked_share)
