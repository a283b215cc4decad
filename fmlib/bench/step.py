"""What the benchmarks of training share: one step as a function, clocks, and what the machine can do."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from fmlib.bench.plain import FAST, Plain
from fmlib.data import sensors_of
from fmlib.modality import Modality
from fmlib.models.fusmae import FusMAE
from fmlib.speed import compiled, to_float8
from fmlib.train import TrainParams, autocast, build, hide, make_optimizer, pick_device, train_step

OPTIMISER, COMPILED = "fused optimiser", "compiled"
aten = torch.ops.aten
FUSED_ON_CPU = {  # kernels that torch's counter knows from 2.15 on: shapes → operations
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop_count(
        *shapes[:4]
    ),
}


class Step:
    """One training step as a function without arguments: masks, forward, backward, clipping, optimiser.

    Its random images already lie on the device, so it measures the model and not the disk.

    Args:
        params: as for training; `steps`, `init` aside, describes the model; the paths are not used.
        device: where.
        sensors: {name: Modality} instead of those of `params.data`.
        fast: what is done the fast way, some of `fmlib.bench.plain.FAST`, OPTIMISER and COMPILED (where
            ``params.compile``); None: everything, by the model itself.
        sizes: of a masked autoencoder in place of the preset's, e.g. ``depth=2``.
    """

    def __init__(
        self,
        params: TrainParams,
        device: torch.device,
        sensors: dict[str, Modality] | None = None,
        fast: Sequence[str] | None = None,
        **sizes: int,
    ):
        model = build(params, sensors or sensors_of(params.data))
        if sizes:
            model = FusMAE(list(model.modalities.values()), **model.config | sizes)
        self.params, self.model = params, model.to(device)
        if params.precision == "fp8":
            to_float8(model, device)
        self.optimizer, _ = make_optimizer(model, params)
        self.eager = model
        if fast is not None:
            self.eager = Plain(model, tuple(way for way in fast if way in FAST))
            self.optimizer = self.optimizer if OPTIMISER in fast else _one_by_one(self.optimizer)
        compile_it = params.compile and (fast is None or COMPILED in fast)
        self.forward = _compiled(self.eager, params.compile_mode) if compile_it else self.eager
        self.generator = torch.Generator().manual_seed(params.seed)
        shape, count = (params.img_size, params.img_size), params.batch_size
        self.images = {m.name: torch.randn(count, m.in_chans, *shape, device=device) for m in model.modalities.values()}
        self.present = dict.fromkeys(self.images, torch.ones(count, dtype=torch.bool))

    def __call__(self, forward: torch.nn.Module | None = None) -> Tensor:
        """Do one step; returns its loss."""
        p, model = self.params, self.model
        seen, masks = hide(p, model, self.images, self.present, self.generator, p.sensor_drop)
        return train_step(p, self.forward if forward is None else forward, self.optimizer, seen, masks)[0]

    def flop(self) -> int:
        """Floating-point operations of a step's matrix products, forward and backward: the same on every machine.

        Fused attention computes its map anew in the backward pass, which counts: seven products, not six.
        """
        missing = {kernel: count for kernel, count in FUSED_ON_CPU.items() if kernel not in flop_registry}
        with FlopCounterMode(display=False, custom_mapping=missing) as counter:
            self(self.eager)
        return counter.get_total_flops()

    def visible(self) -> int:
        """Patches of a sample that the encoder sees, over all sensors."""
        masks = hide(self.params, self.model, self.images, self.present, self.generator)[1]
        return sum(mask.ids_keep.shape[1] for mask in masks.values())


def _compiled(model: torch.nn.Module, mode: str) -> torch.nn.Module:
    """Compiled for its own shapes, as in training, also where many models of one class are measured in one process.

    By default the second shape would bring code for any shape, and the ninth model would silently not be compiled.
    """
    config = torch._dynamo.config
    config.cache_size_limit = max(config.cache_size_limit, 64)
    return compiled(model, mode, dynamic=False)


def _one_by_one(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """AdamW that updates one tensor after the other, an operation at a time."""
    groups = [{key: group[key] for key in ("params", "lr", "weight_decay")} for group in optimizer.param_groups]
    return torch.optim.AdamW(groups, betas=optimizer.defaults["betas"], foreach=False)


# -- clocks -------------------------------------------------------------------------------------------------------


def now(device: torch.device) -> float:
    """Seconds on a clock, after all that the device was asked to do is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def in_turn(functions: Sequence[Callable], device: torch.device, seconds: float, least: int = 5) -> list[float]:
    """Median seconds of each function, called in turn for about so long, so that ratios come from one run.

    Args:
        functions: without arguments; each is called twice before the clock starts. One that takes less than a
            hundredth of a second is called as often in a row as fit into that, so that starting it does not count.
        device: that is waited for after each turn.
        seconds: for all functions together.
        least: turns of each, at least.
    """
    for function in functions:
        function()
    often = [max(1, int(0.01 / _seconds(function, device, 1))) for function in functions]
    times, start = [[] for _ in functions], now(device)
    while len(times[0]) < least or time.perf_counter() - start < seconds:
        for function, calls, its_times in zip(functions, often, times, strict=True):
            its_times.append(_seconds(function, device, calls))
    return [statistics.median(its_times) for its_times in times]


def _seconds(function: Callable, device: torch.device, calls: int) -> float:
    """Seconds of a call, the mean of some in a row."""
    start = now(device)
    for _ in range(calls):
        function()
    return (now(device) - start) / calls


# -- the machine --------------------------------------------------------------------------------------------------


def prepared(params: TrainParams) -> torch.device:
    """The device that `params` ask for; as a side effect the number of threads is set."""
    if params.num_threads:
        torch.set_num_threads(params.num_threads)
    return pick_device(params.device)


def device_name(device: torch.device) -> str:
    """The card's name, or the number of the CPU's threads."""
    cuda = device.type == "cuda"
    return torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads"


def working_type(params: TrainParams, device: torch.device) -> torch.dtype:
    """The type that matrices are multiplied in during training."""
    with autocast(params, device):
        return (torch.ones(1, 1, device=device) @ torch.ones(1, 1, device=device)).dtype


def large_product(device: torch.device, dtype: torch.dtype) -> tuple[Callable, int]:
    """The product of two large random matrices as a function, and its floating-point operations."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, size, size, device=device).to(dtype).unbind(0)
    return lambda: a @ b, 2 * size**3


def large_copy(device: torch.device) -> tuple[Callable, int]:
    """A copy that fits no cache as a function, and the bytes it reads and writes."""
    values = torch.ones(2**28 if device.type == "cuda" else 2**25, device=device)  # 1 GiB, 128 MiB
    target = torch.empty_like(values)
    return lambda: target.copy_(values), 2 * values.nbytes
