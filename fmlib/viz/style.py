"""Widths, colours, empty panels and the one way to save a figure.

Figures are made without a window and closed at once: a notebook shows one by naming it on the last line of a cell.
"""

import textwrap
from collections.abc import Collection
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fmlib.files import write_beside

ONE_COLUMN, TWO_COLUMNS, DEEPEST = 3.5, 7 + 1 / 16, 9.0  # inches: IEEE column widths and largest depth
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
REMOVED = 0.72  # grey of a removed patch
SMALL = 7  # points: the smallest lettering used
LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def use_style() -> None:
    """Set matplotlib to the workbook's paper style (`fmlib/paper.mplstyle`)."""
    plt.style.use(Path(__file__).parent.parent / "paper.mplstyle")


def save_figure(fig: Figure, path: str | Path) -> list[Path]:
    """Write a figure as .svg, .pdf and .png; the same figure gives the same bytes.

    Args:
        fig: the figure.
        path: where to, without suffix; missing folders are made.

    Returns:
        The three paths written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}  # a date would change the bytes
    written = [path.with_name(f"{path.name}.{suffix}") for suffix in metadata]
    with plt.rc_context({"svg.hashsalt": "fmlib", "svg.fonttype": "none", "pdf.fonttype": 42}):
        for target, (suffix, entry) in zip(written, metadata.items(), strict=True):
            write_beside(target, partial(fig.savefig, format=suffix, metadata=entry, dpi=300, bbox_inches=None))
    return written


def figure(width: float, height: float, **options) -> Figure:
    """An empty figure of exact size in inches; it belongs to no window, so nothing shows it twice."""
    fig = plt.figure(figsize=(width, height), **options)
    plt.close(fig)
    return fig


def charts(rows: int, cols: int, height: float, width: float = TWO_COLUMNS, **options) -> tuple[Figure, np.ndarray]:
    """A figure for charts; `settle` it when it is drawn, so that no text overlaps.

    Args:
        rows, cols: number of panels.
        height: of the whole figure, in inches.
        width: of the whole figure, in inches.
        options: for `Figure.subplots`, e.g. ``sharey=True``.

    Returns:
        The figure and its axes (rows, cols).
    """
    fig = figure(width, height, layout="constrained")
    return fig, fig.subplots(rows, cols, squeeze=False, **options)


def settle(fig: Figure) -> Figure:
    """Lay a finished chart out once and for all.

    Every layout starts from the last one and may move it by a hair, so a figure shown and then saved would differ from
    one saved at once.
    """
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    return fig


def note(text: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    fig = figure(5.6, 0.5)
    fig.text(0.02, 0.5, wrap(text, 5.4, 8.5, 2), va="center", color="0.3", style="italic")
    return fig


def image_panels(
    rows: int,
    cols: int,
    aspect: float = 1.0,
    *,
    width: float = TWO_COLUMNS,
    breaks: Collection[int] = (),
    left: float = 0.04,
    top: float = 0.3,
    bottom: float = 0.05,
    gap: float = 0.06,
    group_gap: float = 0.2,
    row_gap: float = 0.06,
    largest: float = 2.4,
) -> tuple[Figure, np.ndarray]:
    """A figure of equal picture panels without ticks, placed to the exact inch.

    Args:
        rows, cols: number of panels.
        aspect: height of a panel over its width.
        width: of the figure, in inches; panels share what the margins leave, up to `largest` each.
        breaks: columns that begin a new group; groups stand `group_gap` apart instead of `gap`.
        left, top, bottom: margins in inches.
        gap, group_gap, row_gap: spaces in inches.
        largest: greatest width of a panel in inches; the figure becomes narrower where it is reached.

    Returns:
        The figure and its axes (rows, cols).
    """
    gaps = [group_gap if c in breaks else gap for c in range(1, cols)]
    side = min(largest, (width - 2 * left - sum(gaps)) / cols)
    width = 2 * left + sum(gaps) + side * cols
    height = top + bottom + rows * side * aspect + (rows - 1) * row_gap
    fig = figure(width, height)
    axes = np.empty((rows, cols), dtype=object)
    for r, c in np.ndindex(rows, cols):
        x = left + c * side + sum(gaps[:c])
        y = height - top - (r + 1) * side * aspect - r * row_gap
        axes[r, c] = bare(fig.add_axes((x / width, y / height, side / width, side * aspect / height)))
    return fig, axes


def bare(ax: Axes) -> Axes:
    """Take ticks and frame from a panel."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def panel_width(ax: Axes) -> float:
    """Width of a panel in inches."""
    return ax.get_position().width * ax.figure.get_figwidth()


def wrap(text: str, inches: float, size: float = SMALL, lines: int = 3) -> str:
    """Break a text into lines that fit a width; what is beyond the last line becomes an ellipsis."""
    letters = max(6, int(inches * 72 / (0.56 * size)))  # a digit is 0.56 of its size wide
    return "\n".join(textwrap.wrap(text, letters, max_lines=lines, placeholder=" …"))


def to_numpy(array) -> np.ndarray:
    """A NumPy copy of an array or a tensor of any device and precision."""
    return array.detach().float().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)
