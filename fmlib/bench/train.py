"""How fast pretraining is here, beside what the machine can do.

The step is the real one (masks drawn, forward, backward, clipping, optimiser) on random images that already lie on the
device, so that it measures the model and not the disk. Its work is counted by torch's flop counter; the machine's rate
is that of one large matrix product in the same precision, measured in the same run.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from fmlib.bench.plain import Plain
from fmlib.data import sensors_of
from fmlib.models.mae import check_choices
from fmlib.train import TrainParams, autocast, build, hide, make_optimizer, pick_device, train_step


def bench_train(params: TrainParams, seconds: float = 10.0, against: str = "") -> dict:
    """Time training steps of the model that `params` describe.

    Args:
        params: as for training; `steps` and the paths are not used, and only the manifest of `data` is read.
        seconds: time to measure for, after three steps to warm up.
        against: ``"plain"``: steps of `fmlib.bench.plain` in turn with the others, for as long again.

    Returns:
        {"device", "pairs_per_s", "ms_per_step" (median), "tflop_per_s" (achieved), "matrix_tflop_per_s",
        "share" of the matrix rate, "peak_memory_gib" (CUDA only)}; against plain also "plain_ms_per_step" and
        "times_plain", how many times as fast as that.

    Raises:
        ValueError: bad parameters, or a method or masks that the plain way does not know.
    """
    check_choices(against=(against, ("", "plain")))
    if against and params.method != "mae":
        raise ValueError(f"the plain way is that of method 'mae', not {params.method!r}")
    device = pick_device(params.device)
    if params.num_threads:
        torch.set_num_threads(params.num_threads)
    ways = [_step(params, device)]
    for _ in range(3):
        ways[0]()
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    with FlopCounterMode(display=False) as counter:
        ways[0]()
    if against:
        ways.append(_step(params, device, plain=True))
        ways[1]()
    median, *plain = map(statistics.median, _in_turn(ways, device, seconds * len(ways)))
    achieved, matrix = counter.get_total_flops() / median / 1e12, matrix_rate(params, device)
    return {
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "pairs_per_s": params.batch_size / median,
        "ms_per_step": 1e3 * median,
        "tflop_per_s": achieved,
        "matrix_tflop_per_s": matrix,
        "share": achieved / matrix,
        "peak_memory_gib": memory,
    } | ({"plain_ms_per_step": 1e3 * plain[0], "times_plain": plain[0] / median} if against else {})


def matrix_rate(params: TrainParams, device: torch.device) -> float:
    """TFLOP/s of a large product of random matrices in the precision of training."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, size, size, device=device).unbind(0)

    def product():
        with autocast(params, device):
            a @ b

    for _ in range(3):
        product()
    return 2 * size**3 / statistics.median(_in_turn([product], device, 1.0)[0]) / 1e12


def _step(params: TrainParams, device: torch.device, plain: bool = False) -> Callable:
    """One training step as a function without arguments; the plain way, with an optimiser that is not fused."""
    modalities = sensors_of(params.data)
    model = build(params, modalities).to(device)
    optimizer, _ = make_optimizer(model, params)
    generator = torch.Generator().manual_seed(params.seed)
    size = (params.img_size, params.img_size)
    count = params.batch_size
    images = {m.name: torch.randn(count, m.in_chans, *size, device=device) for m in model.modalities.values()}
    present = dict.fromkeys(images, torch.ones(count, dtype=torch.bool))
    forward = torch.compile(model) if params.compile else model
    if plain:
        groups = [{key: group[key] for key in ("params", "lr", "weight_decay")} for group in optimizer.param_groups]
        forward, optimizer = Plain(model), torch.optim.AdamW(groups, foreach=False)

    def step():
        seen, masks = hide(params, model, images, present, generator, params.sensor_drop)
        train_step(params, forward, optimizer, seen, masks)

    return step


def _in_turn(functions: list[Callable], device: torch.device, seconds: float) -> list[list[float]]:
    """Seconds of each call of each function, called in turn for about so long; at least five times each."""
    times, start = [[] for _ in functions], time.perf_counter()
    while len(times[0]) < 5 or time.perf_counter() - start < seconds:
        for function, its_times in zip(functions, times, strict=True):
            before = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            its_times.append(time.perf_counter() - before)
    return times
