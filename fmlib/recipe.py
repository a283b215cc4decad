"""What a pretraining run is made of: its parameters, the model and the optimiser they describe."""

from dataclasses import asdict, dataclass, field

import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn

from fmlib.layers import to_pair
from fmlib.modality import Modality
from fmlib.models.baselines import InfoNCE, SmallResNet
from fmlib.models.dino import DINO
from fmlib.models.fusmae import PRESETS, FusMAE
from fmlib.models.mae import check_choices
from fmlib.params import check_params, declared_types
from fmlib.speed import COMPILE_MODES
from fmlib.weights import load, load_strictly

METHODS = ("mae", "infonce", "dino", "resnet")


@dataclass(frozen=True)
class TrainParams:
    """All settings of a run; the names are those of the notebooks' parameter cells."""

    # data
    data: str = "synthetic"  # name of a manifest
    data_root: str = "data"  # folder that holds the data sets
    sensors: list[str] = field(default_factory=list)  # those of its sensors to use; empty: all
    img_size: int = 120  # side of the random crop, pixels
    samples: int = 0  # use the first so many training samples; 0: all
    # model
    method: str = "mae"  # mae, infonce, dino; resnet: a convnet to be trained with labels alone, so with 0 steps
    preset: str = "small"  # nano, tiny, small, base, large
    fusion: str = "xaed"  # none, stack, xad, xae, xaed
    patch_size: int = 8  # side of a patch, pixels
    norm_target: str = "patch"  # none, patch, group
    init: str = ""  # checkpoint folder whose weights to start from; empty: random
    decoder_queries: str = "latent"  # latent, grid
    decoder_depth: int = 0  # blocks of a decoder; 0: the preset's
    decoder_embed_dim: int = 0  # width of a decoder; 0: the preset's
    joint_attention: bool | None = None  # shared blocks attend over all sensors; None: unless fusion is none
    cross_queries: list[str] = field(default_factory=list)  # sensors that ask in cross-attention; empty: all
    cross_shared: bool = False  # the directions of cross-attention share their weights
    teacher_momentum: float = 0.996  # of dino's teacher at the first step; rises to 1
    # masks
    mask_strategy: str = "independent"  # independent, consistent, disjoint, dirichlet, sensor
    mask_ratio: float = 0.75  # share of patches removed
    block_size: int = 1  # side in patches of what is removed together
    sensor_drop: float = 0.0  # probability that one sensor is removed whole
    # optimisation
    steps: int = 1000  # optimiser steps; 0: random weights
    batch_size: int = 64  # samples a step
    accumulate: int = 1  # parts a step's batch is worked off in
    lr: float = 1.5e-4  # for a batch of 256; scaled by batch_size / 256
    warmup: int = 50  # steps of linear warm-up, cosine to 0 after
    weight_decay: float = 0.05  # not on biases, norms and tokens
    clip_grad: float = 1.0  # largest gradient norm; 0: no clipping
    # system
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    precision: str = "auto"  # auto: bf16 on CUDA, fp32 elsewhere; or fp32, bf16, fp8 (bf16, blocks multiply in 8 bits)
    compile: bool = False  # torch.compile: pays on a GPU
    compile_mode: str = "default"  # default, reduce-overhead (CUDA graphs), max-autotune, blocks (compiles sooner)
    num_threads: int = 0  # CPU threads; 0: torch's choice
    log_every: int = 20  # steps between log lines
    save_every: int = 200  # steps between checkpoints
    validate_every: int = 100  # steps between validations; 0: none
    validation_samples: int = 128  # samples of the validation split used for that
    out: str = "runs/pretrain"  # run folder


TYPES = declared_types(TrainParams)


def read_params(given: dict) -> TrainParams:
    """Flat values by name → `TrainParams`; raises ValueError on an unknown name or a wrong type."""
    return TrainParams(**check_params(given, asdict(TrainParams()), "fmlib.train", TYPES))


def check(p: TrainParams) -> None:
    """Raise ValueError where parameters do not go together."""
    check_choices(method=(p.method, METHODS), precision=(p.precision, ("auto", "fp32", "bf16", "fp8")))
    check_choices(compile_mode=(p.compile_mode, COMPILE_MODES))
    if p.steps < 0 or p.batch_size < 1 or p.accumulate < 1 or p.batch_size % p.accumulate:
        raise ValueError(
            f"steps {p.steps} must be at least 0, batch_size {p.batch_size} and accumulate {p.accumulate} at least 1, "
            "and accumulate must divide batch_size"
        )
    if p.fusion == "stack" and (p.mask_strategy != "consistent" or (p.sensor_drop and p.method != "dino")):
        raise ValueError("fusion='stack' has one token for all sensors: set mask_strategy='consistent', sensor_drop=0")
    if p.method == "infonce" and (p.fusion != "none" or p.joint_attention or len(p.sensors) == 1):
        raise ValueError("method='infonce' compares sensors, each encoded alone: set fusion='none', give two or more")
    if len(p.sensors) == 1 and p.fusion not in ("none", "stack"):
        raise ValueError(f"fusion={p.fusion!r} has nothing to fuse with sensors={p.sensors}; set fusion='none'")
    if p.method == "resnet" and p.steps:
        raise ValueError("method='resnet' is not pretrained here, only trained with labels: set steps=0")
    if p.img_size % p.patch_size:
        raise ValueError(f"img_size {p.img_size} does not divide into patches of {p.patch_size} pixels")


def build(p: TrainParams, modalities: dict[str, Modality]) -> nn.Module:
    """The model that `p` describes, its weights drawn from `p.seed`: untrained, the baseline of random features."""
    torch.manual_seed(p.seed)
    if unknown := set(p.sensors) - set(modalities):
        raise ValueError(f"{p.data}: no sensor {sorted(unknown)}; it has {', '.join(modalities)}")
    sensors = [modalities[name].replace(patch_size=to_pair(p.patch_size)) for name in p.sensors or modalities]
    model = _method(p, sensors)
    if p.init:
        load_strictly(model, load(p.init).state_dict(), p.init)
    return model


def _method(p: TrainParams, sensors: list[Modality]) -> nn.Module:
    check_choices(preset=(p.preset, tuple(PRESETS)))
    sizes = PRESETS[p.preset]
    encoder = {"img_size": p.img_size} | {key: sizes[key] for key in ("embed_dim", "depth", "num_heads")}
    if p.method == "infonce":
        return InfoNCE(sensors, **encoder)
    if p.method == "resnet":
        return SmallResNet(sensors, p.img_size, reduction=p.patch_size)
    fusion = {"fusion": p.fusion, "joint_attention": p.joint_attention, "cross_shared": p.cross_shared}
    fusion |= {"cross_queries": p.cross_queries or None}
    if p.method == "dino":
        return DINO(sensors, steps=p.steps, momentum=p.teacher_momentum, **fusion, **encoder)
    decoder = {key: getattr(p, key) or sizes[key] for key in ("decoder_embed_dim", "decoder_depth")}
    decoder |= {"norm_target": p.norm_target, "decoder_queries": p.decoder_queries}
    return FusMAE(sensors, **fusion, **encoder, **decoder, decoder_num_heads=sizes["decoder_num_heads"])


def make_optimizer(model: nn.Module, p: TrainParams):
    """AdamW with timm's parameter groups, and its schedule: warm-up, then cosine to 0, counted in steps."""
    tokens = [name for name, _ in model.named_parameters() if name.endswith("cls_token")]
    groups = param_groups_weight_decay(model, p.weight_decay, no_weight_decay_list=tokens)
    optimizer = torch.optim.AdamW(groups, lr=p.lr * p.batch_size / 256, betas=(0.9, 0.95), fused=True)
    steps = max(p.steps, 1)
    warmup = {"warmup_t": min(p.warmup, steps - 1), "warmup_lr_init": 0.0, "warmup_prefix": True}
    return optimizer, CosineLRScheduler(optimizer, t_initial=steps - warmup["warmup_t"], t_in_epochs=False, **warmup)


def pick_device(name: str) -> torch.device:
    """`auto` is the first CUDA device where there is one, else the CPU."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def autocast(p: TrainParams, device: torch.device):
    """bf16 where `precision` asks for it (fp8 keeps the rest so), or where it is `auto` and the device is CUDA."""
    bf16 = p.precision in ("bf16", "fp8") or (p.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)
