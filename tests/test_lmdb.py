"""BigEarthNet v2 as LMDB: the same values as its GeoTIFFs, bad archives named, safe across processes."""

import multiprocessing
import os
import pickle
import shutil

import lmdb
import numpy as np
import pytest
from bigearthnet_archive import MANIFEST, PATCHES, S1_NAMES, make_archive, opened, s2_path, write
from safetensors.numpy import load, save
from torch.utils.data import DataLoader

from fmlib.data import lmdb_store, open_dataset
from fmlib.data.bigearthnet import METADATA
from fmlib.data.bigearthnet_patches import patch_footprint
from fmlib.data.lmdb_store import LmdbStore, write_lmdb
from fmlib.data.pack import pack
from fmlib.data.records import Records

FOLDER = "Encoded-BigEarthNet"
SPLITS = ("train", "validation")


@pytest.fixture(scope="module")
def shared_archive(tmp_path_factory):
    return make_archive(tmp_path_factory.mktemp("data") / "bigearthnet-v2")


@pytest.fixture(scope="module")
def shared_encoded(shared_archive, tmp_path_factory):
    """All four patches of the GeoTIFF archive as LMDB, and the tables; no GeoTIFF."""
    root = tmp_path_factory.mktemp("encoded") / "bigearthnet-v2"
    root.mkdir()
    for table in shared_archive.glob("*.parquet"):
        shutil.copy(table, root)
    train, validation = (opened(shared_archive, split, with_map=True, exclude_snow_cloud=False) for split in SPLITS)
    write_lmdb(train, root / FOLDER)
    for kind in validation.kinds:
        change(root, validation.key(kind, 0), validation.stored(kind, 0).bands)
    return root


@pytest.fixture
def encoded(shared_encoded, tmp_path):
    return shutil.copytree(shared_encoded, tmp_path / "bigearthnet-v2")


def change(root, key, value):
    """Replace what is stored under a key, or remove it; a dictionary is stored as safetensors.

    In a copy that takes the archive's place: one that a reader has open cannot be opened here again.
    """
    beside = root / "beside"
    if (root / FOLDER).is_dir():
        shutil.copytree(root / FOLDER, beside)
    with (
        lmdb.open(str(beside), map_size=2**26, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        if value is None:
            transaction.delete(key.encode())
        else:
            transaction.put(key.encode(), save(value) if isinstance(value, dict) else value)
    (root / FOLDER).mkdir(exist_ok=True)
    (beside / "data.mdb").replace(root / FOLDER / "data.mdb")
    shutil.rmtree(beside)


def test_samples_equal_those_of_the_geotiffs(shared_archive, shared_encoded):
    for split in SPLITS:
        tiff, encoded = (opened(root, split, with_map=True) for root in (shared_archive, shared_encoded))
        assert encoded.store is not None
        assert tiff.store is None
        assert len(tiff) == len(encoded)
        for index in range(len(tiff)):
            one, other = tiff.read(index), encoded.read(index)
            assert one.nodata == other.nodata
            for sensor in ("s1", "s2"):
                for a, b in zip(one.bands[sensor], other.bands[sensor], strict=True):
                    assert a.dtype == b.dtype
                    np.testing.assert_array_equal(a, b)
            one, other = tiff[index], encoded[index]
            assert one.keys() == other.keys()
            for key in one:
                np.testing.assert_array_equal(one[key], other[key])  # lonlat too: from names alone


def test_the_layout_is_that_of_the_authors_tool(encoded):
    with lmdb.open(str(encoded / FOLDER), readonly=True, lock=False) as environment, environment.begin() as look:
        stored = {key.decode(): load(value) for key, value in look.cursor()}
    assert sorted(stored) == sorted([*PATCHES, *S1_NAMES, *(f"{patch}_reference_map" for patch in PATCHES)])
    assert set(stored[S1_NAMES[0]]) == {"VV", "VH"}
    assert set(stored[PATCHES[0]]) == set(MANIFEST.sensors["s2"].bands)
    assert [stored[PATCHES[0]][band].shape[0] for band in ("B02", "B05", "B09")] == [120, 60, 20]
    codes = stored[f"{PATCHES[0]}_reference_map"]["Data"]
    assert (codes.dtype, codes[-1, 0], codes[30, 0]) == (np.uint16, 231, 523)
    assert [path.name for path in (encoded / FOLDER).iterdir()] == ["data.mdb"]


def test_geotiffs_come_first_unless_lmdb_is_asked_for(shared_archive, encoded):
    shutil.copytree(shared_archive, encoded, dirs_exist_ok=True)
    assert opened(encoded).store is None
    assert opened(encoded, storage="lmdb").files(0)["s1"] == (encoded / FOLDER / "data.mdb",)
    shutil.copytree(encoded / FOLDER, encoded / "other")
    with pytest.raises(FileNotFoundError, match=r"2 folders hold data\.mdb, expected one"):
        opened(encoded, storage="lmdb")
    with pytest.raises(FileNotFoundError, match=r"0 folders hold data\.mdb, expected one .such as Encoded-BigEarthNet"):
        opened(shared_archive, storage="lmdb")
    with pytest.raises(ValueError, match="storage 'zarr' is not one of"):
        opened(shared_archive, storage="zarr")


def test_what_the_archive_lacks_is_an_error_skipped_or_kept(encoded):
    change(encoded, S1_NAMES[0], None)
    with pytest.raises(
        FileNotFoundError, match=rf"1 of 2 train patches .*{PATCHES[0]}; .*encode them again into {FOLDER}"
    ):
        opened(encoded)
    assert opened(encoded, on_missing="skip").patches.to_pylist() == [PATCHES[1]]
    assert set(opened(encoded, on_missing="keep").read(0).bands) == {"s2"}
    store = LmdbStore(encoded / FOLDER)
    assert store.there([PATCHES[2], S1_NAMES[0], "x"]).tolist() == [True, False, False]
    with pytest.raises(KeyError, match=f"no key {S1_NAMES[0]}"):
        store.read(S1_NAMES[0])


BANDS = {"VV": np.full((120, 120), -10, np.float32), "VH": np.eye(120, dtype=np.float32) - 20}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"\x10\0\0\0\0\0\0\0{damaged", "no safetensors dictionary"),
        (b"", "no safetensors dictionary"),
        ({"VV": BANDS["VV"]}, r"no band VH, only \['VV'\]"),
        ({**BANDS, "VH": BANDS["VH"].astype(np.int16)}, r"band VH is int16 \(120, 120\), expected float32"),
        ({**BANDS, "VH": BANDS["VH"][:60]}, r"band VH is float32 \(60, 120\), expected float32 \(120, 120\)"),
    ],
)
def test_a_damaged_value_is_named_with_its_archive(encoded, value, message):
    change(encoded, S1_NAMES[0], value)
    with pytest.raises(ValueError, match=message) as error:
        opened(encoded)[0]
    assert f"{encoded / FOLDER / 'data.mdb'}: key {S1_NAMES[0]}" in str(error.value)


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ({band: 10 ** (BANDS[band] / 10) for band in BANDS}, "looks like linear power"),
        ({**BANDS, "VH": np.where(np.eye(120), np.nan, BANDS["VH"])}, "of 14400 values of 's1' band VH 120 not finite"),
        ({**BANDS, "VH": np.full((120, 120), np.nan, np.float32)}, "every value of 's1' band VH is no data"),
    ],
)
def test_values_are_judged_as_those_of_geotiffs(encoded, bands, message):
    change(encoded, S1_NAMES[0], {band: pixels.astype(np.float32) for band, pixels in bands.items()})
    with pytest.raises(ValueError, match=message):
        opened(encoded)[0]


class Boom:
    def __reduce__(self):
        return os.abort, ()


def test_pickles_are_refused_and_never_loaded(tmp_path):
    root = tmp_path / "bigearthnet-v2"
    root.mkdir()
    change(root, "S2A_MSIL2A_20170613T101031_61_39", pickle.dumps(Boom()))
    with pytest.raises(ValueError, match="holds pickled objects, as encoders of BigEarthNet version 1"):
        LmdbStore(root / FOLDER)


def test_a_truncated_or_foreign_file_is_named(encoded):
    file = encoded / FOLDER / "data.mdb"
    whole = file.read_bytes()
    long = len(whole) + 2**22
    file.write_bytes(whole)
    change(encoded, "zzz", {"large": np.zeros(2**20, np.float32)})
    size = file.stat().st_size
    assert size > long - 2**20
    with open(file, "r+b") as handle:
        handle.truncate(size // 4)
    with pytest.raises(ValueError, match=rf"data\.mdb: truncated, {size // 4:,} of "):
        opened(encoded)
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(ValueError, match=r"data\.mdb: cannot be opened as LMDB"):
        opened(encoded)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"data\.mdb is missing"):
        LmdbStore(encoded / FOLDER)


def read_first(data):
    return data[0]["s2"]


def test_each_process_opens_the_archive_for_itself(shared_encoded):
    data = opened(shared_encoded)
    expected = read_first(data)  # now it is open here
    for method, workers in (("fork", 2), ("spawn", 1)):
        with multiprocessing.get_context(method).Pool(workers) as pool:
            for found in pool.map(read_first, [data] * 4):
                np.testing.assert_array_equal(found, expected)
            pool.close()  # a signal may meet a worker that holds the others' lock, for which they then wait for ever
            pool.join()
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")
    np.testing.assert_array_equal(next(iter(loader))["s2"], expected)
    np.testing.assert_array_equal(read_first(data), expected)


def test_what_was_closed_opens_again(shared_encoded):
    data = opened(shared_encoded)
    before = read_first(data).copy()
    assert lmdb_store._opened
    lmdb_store.close_all()
    assert not lmdb_store._opened
    np.testing.assert_array_equal(read_first(data), before)


def test_two_data_sets_share_one_environment_and_see_it_replaced(encoded):
    train, validation = opened(encoded), opened(encoded, "validation")  # LMDB opens a file once a process
    before = train[0]["s1"]
    assert validation[0]["s1"].shape == before.shape
    change(encoded, S1_NAMES[0], BANDS)
    assert train[0]["s1"][0, 0, 0] == -10
    assert before[0, 0, 0] == -10.25


def test_writing_leaves_nothing_half_written(shared_archive, tmp_path):
    root = shutil.copytree(shared_archive, tmp_path / "bigearthnet-v2")
    data = opened(root)
    write(s2_path(root, 1, "B08"), np.ones((60, 60), np.uint16))
    with pytest.raises(ValueError, match=r"B08\.tif"):
        write_lmdb(data, root / FOLDER, progress=False)
    assert not [path.name for path in root.iterdir() if "Encoded" in path.name]
    (root / FOLDER).mkdir()
    with pytest.raises(FileExistsError, match="remove it, or write to another folder"):
        write_lmdb(data, root / FOLDER)


def test_a_folder_being_written_is_not_taken_for_an_archive(encoded):
    (encoded / FOLDER).rename(encoded / f"{FOLDER}.7.writing")
    with pytest.raises(FileNotFoundError, match="2 of 2 train patches are not complete"):
        opened(encoded)


def test_opens_by_name_and_packs(shared_encoded, tmp_path):
    data = open_dataset("bigearthnet-v2", "train", shared_encoded.parent)
    records = Records(pack(data, tmp_path / "records", workers=0))
    np.testing.assert_array_equal(records[1]["s2"], data[1]["s2"])
    assert records[1]["id"] == data[1]["id"] == PATCHES[1]


def test_published_patches_survive_the_change_of_storage(real_data, tmp_path):
    source = real_data / "bigearthnet-v2"
    if not source.is_dir():
        pytest.skip(f"no BigEarthNet v2 in {real_data}")
    for split in ("validation", "test"):  # one S1 and one S2 patch; one reference map
        data = opened(source, split, on_missing="keep", with_map=True)
        root = tmp_path / split
        root.mkdir()
        shutil.copy(source / METADATA, root)
        write_lmdb(data, root / FOLDER)
        encoded = opened(root, split, on_missing="keep", with_map=True)  # 122,342 names, two of them there
        assert len(encoded) == len(data)
        for index in range(len(data)):
            one, other = data[index], encoded[index]
            assert one.keys() == other.keys()
            for key in one:
                np.testing.assert_array_equal(one[key], other[key])


def test_a_name_tells_where_a_patch_lies(real_data):
    """Column and row of the name, counted from its tile's corner: true of four published patches in three zones."""
    from fmlib.data.raster import read_raster

    files = sorted((real_data / "bigearthnet-v1").glob("BigEarthNet-S1-v1.0/*/*_VV.tif"))
    if not files:
        pytest.skip("no BigEarthNet v1 here")
    for file in files:
        assert patch_footprint(file.parent.name) == read_raster(file).footprint
    assert (METADATA, len(files)) == ("metadata.parquet", 4)
