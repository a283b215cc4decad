"""Data sets that are read as folders: their published layouts, made small, and the real files."""

import csv

import numpy as np
import pytest
from rasters import SIDE, colour, radar, write

from fmlib.data import open_dataset
from fmlib.manifest import load_manifest


@pytest.mark.parametrize("name", ["m3fd", "llvip", "msrs"])
def test_layouts_with_split_folders(tmp_path, name):
    manifest, rng = load_manifest(name), np.random.default_rng(0)
    folders = manifest.options.get("split_folders", {"train": "train", "test": "test"})
    for folder in folders.values():
        for key, choices in manifest.options["paths"].items():
            pattern = choices if isinstance(choices, str) else choices[0]
            for number in range(3):
                write(
                    tmp_path / name / pattern.format(split=folder, id=f"0{number}"),
                    colour(rng)[: 3 if key == "vi" else 1],
                )
    for split in folders:
        data = open_dataset(name, split, tmp_path)
        assert len(data) == 3
        assert {key: image.shape for key, image in data[0].items() if key in ("ir", "vi")} == {
            "ir": (1, 16, 16),
            "vi": (3, 16, 16),
        }
    with pytest.raises(FileNotFoundError, match="fits the path of 'ir'"):
        open_dataset(name, "validation", tmp_path)


def test_layout_of_sen1floods11(tmp_path):
    manifest, rng = load_manifest("sen1floods11"), np.random.default_rng(0)
    sources = {"train": ["Ghana_1", "Ghana_2"], "valid": ["Ghana_3"], "test": ["Spain_4"], "bolivia": ["Bolivia_5"]}
    bands = {"s1": radar(rng), "s2": rng.integers(1, 9000, (13, SIDE, SIDE)).astype(np.int16)}
    bands["label"] = rng.integers(-1, 2, (1, SIDE, SIDE)).astype(np.int16)
    for split, chips in sources.items():
        path = tmp_path / f"sen1floods11/splits/flood_handlabeled/flood_{split}_data.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([f"{chip}_S1Hand.tif", f"{chip}_LabelHand.tif"] for chip in chips)
        for event, chip in (name.split("_") for name in chips):
            for key, pixels in bands.items():
                write(
                    tmp_path / "sen1floods11" / manifest.options["paths"][key][0].format(event=event, chip=chip), pixels
                )
    ids = {split: open_dataset("sen1floods11", split, tmp_path).ids.tolist() for split in manifest.splits}
    assert ids == {
        "train": [b"Ghana_1", b"Ghana_2"],
        "validation": [b"Ghana_3"],
        "test": [b"Spain_4"],
        "bolivia": [b"Bolivia_5"],
    }
    sample = open_dataset("sen1floods11", "bolivia", tmp_path)[0]
    np.testing.assert_array_equal(sample["s2"], np.delete(bands["s2"], 10, 0))  # B10 left out
    np.testing.assert_array_equal(sample["label"], np.where(bands["label"][0] < 0, 255, bands["label"][0]))


def test_layout_of_sen12ms_cr(tmp_path):
    manifest, rng = load_manifest("sen12ms-cr"), np.random.default_rng(0)
    for scene in range(30):
        for key, choices in manifest.options["paths"].items():
            pixels = radar(rng) if key == "s1" else rng.integers(1, 9000, (13, SIDE, SIDE)).astype(np.uint16)
            name = choices[0].format(season="ROIs1158_spring", scene=scene, patch=3)
            write(tmp_path / "sen12ms-cr" / name, pixels)
    sets = [open_dataset("sen12ms-cr", split, tmp_path) for split in ("train", "validation", "test")]
    assert sum(map(len, sets)) == 30
    assert all(len(data) for data in sets)
    assert {key: sets[0][0][key].shape[0] for key in ("s1", "s2", "s2_cloudy")} == {"s1": 2, "s2": 12, "s2_cloudy": 12}
    assert sets[0][0]["place"].startswith("ROIs1158_spring_")


# -- real files -----------------------------------------------------------------------------------------------------


def real(name, root, split="train", **options):
    if not load_manifest(name).root(root).is_dir():
        pytest.skip(f"no {name} under {root}")
    return open_dataset(name, split, root, **options)


def percentiles(data, sensor, band):
    channel = data.modalities[sensor].bands.index(band)
    pixels = np.concatenate([data[index][sensor][channel].ravel() for index in range(len(data))])
    return np.percentile(pixels, (1, 50, 99))


def test_terramesh(real_data):
    data = real("terramesh", real_data, shares={})
    assert len(data) == 5
    samples = {sample["id"]: sample for sample in (data[index] for index in range(5))}
    assert all(sample[key].shape[1:] == (224, 224) for sample in samples.values() for key in ("s1", "s2", "dem"))
    counts = {
        "282D_485L_3_3": {1: 25_991, 2: 18_690, 6: 3_316, 9: 2_179},
        "38D_378R_2_3": {4: 21_643, 9: 28_533},
        "433D_629L_3_1": {1: 3_127, 2: 10_396, 3: 90, 4: 21_213, 5: 11_742, 9: 3_608},
        "609U_541L_3_0": {7: 50_176},
        "637U_59R_1_3": {2: 1_209, 4: 44_382, 5: 797, 9: 3_788},
    }
    for name, codes in counts.items():
        numbers, pixels = np.unique(samples[name]["label"], return_counts=True)
        assert dict(zip(numbers.tolist(), pixels.tolist(), strict=True)) == {
            7 if code == 9 else code - 1: count for code, count in codes.items()
        }
        assert samples[name]["place"] == "_".join(name.split("_")[:2])
    np.testing.assert_allclose(percentiles(data, "s1", "VV"), [-21.3, -12.5, -3.8], atol=0.06)
    np.testing.assert_allclose(percentiles(data, "s1", "VH"), [-26.8, -18.6, -10.9], atol=0.06)
    np.testing.assert_allclose(percentiles(data, "s2", "B04"), [128, 1387, 8784], atol=1)
    np.testing.assert_allclose(percentiles(data, "s2", "B08"), [36, 2768, 9160], atol=1)
    assert min(samples["433D_629L_3_1"]["s2"][band].min() for band in range(12)) > 900  # the floor the sheet names
    assert data.read(0).bands["s1"].dtype == np.float64
    for name, lon in (("282D_485L_3_3", -48.1), ("637U_59R_1_3", 9.0)):
        assert abs(samples[name]["lonlat"][0] - lon) < 3


def test_sen1floods11(real_data):
    data = real("sen1floods11", real_data, lists={})
    sample = data[0]
    assert len(data) == 1
    assert (sample["id"], sample["s1"].shape, sample["s2"].shape) == ("Spain_7370579", (2, 512, 512), (12, 512, 512))
    numbers, pixels = np.unique(sample["label"], return_counts=True)
    assert dict(zip(numbers.tolist(), pixels.tolist(), strict=True)) == {0: 192_010, 1: 70_035, 255: 99}
    np.testing.assert_allclose(percentiles(data, "s1", "VV"), [-25.4, -10.5, 2.5], atol=0.06)
    np.testing.assert_allclose(percentiles(data, "s1", "VH"), [-36.5, -17.7, -8.9], atol=0.06)
    np.testing.assert_allclose(percentiles(data, "s2", "B04"), [554, 1187, 2612], atol=1)
    np.testing.assert_allclose(percentiles(data, "s2", "B08"), [316, 2061, 3473], atol=1)
    np.testing.assert_allclose([sample["s1"].min(), sample["s1"].max()], [-47, 25.6], atol=0.1)
    assert sample["valid"].all()
    assert data.read(0).nodata["s2"] == 0
    np.testing.assert_allclose(sample["lonlat"], [-0.759, 38.106], atol=1e-3)


def test_sen12ms_cr(real_data):
    data = real("sen12ms-cr", real_data, shares={})
    assert data.ids.tolist() == [b"ROIs1970_fall_139_839", b"ROIs2017_winter_112_797"]
    assert data[0]["s1"].shape == (2, 256, 256)
    assert data[0]["s2"].shape == data[0]["s2_cloudy"].shape == (12, 256, 256)
    np.testing.assert_allclose(percentiles(data, "s1", "VV"), [-20.8, -10.5, -1.5], atol=0.06)
    np.testing.assert_allclose(percentiles(data, "s1", "VH"), [-26.9, -17.1, -10.4], atol=0.06)
    np.testing.assert_allclose(percentiles(data, "s2", "B04"), [550, 1006, 1752], atol=1)
    np.testing.assert_allclose(percentiles(data, "s2", "B08"), [674, 1941, 3845], atol=1)


def test_roadscene(real_data):
    sets = {split: real("roadscene", real_data, split) for split in ("train", "validation", "test")}
    names = set((load_manifest("roadscene").root(real_data) / "test50.txt").read_text(encoding="utf-8").split())
    assert {name.decode() for name in sets["test"].ids} == names
    assert len(names) == 50
    assert len(sets["train"]) + len(sets["validation"]) == 171
    assert 8 <= len(sets["validation"]) <= 30
    shapes = [data[index]["vi"].shape for data in (sets["test"],) for index in range(50)]
    assert all(channels == 3 and 161 <= rows <= 459 and 351 <= cols <= 622 for channels, rows, cols in shapes)
    assert sets["test"][0]["ir"].shape == (1, *shapes[0][1:])


def test_tno_and_msrs(real_data):
    tno, msrs = real("tno", real_data, "test"), real("msrs", real_data)
    assert (len(tno), len(msrs)) == (42, 20)
    assert tno[0]["vi"].shape[0] == tno[0]["ir"].shape[0] == 1
    assert len({tno[index]["ir"].shape for index in range(42)}) == 17
    assert {msrs[index]["vi"].shape for index in range(20)} == {(3, 480, 640)}
    assert sum(name.endswith(b"D") for name in msrs.ids) == 8
    with pytest.raises(ValueError, match=r"no sample .* is in 'train' \(samples: test 42\)"):
        real("tno", real_data)
