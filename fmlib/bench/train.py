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

from fmlib.data import sensors_of
from fmlib.train import TrainParams, autocast, build, hide, make_optimizer, pick_device, train_step


def bench_train(params: TrainParams, seconds: float = 10.0) -> dict:
    """Time training steps of the model that `params` describe.

    Args:
        params: as for training; `steps` and the paths are not used, and only the manifest of `data` is read.
        seconds: time to measure for, after three steps to warm up.

    Returns:
        {"device", "pairs_per_s", "ms_per_step" (median), "steps", "tflop_per_s" (achieved), "matrix_tflop_per_s",
        "share" of the matrix rate, "peak_memory_gib" (CUDA only)}.
    """
    device = pick_device(params.device)
    if params.num_threads:
        torch.set_num_threads(params.num_threads)
    step = _step(params, device)
    for _ in range(3):
        step()
    with FlopCounterMode(display=False) as counter:
        step()
    times = _repeat(step, device, seconds)
    median = statistics.median(times)
    achieved, matrix = counter.get_total_flops() / median / 1e12, matrix_rate(params, device)
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "pairs_per_s": params.batch_size / median,
        "ms_per_step": 1e3 * median,
        "steps": len(times),
        "tflop_per_s": achieved,
        "matrix_tflop_per_s": matrix,
        "share": achieved / matrix,
        "peak_memory_gib": memory,
    }


def matrix_rate(params: TrainParams, device: torch.device) -> float:
    """TFLOP/s of a large product of random matrices in the precision of training."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, size, size, device=device).unbind(0)

    def product():
        with autocast(params, device):
            a @ b

    for _ in range(3):
        product()
    return 2 * size**3 / statistics.median(_repeat(product, device, 1.0)) / 1e12


def _step(params: TrainParams, device: torch.device) -> Callable:
    """One training step as a function without arguments."""
    modalities = sensors_of(params.data)
    model = build(params, modalities).to(device)
    optimizer, _ = make_optimizer(model, params)
    generator = torch.Generator().manual_seed(params.seed)
    size = (params.img_size, params.img_size)
    count = params.batch_size
    images = {m.name: torch.randn(count, m.in_chans, *size, device=device) for m in model.modalities.values()}
    present = dict.fromkeys(images, torch.ones(count, dtype=torch.bool))
    forward = torch.compile(model) if params.compile else model

    def step():
        seen, masks = hide(params, model, images, present, generator, params.sensor_drop)
        train_step(params, forward, optimizer, seen, masks)

    return step


def _repeat(function: Callable, device: torch.device, seconds: float) -> list[float]:
    """Seconds of each call, for about so long; at least five calls."""
    times, start = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - before)
    return times
