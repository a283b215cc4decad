"""Pictures of images: one stretch for every sensor, pairs side by side.

The rule of the stretch: decibels between fixed limits, everything else between its 2nd and 98th percentile; the
limits are printed beside each picture.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..data.corine import LEVEL_1
from ..modality import Modality
from .style import OKABE_ITO, REMOVED, SMALL, image_panels, panel_width, to_numpy, wrap

PERCENTILES = (2, 98)
DECIBELS = {"VV": (-25.0, 0.0), "HH": (-25.0, 0.0), "VH": (-30.0, -5.0), "HV": (-30.0, -5.0)}
NO_DATA = 255  # label of a pixel without data; negative labels mean the same
RATIO_LIMITS = (0.0, 15.0)  # dB: VV over VH of most land and water
LAND_COVER = dict(zip(LEVEL_1.values(), ("#9C9C9C", *(OKABE_ITO[i] for i in (4, 2, 3, 0))), strict=True))
Limits = list[tuple[float, float]]


def stretch(image: np.ndarray, modality: Modality, limits: Limits | None = None) -> tuple[np.ndarray, Limits]:
    """Turn an image of any sensor into a picture.

    Args:
        image: (C, H, W), in the unit of `modality`; NaN where there is no value.
        modality: says which bands make the picture (`rgb`: one, two or three of them). Two bands in decibels become
            the composite red = first, green = second, blue = first over second.
        limits: lowest and highest value shown of each band of the picture, e.g. those of another image; default:
            fixed for decibels, the 2nd and 98th percentile otherwise.

    Returns:
        Picture (H, W, 3), 0..1, grey where there is no value; and the limits used.
    """
    bands = to_numpy(image)[modality.index(*modality.rgb)].astype(float)  # (1..3, H, W)
    if len(bands) == 2:
        bands = np.stack([*bands, bands[0] - bands[1]])
    if limits is None:
        limits = _fixed_limits(modality) if modality.unit == "dB" else [_percentiles(band) for band in bands]
    low, high = np.array(limits).T[:, :, None, None]
    picture = np.clip((bands - low) / np.maximum(high - low, 1e-12), 0, 1)
    picture = np.where(np.isfinite(picture), picture, REMOVED)
    return np.moveaxis(np.broadcast_to(picture, (3, *picture.shape[1:])), 0, -1), limits


def _fixed_limits(modality: Modality) -> Limits:
    limits = [DECIBELS.get(band.upper(), modality.valid_range) for band in modality.rgb]
    return [*limits, RATIO_LIMITS] if len(limits) == 2 else limits


def _percentiles(band: np.ndarray) -> tuple[float, float]:
    values = band[np.isfinite(band)]
    return tuple(np.percentile(values, PERCENTILES).tolist()) if values.size else (0.0, 1.0)


def limits_text(modality: Modality, limits: Limits, unit: bool = True) -> str:
    """Say what a picture shows, e.g. ``VV −25…0 dB`` or ``2–98 %: B4 84…653, B3 …, reflectance × 10000``."""
    names = modality.rgb if len(modality.rgb) != 2 else (*modality.rgb, "ratio")
    parts = [f"{name}\u00a0{_short(low)}…{_short(high)}" for name, (low, high) in zip(names, limits, strict=True)]
    rule = "" if modality.unit == "dB" else "{}–{}\u00a0%: ".format(*PERCENTILES)
    text = rule + ", ".join(parts) + (" " + modality.unit.replace(" ", "\u00a0") if unit else "")
    return text.replace("-", "−")


def _short(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def show_pairs(
    samples: Sequence[Mapping],
    modalities: Mapping[str, Modality],
    ncols: int = 2,
    classes: Sequence[str] = (),
) -> Figure:
    """Draw the sensors of each sample side by side, with its name and labels.

    Args:
        samples: dicts of ``sensor: (C, H, W)``, ``"id"`` and, if there is one, ``"label"``: a class number, (classes,)
            0/1, or (H, W) class numbers (255 and negative: no data), drawn as a map. A sensor that a sample lacks is
            drawn as missing.
        modalities: the sensors to draw, in this order.
        ncols: samples in a row.
        classes: names of the classes.

    Returns:
        The figure.
    """
    if not samples:
        raise ValueError("no samples to draw; give at least one")
    maps = [to_numpy(sample["label"]) for sample in samples if np.ndim(sample.get("label")) == 2]
    names = _class_names(maps, classes)
    per_sample, ncols = len(modalities) + bool(maps), min(ncols, len(samples))
    fig, axes = image_panels(
        -(-len(samples) // ncols),
        per_sample * ncols,
        _aspect(samples, modalities),
        breaks=range(per_sample, per_sample * ncols, per_sample),
        top=0.68,
        bottom=0.48 + 0.25 * bool(maps),
        row_gap=1.14,
    )
    for panels, sample in zip(axes.reshape(-1, per_sample), samples, strict=False):
        for ax, modality in zip(panels, modalities.values(), strict=False):
            title = wrap(modality.title, 1.1 * panel_width(ax), 8, 1)  # letters are narrower than digits
            draw_image(ax, sample.get(modality.name), modality, title=title, note=True)
        if maps:
            _draw_label_map(panels[-1], sample.get("label"), names)
        room = panel_width(panels[0]) * per_sample
        title = wrap(f"{sample.get('id', '')}", room, 8, 1) + "\n"
        title += wrap(label_text(sample.get("label"), classes), room, SMALL, 2)
        panels[0].annotate(title, (0, 1), (0, 14), "axes fraction", "offset points", fontsize=8, va="bottom")
    for ax in axes.reshape(-1)[per_sample * len(samples) :]:
        ax.set_visible(False)
    if maps:
        _class_legend(fig, names)
    return fig


def draw_image(
    ax: Axes, image, modality: Modality, limits: Limits | None = None, title: str = "", note: bool = False
) -> Limits | None:
    """Draw one image into a panel.

    Args:
        ax: the panel.
        image: (C, H, W) in the sensor's unit, or None where the sample lacks the sensor.
        modality: its sensor.
        limits: of the stretch; default: `stretch`'s own.
        title: above the panel.
        note: print the limits below the panel.

    Returns:
        The limits used; None for a missing image.
    """
    ax.set_title(title, loc="left", fontsize=8, pad=2.5)
    if image is None:
        ax.set_facecolor("0.95")
        ax.text(0.5, 0.5, "missing", ha="center", va="center", color="0.35", transform=ax.transAxes)
        return None
    picture, limits = stretch(image, modality, limits)
    ax.imshow(picture, interpolation="nearest", aspect="auto")
    if note:
        text = wrap(limits_text(modality, limits), panel_width(ax), SMALL - 0.5, lines=4)
        ax.set_xlabel(text, fontsize=SMALL - 0.5, loc="left", labelpad=2, color="0.3", linespacing=1.1)
    return limits


def label_text(label, classes: Sequence[str] = ()) -> str:
    """A label in words: its class, its classes, or the share of each class in a label map."""
    if label is None:
        return "no label"
    label = to_numpy(label)
    names = _class_names([label], classes)
    if label.ndim == 0:
        return names[int(label)]
    if label.ndim == 1:
        return ", ".join(names[i] for i in np.flatnonzero(label > 0)) or "none of the classes"
    shares = {name: (label == i).mean() for i, name in enumerate(names)}
    shares["no data"] = ((label < 0) | (label == NO_DATA)).mean()
    return ", ".join(f"{name} {100 * share:.0f}\u2009%" for name, share in shares.items() if share)


def _class_names(labels, classes: Sequence[str]) -> list[str]:
    """Names of the classes; numbers for those that have no name."""
    numbers = [np.arange(label.size) if label.ndim == 1 else label[label != NO_DATA] for label in labels]
    count = max([len(classes), *(int(n.max()) + 1 for n in numbers if n.size)])
    return [*classes, *(f"class {i}" for i in range(len(classes), count))]


def _aspect(samples, modalities) -> float:
    for sample in samples:
        for name in modalities:
            if name in sample:
                return sample[name].shape[-2] / sample[name].shape[-1]
    raise ValueError(f"no sample has any of the sensors {list(modalities)}; its keys are {list(samples[0])}")


def class_colours(names: Sequence[str]) -> list:
    """One colour a class: of coarse land cover what one expects, else light grey for the first, then Okabe–Ito.

    After its eight come the same lighter, and darker.
    """
    if set(names) <= set(LAND_COVER):
        return [LAND_COVER[name] for name in names]
    shades = [[mix(colour, tone, share) for colour in OKABE_ITO] for tone, share in ((1, 0), (1, 0.55), (0, 0.45))]
    colours = [colour for shade in shades for colour in shade]
    return ["#D9D9D9", *(colours[i % len(colours)] for i in range(len(names) - 1))]


def mix(colour: str, tone: float, share: float) -> str:
    """A colour with a share of white (tone 1) or black (tone 0); black itself grows lighter either way."""
    tone = 0.8 if to_hex(colour) == "#000000" else tone
    return to_hex([(1 - share) * part + share * tone for part in to_rgb(colour)])


def _draw_label_map(ax: Axes, label, names: Sequence[str]):
    ax.set_title("Label", loc="left", fontsize=8, pad=2.5)
    if np.ndim(label) != 2:
        ax.set_facecolor("0.95")
        ax.text(0.5, 0.5, "no label", ha="center", va="center", color="0.35", transform=ax.transAxes)
        return
    label = to_numpy(label).astype(int)
    shown = np.ma.masked_where((label < 0) | (label == NO_DATA), label)  # white where there is no label
    ax.imshow(shown, cmap=ListedColormap(class_colours(names)), vmin=-0.5, vmax=len(names) - 0.5, aspect="auto")


def _class_legend(fig: Figure, names: Sequence[str]):
    handles = [Patch(color=c, label=n) for c, n in zip(class_colours(names), names, strict=True)]
    fig.legend(handles=handles, loc="lower left", ncols=6, borderaxespad=0.1, handlelength=1, columnspacing=1)
