"""Feature mutual information: how much local features of the fused image tell of the sources'."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fmlib.fusion_metrics.edges import SOBEL_COLS, SOBEL_ROWS
from fmlib.fusion_metrics.images import Image, grey
from fmlib.fusion_metrics.pixels import PIXELS

CHUNK = 2**12  # windows at a time: 81 joint probabilities each
FEATURES = ("pixel", "edge", "dct")


def fmi(ir: Image, vi: Image, fused: Image, convention: str = "standard", feature: str = "") -> Tensor:
    """Feature mutual information: mean over 3 × 3 windows and both sources of 2 I(x; f) / (H(x) + H(f)).

    A window's features, stretched to 0 … 1, count as the probabilities of its nine pixels; the joint ones are the
    mixture of independence and of the strongest dependence there can be (Fréchet's bounds) that has the correlation
    of the two windows.

    Args:
        ir, vi, fused: grey 0 … 255, (H, W) or (B, H, W).
        feature: ``"pixel"`` (standard): grey values; ``"edge"``: thin Sobel edges, what the toolbox computes for its
            "pixel" because it names no feature; ``"dct"``: the cosine transform of the whole image. The toolbox's
            wavelet is not here.

    Returns:
        (B,) about 0 … 1, higher is better; 1 where a window equals the source's.

    Raises:
        ValueError: as `grey` does; an unknown feature.

    Source: Haghighat and Razian, AICT 2014. The edges follow the description of MATLAB's ``edge``.
    """
    feature = feature or ("pixel" if convention == "standard" else "edge")
    if feature not in FEATURES:
        raise ValueError(f"feature {feature!r} is not one of {', '.join(FEATURES)}")
    extract = {"pixel": lambda image: image, "edge": _edge_map, "dct": _dct}[feature]
    triples = torch.broadcast_tensors(*map(extract, grey(convention, 3, ir=ir, vi=vi, fused=fused)))
    scores = []
    for a, b, f in zip(*triples, strict=True):  # one at a time: windows take nine times the memory
        a, b, f = map(_windows, (a, b, f))
        scores.append((_shared(a, f) + _shared(b, f)) / 2)
    return torch.stack(scores)


def _windows(feature: Tensor) -> Tensor:
    """(H, W) to (9, windows), pixels down the columns: their order counts, as distributions over it do."""
    windows = feature.unfold(0, 3, 1).unfold(1, 3, 1)  # (H - 2, W - 2, rows, cols)
    return windows.permute(3, 2, 0, 1).flatten(0, 1).flatten(1)


def _shared(source: Tensor, fused: Tensor) -> Tensor:
    """Mean normalised information of windows (9, N)."""
    score = torch.ones_like(source[0])
    differ = (source != fused).any(0)
    pairs = zip(source[:, differ].split(CHUNK, 1), fused[:, differ].split(CHUNK, 1), strict=True)
    score[differ] = torch.cat([_information(_probabilities(x), _probabilities(f)) for x, f in pairs])
    return score.mean()


def _probabilities(windows: Tensor) -> Tensor:
    """(9, N) features stretched from their lowest to their highest value, and divided by their sum."""
    low, high = windows.amin(0), windows.amax(0)
    stretched = torch.where(high > low, (windows - low) / (high - low), 1.0)
    return stretched / stretched.sum(0)


def _information(p: Tensor, q: Tensor) -> Tensor:
    """2 I / (H(p) + H(q)) of pairs of distributions (9, N), (N,)."""
    centred_p, centred_q = p - 1 / 9, q - 1 / 9
    product = (centred_p * centred_q).sum(0)
    rho = torch.where(product == 0, 0.0, product / ((centred_p**2).sum(0) * (centred_q**2).sum(0)).sqrt())
    q = torch.where(rho < 0, q.flip(0), q)  # the strongest opposite dependence is the strongest on reversed places
    up_to_p, up_to_q = (torch.cat([torch.zeros_like(x[:1]), x.cumsum(0)]) for x in (p, q))  # (10, N)
    bound = torch.minimum(up_to_p[:, None], up_to_q)  # (10, 10, N) Fréchet's upper
    spread = _spread(p) * _spread(q)
    share = rho.abs() * spread / (bound.sum((0, 1)) - up_to_p.sum(0) * up_to_q.sum(0))
    share = torch.where((rho == 0) | (spread == 0), 0.0, share)
    joint = bound.diff(dim=0).diff(dim=1).mul_(share).add_((1 - share) * p[:, None] * q)
    total = _bits(p) + _bits(q)
    mutual = total - _bits(joint.flatten(0, 1))
    return torch.where((mutual == 0) | (total == 0), 0.0, 2 * mutual / total)


def _spread(p: Tensor) -> Tensor:
    """Standard deviation of the place 1 … 9 under (9, N) probabilities."""
    place = torch.arange(1, 10, device=p.device, dtype=p.dtype)[:, None]
    return ((p * place**2).sum(0) - (p * place).sum(0) ** 2).clamp(min=0).sqrt()


def _bits(p: Tensor) -> Tensor:
    """−Σ p log₂ |p| over the first axis: a share above 1 makes p negative, where the definition takes the real part."""
    return -p.abs().clamp_(min=torch.finfo(p.dtype).tiny).log_().mul_(p).sum(0) / math.log(2)


def _edge_map(image: Tensor) -> Tensor:
    """1 where the squared slope exceeds four times its mean and is the highest across the edge, else 0."""
    padded = F.pad(image[:, None], (1, 1, 1, 1), mode="replicate")
    kernels = torch.tensor([SOBEL_COLS, SOBEL_ROWS], dtype=image.dtype, device=image.device)[:, None] / 8
    cols, rows = F.conv2d(padded, kernels).abs().unbind(1)
    strength = cols**2 + rows**2
    around = F.pad(strength, (1, 1, 1, 1), value=-torch.inf)
    left, right, above, below = around[:, 1:-1, :-2], around[:, 1:-1, 2:], around[:, :-2, 1:-1], around[:, 2:, 1:-1]
    across = (cols >= rows) & (left <= strength) & (strength > right)
    along = (rows >= cols) & (above <= strength) & (strength > below)
    return ((strength > 4 * strength.mean(PIXELS, keepdim=True)) & (across | along)).double()


def _dct(image: Tensor) -> Tensor:
    """Orthonormal cosine transform (type II) of (B, H, W)."""
    rows, cols = (_cosines(length, image) for length in image.shape[1:])
    return rows @ image @ cols.T


def _cosines(length: int, like: Tensor) -> Tensor:
    n = torch.arange(length, device=like.device, dtype=like.dtype)
    basis = torch.cos(math.pi / length * (n + 0.5) * n[:, None]) * math.sqrt(2 / length)
    basis[0] /= math.sqrt(2)
    return basis
