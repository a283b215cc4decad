"""Widgets that redraw the figures of `fmlib.viz` as a reader moves them; nothing in a notebook waits for one.

Each draws through a plain figure function that the notebook has called before, so a report without widgets lacks
nothing. In a batch run (`fmlib.in_batch()`) they return None. All of them work with Tab and the arrow keys.
"""

from collections.abc import Callable, Sequence

import ipywidgets as widgets
import numpy as np
from IPython.display import display
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
    picture = widgets.interactive_output(lambda **values: display(draw(**values)), controls)
    return widgets.VBox([widgets.HBox(list(controls.values())), picture])


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
