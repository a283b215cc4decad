"""Figures of fused pictures: the right pixels, marks and directions, and no text over other text."""

import numpy as np
import pytest
from figures import all_text, assert_tidy, shown

from fmlib import viz
from fmlib.block_noise import spectrum
from fmlib.fusion_metrics import METRICS


@pytest.fixture(autouse=True, scope="module")
def _style():
    viz.use_style()


def pictures(count: int, shape=(96, 120)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    names = ["mean", "Laplacian pyramid", "infrared alone", "concat + MFM", "align only", "CFM", "max"]
    return {name: rng.integers(0, 256, shape, np.uint8) for name in names[:count]}


def panels(fig) -> list:
    return [ax for ax in fig.axes if ax.images and ax.get_visible()]


@pytest.mark.parametrize("count", [1, 4, 7])
def test_a_gallery_shows_grey_levels_as_they_are(count):
    given = pictures(count)
    fig = viz.fusion_gallery(given, box=(8, 16, 48))
    assert_tidy(fig)
    for ax, (name, picture) in zip(panels(fig), given.items(), strict=True):
        assert ax.get_title(loc="left") == name
        assert (shown(ax) == picture).all()
        assert ax.images[0].get_clim() == (0, 255), "not stretched"
        assert ax.patches[0].get_bbox().bounds == (15.5, 7.5, 48, 48)


def test_a_wipe_shows_one_picture_left_of_the_line_and_the_other_right():
    before, after = np.zeros((40, 60, 3), np.uint8), np.full((40, 60), 200, np.uint8)
    fig = viz.wipe(before, after, 0.25, ("visible", "fused"))
    assert_tidy(fig)
    pixels = shown(panels(fig)[0])
    assert pixels.shape == (40, 60, 3)
    assert (pixels[:, :15] == 0).all()
    assert (pixels[:, 15:] == 200).all()
    assert "visible" in all_text(fig)
    assert "fused" in all_text(fig)
    for share, level in ((0, 200), (1, 0)):
        assert (shown(panels(viz.wipe(before, after, share))[0]) == level).all()


def test_spectra_and_the_part_that_is_enlarged():
    given = pictures(6)
    fig = viz.block_spectra(given, 8, (10, 20, 32))
    assert_tidy(fig)
    *parts, chart = fig.axes
    assert len(parts) == 6
    assert (shown(parts[2]) == given["infrared alone"][10:42, 20:52]).all()
    harmonics = [line.get_xdata()[0] for line in chart.lines if len(line.get_xdata()) == 2]
    assert harmonics == [1 / 8, 2 / 8, 3 / 8, 4 / 8]
    curves = {line.get_label(): line for line in chart.lines if len(line.get_xdata()) > 2}
    assert list(curves) == list(given)
    frequencies, power = spectrum(given["CFM"], 8)
    np.testing.assert_allclose(curves["CFM"].get_xdata(), frequencies[2:])
    np.testing.assert_allclose(curves["CFM"].get_ydata(), 10 * np.log10(power.mean(0)[2:] / power[:, 2:].mean()))


def rows(seeds=2) -> list[dict]:
    methods, metrics = ("mean", "Laplacian pyramid", "CFM", "CFM + MFM"), ("CC", "PSNR", "NLPD", "SCD")
    return [
        {"method": method, "metric": metric, "seed": seed, "value": 10.0 * number + 0.1 * seed + len(metric)}
        for number, method in enumerate(methods)
        for metric in metrics
        for seed in range(seeds if number > 1 else 1)
        if (method, metric) != ("mean", "SCD")
    ]


def test_better_scores_lie_to_the_right():
    fig = viz.fusion_scores(rows(), {"CC": True, "NLPD": False, "SCD": True, "EN": True}, ["mean"], ncols=3)
    assert_tidy(fig)
    drawn = {ax.get_title(loc="left"): ax for ax in fig.axes if ax.get_visible()}
    assert list(drawn) == ["CC ↑", "NLPD ↓", "SCD ↑"], "in this order; what was not scored has no panel"
    for title, ax in drawn.items():
        left, right = ax.get_xlim()
        assert (left < right) == ("↑" in title)
    marks = {ax: [line for line in ax.lines if line.get_marker() == "o"] for ax in drawn.values()}
    assert [mark.get_xdata()[0] for mark in marks[drawn["CC ↑"]]] == pytest.approx([2, 12, 22.05, 32.05])
    assert [mark.get_mfc() == "white" for mark in marks[drawn["CC ↑"]]] == [True, False, False, False]
    assert [mark.get_ydata()[0] for mark in marks[drawn["SCD ↑"]]] == [1, 2, 3], "the mean's is not defined"
    assert "right is better; mean ± one standard deviation over 2 runs" in all_text(fig)


def test_sixteen_metrics_of_twelve_methods_have_room():
    metrics = [
        "CC",
        "SCD",
        "PSNR",
        "MSE",
        "Nabf",
        "NLPD",
        "EN",
        "MI",
        "SF",
        "SD",
        "AG",
        "Qabf",
        "VIF",
        "SSIM",
        "MS-SSIM",
    ]
    methods = [*pictures(7), "no align", "open decoder", "token mean", "visible alone"]
    rng = np.random.default_rng(0)
    found = [{"method": a, "metric": b, "seed": 0, "value": rng.uniform(0, 90)} for a in methods for b in metrics]
    assert_tidy(viz.fusion_scores(found, dict.fromkeys(METRICS, True), methods[:3]))


def test_token_maps_show_both_sensors_at_every_depth():
    rng = np.random.default_rng(0)
    colours = {
        name: rng.uniform(size=(2, 8, 8, 3)) for name in ("embedding", "block 1", "block 2", "block 3", "block 4")
    }
    sources = {"infrared": np.full((64, 64), 7.0), "visible": np.full((64, 64), 9.0)}
    notes = [f"same place 0.{i}2\nanother −0.01" for i in range(5)]
    fig = viz.token_maps(sources, colours, notes)
    assert_tidy(fig)
    found = np.reshape(panels(fig), (2, 6))
    assert [shown(ax)[0, 0] for ax in found[:, 0]] == [7, 9]
    assert [ax.get_ylabel() for ax in found[:, 0]] == ["infrared", "visible"]
    for i, (name, pair) in enumerate(colours.items(), start=1):
        assert found[0, i].get_title(loc="left") == name
        assert all((shown(found[row, i]) == pair[row]).all() for row in (0, 1))
        assert found[1, i].get_xlabel() == notes[i - 1]
