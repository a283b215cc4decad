"""Figures of scores: label curves, sets of sensors, missing sensors.

Rows are dicts, one a run, such as ``{"model": "XAE&D", "sensors": "s1+s2", "fraction": 0.1, "seed": 0, "miou": 0.61}``;
runs that differ in the seed alone are drawn as their mean ± one standard deviation.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy
from scipy.optimize import isotonic_regression

from .style import LINE_STYLES, MARKERS, OKABE_ITO, SMALL, TWO_COLUMNS, charts, settle, wrap

Rows = Sequence[Mapping]
INK = OKABE_ITO[:7]  # yellow lines are too faint on white
GREY = "0.45"


def label_curves(
    rows: Rows,
    score: str = "miou",
    ylabel: str = "",
    baselines: Mapping[str, Mapping[float, float] | float] | None = None,
) -> Figure:
    """Draw a score against the share of labels, one line a model.

    Args:
        rows: ``model, fraction, seed`` and the score; fractions are shares of the labels, 0..1.
        score: key of the score.
        ylabel: what the score is, with its unit; default: its key.
        baselines: name to ``{fraction: score}``, or to one score that needs no labels; drawn grey without marks.

    Returns:
        The figure; a model's points stand a little beside their share so that error bars do not cover each other.
    """
    table = spread(rows, ("model", "fraction"), score)
    models, fractions = levels(table, "model"), levels(table, "fraction")
    fig, axes = charts(1, 1, max(2.7, 0.9 + 0.14 * (len(models) + len(baselines or {}))), 5.8)
    ax, ends = axes[0, 0], {}
    for i, model in enumerate(models):
        mine = sorted((row for row in table if row["model"] == model), key=lambda row: row["fraction"])
        apart = 10 ** (min(0.03, 0.2 / len(models)) * (i - (len(models) - 1) / 2))
        x, y, std = np.array([(row["fraction"] * apart, row[score], row["std"]) for row in mine]).T
        look = {"color": INK[i % len(INK)], "marker": MARKERS[i % len(MARKERS)]}
        ax.errorbar(x, y, std, ls=LINE_STYLES[i % 4], lw=1.2, elinewidth=0.8, capsize=2, **look)
        ends[model] = x[-1], y[-1], look
    for i, (name, values) in enumerate((baselines or {}).items()):
        values = values if isinstance(values, Mapping) else dict.fromkeys(fractions, values)
        x, y = np.array(sorted(values.items())).T
        ax.plot(x, y, color=GREY, ls=LINE_STYLES[1 + i % 3], lw=1, zorder=1)
        ends[name] = x[-1], y[-1], {"color": GREY}
    ax.set_xscale("log")
    ax.set_xticks(fractions, [f"{100 * fraction:g}\u2009%" for fraction in fractions])
    ax.set_xticks([], minor=True)
    ax.set(xlabel="share of the labels used", ylabel=ylabel or score)
    ax.grid(axis="y")
    _name_ends(ax, ends)
    _say_spread(fig, table)
    return settle(fig)


def _name_ends(ax: Axes, ends: Mapping[str, tuple[float, float, dict]]) -> None:
    """Name each line beside its end, as near to it as the names above and below allow."""
    names, gap = sorted(ends, key=lambda name: ends[name][1]), 0.14 / (ax.figure.get_figheight() - 0.8)
    low, high = ax.get_ylim()
    steps = gap * np.arange(len(names))  # names at least one gap apart: their heights less these steps must not fall
    heights = isotonic_regression(np.array([(ends[name][1] - low) / (high - low) for name in names]) - steps).x
    mark, word = (offset_copy(ax.transAxes, ax.figure, points, units="points") for points in (16, 22))
    for name, height in zip(names, np.clip(heights, 0, max(0, 1 - steps[-1])) + steps, strict=True):
        x, y, look = ends[name]
        line = {"arrowstyle": "-", "color": look["color"], "lw": 0.5, "shrinkA": 0, "shrinkB": 3}
        ax.annotate("", (x, y), (1, height), textcoords=mark, annotation_clip=False, arrowprops=line)
        ax.plot(1, height, transform=mark, clip_on=False, **look)
        ax.text(1, height, wrap(name, 1.7, 7.5, 1), transform=word, va="center", fontsize=7.5)
    ax.set_ylim(low, high)


def sensor_gain(
    rows: Rows, score: str = "miou", xlabel: str = "", baselines: Mapping[str, float] | None = None
) -> Figure:
    """Draw what each model reaches with each set of sensors.

    Args:
        rows: ``model, sensors, seed`` and the score, all of the same share of labels.
        score: key of the score.
        xlabel: what the score is, with its unit; default: its key.
        baselines: name to score of trivial predictions, drawn as dashed lines.

    Returns:
        The figure: models from top to bottom, one mark a set of sensors.
    """
    table = spread(rows, ("model", "sensors"), score)
    series = {sensors: _words(sensors) for sensors in sensor_sets(table, "sensors")}
    fig, axes = _model_panels(1, levels(table, "model"), 5.4)
    handles = _dots(axes[0], table, score, "sensors", series)
    for i, (name, value) in enumerate((baselines or {}).items()):
        look = {"color": GREY, "lw": 1, "ls": LINE_STYLES[1 + i % 3], "zorder": 1}
        handles.append(axes[0].axvline(value, label=wrap(name, 1.8, 8, 1), **look))
    axes[0].set_xlabel(xlabel or score)
    fig.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 4))
    _say_spread(fig, table)
    return settle(fig)


def missing_sensor(rows: Rows, score: str = "miou", xlabel: str = "") -> Figure:
    """Draw what a model trained on all sensors loses when one is missing in the test.

    Args:
        rows: ``model, sensors, tested, seed`` and the score, where the sensor sets are written as ``"s1+s2"``; rows
            trained on fewer sensors are passed over.
        score: key of the score.
        xlabel: what the score is, with its unit; default: its key.

    Returns:
        The figure: the scores, and the changes from all sensors to fewer, taken seed by seed.

    Raises:
        ValueError: a model and seed that was not tested with all sensors.
    """
    by = "model", "tested"
    full = sensor_sets(spread(rows, ("sensors", *by), score), "sensors")[-1]
    rows = [row for row in rows if row["sensors"] == full]
    table, losses = spread(rows, by, score), spread(_changes(rows, full, score), by, score)
    series = {tested: f"tested with {_words(tested)}" for tested in sensor_sets(table, "tested")}
    fig, axes = _model_panels(2, levels(table, "model"), TWO_COLUMNS)
    handles = _dots(axes[0], table, score, "tested", series)
    _dots(axes[1], losses, score, "tested", series, origin=[0])
    fig.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 4))
    axes[1].axvline(0, color=GREY, lw=1, zorder=1)
    axes[0].set_xlabel(xlabel or score)
    axes[1].set_xlabel(f"change from {_words(full)}")
    _say_spread(fig, table)
    return settle(fig)


def _changes(rows: Rows, full: str, score: str) -> list[dict]:
    """Rows of fewer sensors, with the change of the score from all sensors under the same seed."""
    before = {(row["model"], row.get("seed")): row[score] for row in rows if row["tested"] == full}
    changes = []
    for row in rows:
        if row["tested"] == full:
            continue
        if (key := (row["model"], row.get("seed"))) not in before:
            raise ValueError(f"model {key[0]!r}, seed {key[1]}: no row tested with {full!r} to compare with; add it")
        changes.append({**row, score: row[score] - before[key]})
    return changes


def _model_panels(count: int, models: Sequence[str], width: float) -> tuple[Figure, np.ndarray]:
    """Panels with one line a model from the top."""
    fig, axes = charts(1, count, 1.05 + 0.27 * len(models), width, sharey=True)
    axes[0, 0].set_yticks(range(len(models)), [wrap(model, 1.7, 8, 1) for model in models])
    axes[0, 0].set_ylim(len(models) - 0.45, -0.55)
    for ax in axes[0]:
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x")
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
    return fig, axes[0]


def _dots(ax: Axes, table: Rows, score: str, key: str, series: Mapping[str, str], origin: Sequence[float] = ()) -> list:
    """Mark each model's score in each series (its key and label); a bar spans a model's scores and the origin."""
    models = levels(table, "model")
    for i, model in enumerate(models):
        ends = [*origin, *(row[score] for row in table if row["model"] == model)]
        ax.plot((min(ends), max(ends)), (i, i), color="0.8", lw=2.5, zorder=1, solid_capstyle="round")
    handles = []
    for i, (name, label) in enumerate(series.items()):
        mine, aside = (
            [row for row in table if row[key] == name],
            min(0.17, 0.7 / len(series)) * (i - (len(series) - 1) / 2),
        )
        x, y = [row[score] for row in mine], [models.index(row["model"]) + aside for row in mine]
        look = {"fmt": MARKERS[i % 8], "color": OKABE_ITO[i % 8], "ms": 4.5, "lw": 1, "capsize": 1.5, "label": label}
        handles.append(ax.errorbar(x, y, xerr=[row["std"] for row in mine], **look))
    return handles


# -- what they share ----------------------------------------------------------------------------------------------


def spread(rows: Rows, by: Sequence[str], value: str) -> list[dict]:
    """Mean and standard deviation of a value over seeds.

    Args:
        rows: one a run, with the keys `by`, the value and, of several runs, ``seed``.
        by: the settings that a group of runs shares.
        value: key of the value.

    Returns:
        Rows of `summarise`; ``"std"`` is NaN where there is one run.

    Raises:
        ValueError: no rows, rows without a key, or two runs of the same settings and seed: they would be mixed.
    """
    from ..evaluate.metrics import summarise  # here, so that figures of data do not import the models

    seen: dict[tuple, Mapping] = {}
    for row in rows:
        if absent := sorted({*by, value} - row.keys()):
            raise ValueError(f"a row has no {absent}; it has {sorted(row)}")
        key = {name: row.get(name) for name in (*by, "seed")}
        if (other := seen.setdefault(tuple(key.values()), row)) is not row:
            differ = [name for name in row if name != value and row[name] != other.get(name)]
            raise ValueError(
                f"two rows have {key}; draw rows of one kind, each with its seed (these differ in {differ})"
            )
    if not seen:
        raise ValueError("no rows to draw; give at least one run")
    return [row | {"std": row["std"] if row["runs"] > 1 else math.nan} for row in summarise(rows, by, value)]


def levels(table: Rows, key: str) -> list:
    """Values of a setting: numbers in ascending order, names in the order of the rows."""
    found = list(dict.fromkeys(row[key] for row in table))
    return sorted(found) if all(isinstance(level, int | float) for level in found) else found


def sensor_sets(table: Rows, key: str) -> list[str]:
    """Sets of sensors such as ``"s1+s2"``, the smaller first."""
    return sorted(levels(table, key), key=lambda sensors: (sensors.count("+"), sensors))


def spread_text(table: Rows) -> str:
    """What the error bars and the numbers behind ± are."""
    counts = sorted({row["runs"] for row in table})
    if counts[-1] == 1:
        return "one run each, so no spread"
    several = " or ".join(str(count) for count in counts if count > 1)
    return f"mean ± one standard deviation over {several} runs{'; no spread for single runs' if counts[0] == 1 else ''}"


def _say_spread(fig: Figure, table: Rows) -> None:
    fig.supxlabel(spread_text(table), fontsize=SMALL, color="0.35")


def _words(sensors: str) -> str:
    return " + ".join(name[:1].upper() + name[1:] for name in sensors.split("+"))
