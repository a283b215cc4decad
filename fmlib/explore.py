"""Widgets that redraw the figures of `fmlib.viz` as a reader moves them; nothing in a notebook waits for one.

Each draws through a plain figure function that the notebook has called before, so a report without widgets lacks
nothing. In a batch run (`fmlib.in_batch()`) they return None. All of them work with Tab and the arrow keys.
"""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from io import BytesIO

import ipywidgets as widgets
import numpy as np
from matplotlib.figure import Figure

from . import in_batch, viz

ANY = "any label"


def browse(draw: Callable[..., Figure], **controls: widgets.Widget) -> widgets.Widget | None:
    """Redraw a figure as its controls move.

    Args:
        draw: returns a figure; called with the controls' values by name.
        controls: ipywidgets that have a ``value``.

    Returns:
        The controls above the figure; None in a batch run.
    """
    if in_batch():
        return None
    return widgets.VBox([widgets.HBox(list(controls.values())), live(draw, controls)])


def live(draw: Callable[..., Figure], controls: Mapping[str, widgets.Widget]) -> widgets.Widget:
    """A picture that is drawn again whenever one of its controls moves.

    Args:
        draw: returns a figure; called with the controls' values by name.
        controls: ipywidgets that have a ``value``.

    Returns:
        The picture, and below it the error if `draw` raised one; the last picture stays then.
    """
    picture, message = widgets.Image(format="png"), widgets.HTML()

    def redraw(_=None):
        try:
            figure = draw(**{name: control.value for name, control in controls.items()})
            picture.value, message.value = png(figure), ""
            picture.layout.width = f"{96 * figure.get_figwidth():.0f}px"
        except Exception as error:  # in a callback nobody would see it
            message.value = f"<b>{type(error).__name__}</b>: {escape(str(error))}"

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return widgets.VBox([picture, message])


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG, for screens of high resolution."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=144, pil_kwargs={"compress_level": 1})  # written often, sent once
    return buffer.getvalue()


def browse_pairs(dataset, count: int = 100) -> widgets.Widget | None:
    """Look through the pairs of a data set, one at a time, all or those of one class.

    Args:
        dataset: a map-style data set.
        count: how many of its first samples can be reached; those of a class are looked up when it is first chosen.

    Returns:
        A slider, a choice of the label and the pair; None in a batch run.
    """
    if in_batch():
        return None
    reached, cache = range(min(count, len(dataset))), {}
    slider = widgets.SelectionSlider(options=reached, description="sample", continuous_update=False)
    label = widgets.Dropdown(options=[ANY, *dataset.classes], description="label")
    note = widgets.Label()

    def choose(change):
        found = [i for i in reached if has_label(_read(dataset, i, cache), dataset.classes, change["new"])]
        note.value = "" if found else f"none of the first {len(reached)} samples; showing all"
        slider.options = found or reached

    label.observe(choose, names="value")
    pictures = browse(lambda sample: draw_pair(dataset, sample, cache), sample=slider)
    return widgets.VBox([widgets.HBox([label, note]), pictures])


def before_after(
    before: np.ndarray, after: np.ndarray, names: tuple[str, str] = ("before", "after")
) -> widgets.Widget | None:
    """Wipe from one picture to another, with `viz.wipe`.

    Args:
        before, after: (H, W) or (H, W, 3), 0 to 255, of one size.
        names: of both.

    Returns:
        A slider and the pictures; None in a batch run.
    """
    if in_batch():
        return None
    slider = widgets.FloatSlider(0.5, min=0, max=1, step=0.02, description=names[0])
    return browse(lambda share: viz.wipe(before, after, share, names), share=slider)


def draw_pair(dataset, index: int, cache: dict | None = None) -> Figure:
    """One sample of a data set, drawn with `viz.show_pairs`.

    Args:
        dataset: a map-style data set.
        index: number of the sample.
        cache: samples read before, by number.

    Returns:
        The figure.
    """
    return viz.show_pairs(
        [_read(dataset, index, {} if cache is None else cache)], dataset.modalities, 1, dataset.classes
    )


def has_label(sample: dict, classes: Sequence[str], wanted: str) -> bool:
    """Does a sample show a class?

    Args:
        sample: its ``"label"`` is a class number, (classes,) 0/1, or (H, W) class numbers; it may lack one.
        classes: names of the classes.
        wanted: one of them, or `ANY`.

    Returns:
        True for `ANY`, and where the class is among the sample's.
    """
    if wanted == ANY:
        return True
    if sample.get("label") is None:
        return False
    label, number = np.asarray(sample["label"]), list(classes).index(wanted)
    return bool(label[number] > 0 if label.ndim == 1 else (label == number).any())


def _read(dataset, index: int, cache: dict) -> dict:
    if index not in cache:
        cache[index] = dataset[index]
    return cache[index]
