"""Sensors and images to draw, and what is asked of every figure: readable text that covers nothing."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from fmlib import viz
from fmlib.modality import Modality

B12 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
VV = Modality("s1", ("VV",), "dB", (-50, 20), (-10.0,), (4.0,), title="Sentinel-1")
VVVH = Modality("s1", ("VV", "VH"), "dB", (-50, 20), (-10.0, -17.0), (4.0, 4.0), rgb=("VV", "VH"), title="Sentinel-1")
EIGHT_BIT = Modality(
    "s2", ("B11", "B08", "B03"), "digital number", (0, 255), (90.0,) * 3, (40.0,) * 3, rgb=("B11", "B08", "B03"),
    title="Sentinel-2 (8 bit)",
)  # fmt: skip
MSI = Modality(
    "s2", B12, "reflectance × 10000", (0, 10000), (1500.0,) * 12, (700.0,) * 12, rgb=("B04", "B03", "B02"),
    title="Sentinel-2",
)  # fmt: skip
SENSORS = [(VV, EIGHT_BIT), (VVVH, MSI)]
IDS = tuple(f"S2A_MSIL2A_20170613T101031_87_{i}" for i in range(3))
CLASSES = (
    "Urban fabric",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Water",
)


def images(modality, count=3, size=(48, 48), seed=0):
    """Random images of any sensor, (N, C, H, W)."""
    z = np.random.default_rng(seed).normal(size=(count, modality.in_chans, *size))
    values = z * np.array(modality.std)[:, None, None] + np.array(modality.mean)[:, None, None]
    return np.clip(values, *modality.valid_range).round(0 if modality.unit != "dB" else 9).astype(np.float32)


def pairs(sensors, labels, size=(48, 48)):
    stacks = [images(m, size=size) for m in sensors]
    return [
        {m.name: stack[i] for m, stack in zip(sensors, stacks, strict=True)} | {"label": label, "id": IDS[i]}
        for i, label in enumerate(labels)
    ]


def texts(fig):
    """Every text that is drawn in a figure, with its box in pixels."""
    canvas = FigureCanvasAgg(fig)
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        draw = Text.draw
        patch.setattr(Text, "draw", lambda self, renderer: (drawn.append(self), draw(self, renderer))[1])
        canvas.draw()
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in dict.fromkeys(drawn)]
    return [(text, box) for text, box in boxes if text.strip()]


def shown(ax):
    """The pixels of a panel."""
    return np.asarray(ax.images[0].get_array())


def assert_tidy(fig):
    """All text lies inside the figure, is readable, and covers neither other text nor a picture."""
    assert isinstance(fig, Figure)
    width, height = fig.get_size_inches()
    assert width <= viz.TWO_COLUMNS + 1e-6
    assert height <= 9
    drawn = texts(fig)
    for text, box in drawn:
        assert box.x0 > -1, text
        assert box.y0 > -1, text
        assert box.x1 < fig.bbox.width + 1, text
        assert box.y1 < fig.bbox.height + 1, text
    pictures = [("a picture", ax.get_window_extent()) for ax in fig.axes if ax.images and ax.get_visible()]
    for (one, a), (other, b) in [*itertools.combinations(drawn, 2), *itertools.product(drawn, pictures)]:
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        down = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across < 2 or down < 2, f"{one!r} covers {other!r}"
    assert min(t.get_fontsize() for t in fig.findobj(Text)) >= 6.5


def all_text(fig):
    return "\n".join(text for text, _ in texts(fig)).replace("\u00a0", " ")
