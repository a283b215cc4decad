"""Grey images as the metrics take them: checked, float64, (B, H, W); and the filters they share."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

CONVENTIONS = ("standard", "toolbox", "toolbox-2023")
LUMA = (0.2989360212937753, 0.5870430744511212, 0.1140209042551033)  # Rec. 601 by the inverse of the YIQ matrix
Image = Tensor | np.ndarray


def grey(convention: str, smallest: int = 2, **images: Image) -> list[Tensor]:
    """Check images and bring them to one shape.

    Args:
        convention: one of `CONVENTIONS`; the toolbox reads 8-bit files, so all but ``"standard"`` round the images.
        smallest: shortest side that the metric can do with, in pixels.
        images: name → (B, H, W) or (H, W) grey values 0 … 255, of one size; a batch of one serves for all.

    Returns:
        For each image (B, H, W) or (1, H, W) float64, on the device it came on.

    Raises:
        ValueError: colour, sizes or batches that differ, too small, not finite, outside 0 … 255, or 0 … 1.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention {convention!r} is not one of {', '.join(CONVENTIONS)}")
    checked = {name: _check(name, image, smallest) for name, image in images.items()}
    (first, one), *others = checked.items()
    for name, image in others:
        if image.shape[1:] != one.shape[1:]:
            raise ValueError(
                f"{name} has {image.shape[1]} × {image.shape[2]} pixels, but {first} has {one.shape[1]} × "
                f"{one.shape[2]}; bring the fused image to the size of its sources"
            )
    if len(counts := {len(image) for image in checked.values()} - {1}) > 1:
        raise ValueError(f"batches of {sorted(counts)} images; give as many of each, or one for all")
    rounded = convention != "standard"
    return [torch.floor(image + 0.5) if rounded else image for image in checked.values()]


def _check(name: str, image: Image, smallest: int) -> Tensor:
    image = image if isinstance(image, Tensor) else torch.tensor(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] in (3, 4)) or not image.numel():
        raise ValueError(
            f"{name} has shape {tuple(image.shape)}, expected grey (H, W) or (B, H, W); take the luma of colour"
        )
    if min(image.shape[-2:]) < smallest:
        raise ValueError(f"{name} has {image.shape[-2]} × {image.shape[-1]} pixels; needed are {smallest} a side")
    image = image.double()
    if not image.isfinite().all():
        raise ValueError(f"{name}: {int((~image.isfinite()).sum())} values are not finite; fill them first")
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 255:
        raise ValueError(f"{name} runs from {low:g} to {high:g}, expected 0 … 255; bring it to 8 bits")
    if high <= 1 and (image % 1).any():
        raise ValueError(f"{name} runs from {low:g} to {high:g}, which looks like 0 … 1; multiply it by 255")
    return image if image.ndim == 3 else image[None]


def luma(rgb: np.ndarray) -> np.ndarray:
    """Grey values of a colour image, as MATLAB's ``rgb2gray`` makes them.

    Args:
        rgb: (3, H, W) 8-bit red, green, blue.

    Returns:
        (H, W) uint8: 0.2989 R + 0.5870 G + 0.1140 B, rounded half up.
    """
    if rgb.ndim != 3 or len(rgb) != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"luma of {rgb.dtype}{list(rgb.shape)}; expected uint8 (3, H, W)")
    return np.floor(np.tensordot(LUMA, rgb.astype(np.float64), 1) + 0.5).astype(np.uint8)


def gaussian(size: int, sigma: float) -> list[float]:
    """Taps of a Gaussian window along one axis, with sum 1."""
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    taps = torch.exp(-(x**2) / (2 * sigma**2))
    return (taps / taps.sum()).tolist()


def smooth(images: Tensor, taps: list[float]) -> Tensor:
    """Filter rows and columns with one symmetric window, where it lies wholly inside.

    Args:
        images: (..., H, W). taps: (K,).

    Returns:
        (..., H - K + 1, W - K + 1).
    """
    for axis in (-2, -1):  # sums of shifted images: in double precision faster than a convolution
        length = images.shape[axis] - len(taps) + 1
        shifted = (images.narrow(axis, start, length) for start in range(len(taps)))
        total = next(shifted) * taps[0]
        for tap, image in zip(taps[1:], shifted, strict=True):
            total.add_(image, alpha=tap)
        images = total
    return images


def pad_edges(images: Tensor, width: int) -> Tensor:
    """Repeat the outermost pixels of (B, H, W) `width` times on all sides."""
    return F.pad(images[:, None], (width,) * 4, mode="replicate")[:, 0]


def halve(images: Tensor) -> Tensor:
    """Means of 2 × 2 pixels, (B, H, W) to (B, ⌈H/2⌉, ⌈W/2⌉); a last odd row or column counts twice."""
    return F.avg_pool2d(images[:, None], 2, ceil_mode=True, count_include_pad=False)[:, 0]
