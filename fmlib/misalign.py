"""One source out of place: how far can two sensors be from lying on one another before fusing them does harm?

A displacement moves the content of one source's image, in its own pixels, and fills what comes in from outside by
reflection. Labels and the other sources stay where they are.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Displacement(NamedTuple):
    """Where the content of an image goes: scaled and rotated about the middle, then moved.

    Each is a number, or a tensor (B,) with one for each sample.
    """

    rows: float | Tensor = 0.0  # pixels down
    cols: float | Tensor = 0.0  # pixels to the right
    angle: float | Tensor = 0.0  # degrees, counter-clockwise
    scale: float | Tensor = 1.0  # above 1: larger

    def inverse(self) -> "Displacement":
        """The displacement that brings the content back."""
        cos, sin, rows, cols = _turn(self, torch.device("cpu"))
        scale = torch.as_tensor(self.scale, dtype=torch.float64)
        back = (-(cos * rows + sin * cols) / scale, -(cos * cols - sin * rows) / scale)
        return Displacement(*back, -torch.as_tensor(self.angle, dtype=torch.float64), 1 / scale)


def misalign(images: dict[str, Tensor], sensor: str, displacement: Displacement) -> dict[str, Tensor]:
    """A batch with one source out of place.

    Args:
        images: {sensor: (B, C, H, W)}.
        sensor: whose content is moved.

    Raises:
        ValueError: the batch has no such sensor.
    """
    if sensor not in images:
        raise ValueError(f"{sensor!r} cannot be displaced: the images are of {', '.join(images)}")
    return images | {sensor: displace(images[sensor], displacement)}


def displace(image: Tensor, displacement: Displacement) -> Tensor:
    """Move, rotate and scale the content of images, bilinearly; exact for whole pixels.

    Args:
        image: (B, C, H, W), float.

    Returns:
        (B, C, H, W); what comes in from outside is the image reflected at its border pixels.

    Raises:
        ValueError: a scale that is not above 0, or numbers for another count of samples.
    """
    B, _, H, W = image.shape
    _check(displacement, B)
    rows, cols = _places(displacement, B, (H, W), image.device)  # (B, H, W) each: where a pixel's value comes from
    out = torch.zeros_like(image)
    top, left = rows.floor(), cols.floor()
    for down in (0, 1):
        for right in (0, 1):
            weight = ((rows - top) if down else 1 - (rows - top)) * ((cols - left) if right else 1 - (cols - left))
            index = _reflect(top.long() + down, H) * W + _reflect(left.long() + right, W)  # (B, H, W)
            index = index.flatten(1)[:, None].expand(-1, image.shape[1], -1)
            out += image.flatten(2).gather(2, index).view_as(image) * weight[:, None].to(image)
    return out


def draw_displacement(
    count: int,
    shift: float,
    generator: torch.Generator,
    angle: float = 0.0,
    scale: float = 0.0,
    whole: bool = False,
) -> Displacement:
    """Random displacements, uniform and independent.

    Args:
        count: of samples. shift: largest shift in pixels, each way. angle: largest rotation in degrees.
        scale: largest change of scale, as a share. whole: shift by whole pixels alone.
        generator: source of all random numbers.
    """
    rows, cols, turn, grow = 2 * torch.rand(4, count, generator=generator, dtype=torch.float64) - 1
    if whole:  # each of 2·shift + 1 steps is equally likely
        rows, cols = (((x + 1) / 2 * (2 * int(shift) + 1)).floor() - int(shift) for x in (rows, cols))
        return Displacement(rows, cols, angle * turn, 1 + scale * grow)
    return Displacement(shift * rows, shift * cols, angle * turn, 1 + scale * grow)


def compass(distance: float) -> list[Displacement]:
    """Shifts by one distance along the rows and columns, both ways; at 0 there is but one."""
    if not distance:
        return [Displacement()]
    return [Displacement(*step) for step in ((distance, 0), (-distance, 0), (0, distance), (0, -distance))]


def all_ways(kind: str, amount: float) -> list[Displacement]:
    """Displacements of one kind and amount, in every direction; of none there is but one.

    Args:
        kind: ``"shift"``, see `compass`; ``"angle"``: left and right; ``"scale"``: larger and smaller.
        amount: pixels, degrees, or the share by which the content grows or shrinks, 0 or above.
    """
    if kind not in ("shift", "angle", "scale"):
        raise ValueError(f"no displacement of kind {kind!r}; choose one of shift, angle, scale")
    if not amount or kind == "shift":
        return compass(amount)
    if kind == "angle":
        return [Displacement(angle=amount), Displacement(angle=-amount)]
    return [Displacement(scale=1 + amount), Displacement(scale=1 / (1 + amount))]


# -- parts ----------------------------------------------------------------------------------------------------------


def _places(displacement: Displacement, count: int, size: tuple[int, int], device) -> tuple[Tensor, Tensor]:
    """Rows and columns (B, H, W) that values are taken from: the displacement undone for each pixel."""
    cos, sin, down, right = (x.expand(count).view(-1, 1, 1) for x in _turn(displacement, device))
    scale = torch.as_tensor(displacement.scale, dtype=torch.float64, device=device).expand(count).view(-1, 1, 1)
    middle = [(side - 1) / 2 for side in size]
    grid = [torch.arange(side, dtype=torch.float64, device=device) - m for side, m in zip(size, middle, strict=True)]
    row, col = grid[0][None, :, None] - down, grid[1][None, None, :] - right
    # rows count downwards: the inverse of a counter-clockwise turn
    return (cos * row + sin * col) / scale + middle[0], (cos * col - sin * row) / scale + middle[1]


def _turn(displacement: Displacement, device) -> tuple[Tensor, ...]:
    """Cosine and sine of the angle, rows and columns of the shift, float64 () or (B,)."""
    rows, cols, angle = (torch.as_tensor(x, dtype=torch.float64, device=device) for x in displacement[:3])
    radians = angle * (math.pi / 180)
    return radians.cos(), radians.sin(), rows, cols


def _reflect(index: Tensor, side: int) -> Tensor:
    """Indices beyond the border, reflected at the border pixels however far out: -1 is 1."""
    if side == 1:
        return torch.zeros_like(index)
    index = index.remainder(2 * side - 2)
    return torch.minimum(index, 2 * side - 2 - index)


def _check(displacement: Displacement, count: int) -> None:
    for name, value in displacement._asdict().items():
        value = torch.as_tensor(value)
        if value.ndim > 1 or (value.ndim == 1 and len(value) not in (1, count)):
            raise ValueError(
                f"displacement: {name} has shape {tuple(value.shape)} for {count} images; give one or each"
            )
        if name == "scale" and not (value > 0).all():
            raise ValueError(f"displacement: scale must be above 0, got {value.min():g}")
