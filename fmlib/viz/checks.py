"""Figures of notebook 01b: is the data read right?"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..quality.checks import DIFFERENCE, FEWEST, NDVI
from .style import LINE_STYLES, OKABE_ITO, SMALL, TWO_COLUMNS, charts, figure, note, settle, wrap

COLOURS = {"everything": "0.6", "water": OKABE_ITO[0], "forest": OKABE_ITO[2]}
STYLES = {"water": "-", "forest": "--"}
TICKS = (-8, -4, 0, 4, 8)  # pixels


def ndvi_histograms(indices: Mapping[str, Mapping[str, np.ndarray]], bins: int = 100) -> Figure:
    """Draw how the vegetation index is distributed over water, forest and everything, beside what is expected.

    Args:
        indices: title of a sensor to ``{"everything": (n,), "water": (n,), "forest": (n,)}``, those there are, as
            `quality.ndvi_by_cover` gives them.
        bins: number of histogram bins.

    Returns:
        One panel a sensor; each curve has its own maximum at 1, and each expected range is shaded.
    """
    if not indices:
        return note("No sensor has a red and a near-infrared band: there is no NDVI.")
    fig, axes = charts(1, len(indices), 2.4, max(4.4, min(2.9 * len(indices), TWO_COLUMNS)), sharey=True)
    edges = np.linspace(-1, 1, bins + 1)
    for ax, (title, covers) in zip(axes[0], indices.items(), strict=True):
        for cover, (low, high) in NDVI.items():
            ax.axvspan(low, high, color=COLOURS[cover], alpha=0.12, lw=0)
            ax.text((low + high) / 2, 1.04, cover, color=COLOURS[cover], fontsize=SMALL, ha="center")
        for cover, values in covers.items():
            counts = np.histogram(values, edges)[0]
            look = {"fill": True, "alpha": 0.5} if cover == "everything" else {"ls": STYLES[cover], "lw": 1.3}
            if len(values) >= FEWEST:
                ax.stairs(counts / counts.max(), edges, color=COLOURS[cover], label=cover, **look)
        ax.set(xlabel="NDVI (1)", xlim=(-1, 1), xticks=(-1, -0.5, 0, 0.5, 1), ylim=(0, 1.15))
        ax.set_title(wrap(title, 2.2, 8.5, 2), pad=7)
    axes[0, 0].set(ylabel="frequency over its maximum", yticks=(0, 0.5, 1))
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5), title="pixels of", title_fontsize=8)
    return settle(fig)


def polarisations(decibels: Mapping[str, Mapping[str, np.ndarray]], bins: int = 100) -> Figure:
    """Draw how backscatter and the difference of two polarisations are distributed.

    Args:
        decibels: title of a sensor to ``{"VV": (n,), "VH": (n,)}``, as `quality.polarisations` gives them.
        bins: number of histogram bins.

    Returns:
        One row a sensor: both bands, and the first less the second with the expected range of its median shaded.
    """
    if not decibels:
        return note("No sensor has both VV and VH (or HH and HV) in decibels or linear units.")
    fig, axes = charts(len(decibels), 2, 0.15 + 2.2 * len(decibels))
    for (left, right), (title, bands) in zip(axes, decibels.items(), strict=True):
        (co, a), (cross, b) = bands.items()
        for i, (name, values) in enumerate(bands.items()):
            _stairs(left, values, bins, name, color=OKABE_ITO[i], ls=LINE_STYLES[i])
        left.set(title=title, xlabel="backscatter (dB)", ylabel="density", yticks=[])
        left.legend(loc="upper left")
        _stairs(right, a - b, bins, "all pixels", color="0.2")
        right.axvspan(*DIFFERENCE, color=OKABE_ITO[2], alpha=0.15, lw=0, label="expected of the median")
        right.axvline(np.median(a - b), color=OKABE_ITO[1], ls="--", label="median found")
        right.axvline(0, color="0.7", lw=0.8, zorder=0)
        right.set(xlabel=f"{co} less {cross} (dB)", yticks=[])
        right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return settle(fig)


def _stairs(ax: Axes, values: np.ndarray, bins: int, label: str, **look) -> None:
    low, high = np.percentile(values, (0.1, 99.9))
    spare = 0.1 * (high - low) or 1.0
    ax.stairs(*np.histogram(values, bins, (low - spare, high + spare), density=True), label=label, lw=1.2, **look)


def information_maps(shifts: Sequence[int], maps: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw how much two sensors share as one is moved over the other in both directions.

    Args:
        shifts: (S,) in pixels.
        maps: names of two sensors to ``{"true pair": (N, S, S), "wrong pair": (N, S, S)}`` by shift along rows and
            columns, as `quality.information_maps` gives them; the mean over pairs is drawn.

    Returns:
        One row for each two sensors, both maps in the same colours; a cross marks no shift, a ring the maximum.
    """
    if not maps:
        return note("Fewer than two sensors, or fewer than two pairs without holes: nothing to move over each other.")
    height = 2.6 * len(maps)
    fig = figure(5.6, height)
    for row, (names, kinds) in enumerate(maps.items()):
        base = height - 2.6 * row - 2.2  # inches: lower edge of this row's maps
        means = {kind: np.mean(values, axis=0) for kind, values in kinds.items()}
        limits = min(map(np.min, means.values())), max(map(np.max, means.values()))
        for left, (kind, mean) in zip((0.55, 2.7), means.items(), strict=True):
            ax = fig.add_axes((left / 5.6, base / height, 1.75 / 5.6, 1.75 / height))
            picture = _shift_map(ax, shifts, mean, limits)
            ax.set_title(f"{kind}s (n = {len(kinds[kind])})")
            if left < 1:
                ax.set_ylabel("row shift (pixels)")
                ax.annotate(names, (0, 1), (0, 18), "axes fraction", "offset points", fontsize=8.5)
        bar = fig.add_axes((4.6 / 5.6, base / height, 0.1 / 5.6, 1.75 / height))
        fig.colorbar(picture, cax=bar, label="normalised mutual\ninformation (1)")
    return fig


def _shift_map(ax: Axes, shifts: Sequence[int], mean: np.ndarray, limits: tuple[float, float]):
    """One map by row and column shift, with a cross at no shift and a ring at the maximum."""
    reach = shifts[0] - 0.5, shifts[-1] + 0.5
    picture = ax.imshow(mean, extent=(*reach, *reach[::-1]), vmin=limits[0], vmax=limits[1])
    row, col = np.unravel_index(mean.argmax(), mean.shape)
    ax.plot(0, 0, "+", color="white", ms=8, mew=1.2)
    ax.plot(shifts[col], shifts[row], "o", mfc="none", mec=OKABE_ITO[1], ms=9, mew=1.5, clip_on=False)
    ticks = [tick for tick in TICKS if reach[0] < tick < reach[1]]
    ax.set(xlabel="column shift (pixels)", xticks=ticks, yticks=ticks, xlim=reach, ylim=reach[::-1])
    ax.spines[:].set_visible(False)
    return picture


def statistics_beside_manifest(table: Sequence[Mapping]) -> Figure:
    """Draw measured means and deviations in units of those that the model normalises with.

    Args:
        table: rows of `quality.compare_with_manifest`.

    Returns:
        One row a sensor: for each band the measured mean as a point and the measured deviation as a bar, after
        ``(x − mean) / std`` with the manifest's; a band that agrees is a point at 0 with a bar from −1 to 1 (shaded).
    """
    titles = list(dict.fromkeys(row["sensor"] for row in table))
    if not titles:
        return note("No sensor was read.")
    fig, axes = charts(len(titles), 1, 0.2 + 1.55 * len(titles), 5.6)
    for ax, title in zip(axes[:, 0], titles, strict=True):
        rows = [row for row in table if row["sensor"] == title]
        middle = [(row["mean"] - row["manifest mean"]) / row["manifest std"] for row in rows]
        spread = [row["std"] / row["manifest std"] for row in rows]
        ax.axhspan(-1, 1, color="0.92", lw=0)
        ax.axhline(0, color="0.6", lw=0.8)
        ax.errorbar(range(len(rows)), middle, spread, fmt="o", ms=4, capsize=2, lw=1)
        ax.set_title(title)
        fitting = int(4.9 / (0.07 * max(len(row["band"]) for row in rows) + 0.12))  # letters and a gap, in inches
        step = -(-len(rows) // fitting)  # of many bands some are named
        ax.set_xticks(range(0, len(rows), step), [row["band"] for row in rows][::step], fontsize=SMALL)
        ax.set(ylabel="z-score (1)", xlim=(-0.6, len(rows) - 0.4))
    return settle(fig)
