"""Where the time of training goes: a step's parts, and those of making its batch, timed one after the other.

The model stays as it is: for the time of a measurement its functions are replaced by ones that keep time. The device
is waited for at every change of part, so that the parts add up; without that a GPU's step is a little shorter.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import wraps
from unittest.mock import patch

import torch
from torch import nn

import fmlib.train
from fmlib.bench.step import Step, now
from fmlib.models.fusmae import FusMAE
from fmlib.train import TrainParams, make_batch, open_split, pick_device, train_step

BATCH = ("reading", "crops and flips", "masks")  # made in a thread beside the step, see `fmlib.data.batches.ahead`
STEP = (
    "patches and projection",
    "cross-attention",
    "encoder attention",
    "encoder MLP",
    "decoder",
    "loss",
    "backward",
    "clipping and optimiser",
    "rest",  # norms, residuals, Python
)


class Parts:
    """Adds up the seconds of parts: at any time one runs, and a part within another is not counted in both."""

    def __init__(self, device: torch.device):
        self.device, self.seconds, self.open = device, Counter(), ["rest"]
        self.since = now(device)

    def _charge(self) -> None:
        moment = now(self.device)
        self.seconds[self.open[-1]] += moment - self.since
        self.since = moment

    def timed(self, part: str, function: Callable) -> Callable:
        """The same function, its time put down to a part."""

        @wraps(function)
        def keeping_time(*args, **options):
            self._charge()
            self.open.append(part)
            try:
                return function(*args, **options)
            finally:
                self._charge()
                self.open.pop()

        return keeping_time


def bench_parts(params: TrainParams, seconds: float = 5.0) -> dict[str, dict[str, float]]:
    """Mean milliseconds of each part of a training step and of making its batch from the data set.

    Args:
        params: as for training with method ``"mae"``; not compiled, whatever they say. The training split is read.
        seconds: time to measure for, after two steps to warm up.

    Returns:
        {"batch": {part: milliseconds}, "step": {part: milliseconds}}; in training the two run side by side.

    Raises:
        ValueError: another method.
    """
    if params.method != "mae":
        raise ValueError(f"the parts are those of method 'mae', not of {params.method!r}")
    device = pick_device(params.device)
    step, data = Step(params, device), open_split(params, "train", params.samples)

    def train_once(number: int) -> None:
        images, masks, _ = make_batch(params, step.model, data, device, number)
        train_step(params, step.eager, step.optimizer, images, masks)

    for number in range(2):
        train_once(number)
    parts, done = Parts(device), 0
    with ExitStack() as replaced:
        for part, owner, name in _places(step, data):
            replaced.enter_context(patch.object(owner, name, parts.timed(part, getattr(owner, name))))
        while done < 3 or sum(parts.seconds.values()) < seconds:
            train_once(done := done + 1)
    spent = {part: 1e3 * parts.seconds[part] / done for part in (*BATCH, *STEP)}
    return {what: {part: spent[part] for part in names} for what, names in (("batch", BATCH), ("step", STEP))}


def _places(step: Step, data) -> Iterator[tuple[str, object, str]]:
    """What belongs to each part: part, owner, name of its function."""
    model: FusMAE = step.model
    yield from (("reading", data, "batch"), ("crops and flips", fmlib.train, "augment"), ("masks", fmlib.train, "hide"))
    yield "patches and projection", model, "patches"
    yield from (("patches and projection", embed, "forward") for embed in model.embed.values())
    fusions = (fusion for fusion in (model.early_fusion, model.late_fusion) if fusion is not None)
    yield from (("cross-attention", fusion, "forward") for fusion in fusions)
    yield from (("encoder attention", block.attn, "forward") for block in model.blocks)
    yield from (("encoder MLP", block.mlp, "forward") for block in model.blocks)
    yield from (("decoder", decoder, name) for decoder in model.decoders.values() for name in ("tokens", "forward"))
    yield from (("loss", model, "forward_loss"), ("backward", torch.Tensor, "backward"))
    yield from (
        ("clipping and optimiser", *place) for place in ((nn.utils, "clip_grad_norm_"), (step.optimizer, "step"))
    )
