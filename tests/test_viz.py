"""Figures of data: the right pixels, the limits printed, no text over other text."""

import numpy as np
import pytest
import torch
from figures import CLASSES, EIGHT_BIT, IDS, MSI, SENSORS, VV, VVVH, all_text, assert_tidy, images, pairs, shown
from scipy.integrate import trapezoid

from fmlib import viz


@pytest.fixture(autouse=True, scope="module")
def _style():
    viz.use_style()


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
