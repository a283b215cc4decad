"""Pictures of masks: 0 keep, 1 remove; removed patches are grey."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ..modality import Modality
from .images import stretch
from .style import OKABE_ITO, REMOVED, SMALL, image_panels, to_numpy

KEPT = tuple(int(OKABE_ITO[5][i : i + 2], 16) / 255 for i in (1, 3, 5))  # sky blue where there is no image


def mask_pixels(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarge a mask of patches to pixels.

    Args:
        mask: (rows, cols), 0 keep, 1 remove.
        size: (H, W), multiples of the grid.

    Returns:
        (H, W), 0 keep, 1 remove.
    """
    mask = to_numpy(mask)
    if mask.ndim != 2 or size[0] % mask.shape[0] or size[1] % mask.shape[1]:
        raise ValueError(
            f"a mask of shape {mask.shape} does not divide an image of {size}; give (rows, cols) of patches"
        )
    return np.kron(mask, np.ones((size[0] // mask.shape[0], size[1] // mask.shape[1])))


def hide(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Grey out the removed patches of a picture.

    Args:
        picture: (H, W, 3), 0..1.
        mask: (rows, cols), 0 keep, 1 remove.

    Returns:
        (H, W, 3).
    """
    removed = mask_pixels(mask, picture.shape[:2])[..., None]
    return picture * (1 - removed) + REMOVED * removed


def mask_gallery(
    masks: Mapping[str, Mapping[str, np.ndarray]],
    modalities: Mapping[str, Modality],
    images: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Draw each masking strategy for each sensor.

    Args:
        masks: ``{strategy: {sensor: (rows, cols)}}``, 0 keep, 1 remove.
        modalities: the sensors, one row each.
        images: (C, H, W) of each sensor, drawn under the masks; default: kept patches in one colour.

    Returns:
        The figure; the number of kept patches stands below each panel.
    """
    first = next(iter(next(iter(masks.values())).values()))
    aspect = np.divide(*(first.shape if images is None else next(iter(images.values())).shape[-2:]))
    fig, axes = image_panels(
        len(modalities), len(masks), aspect, left=0.2, top=0.24, bottom=0.22, row_gap=0.24, gap=0.1, largest=1.6
    )
    for row, (name, modality) in zip(axes, modalities.items(), strict=True):
        row[0].set_ylabel(modality.title, fontsize=8, labelpad=3)
        for ax, (strategy, grids) in zip(row, masks.items(), strict=True):
            grid = to_numpy(grids[name])
            picture = np.broadcast_to(KEPT, (*grid.shape, 3)) if images is None else stretch(images[name], modality)[0]
            ax.imshow(hide(picture, grid), aspect="auto", extent=(0, grid.shape[1], grid.shape[0], 0))
            _grid_lines(ax, grid.shape)
            ax.set_xlabel(f"{int((1 - grid).sum())} of {grid.size} kept", fontsize=SMALL, labelpad=2, loc="left")
            if ax in axes[0]:
                ax.set_title(strategy, fontsize=8, pad=3)
    return fig


def _grid_lines(ax, grid):
    ax.vlines(range(grid[1] + 1), 0, grid[0], color="white", lw=0.3)
    ax.hlines(range(grid[0] + 1), 0, grid[1], color="white", lw=0.3)
    ax.set(xlim=(0, grid[1]), ylim=(grid[0], 0))
