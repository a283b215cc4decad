"""Figures of what is in the data: histograms, speckle, labels, information shared by two sensors."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import stats

from ..modality import Modality
from ..quality import is_radar, to_power
from .images import draw_image
from .style import LINE_STYLES, MARKERS, OKABE_ITO, ONE_COLUMN, SMALL, bare, charts, note, settle, to_numpy, wrap


def band_histograms(values: Mapping[str, np.ndarray], modalities: Mapping[str, Modality], bins: int = 80) -> Figure:
    """Draw how the values of each band are distributed, raw and normalised.

    Args:
        values: (N, C, H, W) of each sensor, in its unit, or a list of (C, H, W) of any sizes.
        modalities: the sensors.
        bins: number of histogram bins.

    Returns:
        One row a sensor: values in their unit, and z-scores ``(x − mean) / std`` clipped as the model clips them,
        beside the standard normal density.
    """
    fig, axes = charts(len(values), 2, height=0.35 + 1.75 * len(values))
    for (raw, normal), (name, images) in zip(axes, values.items(), strict=True):
        modality = modalities[name]
        bands = [to_numpy(image).reshape(modality.in_chans, -1).astype(float) for image in images]
        bands = np.concatenate(bands, axis=1)  # (C, N·H·W)
        bands = bands[:, np.isfinite(bands).all(axis=0)]
        low, high = np.percentile(bands, (0.1, 99.5))
        lattice = bool((bands == bands.round()).all())
        for i, band in enumerate(bands):
            look = dict(zip(("color", "ls"), band_look(i, len(bands)), strict=True), lw=1.1, label=modality.bands[i])
            _density(raw, band, _edges(low, high, bins, lattice), look)
            mean, std = modality.mean[i], modality.std[i]
            edges = _edges(mean - 4 * std, mean + 4 * std, bins, lattice)
            _density(normal, np.clip(band, *modality.valid_range), edges, look, mean, std)
        x = np.linspace(-4, 4, 200)
        normal.plot(x, stats.norm.pdf(x), color="0.6", lw=3, zorder=0, solid_capstyle="round", label="normal law")
        raw.set(title=modality.title, xlabel=f"value ({modality.unit})", ylabel="density", yticks=[])
        normal.set(title=f"{modality.title}, normalised", xlabel="z-score (1)", yticks=[], xlim=(-4, 4))
        raw.set_ylim(bottom=0)
        normal.set_ylim(bottom=0)
        columns = 1 + (modality.in_chans > 6)
        normal.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=SMALL, ncols=columns, labelspacing=0.25)
    return settle(fig)


def _edges(low: float, high: float, bins: int, lattice: bool) -> np.ndarray:
    """Bin edges; for whole numbers each bin holds equally many of them, else the histogram shows a comb."""
    step = max(1, np.ceil((high - low) / bins)) if lattice else (high - low) / bins
    return np.arange(np.floor(low) - 0.5 if lattice else low, high + step, step)


def _density(ax: Axes, values: np.ndarray, edges: np.ndarray, look: dict, mean: float = 0.0, std: float = 1.0):
    """Draw the density of (values − mean) / std over bins given in the values' unit."""
    density = np.histogram(values, edges)[0] / (values.size * np.diff(edges))
    ax.plot(((edges[1:] + edges[:-1]) / 2 - mean) / std, density * std, **look)


def band_look(i: int, count: int) -> tuple:
    """Colour and line style of band `i`: Okabe–Ito for few bands, viridis in band order for many."""
    if count <= 4:
        return OKABE_ITO[i], LINE_STYLES[i]
    return plt.get_cmap("viridis")(0.92 * i / (count - 1)), LINE_STYLES[i % len(LINE_STYLES)]


def speckle(
    image: np.ndarray, modality: Modality, window: tuple[int, int, int], looks: float, band: int = 0, bins: int = 40
) -> Figure:
    """Compare the intensities of a homogeneous window with the gamma law of multi-look speckle.

    Args:
        image: (C, H, W) SAR image, in the unit of `modality`.
        modality: its sensor.
        window: row and column of the window's first pixel, and its side, in pixels.
        looks: equivalent number of looks L, e.g. from `quality.equivalent_number_of_looks`.
        band: channel used.
        bins: number of histogram bins.

    Returns:
        The image with the window, and the window's intensities over their mean: histogram, gamma law of shape L and
        mean 1, and the exponential law of a single look (Goodman).
    """
    row, col, side = window
    power = to_power(to_numpy(image)[band], modality)[row : row + side, col : col + side]
    ratio = (power / power.mean()).ravel()
    fig, axes = charts(1, 2, height=2.5, gridspec_kw={"width_ratios": [1, 2]})
    left, right = axes[0]
    name = modality.bands[band]
    draw_image(bare(left), image, modality.replace(rgb=(name,)), title=f"{modality.title}, {name}", note=True)
    left.set_aspect("equal")
    left.add_patch(Rectangle((col - 0.5, row - 0.5), side, side, fill=False, ec=OKABE_ITO[4], lw=1.5))
    spread = 4 / np.sqrt(looks)
    x = np.linspace(0 if spread > 0.8 else 1 - spread, 1 + max(spread, 6 / looks), 300)
    label = f"window of {side} × {side} pixels"
    right.hist(ratio, bins=bins, range=(x[0], x[-1]), density=True, color="0.82", label=label)
    right.plot(x, stats.gamma.pdf(x, looks, scale=1 / looks), label=f"gamma law, {looks:.3g} looks")
    right.plot(x, stats.expon.pdf(x), ls="--", label="single look")
    right.set(xlabel="intensity over its mean (1)", ylabel="density", xlim=(x[0], x[-1]))
    right.set_ylim(0, 1.25 * max(stats.gamma.pdf(x, looks, scale=1 / looks).max(), 1))
    if modality.unit != "dB":
        why = "a relative scale, so not the sensor's looks" if is_radar(modality) else "no radar, so no such law"
        right.set_title(f"{modality.unit}: {why}", fontsize=SMALL + 0.5)
    right.legend(loc="upper right")
    return settle(fig)


def label_counts(counts: Sequence[float], classes: Sequence[str], unit: str = "samples") -> Figure:
    """Draw how often each class occurs, as one bar a class.

    Args:
        counts: (classes,) number of samples or pixels.
        classes: their names.
        unit: what is counted, e.g. ``"samples"`` or ``"pixels of 24 samples"``.

    Returns:
        The figure; shares of the sum stand at the bars when pixels are counted, numbers otherwise.
    """
    if not len(classes):
        return note("There are no classes to count.")
    counts = to_numpy(counts)
    if len(counts) != len(classes):
        raise ValueError(f"{len(counts)} counts for {len(classes)} classes; give one a class")
    names = [wrap(name, 2.9, 8, 2) for name in classes]
    fig, axes = charts(1, 1, height=0.55 + 0.14 * sum(1 + n.count("\n") for n in names) + 0.08 * len(names), width=5.6)
    ax = axes[0, 0]
    bars = ax.barh(names, counts, color=OKABE_ITO[0], height=0.66)
    share = unit.startswith("pixels")
    texts = [f"{c / max(counts.sum(), 1):.1%}" if share else f"{c:,.0f}" for c in counts]
    ax.bar_label(bars, texts, padding=3, fontsize=8)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.12, y=0.02)
    ax.xaxis.set_major_locator(plt.MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.set_xlabel(f"number of {unit}")
    return settle(fig)


def mutual_information_curve(shifts: Sequence[float], curves: Mapping[str, np.ndarray], unit: str = "pixels") -> Figure:
    """Draw how much two images tell about each other as one is shifted against the other.

    Args:
        shifts: (S,) shifts.
        curves: (S,) or (N, S) normalised mutual information for each kind of pair, e.g. true and wrong; of N pairs
            the median and the middle half are drawn.
        unit: of the shifts.

    Returns:
        The figure.
    """
    fig, axes = charts(1, 1, height=2.5, width=ONE_COLUMN + 0.6)
    ax = axes[0, 0]
    for i, (label, values) in enumerate(curves.items()):
        low, middle, high = np.percentile(np.atleast_2d(to_numpy(values)), (25, 50, 75), axis=0)
        count = len(np.atleast_2d(values))
        label = f"{label} (n = {count})" if count > 1 else label
        ax.plot(shifts, middle, color=OKABE_ITO[i], ls=LINE_STYLES[i % 4], marker=MARKERS[i], ms=3, label=label)
        ax.fill_between(shifts, low, high, color=OKABE_ITO[i], alpha=0.18, lw=0)
    ax.axvline(0, color="0.8", lw=0.8, zorder=0)
    ax.set(xlabel=f"shift ({unit})", ylabel="normalised mutual information (1)")
    ax.set_ylim(bottom=0)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2, borderaxespad=0.2)
    return settle(fig)
