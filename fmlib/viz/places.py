"""Where samples lie: dots over a graticule, and the part of the world they are in."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .style import MARKERS, OKABE_ITO, SMALL, TWO_COLUMNS, bare, figure, note, to_numpy, wrap

NARROWEST = 0.2  # degrees of latitude: a single place needs some ground around it
WIDTH, HEIGHT = TWO_COLUMNS, 2.75  # inches: of the figure
MAP = (0.5, 0.3, 4.75, 2.35)  # inches: left, bottom, width and height
WORLD = (5.4, 1.85, 1.6, 0.8)


def places(coordinates: Mapping[str, np.ndarray]) -> Figure:
    """Draw where samples lie.

    Args:
        coordinates: name of a group, such as a place or a split, to (n, 2) longitude and latitude in degrees (WGS 84).

    Returns:
        The samples over meridians and parallels, and, in a world of the same, the part of it that is shown. A degree
        of longitude is as long as it is at the middle latitude.
    """
    if not coordinates:
        return note("No sample says where it lies: there are no coordinates to draw.")
    points = np.concatenate([to_numpy(group) for group in coordinates.values()])  # (N, 2)
    fig = figure(WIDTH, HEIGHT)
    ax = _axes(fig, MAP)
    for i, (name, group) in enumerate(coordinates.items()):
        label = f"{wrap(name, 1.25, SMALL, 1)} ({len(group)})"
        style = {"marker": MARKERS[i % len(MARKERS)], "color": OKABE_ITO[i % len(OKABE_ITO)]}
        ax.scatter(*to_numpy(group).T, s=24, lw=0.5, ec="white", zorder=3, label=label, **style)
    window = _window(points, MAP[2] / MAP[3])
    _graticule(ax, window)
    left, below = WORLD[0] / WIDTH, (WORLD[1] - 0.45) / HEIGHT
    fig.legend(loc="upper left", bbox_to_anchor=(left, below), fontsize=SMALL, borderaxespad=0, handletextpad=0.2)
    _world(_axes(fig, WORLD), window)
    return fig


def _axes(fig: Figure, inches: tuple[float, float, float, float]) -> Axes:
    return fig.add_axes(tuple(length / whole for length, whole in zip(inches, (WIDTH, HEIGHT) * 2, strict=True)))


def _window(points: np.ndarray, aspect: float) -> tuple[float, float, float, float]:
    """West, east, south and north of a map of a given width over height that holds all points."""
    (west, south), (east, north) = points.min(axis=0), points.max(axis=0)
    shrink = np.cos(np.radians((south + north) / 2))
    tall = min(1.2 * max(north - south, (east - west) * shrink / aspect, NARROWEST), 180)
    wide = min(tall * aspect / max(shrink, 0.05), 360)
    lon, lat = (west + east) / 2, (south + north) / 2
    return lon - wide / 2, lon + wide / 2, lat - tall / 2, lat + tall / 2


def _graticule(ax: Axes, window: tuple[float, float, float, float]) -> None:
    west, east, south, north = window
    ax.set(xlim=(west, east), ylim=(south, north), anchor="W")
    ax.set_aspect(1 / max(np.cos(np.radians((south + north) / 2)), 0.05))
    for axis, names in ((ax.xaxis, "WE"), (ax.yaxis, "SN")):
        axis.set_major_locator(plt.MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
        axis.set_major_formatter(lambda value, _, names=names: degrees(value, names))
    ax.grid(True)
    ax.spines[:].set_visible(True)
    ax.spines[:].set_color("0.7")
    ax.tick_params(length=0, labelsize=SMALL)


def degrees(value: float, names: str) -> str:
    """A longitude or a latitude in words, e.g. ``12.5°E``; `names` are the letters of below and above 0."""
    value = (value + 180) % 360 - 180 if names == "WE" else value
    return f"{abs(value):.6g}°{'' if round(value, 9) == 0 else names[int(value > 0)]}"


def _world(ax: Axes, window: tuple[float, float, float, float]) -> None:
    """The whole graticule, with the part that the map shows; a part too small to see gets a cross."""
    bare(ax)
    ax.set(xlim=(-180, 180), ylim=(-90, 90), facecolor="0.97")
    ax.vlines(range(-180, 181, 30), -90, 90, color="0.85", lw=0.4)
    ax.hlines(range(-90, 91, 30), -180, 180, color="0.85", lw=0.4)
    ax.axhline(0, color="0.55", lw=0.7)
    ax.axvline(0, color="0.55", lw=0.7)
    west, east, south, north = np.clip(window, (-180, -180, -90, -90), (180, 180, 90, 90))
    ax.add_patch(Rectangle((west, south), east - west, north - south, fc="#D55E0055", ec=OKABE_ITO[1], lw=0.9))
    if max(east - west, north - south) < 12:
        ax.plot((west + east) / 2, (south + north) / 2, "+", color=OKABE_ITO[1], ms=9, mew=1.1)
    ax.set_xlabel("in the world (darker lines:\nequator and Greenwich)", fontsize=SMALL, color="0.3", labelpad=3)
