"""Metrics of edges carried over from the sources, or made up: Q^AB/F and N^AB/F.

Both take grey images 0 … 255, (H, W) or (B, H, W), the sources also one for a whole batch, and return (B,) float64.
"""

import itertools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fmlib.fusion_metrics.images import Image, grey
from fmlib.fusion_metrics.pixels import PIXELS

SOBEL_COLS = ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1))
SOBEL_ROWS = ((1, 2, 1), (0, 0, 0), (-1, -2, -1))


def q_abf(ir: Image, vi: Image, fused: Image, convention: str = "standard") -> Tensor:
    """Edge information kept, Q^AB/F: Σ (Q_ir g_ir + Q_vi g_vi) / Σ (g_ir + g_vi), g the strength of Sobel edges.

    Q = 0.9994 / (1 + exp(−15 (G − 0.5))) · 0.9879 / (1 + exp(−22 (A − 0.8))), with G the smaller over the greater of
    the two strengths and A = 1 − (absolute difference of the edges' angles) / (π/2); images count as 0 beyond their
    borders.

    0 … 0.975, higher is better; NaN where both sources are black. The toolbox takes for G the strength itself where
    two are equal, which matters before 2023, when values ran to 1; and then rounding errors decide what is equal, and
    which edges have the angle +π/2, so sums are taken in MATLAB's order here: down the columns of the filter.
    Source: Xydeas and Petrović, Electronics Letters 36 (2000) 308.
    """
    images = grey(convention, ir=ir, vi=vi, fused=fused)
    scale = 255 if convention == "toolbox" else 1
    *sources, (strength, angle) = [_edges(image / torch.full_like(image, scale)) for image in images]
    kept = total = 0
    for source, direction in sources:
        ratio = _ratio(source, strength)
        ratio = torch.where(source == strength, 1.0 if convention == "standard" else strength, ratio)
        alike = 1 - (direction - angle).abs() / (math.pi / 2)
        quality = 0.9994 / (1 + torch.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + torch.exp(-22 * (alike - 0.8)))
        kept, total = kept + (quality * source).sum(PIXELS), total + source.sum(PIXELS)
    return kept / total


def n_abf(ir: Image, vi: Image, fused: Image, convention: str = "standard") -> Tensor:
    """Artefacts, N^AB/F: weight of the edges stronger in the fused image than in both sources, where it kept theirs
    least: Σ [g > g_ir, g > g_vi] ((1 − Q_ir) w_ir + (1 − Q_vi) w_vi) / Σ (w_ir + w_vi).

    Edges by Sobel's filter / 8, the image mirrored at its borders; Q² = 0.9999 / (1 + exp(−19 (G − 0.5))) ·
    0.9995 / (1 + exp(−22 (α − 0.5))); w = g^1.5 where g ≥ 2, else 0.001.

    0 … 1, lower is better. In the toolbox before 2023 values run to 1, g never reaches 2, and all weights are equal.
    Since, it takes its arguments in the wrong order: the infrared image for the fused one, the visible image and the
    fused one for the sources, which can reverse a ranking. Which of them a paper printed, it seldom says.
    Source: Shreyamsha Kumar, Signal, Image and Video Processing 7 (2013) 1125.
    """
    ir, vi, fused = grey(convention, ir=ir, vi=vi, fused=fused)
    a, b, f = (vi, fused, ir) if convention == "toolbox-2023" else (ir, vi, fused)
    scale = 255 if convention == "toolbox" else 1
    *sources, (strength, angle) = [_mirrored_edges(image, scale) for image in (a, b, f)]
    made = (strength > sources[0][0]) & (strength > sources[1][0])
    lost = total = 0
    for source, direction in sources:
        ratio = torch.where((source == 0) | (strength == 0), 0.0, _ratio(source, strength))
        alike = ((direction - angle).abs() - math.pi / 2).abs() / (math.pi / 2)
        quality = 0.9999 / (1 + torch.exp(-19 * (ratio - 0.5))) * 0.9995 / (1 + torch.exp(-22 * (alike - 0.5)))
        weight = torch.where(source >= 2, source**1.5, 0.001)
        lost = lost + ((1 - quality.sqrt()) * weight * made).sum(PIXELS)
        total = total + weight.sum(PIXELS)
    return lost / total


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """The smaller over the greater; 0/0 is NaN, which callers replace."""
    return torch.minimum(a, b) / torch.maximum(a, b)


def _edges(image: Tensor) -> tuple[Tensor, Tensor]:
    """Strength and angle −π/2 … π/2 of Sobel edges, 0 beyond the borders; +π/2 where there is no slope along a row."""
    cols, rows = _sobel(F.pad(image, (1, 1, 1, 1)))
    return _root(cols**2 + rows**2), torch.where(cols == 0, math.pi / 2, torch.atan(rows / cols))


def _root(squares: Tensor) -> Tensor:
    """Square roots rounded to the nearest number; torch's on a CPU can be one bit off, and equal edges no longer be."""
    return squares.sqrt() if squares.is_cuda else torch.from_numpy(np.sqrt(squares.numpy()))


def _mirrored_edges(image: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Strength and angle −π/2 … π/2 of Sobel edges / 8 of an image mirrored at its borders; 0 where there is none."""
    cols, rows = _sobel(F.pad(image[:, None], (1, 1, 1, 1), mode="reflect")[:, 0])
    strength = (cols**2 + rows**2).sqrt() / (8 * scale)
    return strength, torch.where(strength == 0, 0.0, torch.atan(cols / rows))


def _sobel(padded: Tensor) -> list[Tensor]:
    """Slopes along columns and rows of (B, H + 2, W + 2), (B, H, W) each, by true convolution.

    The kernel's columns come first: in values 0 … 1 the order of a sum decides what is exactly 0.
    """
    height, width = (side - 2 for side in padded.shape[1:])
    slopes = []
    for kernel in (SOBEL_COLS, SOBEL_ROWS):
        total = torch.zeros_like(padded[:, 2:, 2:])
        for col, row in itertools.product(range(3), range(3)):
            if weight := kernel[row][col]:
                total.add_(padded[:, 2 - row :, 2 - col :][:, :height, :width], alpha=weight)
        slopes.append(total)
    return slopes
