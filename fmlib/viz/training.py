"""Figures of training: loss curves, and errors with and without the right partner."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ..modality import Modality
from .style import LINE_STYLES, MARKERS, OKABE_ITO, SMALL, charts, settle

Records = Sequence[Mapping[str, float]]


def loss_curves(
    logs: Mapping[str, Records],
    validation: Mapping[str, Records] | None = None,
    key: str = "loss",
    unit: str = "",
    smooth: int = 0,
) -> Figure:
    """Draw the loss of each run against the number of updates.

    Args:
        logs: records with ``step`` and `key` of each run; records without them (other events) are passed over.
        validation: the same for validation losses, drawn dashed with marks in the run's colour.
        key: name of the value drawn.
        unit: in which the loss is measured, e.g. ``"MSE of z-scores"``.
        smooth: length in records of the running mean drawn over the faint raw values; 0 or 1 draws the values alone.

    Returns:
        The figure.
    """
    fig, axes = charts(1, 1, height=2.6, width=5.4)
    ax = axes[0, 0]
    for i, (label, records) in enumerate(logs.items()):
        colour, style = OKABE_ITO[i % len(OKABE_ITO)], LINE_STYLES[i % len(LINE_STYLES)]
        steps, values = series(records, key)
        if smooth > 1 and len(values) > smooth:
            ax.plot(steps, values, color=colour, lw=0.6, alpha=0.3)
            steps, values = steps[smooth - 1 :], np.convolve(values, np.ones(smooth) / smooth, "valid")
        ax.plot(steps, values, color=colour, ls=style, label=label)
        if validation and label in validation:
            ax.plot(
                *series(validation[label], key), color=colour, ls=":", lw=1, ms=4,
                marker=MARKERS[i % len(MARKERS)], mfc="white", label=f"{label}, validation",
            )  # fmt: skip
    ax.set(xlabel="update", ylabel=f"{key} ({unit})" if unit else key)
    ax.xaxis.set_major_locator(plt.MaxNLocator(6, integer=True))
    ax.grid(axis="y")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=SMALL)
    return settle(fig)


def series(records: Records, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the records that hold both."""
    points = [(record["step"], record[key]) for record in records if "step" in record and key in record]
    if not points:
        raise ValueError(f"no record has 'step' and {key!r}; their keys are {sorted({k for r in records for k in r})}")
    return tuple(np.array(points, dtype=float).T)


def partner_errors(
    rows: Sequence[Mapping],
    modalities: Mapping[str, Modality],
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    ylabel: str = "MSE of z-scores on removed patches",
) -> Figure:
    """Draw the error of reconstructing one sensor with its true partner, a wrong one, and none.

    Args:
        rows: ``fusion, sensor, partner, error`` and, where there is a spread, ``low`` and ``high`` (an interval).
        modalities: the sensors, one panel each.
        baselines: for each sensor, trivial predictions and their error, e.g. ``{"s1": {"mean image": 1.0}}``; drawn
            as lines across the panel.
        ylabel: what the error is, with its unit.

    Returns:
        The figure: one point a partner in each column of a fusion design.
    """
    fusions, partners = (list(dict.fromkeys(row[key] for row in rows)) for key in ("fusion", "partner"))
    fig, axes = charts(1, len(modalities), height=2.9)
    for ax, (name, modality) in zip(axes[0], modalities.items(), strict=True):
        for i, partner in enumerate(partners):
            mine = [row for row in rows if row["sensor"] == name and row["partner"] == partner]
            x = [fusions.index(row["fusion"]) + 0.22 * (i - (len(partners) - 1) / 2) for row in mine]
            ax.errorbar(
                x, [row["error"] for row in mine], _interval(mine), fmt=MARKERS[i], color=OKABE_ITO[i], ms=5,
                lw=1.2, capsize=2.5, label="no partner" if partner == "none" else f"{partner} partner",
            )  # fmt: skip
        for i, (label, value) in enumerate((baselines or {}).get(name, {}).items()):
            ax.axhline(value, color="0.35", lw=0.9, ls=LINE_STYLES[1 + i % 3], zorder=0, label=label)
        ax.set(title=f"{modality.title} reconstructed", xlim=(-0.6, len(fusions) - 0.4))
        ax.set_xticks(range(len(fusions)), fusions)
        ax.tick_params(axis="x", length=0)
        ax.grid(axis="y")
        ax.margins(y=0.15)  # points, not bars: the axis need not start at 0, and small differences count
    axes[0, 0].set_ylabel(ylabel)
    _shared_legend(fig, axes[0])
    return settle(fig)


def _interval(rows) -> np.ndarray:
    """(2, n) distances below and above the error."""
    ends = [(r["error"] - r.get("low", r["error"]), r.get("high", r["error"]) - r["error"]) for r in rows]
    return np.array(ends, dtype=float).reshape(-1, 2).T


def _shared_legend(fig: Figure, axes):
    entries = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        entries.update(zip(labels, handles, strict=True))
    order = sorted(entries, key=lambda label: not label.endswith(" partner"))  # the points first, then the lines
    fig.legend([entries[label] for label in order], order, loc="outside lower center", ncols=min(len(entries), 5))
