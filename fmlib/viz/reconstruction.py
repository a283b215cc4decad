"""Galleries of reconstructions; all panels of one image share the stretch of the original."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ..modality import Modality
from .images import draw_image, limits_text, stretch
from .masks import hide, mask_pixels
from .style import REMOVED, SMALL, image_panels, to_numpy, wrap

PANELS = ("original", "input", "prediction", "pasted")
ERRORS = "cividis"


def reconstruction_gallery(
    original: Mapping[str, np.ndarray],
    prediction: Mapping[str, np.ndarray],
    pasted: Mapping[str, np.ndarray],
    mask: Mapping[str, np.ndarray],
    modalities: Mapping[str, Modality],
    ids: Sequence[str] = (),
) -> Figure:
    """Draw, for each example and sensor: the original, the input, the prediction, and the prediction pasted in.

    Args:
        original: (B, C, H, W) of each sensor, in its unit.
        prediction: the model's image, same shape and unit (per-patch normalisation undone).
        pasted: visible patches of the original, removed ones of the prediction.
        mask: (B, rows, cols), 0 keep, 1 remove; removed patches of the input are grey.
        modalities: the sensors, side by side.
        ids: names of the examples, printed at their rows.

    Returns:
        The figure.
    """
    count, aspect = _size(original)
    fig, axes = image_panels(
        count,
        4 * len(modalities),
        aspect,
        breaks=range(4, 4 * len(modalities), 4),
        left=0.06,
        top=0.52,
        gap=0.04,
        row_gap=0.34,
        bottom=0.2,
    )
    for i, row in enumerate(axes):
        for panels, (name, modality) in zip(row.reshape(-1, 4), modalities.items(), strict=True):
            limits = draw_image(panels[0], original[name][i], modality)
            panels[1].imshow(hide(stretch(original[name][i], modality, limits)[0], mask[name][i]), aspect="auto")
            draw_image(panels[2], prediction[name][i], modality, limits)
            draw_image(panels[3], pasted[name][i], modality, limits)
            _note(panels, limits_text(modality, limits, unit=False))
            if i == 0:
                _head(panels, PANELS, f"{modality.title} ({modality.unit})")
        _name(row[0], ids, i)
    return fig


def error_maps(
    original: Mapping[str, np.ndarray],
    prediction: Mapping[str, np.ndarray],
    mask: Mapping[str, np.ndarray],
    modalities: Mapping[str, Modality],
    worst: float = 2.0,
    columns: int = 7,
) -> Figure:
    """Draw, for one example, where each band's prediction errs, and by how much.

    Args:
        original, prediction: (C, H, W) of each sensor, in its unit.
        mask: (rows, cols), 0 keep, 1 remove; kept patches were not predicted and are grey.
        modalities: the sensors; errors are in units of each band's standard deviation in the data set.
        worst: end of the colour scale, in those units.
        columns: panels a row.

    Returns:
        The figure: the absolute error of every band of every sensor, all on one scale.
    """
    found = []
    for name, modality in modalities.items():
        errors = np.abs(to_numpy(prediction[name]) - to_numpy(original[name])) / np.array(modality.std)[:, None, None]
        titles = [f"{modality.title}, {modality.bands[0]}", *modality.bands[1:]]
        found += [(title, error, mask[name]) for title, error in zip(titles, errors, strict=True)]
    columns = min(columns, len(found))
    rows, aspect = -(-len(found) // columns), found[0][1].shape[0] / found[0][1].shape[1]
    fig, axes = image_panels(rows, columns, aspect, top=0.25, bottom=0.55, row_gap=0.25)
    for ax, (title, error, hidden) in zip(axes.flat, found, strict=False):
        seen = np.ma.masked_where(mask_pixels(hidden, error.shape) == 0, error)
        ax.set_facecolor(str(REMOVED))
        picture = ax.imshow(seen, cmap=ERRORS, vmin=0, vmax=worst, aspect="auto", interpolation="nearest")
        ax.set_title(title, fontsize=SMALL, loc="left", pad=3)
    for ax in axes.flat[len(found) :]:
        ax.remove()
    bar = fig.add_axes((0.3, 0.36 / fig.get_figheight(), 0.4, 0.08 / fig.get_figheight()))
    fig.colorbar(picture, cax=bar, orientation="horizontal", extend="max", label="absolute error (std of the band)")
    return fig


def partner_gallery(
    target: np.ndarray,
    modality: Modality,
    partner: np.ndarray,
    wrong_partner: np.ndarray,
    partner_modality: Modality,
    predictions: Mapping[str, np.ndarray],
    mask: np.ndarray | None = None,
    ids: Sequence[str] = (),
) -> Figure:
    """Draw one sensor reconstructed with its true partner, with a wrong one, and with none.

    Args:
        target: (B, C, H, W) images of the reconstructed sensor, in its unit.
        modality: its sensor.
        partner: (B, C', H, W) images of the other sensor that belong to the targets.
        wrong_partner: (B, C', H, W) images of the other sensor from elsewhere.
        partner_modality: the other sensor.
        predictions: ``{"true": (B, C, H, W), "wrong": …, "none": …}``.
        mask: (B, rows, cols) of the target, 0 keep, 1 remove; errors count removed patches only. Default: all removed.
        ids: names of the examples.

    Returns:
        The figure; below each prediction stands its mean squared error in units of the sensor's std.
    """
    count, aspect = _size({"target": target})
    fig, axes = image_panels(
        count, 6, aspect, breaks=(1, 3, 5), left=0.06, top=0.52, gap=0.04, group_gap=0.16, row_gap=0.48, bottom=0.34
    )
    for i, panels in enumerate(axes):
        limits = draw_image(panels[0], target[i], modality)
        partner_limits = draw_image(panels[1], partner[i], partner_modality)
        draw_image(panels[3], wrong_partner[i], partner_modality, partner_limits)
        for ax, kind in zip(panels[[2, 4, 5]], ("true", "wrong", "none"), strict=True):
            draw_image(ax, predictions[kind][i], modality, limits)
            error = squared_error(predictions[kind][i], target[i], modality, None if mask is None else mask[i])
            ax.set_xlabel(f"MSE {error:.2f}", fontsize=SMALL, labelpad=2)
        notes = limits_text(modality, limits), limits_text(partner_modality, partner_limits)
        _note(panels, f"{modality.title} {notes[0]};  {partner_modality.title} {notes[1]}", drop=13)
        _name(panels[0], ids, i)
    _partner_heads(axes[0], modality.title, partner_modality.title)
    return fig


def _partner_heads(panels, sensor: str, partner: str):
    _head(panels[:1], (sensor,), "original")
    _head(panels[1:3], (partner, "prediction"), "true partner")
    _head(panels[3:5], (partner, "prediction"), "wrong partner")
    _head(panels[5:], ("prediction",), "no partner")


def squared_error(prediction, original, modality: Modality, mask=None) -> float:
    """Mean squared error in units of each band's std.

    Args:
        prediction, original: (C, H, W), in the sensor's unit.
        modality: the sensor.
        mask: (rows, cols), 0 keep, 1 remove; only removed patches count. Default: all.

    Returns:
        Mean over bands and pixels; 1 is the error of predicting the mean image.
    """
    z = (to_numpy(prediction) - to_numpy(original)) / np.array(modality.std)[:, None, None]
    weight = np.ones(z.shape[1:]) if mask is None else mask_pixels(mask, z.shape[1:])
    return float((z**2 * weight).sum() / (weight.sum() * len(z))) if weight.any() else float("nan")


def _size(images: Mapping[str, np.ndarray]) -> tuple[int, float]:
    """Number of examples, and height over width of the first sensor's images."""
    shape = next(iter(images.values())).shape
    return shape[0], shape[-2] / shape[-1]


def _head(panels, titles: Sequence[str], sensor: str = ""):
    for ax, title in zip(panels, titles, strict=True):
        ax.set_title(title, fontsize=SMALL + 0.5, pad=12, loc="center")
    panels[0].annotate(sensor, (0, 1), (0, 24), "axes fraction", "offset points", fontsize=8.5, fontweight="bold")


def _note(panels, text: str, drop: int = 3):
    """Print one line below a row of panels, `drop` points down."""
    first, last = panels[0].get_position(), panels[-1].get_position()
    text = wrap(text, (last.x1 - first.x0) * panels[0].figure.get_figwidth(), SMALL - 0.5, lines=1)
    look = {"fontsize": SMALL - 0.5, "color": "0.3", "va": "top"}
    panels[0].annotate(text, (0, 0), (0, -drop), "axes fraction", "offset points", **look)


def _name(ax, ids: Sequence[str], row: int):
    """Print an example's name above its row."""
    if row < len(ids):
        ax.annotate(
            str(ids[row]), (0, 1), (0, 2.5), "axes fraction", "offset points", fontsize=SMALL - 0.5, color="0.3"
        )
