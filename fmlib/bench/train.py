"""How fast pretraining is here, beside what the machine can do.

The step is the real one (masks drawn, forward, backward, clipping, optimiser) on random images that already lie on the
device, so that it measures the model and not the disk. Its work is counted by torch's flop counter; the machine's rate
is that of one large matrix product in the same precision, measured in the same run.
"""

from dataclasses import replace

import torch

from fmlib.bench.step import Step, device_name, in_turn, large_product, now, prepared, working_type
from fmlib.models.mae import check_choices
from fmlib.train import TrainParams

GIB = 2**30


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
    device = prepared(params)
    step = Step(params, device)
    for _ in range(3):
        step()
    memory = torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None
    work = step.flop()
    ways = [step, Step(params, device, fast=())] if against else [step]
    median, *plain = in_turn(ways, device, seconds * len(ways))
    product, its_work = large_product(device, working_type(params, device))
    achieved, matrix = work / median / 1e12, its_work / in_turn([product], device, 1.0)[0] / 1e12
    return {
        "device": device_name(device),
        "pairs_per_s": params.batch_size / median,
        "ms_per_step": 1e3 * median,
        "tflop_per_s": achieved,
        "matrix_tflop_per_s": matrix,
        "share": achieved / matrix,
        "peak_memory_gib": memory,
    } | ({"plain_ms_per_step": 1e3 * plain[0], "times_plain": plain[0] / median} if against else {})


def largest_batch(params: TrainParams, seconds: float = 2.0, least_gain: float = 0.03, most: int = 4096) -> dict:
    """Double the batch until memory is exhausted or pairs a second grow no more.

    Args:
        params: as for training; `batch_size` is the first one, `accumulate` must divide it.
        seconds: time for each batch size.
        least_gain: growth of pairs a second that is worth doubling for.
        most: where to stop at the latest.

    Returns:
        {"batch_size" with the most pairs a second, "stopped": why, "rows": [{"batch_size", "pairs_per_s",
        "ms_per_step", "memory_gib"}]}. Memory is the allocator's peak on CUDA; on a CPU, weights with gradients and
        optimiser, and what is kept for the backward pass.

    Raises:
        MemoryError: not even the first batch fits.
    """
    device, rows, size, stopped = prepared(params), [], params.batch_size, f"at the limit of {most}"
    while size <= most:
        try:
            rows.append(_at_size(replace(params, batch_size=size), device, seconds))
        except torch.OutOfMemoryError:
            stopped = f"{size} samples do not fit into memory"
            break
        if len(rows) > 1 and rows[-1]["pairs_per_s"] < (1 + least_gain) * rows[-2]["pairs_per_s"]:
            stopped = f"{size} samples are less than {least_gain:.0%} faster than {size // 2}"
            break
        size *= 2
    torch.cuda.empty_cache()
    if not rows:
        raise MemoryError(f"{stopped} on {device_name(device)}; start with a smaller batch_size")
    best = max(rows, key=lambda row: row["pairs_per_s"])
    return {"batch_size": best["batch_size"], "stopped": stopped, "rows": rows}


def _at_size(params: TrainParams, device: torch.device, seconds: float) -> dict:
    """One row of `largest_batch`."""
    step = Step(params, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    (median,) = in_turn([step], device, seconds)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _kept(step)
    speed = {"pairs_per_s": params.batch_size / median, "ms_per_step": 1e3 * median}
    return {"batch_size": params.batch_size} | speed | {"memory_gib": memory / GIB}


def _kept(step: Step) -> int:
    """Bytes of weights, gradients, two moments, and all that a forward pass keeps for the backward pass."""
    weights = {p.untyped_storage().data_ptr(): p.nbytes for p in step.model.parameters()}
    saved: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        step(step.eager)
    return 4 * sum(weights.values()) + sum(size for place, size in saved.items() if place not in weights)


def memory_growth(params: TrainParams, steps: int = 60) -> float:
    """By how many MiB the memory grows between the first third of some steps and their end: 0 where nothing leaks.

    Args:
        params: as for `bench_train`.
        steps: three or more; a leak shows the clearer the more there are.

    Returns:
        MiB of resident memory on a CPU, of allocated memory on CUDA.
    """
    if steps < 3:
        raise ValueError(f"steps is {steps}; memory is compared after a third of them, so give 3 or more")
    device = prepared(params)
    step, before = Step(params, device), 0
    for number in range(steps):
        step()
        if number + 1 == steps // 3:
            before = _memory(device)
    return (_memory(device) - before) / 2**20


def _memory(device: torch.device) -> int:
    now(device)
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    import psutil  # a GPU machine may lack it

    return psutil.Process().memory_info().rss
