"""What MaeFuse's released test script does around its network, for comparing with its authors' results.

A design to understand, not to follow: every image is squeezed to one size, values are cut and not rounded, and colours
are blurred by going through the small size. `fmlib.fuse` without `released` keeps sizes and colours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fmlib.models.maefuse import MaeFuse, luma


@torch.no_grad()
def fuse_as_released(model: MaeFuse, ir: Tensor, vi: Tensor) -> Tensor:
    """Fuse at the model's own size and stretch the result back.

    The script works on 8-bit images by OpenCV, whose resizing this repeats (bilinear down, bicubic up, rounding after
    each). Its rounding of Cr and Cb is left out: colours may differ by two levels.

    Args:
        ir, vi: (1, C, H, W) from 0 to 255.

    Returns:
        (1, C, H, W) whole numbers from 0 to 255, C that of `vi`.
    """
    size, device = model.img_size, next(model.parameters()).device
    small = {"ir": _resize(luma(ir).round(), size, "bilinear"), "vi": _resize(vi.round(), size, "bilinear")}
    grid, y = model.encoder.embed.grid_of(size), luma(small["vi"]).round()
    tokens, _ = model.fuse(model.encode({"ir": small["ir"].to(device), "vi": y.to(device)}), grid)
    pixels = model.encoder.embed.images(model.decoder(tokens, grid), grid).float().cpu()
    fused = luma(pixels.clamp(0, 255).floor()).round()
    return _resize(small["vi"] + fused - y, vi.shape[2:], "bicubic")


def _resize(image: Tensor, size, mode: str) -> Tensor:
    image = image.clamp(0, 255).round()
    return F.interpolate(image, size=tuple(size), mode=mode, align_corners=False).clamp(0, 255).round()
