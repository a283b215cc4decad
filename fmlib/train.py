"""The pretraining loop: one file, flat parameters, exact resume.

    python -m fmlib.train params.json                       # parameters from a file
    python -m fmlib.train --data=ombria --fusion=xad        # or by name; an unknown name or wrong type is an error
    python -m fmlib.train params.json --steps=2000          # or both

Everything random in a step (which samples, crops, flips, masks) follows from the seed and the step's number alone. So
a run that was killed and started again with the same command goes on from its last checkpoint and ends with the
weights of a run that was never killed: bit by bit on CPU.

The run folder holds `params.json`, `log.jsonl`, `state.pt` (to resume) and the checkpoint `model/` (to use).
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from fmlib.data import open_dataset
from fmlib.data.augment import augment, center_crop
from fmlib.data.batches import batch_indices, preload
from fmlib.data.records import Records
from fmlib.evaluate import sensor_losses
from fmlib.layers import to_pair
from fmlib.manifest import load_manifest
from fmlib.masking import Masks, draw_masks
from fmlib.models.fusmae import fusmae
from fmlib.params import check_params, parse_setting
from fmlib.progress import Progress
from fmlib.resume import resume, save_state
from fmlib.weights import load, load_strictly, save, write_beside


@dataclass(frozen=True)
class TrainParams:
    """All settings of a run; the names are those of the notebooks' parameter cells."""

    # data
    data: str = "synthetic"  # name of a manifest
    data_root: str = "data"  # folder that holds the data sets
    img_size: int = 120  # side of the random crop, pixels
    samples: int = 0  # use the first so many training samples; 0: all
    # model
    preset: str = "small"  # nano, tiny, small, base, large
    fusion: str = "xaed"  # none, stack, xad, xae, xaed
    patch_size: int = 8  # side of a patch, pixels
    norm_target: str = "patch"  # none, patch, group
    init: str = ""  # checkpoint folder whose weights to start from; empty: random
    decoder_queries: str = "latent"  # latent, grid
    # masks
    mask_strategy: str = "independent"  # independent, consistent, disjoint, dirichlet, sensor
    mask_ratio: float = 0.75  # share of patches removed
    block_size: int = 1  # side in patches of what is removed together
    sensor_drop: float = 0.0  # probability that one sensor is removed whole
    # optimisation
    steps: int = 1000  # optimiser steps
    batch_size: int = 64  # samples a step
    accumulate: int = 1  # parts a step's batch is worked off in
    lr: float = 1.5e-4  # for a batch of 256; scaled by batch_size / 256
    warmup: int = 50  # steps of linear warm-up, cosine to 0 after
    weight_decay: float = 0.05  # not on biases, norms and tokens
    clip_grad: float = 1.0  # largest gradient norm; 0: no clipping
    # system
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    precision: str = "auto"  # auto: bf16 on CUDA, fp32 elsewhere; or fp32, bf16
    compile: bool = False  # torch.compile: pays on a GPU
    num_threads: int = 0  # CPU threads; 0: torch's choice
    log_every: int = 20  # steps between log lines
    save_every: int = 200  # steps between checkpoints
    validate_every: int = 100  # steps between validations; 0: none
    validation_samples: int = 128  # samples of the validation split used for that
    out: str = "runs/pretrain"  # run folder


IN_MEMORY = 2 * 2**30  # bytes of packed records above which they are read from disk as they are needed
_MASK_SEED, _CROP_SEED, _VALIDATION_SEED = 1, 2, 3  # streams of random numbers that never meet


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; the message names the step and its samples."""


def train(params: TrainParams | dict) -> nn.Module:
    """Pretrain Fus-MAE as `params` say, going on from the run folder's last checkpoint if there is one.

    Returns:
        The trained model, in evaluation mode.

    Raises:
        ValueError: bad parameters, or a run folder that holds a run with other parameters.
        NonFiniteLoss: the loss became NaN or infinite; the last checkpoint is from before that.
    """
    p = params if isinstance(params, TrainParams) else read_params(params)
    _check(p)
    out = Path(p.out)
    out.mkdir(parents=True, exist_ok=True)
    if p.num_threads:
        torch.set_num_threads(p.num_threads)
    device = pick_device(p.device)
    model = build(p, load_manifest(p.data).sensors).to(device)
    optimizer, scheduler = make_optimizer(model, p)
    start = resume(out, p, model, optimizer)
    write_beside(out / "params.json", lambda path: path.write_text(json.dumps(asdict(p), indent=2)))
    if start < p.steps:
        _loop(p, model, optimizer, scheduler, device, start, out)
        save(model, out / "model", step=p.steps)
    return model.eval()


def build(p: TrainParams, modalities) -> nn.Module:
    """The model that `p` describes, its weights drawn from `p.seed`."""
    torch.manual_seed(p.seed)
    sensors = [m.replace(patch_size=to_pair(p.patch_size)) for m in modalities.values()]
    options = {"fusion": p.fusion, "norm_target": p.norm_target, "decoder_queries": p.decoder_queries}
    model = fusmae(p.preset, sensors, img_size=p.img_size, **options)
    if p.init:
        load_strictly(model, load(p.init).state_dict(), p.init)
    return model


def _loop(p, model, optimizer, scheduler, device, start, out):
    data = _open(p, "train", p.samples)
    validation = _validation_batch(p, model, device) if p.validate_every else None
    forward = torch.compile(model) if p.compile else model
    pending, clock = [], time.perf_counter()
    # line by line: what is logged survives a kill
    with open(out / "log.jsonl", "a", buffering=1) as log, Progress(p.steps, start, name=out.name) as progress:
        for step in range(start, p.steps):
            images, masks, ids = _batch(p, model, data, device, step)
            scheduler.step_update(step)
            loss, pred = train_step(p, forward, optimizer, images, masks)
            pending.append((step + 1, loss, ids))
            done, due = step + 1, _due(p, step + 1)
            if any(due.values()):
                mean = _check_finite(pending, out)
                record = {"step": done, "loss": mean, "lr": optimizer.param_groups[0]["lr"]}
                record |= _sensor_losses(model, images, masks, pred)
                seconds = time.perf_counter() - clock
                record |= {"samples_per_s": len(pending) * p.batch_size / seconds, "time": time.time()}
                if due["validate"]:
                    record["validation"] = _validate(p, model, *validation)
                log.write(json.dumps(record) + "\n")
                progress.show(done, record)
                pending, clock = [], time.perf_counter()
            if due["save"]:
                save_state(out, p, model, optimizer, done)


def train_step(p: TrainParams, model, optimizer, images, masks: Masks) -> tuple[Tensor, dict]:
    """One optimiser step over `accumulate` equal parts of the batch: mean loss, predictions of the last part."""
    optimizer.zero_grad(set_to_none=True)
    size = p.batch_size // p.accumulate
    total = 0.0
    for part in (slice(i * size, (i + 1) * size) for i in range(p.accumulate)):
        with autocast(p, next(iter(images.values())).device):
            some = {name: image[part] for name, image in images.items()}
            loss, pred, _ = model(some, {name: mask[part] for name, mask in masks.items()})
        (loss / p.accumulate).backward()
        total = total + loss.detach() / p.accumulate
    if p.clip_grad:
        nn.utils.clip_grad_norm_(model.parameters(), p.clip_grad)
    optimizer.step()
    return total, pred


def _batch(p: TrainParams, model, data, device, step: int):
    """The images, masks and sample ids of one step: they follow from the seed and the step's number."""
    per_epoch = max(len(data) // p.batch_size, 1)
    indices = batch_indices(len(data), p.batch_size, step // per_epoch, p.seed)[step % per_epoch]
    batch = data.batch(indices, device)
    images = augment({n: batch[n] for n in data.modalities}, p.img_size, generator=_generator(p, _CROP_SEED, step))
    masks = draw_masks(
        model.grids,
        len(indices),
        p.mask_strategy,
        p.mask_ratio,
        generator=_generator(p, _MASK_SEED, step),
        block_size=p.block_size,
        sensor_drop=p.sensor_drop,
        present=batch["present"],
    )
    return images, {name: mask.to(device) for name, mask in masks.items()}, batch["id"]


def _validation_batch(p: TrainParams, model, device):
    """Fixed samples, cropped in the middle, with fixed masks."""
    data = _open(p, "validation", p.validation_samples)
    batch = data.batch(range(len(data)), device)
    images = center_crop({n: batch[n] for n in data.modalities}, p.img_size)
    options = {"generator": _generator(p, _VALIDATION_SEED, 0), "block_size": p.block_size, "present": batch["present"]}
    masks = draw_masks(model.grids, len(data), p.mask_strategy, p.mask_ratio, **options)
    return images, {n: m.to(device) for n, m in masks.items()}


def _validate(p: TrainParams, model, images, masks) -> dict[str, float]:
    with autocast(p, next(iter(images.values())).device):
        losses = sensor_losses(model.eval(), images, masks, p.batch_size)
    model.train()
    return losses


@torch.no_grad()
def _sensor_losses(model, images, masks: Masks, pred) -> dict[str, float]:
    rows = slice(-len(next(iter(pred.values()))), None)  # predictions may be of the batch's last part only
    patches, _ = model.patches({name: image[rows] for name, image in images.items()})
    losses = model.forward_loss(patches, pred, {name: mask[rows] for name, mask in masks.items()})
    return {name: float(loss) for name, loss in losses.items()}


def _check_finite(pending, out: Path) -> float:
    """Mean of the losses since the last log line; raises if one of them is not finite."""
    losses = torch.stack([loss for _, loss, _ in pending]).float().cpu()
    for (step, _, ids), loss in zip(pending, losses.tolist(), strict=True):
        if loss != loss or abs(loss) == float("inf"):
            raise NonFiniteLoss(
                f"the loss is {loss} at step {step} of {out}; its samples: {', '.join(ids)}. Look for broken values in "
                "them, or lower lr; the last checkpoint is from before this step"
            )
    return round(losses.mean().item(), 6)


# -- setting up -------------------------------------------------------------------------------------------------


def read_params(given: dict) -> TrainParams:
    """Flat values by name → `TrainParams`; raises ValueError on an unknown name or a wrong type."""
    return TrainParams(**check_params(given, asdict(TrainParams()), "fmlib.train"))


def pick_device(name: str) -> torch.device:
    """`auto` is the first CUDA device where there is one, else the CPU."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def autocast(p: TrainParams, device: torch.device):
    """bf16 where `precision` asks for it, or where it is `auto` and the device is CUDA."""
    bf16 = p.precision == "bf16" or (p.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def _check(p: TrainParams):
    if p.precision not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision is {p.precision!r}; choose auto, fp32 or bf16")
    if p.steps < 1 or p.batch_size < 1 or p.accumulate < 1 or p.batch_size % p.accumulate:
        raise ValueError(
            f"steps {p.steps}, batch_size {p.batch_size} and accumulate {p.accumulate} must be at least 1, and "
            "accumulate must divide batch_size"
        )
    if p.fusion == "stack" and (p.mask_strategy != "consistent" or p.sensor_drop):
        raise ValueError("fusion='stack' has one token for all sensors: set mask_strategy='consistent', sensor_drop=0")
    if p.img_size % p.patch_size:
        raise ValueError(f"img_size {p.img_size} does not divide into patches of {p.patch_size} pixels")


def _open(p: TrainParams, split: str, samples: int):
    data = open_dataset(p.data, split, p.data_root)
    if samples or not isinstance(data, Records) or data.nbytes < IN_MEMORY:
        data = preload(data, samples=samples or None)
    if split == "train" and len(data) < p.batch_size:
        raise ValueError(f"{p.data!r} has {len(data)} training samples, fewer than one batch of {p.batch_size}")
    return data


def make_optimizer(model, p: TrainParams):
    """AdamW with timm's parameter groups, and its schedule: warm-up, then cosine to 0, counted in steps."""
    groups = param_groups_weight_decay(model, p.weight_decay, no_weight_decay_list=("cls_token",))
    optimizer = torch.optim.AdamW(groups, lr=p.lr * p.batch_size / 256, betas=(0.9, 0.95), fused=True)
    warmup = {"warmup_t": min(p.warmup, p.steps - 1), "warmup_lr_init": 0.0, "warmup_prefix": True}
    return optimizer, CosineLRScheduler(optimizer, t_initial=p.steps - warmup["warmup_t"], t_in_epochs=False, **warmup)


def _generator(p: TrainParams, stream: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed((p.seed * 8 + stream) * 1_000_003 + step)


def _due(p: TrainParams, done: int) -> dict[str, bool]:
    every = {"log": p.log_every, "save": p.save_every, "validate": p.validate_every}
    return {what: bool(n) and (done % n == 0 or done == p.steps) for what, n in every.items()}


def main(argv: list[str] | None = None) -> None:
    """`python -m fmlib.train [params.json] [--name=value …]`."""
    given, defaults = {}, asdict(TrainParams())
    for word in sys.argv[1:] if argv is None else argv:
        named = word.startswith("--")
        given |= [parse_setting(word[2:], defaults)] if named else json.loads(Path(word).read_text())
    train(read_params(given))


if __name__ == "__main__":
    main()
