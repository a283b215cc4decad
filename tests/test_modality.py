import json

import numpy as np
import pytest

from fmlib.modality import Modality

S1 = Modality("s1", ("VV", "VH"), "dB", (-42, 8), (-12.6, -19.3), (5.1, 5.6), title="Sentinel-1")
S2 = Modality("s2", ("B04", "B03", "B02"), "reflectance × 10000", (0, 16000), (588, 614, 438), (684, 603, 607))


def made(low, high, bands, seed=0):
    return np.random.default_rng(seed).uniform(low, high, (bands, 8, 8)).astype(np.float32)


def test_defaults_follow_the_bands():
    assert S1.in_chans == 2
    assert S1.groups == (("VV", "VH"),)
    assert S1.rgb == ("VV",)
    assert S2.title == "s2"
    assert S1.index("VH", "VV") == [1, 0]


def test_survives_json():
    assert Modality(**json.loads(json.dumps(S1.to_dict()))) == S1


def test_replace_changes_a_copy():
    assert S1.replace(patch_size=(15, 15)).patch_size == (15, 15)
    assert S1.patch_size == (8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (1.0,)}, "1 values of mean for 2 bands"),
        ({"std": (1.0, 0.0)}, "std must be above 0"),
        ({"groups": (("VV",),)}, "must hold each of"),
        ({"rgb": ("HH",)}, "rgb names"),
        ({"valid_range": (8, -42)}, "valid_range must be"),
    ],
)
def test_a_contradictory_sensor_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        S1.replace(**changes)


def test_an_unknown_band_is_named():
    with pytest.raises(ValueError, match=r"no band \['HH'\]"):
        S1.index("VV", "HH")


def test_good_images_pass():
    S1.check(made(-30, 5, 2), "here")
    S2.check(made(0, 12000, 3).round(), "here")


@pytest.mark.parametrize(
    ("sensor", "image", "message"),
    [
        (S1, made(-30, 5, 3), "has 2 bands"),
        (S1, made(-30, 5, 2)[0], "has 2 bands"),
        (S1, np.full((2, 8, 8), np.nan, np.float32), "128 values of 's1' are not finite"),
        (S1, np.zeros((2, 8, 8), np.float32), "all nodata"),
        (S1, made(0.001, 0.4, 2), "looks like linear power"),
        (S2, made(0, 1.1, 3), "plain reflectance"),
    ],
)
def test_an_image_of_another_kind_is_refused(sensor, image, message):
    with pytest.raises(ValueError, match=message) as error:
        sensor.check(image, "patch_7.tif")
    assert str(error.value).startswith("patch_7.tif")
