"""Metrics of grey values: correlation, error, information, contrast and sharpness.

All take grey images 0 … 255, (H, W) or (B, H, W), the sources also one for a whole batch, and return (B,) float64.
"""

import math

import torch
from torch import Tensor

from fmlib.fusion_metrics.images import Image, grey

PIXELS = (-2, -1)


def cc(ir: Image, vi: Image, fused: Image, convention: str = "standard") -> Tensor:
    """Correlation coefficient: mean of ρ(ir, fused) and ρ(vi, fused), Pearson's ρ over the pixels.

    −1 … 1, higher is better; NaN where an image is flat. The same in all conventions.
    """
    ir, vi, fused = grey(convention, ir=ir, vi=vi, fused=fused)
    return (_correlation(ir, fused) + _correlation(vi, fused)) / 2


def scd(ir: Image, vi: Image, fused: Image, convention: str = "standard") -> Tensor:
    """Sum of the correlations of differences: ρ(fused − vi, ir) + ρ(fused − ir, vi).

    −2 … 2, higher is better; NaN where a source or a difference is flat, so for a fused image that is one of its
    sources. The same in all conventions. Source: Aslantas and Bendes, AEÜ 69 (2015) 1890.
    """
    ir, vi, fused = grey(convention, ir=ir, vi=vi, fused=fused)
    return _correlation(fused - vi, ir) + _correlation(fused - ir, vi)


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's ρ over the pixels, (B,); NaN where one of the images is flat."""
    flat = (x.amax(PIXELS) == x.amin(PIXELS)) | (y.amax(PIXELS) == y.amin(PIXELS))
    x, y = (image - image.mean(PIXELS, keepdim=True) for image in (x, y))
    rho = (x * y).sum(PIXELS) / ((x * x).sum(PIXELS) * (y * y).sum(PIXELS)).sqrt()
    return rho.masked_fill(flat, torch.nan)


def mse(ir: Image, vi: Image, fused: Image, convention: str = "standard") -> Tensor:
    """Mean squared error of grey values brought to 0 … 1, averaged over the two sources.

    0 … 1, lower is better; the mean of the two sources has the lowest there is. The same in all conventions.
    """
    ir, vi, fused = grey(convention, ir=ir, vi=vi, fused=fused)
    return (((fused - ir) ** 2).mean(PIXELS) + ((fused - vi) ** 2).mean(PIXELS)) / (2 * 255**2)


def psnr(ir: Image, vi: Image, fused: Image, convention: str = "standard") -> Tensor:
    """Peak signal-to-noise ratio in decibels: 10 log₁₀(1 / MSE), of the `mse` averaged over the sources.

    0 … ∞, higher is better. The toolbox, in both versions, divides 255² by errors on the scale 0 … 1 and so prints
    48.1308 dB more: 64 there is 16.
    """
    shift = 0.0 if convention == "standard" else 20 * math.log10(255)
    return shift - 10 * torch.log10(mse(ir, vi, fused, convention))


def en(fused: Image, convention: str = "standard") -> Tensor:
    """Entropy of the grey levels: −Σ p log₂ p over 256 bins, after rounding.

    0 … 8 bits, higher is better. The same in all conventions. Source: Roberts et al., JARS 2 (2008) 023522.
    """
    (fused,) = grey(convention, fused=fused)
    return _entropy(_levels(fused), 256)


def mi(ir: Image, vi: Image, fused: Image, convention: str = "standard") -> Tensor:
    """Mutual information: I(ir; fused) + I(vi; fused), I(x; y) = H(x) + H(y) − H(x, y) of 256 grey levels.

    0 … 16 bits, higher is better; a copy of one source scores high. In the toolbox, both versions, levels 254 and 255
    share a bin of H(x, y) alone, because an 8-bit counter stops at 255; that adds up to some hundredths.
    Source: Qu, Zhang and Yan, Electronics Letters 38 (2002) 313.
    """
    ir, vi, fused = (_levels(image) for image in grey(convention, ir=ir, vi=vi, fused=fused))
    highest = 255 if convention == "standard" else 254
    joint = fused.clamp(max=highest)
    total = 2 * _entropy(fused, 256)
    for source in (ir, vi):
        total = total + _entropy(source, 256) - _entropy(256 * source.clamp(max=highest) + joint, 256**2)
    return total


def _levels(image: Tensor) -> Tensor:
    return torch.floor(image + 0.5).long()


def _entropy(levels: Tensor, bins: int) -> Tensor:
    """Bits, (B,), of whole numbers (B, H, W) below `bins`."""
    count = len(levels)
    offset = bins * torch.arange(count, device=levels.device)[:, None, None]
    p = torch.bincount((levels + offset).flatten(), minlength=count * bins).view(count, bins).double()
    p = p / levels[0].numel()
    return -torch.special.xlogy(p, p).sum(1) / math.log(2)


def sf(fused: Image, convention: str = "standard") -> Tensor:
    """Spatial frequency: √(mean of squared differences along rows + the same along columns).

    0 … 361 grey levels, higher is sharper (noise, too, raises it). The toolbox before 2023 has it on the scale 0 … 1.
    Source: Eskicioglu and Fisher, IEEE Trans. Communications 43 (1995) 2959.
    """
    (fused,) = grey(convention, fused=fused)
    rows, cols = ((fused.diff(dim=axis) ** 2).mean(PIXELS) for axis in (-1, -2))
    return (rows + cols).sqrt() / (255 if convention == "toolbox" else 1)


def sd(fused: Image, convention: str = "standard") -> Tensor:
    """Standard deviation of the grey values (of the population).

    0 … 127.5 grey levels, higher is more contrast. The toolbox before 2023 computes in 8 bits, where values below the
    mean count as 0 and squares stop at 255: it prints at most 15.97, near 9 for most images.
    """
    (fused,) = grey(convention, fused=fused)
    centred = fused - fused.mean(PIXELS, keepdim=True)
    if convention == "toolbox":
        centred = torch.floor(centred + 0.5).clamp(min=0)
    squares = centred**2
    return (squares.clamp(max=255) if convention == "toolbox" else squares).mean(PIXELS).sqrt()


def ag(fused: Image, convention: str = "standard") -> Tensor:
    """Average gradient: Σ √((∂x² + ∂y²) / 2) / ((H − 1)(W − 1)), central differences, one-sided at the borders.

    0 … 255 grey levels a pixel, higher is sharper (noise, too, raises it). The same in all conventions.
    Source: Cui et al., Optics Communications 341 (2015) 199.
    """
    (fused,) = grey(convention, fused=fused)
    rows, cols = torch.gradient(fused, dim=PIXELS)
    height, width = fused.shape[1:]
    return ((rows**2 + cols**2) / 2).sqrt().sum(PIXELS) / ((height - 1) * (width - 1))
