"""Trivial and classical fusions of two grey images: what any method must beat."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BINOMIAL = (0.0625, 0.25, 0.375, 0.25, 0.0625)  # Burt and Adelson's filter with a = 0.375


def mean_image(ir: np.ndarray, vi: np.ndarray) -> np.ndarray:
    """The mean of both images (H, W) uint8, half grey levels rounded up."""
    return ((ir.astype(np.uint16) + vi + 1) // 2).astype(np.uint8)


def laplacian_pyramid(ir: np.ndarray, vi: np.ndarray, levels: int = 4) -> np.ndarray:
    """Fuse by Laplacian pyramids: of each detail the stronger, of what is left at the coarsest level the mean.

    After Burt and Adelson, "The Laplacian Pyramid as a Compact Image Code", IEEE Trans. Communications 31, 1983.

    Args:
        ir, vi: (H, W) uint8, of one size.
        levels: levels of detail, each half as fine as the last; small images have fewer.

    Returns:
        (H, W) uint8.
    """
    if ir.shape != vi.shape:
        raise ValueError(f"images of {ir.shape} and {vi.shape} pixels cannot be fused; register both to one grid first")
    (*details, rest), (*others, other_rest) = (pyramid(image, levels) for image in (ir, vi))
    fused = (rest + other_rest) / 2
    for a, b in zip(reversed(details), reversed(others), strict=True):
        fused = _enlarge(fused, a.shape) + torch.where(a.abs() >= b.abs(), a, b)
    return fused[0, 0].round().clamp(0, 255).byte().numpy()


def pyramid(image: np.ndarray, levels: int) -> list[Tensor]:
    """Details of an image (H, W), the finest first, and what is left: (1, 1, H, W), (1, 1, H/2, W/2), …"""
    coarse, parts = torch.from_numpy(image.astype(np.float32))[None, None], []
    for _ in range(min(levels, min(image.shape).bit_length() - 1)):
        fine, coarse = coarse, _blur(coarse, torch.ones_like(coarse))[..., ::2, ::2]
        parts.append(fine - _enlarge(coarse, fine.shape))
    return [*parts, coarse]


def _enlarge(image: Tensor, shape: torch.Size) -> Tensor:
    """An image on a grid twice as fine."""
    spread, known = image.new_zeros(2, *shape)
    spread[..., ::2, ::2], known[..., ::2, ::2] = image, 1
    return _blur(spread, known)


def _blur(image: Tensor, known: Tensor) -> Tensor:
    """Weighted mean of the pixels (1, 1, H, W) that are known; beyond the border none is."""
    weights = image.new_tensor(BINOMIAL).outer(image.new_tensor(BINOMIAL))[None, None]
    return F.conv2d(image, weights, padding=2) / F.conv2d(known, weights, padding=2)
