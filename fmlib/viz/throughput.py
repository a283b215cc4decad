"""Figures of speed: where the time goes, what work costs, what each way of saving time gives, and the machine's limits.

Their rows are what `fmlib.bench` measures.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from .style import MARKERS, OKABE_ITO, SMALL, charts, settle, wrap

WORK, TIME = {"color": OKABE_ITO[0], "marker": "o", "ls": "-"}, {"color": OKABE_ITO[1], "marker": "s", "ls": "--"}
STEP = (*(OKABE_ITO[i] for i in (5, 1, 0, 2, 4, 6, 3, 7)), "0.88")  # neighbours differ; black for a small part
BATCH = ("0.35", "0.55", "0.75")
TICKS = (0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 4, 6, 8, 12, 16)
FINE_TICKS = (0.92, 0.94, 0.96, 0.98, 1, 1.02, 1.04, 1.06, 1.08)  # where nothing gains or loses a tenth


def time_shares(parts: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Draw what a training step spends its time on, and below it the making of its batch in a thread beside.

    Args:
        parts: label → {"step": {part: milliseconds}, "batch": {part: milliseconds}} (`fmlib.bench.parts.bench_parts`).

    Returns:
        The figure: two stacked bars a label; shares of a bar stand in the pieces wide enough for them.
    """
    fig, axes = charts(1, 1, 1.35 + 0.72 * len(parts))
    ax, longest = axes[0, 0], max(sum(bar.values()) for both in parts.values() for bar in both.values())
    for row, both in enumerate(parts.values()):
        _stack(ax, row - 0.14, 0.42, both["step"], STEP, longest)
        _stack(ax, row + 0.24, 0.2, both["batch"], BATCH, longest)
    ax.set_yticks(range(len(parts)), [wrap(label, 1.3, 8, 2) for label in parts])
    ax.set(xlabel="milliseconds", ylim=(len(parts) - 0.5, -0.5), xlim=(0, 1.02 * longest))
    ax.tick_params(axis="y", length=0)
    handles = {bar.get_label(): bar for bar in ax.containers}  # each part once
    fig.legend(handles.values(), handles, loc="outside lower center", ncols=4, fontsize=SMALL)
    return settle(fig)


def _stack(ax: Axes, y: float, height: float, bar: Mapping[str, float], colours: Sequence[str], longest: float) -> None:
    left, total = 0.0, sum(bar.values())
    for (part, width), colour in zip(bar.items(), colours, strict=True):
        ax.barh(y, width, height, left, color=colour, ec="white", lw=0.5, label=part)
        if width > 0.045 * longest and height > 0.3:
            ink = "white" if colour in (OKABE_ITO[0], OKABE_ITO[6]) else "black"
            ax.text(
                left + width / 2, y, f"{100 * width / total:.0f} %", ha="center", va="center", fontsize=SMALL, color=ink
            )
        left += width


def cost_curves(rows: Sequence[Mapping], exponents: Sequence[Mapping]) -> Figure:
    """Draw how the work and the time of a step grow, both axes logarithmic and both as multiples of the smallest.

    Args:
        rows: axis, count, gflop, ms (`fmlib.bench.cost.bench_cost`).
        exponents: axis, along, gflop, ms (`fmlib.bench.cost.exponents`): the slopes, one panel each.

    Returns:
        The figure.
    """
    fig, axes = charts(1, len(exponents), 2.35, sharey=True)
    for ax, slope in zip(axes[0], exponents, strict=True):
        mine = sorted((row for row in rows if row["axis"] == slope["axis"]), key=lambda row: row["count"])
        counts = [row["count"] for row in mine]
        for key, look in (("gflop", WORK), ("ms", TIME)):
            ax.loglog(counts, [row[key] / mine[0][key] for row in mine], ms=4, lw=1.2, **look)
        _plain_ticks(ax.xaxis, _apart(counts))
        ax.set_xlabel(wrap(slope["along"], 1.25, 8, 2), fontsize=8)
        ax.set_title(f"slopes {slope['gflop']:.2f}, {slope['ms']:.2f}".replace("-", "−"), fontsize=SMALL)
        ax.grid()
        ax.margins(0.12)
    top = axes[0, 0].get_ylim()[1]
    _plain_ticks(axes[0, 0].yaxis, [tick for tick in (1, 2, 4, 8, 16, 32, 64, 128, 256) if tick <= top])
    axes[0, 0].set_ylabel("times the smallest setting")
    handles = [Line2D([], [], ms=4, **look) for look in (WORK, TIME)]
    fig.legend(handles, ["work (FLOP)", "time (median)"], loc="outside upper center", ncols=2)
    return settle(fig)


def _apart(counts: Sequence[float], share: float = 0.22) -> list[float]:
    """Those counts, in order, whose labels do not touch: on a logarithmic axis so far apart, as a share of it."""
    counts, kept = sorted(counts), []
    for count in counts:
        if not kept or np.log(count / kept[-1]) > share * np.log(counts[-1] / counts[0]):
            kept.append(count)
    return kept


def _plain_ticks(axis, ticks: Sequence[float]) -> None:
    axis.set_ticks(ticks)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def batch_curve(rows: Sequence[Mapping]) -> Figure:
    """Draw pairs a second and memory against the batch size.

    Args:
        rows: batch_size, pairs_per_s, memory_gib (`fmlib.bench.train.largest_batch`).

    Returns:
        The figure: two panels, the batch size doubling along them.
    """
    fig, axes = charts(1, 2, 2.2, 5.6)
    sizes = [row["batch_size"] for row in rows]
    drawn = {"pairs_per_s": ("pairs a second", WORK), "memory_gib": ("memory (GiB)", TIME)}
    for ax, (key, (label, look)) in zip(axes[0], drawn.items(), strict=True):
        values = [row[key] for row in rows]
        ax.plot(sizes, values, **look)
        ax.set_xscale("log", base=2)
        _plain_ticks(ax.xaxis, sizes)
        ax.set(xlabel="batch size (pairs a step)", ylabel=label)
        ax.set_ylim(0, 1.1 * max(values))
        ax.grid(axis="y")
    return settle(fig)


def gain_bars(rows: Sequence[Mapping]) -> Figure:
    """Draw what each way of saving time gives, alone and as the last to be left out.

    Args:
        rows: way, alone, left_out (`fmlib.bench.cost.bench_gains`): ratios of times; 1 is no gain, None is not drawn.

    Returns:
        The figure: bars from 1 on a logarithmic axis, their ratios beside them.
    """
    fig, axes = charts(1, 1, 0.95 + 0.4 * len(rows), 5.4)
    ax, ratios = axes[0, 0], [row[key] for row in rows for key in ("alone", "left_out") if row[key]]
    kinds = {
        "alone": ("added alone to the plain way", WORK, ""),
        "left_out": ("left out of the fast way", TIME, "////"),
    }
    for i, (key, (label, look, hatch)) in enumerate(kinds.items()):
        mine = [(y + 0.36 * (i - 0.5), row[key]) for y, row in enumerate(rows) if row[key]]
        places, widths = [y for y, _ in mine], [ratio - 1 for _, ratio in mine]
        ax.barh(places, widths, 0.32, 1, color=look["color"], hatch=hatch, ec="white", lw=0, label=label)
        for place, ratio in mine:
            aside = {"xytext": (3, 0), "textcoords": "offset points", "va": "center", "fontsize": SMALL}
            ax.annotate(f"{ratio:.2f}×", (max(ratio, 1), place), **aside)
    low, high = 0.97 * min(1, *ratios), 1.04 * max(ratios)
    ax.set_xscale("log")
    ax.set(xlim=(low, high * (high / low) ** 0.1), ylim=(len(rows) - 0.5, -0.5), xlabel="times as fast")
    ticks = [tick for tick in TICKS if low <= tick <= high]
    ticks = ticks if len(ticks) > 2 else [tick for tick in FINE_TICKS if low <= tick <= high]
    _plain_ticks(ax.xaxis, ticks if len(ticks) < 8 else [tick for tick in ticks if tick not in (0.9, 1.1, 6, 12)])
    ax.set_yticks(range(len(rows)), [wrap(row["way"], 1.6, 8, 2) for row in rows])
    ax.tick_params(axis="y", length=0)
    ax.axvline(1, color="0.3", lw=0.8)
    fig.legend(loc="outside upper center", ncols=2)
    return settle(fig)


def roofline_chart(found: Mapping) -> Figure:
    """Draw the rate of each operator against its arithmetic intensity, under the machine's limits.

    Args:
        found: what `fmlib.bench.roofline.bench_roofline` returns.

    Returns:
        The figure, both axes logarithmic: a slanted roof where memory is the limit, a level one where arithmetic is.
    """
    fig, axes = charts(1, 1, 3.1)
    ax, operators = axes[0, 0], found["operators"]
    matrix, memory = found["matrix_tflop_per_s"], found["memory_gb_per_s"] / 1e3  # TFLOP/s, TB/s
    places = [o["flop_per_byte"] for o in operators] + [matrix / memory]
    x = np.geomspace(min(places) / 1.6, max(places) * 2.5, 200)
    ax.loglog(x, np.minimum(matrix, x * memory), color="0.3", lw=1.3, zorder=1)
    ax.fill_between(x, np.minimum(matrix, x * memory), 1e-9, color="0.95", zorder=0)
    for i, operator in enumerate(operators):
        explicit = "explicit" in operator["name"]
        ax.plot(
            operator["flop_per_byte"], operator["tflop_per_s"], ls="", ms=5.5, marker=MARKERS[i % 8],
            color=OKABE_ITO[i % 7], mfc="white" if explicit else None, mew=1.2, label=operator["name"],
        )  # fmt: skip
    rates = [o["tflop_per_s"] for o in operators]
    ax.set(xlim=(x[0], x[-1]), ylim=(min(rates) / 2, 3 * max(*rates, matrix)))
    ax.set(xlabel="arithmetic intensity (FLOP a byte)", ylabel=f"TFLOP/s, {found['precision']}")
    limits = f"limits: {1e3 * memory:,.0f} GB/s of memory, {matrix:.3g} TFLOP/s of arithmetic"
    ax.text(0.02, 0.98, limits, transform=ax.transAxes, va="top", fontsize=SMALL)
    fig.legend(loc="outside right center", fontsize=SMALL)
    return settle(fig)
