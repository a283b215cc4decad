"""Maps of segmentation: the images, the truth, and what each model made of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .images import NO_DATA, PERCENTILES, class_colours, draw_image, limits_text, stretch
from .style import DEEPEST, OKABE_ITO, SMALL, TWO_COLUMNS, image_panels, panel_width, to_numpy, wrap

WIDEST = 8  # panels in a line; a site with more takes several lines
OUTCOMES = np.array([[0, 3], [2, 1]])  # [true, predicted]: background, hit; missed, false alarm
OUTCOME_COLOURS = ("#E3E3E3", OKABE_ITO[0], "#000000", OKABE_ITO[4])  # apart in lightness, too
UNKNOWN = "0.6"  # grey of a pixel without data
LARGEST = 1.6  # inches: side of a panel
FAINT = {"fontsize": SMALL - 0.5, "color": "0.3"}


def segmentation_gallery(
    images: Mapping[str, Mapping],
    truth: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    classes: Sequence[str],
    ids: Sequence[str] = (),
    scores: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Draw the images of some sites, their true map, and each model's map.

    Args:
        images: title of a column to ``{"image": (B, C, H, W), "modality": Modality}``, in the sensor's unit.
        truth: (B, H, W) class numbers; 255 and negative: no data.
        predictions: name of a model to its (B, H, W) class numbers.
        classes: their names. Of two, the first is background and the models' maps show hits, misses and false alarms.
        ids: names of the sites.
        scores: name of a model to (B,) IoU; default: of the second of two classes, otherwise the mean over the classes
            that occur or are predicted.

    Returns:
        The figure: a site in each row, or in several where there are more than eight panels (then give two or three
        sites); the IoU stands below a map.

    Raises:
        ValueError: images or maps of different numbers or sizes.
    """
    truth = to_numpy(truth).astype(int)
    predictions = {name: to_numpy(maps).astype(int) for name, maps in predictions.items()}
    _check(images, truth, predictions)
    titles, notes = [*images, "truth", *predictions], _notes(images)
    colours, legend = _look(truth, classes)
    fig, axes = _panels(truth, titles, notes, legend)
    for site, panels in enumerate(axes):
        for ax, column in zip(panels, images.values(), strict=False):
            draw_image(ax, column["image"][site], column["modality"])
        for ax, maps in zip(panels[len(images) :], [truth, *predictions.values()], strict=False):
            _draw_map(ax, truth[site], maps[site], len(classes), colours)
        for ax, (name, maps) in zip(panels[len(images) + 1 :], predictions.items(), strict=False):
            score = iou(truth[site], maps[site], len(classes)) if scores is None else scores[name][site]
            text = f"{'IoU' if len(classes) == 2 else 'mean IoU'} {'–' if np.isnan(score) else f'{score:.2f}'}"
            ax.set_xlabel(text, fontsize=SMALL, labelpad=2, loc="left")
        if site == 0 or len(titles) > WIDEST:
            for ax, title in zip(panels, titles, strict=False):
                ax.set_title(wrap(title, panel_width(ax), 7.5, 2), fontsize=7.5, pad=12 if ids else 4, linespacing=1)
        if site < len(ids):
            panels[0].annotate(str(ids[site]), (0, 1), (0, 2.5), "axes fraction", "offset points", **FAINT)
        for ax in panels[len(titles) :]:
            ax.set_visible(False)
    return fig


def iou(truth: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Intersection over union of one map, as it stands below it.

    Args:
        truth, predicted: (H, W) class numbers; 255 and negative in `truth`: no data, not counted.
        classes: number of classes.

    Returns:
        That of class 1 of two; of more, the mean over those that occur or are predicted. NaN where there are none.
    """
    known = ~_unknown(truth)
    pairs = [(truth[known] == k, predicted[known] == k) for k in ((1,) if classes == 2 else range(classes))]
    found = [(true & mine).sum() / (true | mine).sum() for true, mine in pairs if (true | mine).any()]
    return float(np.mean(found)) if found else float("nan")


def _unknown(truth: np.ndarray) -> np.ndarray:
    return (truth < 0) | (truth == NO_DATA)


def _check(images: Mapping[str, Mapping], truth: np.ndarray, predictions: Mapping[str, np.ndarray]) -> None:
    for name, maps in predictions.items():
        if maps.shape != truth.shape:
            raise ValueError(f"maps of {name!r} are {maps.shape}, the true ones {truth.shape}; they must agree")
    for title, column in images.items():
        if len(column["image"]) != len(truth):
            raise ValueError(f"{len(column['image'])} images {title!r} for {len(truth)} true maps; give one a site")


def _notes(images: Mapping[str, Mapping]) -> str:
    """How the images of each sensor are stretched."""
    notes = {}
    for modality in (column["modality"] for column in images.values()):
        if modality.unit == "dB":
            limits = stretch(np.zeros((modality.in_chans, 1, 1)), modality)[1]
            notes[modality.title] = limits_text(modality, limits)
        else:
            notes[modality.title] = f"{', '.join(modality.rgb)}, {PERCENTILES[0]}–{PERCENTILES[1]}\u00a0% of each image"
    return ";  ".join(f"{title}: {text}" for title, text in notes.items())


def _look(truth: np.ndarray, classes: Sequence[str]) -> tuple[list, list[Patch]]:
    """Colours of a map's numbers, and their legend."""
    names, colours = list(classes), class_colours(classes)
    if len(classes) == 2:
        names, colours = [classes[0], f"{classes[1]} (found)", "missed", "false alarm"], list(OUTCOME_COLOURS)
    colours.append(UNKNOWN)
    names += ["no data"] if _unknown(truth).any() else []
    return colours, [Patch(color=colour, label=name) for colour, name in zip(colours, names, strict=False)]


def _panels(truth: np.ndarray, titles: Sequence[str], notes: str, legend: Sequence[Patch]) -> tuple[Figure, np.ndarray]:
    """Panels (sites, lines · columns), with the note and the legend below them."""
    lines = -(-len(titles) // WIDEST)
    rows, cols, aspect = len(truth) * lines, -(-len(titles) // lines), truth.shape[1] / truth.shape[2]
    row_gap, top = (0.62, 0.48) if lines > 1 else (0.33, 0.48)
    deep = (DEEPEST - top - 1.2 - row_gap * (rows - 1)) / rows / aspect
    side = min(LARGEST, deep, (TWO_COLUMNS - 0.08 - 0.06 * (cols - 1)) / cols)
    width = 0.02 + cols * (side + 0.06)
    note = wrap(notes, width - 0.1, SMALL)
    ncols = max(1, int(width / (0.3 + 0.062 * max(len(patch.get_label()) for patch in legend))))
    below = 0.08 + 0.165 * -(-len(legend) // ncols)  # inches of the legend
    bottom = below + 0.24 + 0.12 * (1 + note.count("\n"))
    fig, axes = image_panels(rows, cols, aspect, top=top, bottom=bottom, row_gap=row_gap, largest=side)
    fig.text(0.04 / width, below / fig.get_figheight(), note, va="bottom", **FAINT)
    look = {"handlelength": 1, "columnspacing": 1.2, "fontsize": 7.5, "borderaxespad": 0.1, "labelspacing": 0.3}
    fig.legend(handles=legend, loc="lower left", ncols=ncols, **look)
    return fig, axes.reshape(len(truth), -1)


def _draw_map(ax: Axes, truth: np.ndarray, predicted: np.ndarray, classes: int, colours: Sequence) -> None:
    """A map in the colours of its classes or, of two classes, of its errors; grey where there is no data."""
    unknown = _unknown(truth)
    if classes == 2:
        predicted = OUTCOMES[np.where(unknown, 0, truth), predicted * ~unknown]
    shown = np.where(unknown, len(colours) - 1, predicted)
    ax.imshow(shown, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(colours) - 0.5, aspect="auto")
