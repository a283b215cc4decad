"""The losses of MaeFuse's guided training, one a stage."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fmlib.models.maefuse import MaeFuse, luma

STAGES = ("reconstruct", "align", "fuse")


def losses(
    model: MaeFuse,
    images: dict[str, Tensor],
    stage: str,
    guide_only: bool = False,
    weights: Sequence[float] = (0.0, 1.0, 2.0),
    scales: int = 1,
    border: bool = True,
) -> dict[str, Tensor]:
    """The parts of a stage's loss {name: ()}, which is their sum.

    Args:
        images: {"ir": (B, C, H, W), "vi": (B, C, H, W)} from 0 to 255.
        stage: one of `STAGES`.
        guide_only: the fusion ends at CFM.
        weights: of intensity, gradient and Laplacian in stage "fuse"; parts of weight 0 are left out.
        scales, border: of stage "fuse", see `picture_loss`.
    """
    if stage == "fuse":
        fused = model(images, guide_only).image.float()
        parts = picture_loss(fused, luma(images["ir"]), luma(images["vi"]), scales, border)
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


def picture_loss(fused: Tensor, ir: Tensor, vi: Tensor, scales: int = 1, border: bool = True) -> dict[str, Tensor]:
    """What a fused picture should have of its sources: at each pixel the brighter, the sharper of the two.

    Args:
        fused, ir, vi: luma (B, 1, H, W) from 0 to 255.
        scales: also of the pictures halved, quartered, … so many sizes in all, of which the mean counts: fine detail
            says next to nothing of the contrast of large shapes. 1 as in the released code.
        border: count the outermost pixels too, whose neighbours beyond the border are 0, as in the released code. They
            make a seventh of the loss of RoadScene's crops of 96 pixels, and there the gradient wants the brighter
            source's level, the Laplacian the darker's.

    Returns:
        "intensity", "gradient" (sum of absolute Sobel responses) and "laplacian" (8 neighbours, signed): mean absolute
        difference to the larger of the sources' values.
    """
    sizes = [_one_size(*(F.avg_pool2d(image, 2**k) for image in (fused, ir, vi)), border) for k in range(scales)]
    return {key: sum(parts[key] for parts in sizes) / scales for key in sizes[0]}


def _one_size(fused: Tensor, ir: Tensor, vi: Tensor, border: bool) -> dict[str, Tensor]:
    if border:
        fused, ir, vi = (F.pad(image, (1, 1, 1, 1)) for image in (fused, ir, vi))
    views = {"intensity": lambda x: x[..., 1:-1, 1:-1], "gradient": _sobel, "laplacian": _laplacian}
    return {key: (torch.maximum(view(ir), view(vi)) - view(fused)).abs().mean() for key, view in views.items()}


def _sobel(x: Tensor) -> Tensor:
    across = x.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    return F.conv2d(x, torch.stack([across, across.T])[:, None]).abs().sum(1, keepdim=True)


def _laplacian(x: Tensor) -> Tensor:
    kernel = x.new_ones(1, 1, 3, 3)
    kernel[..., 1, 1] = -8
    return F.conv2d(x, kernel)
