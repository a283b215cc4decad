"""Figures of what is in the data: histograms, speckle, labels, information shared by two sensors."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import stats

from ..modality import Modality
from ..quality import to_power
from .images import draw_image
from .style import LINE_STYLES, MARKERS, OKABE_ITO, ONE_COLUMN, SMALL, charts, to_numpy, wrap


def band_histograms(values: Mapping[str, np.ndarray], modalities: Mapping[str, Modality], bins: int = 80) -> Figure:
    """Draw how the values of each band are distributed, raw and normalised.

    Args:
        values: (N, C, H, W) of each sensor, in its unit.
        modalities: the sensors.
        bins: number of histogram bins.

    Returns:
        One row a sensor: values in their unit, and z-scores ``(x − mean) / std`` clipped as the model clips them,
        beside the standard normal density.
    """
    fig, axes = charts(len(values), 2, height=0.35 + 1.75 * len(values))
    for (raw, normal), (name, images) in zip(axes, values.items(), strict=True):
        modality = modalities[name]
        bands = np.moveaxis(to_numpy(images), 1, 0).reshape(modality.in_chans, -1).astype(float)  # (C, N·H·W)
        bands = bands[:, np.isfinite(bands).all(axis=0)]
        mean, std = (np.array(v)[:, None] for v in (modality.mean, modality.std))
        _densities(raw, bands, modality, np.percentile(bands, (0.1, 99.5)), bins)
        _densities(normal, (np.clip(bands, *modality.valid_range) - mean) / std, modality, (-4, 4), bins)
        x = np.linspace(-4, 4, 200)
        normal.plot(x, stats.norm.pdf(x), color="0.6", lw=3, zorder=0, solid_capstyle="round", label="normal law")
        raw.set(title=modality.title, xlabel=f"value ({modality.unit})", ylabel="density", yticks=[])
        normal.set(title=f"{modality.title}, normalised", xlabel="z-score (1)", yticks=[], xlim=(-4, 4))
        columns = 1 + (modality.in_chans > 6)
        normal.legend(
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            fontsize=SMALL,
            ncols=columns,
            handlelength=1.6,
            labelspacing=0.25,
        )
    return fig


def _densities(ax: Axes, bands: np.ndarray, modality: Modality, span, bins: int):
    edges = np.linspace(*span, bins + 1)
    for i, (name, values) in enumerate(zip(modality.bands, bands, strict=True)):
        density = np.histogram(values, edges)[0] / (len(values) * np.diff(edges))
        colour, style = band_look(i, len(bands))
        ax.plot((edges[1:] + edges[:-1]) / 2, density, color=colour, ls=style, lw=1.1, label=name)
    ax.set_ylim(bottom=0)


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
    left.set(xticks=[], yticks=[])
    draw_image(left, image, modality.replace(rgb=(name,)), title=f"{modality.title}, {name}", note=True)
    left.set_aspect("equal")
    left.add_patch(Rectangle((col - 0.5, row - 0.5), side, side, fill=False, ec=OKABE_ITO[4], lw=1.5))
    x = np.linspace(0, max(3.0, np.percentile(ratio, 99.8)), 300)
    right.hist(
        ratio, bins=bins, range=(0, x[-1]), density=True, color="0.82", label=f"window of {side} × {side} pixels"
    )
    right.plot(x, stats.gamma.pdf(x, looks, scale=1 / looks), label=f"gamma law, {looks:.1f} looks")
    right.plot(x, stats.expon.pdf(x), ls="--", label="single look")
    right.set(xlabel="intensity over its mean (1)", ylabel="density", xlim=(0, x[-1]))
    right.set_ylim(0, 1.25 * max(stats.gamma.pdf(x, looks, scale=1 / looks).max(), 1))
    if modality.unit != "dB":
        right.set_title(f"{modality.unit}: a relative scale, so not the sensor's looks", fontsize=SMALL + 0.5)
    right.legend(loc="upper right")
    return fig


def label_counts(counts: Sequence[float], classes: Sequence[str], unit: str = "samples") -> Figure:
    """Draw how often each class occurs, as one bar a class.

    Args:
        counts: (classes,) number of samples or pixels.
        classes: their names.
        unit: what is counted.

    Returns:
        The figure; shares of the sum stand at the bars when pixels are counted, numbers otherwise.
    """
    counts = to_numpy(counts)
    if len(counts) != len(classes):
        raise ValueError(f"{len(counts)} counts for {len(classes)} classes; give one a class")
    names = [wrap(name, 2.4, 8, 2) for name in classes]
    fig, axes = charts(1, 1, height=0.6 + 0.2 * sum(1 + "\n" in n for n in names) + 0.14 * len(names), width=5.0)
    ax = axes[0, 0]
    bars = ax.barh(names, counts, color=OKABE_ITO[0], height=0.66)
    share = unit == "pixels"
    texts = [f"{c / max(counts.sum(), 1):.1%}" if share else f"{c:,.0f}" for c in counts]
    ax.bar_label(bars, texts, padding=3, fontsize=8)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.12)
    ax.xaxis.set_major_locator(plt.MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.set_xlabel(f"number of {unit}")
    return fig


def mutual_information_curve(shifts: Sequence[float], curves: Mapping[str, np.ndarray], unit: str = "pixels") -> Figure:
    """Draw how much two images tell about each other as one is shifted against the other.

    Args:
        shifts: (S,) shifts.
        curves: (S,) or (N, S) normalised mutual information for each kind of pair, e.g. true and wrong; of N pairs
            the mean and its 95 % interval are drawn.
        unit: of the shifts.

    Returns:
        The figure.
    """
    fig, axes = charts(1, 1, height=2.5, width=ONE_COLUMN + 0.6)
    ax = axes[0, 0]
    for i, (label, values) in enumerate(curves.items()):
        values = np.atleast_2d(to_numpy(values))
        mean = values.mean(axis=0)
        label = f"{label} (n = {len(values)})" if len(values) > 1 else label
        ax.plot(shifts, mean, color=OKABE_ITO[i], ls=LINE_STYLES[i % 4], marker=MARKERS[i], ms=3, label=label)
        if len(values) > 1:
            half = stats.t.ppf(0.975, len(values) - 1) * values.std(axis=0, ddof=1) / np.sqrt(len(values))
            ax.fill_between(shifts, mean - half, mean + half, color=OKABE_ITO[i], alpha=0.18, lw=0)
    ax.axvline(0, color="0.8", lw=0.8, zorder=0)
    ax.set(xlabel=f"shift ({unit})", ylabel="normalised mutual information (1)")
    ax.set_ylim(0, ax.get_ylim()[1] * 1.25)  # room for the legend
    ax.legend(loc="upper left", ncols=2, borderaxespad=0.2)
    return fig
