"""Figures: the right pixels, the limits printed, no text over other text, the same bytes every time."""

import itertools
import os

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.integrate import trapezoid

from fmlib import viz
from fmlib.modality import Modality
from fmlib.viz import reconstruction, training

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


@pytest.fixture(autouse=True, scope="module")
def _style():
    viz.use_style()


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


# -- the stretch --------------------------------------------------------------------------------------------------


def test_decibels_have_fixed_limits():
    image = np.array([-30.0, -25, -12.5, 0, 5, np.nan]).reshape(1, 1, 6)
    picture, limits = viz.stretch(image, VV)
    assert limits == [(-25.0, 0.0)]
    assert picture.shape == (1, 6, 3)
    assert picture[0, :5, 0].tolist() == [0, 0, 0.5, 1, 1]
    assert (picture[..., 0] == picture[..., 2]).all()
    assert 0 < picture[0, 5, 0] < 1  # no value: grey


def test_two_decibel_bands_become_a_composite_with_their_ratio():
    image = np.stack([np.full((2, 2), -10.0), np.full((2, 2), -17.5)])
    picture, limits = viz.stretch(image, VVVH)
    assert len(limits) == 3
    assert picture[0, 0].tolist() == pytest.approx([0.6, 0.5, 0.5])


def test_reflectance_is_stretched_between_its_percentiles_and_limits_can_be_shared():
    image = images(MSI, 1)[0]
    picture, limits = viz.stretch(torch.from_numpy(image), MSI)  # red, green, blue = B04, B03, B02
    assert limits[0] == pytest.approx(np.percentile(image[3], (2, 98)))
    assert limits[2] == pytest.approx(np.percentile(image[1], (2, 98)))
    assert picture.min() == 0
    assert picture.max() == 1
    brighter, same = viz.stretch(image + 500, MSI, limits)
    assert same == limits
    assert brighter.mean() > picture.mean()


def test_limits_are_printed_with_their_unit():
    assert viz.limits_text(VV, [(-25.0, 0.0)]).replace("\u00a0", " ") == "VV −25…0 dB"
    text = viz.limits_text(EIGHT_BIT, [(1, 2), (3, 4), (5.25, 206.4)]).replace("\u00a0", " ")
    assert text == "2–98 %: B11 1…2, B08 3…4, B03 5.25…206 digital number"


def test_labels_in_words():
    assert viz.label_text(None) == "no label"
    assert viz.label_text(np.int64(1), ("dry", "flood")) == "flood"
    assert viz.label_text(np.array([1.0, 0, 1]), ("a", "b", "c")) == "a, c"
    assert viz.label_text(np.array([[0, 1], [1, 255]], np.uint8), ("dry", "flood")).replace("\u2009", "") == (
        "dry 25%, flood 50%, no data 25%"
    )


# -- every figure, for sensors of 1, 2, 3 and 12 bands --------------------------------------------------------------


@pytest.mark.parametrize("sensors", SENSORS, ids=["1+3 bands", "2+12 bands"])
def test_pairs(sensors):
    samples = pairs(sensors, [np.array([1, 0, 1]), np.array([0, 1, 1]), np.array([0, 0, 0])], (36, 48))
    del samples[1]["s1"]
    fig = viz.show_pairs(samples, {m.name: m for m in sensors}, 2, CLASSES)
    assert_tidy(fig)
    text = all_text(fig)
    assert text.count("missing") == 1
    assert all(name in text for name in (*IDS, "Urban fabric, Water", "none of the classes", sensors[1].title))
    assert sensors[0].unit in text
    assert shown(fig.axes[1]) == pytest.approx(viz.stretch(samples[0]["s2"], sensors[1])[0])
    panel = fig.axes[0].get_window_extent()
    assert panel.height / panel.width == pytest.approx(36 / 48)


def test_pairs_with_label_maps():
    label = np.zeros((48, 48), np.uint8)
    label[:12], label[12] = 1, 255
    fig = viz.show_pairs(pairs((VV, EIGHT_BIT), [label, None, label]), {"s1": VV, "s2": EIGHT_BIT}, 2, ("dry", "flood"))
    assert_tidy(fig)
    assert all_text(fig).count("Label") == 3
    label_map = fig.axes[2].images[0].get_array()
    assert label_map.mask.sum() == 48  # the row without data
    assert label_map.max() == 1


def test_long_titles_stay_in_their_panels():
    long = VV.replace(title="Sentinel-1 (terrain-corrected), descending")
    named = {name: long.replace(name=name) for name in ("a", "b", "c")}
    samples = [{name: images(VV, 1)[0] for name in named} | {"id": str(i)} for i in range(2)]
    fig = viz.show_pairs(samples, named, 2)
    assert_tidy(fig)
    assert fig.axes[0].get_title(loc="left").endswith("…")


def test_pairs_need_samples_and_sensors():
    with pytest.raises(ValueError, match="no samples"):
        viz.show_pairs([], {"s1": VV})
    with pytest.raises(ValueError, match=r"no sample has any of the sensors \['s1'\]"):
        viz.show_pairs([{"id": "x"}], {"s1": VV})


@pytest.mark.parametrize("sensors", SENSORS, ids=["1+3 bands", "2+12 bands"])
def test_histograms(sensors):
    values = {m.name: images(m) for m in sensors}
    values["s2"][0, 0, 0, 0] = np.nan
    fig = viz.band_histograms(values, {m.name: m for m in sensors})
    assert_tidy(fig)
    assert f"value ({sensors[1].unit})" in all_text(fig)
    raw, normal = fig.axes[2], fig.axes[3]
    assert len(raw.lines) == sensors[1].in_chans
    for line in normal.lines[:-1]:  # normal data: the densities follow the normal law, and integrate to 1
        x, y = line.get_data()
        assert trapezoid(y, x) == pytest.approx(1, abs=0.05)
        assert x[y.argmax()] == pytest.approx(0, abs=1)


def test_histograms_of_whole_numbers_have_no_comb():
    rng = np.random.default_rng(0)
    values = {"s2": rng.integers(0, 200, (4, 3, 64, 64)).astype(float)}
    line = viz.band_histograms(values, {"s2": EIGHT_BIT}).axes[0].lines[0]
    inner = line.get_ydata()[2:-3]
    assert inner.std() / inner.mean() < 0.1


def test_speckle_draws_the_window_and_the_law():
    image = 10 * np.log10(np.random.default_rng(0).gamma(4.4, 1 / 4.4, (1, 64, 64)))
    fig = viz.speckle(image, VV, (8, 16, 32), looks=4.4)
    assert_tidy(fig)
    left, right = fig.axes
    assert left.patches[0].get_bbox().bounds == (15.5, 7.5, 32, 32)
    x, law = right.lines[0].get_data()
    heights = np.array([p.get_height() for p in right.patches])
    centres = np.array([p.get_x() + p.get_width() / 2 for p in right.patches])
    assert np.abs(np.interp(centres, x, law) - heights).mean() < 0.1
    assert "4.4 looks" in right.get_legend().get_texts()[1].get_text()
    stretched = VV.replace(unit="digital number", valid_range=(0, 255))
    assert "not the sensor" in all_text(viz.speckle(images(EIGHT_BIT, 1)[0][:1], stretched, (0, 0, 32), 5.0))
    assert "no radar" in all_text(viz.speckle(images(EIGHT_BIT, 1)[0], EIGHT_BIT, (0, 0, 32), 5.0))


def test_label_counts():
    fig = viz.label_counts([3, 1200, 0], CLASSES)
    assert_tidy(fig)
    assert "1,200" in all_text(fig)
    assert [bar.get_width() for bar in fig.axes[0].patches] == [3, 1200, 0]
    assert "75.0%" in all_text(viz.label_counts([30, 10], ("dry", "flood"), "pixels"))
    with pytest.raises(ValueError, match="2 counts for 3 classes"):
        viz.label_counts([1, 2], CLASSES)


def test_mutual_information_curve():
    true = np.array([[0.1, 0.3, 0.1], [0.2, 0.4, 0.2], [0.1, 0.9, 0.1]])
    fig = viz.mutual_information_curve([-1, 0, 1], {"true pair": true, "wrong pair": [0.02, 0.02, 0.02]})
    assert_tidy(fig)
    assert fig.axes[0].lines[0].get_ydata() == pytest.approx([0.1, 0.4, 0.1])  # the median of three
    assert "n = 3" in fig.axes[0].get_legend().get_texts()[0].get_text()


def test_ndvi_histograms():
    rng = np.random.default_rng(0)
    covers = {"everything": rng.uniform(-0.5, 0.9, 5000), "water": rng.normal(-0.2, 0.05, 900), "forest": np.ones(9)}
    fig = viz.ndvi_histograms({"Sentinel-2": covers, "Sentinel-2, clear (top of atmosphere)": covers})
    assert_tidy(fig)
    assert len(fig.axes) == 2
    water = next(patch for patch in fig.axes[0].patches if patch.get_label() == "water")
    counts, edges, _ = water.get_data()
    assert edges[counts.argmax()] == pytest.approx(-0.2, abs=0.05)
    assert counts.max() == 1
    labels = [text.get_text() for text in fig.axes[1].get_legend().get_texts()]
    assert labels == ["everything", "water"]  # nine pixels of forest make no curve


def test_polarisations():
    rng = np.random.default_rng(0)
    vh = rng.normal(-18, 3, 5000)
    fig = viz.polarisations({"Sentinel-1": {"VV": vh + rng.normal(7, 1, 5000), "VH": vh}})
    assert_tidy(fig)
    left, right = fig.axes
    assert "VV less VH (dB)" in all_text(fig)
    peaks = [edges[counts.argmax()] for counts, edges, _ in (patch.get_data() for patch in left.patches)]
    assert peaks == pytest.approx([-11, -18], abs=1.5)
    [found] = [line for line in right.lines if line.get_label() == "median found"]
    assert found.get_xdata()[0] == pytest.approx(7, abs=0.2)


def test_information_maps():
    shifts, true = np.arange(-4, 5), np.full((3, 9, 9), 0.1)
    true[:, 4, 6] = 0.4  # row shift 0, column shift 2
    maps = {"true pair": true, "wrong pair": np.full((3, 9, 9), 0.05)}
    long = "Sentinel-1 (terrain-corrected) and Sentinel-2, clear (top of atmosphere)"
    fig = viz.information_maps(shifts, {long: maps, "Sentinel-1 and Elevation": maps})
    assert_tidy(fig)
    left, right = fig.axes[:2]
    ring = left.lines[1]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (2, 0)
    assert left.images[0].get_clim() == right.images[0].get_clim() == pytest.approx((0.05, 0.4))
    assert left.images[0].get_array()[4, 6] == pytest.approx(0.4)
    assert left.images[0].get_extent() == [-4.5, 4.5, 4.5, -4.5]
    assert "true pairs (n = 3)" in all_text(fig)
    assert_tidy(viz.information_maps(shifts, {"Sentinel-1 and Sentinel-2": maps}))


def test_statistics_beside_the_manifest():
    keys = ("sensor", "band", "mean", "manifest mean", "std", "manifest std")
    rows = [dict(zip(keys, row, strict=True)) for row in (("S1", "VV", -12, -10, 8, 4), ("S1", "VH", -17, -17, 4, 4))]
    bands = [dict(zip(keys, ("HSI", f"{350 + i} nm", 1.0, 1.0, 1.0, 1.0), strict=True)) for i in range(144)]
    fig = viz.statistics_beside_manifest(rows + bands)
    assert_tidy(fig)
    points, _, (bars,) = fig.axes[0].containers[0]
    assert points.get_ydata().tolist() == [-0.5, 0]
    assert bars.get_segments()[0][:, 1].tolist() == [-2.5, 1.5]
    assert len(fig.axes[1].get_xticks()) <= 16


@pytest.mark.parametrize(
    "where",
    [
        {"one": np.array([[11.58, 48.14]])},
        {"north": np.array([[25.0, 78.0], [26.0, 79.9]]), "T33UUP": np.array([[13.0, 48.0]])},
        {"a": np.array([[-179.0, -60.0], [179.0, 75.0]])},
        {f"a place with a rather long name, number {i}": np.array([[i, 50.0]]) for i in range(6)},
    ],
    ids=["one place", "north", "world", "six"],
)
def test_places(where):
    fig = viz.places(where)
    assert_tidy(fig)
    ax, world = fig.axes
    points = np.concatenate(list(where.values()))
    drawn = np.concatenate([np.asarray(dots.get_offsets()) for dots in ax.collections if len(dots.get_offsets())])
    assert drawn == pytest.approx(points)
    (west, east), (south, north) = ax.get_xlim(), ax.get_ylim()
    assert west < points[:, 0].min() <= points[:, 0].max() < east
    assert south < points[:, 1].min() <= points[:, 1].max() < north
    assert ax.get_aspect() == pytest.approx(1 / np.cos(np.radians((south + north) / 2)))
    (x0, y0), (x1, y1) = world.patches[0].get_bbox().get_points()
    assert (x0, y0, x1, y1) == pytest.approx(np.clip((west, south, east, north), (-180, -90) * 2, (180, 90) * 2))
    assert "°" in all_text(fig)


def test_degrees_in_words():
    from fmlib.viz.places import degrees

    assert [degrees(x, "WE") for x in (-10.5, 0, 20, 190)] == ["10.5°W", "0°", "20°E", "170°W"]
    assert [degrees(x, "SN") for x in (-45, 0, 60)] == ["45°S", "0°", "60°N"]


def test_what_cannot_be_drawn_is_said():
    figures = {
        "no coordinates": viz.places({}),
        "no NDVI": viz.ndvi_histograms({}),
        "VV and VH": viz.polarisations({}),
        "without holes": viz.information_maps(np.arange(3), {}),
        "no classes": viz.label_counts([], ()),
        "No sensor": viz.statistics_beside_manifest([]),
    }
    for words, fig in figures.items():
        assert_tidy(fig)
        assert words in all_text(fig)


def test_images_of_several_sizes_make_one_histogram():
    values = {"s2": [images(EIGHT_BIT, 1, (30, 40))[0], images(EIGHT_BIT, 1, (20, 50), seed=1)[0]]}
    x, y = viz.band_histograms(values, {"s2": EIGHT_BIT}).axes[1].lines[0].get_data()
    assert trapezoid(y, x) == pytest.approx(1, abs=0.06)


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


# -- files --------------------------------------------------------------------------------------------------------


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
