"""From stored bands to samples: units, no-data rules, grids."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sensors import sensor

from fmlib.data.resample import resample
from fmlib.data.sample import Raw, to_image, to_sample

FILES = (Path("a_VV.tif"), Path("a_VH.tif"))


def radar(values, rule="error", tag=None, unit="dB", stored="", nodata=()):
    """A sample of one radar image with these stored values in VV, and VH 7 lower."""
    modality = sensor("s1", 2).replace(
        bands=("VV", "VH"),
        groups=(),
        rgb=(),
        mean=(-10, -17),
        on_nodata=rule,
        unit=unit,
        stored_unit=stored,
        nodata=nodata,
    )
    values = np.array(values, np.float32)
    raw = Raw({"s1": [values, values - 7]}, {"id": "a"}, {"s1": FILES}, {} if tag is None else {"s1": tag})
    return to_sample(raw, {"s1": modality})


def test_missing_pixels_are_refused_by_default_and_the_file_is_named():
    with pytest.raises(ValueError, match=r"a_VV.tif: of 4 values of 's1' band VV 1 not finite; drop.*on_nodata"):
        radar([[-9, np.nan], [-11, -12]])
    with pytest.raises(ValueError, match="1 not finite and 2 nodata"):
        radar([[-9, np.nan], [-9999, -9999]], nodata=(-9999,))
    with pytest.raises(ValueError, match="3 nodata"):
        radar([[-9, 0], [0, 0]], tag=0)


def test_the_rule_mean_fills_with_each_bands_mean_and_marks_the_pixel():
    sample = radar([[-9, np.nan], [-9999, np.inf]], rule="mean", nodata=(-9999,))
    assert sample["s1"][0].tolist() == [[-9, -10], [-10, -10]]
    assert sample["s1"][1].tolist() == [[-16, -17], [-10006, -17]]  # -9999 is a tag in VV alone
    assert sample["valid"].tolist() == [[True, False], [False, False]]
    assert radar([[-9, -8], [-7, -6]], rule="mean")["valid"].all()  # always there, so that batches stack


def test_the_rule_keep_leaves_finite_values_only():
    assert radar([[-9, 0], [0, 0]], rule="keep", tag=0)["s1"][0].tolist() == [[-9, 0], [0, 0]]
    with pytest.raises(ValueError, match="1 not finite"):
        radar([[-9, np.nan], [-8, -7]], rule="keep")


@pytest.mark.parametrize("rule", ["error", "mean", "keep"])
def test_an_image_without_any_data_is_refused_by_every_rule(rule):
    for values in ([[np.nan, np.nan]], [[-9999, np.nan]], [[-9999, -9999]]):
        with pytest.raises(ValueError, match="every value of 's1' band VV is no data"):
            radar(values, rule=rule, tag=-9999)


def test_linear_power_becomes_decibels_where_the_manifest_says_so():
    modality = sensor("s1", 1).replace(unit="dB", stored_unit="linear power", on_nodata="mean", mean=(-10,))
    raw = Raw({"s1": [np.array([[0.1, 0.01], [0.0, -1.0]])]}, {"id": "a"}, {"s1": FILES})
    sample = to_sample(raw, {"s1": modality})
    np.testing.assert_allclose(sample["s1"][0], [[-10, -20], [-10, -10]], atol=1e-5)
    assert sample["valid"].tolist() == [[True, True], [False, False]]  # no decibel expresses 0 and less
    power = np.array([[0.1, 0.01], [0.3, np.nan]])  # filled pixels must not hide what the others are
    with pytest.raises(ValueError, match=r"a_VV.tif: 's1' is in dB, but no value is below 0.*linear power"):
        to_sample(Raw({"s1": [power]}, {"id": "a"}, {"s1": FILES}), {"s1": modality.replace(stored_unit="")})


@pytest.mark.parametrize(
    ("stored", "value", "expected"),
    [("reflectance", 0.25, 2500), ("reflectance × 10000 + 1000", 3500, 2500), ("", 2500, 2500)],
)
def test_reflectance_comes_in_one_unit(stored, value, expected):
    modality = sensor("s2", 1).replace(unit="reflectance × 10000", stored_unit=stored, valid_range=(0, 10000))
    raw = Raw({"s2": [np.array([[value, value * 1.1]])]}, {"id": "a"}, {"s2": FILES})
    assert to_sample(raw, {"s2": modality})["s2"][0, 0, 0] == pytest.approx(expected)


def test_bands_of_several_native_sizes_come_to_the_largest_and_maps_stay_whole_numbers():
    fine, coarse = np.arange(16, dtype=np.uint16).reshape(4, 4), np.array([[10, 20], [30, 40]], np.uint16)
    raw = Raw({"s2": [coarse, fine]}, {"id": "a", "map": fine.astype(np.uint8)}, {"s2": FILES})
    modalities = {"s2": sensor("s2", 2)}
    sample = to_sample(raw, modalities)
    assert sample["s2"][0].tolist() == coarse.repeat(2, 0).repeat(2, 1).tolist()
    half = to_sample(raw, modalities, size=(2, 4), method="area")
    assert half["s2"].shape == (2, 2, 4)
    np.testing.assert_allclose(half["s2"][1], fine.reshape(2, 2, 4).mean(1))
    assert half["map"].dtype == np.uint8
    assert set(half["map"].ravel()) <= set(range(16))


def test_valid_joins_sensors_of_different_grids():
    modality = sensor("s1", 1).replace(on_nodata="mean")
    raw = Raw(
        {"s1": [np.array([[1, np.nan], [3, 4]])], "s2": [np.arange(16.0).reshape(4, 4)]},
        {"id": "a", "valid": np.arange(16).reshape(4, 4) > 0},
        {"s1": FILES, "s2": FILES},
    )
    valid = to_sample(raw, {"s1": modality, "s2": sensor("s2", 1)})["valid"]
    expected = np.ones((4, 4), bool)
    expected[:2, 2:] = expected[0, 0] = False
    assert valid.tolist() == expected.tolist()


def test_a_batch_on_a_device_gets_the_values_of_single_samples():
    rng = np.random.default_rng(0)
    modality = sensor("s2", 3).replace(on_nodata="mean", nodata=(7,))
    fine, coarse = (
        rng.integers(0, 20, (5, 2, 8, 8), dtype=np.uint16),
        rng.integers(0, 20, (5, 1, 4, 4), dtype=np.uint16),
    )
    groups = [((0, 2), torch.from_numpy(fine)), ((1,), torch.from_numpy(coarse))]
    image, missing = to_image(groups, modality, method="bilinear")
    for i in range(5):
        raw = Raw({"s2": [fine[i, 0], coarse[i, 0], fine[i, 1]]}, {"id": "a"}, {"s2": FILES})
        single = to_sample(raw, {"s2": modality}, method="bilinear")
        torch.testing.assert_close(image[i], torch.from_numpy(single["s2"]), rtol=0, atol=0)
        assert (~missing[i]).tolist() == single["valid"].tolist()


def test_area_is_the_mean_and_every_method_keeps_the_ground():
    ramp = torch.arange(12.0).repeat(12, 1)
    for method in ("nearest", "bilinear", "area"):
        smaller = resample(ramp, 4, method)
        assert smaller.diff(dim=1).allclose(torch.tensor(3.0), atol=0.5)
        assert smaller.mean().item() == pytest.approx(5.5, abs=0.51)
    assert resample(ramp, 4, "area")[0].tolist() == [1, 4, 7, 10]
    with pytest.raises(ValueError, match="'cubic' is not one of"):
        resample(ramp, 4, "cubic")
