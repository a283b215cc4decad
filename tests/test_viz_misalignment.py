"""Figures of displacement: every score at its amount, models that do not move as lines, marks where places are."""

import numpy as np
import pytest
from figures import EIGHT_BIT, VV, all_text, assert_tidy, images, shown

from fmlib import viz


def rows(models=("MsIFT", "concatenation", "S1 alone"), seeds=2, shifts=(0.0, 16.0), kind="shift"):
    found = []
    for model in models:
        for shift in shifts if model != "S1 alone" else (0.0,):
            for seed in range(seeds):
                for amount in (0, 4, 16):
                    score = 0.6 if model == "S1 alone" else 0.8 - 0.01 * amount + 0.002 * seed + 0.001 * shift
                    row = {"model": model, "shift_train": shift, "seed": seed, "kind": kind, "amount": amount}
                    found.append(row | {"miou": score})
    return found


@pytest.fixture(autouse=True, scope="module")
def _style():
    viz.use_style()


def test_curves_of_every_model_and_training():
    fig = viz.displacement_curves(rows(), ylabel="mIoU")
    assert_tidy(fig)
    assert [ax.get_title() or ax.get_title("left") for ax in fig.axes] == [
        "trained aligned",
        "trained with shifts up to 16 px",
    ]
    for ax, extra in zip(fig.axes, (0, 0.016), strict=True):
        curves = [x for x in ax.lines if len(x.get_xdata()) == 3 and x.get_linestyle() != "None"]  # no caps
        assert len(curves) == 2
        assert curves[0].get_ydata() == pytest.approx([0.801 + extra, 0.761 + extra, 0.641 + extra])
        assert curves[0].get_xdata() == pytest.approx([0, 4, 16], abs=0.2)
        (flat,) = [line for line in ax.lines if list(line.get_ydata()) == [0.6, 0.6]]  # in both panels
        assert flat.get_color() == "0.45"
    text = all_text(fig)
    for word in ("MsIFT", "concatenation", "S1 alone", "shift (pixels)", "mIoU", "one standard deviation over 2 runs"):
        assert word in text


def test_other_kinds_have_their_units_and_many_models_fit():
    fig = viz.displacement_curves(rows(("MsIFT",), 1, (0.0,), "angle"))
    assert_tidy(fig)
    assert "rotation (degrees)" in all_text(fig)
    assert "no spread" in all_text(fig)
    many = ("MsIFT", "sum", "concatenation", "concatenation, convolutions", "S1 alone")
    assert_tidy(viz.displacement_curves(rows(many, 3)))


@pytest.mark.parametrize("size", [(48, 48), (32, 64)])
def test_a_query_and_where_it_looks(size):
    grid = (size[0] // 8, size[1] // 8)
    asks, answers = images(VV, 1, size)[0], images(EIGHT_BIT, 2, size)
    maps = {"aligned": np.zeros(grid), "displaced": np.full(grid, 0.01)}
    maps["aligned"][1, 2] = 1
    maps["displaced"][3, 2] += 1
    fig = viz.followed_query(
        asks,
        {"aligned": answers[0], "displaced": answers[1]},
        {"s1": VV, "s2": EIGHT_BIT},
        ("s1", "s2"),
        maps,
        (11.5, 19.5),
        {"aligned": (11.5, 19.5), "displaced": (27.5, 19.5)},
    )
    assert_tidy(fig)
    first, left, right, moved_left, moved_right = fig.axes
    assert [line.get_marker() for line in first.lines] == ["s"]
    marks = {line.get_marker(): line for line in right.lines}
    assert marks["x"].get_xydata()[0] == pytest.approx([19.5, 11.5])  # all weight on one token: its middle
    assert marks["o"].get_xydata()[0] == pytest.approx([19.5, 11.5])
    assert moved_left.lines[0].get_xydata()[0] == pytest.approx([19.5, 27.5])
    assert not np.array_equal(shown(right), shown(left))
    limits = {line.get_marker(): line for line in moved_right.lines}["x"].get_xydata()[0]
    assert limits[1] < 27.5  # drawn towards the middle by what lies everywhere
    assert all(word in all_text(fig) for word in ("Sentinel-1 asks", "aligned", "displaced", "centre of mass"))
