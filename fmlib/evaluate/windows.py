"""Other looks at a data set held in memory: the centre of its images, and another of its fields as label."""

import copy

import numpy as np

from fmlib.data.batches import Preloaded
from fmlib.data.corine import LEVEL_1, coarse_classes
from fmlib.evaluate.metrics import IGNORE


def cropped(data: Preloaded, side: int) -> Preloaded:
    """The central window of every image and map.

    Args:
        data: preloaded (`fmlib.data.preload`).
        side: of the window, in pixels of the sensor that has most.

    Raises:
        ValueError: the window is larger than the images, or cuts through pixels of a coarser sensor.
    """
    arrays = {key: array for key, array in _arrays(data).items() if array.ndim >= 3}  # (N, …, H, W)
    most = max(array.shape[-1] for array in arrays.values())
    for key, array in arrays.items():
        height, width = array.shape[-2:]
        if side > most or (side * width) % most or ((most - side) // 2 * width) % most:
            raise ValueError(f"a window of {side} pixels does not fit {key!r} of {height}×{width}; choose another side")
    return _other(data, {key: _centre(array, side * array.shape[-1] // most) for key, array in arrays.items()})


def with_labels(data: Preloaded, key: str) -> Preloaded:
    """The same samples, asked for another of their fields, e.g. ``"map"``, under the name ``"label"``."""
    if key not in _arrays(data):
        raise ValueError(f"{data.name}/{data.split} has no {key!r}; it has {list(data.arrays)}")
    other = _other(data, {"label": data.arrays[key]})
    other.present = data.present | {"label": data.present[key]}
    return other


def with_coarse_classes(data: Preloaded) -> Preloaded:
    """The same samples with maps of CORINE's five coarsest classes in place of BigEarthNet's nineteen."""
    if (label := _arrays(data)["label"]).ndim < 3:
        raise ValueError(f"{data.name}/{data.split}: coarse classes are those of maps; set label='map'")
    table = np.full(256, IGNORE, np.uint8)
    table[: len(data.classes)] = coarse_classes(tuple(data.classes))
    other = _other(data, {"label": table[label]})
    other.classes = tuple(LEVEL_1.values())
    return other


def _arrays(data) -> dict[str, np.ndarray]:
    if not hasattr(data, "arrays"):
        raise ValueError(f"{data.name}/{data.split} is not in memory; preload it first (fmlib.data.preload)")
    return data.arrays


def _centre(array: np.ndarray, side: int) -> np.ndarray:
    top, left = ((size - side) // 2 for size in array.shape[-2:])
    return array[..., top : top + side, left : left + side]


def _other(data: Preloaded, arrays: dict) -> Preloaded:
    other = copy.copy(data)
    other.arrays = data.arrays | arrays
    return other
