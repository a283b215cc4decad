"""Metrics of local structure: SSIM and MS-SSIM (also of a sequence of exposures), VIF, NLPD.

All take grey images 0 … 255, (H, W) or (B, H, W), the sources also one for a whole batch, and return (B,) float64.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from fmlib.fusion_metrics.images import Image, gaussian, grey, halve, pad_edges, smooth
from fmlib.fusion_metrics.pixels import PIXELS

WINDOW = gaussian(11, 1.5)
MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
EPS = torch.finfo(torch.float64).eps

# of NLPD, one entry a band: σ, and the weights of a pixel's neighbours above, left, right and below
SIGMA = (0.0248, 0.0185, 0.0179, 0.0191, 0.0220, 0.2782)
NEIGHBOURS = (
    (0.1011, 0.1493, 0.1460, 0.1015),
    (0.0757, 0.1986, 0.1846, 0.0837),
    (0.0477, 0.2138, 0.2243, 0.0467),
    (0.0, 0.2503, 0.2616, 0.0),
    (0.0, 0.2598, 0.2552, 0.0),
    (0.0, 0.2215, 0.0717, 0.0),
)
BINOMIAL = (0.05, 0.25, 0.4, 0.25, 0.05)


def ssim(ir: Image, vi: Image, fused: Image, convention: str = "standard") -> Tensor:
    """Structural similarity: mean of SSIM(fused, ir) and SSIM(fused, vi), 11 × 11 Gaussian window of σ 1.5.

    −1 … 1, higher is better. The toolbox before 2023 prints the MEF-SSIM of `ms_ssim` at full size under this name.
    Since, it tells MATLAB's ``ssim`` nothing of the range, which then is 1: its constants are 65,025 times too small.
    Source: Wang et al., IEEE TIP 13 (2004) 600.
    """
    ir, vi, fused = grey(convention, len(WINDOW), ir=ir, vi=vi, fused=fused)
    if convention == "toolbox":
        return _mef_ssim(ir, vi, fused)
    span = 255
    if convention == "toolbox-2023":
        span, (ir, vi, fused) = 1, (pad_edges(image, 5) for image in (ir, vi, fused))
    return sum(_similarity(fused, source, span)[0] for source in (ir, vi)) / 2


def ms_ssim(ir: Image, vi: Image, fused: Image, convention: str = "standard") -> Tensor:
    """Multi-scale SSIM over five scales, averaged over the two sources; sides of 176 pixels and more.

    Structure and contrast at every scale, brightness at the coarsest, each to its weight and multiplied; a negative
    mean counts as 0. 0 … 1, higher is better. Source: Wang, Simoncelli and Bovik, Asilomar 2003.

    The toolbox, both versions, has MEF-SSIM under this name: the fused image against the structure wanted of a
    sequence of exposures, at three scales. Source: Ma, Zeng and Wang, IEEE TIP 24 (2015) 3345.
    """
    if convention == "standard":
        ir, vi, fused = grey(convention, len(WINDOW) * 2**4, ir=ir, vi=vi, fused=fused)
        return (_multiscale(fused, ir) + _multiscale(fused, vi)) / 2
    images = grey(convention, len(WINDOW) * 2**2, ir=ir, vi=vi, fused=fused)
    score, weights = 1.0, MS_WEIGHTS[:3]
    for weight in weights:
        score = score * _mef_ssim(*images).clamp(min=0) ** (weight / sum(weights))
        images = [halve(image) for image in images]
    return score


def _multiscale(x: Tensor, y: Tensor) -> Tensor:
    score = 1.0
    for level, weight in enumerate(MS_WEIGHTS):
        whole, structure = _similarity(x, y)
        score = score * (whole if level == 4 else structure).clamp(min=0) ** weight
        x, y = halve(x), halve(y)
    return score


def _similarity(x: Tensor, y: Tensor, span: float = 255) -> tuple[Tensor, Tensor]:
    """Mean SSIM and mean of its part of contrast and structure, (B,) each."""
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mean_x, mean_y, xx, yy, xy = (smooth(image, WINDOW) for image in (x, y, x * x, y * y, x * y))
    var_x, var_y, cov = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    brightness = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (brightness * structure).mean(PIXELS), structure.mean(PIXELS)


def _mef_ssim(a: Tensor, b: Tensor, fused: Tensor) -> Tensor:
    """Structure of the fused image against that of a mixture of both sources, patch by patch, (B,).

    The mixture of a patch is a combination x a + y b of the sources' centred patches, so its statistics follow from
    theirs and no patch needs to be made.
    """
    (side, c2), box = (len(WINDOW), (0.03 * 255) ** 2), [1.0] * len(WINDOW)
    # Squared lengths of the centred patches, and their product, from sums that are exact for whole grey levels.
    sum_a, sum_b, aa, bb, ab = (smooth(image, box) for image in (a, b, a * a, b * b, a * b))
    aa, bb, ab = aa - sum_a**2 / side**2, bb - sum_b**2 / side**2, ab - sum_a * sum_b / side**2
    aa, bb = aa.clamp(min=0), bb.clamp(min=0)
    # The more alike the two patches, the more the stronger one takes all.
    alike = ((aa + bb + 2 * ab).clamp(min=0).sqrt() + EPS) / (aa.sqrt() + bb.sqrt() + EPS)
    power = torch.tan(torch.pi / 2 * alike.clamp(max=1 - EPS)).clamp(max=10)
    length_a, length_b = aa.sqrt() + 0.001, bb.sqrt() + 0.001
    x, y = (length_a / side) ** power + EPS, (length_b / side) ** power + EPS
    x, y = x / (x + y) / length_a, y / (x + y) / length_b
    length = (x * x * aa + y * y * bb + 2 * x * y * ab).clamp(min=0).sqrt()
    scale = torch.where(length > 0, torch.maximum(length_a, length_b) / length, 1.0)
    x, y = x * scale, y * scale
    mean = [smooth(image, WINDOW) for image in (a, b, fused)]

    def cov(i: int, j: int, product: Tensor) -> Tensor:
        return smooth(product, WINDOW) - mean[i] * mean[j]

    wanted = x * x * cov(0, 0, a * a) + y * y * cov(1, 1, b * b) + 2 * x * y * cov(0, 1, a * b)
    shared = x * cov(0, 2, a * fused) + y * cov(1, 2, b * fused)
    return ((2 * shared + c2) / (wanted + cov(2, 2, fused * fused) + c2)).mean(PIXELS)


def vif(ir: Image, vi: Image, fused: Image, convention: str = "standard") -> Tensor:
    """Visual information fidelity, of pixels at four scales: VIF(ir, fused) + VIF(vi, fused), the source as reference.

    0 … about 2 (more if contrast is raised), higher is better; NaN where a source is flat; sides of 41 pixels and
    more. The toolbox before 2023 squares in 8 bits: at the finest scale products stop at 255.
    Source: Sheikh and Bovik, IEEE TIP 15 (2006) 430; noise variance 2.
    """
    ir, vi, fused = grey(convention, 41, ir=ir, vi=vi, fused=fused)
    highest = 255 if convention == "toolbox" else torch.inf
    return _fidelity(ir, fused, highest) + _fidelity(vi, fused, highest)


def _fidelity(reference: Tensor, image: Tensor, highest: float) -> Tensor:
    noise, tiny, kept, given = 2.0, 1e-10, 0.0, 0.0
    for size in (17, 9, 5, 3):
        window = gaussian(size, size / 5)
        if size < 17:
            reference, image = (smooth(x, window)[:, ::2, ::2] for x in (reference, image))
            highest = torch.inf
        products = (reference * reference, image * image, reference * image)
        rr, ii, ri = (smooth(x.clamp(max=highest), window) for x in products)
        mean_r, mean_i = smooth(reference, window), smooth(image, window)
        var_r, var_i, cov = (rr - mean_r**2).clamp(min=0), (ii - mean_i**2).clamp(min=0), ri - mean_r * mean_i
        gain = torch.where((var_r < tiny) | (var_i < tiny), 0.0, cov / (var_r + tiny))
        rest = torch.where((var_r < tiny) | (gain < 0), var_i, var_i - gain * cov)
        rest = torch.where(var_i < tiny, 0.0, rest).clamp(min=tiny)
        gain, var_r = gain.clamp(min=0), torch.where(var_r < tiny, 0.0, var_r)
        kept = kept + torch.log10(1 + gain**2 * var_r / (rest + noise)).sum(PIXELS)
        given = given + torch.log10(1 + var_r / noise).sum(PIXELS)
    return kept / given


def nlpd(ir: Image, vi: Image, fused: Image, convention: str = "standard") -> Tensor:
    """Normalised Laplacian pyramid distance, averaged over the two sources; sides of 17 pixels and more.

    Each of six bands is divided by its local amplitude σ + Σ P abs(z); the score is the mean over bands of the
    root mean squared difference. 0 … about 2, lower is better. The same in all conventions; the toolbox has it not.
    Source: Laparra, Ballé, Berardino and Simoncelli, Human Vision and Electronic Imaging 2016.
    """
    ir, vi, fused = (_bands(image / 255) for image in grey(convention, 17, ir=ir, vi=vi, fused=fused))
    errors = [((f - x) ** 2).mean(PIXELS).sqrt() for source in (ir, vi) for f, x in zip(fused, source, strict=True)]
    return sum(errors) / len(errors)


def _bands(image: Tensor) -> list[Tensor]:
    """The six normalised bands, finest first, the last the low-pass rest."""
    bands = []
    for band, (sigma, (above, left, right, below)) in enumerate(zip(SIGMA, NEIGHBOURS, strict=True)):
        coarse = _down(image) if band < 5 else None
        z = image - _up(coarse, image.shape) if band < 5 else image
        size = F.pad(z.abs(), (1, 1, 1, 1))
        rows, cols = size[:, :, 1:-1], size[:, 1:-1]
        # The weights belong to a true convolution: "above" falls on the pixel below.
        around = above * rows[:, 2:] + below * rows[:, :-2] + left * cols[..., 2:] + right * cols[..., :-2]
        bands.append(z / (sigma + around))
        image = coarse
    return bands


def _down(image: Tensor) -> Tensor:
    """Filter, then every second pixel; the two outermost pixels are mirrored outwards, each with itself first."""
    for axis in (1, 2):
        first, last = image.narrow(axis, 0, 2).flip(axis), image.narrow(axis, image.shape[axis] - 2, 2).flip(axis)
        image = torch.cat([first, image, last], axis)
    return smooth(image, BINOMIAL)[:, ::2, ::2]


def _up(image: Tensor, shape: torch.Size) -> Tensor:
    """To the double size, cut to `shape`: zeros between the pixels, four times the filter."""
    image = pad_edges(image, 1)
    spread = image.new_zeros(len(image), 2 * image.shape[1] + 4, 2 * image.shape[2] + 4)
    spread[:, 2:-2:2, 2:-2:2] = 4 * image
    return smooth(spread, BINOMIAL)[:, 2 : 2 + shape[1], 2 : 2 + shape[2]]
