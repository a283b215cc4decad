"""Geometric augmentation of batches on any device: one crop, flip and rotation for all sensors of a sample."""

import math

import torch
from torch import Tensor


def augment(
    images: dict[str, Tensor],
    crop: int | tuple[int, int] | None,
    generator: torch.Generator,
    rotate: bool = False,
    rows: slice = slice(None),
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    """Crop and flip at random, each sample by itself and all its sensors alike.

    Flips are horizontal and vertical, each with probability one half. A mask can ride along as (B, 1, H, W). Radar
    looks sideways: a rotated image has its shadows on a side where the sensor never puts them.

    Args:
        images: sensor to (B, C, H, W), any device; sensors may have different pixel sizes over the same ground.
        crop: side, or (rows, cols), in pixels of the largest sensor; None keeps the whole image.
        generator: source of all random numbers; its device may differ from the images'.
        rotate: also rotate by a random quarter turn, so that all eight symmetries of a square are equally likely.
        rows, batch_size: these images are those rows of a batch of so many, and get what they would get in it.

    Returns:
        Sensor to (B, C, h, w).

    Raises:
        ValueError: the crop is larger than the image, does not fall on whole pixels of every sensor, or is to be
            rotated and no square.
    """
    size, steps = _common_grid(images)
    crop = _pair(crop, size)
    if rotate and crop[0] != crop[1]:
        raise ValueError(f"a crop of {crop} pixels cannot be rotated by quarter turns; make it square")
    count = batch_size or len(next(iter(images.values())))
    draw = {"generator": generator, "device": generator.device}
    starts, flips = [], []
    for axis in (0, 1):
        places = (size[axis] - crop[axis]) // steps[axis] + 1
        starts.append(torch.randint(max(places, 1), (count,), **draw)[rows] * steps[axis])
        flips.append(torch.rand(count, **draw)[rows] < 0.5)
    swap = torch.rand(count, **draw)[rows] < 0.5 if rotate else None  # with the flips, a quarter turn
    return {name: _swap(_cut(name, image, size, crop, starts, flips), swap) for name, image in images.items()}


def _swap(image: Tensor, swap: Tensor | None) -> Tensor:
    if swap is None:
        return image
    return torch.where(swap.to(image.device)[:, None, None, None], image.transpose(2, 3), image)


def center_crop(images: dict[str, Tensor], crop: int | tuple[int, int]) -> dict[str, Tensor]:
    """Cut the same central window out of all sensors; arguments, result and errors as `augment`."""
    size, steps = _common_grid(images)
    crop = _pair(crop, size)
    count = len(next(iter(images.values())))
    places = [(size[axis] - crop[axis]) // 2 // steps[axis] * steps[axis] for axis in (0, 1)]
    starts = [torch.full((count,), place) for place in places]
    flips = [torch.zeros(count, dtype=torch.bool)] * 2
    return {name: _cut(name, image, size, crop, starts, flips) for name, image in images.items()}


def _pair(crop: int | tuple[int, int] | None, size: tuple[int, int]) -> tuple[int, int]:
    if crop is None:
        return size
    rows, cols = (crop, crop) if isinstance(crop, int) else crop
    if not (0 < rows <= size[0] and 0 < cols <= size[1]):
        raise ValueError(f"crop {(rows, cols)} does not fit into an image of {size} pixels; choose it no larger")
    return rows, cols


def _common_grid(images: dict[str, Tensor]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size of the largest sensor, and the steps in its pixels that are whole pixels of every sensor."""
    size = tuple(max(image.shape[axis] for image in images.values()) for axis in (2, 3))
    for name, image in images.items():
        if any(full % side for full, side in zip(size, image.shape[2:], strict=True)):
            raise ValueError(
                f"{name!r} has {tuple(image.shape[2:])} pixels, which do not divide the {size} of the largest sensor; "
                "resample it"
            )
    steps = tuple(math.lcm(*(size[axis] // image.shape[axis + 2] for image in images.values())) for axis in (0, 1))
    return size, steps


def _cut(name: str, image: Tensor, size: tuple, crop: tuple, starts: list, flips: list) -> Tensor:
    index = []
    for axis in (0, 1):
        factor = size[axis] // image.shape[axis + 2]  # pixels of the largest sensor in one of this sensor
        if crop[axis] % factor:
            raise ValueError(f"crop {crop} is no whole number of pixels of {name!r} (each is {factor} wide); change it")
        offsets = torch.arange(crop[axis] // factor, device=starts[axis].device)
        offsets = torch.where(flips[axis][:, None], offsets.flip(0), offsets)  # (B, side)
        index.append((starts[axis][:, None] // factor + offsets).to(image.device))
    rows, cols = index
    pixels = (rows[:, :, None] * image.shape[3] + cols[:, None, :]).flatten(1)  # (B, h·w)
    out = image.flatten(2).gather(2, pixels[:, None].expand(-1, image.shape[1], -1))
    return out.unflatten(2, (rows.shape[1], cols.shape[1]))
