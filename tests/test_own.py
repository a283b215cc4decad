import warnings

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasters import write_pairs

from fmlib.data.own import open_folder
from fmlib.data.statistics import band_statistics

TOML = """\
[sensors.sar]
path = "sar/{id}.tif"
bands = ["VV", "VH"]
unit = "dB"
valid_range = [-40, 10]

[sensors.rgb]
path = "rgb/{id}.png"
bands = ["R", "G", "B"]
unit = "digital number"
valid_range = [0, 255]
"""
LABELS = '[labels]\npath = "label/{id}.png"\nclasses = ["dry", "water"]\n'
STATISTICS = "mean = [-12, -12]\nstd = [3, 3]\n"


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path)


def described(root, text):
    (root / "mine.toml").write_text(text, encoding="utf-8")
    return root / "mine.toml"


def test_ten_lines_open_anyones_data(pairs):
    assert len(TOML.splitlines()) <= 12
    with pytest.warns(UserWarning, match=r"mine\.toml: sensors\.(sar|rgb) has no mean and std; measured on") as told:
        train = open_folder(described(pairs, TOML))
    assert len(told) == 2
    assert train.name == "mine"
    assert train[0]["sar"].shape == (2, 16, 16)
    mean, std = band_statistics(train, "rgb")
    np.testing.assert_allclose(train.modalities["rgb"].mean, mean)
    np.testing.assert_allclose(train.modalities["rgb"].std, std)
    with pytest.warns(UserWarning, match="measured"):
        splits = {split: open_folder(pairs / "mine.toml", split) for split in ("validation", "test")}
    assert splits["test"].modalities == train.modalities  # measured on the training split alone
    assert sorted(i for data in (train, *splits.values()) for i in data.ids.tolist()) == [
        b"%02d" % n for n in range(12)
    ]


def test_own_data_may_say_all_that_folders_take(pairs):
    text = 'place = "id"\n' + TOML.replace(
        "[-40, 10]", "[-40, 10]\nfile_bands = ['VH', 'VV']\npatch_size = [4, 4]\n" + STATISTICS
    )
    toml = described(pairs, text + LABELS + "codes = {0 = 1, 1 = 0}\n[shares]\nvalidation = 0.5\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = open_folder(toml, sensors=("sar",), size=8)
    assert data.modalities["sar"].patch_size == (4, 4)
    assert data[0]["sar"].shape == (2, 8, 8)
    stored = np.asarray(Image.open(data.files(0)["label"][0]))
    np.testing.assert_array_equal(open_folder(toml, sensors=("sar",))[0]["label"], 1 - stored)
    with rasterio.open(data.files(0)["sar"][0]) as file:
        np.testing.assert_array_equal(open_folder(toml, sensors=("sar",))[0]["sar"], file.read([2, 1]))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("valid_range = [-40, 10]\n", "", r"sensors\.sar lacks valid_range; add valid_range = \[-40, 10\]"),
        ('path = "sar/{id}.tif"\n', "", r"sensors\.sar lacks path; add path = \"sar/{id}\.tif\""),
        ('["VV", "VH"]', '"VV"', r"sensors\.sar\.bands is 'VV', not a list; write e\.g\. bands = \[\"VV\", \"VH\"\]"),
        ("[-40, 10]", "[10, -40]", r"sensors\.sar: modality 'sar': valid_range must be \(low, high\)"),
        ("[-40, 10]", '["low", 10]', r"sensors\.sar: "),
        ("[-40, 10]", "[-40, 10]\nmean = [1, 2]", r"sensors\.sar has one of mean and std; give both"),
        ("[-40, 10]", "[-40, 10]\nmean = [1]\nstd = [1]", r"sensors\.sar: .*1 values of mean for 2 bands"),
        ("[-40, 10]", "[-40, 10]\ncolour = 1", r"sensors\.sar has unknown \['colour'\]; known are bands, file_bands"),
        ("[sensors.sar]", "sensor = 1\n[sensors.sar]", r"it has unknown \['sensor'\]; known are labels"),
        ("[sensors.sar]", "shares = 0.1\n[sensors.sar]", r"shares is no table; write \[shares\]"),
        ("[sensors.sar]", 'place = "scene"\n[sensors.sar]', r"place: no field \['scene'\]"),
        ("[sensors.sar]", "[shares]\nval = 0.1\n[sensors.sar]", "shares: split 'val' is not one of"),
        ("[sensors.sar]", '[labels]\npath = "l/{id}.png"\n[sensors.sar]', "labels lacks classes; add classes = "),
        ("[sensors.sar]", "[sensors.sar", "not valid TOML .*line 1"),
        ("{id}.tif", "{id.tif", "path 'sar/{id.tif': write it from"),
    ],
)
def test_a_faulty_description_is_named_with_its_key(pairs, old, new, message):
    assert old in TOML
    with pytest.raises(ValueError, match=rf"mine\.toml: {message}"):
        open_folder(described(pairs, TOML.replace(old, new, 1)))


def test_a_description_of_nothing_is_named(pairs):
    with pytest.raises(ValueError, match=r"mine\.toml: it lacks sensors; add a table \[sensors\.sar\]"):
        open_folder(described(pairs, ""))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.toml: there is no such file"):
        open_folder(pairs / "nowhere.toml")
    with pytest.raises(FileNotFoundError, match=r"mine\.toml: no file under .* fits the path of 'sar', radar"):
        open_folder(described(pairs, TOML.replace("sar/{id}", "radar/{id}")))
    with pytest.raises(ValueError, match=r"mine\.toml: no sensor \['dem'\]; it describes \('sar', 'rgb'\)"):
        open_folder(described(pairs, TOML), sensors=("dem",))
