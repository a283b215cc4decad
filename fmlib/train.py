"""The pretraining loop: one file, flat parameters, exact resume.

    python -m fmlib.train params.json                       # parameters from a file
    python -m fmlib.train --data=ombria --fusion=xad        # or by name; an unknown name or wrong type is an error
    python -m fmlib.train params.json --steps=2000          # or both
    torchrun --nproc_per_node=4 -m fmlib.train params.json  # by several processes, see `fmlib.distributed`

Everything random in a step (which samples, crops, flips, masks) follows from the seed and the step's number alone. So
a run that was killed and started again with the same command goes on from its last checkpoint and ends with the
weights of a run that was never killed: bit by bit on CPU. Nor does the number of processes shape the result, beyond
the rounding of sums.

The run folder holds `params.json`, `log.jsonl`, `state.pt` (to resume) and the checkpoint `model/` (to use).
"""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from fmlib.data import open_dataset, sensors_of
from fmlib.data.augment import augment, center_crop
from fmlib.data.batches import ahead, batch_indices, preload
from fmlib.data.records import Records
from fmlib.distributed import ALONE, Ranks, gathered, joined, replicate, summed, without_exchange
from fmlib.files import write_json
from fmlib.masking import Masks, draw_masks
from fmlib.models.dino import two_views
from fmlib.params import run_each
from fmlib.progress import Progress
from fmlib.recipe import TYPES, TrainParams, autocast, build, check, make_optimizer, pick_device, read_params
from fmlib.resume import resume, save_state
from fmlib.speed import compiled, to_float8
from fmlib.weights import save

IN_MEMORY = 2 * 2**30  # bytes of packed records above which they are read from disk as they are needed
_MASK_SEED, _CROP_SEED, _VALIDATION_SEED = 1, 2, 3  # streams of random numbers that never meet


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; the message names the step and its samples."""


def train(params: TrainParams | dict) -> nn.Module:
    """Pretrain the model that `params` describe, going on from the run folder's last checkpoint if there is one.

    Returns:
        The trained model, in evaluation mode.

    Raises:
        ValueError: bad parameters, or a run folder that holds a run with other parameters.
        NonFiniteLoss: the loss became NaN or infinite; the last checkpoint is from before that.
    """
    p = params if isinstance(params, TrainParams) else read_params(params)
    check(p)
    out = Path(p.out)
    out.mkdir(parents=True, exist_ok=True)
    if p.num_threads:
        torch.set_num_threads(p.num_threads)
    with joined(pick_device(p.device)) as (ranks, device):
        check_ranks(p, ranks)
        model = build(p, sensors_of(p.data)).to(device)
        if p.precision == "fp8":
            to_float8(model, device)
        optimizer, scheduler = make_optimizer(model, p)
        start = resume(out, p, model, optimizer, write=ranks.first)
        if ranks.first:
            write_json(out / "params.json", asdict(p))
        if start < p.steps:
            _loop(p, model, optimizer, scheduler, device, start, out, ranks)
        trained = start < p.steps or not (out / "model" / "config.json").exists()  # now; or killed before its end
        if trained and ranks.first:
            save(model, out / "model", step=p.steps)
    return model.eval()


def _loop(p, model, optimizer, scheduler, device, start, out, ranks):
    data = open_split(p, "train", p.samples)
    validation = _validation_batch(p, model, device) if p.validate_every and ranks.first else None
    if p.compile:
        torch.compiler.reset()  # after some recompilations it would give up, and earlier runs in this process count
    forward = replicate(compiled(model, p.compile_mode) if p.compile else model, ranks)
    pending, clock, waited = [], time.perf_counter(), 0.0
    log_file = out / "log.jsonl" if ranks.first else os.devnull
    feed = ahead(lambda step: make_batch(p, model, data, device, step, ranks), range(start, p.steps), device)
    # line by line: what is logged survives a kill
    with open(log_file, "a", buffering=1) as log, Progress(p.steps, start, name=out.name) as progress:
        for step, (images, masks, ids), wait in feed:
            waited += wait
            scheduler.step_update(step)
            loss, pred = train_step(p, forward, optimizer, images, masks, ranks)
            pending.append((step + 1, loss, ids))
            done, due = step + 1, due_now(p, step + 1, step + 1 == p.steps)
            if any(due.values()):
                mean = check_finite(pending, out, ranks)
                record = {"step": done, "loss": mean, "lr": optimizer.param_groups[0]["lr"]}
                record |= _parts(p, model, images, masks, pred)
                seconds = time.perf_counter() - clock
                record |= {"samples_per_s": len(pending) * p.batch_size / seconds, "waited": round(waited / seconds, 4)}
                record["time"] = time.time()
                if due["validate"] and ranks.first:
                    record["validation"] = _validate(p, model, *validation)
                log.write(json.dumps(record) + "\n")
                if ranks.first:
                    progress.show(done, record)
                pending, clock, waited = [], time.perf_counter(), 0.0
            if due["save"] and ranks.first:
                save_state(out, p, model, optimizer, done)


def train_step(p: TrainParams, model, optimizer, images, masks: Masks, ranks: Ranks = ALONE) -> tuple[Tensor, dict]:
    """One optimiser step over `accumulate` equal parts of this process's rows: its loss, the last part's predictions.

    Masks are of the whole batch, and what a part has of the removed patches is its weight: sensors may be missing as
    unevenly as they like. The losses of all parts and processes sum up to that of the batch.
    """
    optimizer.zero_grad(set_to_none=True)
    count = len(next(iter(images.values())))
    size, first, total = count // p.accumulate, ranks.rank * count, 0.0
    for i in range(p.accumulate):
        rows, of_batch = (slice(start, start + size) for start in (i * size, first + i * size))
        with autocast(p, next(iter(images.values())).device), without_exchange(model, i == p.accumulate - 1):
            some = {name: image[rows] for name, image in images.items()}
            loss, pred, _ = model(some, {name: mask.part(of_batch) for name, mask in masks.items()})
            loss = loss if p.method == "mae" else loss / p.accumulate  # others compare the samples of a part
            (loss * ranks.world).backward()  # processes take the mean
        total = total + loss.detach()
    if p.clip_grad:
        nn.utils.clip_grad_norm_(model.parameters(), p.clip_grad)
    optimizer.step()
    if hasattr(model, "after_step"):  # a teacher that follows
        model.after_step()
    return total, pred


def make_batch(p: TrainParams, model, data, device, step: int, ranks: Ranks = ALONE):
    """This process's images and sample ids of one step, and all masks: they follow from the seed and the step."""
    per_epoch = max(len(data) // p.batch_size, 1)
    indices = batch_indices(len(data), p.batch_size, step // per_epoch, p.seed)[step % per_epoch]
    rows = ranks.rows(p.batch_size)
    batch = data.batch(indices[rows], device)
    images = {name: batch[name] for name in data.modalities}
    images = augment(images, p.img_size, step_generator(p, _CROP_SEED, step), rows=rows, batch_size=p.batch_size)
    present = {name: gathered(here, ranks) for name, here in batch["present"].items()}
    return *hide(p, model, images, present, step_generator(p, _MASK_SEED, step), p.sensor_drop), batch["id"]


def hide(p: TrainParams, model, images, present, generator: torch.Generator, sensor_drop: float = 0.0):
    """What the model gets to see: images (for dino two views of each sample, some without a sensor) and masks."""
    if p.method == "dino":
        images, present = two_views(images, present, model.modalities, generator, sensor_drop)
        sensor_drop = 0.0  # what was dropped is missing, not masked
    first = next(iter(images.values()))
    masks = draw_masks(
        model.grids,
        len(next(iter(present.values()))),
        p.mask_strategy,
        p.mask_ratio,
        generator=generator,
        block_size=p.block_size,
        sensor_drop=sensor_drop,
        present=present,
    )
    return images, {name: mask.to(first.device) for name, mask in masks.items()}


def _validation_batch(p: TrainParams, model, device):
    """Fixed samples, cropped in the middle, with fixed masks."""
    data = open_split(p, "validation", p.validation_samples)
    batch = data.batch(range(len(data)), device)
    images = center_crop({n: batch[n] for n in data.modalities}, p.img_size)
    return hide(p, model, images, batch["present"], step_generator(p, _VALIDATION_SEED, 0))


@torch.no_grad()
def _validate(p: TrainParams, model, images, masks: Masks) -> dict[str, float]:
    """Mean of each part of the loss over fixed samples, in evaluation mode."""
    model.eval()
    first, sums = next(iter(images.values())), {}
    size = p.batch_size * (2 if p.method == "dino" else 1)  # views of a sample stay together
    for rows in (slice(i, i + size) for i in range(0, len(first), size)):
        some, hidden = {n: x[rows] for n, x in images.items()}, {n: mask[rows] for n, mask in masks.items()}
        with autocast(p, first.device):
            parts = model.losses(some, hidden, model(some, hidden).pred)
        for name, loss in parts.items():
            sums[name] = sums.get(name, 0.0) + float(loss) * len(first[rows]) / len(first)
    model.train()
    return sums


@torch.no_grad()
def _parts(p: TrainParams, model, images, masks: Masks, pred) -> dict[str, float]:
    """The parts that the loss is the sum of, for the predictions of the batch's last part."""
    count = len(next(iter(images.values())))
    rows = slice(count - count // p.accumulate, count)  # the first process logs, and its rows come first
    some, hidden = {n: x[rows] for n, x in images.items()}, {n: mask[rows] for n, mask in masks.items()}
    return {name: float(loss) for name, loss in model.losses(some, hidden, pred).items()}


def check_finite(pending, out: Path, ranks: Ranks = ALONE) -> float:
    """Mean of the losses since the last log line, (step, loss, sample ids) each; raises if one is not finite."""
    losses = summed(torch.stack([loss for _, loss, _ in pending]).float(), ranks).cpu()
    for (step, _, ids), loss in zip(pending, losses.tolist(), strict=True):
        if loss != loss or abs(loss) == float("inf"):
            raise NonFiniteLoss(
                f"the loss is {loss} at step {step} of {out}; its samples: {', '.join(ids)}. Look for broken values in "
                "them, or lower lr; the last checkpoint is from before this step"
            )
    return round(losses.mean().item(), 6)


# -- setting up -------------------------------------------------------------------------------------------------


def check_ranks(p: TrainParams, ranks: Ranks) -> None:
    """Raise ValueError where a run cannot be shared out among so many processes."""
    if ranks.world > 1 and p.method != "mae":
        raise ValueError(f"method {p.method!r} compares samples of a whole batch: train it in one process")
    if p.batch_size % (ranks.world * p.accumulate):
        raise ValueError(
            f"batch_size {p.batch_size} does not divide among {ranks.world} processes in {p.accumulate} parts each; "
            "change one of them"
        )


def open_split(p: TrainParams, split: str, samples: int):
    """A split of the data set as a run reads it: the first `samples` of it (0: all), in memory unless it is large."""
    data = open_dataset(p.data, split, p.data_root, tuple(p.sensors) or None)
    if samples or not isinstance(data, Records) or data.nbytes < IN_MEMORY:
        data = preload(data, samples=samples or None)
    if split == "train" and len(data) < p.batch_size:
        raise ValueError(f"{p.data!r} has {len(data)} training samples, fewer than one batch of {p.batch_size}")
    return data


def step_generator(p, stream: int, step: int) -> torch.Generator:
    """Random numbers of one stream in one step: they follow from ``p.seed`` and the two numbers alone."""
    return torch.Generator().manual_seed((p.seed * 8 + stream) * 1_000_003 + step)


def due_now(p, done: int, ends: bool, validate: bool = True) -> dict[str, bool]:
    """What `p` (log_every, save_every, validate_every) asks for after so many steps; all of it where a run ends."""
    every = {"log": p.log_every, "save": p.save_every, "validate": p.validate_every if validate else 0}
    return {what: bool(n) and (done % n == 0 or ends) for what, n in every.items()}


def main(argv: list[str] | None = None) -> None:
    """`python -m fmlib.train [params.json …] [--name=value …]`: each file is a run, names hold for all."""
    run_each(lambda given: train(read_params(given)), argv, asdict(TrainParams()), TYPES)


if __name__ == "__main__":
    main()
