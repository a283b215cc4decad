"""Pictures of attention: where a patch looks, by layer and head, in its own sensor and across.

Colour runs from 0 to the largest value of a panel, which is printed below it; the image under it is shown in grey.
Removed patches, which nobody can look at, are plain grey.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle

from ..modality import Modality
from .images import stretch
from .masks import hide
from .style import OKABE_ITO, REMOVED, SMALL, image_panels, panel_width, to_numpy, wrap

MAP = plt.get_cmap("viridis")  # perceptually uniform
QUERY = OKABE_ITO[1]
Pair = tuple[int, int]


def overlay(picture: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Lay attention over a picture.

    Args:
        picture: (H, W, 3), 0..1.
        weights: (rows, cols), 0 or above; NaN where a patch cannot be looked at.

    Returns:
        (H, W, 3): grey image where the weight is 0, full colour where it is largest, flat grey where it is NaN.
    """
    weights = to_numpy(weights).astype(float)
    share = _enlarge(weights / max(np.nanmax(weights, initial=0), 1e-12), picture.shape[:2])
    light = 0.25 + 0.6 * picture @ (0.299, 0.587, 0.114)
    strength = np.nan_to_num(share)[..., None]
    colour = MAP(0.25 + 0.75 * strength[..., 0])[..., :3]  # the darkest end would hide the image
    mixed = light[..., None] * (1 - 0.85 * strength) + colour * 0.85 * strength
    return np.where(np.isnan(share)[..., None], REMOVED, mixed)


def attention_pairs(
    images: Mapping[str, np.ndarray],
    modalities: Mapping[str, Modality],
    queries: Mapping[str, int],
    looks: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
    masks: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Draw what a patch of each sensor looks at in the other sensors.

    Args:
        images: {sensor: (C, H, W)} of one sample, in the sensors' units.
        modalities: the sensors; each asks in turn, in this order.
        queries: {what it is: number of the patch that asks, row by row}, one row of panels each.
        looks: {what it is: {sensor that asks: {sensor that answers: (rows, cols)}}}, see `fmlib.attention.look_across`.
        masks: {sensor: (rows, cols)}, 0 keep, 1 remove, greyed out in the images that ask.

    Returns:
        The figure: the image that asks, its patch framed, and an arrow to the patch it looks at most in each of the
        others; below them that patch's share of the attention.
    """
    names = list(modalities)
    each, shape = len(names), next(iter(images.values())).shape
    fig, axes = image_panels(
        len(queries), each * len(names), shape[-2] / shape[-1], breaks=range(each, each * len(names), each),
        left=0.2, top=0.3, bottom=0.2, gap=0.1, row_gap=0.3, largest=1.9,
    )  # fmt: skip
    for row, (label, patch) in zip(axes, queries.items(), strict=True):
        row[0].set_ylabel(wrap(label, 1.6, 8, 1), fontsize=8, labelpad=3)
        for panels, name in zip(row.reshape(-1, each), names, strict=True):
            others = [other for other in names if other != name]
            found = looks[label].get(name, {})
            _draw_query(panels[0], images[name], modalities[name], patch, found, masks and masks.get(name))
            for ax, other in zip(panels[1:], others, strict=True):
                _draw_answer(ax, images[other], modalities[other], found.get(other))
                if other in found:
                    _connect(panels[0], ax, patch, found[other])
    for panels, name in zip(axes[0].reshape(-1, each), names, strict=True):
        panels[0].set_title(f"{modalities[name].title} asks", loc="left", fontsize=8, pad=3)
        for ax, other in zip(panels[1:], (other for other in names if other != name), strict=True):
            ax.set_title(f"{modalities[other].title} answers", loc="left", fontsize=8, pad=3)
    return fig


def attention_heads(
    image: np.ndarray,
    modality: Modality,
    looks: Mapping[str, np.ndarray],
    patch: int | None = None,
) -> Figure:
    """Draw where one patch looks in one sensor, head by head.

    Args:
        image: (C, H, W) of the sensor that answers.
        modality: the sensor.
        looks: {layer: (heads, rows, cols)}, one row of panels each; layers may differ in their heads.
        patch: number of the patch that asks, framed; None: it lies in no image.

    Returns:
        The figure; below each panel the largest share of a patch.
    """
    heads = max(len(maps) for maps in looks.values())
    margins = {"left": 0.22, "top": 0.26, "bottom": 0.2, "gap": 0.08, "row_gap": 0.2}
    fig, axes = image_panels(len(looks), heads, image.shape[-2] / image.shape[-1], **margins, largest=1.3)
    for row, (layer, maps) in zip(axes, looks.items(), strict=True):
        row[0].set_ylabel(wrap(layer, 1.2, 8, 1), fontsize=8, labelpad=3)
        for head, ax in enumerate(row):
            ax.set_visible(head < len(maps))
            if head < len(maps):
                _draw_answer(ax, image, modality, maps[head])
                _frame(ax, patch, maps[head].shape, image.shape[-2:])
    for head, ax in enumerate(axes[0]):
        ax.set_title(f"head {head}", fontsize=8, pad=3, loc="left")
    return fig


def attention_sources(
    images: Mapping[str, np.ndarray],
    modalities: Mapping[str, Modality],
    looks: Mapping[str, Mapping[str, np.ndarray]],
    queries: Mapping[str, tuple[str, int]],
    masks: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> Figure:
    """Draw where one patch looks in all sensors, under several conditions or measured in several ways.

    Args:
        images: {sensor: (C, H, W)} of one sample.
        modalities: the sensors, one column each.
        looks: {condition: {sensor: (rows, cols)}}, one row each; a sensor that is not there did not answer.
        queries: {condition: sensor and number of the patch that asks}, framed in its sensor.
        masks: {condition: {sensor: (rows, cols)}}, 0 keep, 1 remove; removed patches are grey and do not count.

    Returns:
        The figure; below each panel its largest value, and the sensor's part of the sum over all sensors.
    """
    if masks is not None:
        looks = {c: {n: _visible(w, masks[c].get(n)) for n, w in maps.items()} for c, maps in looks.items()}
    aspect = np.divide(*next(iter(images.values())).shape[-2:])
    margins = {"left": 0.22, "top": 0.24, "bottom": 0.2, "gap": 0.1, "row_gap": 0.22}
    fig, axes = image_panels(len(looks), len(modalities), aspect, **margins, largest=1.6)
    for row, (condition, maps) in zip(axes, looks.items(), strict=True):
        row[0].set_ylabel(wrap(condition, 1.5, 8, 2), fontsize=8, labelpad=3)
        total = sum(np.nansum(to_numpy(weights)) for weights in maps.values())
        for ax, (name, modality) in zip(row, modalities.items(), strict=True):
            weights = maps.get(name)
            _draw_answer(ax, images[name], modality, weights, "does not answer" if maps else "does not ask here")
            if weights is not None and total > 0:
                ax.set_xlabel(f"{ax.get_xlabel()}, sum {100 * np.nansum(to_numpy(weights)) / total:.0f} %", loc="left")
            if name == queries[condition][0]:
                _frame(ax, queries[condition][1], _grid_of(name, looks), images[name].shape[-2:])
    for ax, modality in zip(axes[0], modalities.values(), strict=True):
        ax.set_title(modality.title, loc="left", fontsize=8, pad=3)
    return fig


# -- parts ------------------------------------------------------------------------------------------------------------


def _draw_query(ax: Axes, image, modality: Modality, patch: int, found: Mapping[str, np.ndarray], mask) -> None:
    picture = stretch(image, modality)[0]
    ax.imshow(picture if mask is None else hide(picture, mask), aspect="auto", interpolation="nearest")
    if found:
        _frame(ax, patch, next(iter(found.values())).shape, image.shape[-2:])
    else:
        ax.set_xlabel("does not ask here", fontsize=SMALL, labelpad=2, loc="left")


def _draw_answer(ax: Axes, image, modality: Modality, weights, silent: str = "does not answer") -> None:
    picture = stretch(image, modality)[0]
    if weights is None or np.isnan(to_numpy(weights)).all():
        ax.imshow(np.full_like(picture, REMOVED), aspect="auto")
        ax.set_xlabel(silent, fontsize=SMALL, labelpad=2, loc="left", color="0.3")
        return
    ax.imshow(overlay(picture, weights), aspect="auto", interpolation="nearest")
    text = f"0…{100 * np.nanmax(to_numpy(weights)):.2g} %"
    ax.set_xlabel(wrap(text, panel_width(ax), SMALL, 1), fontsize=SMALL, labelpad=2, loc="left", color="0.3")


def _grid_of(sensor: str, looks: Mapping[str, Mapping[str, np.ndarray]]) -> Pair:
    """The grid of a sensor, where it answers somewhere; else that of any other, as sensors mostly share one."""
    shapes = [(name == sensor, weights.shape) for maps in looks.values() for name, weights in maps.items()]
    return max(shapes)[1] if shapes else (1, 1)


def _visible(weights, mask) -> np.ndarray:
    return to_numpy(weights) if mask is None else np.where(to_numpy(mask) > 0, np.nan, to_numpy(weights))


def _frame(ax: Axes, patch: int | None, grid: Pair, size: Pair) -> None:
    """Frame a patch of a grid in an image of `size` pixels."""
    if patch is None:
        return
    p, q = size[0] / grid[0], size[1] / grid[1]
    row, col = divmod(patch, grid[1])
    box = (col * q - 0.5, row * p - 0.5)
    for colour, width in (("white", 2.2), (QUERY, 1.2)):
        ax.add_patch(Rectangle(box, q, p, fill=False, ec=colour, lw=width, clip_on=False))


def _connect(asks: Axes, answers: Axes, patch: int, weights) -> None:
    """An arrow from the patch that asks to the one it looks at most."""
    weights = to_numpy(weights)
    if np.isnan(weights).all():
        return
    best = int(np.nanargmax(weights))
    ends = [_centre(ax, number, weights.shape) for ax, number in ((asks, patch), (answers, best))]
    look = {"arrowstyle": "-|>", "mutation_scale": 7, "shrinkA": 3, "shrinkB": 2}
    for colour, width in (("white", 2.4), (QUERY, 1.1)):
        arrow = ConnectionPatch(*ends, "data", "data", axesA=asks, axesB=answers, color=colour, lw=width, **look)
        asks.figure.add_artist(arrow)


def _centre(ax: Axes, patch: int, grid: Pair) -> tuple[float, float]:
    height, width = ax.images[0].get_array().shape[:2]
    row, col = divmod(patch, grid[1])
    return (col + 0.5) * width / grid[1] - 0.5, (row + 0.5) * height / grid[0] - 0.5


def _enlarge(weights: np.ndarray, size: Pair) -> np.ndarray:
    """Patches (rows, cols) to pixels (H, W), whose patches may be of unequal size."""
    rows, cols = (np.arange(side) * n // side for side, n in zip(size, weights.shape, strict=True))
    return weights[rows[:, None], cols]
