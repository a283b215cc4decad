"""Figures of masks, training and reconstructions: what is removed is grey, what is drawn is what was predicted."""

import numpy as np
import pytest
import torch
from figures import EIGHT_BIT, IDS, MSI, SENSORS, VV, all_text, assert_tidy, images, shown

from fmlib import viz
from fmlib.viz import reconstruction, training


@pytest.fixture(autouse=True, scope="module")
def _style():
    viz.use_style()


@pytest.mark.parametrize("sensors", SENSORS, ids=["1+3 bands", "2+12 bands"])
def test_mask_gallery(sensors):
    masks = {name: {m.name: np.eye(6) for m in sensors} for name in ("independent", "consistent", "sensor")}
    masks["sensor"]["s2"] = torch.ones(6, 6)
    named = {m.name: m for m in sensors}
    pictures = {m.name: images(m, 1)[0] for m in sensors}
    for fig in (viz.mask_gallery(masks, named), viz.mask_gallery(masks, named, pictures)):
        assert_tidy(fig)
        assert all(word in all_text(fig) for word in ("independent", "Sentinel-1", "30 of 36 kept", "0 of 36 kept"))
    assert np.ptp(shown(fig.axes[5])) == 0  # second row, third column: all removed


def test_hidden_patches_are_grey_and_kept_ones_untouched():
    picture = np.random.default_rng(0).random((8, 12, 3))
    mask = np.array([[0, 1, 0], [1, 0, 0]])
    hidden = viz.hide(picture, mask)
    assert (hidden[:4, :4] == picture[:4, :4]).all()
    assert np.ptp(hidden[:4, 4:8]) == 0
    with pytest.raises(ValueError, match=r"mask of shape \(2, 5\) does not divide"):
        viz.hide(picture, np.zeros((2, 5)))


def test_loss_curves():
    records = [{"event": "start"}, *({"step": i, "loss": 1 / (1 + i)} for i in range(60))]
    fig = viz.loss_curves({"XAD": records, "XAE&D": records}, {"XAD": records[1::20]}, unit="MSE", smooth=5)
    assert_tidy(fig)
    assert "loss (MSE)" in all_text(fig)
    assert len(fig.axes[0].lines) == 5  # raw and smoothed of two runs, one validation
    steps, smoothed = fig.axes[0].lines[1].get_data()
    assert steps[0] == 4
    assert smoothed[0] == pytest.approx(np.mean([1 / (1 + i) for i in range(5)]))
    with pytest.raises(ValueError, match=r"'step' and 'accuracy'; their keys are \['event', 'loss', 'step'\]"):
        training.series(records, "accuracy")


@pytest.mark.parametrize("sensors", SENSORS, ids=["1+3 bands", "2+12 bands"])
def test_error_maps_show_removed_patches_of_every_band_on_one_scale(sensors):
    named = {m.name: m for m in sensors}
    original = {m.name: images(m, 1)[0] for m in sensors}
    off = {name: x + 1.5 * np.array(named[name].std)[:, None, None] for name, x in original.items()}
    mask = {name: np.eye(6, dtype=int) for name in named}  # 1: removed
    fig = viz.error_maps(original, off, mask, named)
    panels = [ax for ax in fig.axes if ax.images]
    assert len(panels) == sum(m.in_chans for m in sensors)
    for ax in panels:
        shown = ax.images[0].get_array()
        assert np.ma.count(shown) == 6 * 8 * 8
        np.testing.assert_allclose(shown.compressed(), 1.5, rtol=1e-4)
        assert ax.images[0].get_clim() == (0, 2)


@pytest.mark.parametrize("sensors", SENSORS, ids=["1+3 bands", "2+12 bands"])
def test_reconstruction_gallery(sensors):
    named = {m.name: m for m in sensors}
    original = {n: images(m) for n, m in named.items()}
    prediction = {n: torch.from_numpy(v).to(torch.bfloat16) for n, v in original.items()}
    mask = {n: (np.indices((6, 6)).sum(0) % 2)[None].repeat(3, 0) for n in named}
    fig = viz.reconstruction_gallery(original, prediction, original, mask, named, IDS)
    assert_tidy(fig)
    assert all(word in all_text(fig) for word in ("original", "input", "prediction", "pasted", *IDS))
    assert len(fig.axes) == 3 * 8
    panels = [shown(ax) for ax in fig.axes[:4]]
    assert panels[3] == pytest.approx(panels[0])  # one stretch for all panels
    assert (panels[1][:8, 8:16] == panels[1][0, 8]).all()  # a removed patch
    assert panels[1][:8, :8] == pytest.approx(panels[0][:8, :8])


@pytest.mark.parametrize("sensors", SENSORS, ids=["1+3 bands", "2+12 bands"])
def test_partner_gallery(sensors):
    first, second = sensors
    target, partner = images(second), images(first)
    mean = target * 0 + np.array(second.mean, np.float32)[:, None, None]
    predictions = {"true": target, "wrong": np.roll(target, 1, 0), "none": mean}
    fig = viz.partner_gallery(target, second, partner, np.roll(partner, 1, 0), first, predictions, ids=IDS)
    assert_tidy(fig)
    text = all_text(fig)
    assert all(word in text for word in ("true partner", "wrong partner", "no partner", "MSE 0.00", *IDS))
    panels = [shown(ax) for ax in fig.axes[:6]]
    assert panels[2] == pytest.approx(panels[0])
    assert not np.allclose(panels[4], panels[0])


def test_squared_error_counts_removed_patches_in_units_of_the_std():
    original = np.zeros((3, 8, 8))
    prediction = original.copy()
    prediction[:, :4, :4] = 2 * 40  # two std
    mask = np.array([[1, 0], [0, 0]])
    assert reconstruction.squared_error(prediction, original, EIGHT_BIT) == pytest.approx(1)
    assert reconstruction.squared_error(prediction, original, EIGHT_BIT, mask) == pytest.approx(4)
    assert np.isnan(reconstruction.squared_error(prediction, original, EIGHT_BIT, 0 * mask))


def test_partner_errors():
    rows = [
        {
            "fusion": fusion,
            "sensor": sensor,
            "partner": partner,
            "error": error,
            "low": error - 0.1,
            "high": error + 0.2,
        }
        for fusion in ("concatenate", "XAD", "XAE&D")
        for sensor in ("s1", "s2")
        for partner, error in (("true", 0.5), ("wrong", 0.9), ("no", 0.7))
    ]
    fig = viz.partner_errors(rows, {"s1": VV, "s2": MSI}, {"s1": {"mean image": 1.0}, "s2": {"nearest patch": 0.8}})
    assert_tidy(fig)
    assert all(word in all_text(fig) for word in ("Sentinel-1 reconstructed", "XAE&D"))
    entries = [text.get_text() for text in fig.legends[0].get_texts()]
    assert entries == ["true partner", "wrong partner", "no partner", "mean image", "nearest patch"]
    points = fig.axes[0].containers[1]  # wrong partner
    assert points.lines[0].get_ydata().tolist() == [0.9] * 3
    assert points.lines[2][0].get_segments()[0][:, 1] == pytest.approx([0.8, 1.1])
