"""Does the device ever wait? Training for minutes from packed records on disk: `fmlib bench sustained`.

The records are those of BigEarthNet v2 in their native sizes, filled with noise: what they hold changes no time.
"""

import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fmlib.bench.step import Step, device_name, in_turn, now, prepared
from fmlib.data import sensors_of
from fmlib.data.batches import ahead
from fmlib.data.pack import pack
from fmlib.data.records import Records
from fmlib.data.sample import Raw
from fmlib.recipe import TrainParams
from fmlib.train import make_batch, train_step

SIDE = 120  # of radar's bands, pixels
SIDES = (20, 120, 120, 120, 60, 60, 60, 120, 60, 20, 60, 60)  # of the optical bands, B01 to B12
PAIRS, EPOCHS = 237_871, 100  # of the projection: BigEarthNet v2's training split
WARM, PARTS = 5, 10  # steps before the clock starts; equal parts of the time


class Noise:
    """As many pairs of noise in the layout of BigEarthNet v2: radar in floats, optical in whole numbers."""

    name, split, classes = "noise", "train", ()

    def __init__(self, count: int):
        self.modalities, self.count = sensors_of("bigearthnet-v2"), count

    def __len__(self) -> int:
        return self.count

    def files(self, index: int) -> dict:
        """What it is made by: when this file changes, the records are made anew."""
        return dict.fromkeys(self.modalities, (Path(__file__),))

    def read(self, index: int) -> Raw:
        """One pair as it would be stored."""
        rng = np.random.default_rng(index)
        radar = [rng.normal(-15, 4, (SIDE, SIDE)).astype(np.float32) for _ in self.modalities["s1"].bands]
        optical = [rng.integers(1, 5000, (side, side), dtype=np.uint16) for side in SIDES]
        bands = {"s1": radar, "s2": optical}
        return Raw(bands, {"id": f"{index}", "place": f"{index}"}, self.files(index))


def bench_sustained(params: TrainParams, folder: str | Path, seconds: float = 180.0, patches: int = 20_000) -> dict:
    """Train from records as `fmlib.train` does, and compare with the same step on images that already lie there.

    Args:
        params: as for training with method ``"mae"`` on bigearthnet-v2.
        folder: for the records (0.28 MB a patch); those that are there already are used again.
        seconds: to train for.
        patches: pairs on disk; more than memory holds show the disk, too.

    Returns:
        {"device", "batch_size", "patches", "gb", "seconds", "pairs_per_s", "slowest" and "fastest" tenth of the time,
        "alone_pairs_per_s": the step on images that lie there, median of before and after, "idle": what of that rate is
        missing, "waited": share of the time that the loop stood without a batch, "cpu_ms_per_pair": of all threads,
        "projected_hours": of `EPOCHS` times `PAIRS`}.

    Raises:
        ValueError: another data set or method.
    """
    if (params.data, params.method) != ("bigearthnet-v2", "mae"):
        raise ValueError(f"give data 'bigearthnet-v2' and method 'mae', not {params.data!r} and {params.method!r}")
    device = prepared(params)
    data = Records(pack(Noise(patches), Path(folder) / f"noise-{patches}"))
    step = Step(params, device)
    before = in_turn([step], device, min(seconds / 6, 15))
    marks = list(_train(step, data, device, seconds))
    alone = params.batch_size / statistics.mean(before + in_turn([step], device, min(seconds / 6, 15)))
    pairs, took, waited, busy = (np.array(column) for column in zip(*marks, strict=True))
    rates, rate = pairs / took, pairs.sum() / took.sum()
    speed = {"pairs_per_s": rate, "slowest": rates.min(), "fastest": rates.max(), "alone_pairs_per_s": alone}
    shares = {
        "idle": 1 - rate / alone,
        "waited": waited.sum() / took.sum(),
        "cpu_ms_per_pair": 1e3 * busy.sum() / pairs.sum(),
    }
    machine = {"device": device_name(device), "batch_size": params.batch_size, "patches": len(data)}
    numbers = {"gb": data.nbytes / 1e9, "seconds": took.sum()} | speed | shares
    numbers["projected_hours"] = PAIRS * EPOCHS / rate / 3600
    return machine | {name: float(number) for name, number in numbers.items()}


def _train(
    step: Step, data: Records, device: torch.device, seconds: float
) -> Iterator[tuple[int, float, float, float]]:
    """Pairs, seconds, seconds waited and seconds of all threads, of each part of the time."""
    params, pairs, waited = step.params, 0, 0.0
    per_epoch = len(data) // params.batch_size
    feed = ahead(partial(make_batch, params, step.model, data, device), range(per_epoch * 10_000), device)
    for number, (images, masks, _), wait in feed:
        train_step(params, step.forward, step.optimizer, images, masks)
        pairs, waited = pairs + params.batch_size, waited + wait
        if number == WARM:
            since, busy, pairs, waited = now(device), time.process_time(), 0, 0.0
            end = since + seconds
        elif number > WARM and time.perf_counter() - since > seconds / PARTS:
            moment, its_busy = now(device), time.process_time()
            yield pairs, moment - since, waited, its_busy - busy
            since, busy, pairs, waited = moment, its_busy, 0, 0.0
            if moment >= end:
                break
