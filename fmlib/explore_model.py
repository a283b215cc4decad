"""Widgets for a pretrained model: click a patch and see where it looks, hide patches and see what is painted there.

As in `fmlib.explore`, each draws through a figure function that the notebook has called before, is None in a batch
run, and works with Tab and the arrow keys. A pass of the model is kept until a setting changes that it depends on.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from . import attention, in_batch, viz
from .explore import live
from .masking import STRATEGIES, draw_masks, masks_from_arrays
from .models.fusmae import FusMAE

Images = dict[str, Tensor]
MEAN, HIDDEN, MOST_BUTTONS = "mean", "#B8B8B8", 256


def draw_looks(model: FusMAE, shown: Images, masks, seen: attention.Seen, stage: str, head: str | int, patch: int):
    """Where the patch of each sensor at one place looks, drawn with `viz.attention_sources`.

    Args:
        shown, masks, seen: from `attention.watch_sample`.
        stage: of the model, e.g. ``"late"``. head: its number, or ``"mean"``.
        patch: its number in the first sensor; other sensors' at the same place.
    """
    row, col = divmod(patch, next(iter(seen.grids.values()))[1])
    looks, queries = {}, {}
    for name, (rows, cols) in seen.grids.items():
        asks, own = f"{model.modalities[name].title} asks", min(row, rows - 1) * cols + min(col, cols - 1)
        across = {asks: {}}
        if stage in seen.stages:  # with one sensor alone some are not there
            across = attention.look_across(seen, stage, {asks: own}, None if head == MEAN else head)
        looks[asks], queries[asks] = across[asks].get(name, {}), (name, own)
    return viz.attention_sources(shown, model.modalities, looks, queries, dict.fromkeys(looks, masks))


def explore_model(model: FusMAE, images: Images, seed: int = 0) -> widgets.Widget | None:
    """`explore_attention` and `explore_masks` as two tabs; None in a batch run."""
    if in_batch():
        return None
    tabs = [explore_attention(model, images, seed), explore_masks(model, images, seed)]
    return widgets.Tab(tabs, titles=("Where does it look?", "What does it paint?"))


def explore_attention(model: FusMAE, images: Images, seed: int = 0) -> widgets.Widget | None:
    """Click a patch: where do both sensors' tokens of that place look, layer by layer and head by head?

    Args:
        model, images, seed: as for `attention.watch_sample`.

    Returns:
        Sliders, the scene as a mosaic of buttons (for up to 256 patches), and the figure; None in a batch run.
    """
    if in_batch():
        return None
    passes = lru_cache(4)(partial(attention.watch_sample, model, images, seed))
    *_, last = images
    seen = passes(mask_ratio=0.5, strategy="independent", removed="", down=0, right=0)[2]  # has every stage
    stages = [stage for stage in seen.stages if not stage.startswith("decoder")]  # there, no sensor sees another
    heads = max(layer.rows(slice(0, 1)).shape[1] for layer in seen.layers.values())
    (rows, cols), reach = next(iter(seen.grids.values())), 2 * max(model.modalities[last].patch_size)
    slow = {"continuous_update": False}  # each stop of these is a pass of the model
    controls = {
        "stage": widgets.SelectionSlider(options=stages, value=stages[-1], description="layer"),
        "head": widgets.SelectionSlider(options=[MEAN, *range(heads)], description="head"),
        "mask_ratio": widgets.FloatSlider(0, min=0, max=0.95, step=0.05, description="mask ratio", **slow),
        "strategy": widgets.Dropdown(options=STRATEGIES, description="masks"),
        "removed": widgets.Dropdown(options=[("none", ""), *((name, name) for name in images)], description="removed"),
        "down": widgets.IntSlider(0, -reach, reach, description=f"{last} down", **slow),
        "right": widgets.IntSlider(0, -reach, reach, description=f"{last} right", **slow),
        "patch": widgets.IntSlider(rows // 2 * cols + cols // 2, 0, rows * cols - 1, description="patch"),
    }

    def choose(patch: int) -> None:
        controls["patch"].value = patch

    def draw(stage, head, patch, **settings) -> Figure:
        return draw_looks(model, *passes(**settings), stage, head, patch)

    buttons = patch_buttons(images[last], model.modalities[last], (rows, cols), choose)
    follow_mark(buttons, controls["patch"])
    return widgets.HBox([widgets.VBox([*controls.values(), buttons]), live(draw, controls)])


def explore_masks(model: FusMAE, images: Images, seed: int = 0) -> widgets.Widget | None:
    """Draw your own mask: click patches away, sensor by sensor, and see what the model paints there.

    Args:
        model, images, seed: as for `attention.watch_sample`.

    Returns:
        A mosaic of buttons a sensor (of up to 256 patches), and the reconstruction; None in a batch run.
    """
    if in_batch():
        return None
    grids = {name: model.embed[name].grid_of(image.shape[1:]) for name, image in images.items()}
    if max(rows * cols for rows, cols in grids.values()) > MOST_BUTTONS:
        return widgets.Label(f"more than {MOST_BUTTONS} patches are too many to click; crop the images")
    draws = torch.Generator().manual_seed(seed)
    masks = {name: mask.mask[0].numpy() for name, mask in draw_masks(grids, 1, mask_ratio=0.5, generator=draws).items()}
    step, boxes = widgets.IntText(0), {}  # counts the clicks, so that the picture follows

    def show() -> None:
        for name, (buttons, colours) in boxes.items():
            for button, colour, hidden in zip(buttons.children, colours, masks[name], strict=True):
                button.style.button_color = HIDDEN if hidden else colour

    def click(name: str, patch: int) -> None:
        masks[name][patch] = 1 - masks[name][patch]
        if all(mask.all() for mask in masks.values()):  # the encoder needs something to see
            masks[name][patch] = 0
        show()
        step.value += 1

    for name, image in images.items():
        buttons = patch_buttons(image, model.modalities[name], grids[name], lambda patch, name=name: click(name, patch))
        boxes[name] = buttons, [button.style.button_color for button in buttons.children]
    show()
    picture = live(lambda step: draw_reconstruction(model, images, masks), {"step": step})
    titled = [widgets.VBox([widgets.Label(model.modalities[n].title), box]) for n, (box, _) in boxes.items()]
    return widgets.VBox([widgets.HBox(titled, layout={"grid_gap": "24px"}), picture])


def draw_reconstruction(model: FusMAE, images: Images, masks: Mapping[str, np.ndarray]) -> Figure:
    """One sample with hidden patches and what a model paints there, drawn with `viz.reconstruction_gallery`.

    Args:
        images: {sensor: (C, H, W)}. masks: {sensor: (L,)}, 0 keep, 1 remove.
    """
    batch = {name: image[None] for name, image in images.items()}
    drawn = masks_from_arrays({name: torch.as_tensor(mask)[None] for name, mask in masks.items()})
    return viz.reconstruction_gallery(batch, *model.reconstruct(batch, drawn), model.modalities)


def patch_buttons(image, modality, grid: tuple[int, int], click: Callable[[int], None], side: int = 24):
    """An image as a mosaic of buttons, one a patch, in the patches' mean colours.

    Args:
        image: (C, H, W), in the unit of `modality`. grid: rows and columns of patches.
        click: called with the number of the patch.
        side: of a button, in pixels.

    Returns:
        A GridBox of the buttons, row by row; an empty one for more than 256 patches.
    """
    rows, cols = grid
    lattice = widgets.Layout(grid_template_columns=f"repeat({cols}, {side}px)", grid_gap="1px")
    if rows * cols > MOST_BUTTONS:
        return widgets.GridBox(layout=lattice)
    picture = torch.as_tensor(viz.stretch(image, modality)[0].copy()).permute(2, 0, 1)
    colours = torch.nn.functional.adaptive_avg_pool2d(picture, grid).flatten(1).T.clamp(0, 1).tolist()
    layout = widgets.Layout(width=f"{side}px", height=f"{side}px", padding="0", margin="0")
    buttons = []
    for patch, colour in enumerate(colours):
        place = "row {}, column {}".format(*divmod(patch, cols))
        button = widgets.Button(layout=layout, tooltip=place, style={"button_color": to_hex(colour)})
        button.on_click(lambda _, patch=patch: click(patch))
        buttons.append(button)
    return widgets.GridBox(buttons, layout=lattice)


def follow_mark(buttons: widgets.GridBox, slider: widgets.IntSlider) -> None:
    """Keep a mark on the button whose number a slider shows."""

    def mark(change) -> None:
        for patch, text in ((change["old"], " "), (change["new"], "●")):  # given "", a button keeps its text
            if patch < len(buttons.children):
                buttons.children[patch].description = text

    slider.observe(mark, names="value")
    mark({"old": slider.value, "new": slider.value})
