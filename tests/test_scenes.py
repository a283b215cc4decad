"""Made scenes: what their images show is physical, learnable across sensors, and repeatable."""

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from fmlib.scenes.biomes import BIOMES, COVER
from fmlib.scenes.parcels import subdivide
from fmlib.scenes.radar import LOOKS, speckle
from fmlib.scenes.render import render_scene
from fmlib.scenes.sensors import BANDS


def ndvi(scene: dict) -> np.ndarray:
    red, infrared = scene["B04"].astype(float), scene["B08"].astype(float)
    return (infrared - red) / (infrared + red)


@pytest.fixture(scope="module")
def scenes() -> list[dict]:
    return [render_scene([11, k], 84, biome=list(BIOMES)[k % 6], day=150 + 5 * k) for k in range(18)]


def test_an_unknown_biome_is_refused():
    with pytest.raises(ValueError, match="unknown biome 'moon'; choose one of continental"):
        render_scene(0, 24, biome="moon")


@pytest.mark.parametrize("looks", [1.5, LOOKS, 7.0])
def test_speckle_has_the_stated_looks(looks):
    image = speckle(np.random.default_rng(0), (8, 240, 240), looks)
    assert image.mean() == pytest.approx(1, abs=0.01)
    assert image.mean() ** 2 / image.var() == pytest.approx(looks, rel=0.03)
    assert np.corrcoef(image[..., 1:].ravel(), image[..., :-1].ravel())[0, 1] == pytest.approx(0.77, abs=0.02)


def test_homogeneous_ground_has_the_stated_looks_in_power():
    power = []
    for seed in (1, 6, 10, 11, 12, 0):  # scenes with much sea
        scene = render_scene([seed, 9], biome="coast", day=200)
        calm = scene["map"] == 523
        level = np.median(scene["VV_clean"][calm])
        flat = calm & (np.abs(scene["VV_clean"] - level) < 0.3)  # the same ground to 0.3 dB
        linear = 10 ** (scene["VV"][flat].astype(float) / 10)
        power.append(linear / linear.mean())
    power = np.concatenate(power)
    assert len(power) > 25000
    assert 1 / power.var() == pytest.approx(LOOKS, rel=0.06)


def test_vegetation_soil_and_water_have_their_index(scenes):
    index = np.concatenate([ndvi(s).ravel() for s in scenes])
    cover = np.concatenate([s["cover"].ravel() for s in scenes])
    median = {name: np.median(index[cover == COVER[name]]) for name in ("conifer", "broadleaf", "grass", "lake", "sea")}
    assert 0.6 < median["conifer"] < 0.85
    assert 0.65 < median["broadleaf"] < 0.9
    assert 0.5 < median["grass"] < 0.85
    assert median["lake"] < 0
    assert median["sea"] < 0
    bare = render_scene(4, biome="continental", day=275)  # after harvest and ploughing
    fields = ndvi(bare)[bare["map"] == 211]
    assert 0.08 < np.quantile(fields, 0.1) < 0.3


def test_radar_sees_water_dark_and_towns_bright(scenes):
    vv = np.concatenate([s["VV"].ravel() for s in scenes])
    vh = np.concatenate([s["VH"].ravel() for s in scenes])
    code = np.concatenate([s["map"].ravel() for s in scenes])
    mean = {
        k: vv[np.isin(code, v)].mean() for k, v in {"water": (512, 523), "wood": (311, 312), "town": (111, 112)}.items()
    }
    assert mean["water"] + 4 < mean["wood"] < mean["town"] - 1
    assert 4 < (vv - vh).mean() < 10


def test_statistics_are_of_the_order_of_bigearthnet(scenes):
    # mean of the training split of BigEarthNet v2, as published with ConfigILM
    published = {"B02": 438, "B03": 614, "B04": 588, "B08": 2193, "B11": 1568, "B12": 998}
    for band, mean in published.items():
        assert 0.6 < np.mean([s[band].mean() for s in scenes]) / mean < 1.6, band
    assert np.mean([s["VV"].mean() for s in scenes]) == pytest.approx(-12.6, abs=2)
    assert np.mean([s["VH"].mean() for s in scenes]) == pytest.approx(-19.4, abs=2.5)


def test_the_20_and_60_m_bands_show_the_same_ground(scenes):
    for scene in scenes[:4]:
        fine = scene["B08"].reshape(42, 2, 42, 2).mean((1, 3))
        assert np.corrcoef(fine.ravel(), scene["B8A"].ravel())[0, 1] > 0.98
        assert scene["B09"].shape == (14, 14)


def r2_of_least_squares(features, target, split) -> float:
    """R² on scenes not fitted; features and target are lists, one array a scene."""
    design = [np.stack([np.ones_like(t), *f], 1) for f, t in zip(features, target, strict=True)]
    fit = np.linalg.lstsq(np.concatenate(design[:split]), np.concatenate(target[:split]), rcond=None)[0]
    truth = np.concatenate(target[split:])
    return 1 - np.mean((np.concatenate(design[split:]) @ fit - truth) ** 2) / truth.var()


def test_each_sensor_tells_something_but_not_all_of_the_other(scenes):
    smooth = lambda image: uniform_filter(image.astype(float), 9)[4::9, 4::9].ravel()  # noqa: E731
    radar = [[smooth(s["VV"]), smooth(s["VH"])] for s in scenes]
    radar = [[vv, vh, vv - vh, vh**2, vv * vh] for vv, vh in radar]
    green = [smooth(ndvi(s)) for s in scenes]
    assert 0.25 < r2_of_least_squares(radar, green, 12) < 0.92
    optical = [[smooth(s[b]) / 1e4 for b in ("B02", "B03", "B04", "B08")] for s in scenes]
    optical = [[*bands, index, index**2] for bands, index in zip(optical, green, strict=True)]
    assert 0.25 < r2_of_least_squares(optical, [smooth(s["VH"]) for s in scenes], 12) < 0.92
    wrong = [*green[1:], green[0]]  # of another place
    assert r2_of_least_squares(radar, wrong, 12) < 0.15


def test_shift_moves_the_radar_image_and_nothing_else():
    straight, moved = (render_scene(2, 60, biome="continental", day=160, shift=s) for s in ((0, 0), (3, -5)))
    assert np.allclose(moved["VV_clean"][3:, :-5], straight["VV_clean"][:-3, 5:], atol=1e-4)
    assert not np.allclose(moved["VV_clean"], straight["VV_clean"], atol=0.5)
    for name in (*BANDS, "map", "thermal"):
        assert np.array_equal(moved[name], straight[name])


def test_clouds_cover_their_share_of_the_optical_image_only():
    clear, cloudy = (render_scene(2, 60, biome="atlantic", day=160, clouds=c) for c in (0.0, 0.4))
    cloud = cloudy["cloud"]
    assert cloud.mean() == pytest.approx(0.4, abs=0.01)
    assert not clear["cloud"].any()
    gain = cloudy["B02"].astype(float) - clear["B02"]
    assert gain[cloud].mean() > 1500
    darkened = gain[~cloud] < -60
    assert darkened.mean() > 0.02  # shadows
    for name in ("VV", "VH", "map"):
        assert np.array_equal(cloudy[name], clear[name])


def test_heat_and_height_are_physical(scenes):
    for scene in scenes:
        assert scene["thermal"].shape == scene["elevation"].shape == (84, 84)
        assert scene["thermal"].min() > 255
        assert scene["thermal"].max() < 335
        assert scene["elevation"].min() > -60
        assert scene["elevation"].max() < 4000
    warm = np.mean([s["thermal"][np.isin(s["map"], (111, 112))].mean() - s["thermal"].mean()
                    for s in scenes if (s["map"] == 112).mean() > 0.03])  # fmt: skip
    assert warm > 0.5


def test_scenes_differ_and_a_generator_seeds_them(scenes):
    maps = {scene["map"].tobytes() for scene in scenes}
    assert len(maps) == len(scenes)
    one, two = (render_scene(np.random.default_rng(8), 24) for _ in range(2))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_parcels_are_of_the_size_and_shape_asked_for():
    rows, cols = np.mgrid[:120, :120]
    strips = subdivide(np.random.default_rng(0), cols.ravel(), rows.ravel(), np.zeros(14400, int), 300, elongation=4.0)
    counts = np.bincount(strips)
    assert 200 < counts.mean() < 600
    assert counts.max() < 300 * 2.6 * 1.01
    again = subdivide(np.random.default_rng(0), cols.ravel(), rows.ravel(), np.zeros(14400, int), 300, elongation=4.0)
    assert np.array_equal(strips, again)
