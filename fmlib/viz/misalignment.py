"""Figures of sources that do not lie on one another: scores against displacement, and where attention then looks."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..modality import Modality
from .attention import overlay
from .evaluation import GREY, INK, Rows, levels, spread, spread_text
from .images import draw_image, stretch
from .style import LINE_STYLES, MARKERS, OKABE_ITO, SMALL, TWO_COLUMNS, charts, image_panels, settle, to_numpy, wrap

UNITS = {"shift": "shift (pixels)", "angle": "rotation (degrees)", "scale": "change of scale (share)"}


def displacement_curves(rows: Rows, score: str = "miou", ylabel: str = "", panel: str = "shift_train") -> Figure:
    """Draw a score against the displacement of one source, a line a model, a panel a way of training.

    Args:
        rows: ``model, seed, kind, amount``, the score and the key `panel`; a model whose score is the same at every
            amount (it does not see the displaced source) is drawn grey in every panel.
        score: key of the score.
        ylabel: what the score is, with its unit; default: its key.
        panel: key that tells the panels apart: the largest shift in training, or ``"kind"``.

    Returns:
        The figure; points stand a little aside so that error bars do not cover each other.
    """
    table = spread(rows, ("model", panel, "kind", "amount"), score)
    panels, models = levels(table, panel), levels(table, "model")
    flat = [m for m in models if len({row[score] for row in table if row["model"] == m}) == 1]
    moving = [model for model in models if model not in flat]
    fig, axes = charts(1, len(panels), 2.7, min(TWO_COLUMNS, 1.2 + 2.9 * len(panels)), sharey=True)
    for ax, value in zip(axes[0], panels, strict=True):
        mine = [row for row in table if row[panel] == value]
        amounts = levels(mine, "amount")
        for i, model in enumerate(moving):
            aside = 0.012 * max(amounts) * (i - (len(moving) - 1) / 2)
            _line(ax, [row for row in mine if row["model"] == model], score, i, aside)
        for i, model in enumerate(flat):
            height = next(row[score] for row in table if row["model"] == model)
            ax.axhline(height, lw=1, zorder=1, **_grey(i))
        ax.set_xticks(amounts)
        ax.set_xlabel(UNITS[mine[0]["kind"]])
        ax.set_title(_trained(value) if panel == "shift_train" else "", fontsize=8)
        ax.grid(axis="y")
    axes[0, 0].set_ylabel(ylabel or score)
    handles = [Line2D([], [], ms=4.5, lw=1.2, label=wrap(m, 2.2, 8, 1), **_look(i)) for i, m in enumerate(moving)]
    handles += [Line2D([], [], lw=1, label=wrap(m, 2.2, 8, 1), **_grey(i)) for i, m in enumerate(flat)]
    fig.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 4 if len(panels) > 1 else 2))
    fig.supxlabel(spread_text(table), fontsize=SMALL, color="0.35")
    return settle(fig)


def _line(ax: Axes, mine: Rows, score: str, i: int, aside: float) -> None:
    """One model's scores in one panel."""
    mine = sorted(mine, key=lambda row: row["amount"])
    if mine:
        x, y, std = np.array([(row["amount"] + aside, row[score], row["std"]) for row in mine]).T
        ax.errorbar(x, y, std, ms=4.5, lw=1.2, elinewidth=0.8, capsize=2, **_look(i))


def _look(i: int) -> dict:
    return {"color": INK[i % len(INK)], "marker": MARKERS[i % 8], "ls": LINE_STYLES[i % 4]}


def _grey(i: int) -> dict:
    return {"color": GREY, "ls": LINE_STYLES[1 + i % 3]}


def _trained(shift: float) -> str:
    return f"trained with shifts up to {shift:g} px" if shift else "trained aligned"


def followed_query(
    asks: np.ndarray,
    answers: Mapping[str, np.ndarray],
    modalities: Mapping[str, Modality],
    names: tuple[str, str],
    maps: Mapping[str, np.ndarray],
    query: tuple[float, float],
    true: Mapping[str, tuple[float, float]],
) -> Figure:
    """Draw where one token looks in the other source, aligned and displaced, beside where it should look.

    Args:
        asks: (C, H, W) image of the source that asks.
        answers: title, e.g. ``"aligned"`` → (C, H, W) image of the source that answers.
        modalities: the sensors. names: of the one that asks and the one that answers.
        maps: title → (rows, cols) attention of the query.
        query: row and column of the query in pixels.
        true: title → row and column of its counterpart.

    Returns:
        The figure: the image that asks with the query, and for each title the image that answers under its attention;
        circle, the counterpart's true place; cross, the attention's centre of mass.
    """
    first, second = (modalities[name] for name in names)
    fig, axes = image_panels(
        1, 1 + 2 * len(answers), asks.shape[-2] / asks.shape[-1], breaks=range(1, 1 + 2 * len(answers), 2),
        top=0.36, bottom=0.32, largest=1.5,
    )  # fmt: skip
    draw_image(axes[0, 0], asks, first, title=wrap(f"{first.title} asks", 1.5, 8, 1))
    axes[0, 0].plot(query[1], query[0], **_mark("s"))
    limits = None
    for (left, right), (title, image) in zip(axes[0, 1:].reshape(-1, 2), answers.items(), strict=True):
        limits = draw_image(left, image, second, limits, title=wrap(f"{second.title}, {title}", 1.4, 8, 2))
        right.imshow(overlay(stretch(image, second, limits)[0], maps[title]), aspect="auto", interpolation="nearest")
        right.set_title("attention", loc="left", fontsize=8, pad=2.5)
        for ax in (left, right):
            ax.plot(true[title][1], true[title][0], **_mark("o"))
        row, col = _centre(to_numpy(maps[title]), image.shape[-2:])
        right.plot(col, row, **_mark("x"))
    handles = [Line2D([], [], ls="", label=label, **_mark(kind)) for kind, label in LEGEND.items()]
    fig.legend(handles=handles, loc="lower left", ncols=3, fontsize=SMALL, borderaxespad=0.1, handletextpad=0.2)
    return fig


LEGEND = {"s": "token that asks", "o": "true place of its counterpart", "x": "centre of mass of its attention"}


def _mark(kind: str) -> dict:
    look = {"marker": kind, "ms": 7, "mfc": "none", "mew": 1.6, "clip_on": False}
    return look | {"color": OKABE_ITO[1] if kind != "x" else OKABE_ITO[3]}


def _centre(weights: np.ndarray, size: tuple[int, int]) -> tuple[float, float]:
    """Row and column of the centre of mass of a map, in pixels of an image of `size`."""
    places = [(np.arange(n) + 0.5) * side / n - 0.5 for n, side in zip(weights.shape, size, strict=True)]
    weights = weights / weights.sum()
    return float(weights.sum(1) @ places[0]), float(weights.sum(0) @ places[1])
