"""Guided training of MaeFuse: the decoder first, then the fusion layer, towards the mean and away from it again.

    python -m fmlib.train_fusion params.json                # parameters from a file
    python -m fmlib.train_fusion --encoder=runs/mae/model   # or by name; an unknown name or wrong type is an error

A run goes through `stages`, each with a loss, the parts that `train` in it, and its own number of `steps`:

    reconstruct   stage 0: each image by itself through encoder and decoder, squared error of normalised pixels
    align         stage 1: squared distance of fused tokens to the mean of both images' tokens
    fuse          stage 2: gradient, Laplacian and, if wanted, intensity of the fused picture (`picture_loss`)

Parts are cfm, mfm (with its MLP and norm) and decoder, joined by "+"; what is not named is frozen, the encoder always.
Where CFM trains without MFM, the stage ends at CFM's output. The released code's training modes are

    train_CFM_mean             align  cfm    train_MFM_mean_CFM_open    align  cfm+mfm
    train_CFM_fusion           fuse   cfm    train_MFM_fusion_CFM_open  fuse   cfm+mfm
    train_MFM_mean_CFM_lock    align  mfm    train_decoder_MFM          fuse   mfm+decoder
    train_MFM_fusion_CFM_lock  fuse   mfm    train_decoder_CFM_MFM      fuse   cfm+mfm+decoder
    train_decoder_only         fuse   decoder

A killed run that is started again goes on from its last checkpoint and ends with the same weights, bit by bit on CPU.
"""

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from fmlib.convert import load_maefuse, maefuse_on
from fmlib.files import write_json
from fmlib.fusion_losses import STAGES, losses
from fmlib.fusion_pairs import Pairs
from fmlib.layers import to_pair
from fmlib.modality import Modality
from fmlib.models.fusmae import fusmae
from fmlib.models.mae import check_choices
from fmlib.models.maefuse import FUSIONS, MaeFuse
from fmlib.params import check_params, declared_types, run_each
from fmlib.progress import Progress
from fmlib.recipe import autocast, pick_device
from fmlib.resume import resume, save_state
from fmlib.train import NonFiniteLoss, due_now
from fmlib.weights import load_strictly, save

PARTS = {"cfm": ("cfm", "concat"), "mfm": ("mfm",), "decoder": ("decoder",)}  # attributes of `MaeFuse`
SCHEDULES = ("constant", "cosine")
GREY = Modality("grey", ("grey",), "digital number", (0, 255), (127.5,), (63.75,))  # seen by an untrained encoder


@dataclass(frozen=True)
class FusionParams:
    """All settings of a run; lists with one entry a stage."""

    # data
    data: list[str] = field(default_factory=lambda: ["roadscene"])  # manifests of infrared–visible pairs
    data_root: str = "data"  # folder that holds the data sets
    img_size: int = 160  # side of training images, pixels
    whole: bool = False  # squeeze whole images to img_size, as released; else random crops and flips
    zoom: float = 1.0  # crops of up to so many times img_size, squeezed to it: large shapes are seen, too
    samples: int = 0  # use the first so many pairs; 0: all
    # model
    encoder: str = ""  # folder, file or timm's name of a MAE (`fmlib.convert.maefuse_on`); empty: random weights
    num_heads: int = 0  # of a weight file whose width does not tell; 0: it does
    init: str = ""  # a MaeFuse to start from: of its parts, those that `fusion` has, too; instead of encoder
    fusion: str = "cfm_mfm"  # mean, cfm, cfm_mfm, concat
    cfm_shared: bool = True  # both directions of CFM share their weights
    place_weight: float = 8.0  # of the positions in queries and keys; 0: none
    released: bool = False  # attention over the batch and positions added twice, as in the released code
    preset: str = "nano"  # size of an encoder of random weights: nano, tiny, small, base, large
    patch_size: int = 8  # its patches' side, pixels
    decoder_embed_dim: int = 128  # width of the decoder
    decoder_depth: int = 4  # its blocks
    decoder_num_heads: int = 4
    # stages
    stages: list[str] = field(default_factory=lambda: list(STAGES))  # loss of each stage
    train: list[str] = field(default_factory=lambda: ["decoder", "cfm+mfm", "cfm+mfm"])  # parts that train in it
    steps: list[int] = field(default_factory=lambda: [2000, 500, 1000])  # optimiser steps of it
    lr: list[float] = field(default_factory=lambda: [1e-3, 1e-3, 1e-4])  # learning rate, not scaled by the batch
    loss_weights: list[float] = field(default_factory=lambda: [0.0, 1.0, 2.0])  # intensity, gradient, Laplacian
    loss_scales: int = 1  # the same of halved, quartered, … pictures, so many in all; 1 as released
    loss_border: bool = True  # outermost pixels count, neighbours beyond them are 0, as released
    # optimisation
    batch_size: int = 16  # pairs a step
    schedule: str = "cosine"  # after the warm-up of each stage: cosine to 0, or constant as released
    warmup: int = 50  # steps of linear warm-up at the start of a stage
    weight_decay: float = 0.05  # not on biases and norms
    clip_grad: float = 0.0  # largest gradient norm; 0: no clipping
    # system
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    precision: str = "fp32"  # auto: bf16 on CUDA, fp32 elsewhere; or fp32, bf16
    num_threads: int = 0  # CPU threads; 0: torch's choice
    log_every: int = 20  # steps between log lines
    save_every: int = 200  # steps between checkpoints
    validate_every: int = 100  # steps between validations; 0: none
    validation_samples: int = 16  # pairs of the validation split used for that
    out: str = "runs/maefuse"  # run folder


TYPES = declared_types(FusionParams)


def read_params(given: dict) -> FusionParams:
    """Flat values by name → `FusionParams`; raises ValueError on an unknown name or a wrong type."""
    return FusionParams(**check_params(given, asdict(FusionParams()), "fmlib.train_fusion", TYPES))


def check(p: FusionParams) -> None:
    """Raise ValueError where parameters do not go together."""
    check_choices(fusion=(p.fusion, FUSIONS), schedule=(p.schedule, SCHEDULES))
    check_choices(precision=(p.precision, ("auto", "fp32", "bf16")))
    lengths = {key: len(getattr(p, key)) for key in ("stages", "train", "steps", "lr")}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"stages, train, steps and lr need one entry a stage, got {lengths}")
    if p.batch_size < 1 or min(p.steps, default=0) < 0 or len(p.loss_weights) != 3:
        raise ValueError("batch_size must be 1 or more, steps 0 or more, loss_weights three numbers")
    if p.zoom < 1 or p.loss_scales < 1 or p.img_size < 3 * 2 ** (p.loss_scales - 1):
        raise ValueError(
            f"zoom {p.zoom} must be 1 or more, loss_scales {p.loss_scales} 1 or more and leave 3 of {p.img_size} pixels"
        )
    if p.init and p.encoder:
        raise ValueError(f"init brings its own encoder: leave out encoder={p.encoder!r}, or init={p.init!r}")
    for stage, train in zip(p.stages, p.train, strict=True):
        check_choices(stage=(stage, STAGES))
        for part in train.split("+"):
            check_choices(train=(part, tuple(PARTS)))
        if stage == "reconstruct" and train != "decoder":
            raise ValueError(f"stage 'reconstruct' trains the decoder alone, not {train!r}: nothing is fused in it")
        if stage == "align" and "decoder" in train:
            raise ValueError(f"stage 'align' compares tokens, the decoder has no part in it: train is {train!r}")


# -- training -----------------------------------------------------------------------------------------------------


def train(params: FusionParams | dict) -> MaeFuse:
    """Train MaeFuse through all stages, going on from the run folder's last checkpoint if there is one.

    Returns:
        The trained model, in evaluation mode.

    Raises:
        ValueError: bad parameters, or a run folder that holds a run with other parameters.
        NonFiniteLoss: the loss became NaN or infinite; the last checkpoint is from before that.
    """
    p = params if isinstance(params, FusionParams) else read_params(params)
    check(p)
    out, total = Path(p.out), sum(p.steps)
    out.mkdir(parents=True, exist_ok=True)
    if p.num_threads:
        torch.set_num_threads(p.num_threads)
    device = pick_device(p.device)
    model = build(p).to(device)
    groups = param_groups_weight_decay(model, p.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)
    for train_parts in p.train:
        choose_parts(model, train_parts)  # raises before anything is trained if the model lacks one
    start = resume(out, p, model, optimizer)
    write_json(out / "params.json", asdict(p))
    if start < total:
        _loop(p, model, optimizer, device, start, out)
    if start < total or not (out / "model" / "config.json").exists():
        save(model.requires_grad_(True), out / "model", step=total)
    return model.eval()


def build(p: FusionParams) -> MaeFuse:
    """The model that `p` describes; what is new in it is drawn from `p.seed`."""
    torch.manual_seed(p.seed)
    options = {key: getattr(p, key) for key in ("fusion", "cfm_shared", "place_weight", "released", "img_size")}
    if p.init:
        start, _ = load_maefuse(p.init, fusion_layer=False)
        model = MaeFuse(list(start.modalities.values()), **start.config | options)
        fitting = {key: value for key, value in start.state_dict().items() if key in model.state_dict()}
        load_strictly(model, model.state_dict() | fitting, p.init)
        return model
    options |= {key: getattr(p, key) for key in ("decoder_embed_dim", "decoder_depth", "decoder_num_heads")}
    untrained = fusmae(p.preset, [GREY.replace(patch_size=to_pair(p.patch_size))], fusion="none")
    return maefuse_on(p.encoder or untrained, num_heads=p.num_heads or None, **options)[0]


def _loop(p: FusionParams, model: MaeFuse, optimizer, device, start: int, out: Path) -> None:
    view = (p.data_root, p.img_size, p.whole)
    data = Pairs(p.data, "train", *view, p.samples, p.zoom)
    held_out = Pairs(p.data, "validation", *view, p.validation_samples).fixed(device) if p.validate_every else None
    total, pending, clock = sum(p.steps), [], time.perf_counter()
    # line by line: what is logged survives a kill
    with open(out / "log.jsonl", "a", buffering=1) as log, Progress(total, start, name=out.name) as progress:
        for step in range(start, total):
            stage, first = stage_of(p, step)
            if step == first:
                optimizer.state.clear()  # another loss, of another scale: its moments start anew
            if step in (start, first):
                choose_parts(model, p.train[stage])
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(p, stage, step - first)
            pending.append(_step(p, model, optimizer, data.batch(step, p.batch_size, p.seed, device), stage))
            done, due = step + 1, due_now(p, step + 1, ends=step + 1 == first + p.steps[stage])
            if any(due.values()):
                speed = len(pending) * p.batch_size / (time.perf_counter() - clock)
                record = {"step": done, "stage": p.stages[stage]} | _mean(pending, done, out)
                record |= {"lr": optimizer.param_groups[0]["lr"], "samples_per_s": speed, "time": time.time()}
                if due["validate"]:
                    record["validation"] = _validate(p, model, held_out, stage)
                log.write(json.dumps(record) + "\n")
                progress.show(done, record)
                pending, clock = [], time.perf_counter()
            if due["save"]:
                save_state(out, p, model, optimizer, done)


def _step(p: FusionParams, model: MaeFuse, optimizer, images: dict[str, Tensor], stage: int) -> dict[str, Tensor]:
    """One optimiser step; returns the parts of its loss."""
    optimizer.zero_grad(set_to_none=True)
    parts = _losses(p, model, images, stage)
    sum(parts.values()).backward()
    if p.clip_grad:
        nn.utils.clip_grad_norm_(model.parameters(), p.clip_grad)
    optimizer.step()
    return {name: part.detach() for name, part in parts.items()}


def _losses(p: FusionParams, model: MaeFuse, images: dict[str, Tensor], stage: int) -> dict[str, Tensor]:
    parts = p.train[stage].split("+")
    guide_only = "cfm" in parts and "mfm" not in parts
    with autocast(p, images["ir"].device):
        return losses(model, images, p.stages[stage], guide_only, tuple(p.loss_weights), p.loss_scales, p.loss_border)


@torch.no_grad()
def _validate(p: FusionParams, model: MaeFuse, images: dict[str, Tensor], stage: int) -> dict[str, float]:
    """Mean of each part of the stage's loss over fixed pairs."""
    sums, count = {}, len(images["ir"])
    for rows in (slice(i, i + p.batch_size) for i in range(0, count, p.batch_size)):
        some = {name: image[rows] for name, image in images.items()}
        for name, loss in _losses(p, model, some, stage).items():
            sums[name] = sums.get(name, 0.0) + float(loss) * len(some["ir"]) / count
    return sums


def _mean(pending: list[dict[str, Tensor]], step: int, out: Path) -> dict[str, float]:
    """The loss and its parts, each the mean since the last log line; raises if one is not finite."""
    means = {name: float(torch.stack([parts[name] for parts in pending]).mean()) for name in pending[0]}
    if not all(map(math.isfinite, means.values())):
        raise NonFiniteLoss(
            f"the loss became {means} in the {len(pending)} steps up to {step} of {out}; lower lr. The last checkpoint "
            "is from before"
        )
    return {"loss": sum(means.values())} | means


# -- stages -------------------------------------------------------------------------------------------------------


def stage_of(p: FusionParams, step: int) -> tuple[int, int]:
    """Number of the stage that a step is in, and the first step of that stage."""
    first = 0
    for stage, steps in enumerate(p.steps):
        if step < first + steps:
            return stage, first
        first += steps
    raise ValueError(f"step {step} is beyond the {first} of all stages")


def choose_parts(model: MaeFuse, train: str) -> None:
    """Let only the parts named, joined by "+", train."""
    model.requires_grad_(False)
    for part in train.split("+"):
        modules = [getattr(model, name) for name in PARTS[part] if getattr(model, name) is not None]
        if not modules:
            raise ValueError(f"fusion={model.fusion!r} has no {part}; leave it out of train={train!r}")
        for module in modules:
            module.requires_grad_(True)


def learning_rate(p: FusionParams, stage: int, done: int) -> float:
    """Rate of a step, `done` steps after the start of its stage: linear warm-up, then constant or cosine to 0."""
    warmup, steps = min(p.warmup, p.steps[stage] - 1), p.steps[stage]
    if done < warmup:
        return p.lr[stage] * (done + 1) / (warmup + 1)
    falls = p.schedule == "cosine"
    return p.lr[stage] * (0.5 + 0.5 * math.cos(math.pi * (done - warmup) / (steps - warmup)) if falls else 1.0)


def main(argv: list[str] | None = None) -> None:
    """`python -m fmlib.train_fusion [params.json …] [--name=value …]`: each file is a run, names hold for all."""
    run_each(lambda given: train(read_params(given)), argv, asdict(FusionParams()), TYPES)


if __name__ == "__main__":
    main()
