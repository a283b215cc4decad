import os
import time

import numpy as np
import pytest
import rasterio
from folder_pairs import PATHS, SAR, opened, touch
from PIL import Image
from rasters import SIDE, colour, radar, write, write_pairs

from fmlib.data.folders import Folders
from fmlib.data.paths import compile_pattern


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path)


# -- samples --------------------------------------------------------------------------------------------------------


def test_a_sample_is_what_the_files_hold(pairs):
    data = opened(pairs, classes=("dry", "water"), paths=PATHS | {"label": "label/{id}.png"})
    sample = data[3]
    assert (len(data), data.name, data.split, data.classes) == (12, "folders", "train", ("dry", "water"))
    assert (sample["id"], sample["place"]) == ("03", "03")
    with rasterio.open(pairs / "sar/03.tif") as file:
        np.testing.assert_array_equal(sample["sar"], file.read())
    np.testing.assert_array_equal(sample["rgb"], np.asarray(Image.open(pairs / "rgb/03.png")).transpose(2, 0, 1))
    np.testing.assert_array_equal(sample["label"], np.asarray(Image.open(pairs / "label/03.png")))
    assert sample["rgb"].dtype == sample["sar"].dtype == np.float32
    assert sample["label"].dtype == np.uint8
    np.testing.assert_allclose(sample["lonlat"], [15.001, 45.153], atol=2e-3)
    assert data.read(3).files == data.files(3)
    assert data.files(3)["label"] == (pairs / "label/03.png",)


def test_size_brings_all_to_one_grid(pairs):
    data = opened(pairs, size=8, classes=("dry", "water"), paths=PATHS | {"map": "label/{id}.png"})
    assert {key: data[0][key].shape for key in ("sar", "rgb", "map")} == {
        "sar": (2, 8, 8),
        "rgb": (3, 8, 8),
        "map": (8, 8),
    }
    assert data[0]["map"].dtype == np.uint8


def test_native_sizes_may_differ_over_one_ground(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path / "sar/a.tif", radar(rng))
    write(tmp_path / "rgb/a.tif", colour(rng, 8, 8), pixel=20.0)
    sample = opened(tmp_path, paths=PATHS | {"rgb": "rgb/{id}.tif"})[0]
    assert (sample["sar"].shape, sample["rgb"].shape) == ((2, 16, 16), (3, 8, 8))


def test_nodata_tags_reach_the_rule(tmp_path):
    values = radar(np.random.default_rng(0))
    values[:, 0, 0] = np.nan
    write(tmp_path / "sar/a.tif", values)
    with pytest.raises(ValueError, match=r"sar/a\.tif: of 256 values of 'sar' band VV 1 not finite"):
        opened(tmp_path, sensors=("sar",))[0]
    filled = Folders(tmp_path, "train", {"sar": SAR.replace(on_nodata="mean")}, (), PATHS)[0]
    assert filled["sar"][:, 0, 0].tolist() == [-12, -18]
    assert (~filled["valid"]).sum() == 1


def test_some_samples_can_be_selected(pairs):
    part = opened(pairs).select([2, 5], sensors=("rgb",))
    assert [sample["id"] for sample in (part[0], part[1])] == ["02", "05"]
    assert set(part[0]) == {"rgb", "id", "place"}


# -- joining --------------------------------------------------------------------------------------------------------


def test_samples_join_on_equal_fields(tmp_path):
    touch(tmp_path, "fall/sar_1/fall_sar_1_p3.tif", "fall/rgb_1/fall_rgb_1_p3.png", "fall/sar_1/winter_sar_1_p3.tif")
    touch(tmp_path, "fall/sar_1/.fall_sar_1_p4.tif", "fall/sar_1/fall_sar_1_p3.tif.aux.xml")
    paths = {
        key: f"{{season}}/{key}_{{scene}}/{{season}}_{key}_{{scene}}_p{{patch}}{ending}"
        for key, ending in (("sar", ".tif"), ("rgb", ".png"))
    }
    data = opened(tmp_path, paths=paths, place=["season", "scene"])
    assert (data.ids.tolist(), data.places.tolist()) == ([b"fall_1_3"], [b"fall_1"])


def test_a_field_that_a_pattern_lacks_is_not_joined_on(tmp_path):
    touch(tmp_path, "sar/a_1.tif", "sar/a_2.tif", "sar/b_1.tif", "rgb/a.png", "rgb/b.png")
    data = opened(tmp_path, paths={"sar": "sar/{place}_{date}.tif", "rgb": "rgb/{place}.png"})
    assert data.ids.tolist() == [b"a_1", b"a_2", b"b_1"]
    assert [data.files(index)["rgb"][0].name for index in range(3)] == ["a.png", "a.png", "b.png"]
    touch(tmp_path, "rgb/c.png")
    with pytest.raises(FileNotFoundError, match=r"1 of 4 train samples .* first 'c', which lacks 'sar'"):
        opened(tmp_path, paths={"sar": "sar/{place}_{date}.tif", "rgb": "rgb/{place}.png"})


def test_the_first_pattern_with_any_match_counts(pairs):
    paths = PATHS | {"rgb": ["colour/{id}.jpg", "rgb/{id}.png", "label/{id}.png"]}
    assert opened(pairs, paths=paths).files(0)["rgb"] == (pairs / "rgb/00.png",)


def test_two_files_of_one_sample_are_an_error(pairs):
    write(pairs / "rgb/03.jpg", colour(np.random.default_rng(0)))
    with pytest.raises(
        ValueError, match=r"rgb/03\.(png|jpg) and rgb/03\.(png|jpg) are the same sample by 'rgb/{id}\.\*'"
    ):
        opened(pairs, paths=PATHS | {"rgb": "rgb/{id}.*"})


def test_seasons_that_no_field_tells_apart_are_an_error(tmp_path):
    touch(tmp_path, "fall/sar/1.tif", "winter/sar/1.tif")
    with pytest.raises(ValueError, match=r"sar/1\.tif are the same sample .*give what tells them apart a field"):
        opened(tmp_path, sensors=("sar",), paths={"sar": "*/sar/{id}.tif"})


def test_samples_of_one_name_are_an_error(tmp_path):
    touch(tmp_path, "a_b/c.tif", "a/b_c.tif")
    with pytest.raises(ValueError, match="would both be called 'a_b_c'"):
        opened(tmp_path, sensors=("sar",), paths={"sar": "{scene}/{id}.tif"})


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ({"sar": "sar/{id.tif"}, "path 'sar/{id.tif': write it from the data's folder"),
        ({"sar": "/sar/{id}.tif"}, "path '/sar/{id}.tif': write it from"),
        ({"sar": "sar/00.tif"}, "path of 'sar' has the fields"),
        ({"sar": "sar/{id}.tif", "rgb": "rgb/{name}.png"}, "one must have all of them"),
        ({"rgb": "rgb/{id}.png"}, r"paths: none for \['sar'\]; there are paths for \['rgb'\]"),
    ],
)
def test_faulty_patterns_are_named(pairs, paths, message):
    sensors = ("sar", "rgb") if len(paths) > 1 else ("sar",)
    with pytest.raises(ValueError, match=message):
        opened(pairs, sensors=sensors, paths=paths)


def test_patterns_hold_no_surprises():
    assert compile_pattern("a+b/{id}.tif")[-1].fullmatch("a+b/1.tif").groups() == ("1",)
    assert not compile_pattern("a+b/{id}.tif")[-1].fullmatch("aab/1.tif")
    assert not compile_pattern("{id}.tif")[-1].fullmatch("a/1.tif")
    assert not compile_pattern("{s}/{s}_{id}.tif")[-1].fullmatch("x/y_1.tif")


def test_an_index_of_many_files_is_fast(tmp_path):
    for kind in ("sar", "rgb"):
        for scene in range(10):
            (tmp_path / f"{kind}_{scene}").mkdir()
            for number in range(1000):
                os.close(os.open(tmp_path / f"{kind}_{scene}/{number}.tif", os.O_CREAT))
    start = time.process_time()  # of this process: other work on the machine does not count
    data = opened(tmp_path, paths={"sar": "sar_{scene}/{id}.tif", "rgb": "rgb_{scene}/{id}.tif"}, place="scene")
    assert time.process_time() - start < 1
    assert len(data) == 10_000


# -- what is missing ------------------------------------------------------------------------------------------------


def test_a_missing_partner_is_named_skipped_or_left_out(pairs):
    (pairs / "rgb/04.png").unlink()
    (pairs / "rgb/07.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"2 of 12 train samples .* first '04', which lacks 'rgb'; .*on_missing"
    ):
        opened(pairs)
    skipped, kept = opened(pairs, on_missing="skip"), opened(pairs, on_missing="keep")
    assert len(skipped) == 10
    assert len(kept) == 12
    assert set(kept[4]) == {"sar", "id", "place", "lonlat"}
    assert "rgb" in kept[3]


def test_a_sensor_without_any_file_is_named(pairs):
    paths = PATHS | {"rgb": "colour/{id}.png"}
    with pytest.raises(FileNotFoundError, match=r"no file under .* fits the path of 'rgb', colour/{id}\.png"):
        opened(pairs, paths=paths)
    with pytest.raises(FileNotFoundError, match="fits the path of 'rgb'"):
        opened(pairs, paths=paths, on_missing="skip")
    assert set(opened(pairs, paths=paths, on_missing="keep")[0]) == {"sar", "id", "place", "lonlat"}
    with pytest.raises(FileNotFoundError, match="no file under"):
        opened(pairs / "nowhere", on_missing="keep")


def test_a_file_that_vanishes_later_is_named(pairs):
    data = opened(pairs)
    (pairs / "sar/00.tif").unlink()
    with pytest.raises(FileNotFoundError, match=r"sar/00\.tif is missing"):
        data[0]


# -- files that do not fit ------------------------------------------------------------------------------------------


def test_pairs_must_show_the_same_ground(tmp_path):
    rng = np.random.default_rng(0)
    paths = PATHS | {"rgb": "rgb/{id}.tif"}
    write(tmp_path / "sar/a.tif", radar(rng))
    write(tmp_path / "rgb/a.tif", colour(rng), left=500006.0)
    with pytest.raises(ValueError, match=r"rgb/a\.tif covers .*sar/a\.tif covers .*, 6 apart: .*check the pairing"):
        opened(tmp_path, paths=paths)[0]
    write(tmp_path / "rgb/a.tif", colour(rng), left=500004.0)
    assert opened(tmp_path, paths=paths)[0]["rgb"].shape == (3, 16, 16)
    write(tmp_path / "rgb/a.tif", colour(rng), crs="EPSG:32634")
    with pytest.raises(ValueError, match=r"rgb/a\.tif is in EPSG:32634, but .*sar/a\.tif is in EPSG:32633"):
        opened(tmp_path, paths=paths)[0]


def test_pictures_of_a_pair_must_have_one_size(pairs):
    write(pairs / "rgb/00.png", colour(np.random.default_rng(0), 16, 12))
    with pytest.raises(
        ValueError, match=r"rgb/00\.png has 16 × 12 pixels, but .*sar/00\.tif has 16 × 16: .*give a size"
    ):
        opened(pairs)[0]
    assert opened(pairs, size=16)[0]["rgb"].shape == (3, 16, 16)


def test_missing_bands_and_wrong_order_are_errors(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path / "sar/a.tif", radar(rng, bands=3))
    with pytest.raises(ValueError, match=r"sar/a\.tif: 3 bands, expected 2; name all bands of the file in file_bands"):
        opened(tmp_path, sensors=("sar",))[0]
    bands = {"sar": ["VH", "angle", "VV"]}
    picked = opened(tmp_path, sensors=("sar",), file_bands=bands)[0]["sar"]
    with rasterio.open(tmp_path / "sar/a.tif") as file:
        np.testing.assert_array_equal(picked, file.read([3, 1]))
    write(tmp_path / "sar/a.tif", radar(rng), names=("VH", "VV"))
    with pytest.raises(ValueError, match=r"sar/a\.tif: band 1 is described as 'VH', expected 'VV'"):
        opened(tmp_path, sensors=("sar",))[0]
    with pytest.raises(ValueError, match=r"file_bands of 'sar': lacks \['VV'\]"):
        opened(tmp_path, sensors=("sar",), file_bands={"sar": ["VH", "angle"]})


def test_an_unknown_code_is_an_error_unless_told(pairs):
    paths = {"rgb": "rgb/{id}.png", "label": "label/{id}.png"}
    write(pairs / "label/00.png", np.full((1, SIDE, SIDE), 7, np.uint8))
    options = {"sensors": ("rgb",), "classes": ("dry", "water"), "paths": paths}
    with pytest.raises(ValueError, match=r"label/00\.png: code 7 is none of the known class codes"):
        opened(pairs, **options)[0]
    assert (opened(pairs, **options, label_codes={"0": 0, "1": 1, "*": 255})[0]["label"] == 255).all()
    assert (opened(pairs, **options, label_codes={"0": 0, "7": 1})[0]["label"] == 1).all()
    write(pairs / "label/00.png", colour(np.random.default_rng(0)))
    with pytest.raises(ValueError, match=r"label/00\.png: 3 bands, expected 1"):
        opened(pairs, **options)[0]
