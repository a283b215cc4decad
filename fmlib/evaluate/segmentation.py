"""Maps from dense features: a linear layer at every token, or a light convolutional decoder.

Features of several sensors and dates are joined at each place before they come here. Pixels of class 255 have no
label: they count neither in the loss nor in a score.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmlib.evaluate.features import Features
from fmlib.evaluate.metrics import confusion, confusion_scores
from fmlib.evaluate.probe import (
    CHOSEN_BY,
    ProbeParams,
    ProbeResult,
    class_shares,
    fit_lbfgs,
    loss_of,
    patch_counts,
    sweep,
)

HEADS = ("linear", "decoder")
LINEAR = ProbeParams("lbfgs", weight_decays=(1e-4, 1e-3, 1e-2, 1e-1), epochs=50)
DECODER = ProbeParams("adamw", lrs=(1e-3, 3e-3), weight_decays=(1e-4,), epochs=20, batch_size=16)


class DenseHead(nn.Module):
    """Dense features (B, rows, cols, F) → logits of every pixel (B, classes, H, W).

    Args:
        dim: features a token. classes: number of classes.
        scale: rows and columns of pixels a token.
        head: ``"linear"``, one linear layer; ``"decoder"``, three 3×3 convolutions, each but the first at twice the
            resolution of the one before, and a linear layer. Both are brought to the pixels bilinearly.
        width: channels of the decoder's first convolution; each later one has half.
    """

    def __init__(self, dim: int, classes: int, scale: tuple[int, int], head: str = "linear", width: int = 64):
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"head is {head!r}; choose one of {', '.join(HEADS)}")
        self.classes, self.scale, self.linear = classes, scale, head == "linear"
        self.net = nn.Linear(dim, classes) if self.linear else _light_decoder(dim, classes, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, rows, cols, F) → (B, classes, rows · scale, cols · scale)."""
        size = (x.shape[1] * self.scale[0], x.shape[2] * self.scale[1])
        logits = self.net(x).permute(0, 3, 1, 2) if self.linear else self.net(x.permute(0, 3, 1, 2))
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def _light_decoder(dim: int, classes: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(dim, width, 3, padding=1), nn.GELU()]
    for _ in range(2):
        up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        layers += [up, nn.Conv2d(width, width // 2, 3, padding=1), nn.GELU()]
        width //= 2
    return nn.Sequential(*layers, nn.Conv2d(width, classes, 1))


def dense_probe(
    train: Features,
    validation: Features,
    test: Features | None = None,
    head: str = "linear",
    classes: int = 2,
    params: ProbeParams | None = None,
) -> ProbeResult:
    """Maps from frozen dense features; settings are chosen by the validation part's mean IoU.

    Args:
        train, validation, test: of `extract` with ``pool="dense"``; labels are maps (N, H, W).
        head: ``"linear"`` or ``"decoder"``, see `DenseHead`.
        params: default: `LINEAR` or `DECODER`. With adamw and sgd the loss is that of pixels; with lbfgs, for linear
            heads alone, each token answers for all pixels of its patch, which spares the pixels and converges.

    Returns:
        As `linear_probe`; `outputs` are the test samples' confusion matrices (N, classes, classes).

    Raises:
        ValueError: features that are not dense, or without maps.
    """
    parts = [_check(part) for part in (train, validation, test) if part is not None]
    params = params or (LINEAR if head == "linear" else DECODER)
    if params.optimizer == "lbfgs" and head != "linear":
        raise ValueError(f"head={head!r} is fitted by batches: set optimizer to adamw or sgd")
    scale = tokens_to_pixels(*parts[0])
    shares = class_shares(train.labels, classes)

    def score(net: nn.Module, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        matrix = confusion(predict_maps(net, x), y, classes)
        return confusion_scores(matrix), matrix

    loss = loss_of("segmentation", shares if params.balance else None)
    make = lambda: DenseHead(train.x.shape[-1], classes, scale, head)  # noqa: E731
    fit_head = fit_tokens if params.optimizer == "lbfgs" else None
    return sweep(make, parts, loss, score, CHOSEN_BY["segmentation"], shares, params, fit_head)


def fit_tokens(head: DenseHead, x: Tensor, maps: Tensor, loss, params: ProbeParams, **setting) -> None:
    """Fit the linear layer on patches by the cross-entropy of their pixels, all of which get the token's answer."""
    counts = patch_counts(maps, x.shape[1:3], head.net.out_features).float()
    if params.balance:
        counts = counts / counts.sum((0, 1, 2)).clamp(min=1)
    fit_lbfgs(head.net, x, counts, lambda logits, y: -(y * logits.log_softmax(-1)).sum() / y.sum(), params, **setting)


@torch.no_grad()
def predict_maps(head: nn.Module, x: Tensor, batch_size: int = 16) -> Tensor:
    """Class of every pixel of whole images: dense features (N, rows, cols, F) → (N, H, W) uint8."""
    return torch.cat([head(some).argmax(1).byte() for some in x.split(batch_size)])


def tokens_to_pixels(x: Tensor, maps: Tensor) -> tuple[int, int]:
    """Rows and columns of pixels a token, from features (N, rows, cols, F) and maps (N, H, W)."""
    (rows, cols), (height, width) = x.shape[1:3], maps.shape[1:]
    if height % rows or width % cols:
        raise ValueError(f"maps of {height}×{width} pixels do not divide into {rows}×{cols} tokens")
    return height // rows, width // cols


def _check(part: Features) -> tuple[Tensor, Tensor]:
    if part.x.ndim != 4 or part.labels is None or part.labels.ndim != 3:
        raise ValueError("maps need dense features and label maps: extract with pool='dense' from samples with maps")
    return part.x, part.labels
