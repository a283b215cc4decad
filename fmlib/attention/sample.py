"""One sample under settings that a reader changes, and what a search by content would look like."""

import torch
from torch import Tensor

from fmlib.attention.places import Layer, Part, Seen
from fmlib.attention.watch import watch
from fmlib.layers import LazyMap, Pair, patchify
from fmlib.masking import draw_masks, masks_from_arrays
from fmlib.misalign import Displacement, displace
from fmlib.models.fusmae import FusMAE


def watch_sample(
    model: FusMAE,
    images: dict[str, Tensor],
    seed: int = 0,
    mask_ratio: float = 0.0,
    strategy: str = "independent",
    removed: str = "",
    down: float = 0,
    right: float = 0,
) -> tuple[dict[str, Tensor], dict[str, Tensor], Seen]:
    """One sample as a model sees it: masked, without a sensor, with one out of place.

    Args:
        model: a Fus-MAE, in evaluation mode.
        images: {sensor: (C, H, W)} of one sample, in physical units.
        seed: of the masks. mask_ratio, strategy: as for `draw_masks`.
        removed: a sensor that is removed whole; empty: none.
        down, right: displacement of the last sensor, in pixels.

    Returns:
        The images shown, their masks {sensor: (rows, cols)} (0 keep, 1 remove), and what was seen.
    """
    last = list(images)[-1]
    shown = images | {last: displace(images[last][None], Displacement(down, right))[0]}
    grids = {name: model.embed[name].grid_of(image.shape[1:]) for name, image in images.items()}
    masks = draw_masks(grids, 1, strategy, mask_ratio, generator=torch.Generator().manual_seed(seed))
    if removed:
        flat = {name: torch.ones_like(mask.mask) if name == removed else mask.mask for name, mask in masks.items()}
        masks = masks_from_arrays(flat)
    seen = watch(model, {name: image[None] for name, image in shown.items()}, masks)
    return shown, {name: mask.mask[0].view(grids[name]) for name, mask in masks.items()}, seen


def search_by_content(still: Tensor, moved: Tensor, patch_size: Pair, sharpness: float = 100.0) -> Seen:
    """A head made by hand that looks for what a patch shows, wherever it lies: queries and keys are patches themselves.

    It says what the map of a head that follows the content looks like.

    Args:
        still, moved: (B, C, H, W) images of one sensor, before and after it was displaced.
        patch_size: in pixels.
        sharpness: of the attention; it is proportional to exp(sharpness · correlation of two patches).

    Returns:
        One layer, "content", in which patches of "still" look at patches of "moved".
    """
    q, k = (patchify(image, patch_size) for image in (still, moved))  # (B, L, C·p·q)
    q, k = (torch.nn.functional.normalize(x - x.mean(1, keepdim=True), dim=-1)[:, None] for x in (q, k))
    grid = tuple(side // p for side, p in zip(still.shape[2:], patch_size, strict=True))
    ids = torch.arange(grid[0] * grid[1], device=still.device).expand(len(still), -1)
    attn = LazyMap(sharpness * q.shape[-1] ** 0.5 * q, k, None)
    layers = {"content": Layer(attn, (Part("still", ids),), (Part("moved", ids),))}
    size = tuple(still.shape[2:])
    return Seen(layers, {"content": ("content",)}, ("content",), {"still": grid, "moved": grid}, size, None)
