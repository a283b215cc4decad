"""What a training step costs: its work and its time against image size, sensors, depth, batch and masks; and gains.

Work is counted in floating-point operations of matrix products (`Step.flop`), which are the same on every machine. Time
is a median; all settings of an axis take turns, so that their ratios come from one run.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from fmlib.bench.plain import FAST
from fmlib.bench.step import COMPILED, OPTIMISER, Step, in_turn
from fmlib.data import sensors_of
from fmlib.modality import Modality
from fmlib.recipe import TrainParams, pick_device, read_params

AXES = {  # what is varied → what is counted along it
    "img_size": "patches of a sensor",
    "patch_size": "patches of a sensor",
    "mask_ratio": "visible patches, all sensors",
    "sensors": "sensors",
    "depth": "encoder blocks",
    "batch_size": "samples of a step",
}


def bench_cost(params: TrainParams, axes: Mapping[str, Sequence[float]], seconds: float = 1.0) -> list[dict]:
    """Work and time of a step while one setting after the other is varied.

    Args:
        params: as for training with method ``"mae"``; only the manifest of `data` is read.
        axes: name among `AXES` → values; more sensors than `data` has are made up as copies of them.
        seconds: time for each value.

    Returns:
        One row a value: axis, value, count (of what `AXES` says), gflop, ms (median) of a step.

    Raises:
        ValueError: an unknown axis.
    """
    if unknown := set(axes) - set(AXES):
        raise ValueError(f"unknown axes {sorted(unknown)}; choose among {', '.join(AXES)}")
    device, rows = pick_device(params.device), []
    for axis, values in axes.items():
        steps = [_varied(params, device, axis, value) for value in values]
        work = [step.flop() / 1e9 for step in steps]
        times = in_turn(steps, device, seconds * len(steps))
        for step, value, gflop, time in zip(steps, values, work, times, strict=True):
            rows.append(
                {"axis": axis, "value": value, "count": _count(step, axis, value), "gflop": gflop, "ms": 1e3 * time}
            )
    return rows


def exponents(rows: Sequence[dict]) -> list[dict]:
    """How work and time grow along each axis of `bench_cost`: the slope of a straight line through both logarithms.

    Returns:
        One row an axis with two or more counts: axis, along, gflop, ms; 1: in proportion, 2: with the square.
    """
    found = []
    for axis in dict.fromkeys(row["axis"] for row in rows):
        mine = [row for row in rows if row["axis"] == axis]
        count, gflop, ms = np.log([[row[key] for key in ("count", "gflop", "ms")] for row in mine]).T
        if np.ptp(count):
            slopes = {key: float(np.polyfit(count, y, 1)[0]) for key, y in (("gflop", gflop), ("ms", ms))}
            found.append({"axis": axis, "along": AXES[axis]} | slopes)
    return found


def bench_gains(params: TrainParams, seconds: float = 2.0) -> list[dict]:
    """What each way of saving time gives: alone on top of the plain way, and as the last one to be left out.

    Args:
        params: as for training with method ``"mae"``; with `compile` that is one of the ways.
        seconds: time for each of the combinations, which take turns.

    Returns:
        One row a way and one for all together: way, alone (time of the plain step over that with this way alone),
        left_out (time of the fast step without it over that with all); 1: nothing gained.
    """
    ways = (*FAST, OPTIMISER, *[COMPILED] * params.compile)
    combinations = [(), None, *((way,) for way in ways), *(tuple(w for w in ways if w != way) for way in ways)]
    device = pick_device(params.device)
    steps = [Step(params, device, fast=fast) for fast in combinations]
    plain, fast, *times = in_turn(steps, device, seconds * len(steps))
    alone, without = times[: len(ways)], times[len(ways) :]
    rows = [
        {"way": way, "alone": plain / with_it, "left_out": without_it / fast}
        for way, with_it, without_it in zip(ways, alone, without, strict=True)
    ]
    return [*rows, {"way": "all together", "alone": plain / fast, "left_out": None}]


def _varied(params: TrainParams, device: torch.device, axis: str, value: float) -> Step:
    if axis == "depth":
        return Step(params, device, depth=value)
    if axis == "sensors":
        return Step(params, device, some_sensors(sensors_of(params.data), value))
    return Step(read_params(vars(params) | {axis: value}), device)


def some_sensors(given: dict[str, Modality], count: int) -> dict[str, Modality]:
    """The first `count` sensors; copies of them under other names where there are not enough."""
    names = list(given)
    more = {f"{names[n % len(names)]}_{n}": given[names[n % len(names)]] for n in range(len(names), count)}
    made = given | {name: modality.replace(name=name) for name, modality in more.items()}
    return dict(list(made.items())[:count])


def _count(step: Step, axis: str, value: float) -> int:
    """How many there are of what `AXES` says."""
    if axis == "mask_ratio":
        return step.visible()
    return (step.params.img_size // step.params.patch_size) ** 2 if axis in ("img_size", "patch_size") else value
