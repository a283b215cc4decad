"""Figures as files: the same bytes every time, text that stays text, nothing half-written."""

import os

import numpy as np
import pytest
from figures import CLASSES, MSI, VVVH, images, pairs
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fmlib import viz


@pytest.fixture(autouse=True, scope="module")
def _style():
    viz.use_style()


def example():
    return viz.show_pairs(pairs((VVVH, MSI), [np.array([1, 0, 1])] * 3), {"s1": VVVH, "s2": MSI}, 2, CLASSES)


CHARTS = {
    "histograms": lambda: viz.band_histograms({"s2": images(MSI)}, {"s2": MSI}),
    "labels": lambda: viz.label_counts([3, 4, 5], CLASSES),
    "places": lambda: viz.places({"a": np.array([[11.58, 48.14], [12.0, 49.0]])}),
    "curves": lambda: viz.mutual_information_curve([-1, 0, 1], {"true pair": [0.1, 0.4, 0.1]}),
}


@pytest.mark.parametrize("make", [example, *CHARTS.values()], ids=["pictures", *CHARTS])
def test_the_same_figure_gives_the_same_bytes(make, tmp_path):
    first = viz.save_figure(make(), tmp_path / "a" / "fig.1")
    fig = make()
    FigureCanvasAgg(fig).draw()  # shown before it is saved
    second = viz.save_figure(fig, tmp_path / "b" / "fig.1")
    again = viz.save_figure(fig, tmp_path / "c" / "fig.1")
    assert [path.name for path in first] == ["fig.1.svg", "fig.1.pdf", "fig.1.png"]
    for one, two, three, start in zip(first, second, again, (b"<?xm", b"%PDF", b"\x89PNG"), strict=True):
        assert one.read_bytes().startswith(start)
        assert one.read_bytes() == two.read_bytes() == three.read_bytes(), one.name


def test_saved_text_stays_text_and_nothing_is_left_over(tmp_path):
    svg, pdf, _ = viz.save_figure(viz.label_counts([3, 4, 5], CLASSES), tmp_path / "fig")
    assert ">Urban fabric<" in svg.read_text()
    assert b"/Subtype /Type3" not in pdf.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["fig.pdf", "fig.png", "fig.svg"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    fig = viz.label_counts([3, 4, 5], CLASSES)
    before = [path.read_bytes() for path in viz.save_figure(fig, tmp_path / "fig")]

    def half(target, **_):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(fig, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        viz.save_figure(fig, tmp_path / "fig")
    assert [(tmp_path / f"fig.{end}").read_bytes() for end in ("svg", "pdf", "png")] == before


def test_figures_stay_closed():
    import matplotlib.pyplot as plt

    example()
    assert plt.get_fignums() == []
