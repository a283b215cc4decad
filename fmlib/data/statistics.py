"""Mean and standard deviation of a sensor's bands, as they stand in a manifest."""

from collections.abc import Mapping

import numpy as np

from fmlib.data.resample import resample


def band_statistics(samples, sensor: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every band of a sensor over a data set or some of its samples, each read once.

    Only pixels with data in every band count, see `valid_pixels`; samples without the sensor are left out.

    Args:
        samples: a map-style data set, or a list of its samples.
        sensor: key of the sensor.

    Returns:
        One mean and one standard deviation a band, in the sensor's unit.

    Raises:
        ValueError: no sample has pixels of the sensor.
    """
    count, total, squares, shift = 0, 0.0, 0.0, None
    for index in range(len(samples)):
        sample = samples[index]
        pixels = valid_pixels(sample, sensor).astype(np.float64) if sensor in sample else np.empty((0, 0))  # (C, n)
        if pixels.size:
            shift = pixels.mean(1, keepdims=True) if shift is None else shift  # near the mean, squares lose no digits
            pixels -= shift
            count, total, squares = count + pixels.shape[1], total + pixels.sum(1), squares + (pixels**2).sum(1)
    if not count:
        where = f"{samples.name}/{samples.split}" if hasattr(samples, "split") else f"these {len(samples)} samples"
        raise ValueError(f"no sample of {where} has pixels of {sensor!r}")
    mean = total / count
    return (mean + shift[:, 0]).tolist(), np.sqrt(np.maximum(squares / count - mean**2, 0)).tolist()


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
