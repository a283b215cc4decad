"""Figures of ablations: heat maps of two settings, and small questions below each other.

Rows are dicts, one a run, such as ``{"fusion": "XAD", "mask_strategy": "consistent", "mask_ratio": 0.75, "seed": 0,
"mse": 0.31}``; runs that differ in the seed alone are drawn as their mean ± one standard deviation.
"""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.transforms import offset_copy

from .evaluation import Rows, levels, spread, spread_text
from .style import OKABE_ITO, SMALL, TWO_COLUMNS, charts, settle, wrap

BEST = OKABE_ITO[1]  # seen on both ends of the colour map
CELL = 0.4, 0.36  # inches: narrowest width, and height, of a cell of a heat map


def ablation_heat_map(
    rows: Rows,
    value: str,
    x: str = "mask_ratio",
    y: str = "mask_strategy",
    panel: str = "fusion",
    unit: str = "",
    better: str = "lower",
    label: str = "",
) -> Figure:
    """Draw a value over two settings, one panel a third.

    Args:
        rows: the settings, ``seed`` and the value.
        value: key of the value drawn.
        x, y, panel: keys of the settings; numbers are sorted, names keep the order of the rows.
        unit: of the value.
        better: ``"lower"`` or ``"higher"``.
        label: what the value is; default: its key.

    Returns:
        The figure: mean and, of several seeds, the spread in each cell; darker is better, the best cell of each panel
        is framed, and what was not run is hatched.
    """
    if better not in ("lower", "higher"):
        raise ValueError(f"better is {better!r}; it must be 'lower' or 'higher'")
    table = spread(rows, (panel, y, x), value)
    xs, ys, panels = (levels(table, key) for key in (x, y, panel))
    nrows = math.ceil(len(panels) / max(1, int(5.3 / (CELL[0] * len(xs) + 0.1))))
    ncols = math.ceil(len(panels) / nrows)
    width = min(TWO_COLUMNS, 1.9 + ncols * (1.2 * CELL[0] * len(xs) + 0.1))
    fig, axes = charts(nrows, ncols, 1 + nrows * (0.25 + CELL[1] * len(ys)), width, sharex=True, sharey=True)
    means = _finite(table, value)
    norm = Normalize(means.min(), means.max())
    for i, (ax, name) in enumerate(zip(axes.flat, panels, strict=False)):
        cells = {(ys.index(row[y]), xs.index(row[x])): row for row in table if row[panel] == name}
        picture = _cells(ax, cells, (len(ys), len(xs)), value, norm, better, _decimals(means))
        ax.set_title(wrap(_word(name), CELL[0] * len(xs), 8.5, 1))
        if i + ncols >= len(panels):  # no panel below
            ax.set_xlabel(_word(x))
            ax.tick_params(labelbottom=True)
    axes[0, 0].set_xticks(np.arange(len(xs)) + 0.5, [_word(level) for level in xs])
    axes[0, 0].set_yticks(np.arange(len(ys)) + 0.5, [wrap(_word(level), 1, 8, 2) for level in ys])
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel(_word(y))
    fig.colorbar(picture, ax=axes.ravel().tolist(), label=_label(label or value, unit), aspect=25, pad=0.02)
    text = wrap(f"best mean of its panel; darker is better; {spread_text(table)}", width - 0.6)
    best = Patch(fill=False, edgecolor=BEST, lw=1.8, label=text)
    fig.legend(handles=[best], loc="outside lower left", fontsize=SMALL)
    return settle(fig)


def _cells(
    ax: Axes,
    cells: Mapping[tuple[int, int], Mapping],
    shape: tuple[int, int],
    value: str,
    norm: Normalize,
    better: str,
    decimals: int,
) -> QuadMesh:
    """Colour and print the cells of one panel, and frame the best; rows count from the top."""
    means, stds = np.full((2, *shape), np.nan)  # (rows, columns)
    for place, cell in cells.items():
        means[place], stds[place] = cell[value] if math.isfinite(cell[value]) else math.nan, cell["std"]
    cmap = "cividis" if better == "lower" else "cividis_r"
    picture = ax.pcolormesh(np.ma.masked_invalid(means), cmap=cmap, norm=norm, edgecolors="white", lw=1)
    ax.patch.set(facecolor="white", edgecolor="0.75", hatch="////", lw=0)
    for place in np.ndindex(shape):
        look = {"ha": "center", "va": "center", "fontsize": SMALL, "linespacing": 1.1}
        if np.isnan(means[place]):
            text = "not\nfinite" if place in cells else "not\nrun"
            look |= {"color": "0.3", "bbox": {"fc": "white", "lw": 0, "pad": 1}}
        else:
            text = f"{means[place]:.{decimals}f}" + ("" if np.isnan(stds[place]) else f"\n±{stds[place]:.{decimals}f}")
            look["color"] = "black" if np.dot(picture.to_rgba(means[place])[:3], (0.3, 0.59, 0.11)) > 0.45 else "white"
        ax.text(place[1] + 0.5, place[0] + 0.5, text, **look)
    if np.isfinite(means).any():
        best = np.nanargmin(means) if better == "lower" else np.nanargmax(means)
        row, column = np.unravel_index(best, shape)
        ax.add_patch(Rectangle((column + 0.04, row + 0.05), 0.92, 0.9, fill=False, ec=BEST, lw=2))
    ax.set_ylim(shape[0], 0)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return picture


def ablation_dots(
    rows: Rows,
    value: str,
    unit: str = "",
    group: str = "question",
    variant: str = "variant",
    defaults: Mapping[str, str] | None = None,
    label: str = "",
) -> Figure:
    """Draw small ablations below each other: mean and spread of each variant of each question.

    Args:
        rows: ``question, variant, seed`` and the value.
        value: key of the value drawn.
        unit: of the value.
        group, variant: keys of the question and of the variant.
        defaults: question to the variant that is used elsewhere.
        label: what the value is; default: its key.

    Returns:
        The figure: one panel a question, all on one scale; the default is filled, its mean a line and its spread a
        band through the panel. Numbers stand at the right, with the difference from the default's mean.

    Raises:
        ValueError: a default that is not among the variants of its question.
    """
    table, defaults = spread(rows, (group, variant), value), defaults or {}
    blocks = {name: [row for row in table if row[group] == name] for name in levels(table, group)}
    heights = [0.6 + len(block) for block in blocks.values()]
    fig, axes = charts(
        len(blocks), 1, 0.65 + 0.2 * sum(heights) + 0.1 * len(blocks), 6.4, sharex=True, height_ratios=heights
    )
    decimals = _decimals(_finite(table, value))
    for ax, (name, block) in zip(axes[:, 0], blocks.items(), strict=True):
        default = next((row for row in block if row[variant] == defaults.get(name)), None)
        if default is None and name in defaults:
            raise ValueError(f"{name!r}: default {defaults[name]!r} is not among {levels(block, variant)}")
        _block(ax, block, value, default, decimals)
        ax.set_yticks(range(len(block)), [wrap(_word(row[variant]), 2.2, 8, 1) for row in block])
        ax.set_title(_word(name), fontweight="bold", fontsize=8, pad=2)
    ax.set_xlabel(_label(label or value, unit))
    ax.spines["bottom"].set_visible(True)
    ax.tick_params(axis="x", length=3)
    more = "; filled: default; last column: change from it" if defaults else ""
    fig.supxlabel(spread_text(table) + more, fontsize=SMALL, color="0.35")
    return settle(fig)


def _block(ax: Axes, block: Rows, value: str, default: Mapping | None, decimals: int) -> None:
    """Mark and print the variants of one question, from the top."""
    if default is not None:
        middle, std = default[value], np.nan_to_num(default["std"])
        ax.axvspan(middle - std, middle + std, color=OKABE_ITO[0], alpha=0.12, lw=0)
        ax.axvline(middle, color=OKABE_ITO[0], lw=0.8, zorder=1)
    for i, row in enumerate(block):
        fill = OKABE_ITO[0] if row is default else "white"
        ax.errorbar(row[value], i, xerr=row["std"], fmt="o", color=OKABE_ITO[0], mfc=fill, ms=5, lw=1.2, capsize=2)
        text = f"{row[value]:.{decimals}f}" + ("" if math.isnan(row["std"]) else f" ± {row['std']:.{decimals}f}")
        change = "" if default is None else f"{row[value] - default[value]:+.{decimals}f}".replace("-", "−")
        for string, points in ((text, 64), ("default" if row is default else change, 102)):
            where = offset_copy(ax.get_yaxis_transform(), ax.figure, points, units="points")
            ax.text(1, i, string, transform=where, ha="right", va="center", fontsize=SMALL)
    ax.set_ylim(len(block) - 0.5, -0.5)
    ax.grid(axis="x")
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)


def _finite(table: Rows, value: str) -> np.ndarray:
    """(n,) means that are numbers."""
    means = np.array([row[value] for row in table], dtype=float)
    if not np.isfinite(means).any():
        raise ValueError(f"no {value!r} is a finite number; there is nothing to draw")
    return means[np.isfinite(means)]


def _decimals(values: np.ndarray) -> int:
    """So many that a fiftieth of the range can be told."""
    extent = np.ptp(values)
    return int(np.clip(np.ceil(-np.log10(extent / 50)), 0, 4)) if extent > 0 else 3


def _word(level) -> str:
    """A setting or its name as it stands in a figure."""
    return level.replace("_", " ") if isinstance(level, str) else f"{level:g}"


def _label(label: str, unit: str) -> str:
    return f"{_word(label)} ({unit})" if unit else _word(label)
