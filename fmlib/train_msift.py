"""Supervised training of MsIFT and of the fusions it is compared with: flat parameters, exact resume, one test.

    python -m fmlib.train_msift params.json
    python -m fmlib.train_msift --data=ombria "--views=['before', 'after']" --crop=128 --fusion=concat --seed=1

Everything random in a step follows from the seed and the step's number, as in `fmlib.train`. The weights that do best
on the validation part are kept, and the test part is scored once, with them.

The run folder holds `params.json`, `log.jsonl`, `state.pt` (to resume), the checkpoint `model/` and `scores.json`:
scores of validation and test part, class by class, and what was found in every test sample, for intervals.
"""

import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmlib.data.augment import augment, center_crop
from fmlib.data.batches import batch_indices
from fmlib.evaluate.metrics import accuracies, bootstrap_matrices, confusion, confusion_scores, mean_ious
from fmlib.evaluate.probe import CHOSEN_BY
from fmlib.files import write_json
from fmlib.misalign import Displacement, all_ways, draw_displacement, misalign
from fmlib.models.msift import MsIFT
from fmlib.params import run_each
from fmlib.progress import Progress
from fmlib.recipe import autocast, pick_device
from fmlib.recipe_msift import (
    PUBLISHED,
    TYPES,
    Batch,
    MsiftParams,
    Part,
    answers,
    build,
    check,
    make_optimizer,
    open_parts,
    read_batch,
    read_params,
    task_labels,
)
from fmlib.resume import read_log, resume, save_state
from fmlib.train import check_finite, due_now, step_generator
from fmlib.weights import save

__all__ = ["PUBLISHED", "MsiftParams", "open_parts", "predict", "predict_displaced", "read_log", "read_params", "train"]

_FLIP_SEED, _SHIFT_SEED, _DROP_SEED, _NOISE_SEED = 1, 2, 3, 4  # streams of random numbers that never meet


class Outcome(NamedTuple):
    """What a model finds in a split: scores; confusion (N, classes, classes) of each sample; places and ids, N each."""

    scores: dict
    confusion: Tensor
    places: list[str]
    ids: list[str]


def train(params: MsiftParams | dict, parts: dict[str, Part] | None = None) -> MsIFT:
    """Train the model that `params` describe, going on from the run folder's last checkpoint if there is one.

    Args:
        params: of the run.
        parts: {"train", "validation", "test"} already open (`open_parts`), to share between runs; default: opened.

    Returns:
        The model with the weights of the best step, in evaluation mode.

    Raises:
        ValueError: bad parameters, samples without labels, or a run folder that holds a run with other parameters.
        NonFiniteLoss: the loss became NaN or infinite; the last checkpoint is from before that.
    """
    p = params if isinstance(params, MsiftParams) else read_params(params)
    check(p)
    out = Path(p.out)
    out.mkdir(parents=True, exist_ok=True)
    if p.num_threads:
        torch.set_num_threads(p.num_threads)
    parts = open_parts(p) if parts is None else parts
    model = build(p, parts["train"].data).to(pick_device(p.device))
    both = nn.ModuleDict({"now": model, "best": copy.deepcopy(model)})  # one state to save and to resume
    optimizer, scheduler = make_optimizer(model, p)
    start = resume(out, p, both, optimizer)
    write_json(out / "params.json", asdict(p))
    if start < p.steps:
        _loop(p, both, optimizer, scheduler, parts, start, out)
    best = both["best" if p.validation else "now"].eval()
    if start < p.steps or not (out / "model" / "config.json").exists():
        _finish(p, best, parts, out)
    return best


def _loop(p, both, optimizer, scheduler, parts, start, out):
    model, device, best = both["now"], next(both.parameters()).device, _best(p, out)[0]
    pending, clock = [], time.perf_counter()
    # line by line: what is logged survives a kill
    with open(out / "log.jsonl", "a", buffering=1) as log, Progress(p.steps, start, name=out.name) as progress:
        for step in range(start, p.steps):
            batch = _batch(p, parts["train"], model, device, step)
            scheduler.step_update(step)
            stages = train_step(p, model, optimizer, batch, step)
            pending.append((step + 1, sum(stages.values()), batch.ids))
            done, due = step + 1, due_now(p, step + 1, step + 1 == p.steps, bool(p.validation))
            if any(due.values()):
                record = {"step": done, "loss": check_finite(pending, out), "lr": optimizer.param_groups[0]["lr"]}
                record |= {"stages": {stage: float(loss) for stage, loss in stages.items()}}
                seconds = time.perf_counter() - clock
                record |= {"samples_per_s": len(pending) * p.batch_size / seconds, "time": time.time()}
                if due["validate"]:
                    record["validation"] = predict(model, parts["validation"], p).scores
                    if (value := _value(p, record)) > best:
                        best = value
                        both["best"].load_state_dict(model.state_dict())
                log.write(json.dumps(record) + "\n")
                progress.show(done, record)
                pending, clock = [], time.perf_counter()
            if due["save"]:
                save_state(out, p, both, optimizer, done)


def train_step(p: MsiftParams, model: MsIFT, optimizer, batch: Batch, step: int) -> dict[str, Tensor]:
    """One optimiser step; returns the parts of the loss, which is their sum."""
    model.train()
    torch.manual_seed((p.seed * 8 + _DROP_SEED) * 1_000_003 + step)  # dropout draws from the global generator
    with autocast(p, batch.labels.device):
        pred = model(batch.images, batch.present)
    losses = model.losses(pred, batch.labels, batch.present)
    optimizer.zero_grad(set_to_none=True)
    sum(losses.values()).backward()
    if p.clip_grad:
        nn.utils.clip_grad_norm_(model.parameters(), p.clip_grad)
    optimizer.step()
    return {stage: loss.detach() for stage, loss in losses.items()}


def _batch(p: MsiftParams, part: Part, model: MsIFT, device, step: int) -> Batch:
    """One step's batch: one source perhaps out of place, then all cropped and flipped alike, bands off by a little."""
    count, names = len(part.indices), list(model.modalities)
    per_epoch = max(count // p.batch_size, 1)
    rows = batch_indices(count, p.batch_size, step // per_epoch, p.seed)[step % per_epoch]
    batch = read_batch(part, rows, names, device)
    images, labels = batch.images, batch.labels
    if p.shift_train or p.angle_train:
        whole = not p.angle_train  # no blur that would give it away
        drawn = draw_displacement(
            len(labels), p.shift_train, step_generator(p, _SHIFT_SEED, step), p.angle_train, whole=whole
        )
        images = misalign(images, p.shift_sensor or names[-1], drawn)
    maps = {"label": labels[:, None]} if labels.ndim == 3 else {}
    images = augment(images | maps, p.crop or None, step_generator(p, _FLIP_SEED, step), p.rotate)
    labels = images.pop("label")[:, 0] if maps else labels
    if p.band_noise:
        images = _off_calibration(images, model, p.band_noise, step_generator(p, _NOISE_SEED, step))
    return batch._replace(images=images, labels=task_labels(p, labels))


def _off_calibration(images, model: MsIFT, amount: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Each band of each sample, all its pixels alike, off by `amount` of the band's deviation, normally distributed.

    Light, haze and calibration differ from place to place; what is left in spite of them tells classes apart.
    """
    noise = {name: torch.randn(*x.shape[:2], 1, 1, generator=generator).to(x) for name, x in images.items()}
    return {name: x + amount * model.sources[name].std * noise[name] for name, x in images.items()}


# -- scores ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def predict(
    model: MsIFT,
    part: Part,
    p: MsiftParams,
    sensors: Sequence[str] | None = None,
    displaced: tuple[str, Displacement] | None = None,
    crop: int | None = None,
) -> Outcome:
    """Classify the images of a split, and score what was found.

    Args:
        part: of `open_parts`. p: the model's parameters.
        sensors: those shown; default: all that the model knows.
        displaced: a sensor and where its content goes; it stays where it is if the model does not know the sensor.
        crop: side of the central window that is looked at after moving, in pixels; default: whole images.
    """
    model.eval()
    found, places, ids = [], [], []
    names, classes = list(sensors or model.modalities), model.config["num_classes"]
    for start in range(0, len(part.indices), p.batch_size):
        batch = read_batch(part, slice(start, start + p.batch_size), names, next(model.parameters()).device)
        moves = displaced and displaced[0] in batch.images
        images = misalign(batch.images, *displaced) if moves else batch.images
        images, labels = _centre(images, batch.labels, crop) if crop else (images, batch.labels)
        with autocast(p, labels.device):
            answer = model(images, batch.present).logits.argmax(1)
        found.append(confusion(answer, task_labels(p, labels), classes).cpu())
        places, ids = places + batch.places, ids + batch.ids
    matrices = torch.cat(found)
    return Outcome(matrix_scores(matrices.sum(0)), matrices, places, ids)


def _centre(images: dict[str, Tensor], labels: Tensor, side: int) -> tuple[dict[str, Tensor], Tensor]:
    if labels.ndim == 1:
        return center_crop(images, side), labels
    images = center_crop(images | {"label": labels[:, None]}, side)
    return images, images.pop("label")[:, 0]


def predict_displaced(
    model: MsIFT,
    part: Part,
    p: MsiftParams,
    amount: float,
    sensor: str = "",
    kind: str = "shift",
    crop: int | None = None,
) -> Outcome:
    """`predict` with one source out of place, all directions counted together.

    Args:
        amount, kind: how far and in which way, see `fmlib.misalign.all_ways`.
        sensor: which source; empty: the last. Others as for `predict`.
    """
    sensor = sensor or list(model.modalities)[-1]
    found = [predict(model, part, p, None, (sensor, step), crop) for step in all_ways(kind, amount)]
    matrices = sum(outcome.confusion for outcome in found)
    return Outcome(matrix_scores(matrices.sum(0)), matrices, *found[0][2:])


def matrix_scores(matrix: Tensor) -> dict:
    """`confusion_scores` and Cohen's kappa, as tables of pixel classification have it; None for what is no number."""
    scores, matrix = confusion_scores(matrix), matrix.double() / matrix.sum()
    chance = float(matrix.sum(0) @ matrix.sum(1))
    scores["kappa"] = (scores["accuracy"] - chance) / (1 - chance) if chance < 1 else math.nan
    number = lambda x: None if math.isnan(x) else x  # noqa: E731
    return {key: list(map(number, x)) if isinstance(x, list) else number(x) for key, x in scores.items()}


def _finish(p: MsiftParams, model: MsIFT, parts: dict[str, Part], out: Path) -> None:
    """Score the test part with the weights that were chosen; write the checkpoint and `scores.json`."""
    outcome, by = predict(model, parts["test"], p), CHOSEN_BY[p.kind]
    score = {"accuracy": accuracies, "miou": mean_ious}[by]
    interval = bootstrap_matrices(score, outcome.confusion, outcome.places)
    validation, step = _best(p, out)[1:] if p.validation else ({}, p.steps)
    samples = [_found(p, *row) for row in zip(outcome.ids, outcome.places, outcome.confusion, strict=True)]
    scores = {"step": step, "classes": list(answers(p, parts["test"].data)), "validation": validation}
    scores |= {"test": outcome.scores | {f"{by}_{end}": interval[end] for end in ("low", "high")}, "samples": samples}
    write_json(out / "scores.json", scores, indent=None)
    save(model, out / "model", step=step)  # last: its presence says that the run is finished


def _found(p: MsiftParams, identity: str, place: str, matrix: Tensor) -> dict:
    """What was found in one sample: a map's confusion matrix, or the label and the answer."""
    found = {"id": identity, "place": place}
    if p.task == "segmentation":
        return found | {"confusion": matrix.tolist()}
    label, answer = divmod(int(matrix.argmax()), len(matrix)) if matrix.any() else (None, None)
    return found | {"label": label, "answer": answer}


def _best(p: MsiftParams, out: Path) -> tuple[float, dict, int]:
    """The best validation in the log: the value it is chosen by, all scores, the step."""
    checked = [row for row in read_log(out) if "validation" in row]
    row = max(checked, key=lambda row: _value(p, row), default=None)  # of equals the first, as in the loop
    return (_value(p, row), row["validation"], row["step"]) if row else (-math.inf, {}, 0)


def _value(p: MsiftParams, row: dict) -> float:
    """What a validation is judged by; one without a number comes last."""
    value = row["validation"][CHOSEN_BY[p.kind]]
    return -math.inf if value is None else value


def main(argv: list[str] | None = None) -> None:
    """`python -m fmlib.train_msift [params.json …] [--name=value …]`: each file is a run, names hold for all."""
    run_each(lambda given: train(read_params(given)), argv, asdict(MsiftParams()), TYPES)


if __name__ == "__main__":
    main()
