import pickle
import shutil

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from fmlib.data import open_dataset
from fmlib.data.paths import draw
from fmlib.data.ssl4eo import COARSE, SSL4EO, acquired
from fmlib.manifest import load_manifest

MANIFEST = load_manifest("ssl4eo-s12")
PRODUCTS = {  # by sensor, not in the order of their dates
    "s1": ["S1B_IW_GRDH_1SDV_20200903T131212_20200903T131237_1_2_3", "S1A_IW_GRDH_1SDV_20200607T010800_1_2_3_4"],
    "s2a": ["20200813T054639_20200813T054952_T43RCP", "20200604T054639_20200604T054831_T43RCP"],
    "s2c": ["20200604T054639_20200604T054831_T43RCP", "20200823T054639_20200823T055618_T43RCP"],
}
PLACES = ("0000200", "0000307")


def write(path, band, place="0000200", crs="EPSG:4326", shift=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    rows, cols = band.shape
    left, top, width, height = 73.2925 + int(place) % 7 + shift, 30.4756, 0.0268, 0.0232
    transform = Affine(width / cols, 0, left, 0, -height / rows, top)
    profile = {"height": rows, "width": cols, "count": 1, "dtype": band.dtype, "crs": crs, "transform": transform}
    with rasterio.open(path, "w", driver="GTiff", **profile) as file:
        file.write(band, 1)


@pytest.fixture(scope="module")
def shared_archive(tmp_path_factory):
    """Two places with two dates; values tell sensor, band and month."""
    root = tmp_path_factory.mktemp("data") / "ssl4eo-s12"
    for place in PLACES:
        for sensor, products in PRODUCTS.items():
            for product in products:
                month = int(acquired(product)[5:7])
                for number, band in enumerate(MANIFEST.sensors[sensor].bands):
                    folder, name = root / sensor / place / product, band[0] + band[1:].lstrip("0")  # B1, not B01
                    ramp = np.tile(np.arange(COARSE.get(band, 264)) / 264, (COARSE.get(band, 264), 1))
                    if sensor == "s1":  # its grid lies a little off, as published
                        write(
                            folder / f"{name}.tif",
                            (ramp - 10 * (number + 1) - month).astype(np.float32),
                            place,
                            shift=4e-4,
                        )
                    else:
                        write(
                            folder / f"{name}.tif",
                            (1000 * (number + 1) + 100 * month + 50 * ramp).astype(np.uint16),
                            place,
                        )
                (root / sensor / place / product / "metadata.json").write_text("{}")
    return root


@pytest.fixture
def archive(shared_archive, tmp_path):
    return shutil.copytree(shared_archive, tmp_path / "ssl4eo-s12")


def opened(root, split="train", sensors=("s1", "s2a", "s2c"), **options):
    return SSL4EO(root, split, {name: MANIFEST.sensors[name] for name in sensors}, (), **options)


def test_a_sample_is_a_place_in_a_season(shared_archive):
    data = opened(shared_archive)
    assert (len(data), data.classes, data.name) == (4, (), "ssl4eo-s12")
    samples = [data[i] for i in range(4)]
    assert [s["id"] for s in samples] == ["0000200/0", "0000200/1", "0000307/0", "0000307/1"]
    assert [s["place"] for s in samples] == ["0000200", "0000200", "0000307", "0000307"]
    shapes = {name: samples[0][name].shape for name in data.modalities}
    assert shapes == {"s1": (2, 264, 264), "s2a": (12, 264, 264), "s2c": (13, 264, 264)}
    assert all(samples[0][name].dtype == np.float32 for name in data.modalities)
    # products in the order of their dates, whatever their names' order: June before August and September
    assert samples[0]["s1"][:, 0, 0].tolist() == [-16, -26]
    assert samples[1]["s1"][:, 0, 0].tolist() == [-19, -29]
    assert (samples[0]["s2a"][:, 0, 0] == 1000 * np.arange(1, 13) + 600).all()  # file B1 is band B01, B8A after B08
    assert (samples[1]["s2c"][:, 0, 0] == 1000 * np.arange(1, 14) + 800).all()
    assert samples[0]["time"] == "2020-06-07T01:08:00"
    np.testing.assert_allclose(samples[0]["lonlat"], (73.2925 + 200 % 7 + 0.0134 + 0.0004, 30.4640), atol=1e-6)
    assert "label" not in samples[0]


def test_bands_keep_their_native_size(shared_archive):
    raw = opened(shared_archive).read(0)
    assert [band.shape[0] for band in raw.bands["s2c"]] == [
        44,
        264,
        264,
        264,
        132,
        132,
        132,
        264,
        132,
        44,
        44,
        132,
        132,
    ]
    assert {band.dtype.name for band in raw.bands["s2a"]} == {"uint16"}
    assert raw.files == opened(shared_archive).files(0)
    assert raw.files["s2a"][0].name == "B1.tif"
    assert opened(shared_archive, size=64, sensors=("s2a",))[0]["s2a"].shape == (12, 64, 64)


def test_one_date_and_shares(shared_archive):
    assert opened(shared_archive, dates=1).samples.tolist() == [[0, 1], [1, 1]]
    with pytest.raises(FileNotFoundError, match="no place of 'train' is usable"):
        opened(shared_archive, dates=2)
    with pytest.raises(FileNotFoundError, match=r"none of 2 places falls to 'validation'.*shares"):
        opened(shared_archive, "validation")
    shares = {"validation": 0.5}
    parts = {}
    for split in ("train", "validation"):
        try:
            parts[split] = opened(shared_archive, split, shares=shares).places
        except FileNotFoundError:
            parts[split] = []
    assert sorted(parts["train"] + parts["validation"]) == list(PLACES)
    assert all(draw(place, shares) == split for split, places in parts.items() for place in places)


def test_a_missing_sensor_is_an_error_skipped_or_kept(archive):
    shutil.rmtree(archive / "s2c" / PLACES[0] / PRODUCTS["s2c"][0])
    with pytest.raises(
        FileNotFoundError, match=r"1 of 2 places .* lack images, first 0000200 \(dates of s1: 2, s2a: 2, s2c: 1\)"
    ):
        opened(archive)
    assert opened(archive, on_missing="skip").places[opened(archive, on_missing="skip").samples[0, 0]] == PLACES[1]
    kept = opened(archive, on_missing="keep")
    assert [sorted({"s1", "s2a", "s2c"} & set(kept[i])) for i in (0, 1, 2)] == [
        ["s1", "s2a"],
        ["s1", "s2a"],
        ["s1", "s2a", "s2c"],
    ]
    shutil.rmtree(archive / "s1")
    with pytest.raises(FileNotFoundError, match="s1 is missing; extract it, or open the data set without 's1'"):
        opened(archive)
    assert len(opened(archive, sensors=("s2a",))) == 4


@pytest.mark.parametrize(
    ("band", "change", "message"),
    [
        (np.ones((260, 264), np.float32), {}, r"\(260, 264\) pixels, expected \(264, 264\)"),
        (np.full((264, 264), -10, np.int16), {}, "stored as int16, expected float32; decibels"),
        (np.full((264, 264), np.nan, np.float32), {}, "every value of 's1' band VH is no data"),
        (np.eye(264, dtype=np.float32) - 20, {"shift": 0.01}, "0.0096 apart: they are not one patch"),
        (np.eye(264, dtype=np.float32) - 20, {"crs": "EPSG:32643"}, "is in EPSG:32643, but .* is in EPSG:4326"),
    ],
)
def test_a_file_of_another_kind_is_named(archive, band, change, message):
    path = archive / "s1" / PLACES[0] / PRODUCTS["s1"][1] / "VH.tif"
    write(path, band, **change)
    with pytest.raises(ValueError, match=message) as error:
        opened(archive)[0]
    assert "VH.tif" in str(error.value)


def test_linear_power_truncation_and_a_missing_band_are_named(archive):
    folder = archive / "s1" / PLACES[0] / PRODUCTS["s1"][1]
    for band in ("VV", "VH"):
        write(folder / f"{band}.tif", np.random.default_rng(0).random((264, 264), np.float32))
    with pytest.raises(ValueError, match=r"looks like linear power; convert with 10·log10"):
        opened(archive)[0]
    (folder / "VH.tif").write_bytes((folder / "VH.tif").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"VH\.tif: cannot be read"):
        opened(archive)[0]
    (folder / "VH.tif").unlink()
    with pytest.raises(FileNotFoundError, match=r"VH\.tif is missing"):
        opened(archive)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sensors": ()}, "SSL4EO-S12 has the sensors"),
        ({"resample": "cubic"}, "resample 'cubic' is not one of"),
        ({"on_missing": "ignore"}, "on_missing 'ignore' is not one of"),
        ({"dates": -1}, "dates -1 is neither 'all' nor"),
        ({"dates": "first"}, "dates 'first' is neither"),
    ],
)
def test_an_unknown_choice_is_named(shared_archive, options, message):
    with pytest.raises(ValueError, match=message):
        opened(shared_archive, **options)


def test_a_folder_that_is_no_product_is_named(archive):
    (archive / "s1" / PLACES[0] / PRODUCTS["s1"][1]).rename(archive / "s1" / PLACES[0] / "first")
    with pytest.raises(ValueError, match="'first' is no product name"):
        opened(archive)[0]


def test_travels_to_worker_processes(shared_archive):
    data = opened(shared_archive)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data))[3]["s1"], data[3]["s1"])


# -- one published place, two dates a sensor --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(real_data):
    if not (real_data / "ssl4eo-s12").is_dir():
        pytest.skip(f"no SSL4EO-S12 in {real_data}")
    return open_dataset("ssl4eo-s12", "train", real_data)


def test_a_published_place(real):
    assert (len(real), real.places) == (2, ["0000200"])
    raw = real.read(0)
    assert [b.shape[0] for b in raw.bands["s2a"]] == [44, 264, 264, 264, 132, 132, 132, 264, 132, 44, 132, 132]
    assert len(raw.bands["s2c"]) == 13
    products = [{files[0].parent.name[:25] for files in real.files(i).values()} for i in (0, 1)]
    assert products[0] == {"S1A_IW_GRDH_1SDV_20200607", "20200604T054639_20200604T"}
    assert products[1] == {"S1A_IW_GRDH_1SDV_20200903", "20200813T054639_20200813T", "20200823T054639_20200823T"}
    first, second = real[0], real[1]
    assert (first["time"], second["time"]) == ("2020-06-07T01:08:00", "2020-09-03T13:12:12")
    np.testing.assert_allclose(first["lonlat"], (73.3056, 30.4642), atol=1e-4)
    vv, vh = (np.concatenate([s["s1"][c].ravel() for s in (first, second)]) for c in (0, 1))
    np.testing.assert_allclose(np.percentile(vv, [1, 50, 99]), (-16.2, -10.0, -4.1), atol=0.06)
    np.testing.assert_allclose(np.percentile(vh, [1, 50, 99]), (-25.8, -17.1, -11.8), atol=0.06)
    red, near = (np.concatenate([s["s2a"][c].ravel() for s in (first, second)]) for c in (3, 7))
    np.testing.assert_allclose(np.percentile(red, [1, 50, 99]), (542, 1048, 2178), atol=1)
    np.testing.assert_allclose(np.percentile(near, [1, 50, 99]), (1874, 2902, 4232), atol=1)


def test_published_bands_of_20_m_fit_by_their_edges(real):
    """Why coordinates are not used to align: by edges B08 and B8A agree, 10 m shifted they do not."""
    bands = dict(zip(real.modalities["s2a"].bands, real.read(0).bands["s2a"], strict=True))

    def agreement(shift):
        fine = np.roll(bands["B08"].astype(float), shift, (0, 1)).reshape(132, 2, 132, 2).mean((1, 3))
        return np.corrcoef(fine[2:-2, 2:-2].ravel(), bands["B8A"][2:-2, 2:-2].ravel())[0, 1]

    here = agreement((0, 0))
    assert here > 0.99
    assert all(agreement(shift) < here - 0.01 for shift in ((0, 1), (0, -1), (1, 0), (-1, 0)))
