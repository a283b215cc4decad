"""Mean and standard deviation of a sensor's bands, as they stand in a manifest."""

from collections.abc import Iterable, Mapping

import numpy as np
from tqdm import tqdm

from fmlib.data.resample import resample
from fmlib.progress import watched


def dataset_statistics(dataset, samples: int | None = None, seed: int = 0) -> dict[str, tuple[list, list]]:
    """Mean and standard deviation of every band of every sensor, in one pass.

    Only pixels with data in every band count, see `valid_pixels`; samples without a sensor are left out of it.

    Args:
        dataset: map-style.
        samples: measure on a seeded choice of so many; None: on all.
        seed: of that choice.

    Returns:
        For each sensor one mean and one standard deviation a band, in the sensor's unit.

    Raises:
        ValueError: no sample has pixels of a sensor.
    """
    order = np.arange(len(dataset))
    if samples is not None and samples < len(order):
        order = np.sort(np.random.default_rng(seed).permutation(order)[:samples])
    reading = tqdm((dataset[index] for index in order.tolist()), total=len(order), disable=not watched())
    return _measure(reading, tuple(dataset.modalities), f"{dataset.name}/{dataset.split}")


def band_statistics(samples, sensor: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every band of one sensor, as `dataset_statistics` measures them.

    Args:
        samples: a map-style data set, or a list of its samples.
        sensor: key of the sensor.
    """
    where = f"{samples.name}/{samples.split}" if hasattr(samples, "split") else f"these {len(samples)} samples"
    return _measure((samples[index] for index in range(len(samples))), (sensor,), where)[sensor]


def _measure(samples: Iterable[Mapping], sensors: tuple[str, ...], where: str) -> dict[str, tuple[list, list]]:
    shifts, sums = {}, dict.fromkeys(sensors, 0.0)
    for sample in samples:
        for name in (name for name in sensors if name in sample):
            pixels = valid_pixels(sample, name).astype(np.float64)  # (C, n)
            if pixels.size:
                shift = shifts.setdefault(name, pixels.mean(1, keepdims=True))  # near the mean, squares lose no digits
                pixels -= shift
                counts = np.full(len(pixels), pixels.shape[1])
                sums[name] = sums[name] + np.stack([counts, pixels.sum(1), (pixels**2).sum(1)])  # (3, C)
    if empty := [name for name in sensors if name not in shifts]:
        raise ValueError(f"no sample of {where} has pixels of {empty[0]!r}")
    return {name: _mean_and_std(*sums[name], shifts[name][:, 0]) for name in sensors}


def _mean_and_std(count: np.ndarray, total: np.ndarray, squares: np.ndarray, shift: np.ndarray) -> tuple[list, list]:
    mean = total / count
    return (mean + shift).tolist(), np.sqrt(np.maximum(squares / count - mean**2, 0)).tolist()


def valid_pixels(sample: Mapping, sensor: str) -> np.ndarray:
    """The pixels of one sensor that have data in every band.

    Args:
        sample: as a data set yields it; its ``"valid"`` may have another grid than the sensor.
        sensor: one that it has.

    Returns:
        (C, n) values.
    """
    image = np.asarray(sample[sensor])
    return image[:, valid_mask(sample, image.shape[-2:]) & np.isfinite(image).all(axis=0)]


def valid_mask(sample: Mapping, shape: tuple[int, int]) -> np.ndarray:
    """Where a sample's ``"valid"`` says that there are data, (rows, cols) bool on a grid of this shape."""
    valid = np.asarray(sample.get("valid", np.ones(shape, bool)))
    return valid if valid.shape == tuple(shape) else resample(valid, shape) > 0
