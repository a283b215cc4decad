import os
import pickle

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from fmlib.data import open_dataset
from fmlib.data.sen12ms import DAMAGED, HOLD_OUT, SIMPLIFIED, class_cover, find_lists, read_pickle, s2_name
from fmlib.manifest import load_manifest

MANIFEST = load_manifest("sen12ms")
SIDE = 16
# one scene of the published test list, six others
SCENES = [
    ("ROIs1158_spring", 15),
    *((season, scene) for season in ("ROIs1158_spring", "ROIs1970_fall") for scene in (1, 2, 3)),
]
COVER = np.repeat([1, 5, 10, 17], [2, 4, 9, 1]).astype(np.uint16)[:, None].repeat(SIDE, 1)  # rows of IGBP codes


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = {"transform": from_origin(500000, 5000000, 10, 10), "crs": "EPSG:32633"}
    options = {"count": len(pixels), "height": SIDE, "width": SIDE, "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", **options, **grid) as file:
        file.write(pixels)


def add_patch(root, season, scene, patch, rng, cover=COVER):
    images = {
        "s1": rng.normal(-12, 3, (2, SIDE, SIDE)).astype(np.float32),
        "s2": rng.integers(1, 9000, (13, SIDE, SIDE)).astype(np.uint16),
        "lc": np.stack([cover, *np.full((3, SIDE, SIDE), 40, np.uint16)]),
    }
    for key, pixels in images.items():
        write(root / "sen12ms" / f"{season}/{key}_{scene}/{season}_{key}_{scene}_p{patch}.tif", pixels)
    return images


@pytest.fixture
def archive(tmp_path):
    """Seven scenes of two patches; returns the root of all data sets."""
    rng = np.random.default_rng(0)
    for season, scene in SCENES:
        for patch in (30, 100):
            add_patch(tmp_path, season, scene, patch, rng)
    return tmp_path


def opened(root, split="train", **options):
    return open_dataset("sen12ms", split, root, **{"shares": {"validation": 0.3}, **options})


def names(data):
    return [identity.decode() for identity in data.folders.ids]


def test_a_sample_holds_both_sensors_without_b10(tmp_path):
    images = add_patch(tmp_path, "ROIs1158_spring", 1, 30, np.random.default_rng(0))
    data = opened(tmp_path, shares={})
    sample = data[0]
    np.testing.assert_array_equal(sample["s1"], images["s1"])
    np.testing.assert_array_equal(sample["s2"], np.delete(images["s2"], 10, 0))
    assert (sample["id"], sample["place"]) == ("ROIs1158_spring_1_30", "ROIs1158_spring_1")
    assert sample["label"] == 3  # Grassland covers 9 rows of 16
    assert sample["label"].dtype == np.int64
    np.testing.assert_allclose(sample["lonlat"], [15.001, 45.153], atol=2e-3)
    assert set(data.files(0)) == {"s1", "s2", "label"}
    assert data.read(0).files == data.files(0)
    assert (data.name, data.split, data.classes) == ("sen12ms", "train", MANIFEST.classes)


def test_labels_of_every_kind(archive):
    several = opened(archive, labels="multi")[0]["label"]
    assert several.tolist() == [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]  # water covers less than a tenth
    assert several.dtype == np.float32
    cover = opened(archive, labels="map")[0]["label"]
    assert cover[:, 0].tolist() == [0] * 6 + [3] * 9 + [9]
    assert cover.dtype == np.uint8
    bare = opened(archive, labels="none")
    assert "label" not in bare[0]
    assert set(bare.files(0)) == {"s1", "s2"}
    with pytest.raises(ValueError, match="labels 'both' is not one of"):
        opened(archive, labels="both")


def test_simplified_classes_are_the_published_sums():
    cover = np.arange(1, 18).repeat(2)
    shares = class_cover(np.array(SIMPLIFIED)[cover - 1]) * 17
    np.testing.assert_allclose(shares, [5, 2, 2, 1, 1, 2, 1, 1, 1, 1], rtol=1e-6)
    assert [MANIFEST.classes[SIMPLIFIED[code - 1]] for code in (12, 13, 14, 15)] == [
        "Croplands",
        "Urban",
        "Croplands",
        "Snow/Ice",
    ]


def test_a_patch_without_cover_has_no_class_and_a_strange_code_is_named(tmp_path):
    rng = np.random.default_rng(0)
    add_patch(tmp_path, "ROIs1158_spring", 1, 30, rng, np.zeros_like(COVER))
    assert opened(tmp_path, shares={})[0]["label"] == 255
    assert not opened(tmp_path, shares={}, labels="multi")[0]["label"].any()
    add_patch(tmp_path, "ROIs1158_spring", 1, 30, rng, np.full_like(COVER, 18))
    with pytest.raises(ValueError, match=r"lc_1_p30\.tif: code 18 is none of the known class codes"):
        opened(tmp_path, shares={})[0]


def test_radar_without_data_is_filled_and_marked(tmp_path):
    rng = np.random.default_rng(0)
    images = add_patch(tmp_path, "ROIs1158_spring", 1, 30, rng)
    images["s1"][:, :4] = np.nan
    write(tmp_path / "sen12ms/ROIs1158_spring/s1_1/ROIs1158_spring_s1_1_p30.tif", images["s1"])
    sample = opened(tmp_path, shares={})[0]
    np.testing.assert_allclose(sample["s1"][:, 0, 0], MANIFEST.sensors["s1"].mean)
    assert not sample["valid"][:4].any()
    assert sample["valid"][4:].all()


# -- splits ---------------------------------------------------------------------------------------------------------


def test_without_lists_the_held_out_scenes_are_the_test(archive):
    data = {split: opened(archive, split, on_missing="skip") for split in ("train", "validation", "test")}
    assert names(data["test"]) == ["ROIs1158_spring_15_100", "ROIs1158_spring_15_30"]
    places = {split: set(part.folders.places) for split, part in data.items()}
    assert sum(map(len, places.values())) == len(set.union(*places.values())) == 7
    assert all(places.values())
    assert sum(map(len, HOLD_OUT.values())) == 26
    with pytest.raises(FileNotFoundError, match=r"list of 'test' names 25 samples .*on_missing='skip'"):
        opened(archive, "test")


@pytest.mark.parametrize("place", ["", "splits"])
@pytest.mark.parametrize("kind", ["txt", "pkl"])
def test_published_lists_decide(archive, place, kind):
    folder = archive / "sen12ms" / place
    folder.mkdir(exist_ok=True)
    lists = {
        "train": ["ROIs1970_fall_s2_1_p30.tif", "ROIs1970_fall_s2_3_p30.tif"],
        "test": ["ROIs1158_spring_s2_2_p30.tif"],
    }
    for split, files in lists.items():
        text = "\r\n".join(files).encode() if kind == "txt" else pickle.dumps(files)
        (folder / f"{split}_list.{kind}").write_bytes(text)
    assert names(opened(archive, shares={})) == ["ROIs1970_fall_1_30", "ROIs1970_fall_3_30"]
    assert names(opened(archive, "test")) == ["ROIs1158_spring_2_30"]


def test_lists_may_be_given(archive):
    assert find_lists(archive, {"test": ["a"], "train": "mine.txt"}) == {"test": ["a"], "train": "mine.txt"}
    assert names(opened(archive, "test", lists={"test": ["ROIs1970_fall_s2_1_p30.tif"]})) == ["ROIs1970_fall_1_30"]


def test_the_damaged_patch_is_left_out(archive):
    season, scene, patch = DAMAGED.rsplit("_", 2)
    for number in (patch, "203"):
        add_patch(archive, season, scene, number, np.random.default_rng(0))
    found = names(opened(archive, shares={}))
    assert DAMAGED not in found
    assert f"{season}_{scene}_203" in found


def test_an_incomplete_patch_is_named(archive):
    os.remove(archive / "sen12ms/ROIs1970_fall/s1_1/ROIs1970_fall_s1_1_p30.tif")
    with pytest.raises(
        FileNotFoundError, match=r"1 of 12 train samples .* first 'ROIs1970_fall_1_30', which lacks 's1'"
    ):
        opened(archive, shares={})
    assert len(opened(archive, shares={}, on_missing="skip")) == 11


# -- published labels -----------------------------------------------------------------------------------------------


def fractions():
    full = np.zeros(17)
    full[[0, 11, 13]] = 0.4, 0.3, 0.3  # Forest covers most of one code, Croplands of all
    return full


def put_table(root, table, folder="labels"):
    path = root / "sen12ms" / folder / "IGBP_probability_labels.pkl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(table if isinstance(table, bytes) else pickle.dumps(table))
    return path


@pytest.mark.parametrize(
    "value", [fractions(), fractions().tolist(), list(fractions()), fractions().astype(np.float32)]
)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_labels_of_the_toolbox_are_used_where_they_are(archive, value, protocol):
    table = {s2_name(f"{season}_{scene}_{patch}"): value for season, scene in SCENES for patch in (30, 100)}
    path = put_table(archive, pickle.dumps(table, protocol))
    data = opened(archive)
    assert data[0]["label"] == 5
    assert data.files(0)["label"] == data.read(0).files["label"] == (path,)
    assert opened(archive, labels="multi")[0]["label"].tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert opened(archive, labels="map")[0]["label"].shape == (SIDE, SIDE)


def test_labels_of_the_toolbox_that_lack_a_patch_are_named(archive):
    put_table(archive, {"ROIs1970_fall_s2_1_p30.tif": fractions()})
    with pytest.raises(ValueError, match=r"labels\.pkl: no label for 11 patches, first ROIs1158_spring_s2_1_p100\.tif"):
        opened(archive, shares={})
    put_table(archive, {s2_name(f"{se}_{sc}_{p}"): fractions()[:5] for se, sc in SCENES for p in (30, 100)})
    with pytest.raises(ValueError, match=r"labels\.pkl: \(5,\) values a patch, expected 17"):
        opened(archive, shares={})


class Evil:
    def __reduce__(self):
        return os.system, ("touch {}",)


def test_a_malicious_pickle_is_refused_and_runs_nothing(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    called = []
    monkeypatch.setattr(os, "system", called.append)
    for evil in (Evil(), {"a": Evil()}, np.array([Evil()], object)):
        path = put_table(archive, {"a": evil})
        with pytest.raises(
            ValueError, match=r"labels\.pkl: refused or damaged \(it holds .*(no array, number|no plain numbers)"
        ):
            opened(archive)
    for global_ in (
        b"cbuiltins\neval\n",
        b"cnumpy.testing._private.utils\nruncommand\n",
        b"cnumpy\nload\n",
        b"c_codecs\nlookup\n",
    ):
        path.write_bytes(global_ + b"(S'1'\ntR.")
        with pytest.raises(ValueError, match="refused or damaged"):
            read_pickle(path, dict)
    assert called == []


def test_damaged_pickles_are_named(tmp_path):
    whole = pickle.dumps({"a": fractions()})
    path = tmp_path / "labels.pkl"
    for content in (b"", whole[:40], whole[:-1], b"no pickle at all", whole[20:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"labels\.pkl: (refused or damaged|holds a)"):
            read_pickle(path, dict)
    path.write_bytes(pickle.dumps(["a"]))
    with pytest.raises(ValueError, match=r"labels\.pkl: holds a list, expected a dict"):
        read_pickle(path, dict)
