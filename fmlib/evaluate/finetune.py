"""Fine-tuning the whole encoder with a head, or training both from random weights.

Layer decay follows BEiT and MAE: the head learns at the full rate, each layer below at `layer_decay` times that of the
layer above it. The epoch that does best on the validation part is kept; the test part is scored once, with it.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from timm.optim import param_groups_layer_decay
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from fmlib.data.augment import augment
from fmlib.data.batches import batch_indices
from fmlib.evaluate.features import as_views, embed, extract, read_views, shown_sensors
from fmlib.evaluate.metrics import confusion, confusion_scores, multi_label_scores, single_label_scores
from fmlib.evaluate.probe import CHOSEN_BY, loss_of, or_lowest, seeded
from fmlib.evaluate.segmentation import DenseHead, tokens_to_pixels
from fmlib.evaluate.tiles import in_tiles

_FLIP_SEED = 5  # a stream of random numbers of its own


@dataclass(frozen=True)
class FinetuneParams:
    """Settings of one fine-tuning; from random weights, take `layer_decay` 1 and a higher `lr`."""

    task: str = "single"  # single, multi, segmentation
    pool: str = "mean"  # cls, mean, sensors; segmentation takes dense features
    head: str = "decoder"  # linear or decoder, of segmentation
    epochs: int = 20
    steps: int = 0  # optimiser steps instead of epochs, the same for few and many labels; 0: epochs
    validations: int = 0  # looks at the validation part, spread evenly, the last at the end; 0: after each epoch
    warmup: int = 2  # epochs of linear warm-up (of `steps`, a tenth), cosine to 0 after
    batch_size: int = 32
    lr: float = 5e-4  # of the head, as it is: not scaled by the batch
    weight_decay: float = 0.05  # not on biases, norms and tokens
    layer_decay: float = 0.75  # 1: one rate for all layers
    clip_grad: float = 1.0  # largest gradient norm; 0: no clipping
    crop: int = 0  # side of random crops in training, pixels; 0: whole images
    tile: int = 0  # side of the windows that validation and test images are seen in, see `in_tiles`; 0: whole
    rotate: bool = False  # quarter turns besides flips; radar looks sideways
    seed: int = 0

    def __post_init__(self):
        if self.task not in CHOSEN_BY:
            raise ValueError(f"task is {self.task!r}; choose one of {', '.join(CHOSEN_BY)}")
        if self.task != "segmentation" and self.pool == "dense":
            raise ValueError(f"pool='dense' has no one answer a sample: take another for task={self.task!r}")


class FinetuneResult(NamedTuple):
    """What fine-tuning found.

    scores of the test part ({} without one); log, a row {"epoch", "loss", score…} for each epoch, on the validation
    part; chosen, the best of these rows; outputs of the test part as in `ProbeResult`; model, a `Classifier`.
    """

    scores: dict
    log: list[dict]
    chosen: dict
    outputs: Tensor | None
    model: nn.Module


class Classifier(nn.Module):
    """An encoder and a head: views of images in, logits out."""

    def __init__(self, encoder: nn.Module, head: nn.Module, pool: str):
        super().__init__()
        self.encoder, self.head, self.pool = encoder, head, pool

    def forward(self, views) -> Tensor:
        """Views [({sensor: (B, C, H, W)}, {sensor: (B,) bool}), …] → logits (B, classes), or (B, classes, H, W)."""
        return self.head(torch.cat([embed(self.encoder, *view, self.pool) for view in views], -1))

    def group_matcher(self, coarse: bool = False) -> dict:
        """Which parameter is in which layer, in the form timm asks for; what no pattern matches goes with the head.

        The early fusion stands where the first block would be, and the last norm belongs to the last block.
        """
        return {
            "stem": r"encoder\.(?:embed|cls_token)",
            "early_fusion": r"encoder\.early_fusion",
            "blocks": [(r"encoder\.blocks\.(\d+)", None), (r"encoder\.norm", (99999,))],
        }


def finetune(
    model: nn.Module,
    train: tuple,
    validation: tuple,
    test: tuple | None = None,
    sensors: Sequence[str] | None = None,
    params: FinetuneParams | None = None,
) -> FinetuneResult:
    """Fine-tune a copy of a model; the model given stays as it is.

    Args:
        model: has `modalities` and `encode`; pretrained, or with random weights for a supervised baseline. Of a model
            that keeps its encoder in `encoder`, that alone is tuned.
        train, validation, test: (data, indices), indices (N,) or (N, V) as for `extract`; with fewer labels, give fewer
            (`fmlib.data.subsets.label_fraction`).
        sensors: which sensors are shown; default: all that model and data share.
        params: default: `FinetuneParams()`.

    Raises:
        ValueError: samples without labels, or layer decay for an encoder without blocks.
    """
    params = params or FinetuneParams()
    parts = [(data, as_views(indices)) for data, indices in (part for part in (train, validation, test) if part)]
    names = shown_sensors(model, parts[0][0], sensors)
    classifier = make_classifier(model, *parts[0], names, params)
    steps = max(len(batch_indices(len(parts[0][1]), params.batch_size, 0, 0)), 1)
    params = params if not params.steps else _in_epochs(params, steps)
    optimizer, schedule = make_optimizer(classifier, params, steps)
    log, chosen, weights = [], None, None
    every = max(params.epochs // params.validations, 1) if params.validations else 1
    for epoch in range(params.epochs):
        loss = _epoch(classifier, optimizer, schedule, *parts[0], names, params, epoch)
        if (params.epochs - 1 - epoch) % every:
            continue
        log.append({"epoch": epoch + 1, "loss": loss} | predict(classifier, *parts[1], names, params)[0])
        value = or_lowest(log[-1][CHOSEN_BY[params.task]])
        if chosen is None or value > or_lowest(chosen[CHOSEN_BY[params.task]]):
            chosen, weights = log[-1], {k: v.detach().clone() for k, v in classifier.state_dict().items()}
    classifier.load_state_dict(weights)
    scores, outputs = predict(classifier, *parts[2], names, params) if len(parts) > 2 else ({}, None)
    return FinetuneResult(scores, log, chosen, outputs, classifier.eval())


def _in_epochs(params: FinetuneParams, steps: int) -> FinetuneParams:
    """Settings in steps as settings in whole epochs of `steps`, rounded up."""
    epochs = math.ceil(params.steps / steps)
    return replace(params, epochs=epochs, warmup=math.ceil(epochs / 10))


def make_classifier(model: nn.Module, data, indices: np.ndarray, names: list[str], params: FinetuneParams):
    """A copy of the encoder with a new head; features are counted on one sample."""
    encoder = copy.deepcopy(getattr(model, "encoder", model))  # of a model around an encoder, that alone
    pool, classes = "dense" if params.task == "segmentation" else params.pool, len(data.classes)
    _read(data, indices[:1], names, "cpu")  # raises where there is no label
    one = extract(encoder.eval(), data, indices[:1], names, pool)

    def head() -> nn.Module:
        if pool == "dense":
            return DenseHead(one.x.shape[-1], classes, tokens_to_pixels(one.x, one.labels), params.head)
        linear = nn.Linear(one.x.shape[-1], classes)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        return linear

    return Classifier(encoder, seeded(head, params.seed), pool).to(next(model.parameters()).device)


def make_optimizer(classifier: Classifier, params: FinetuneParams, steps: int):
    """AdamW with timm's layer decay, and its schedule: warm-up, then cosine to 0; `steps` an epoch."""
    blocks = any(name.startswith("encoder.blocks.") for name, _ in classifier.named_parameters())
    if params.layer_decay < 1 and not blocks:
        raise ValueError(f"{type(classifier.encoder).__name__} has no `blocks` to decay by layer: set layer_decay to 1")
    options = {"no_weight_decay_list": ("encoder.cls_token",), "layer_decay": params.layer_decay}
    groups = param_groups_layer_decay(classifier, params.weight_decay, **options)
    warmup = {"warmup_t": min(params.warmup, params.epochs - 1) * steps, "warmup_lr_init": 0.0, "warmup_prefix": True}
    optimizer = torch.optim.AdamW(groups, lr=params.lr)
    length = params.epochs * steps - warmup["warmup_t"]
    return optimizer, CosineLRScheduler(optimizer, t_initial=length, t_in_epochs=False, **warmup)


@torch.no_grad()
def predict(classifier: Classifier, data, indices, names: list[str], params: FinetuneParams) -> tuple[dict, Tensor]:
    """Scores of whole images, and their logits, or confusion matrices of maps."""
    classifier.eval()
    found, labels, indices = [], [], as_views(indices)
    for rows in np.array_split(indices, range(params.batch_size, len(indices), params.batch_size)):
        views, label = _read(data, rows, names, next(classifier.parameters()).device)
        logits = (in_tiles(classifier, views, params.tile) if params.tile else classifier(views)).float().cpu()
        maps = params.task == "segmentation"
        found.append(confusion(logits.argmax(1), label, logits.shape[1]) if maps else logits)
        labels.append(label)
    outputs, labels = torch.cat(found), torch.cat(labels)
    if params.task == "segmentation":
        return confusion_scores(outputs), outputs
    if params.task == "multi":
        return multi_label_scores(outputs.sigmoid(), labels), outputs
    return single_label_scores(outputs, labels), outputs


def _epoch(classifier, optimizer, schedule, data, indices, names, params: FinetuneParams, epoch: int) -> float:
    """One pass over the training part; returns the mean loss."""
    classifier.train()
    loss_fn, losses = loss_of(params.task), []
    device = next(classifier.parameters()).device
    batches = batch_indices(len(indices), params.batch_size, epoch, params.seed)
    for number, rows in enumerate(batches):
        step = epoch * len(batches) + number
        schedule.step_update(step)
        generator = torch.Generator().manual_seed((params.seed * 8 + _FLIP_SEED) * 1_000_003 + step)
        views, label = _augmented(*_read(data, indices[rows], names, device), params, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = classifier(views)
        loss = loss_fn(logits.float(), label.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if params.clip_grad:
            nn.utils.clip_grad_norm_(classifier.parameters(), params.clip_grad)
        optimizer.step()
        losses.append(float(loss.detach()))
    return sum(losses) / len(losses)


def _read(data, rows: np.ndarray, names: list[str], device):
    views, label, _, ids = read_views(data, rows, names, device)
    if label is None:
        raise ValueError(f"not all of {ids[:5]} have a label; fine-tune and test on samples that have one")
    return views, label


def _augmented(views, label: Tensor, params: FinetuneParams, generator: torch.Generator):
    """One crop and flip for all sensors, all views and the map of a sample."""
    together = {(number, name): x for number, (images, _) in enumerate(views) for name, x in images.items()}
    if params.task == "segmentation":
        together["label"] = label[:, None]
    together = augment(together, params.crop or None, generator, params.rotate)
    if params.task == "segmentation":
        label = together.pop("label")[:, 0]
    seen = [
        ({name: together[number, name] for name in images}, present) for number, (images, present) in enumerate(views)
    ]
    return seen, label
