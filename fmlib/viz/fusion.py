"""Figures of fused pictures: galleries, the grid of patches in their spectra, scores, and features by depth."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ..block_noise import spectrum
from .evaluation import GREY, INK, Rows, levels, spread, spread_text
from .style import (
    LINE_STYLES,
    OKABE_ITO,
    SMALL,
    TWO_COLUMNS,
    bare,
    charts,
    figure,
    image_panels,
    panel_width,
    settle,
    wrap,
)

Box = tuple[int, int, int]  # top, left and side of a square, pixels


def fusion_gallery(pictures: Mapping[str, np.ndarray], ncols: int = 4, box: Box | None = None) -> Figure:
    """Draw pictures of one scene side by side.

    Args:
        pictures: name → (H, W) or (H, W, 3), 0 to 255, all of one size.
        ncols: pictures in a row.
        box: a part that is framed in each.

    Returns:
        The figure; grey levels are those of the files, not stretched.
    """
    height, width = next(iter(pictures.values())).shape[:2]
    options = {"aspect": height / width, "top": 0.22, "row_gap": 0.24, "largest": 2.0}
    fig, axes = image_panels(-(-len(pictures) // ncols), ncols, **options)
    for ax, (name, picture) in zip(axes.flat, pictures.items(), strict=False):
        _show(ax, picture, name)
        if box:
            ax.add_patch(Rectangle((box[1] - 0.5, box[0] - 0.5), box[2], box[2], fill=False, ec=OKABE_ITO[1], lw=1))
    for ax in axes.flat[len(pictures) :]:
        ax.set_visible(False)
    return fig


def wipe(before: np.ndarray, after: np.ndarray, share: float = 0.5, names: tuple[str, str] = ("before", "after")):
    """Draw one picture left of a line and another right of it.

    Args:
        before, after: (H, W) or (H, W, 3), 0 to 255, of one size.
        share: of the width that shows `before`, 0 to 1.
        names: of both.

    Returns:
        The figure.
    """
    pixels = [np.broadcast_to(x[..., None] if x.ndim == 2 else x, (*x.shape[:2], 3)) for x in (before, after)]
    height, width = pixels[0].shape[:2]
    fig, axes = image_panels(1, 1, height / width, width=5, largest=4.6, top=0.22)
    edge, ax = round(share * width), axes[0, 0]
    _show(ax, np.concatenate([pixels[0][:, :edge], pixels[1][:, edge:]], axis=1), names[0])
    ax.set_title(names[1], loc="right", fontsize=8, pad=2.5)
    ax.axvline(edge - 0.5, color=OKABE_ITO[1], lw=1.5)
    ax.set_xlim(-0.5, width - 0.5)
    return fig


def block_spectra(pictures: Mapping[str, np.ndarray], patch_size: int, box: Box) -> Figure:
    """Draw a part of each picture, and the spectrum in which the grid of patches would show.

    Args:
        pictures: name → (H, W) grey values 0 to 255.
        patch_size: side of a patch in pixels.
        box: the part.

    Returns:
        The figure: above, the parts, enlarged; below, the mean power of steps between neighbouring pixels
        (`fmlib.block_noise.spectrum`), with harmonics of the patch as vertical lines.
    """
    side = min(1.3, (TWO_COLUMNS - 0.1) / len(pictures) - 0.06)
    fig = figure(TWO_COLUMNS, side + 2.85)
    width, height = fig.get_size_inches()
    for i, (name, picture) in enumerate(pictures.items()):
        place = (0.05 + i * (side + 0.06)) / width, 1 - (side + 0.4) / height, side / width, side / height
        top, left, size = box
        ax = bare(fig.add_axes(place))
        _show(ax, picture[top : top + size, left : left + size], name)
    ax = fig.add_axes((0.68 / width, 0.48 / height, 4.45 / width, 1.75 / height))
    for m in range(1, patch_size // 2 + 1):
        ax.axvline(m / patch_size, color="0.8", lw=2.5, zorder=0, label="harmonics of a patch" if m == 1 else None)
    for i, (name, picture) in enumerate(pictures.items()):
        frequencies, power = spectrum(picture, patch_size)
        look = {"color": INK[i % len(INK)], "ls": LINE_STYLES[i % 4], "lw": 1, "label": name}
        ax.plot(frequencies[2:], 10 * np.log10(power.mean(0)[2:] / power[:, 2:].mean()), **look)
    ax.set(xlabel="frequency (cycles a pixel)", ylabel="power over its mean (dB)", xlim=(0, 0.505))
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=SMALL)
    return fig


def fusion_scores(rows: Rows, higher: Mapping[str, bool], baselines: Collection[str] = (), ncols: int = 6) -> Figure:
    """Draw the scores of several methods, one panel a metric; in each, better lies to the right.

    Args:
        rows: ``method, metric, seed, value``.
        higher: metric → whether more is better; panels in this order. Metrics without an entry are left out.
        baselines: methods drawn as grey, open dots.
        ncols: panels in a row.

    Returns:
        The figure: dots are means over seeds, bars one standard deviation; ↑ or ↓ behind a metric says which is better.
        What is not defined has no dot.
    """
    table = spread(rows, ("method", "metric"), "value")
    methods = levels(table, "method")
    metrics = [metric for metric in higher if any(row["metric"] == metric for row in table)]
    nrows = -(-len(metrics) // ncols)
    fig, axes = charts(nrows, ncols, 0.35 + nrows * (0.55 + 0.15 * len(methods)), sharey=True)
    for ax, metric in zip(axes.flat, metrics, strict=False):
        found = [row for row in table if row["metric"] == metric]
        _dots(ax, found, methods, baselines)
        ax.set_title(f"{metric} {'↑' if higher[metric] else '↓'}", fontsize=8)
        if not higher[metric]:
            ax.invert_xaxis()
    axes[0, 0].set_yticks(range(len(methods)), [wrap(method, 1.6, SMALL, 1) for method in methods], fontsize=SMALL)
    axes[0, 0].set_ylim(len(methods) - 0.4, -0.6)
    for ax in axes.flat[len(metrics) :]:
        ax.set_visible(False)
    fig.supxlabel(f"right is better; {spread_text(table)}", fontsize=SMALL, color="0.35")
    return settle(fig)


def _dots(ax: Axes, rows: Rows, methods: Sequence[str], baselines: Collection[str]) -> None:
    for row in rows:
        trivial = row["method"] in baselines
        look = {"color": GREY, "mfc": "white"} if trivial else {"color": OKABE_ITO[0]}
        ax.errorbar(row["value"], methods.index(row["method"]), xerr=row["std"], fmt="o", ms=4, lw=1, **look)
    ax.grid(axis="y", color="0.9", lw=0.5)
    ax.tick_params(labelsize=SMALL - 0.5, length=2)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(2))


def token_maps(sources: Mapping[str, np.ndarray], colours: Mapping[str, np.ndarray], notes: Sequence[str]) -> Figure:
    """Draw the tokens of two sensors' images by depth.

    Args:
        sources: name → (H, W) of both sensors, 0 to 255.
        colours: depth → (2, rows, cols, 3) colours of their tokens, 0 to 1.
        notes: what to print below each depth.

    Returns:
        The figure: a row a sensor, the image first.
    """
    height, width = next(iter(sources.values())).shape[:2]
    options = {"aspect": height / width, "breaks": [1], "top": 0.25, "bottom": 0.42, "left": 0.22, "largest": 1.5}
    fig, axes = image_panels(2, 1 + len(colours), **options)
    for row, (name, source) in zip(axes, sources.items(), strict=True):
        _show(row[0], source, "")
        row[0].set_ylabel(name, fontsize=8)
    for column, (name, pair) in zip(axes[:, 1:].T, colours.items(), strict=True):
        for ax, colour in zip(column, pair, strict=True):
            ax.imshow(colour, interpolation="nearest", aspect="auto")
        column[0].set_title(name, loc="left", fontsize=8, pad=2.5)
    for ax, note in zip(axes[1, 1:], notes, strict=True):
        ax.set_xlabel(note, fontsize=SMALL, loc="left", labelpad=2)
    return fig


def _show(ax: Axes, picture: np.ndarray, name: str) -> None:
    ax.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    ax.set_title(wrap(name, 1.15 * panel_width(ax), 8, 2), loc="left", fontsize=8, pad=2.5)
