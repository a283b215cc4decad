"""Looking at large images through windows of the size a model was trained on, and putting its answers together."""

from collections.abc import Callable

import torch
from torch import Tensor


def in_tiles(run: Callable[[list], Tensor], views: list, side: int) -> Tensor:
    """What a model says of whole images, seen in windows that lie side by side.

    A transformer's cost grows with the square of what it sees at once, and positions it never met in training mislead
    it: windows of the training size spare both.

    Args:
        run: takes views [({sensor: (B, C, H, W)}, {sensor: (B,) bool}), …]; returns maps (B, C, rows, cols) or one
            answer a sample (B, F).
        side: of a window, in pixels of the sensor that has most.

    Returns:
        Maps as `run` would return them for whole images; of single answers the mean over the windows.

    Raises:
        ValueError: the images do not divide into such windows.
    """
    images = [image for view, _ in views for image in view.values()]
    size = [max(image.shape[axis] for image in images) for axis in (2, 3)]
    if any(pixels % side for pixels in size):
        raise ValueError(f"images of {tuple(size)} pixels do not divide into windows of {side}; choose another size")
    rows, cols = (pixels // side for pixels in size)
    found = run([(_cut(view, rows, cols), _repeat(present, rows * cols)) for view, present in views])
    if found.ndim == 2:
        return found.unflatten(0, (-1, rows * cols)).mean(1)
    grid = found.unflatten(0, (-1, rows, cols)).permute(0, 3, 1, 4, 2, 5)  # (B, C, rows, h, cols, w)
    return grid.flatten(4).flatten(2, 3)


def _cut(images: dict[str, Tensor], rows: int, cols: int) -> dict[str, Tensor]:
    """{sensor: (B, C, H, W)} → {sensor: (B·rows·cols, C, H / rows, W / cols)}."""
    grids = {name: x.unflatten(3, (cols, -1)).unflatten(2, (rows, -1)) for name, x in images.items()}
    return {name: x.permute(0, 2, 4, 1, 3, 5).flatten(0, 2) for name, x in grids.items()}


def _repeat(present: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: torch.repeat_interleave(here, count) for name, here in present.items()}
