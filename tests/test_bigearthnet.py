import pickle
import shutil
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from bigearthnet_archive import (
    MANIFEST,
    PATCHES,
    S1_NAMES,
    make_archive,
    opened,
    row,
    s1_path,
    s2_path,
    write,
)

from fmlib.data import choose_dataset, find_datasets, open_dataset
from fmlib.data.bigearthnet import BigEarthNetV2, patch_folder

MAXIMA = [1314, 3958, 3784, 3598, 3268, 5112, 6383, 6620, 6652, 5943, 4203, 3652]  # of the published S2 patch
ALWAYS = ("id", "label", "lonlat", "place")


@pytest.fixture(scope="module")
def shared_archive(tmp_path_factory):
    return make_archive(tmp_path_factory.mktemp("data") / "bigearthnet-v2")


@pytest.fixture
def archive(shared_archive, tmp_path):
    """A copy of the shared archive that a test may damage."""
    return shutil.copytree(shared_archive, tmp_path / "bigearthnet-v2")


def test_a_sample_keeps_decibels_band_order_and_labels(shared_archive):
    data = opened(shared_archive)
    assert len(data) == 2
    sample = data[1]
    shapes = {key: value.shape for key, value in sample.items() if not isinstance(value, str)}
    assert shapes == {"s1": (2, 120, 120), "s2": (12, 120, 120), "label": (19,), "lonlat": (2,)}
    assert sample["place"] == "T33UUP"
    np.testing.assert_allclose(sample["lonlat"], (13.4625, 48.2191), atol=1e-3)
    assert all(sample[key].dtype == np.float32 for key in ("s1", "s2", "label"))
    assert sample["id"] == PATCHES[1]
    assert sample["s1"][:, 0, 0].tolist() == [-9.25, -19.25]  # VV before VH, fractions kept
    assert (sample["s2"][:, 0, 0] // 1000).tolist() == list(range(1, 13))  # bands in the manifest's order
    assert sample["label"].nonzero()[0].tolist() == [0]
    assert data[0]["label"].nonzero()[0].tolist() == [4, 18]


def test_coarse_bands_are_repeated_by_nearest_and_smoothed_by_bilinear(shared_archive):
    nearest, bilinear = (opened(shared_archive, resample=how)[0]["s2"] for how in ("nearest", "bilinear"))
    b01 = nearest[0].astype(int)
    assert (b01 == 1000 + np.arange(120) // 6).all()  # 20 px → 120 px: each repeated 6 times
    inside = bilinear[0, 0, 3:-3] - 1000
    np.testing.assert_allclose(inside, (np.arange(3, 117) + 0.5) / 6 - 0.5, atol=1e-3)  # pixel centres stay
    np.testing.assert_array_equal(nearest[1], bilinear[1])  # a 10 m band is untouched
    assert opened(shared_archive, size=60)[0]["s2"].shape == (12, 60, 60)


def test_a_subset_of_sensors_and_bands(shared_archive):
    s2 = MANIFEST.sensors["s2"].replace(bands=("B08", "B04"), mean=(1, 1), std=(1, 1), groups=(), rgb=("B04",))
    data = BigEarthNetV2(shared_archive, "train", {"s2": s2}, MANIFEST.classes)
    assert set(data[0]) == {"s2", *ALWAYS}
    assert data[0]["s2"][:, 0, 0].tolist() == [8000, 4000]


def test_labels_and_map_follow_the_class_order_given(shared_archive):
    classes = tuple(sorted(MANIFEST.classes))
    sample = opened(shared_archive, classes=classes, with_map=True)[0]
    assert {classes[i] for i in sample["label"].nonzero()[0]} == {"Pastures", "Marine waters"}
    assert sample["map"].dtype == np.uint8
    assert (sample["map"][:6] == 255).all()
    assert (sample["map"][6:60] == classes.index("Marine waters")).all()
    assert (sample["map"][60:] == classes.index("Pastures")).all()


def test_snow_and_cloud_come_back_when_asked_for(shared_archive):
    assert opened(shared_archive).patches.to_pylist() == PATCHES[:2]
    assert opened(shared_archive, exclude_snow_cloud=False).patches.to_pylist() == [PATCHES[0], PATCHES[1], PATCHES[3]]


def test_travels_to_worker_processes(shared_archive):
    data = opened(shared_archive)
    copy = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(copy[1]["s2"], data[1]["s2"])
    with pytest.raises(IndexError):
        data[2]


def test_missing_patches_are_an_error_skipped_or_kept(archive):
    shutil.rmtree(patch_folder(archive, "s1", S1_NAMES[0]))
    message = rf"1 of 2 train patches are not complete.*{PATCHES[0]}; extract BigEarthNet-S1, or use on_missing='skip'"
    with pytest.raises(FileNotFoundError, match=message):
        opened(archive)
    assert opened(archive, on_missing="skip").patches.to_pylist() == [PATCHES[1]]
    kept = opened(archive, on_missing="keep")
    assert [sorted(sample) for sample in kept] == [sorted([*ALWAYS, "s2"]), sorted([*ALWAYS, "s1", "s2"])]
    assert opened(archive, on_missing="skip")[0]["label"].nonzero()[0].tolist() == [0]  # rows stay together
    assert find_datasets(archive.parent)["bigearthnet-v2"] == 1


def test_nothing_on_disk_is_an_error_whatever_is_asked(archive):
    shutil.rmtree(archive / "BigEarthNet-S1")
    shutil.rmtree(archive / "BigEarthNet-S2")
    for choice in ("skip", "keep"):
        with pytest.raises(FileNotFoundError, match=r"none of the 2 train patches.*BigEarthNet-S1, BigEarthNet-S2"):
            opened(archive, on_missing=choice)
    with pytest.raises(FileNotFoundError, match="2 of 2 train patches"):
        opened(archive)


@pytest.mark.parametrize(
    ("where", "band", "message"),
    [
        (s1_path, np.zeros((2, 120, 120), np.float32), "2 bands, expected a file of one band"),
        (s1_path, np.zeros((60, 120), np.float32), r"\(60, 120\) pixels, expected \(120, 120\)"),
        (s1_path, np.full((120, 120), -10, np.int16), "stored as int16, expected float32; decibels must not be cut"),
        (s1_path, np.full((120, 120), np.nan, np.float32), "every value of 's1' band VV is no data"),
        (s2_path, np.zeros((120, 120), np.uint16), "every value of 's2' band B08 is no data"),
        (s2_path, np.ones((120, 120), np.float32), "stored as float32, expected uint16"),
    ],
)
def test_a_file_of_another_kind_is_named(archive, where, band, message):
    path = where(archive, 0, "VV" if where is s1_path else "B08")
    write(path, band, nodata=0 if where is s2_path else None)
    with pytest.raises(ValueError, match=message) as error:
        opened(archive)[0]
    assert path.name in str(error.value)


def test_linear_power_is_refused(archive):
    for band in ("VV", "VH"):
        write(s1_path(archive, 0, band), np.random.default_rng(0).random((120, 120), np.float32))
    with pytest.raises(ValueError, match=r"looks like linear power; convert with 10·log10"):
        opened(archive)[0]


def test_single_zeros_and_nan(archive):
    """Files are tagged with nodata 0, but dark water is 0 too: the manifest keeps zeros; NaN is no number anywhere."""
    path = s2_path(archive, 0, "B08")
    with rasterio.open(path) as file:
        pixels = file.read(1)
    pixels[:3, :4] = 0
    write(path, pixels, nodata=0)
    sample = opened(archive)[0]
    assert (sample["s2"][7] == 0).sum() == 12
    assert "valid" not in sample
    fill = {"s2": MANIFEST.sensors["s2"].replace(on_nodata="mean")}
    filled = BigEarthNetV2(archive, "train", fill, MANIFEST.classes)[0]
    assert (filled["s2"][7, :3, :4] == np.float32(MANIFEST.sensors["s2"].mean[7])).all()
    assert (~filled["valid"]).sum() == 12
    strict = {"s2": MANIFEST.sensors["s2"].replace(on_nodata="error")}
    with pytest.raises(ValueError, match="of 14400 values of 's2' band B08 12 nodata; drop this sample, or set on_nod"):
        BigEarthNetV2(archive, "train", strict, MANIFEST.classes)[0]
    radar = np.linspace(-20, -10, 14400, dtype=np.float32).reshape(120, 120)
    radar[5, 5] = np.nan
    write(s1_path(archive, 0, "VH"), radar)
    with pytest.raises(ValueError, match=r"VH\.tif \(S2A_.*\): of 14400 values of 's1' band VH 1 not finite"):
        opened(archive)[0]


@pytest.mark.parametrize("keep", [0, 100, 20000])
def test_a_truncated_file_is_named(archive, keep):
    path = s2_path(archive, 0, "B08")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"B08.tif: cannot be read .*extract it again"):
        opened(archive)[0]


def test_a_missing_band_is_named(archive):
    s2_path(archive, 0, "B8A").unlink()
    with pytest.raises(FileNotFoundError, match=r"B8A.tif is missing"):
        opened(archive)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crs": "EPSG:32632"}, "is in EPSG:32632, but .* is in EPSG:32633"),
        ({"crs": "EPSG:32633", "origin": (384010, 5342400)}, "10 apart: they are not one patch"),
    ],
)
def test_two_places_are_not_one_patch(archive, changes, message):
    write(s1_path(archive, 0, "VH"), np.linspace(-20, -10, 14400, dtype=np.float32).reshape(120, 120), **changes)
    with pytest.raises(ValueError, match=message):
        opened(archive)[0]


def test_an_unknown_label_is_named(archive):
    pq.write_table(pa.Table.from_pylist([row(0), row(1, labels=["Pastures", "Glacier"])]), archive / "metadata.parquet")
    with pytest.raises(ValueError, match=rf"patch {PATCHES[1]}: label 'Glacier' is not among the 19 classes"):
        opened(archive)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "no rows of split 'val'"),
        ({"resample": "cubic"}, "resample 'cubic' is not one of"),
        ({"on_missing": "ignore"}, "on_missing 'ignore' is not one of"),
        ({"sensors": ()}, "BigEarthNet has the sensors"),
        (
            {"classes": ("Pastures", "Marine waters", "Urban fabric", "Clouds"), "with_map": True},
            "'Clouds' has no CORINE",
        ),
    ],
)
def test_an_unknown_choice_is_named(shared_archive, options, message):
    with pytest.raises(ValueError, match=message):
        opened(shared_archive, **options)


def test_damaged_metadata_is_named(archive):
    path = archive / "metadata.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["s1_name"]), path)
    with pytest.raises(ValueError, match=r"lacks the columns \['s1_name'\]"):
        opened(archive)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        opened(archive)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"metadata\.parquet is missing"):
        opened(archive)


def test_open_dataset_by_name(shared_archive):
    data = open_dataset("bigearthnet-v2", "validation", shared_archive.parent, sensors=("s1",), with_map=True)
    assert (data.name, data.split, list(data.modalities)) == ("bigearthnet-v2", "validation", ["s1"])
    assert find_datasets(shared_archive.parent) == {"bigearthnet-v2": 2}


def test_opening_what_is_not_there_says_where_it_was_sought(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"bigearthnet-v2 is not at .*fetch it from https://zenodo.org"):
        open_dataset("bigearthnet-v2", "train", tmp_path)
    with pytest.raises(ValueError, match=r"no split 'val'; it has \('train', 'validation', 'test'\)"):
        open_dataset("bigearthnet-v2", "val", tmp_path)
    with pytest.raises(ValueError, match=r"no sensor \['s3'\]"):
        open_dataset("bigearthnet-v2", "train", tmp_path, sensors=("s3",))


def test_two_pairs_are_too_few_to_choose(shared_archive):
    with pytest.raises(FileNotFoundError, match=r"bigearthnet-v2: 2 pairs.*ombria: 0 pairs.*Set FMLIB_DATA") as error:
        choose_dataset(shared_archive.parent)
    assert f"fmlib scenes {shared_archive.parent / 'synthetic'}" in str(error.value)


def test_choose_dataset_prefers_real_pairs(monkeypatch):
    counts = {"bigearthnet-v2": 64, "ombria": 878, "synthetic": 512}
    monkeypatch.setattr("fmlib.data.find_datasets", lambda root: counts)
    assert choose_dataset() == "bigearthnet-v2"
    counts["bigearthnet-v2"] = 63
    assert choose_dataset() == "ombria"
    del counts["ombria"]
    assert choose_dataset() == "synthetic"


# -- the published files: three patches, of each of which one kind is there ---------------------------------------


@pytest.fixture(scope="module")
def real(real_data):
    if not (real_data / "bigearthnet-v2").is_dir():
        pytest.skip(f"no BigEarthNet v2 in {real_data}")
    return real_data / "bigearthnet-v2"


def test_published_files_read_one_by_one(real):
    radar, optical = opened(real, "validation", on_missing="keep", with_map=True)
    assert sorted(radar) == sorted([*ALWAYS, "s1"])
    assert sorted(optical) == sorted([*ALWAYS, "s2"])
    low, high = radar["s1"].min((1, 2)), radar["s1"].max((1, 2))
    np.testing.assert_allclose(low, [-25.438206, -35.393803])  # VV, VH
    np.testing.assert_allclose(high, [9.746194, 2.098618])
    assert optical["s2"].max((1, 2)).tolist() == MAXIMA
    names = [MANIFEST.classes[i] for i in radar["label"].nonzero()[0]]
    assert names == ["Arable land", "Complex cultivation patterns", "Coniferous forest"]
    (reference,) = opened(real, "test", on_missing="keep", with_map=True)
    found = {MANIFEST.classes[i] for i in np.unique(reference["map"])}
    assert found == {"Arable land", "Pastures", "Broad-leaved forest", "Mixed forest"}  # codes 211, 231, 311, 313
    assert found == {MANIFEST.classes[i] for i in reference["label"].nonzero()[0]}


def test_the_complete_table_opens_quickly_and_says_what_is_missing(real):
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match="237,871 of 237,871 train patches are not complete"):
        opened(real)
    assert time.monotonic() - start < 5  # usually 0.4 s
