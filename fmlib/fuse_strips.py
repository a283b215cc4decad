"""Fusing an image in overlapping windows, strip by strip: what `fmlib.fuse` does with arrays and files alike."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fmlib.models.maefuse import MaeFuse, luma, mirror
from fmlib.models.maefuse_released import fuse_as_released

FULL = {"uint8": 255.0, "uint16": 65535.0, "float32": 255.0}  # white, by type


class Pixels:
    """An image that can be read by rows: here, an array.

    Args:
        pixels: (H, W) or (C, H, W), C 1 or 3; uint8, uint16, or float32 from 0 to 255.
        name: what errors call it.
    """

    def __init__(self, pixels: np.ndarray, name: str):
        self.pixels, self.name = pixels[None] if pixels.ndim == 2 else pixels, name
        self.shape, self.dtype = self.pixels.shape, str(pixels.dtype)

    def rows(self, rows: slice) -> np.ndarray:
        """Some rows of it, (C, n, W)."""
        return self.pixels[:, rows]


def fuse_strips(
    model: MaeFuse,
    ir: Pixels,
    vi: Pixels,
    tile: int | None = None,
    overlap: int = 32,
    batch: int = 1,
    passes: int = 1,
) -> Iterator[tuple[int, np.ndarray]]:
    """Fuse window by window, and give out rows that are done: memory does not grow with an image's height.

    Args:
        ir, vi: the images.
        model, tile, overlap, batch, passes: as for `fmlib.fuse.fuse_pair`.

    Yields:
        The first row and the rows (C, n, W) of the fused image, from top to bottom, in the type of `vi`.
    """
    _check(ir, vi)
    check_windows(tile, overlap, passes)
    height, width = vi.shape[1:]
    if model.released and tile is None:
        if passes > 1:
            raise ValueError("a released model squeezes whole images, in one pass; give tile, or leave out passes")
        whole = fuse_as_released(model, _to_tensor(ir, slice(0, height)), _to_tensor(vi, slice(0, height)))
        yield 0, _to_array(whole[0], vi.dtype)
        return
    sides = model.img_size if tile is None else (tile or height, tile or width)
    overlap = min(overlap, min(sides) // 2) if tile is None else overlap
    down, across = ramps(height, sides[0], overlap), ramps(width, sides[1], overlap)
    held = torch.zeros(0, width)
    for number, (rows, weight) in enumerate(down):
        images = {"ir": _to_tensor(ir, rows), "vi": _to_tensor(vi, rows)}
        strip = _fuse_row(model, images, across, 1 if model.released else batch, passes) * weight[:, None]
        strip[: len(held)] += held
        done = down[number + 1][0].start - rows.start if number + 1 < len(down) else len(strip)
        change = strip[:done] - luma(images["vi"])[0, 0, :done]  # Cb and Cr stay: red, green and blue change alike
        yield rows.start, _to_array(images["vi"][0, :, :done] + change, vi.dtype)
        held = strip[done:]


@torch.no_grad()
def _fuse_row(model: MaeFuse, images: dict[str, Tensor], across, batch: int, passes: int) -> Tensor:
    """Luma (n, W) of one row of windows, blended."""
    device = next(model.parameters()).device
    grey = {name: luma(image) for name, image in images.items()}
    row = torch.zeros(grey["vi"].shape[2:])
    for some in (across[i : i + batch] for i in range(0, len(across), batch)):
        windows = {name: torch.cat([x[..., columns] for columns, _ in some]) for name, x in grey.items()}
        fused = _fuse({name: x.to(device) for name, x in windows.items()}, model, passes).cpu()
        for (columns, weight), window in zip(some, fused, strict=True):
            row[:, columns] += window[0] * weight
    return row


def _fuse(windows: dict[str, Tensor], model: MaeFuse, passes: int) -> Tensor:
    """Luma (B, 1, n, m), the mean over passes in which patches begin further up and to the left, step by step."""
    total = 0.0
    for step in range(passes):
        up, left = (step * side // passes for side in model.patch_size)
        moved = {name: mirror(x, x.shape[2:], (up, left)) for name, x in windows.items()}
        total = total + model(moved).image.float()[..., up:, left:]
    return total / passes


def check_windows(tile: int | None, overlap: int, passes: int) -> None:
    """Raise unless windows of `tile` pixels (None, 0: see `fuse_pair`) can overlap by so many, and be fused at all."""
    if passes < 1:
        raise ValueError(f"passes is {passes}; each window is fused once or more")
    if overlap < 0 or (tile is not None and tile < 0) or (tile and overlap >= tile):
        raise ValueError(f"windows of {tile} pixels cannot overlap by {overlap}; choose tile 1 or more, overlap less")


def ramps(size: int, tile: int, overlap: int) -> list[tuple[slice, Tensor]]:
    """Windows along one side, each with the weight (n,) of its pixels; the weights of a pixel sum to 1.

    Args:
        size: pixels along the side.
        tile: pixels of a window.
        overlap: pixels over which weights rise and fall, as sin²; the last window may overlap by more.
    """
    tile = min(tile, size)
    overlap = min(overlap, tile - 1)
    starts = [*range(0, size - tile, tile - overlap), size - tile]
    place = torch.arange(1, tile + 1)
    inside = torch.minimum(place, place.flip(0)).clamp(max=overlap + 1) / (overlap + 1)
    weight = (inside * torch.pi / 2).sin().square()
    total = torch.zeros(size)
    for start in starts:
        total[start : start + tile] += weight
    return [(slice(start, start + tile), weight / total[start : start + tile]) for start in starts]


def _check(ir: Pixels, vi: Pixels) -> None:
    for image in (ir, vi):
        if len(image.shape) != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
            raise ValueError(f"{image.name}: shape {image.shape}; expected (H, W), (1, H, W) or (3, H, W)")
        if image.dtype not in FULL:
            raise ValueError(f"{image.name}: {image.dtype} values; expected uint8, uint16, or float32 from 0 to 255")
    if ir.shape[1:] != vi.shape[1:]:
        sizes = " and ".join(f"{image.name} of {image.shape[1]} × {image.shape[2]} pixels" for image in (ir, vi))
        raise ValueError(f"{sizes} cannot be one scene; register both to one grid first")


def _to_tensor(image: Pixels, rows: slice) -> Tensor:
    """Rows of an image as (1, C, n, W) float32 from 0 to 255."""
    pixels = np.asarray(image.rows(rows), np.float32) * (255 / FULL[image.dtype])
    if not (pixels.min() >= 0 and pixels.max() <= 255):  # also where there is NaN
        raise ValueError(f"{image.name}: values from {pixels.min():g} to {pixels.max():g}; scale floats to 0…255")
    return torch.from_numpy(pixels)[None]


def _to_array(image: Tensor, dtype: str) -> np.ndarray:
    pixels = image.clamp(0, 255).numpy() * (FULL[dtype] / 255)
    return pixels.astype(dtype) if dtype == "float32" else np.rint(pixels).astype(dtype)
