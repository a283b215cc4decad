"""The losses of MaeFuse's guided training, one a stage."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fmlib.models.maefuse import MaeFuse, luma

STAGES = ("reconstruct", "align", "fuse")


def losses(model: MaeFuse, images: dict[str, Tensor], stage: str, guide_only=False, weights=(0.0, 1.0, 2.0)):
    """The parts of a stage's loss {name: ()}, which is their sum.

    Args:
        images: {"ir": (B, C, H, W), "vi": (B, C, H, W)} from 0 to 255.
        stage: one of `STAGES`.
        guide_only: the fusion ends at CFM.
        weights: of intensity, gradient and Laplacian in stage "fuse"; parts of weight 0 are left out.
    """
    if stage == "fuse":
        parts = picture_loss(model(images, guide_only).image.float(), luma(images["ir"]), luma(images["vi"]))
        return {key: weight * parts[key] for key, weight in zip(parts, weights, strict=True) if weight}
    images, _ = model.prepare(images)
    grid = model.encoder.embed.grid_of(images["ir"].shape[2:])
    if stage == "reconstruct":
        image = torch.cat(list(images.values()))  # one by one: the mean of two features is no image's feature
        pred = model.decoder(model.encoder(image), grid)
        return {"reconstruction": (pred.float() - model.encoder.patches(image)).square().mean()}
    tokens = model.encode(images)
    fused, _ = model.fuse(tokens, grid, guide_only)
    target = (tokens["ir"] + tokens["vi"]) / 2  # no positions added
    return {"alignment": (fused.float() - target).square().mean()}


def picture_loss(fused: Tensor, ir: Tensor, vi: Tensor) -> dict[str, Tensor]:
    """What a fused picture should have of its sources: at each pixel the brighter, the sharper of the two.

    Args:
        fused, ir, vi: luma (B, 1, H, W) from 0 to 255.

    Returns:
        "intensity", "gradient" (sum of absolute Sobel responses) and "laplacian" (8 neighbours, signed): mean absolute
        difference to the larger of the sources' values. Zeros lie beyond the border, as in the released code.
    """
    views = {"intensity": lambda x: x, "gradient": _sobel, "laplacian": _laplacian}
    return {key: (torch.maximum(view(ir), view(vi)) - view(fused)).abs().mean() for key, view in views.items()}


def _sobel(x: Tensor) -> Tensor:
    across = x.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    return F.conv2d(x, torch.stack([across, across.T])[:, None], padding=1).abs().sum(1, keepdim=True)


def _laplacian(x: Tensor) -> Tensor:
    kernel = x.new_ones(1, 1, 3, 3)
    kernel[..., 1, 1] = -8
    return F.conv2d(x, kernel, padding=1)
