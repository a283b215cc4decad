import json
import pickle
import shutil

import numpy as np
import pytest
from bigearthnet_archive import write

from fmlib.data import open_dataset
from fmlib.data.bigearthnet_patches import COARSE
from fmlib.data.bigearthnet_v1 import FOLDERS, BigEarthNetV1, read_note
from fmlib.data.corine import LEVEL_1, LEVEL_3, class_of_code, coarse_classes, to_classes
from fmlib.data.paths import draw
from fmlib.manifest import load_manifest

MANIFEST = load_manifest("bigearthnet-v1")
TILES = ("33UUP", "29UPU", "29SND", "35VPK")
S2 = [f"S2A_MSIL2A_20170613T10103{i}_{40 + i}_48" for i in range(4)]
S1 = [f"S1A_IW_GRDH_1SDV_20170613T165043_{tile}_{40 + i}_48" for i, tile in enumerate(TILES)]
LABELS = [["Pastures", "Sea and ocean"], ["Transitional woodland/shrub", "Airports"], ["Airports"], ["Vineyards"]]


def json_path(root, kind, index):
    name = (S1 if kind == "s1" else S2)[index]
    return root / FOLDERS[kind] / name / f"{name}_labels_metadata.json"


def tif(root, kind, index, band):
    return json_path(root, kind, index).with_name(f"{(S1 if kind == 's1' else S2)[index]}_{band}.tif")


def note(index, kind, labels):
    common = {"labels": labels, "coordinates": {"ulx": 0, "uly": 0, "lrx": 0}, "projection": "PROJCS[]"}
    if kind == "s1":
        return common | {"corresponding_s2_patch": S2[index], "acquisition_time": "2017-06-13T16:50:43"}
    source = f"S2A_MSIL1C_20170613T101031_N0205_R022_T{TILES[index]}_20170613T101608.SAFE"
    return common | {"tile_source": source, "acquisition_date": "2017-06-13 10:10:31"}


@pytest.fixture(scope="module")
def shared_archive(tmp_path_factory):
    """Four pairs, one a tile; the third has none of the 19 classes. The official lists name 0, 1 | 3."""
    root = tmp_path_factory.mktemp("data") / "bigearthnet-v1"
    for index in range(4):
        origin = (300000 + index * 1200, 5342400)
        ramp = np.linspace(0, 0.5, 14400, dtype=np.float32).reshape(120, 120)
        for band, level in (("VV", -10.25), ("VH", -20.25)):
            write(tif(root, "s1", index, band), ramp + level - index, origin=origin)
        for number, band in enumerate(MANIFEST.sensors["s2"].bands):
            side = COARSE.get(band, 120)
            pixels = 1000 * (number + 1) + np.arange(side * side).reshape(side, side) % side + index
            write(tif(root, "s2", index, band), pixels.astype(np.uint16), origin=origin)
        for kind in ("s1", "s2"):
            json_path(root, kind, index).write_text(json.dumps(note(index, kind, LABELS[index])))
    (root / "train.csv").write_bytes(f"{S2[0]},{S1[0]}\r\n{S2[1]},{S1[1]}\r\n".encode())
    (root / "val.csv").write_bytes(f"{S2[3]},{S1[3]}\r\n".encode())
    return root


@pytest.fixture
def archive(shared_archive, tmp_path):
    return shutil.copytree(shared_archive, tmp_path / "bigearthnet-v1")


@pytest.fixture
def unlisted(archive):
    for path in archive.glob("*.csv"):
        path.unlink()
    return archive


def opened(root, split="train", sensors=("s1", "s2"), classes=MANIFEST.classes, **options):
    return BigEarthNetV1(root, split, {name: MANIFEST.sensors[name] for name in sensors}, classes, **options)


def test_a_sample(shared_archive):
    data = opened(shared_archive)
    assert (len(data), data.name, data.split) == (2, "bigearthnet-v1", "train")
    sample = data[1]
    assert sample["s1"][:, 0, 0].tolist() == [-11.25, -21.25]  # VV before VH, fractions kept
    assert (sample["s2"][:, 0, 0] // 1000).tolist() == list(range(1, 13))  # bands in the manifest's order
    assert all(sample[key].dtype == np.float32 for key in ("s1", "s2", "label"))
    assert [MANIFEST.classes[i] for i in sample["label"].nonzero()[0]] == ["Transitional woodland, shrub"]
    assert (sample["id"], sample["place"], sample["time"]) == (S2[1], "T29UPU", "2017-06-13T10:10:31")
    np.testing.assert_allclose(sample["lonlat"], (12.3327, 48.1985), atol=1e-3)
    raw = data.read(1)
    assert [band.shape[0] for band in raw.bands["s2"]] == [COARSE.get(b, 120) for b in MANIFEST.sensors["s2"].bands]
    assert (raw.files, raw.nodata) == (data.files(1), {})
    assert opened(shared_archive, "validation").patches.to_pylist() == [S2[3]]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data))[1]["s2"], sample["s2"])


def test_labels_of_all_are_read_when_asked_for(archive):
    data = opened(archive)
    json_path(archive, "s2", 0).unlink()  # opening read none of them
    assert data.patches.to_pylist() == S2[:2]
    with pytest.raises(FileNotFoundError, match=r"labels_metadata\.json is missing"):
        _ = data.labels
    pastures, sea = MANIFEST.classes.index("Pastures"), MANIFEST.classes.index("Marine waters")
    assert opened(archive, sensors=("s1",)).labels[0].nonzero()[0].tolist() == [pastures, sea]  # the radar's file


def test_labels_match_the_samples(shared_archive):
    for sensors in (("s1", "s2"), ("s1",)):  # either sensor's file names the labels
        data = opened(shared_archive, sensors=sensors)
        np.testing.assert_array_equal(data.labels, [data[i]["label"] for i in range(2)])
        assert data.labels.dtype == np.uint8
        assert data.labels is data.labels
    names = tuple(name for name, _ in LEVEL_3.values())
    data = opened(shared_archive, classes=names)  # the 43 classes, if those are asked for
    assert {names[i] for i in data[1]["label"].nonzero()[0]} == {"Transitional woodland/shrub", "Airports"}


def test_without_lists_tiles_are_drawn_and_patches_without_a_class_left_out(unlisted):
    shares = {"validation": 0.7}
    for split in ("train", "validation"):
        drawn = [patch for patch, tile in zip(S2, TILES, strict=True) if draw(f"T{tile}", shares) == split]
        drawn = [patch for patch in drawn if patch != S2[2]]
        assert drawn
        assert opened(unlisted, split, shares=shares).patches.to_pylist() == drawn
    with pytest.raises(FileNotFoundError, match="no pair falls to 'test' among those on disk"):
        opened(unlisted, "test", shares={})
    assert opened(unlisted, shares={}).s1_names.to_pylist() == [S1[0], S1[1], S1[3]]  # found in the radar's files
    (unlisted / "patches_with_seasonal_snow.csv").write_text(f"{S2[0]}\n")
    (unlisted / "patches_with_cloud_and_shadow.csv").write_text(f"{S2[3]}\n")
    assert opened(unlisted, shares={}).patches.to_pylist() == [S2[1]]


def test_seco_lists_name_the_optical_patch_alone(archive):
    (archive / "bigearthnet-val.txt").write_text(f"{S2[0]}\n{S2[3]}\n")
    data = opened(archive, "validation", lists="seco")
    assert (data.patches.to_pylist(), data.s1_names.to_pylist()) == ([S2[0], S2[3]], [S1[0], S1[3]])
    with pytest.raises(FileNotFoundError, match=r"bigearthnet-test\.txt is missing"):
        opened(archive, "test", lists="seco")
    with pytest.raises(FileNotFoundError, match=r"test\.csv is missing: it lists the test patches"):
        opened(archive, "test")


def test_a_missing_partner_is_an_error_skipped_or_kept(archive):
    shutil.rmtree(json_path(archive, "s1", 0).parent)
    with pytest.raises(FileNotFoundError, match=rf"1 of 2 train patches .*{S2[0]}; extract BigEarthNet-S1-v1.0, or"):
        opened(archive)
    assert opened(archive, on_missing="skip").patches.to_pylist() == [S2[1]]
    assert set(opened(archive, on_missing="keep").read(0).bands) == {"s2"}
    for path in archive.glob("*.csv"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"1 of 3 train patches .*first {S2[0]}"):
        opened(archive, shares={})
    kept = opened(archive, on_missing="keep", shares={})
    assert kept.s1_names.to_pylist() == [None, S1[1], S1[3]]
    assert (kept[0]["place"], "s1" in kept[0]) == ("T33UUP", False)
    shutil.rmtree(archive / FOLDERS["s1"])
    shutil.rmtree(archive / FOLDERS["s2"])
    with pytest.raises(FileNotFoundError, match=r"has no patch in BigEarthNet-S1-v1\.0 or BigEarthNet-v1\.0"):
        opened(archive)


@pytest.mark.parametrize(
    ("kind", "band", "change", "message"),
    [
        ("s1", np.zeros((60, 120), np.float32), {}, r"\(60, 120\) pixels, expected \(120, 120\)"),
        ("s1", np.full((120, 120), -10, np.int16), {}, "stored as int16, expected float32; decibels"),
        ("s1", np.full((120, 120), np.nan, np.float32), {}, "every value of 's1' band VV is no data"),
        ("s1", np.eye(120, dtype=np.float32) - 9, {"crs": "EPSG:32632"}, "is in EPSG:32633, but .* is in EPSG:32632"),
        ("s1", np.eye(120, dtype=np.float32) - 9, {"origin": (300600, 5342400)}, "600 apart: they are not one patch"),
        ("s2", np.ones((120, 120), np.float32), {}, "stored as float32, expected uint16"),
    ],
)
def test_a_file_of_another_kind_is_named(archive, kind, band, change, message):
    path = tif(archive, kind, 0, "VV" if kind == "s1" else "B08")
    write(path, band, **({"origin": (300000, 5342400)} | change))
    with pytest.raises(ValueError, match=message) as error:
        opened(archive)[0]
    assert path.name in str(error.value)


def test_linear_power_truncation_and_a_missing_band_are_named(archive):
    for band in ("VV", "VH"):
        values = np.random.default_rng(0).random((120, 120), np.float32)
        write(tif(archive, "s1", 0, band), values, origin=(300000, 5342400))
    with pytest.raises(ValueError, match="looks like linear power"):
        opened(archive)[0]
    path = tif(archive, "s2", 1, "B8A")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"B8A\.tif: cannot be read"):
        opened(archive)[1]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"B8A\.tif is missing"):
        opened(archive)[1]


def test_damaged_notes_and_lists_are_named(archive):
    path = json_path(archive, "s2", 0)
    for text in ('{"labels": [', "{}", '{"labels": [], "tile_source": "x", "acquisition_date": ""}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="not the JSON file of a BigEarthNet patch") as error:
            opened(archive)[0]
        assert path.name in str(error.value)
    path.write_text(json.dumps(note(0, "s2", ["Pastures", "Glaciers"])))
    with pytest.raises(ValueError, match=rf"patch {S2[0]}: label 'Glaciers' is not among the 19 classes"):
        opened(archive)[0]
    with pytest.raises(ValueError, match="label 'Glaciers' is not among"):
        _ = opened(archive).labels
    (archive / "train.csv").write_text("a,b,c\n")
    with pytest.raises(ValueError, match=r"train\.csv: expected lines of 2 names and no header"):
        opened(archive)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "split 'val' is not one of"),
        ({"lists": "mine"}, "lists 'mine' is not one of"),
        ({"on_missing": "ignore"}, "on_missing 'ignore' is not one of"),
        ({"sensors": ()}, "BigEarthNet has the sensors"),
    ],
)
def test_an_unknown_choice_is_named(shared_archive, options, message):
    with pytest.raises(ValueError, match=message):
        opened(shared_archive, **options)


def test_43_names_lead_to_19_classes():
    assert len(LEVEL_3) == 43
    groups = [group for _, group in LEVEL_3.values() if group]
    assert sorted(set(groups)) == sorted(MANIFEST.classes)
    assert len(groups) == 32  # eleven of level 3 belong to none
    assert to_classes(["Sea and ocean", "Estuaries", "Bare rock", "Glaciers"], MANIFEST.classes) == [
        "Glaciers",
        "Marine waters",
    ]
    codes = class_of_code(MANIFEST.classes)
    assert [MANIFEST.classes[codes[code]] for code in (112, 333, 523)] == [
        "Urban fabric",
        "Natural grassland and sparsely vegetated areas",
        "Marine waters",
    ]
    assert (codes[[0, 122, 332, 335, 999]] == 255).all()


# -- four published pairs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(real_data):
    if not (real_data / "bigearthnet-v1").is_dir():
        pytest.skip(f"no BigEarthNet v1 in {real_data}")
    return real_data


def test_published_pairs(real):
    data = open_dataset("bigearthnet-v1", "train", real, shares={})
    samples = {data[i]["id"][-5:]: data[i] for i in range(len(data))}
    labels = {key: [MANIFEST.classes[i] for i in s["label"].nonzero()[0]] for key, s in samples.items()}
    agriculture = MANIFEST.classes[6]
    assert labels == {
        "87_48": ["Arable land", agriculture],
        "36_85": ["Arable land", "Pastures"],
        "56_35": ["Complex cultivation patterns", agriculture, "Broad-leaved forest", "Transitional woodland, shrub"],
        "57_38": ["Arable land", "Coniferous forest", "Mixed forest"],
    }
    assert {key: s["place"] for key, s in samples.items()} == {
        "87_48": "T33UUP", "36_85": "T29UPU", "56_35": "T29SND", "57_38": "T35VPK",
    }  # fmt: skip
    assert samples["57_38"]["time"] == "2018-02-04T09:41:56"  # its name has lost the leading zero of 09
    assert samples["57_38"]["s2"][3].max() == 14665  # snow, red
    np.testing.assert_array_equal(data.labels, [data[i]["label"] for i in range(4)])

    def percentiles(sensor, channel):
        return np.percentile(np.concatenate([s[sensor][channel].ravel() for s in samples.values()]), [1, 50, 99])

    np.testing.assert_allclose(percentiles("s1", 0), (-18.5, -10.7, -3.2), atol=0.06)
    np.testing.assert_allclose(percentiles("s1", 1), (-25.2, -17.1, -10.4), atol=0.06)
    np.testing.assert_allclose(percentiles("s2", 3), (84, 653, 8163), atol=1)
    np.testing.assert_allclose(percentiles("s2", 7), (971, 3460, 8732), atol=1)
    bands = MANIFEST.sensors["s2"].bands
    near, red = (samples["36_85"]["s2"][bands.index(band)] for band in ("B08", "B04"))
    assert np.median(near) > 3 * np.median(red)  # Irish grassland in June


def test_published_pairs_cover_one_ground(real):
    """Read both sensors' files by themselves: equal reference system and bounds; both name the same classes."""
    from fmlib.data.raster import read_raster

    data = open_dataset("bigearthnet-v1", "train", real, shares={})
    for index in range(4):
        files = data.files(index)
        grounds = {read_raster(path).footprint for sensor in ("s1", "s2") for path in files[sensor]}
        assert len(grounds) == 1
        radar = read_note(files["s1"][0].with_name(f"{files['s1'][0].parent.name}_labels_metadata.json"))
        optical = read_note(files["label"][0])
        assert (radar.labels, radar.tile, radar.partner) == (optical.labels, optical.tile, data.patches[index].as_py())


def test_every_class_has_its_coarse_one():
    names = tuple(LEVEL_1.values())
    found = dict(zip(MANIFEST.classes, (names[i] for i in coarse_classes(MANIFEST.classes)), strict=True))
    assert set(found.values()) == set(names)
    assert found["Urban fabric"] == "Artificial surfaces"
    assert found["Permanent crops"] == "Agricultural areas"  # codes 221 to 241
    assert found["Beaches, dunes, sands"] == "Forest and semi-natural areas"
    assert found["Marine waters"] == "Water bodies"
    with pytest.raises(ValueError, match=r"\['flood'\] have no CORINE codes"):
        coarse_classes(("flood",))
