"""Resampling: the one place where an image changes its pixel grid, on any device."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MODES = {"nearest": "nearest-exact", "bilinear": "bilinear", "area": "area"}  # nearest-exact: by pixel centre


def resample(image: np.ndarray | Tensor, size: int | tuple[int, int], method: str = "nearest") -> np.ndarray | Tensor:
    """Bring an image onto a grid of another size over the same ground.

    Outer edges are aligned, so everything keeps its place on the ground.

    Args:
        image: (…, rows, cols), any number type.
        size: side of the wanted grid, or (rows, cols).
        method: ``"nearest"`` keeps measured values; ``"bilinear"`` is smooth, averages when it shrinks, and lowers
            the deviation; ``"area"`` is the mean of what a wanted pixel covers, for shrinking.

    Returns:
        (…, rows, cols) float32 of the wanted size; a tensor on the same device for a tensor, an array for an array.

    Raises:
        ValueError: unknown method.
    """
    if method not in MODES:
        raise ValueError(f"resampling method {method!r} is not one of {tuple(MODES)}")
    if isinstance(image, np.ndarray):
        return resample(torch.from_numpy(np.ascontiguousarray(image, np.float32)), size, method).numpy()
    size = (size, size) if isinstance(size, int) else tuple(size)
    if tuple(image.shape[-2:]) == size:
        return image.float()
    smooth = {"antialias": True} if method == "bilinear" else {}
    flat = image.float().reshape(1, -1, *image.shape[-2:])  # (1, N, rows, cols)
    return F.interpolate(flat, size=size, mode=MODES[method], **smooth).reshape(*image.shape[:-2], *size)
