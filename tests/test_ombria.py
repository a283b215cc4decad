import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fmlib.data import choose_dataset, find_datasets, open_dataset
from fmlib.data.ombria import Ombria, image_path, split_blocks
from fmlib.data.statistics import band_statistics
from fmlib.manifest import load_manifest

MANIFEST = load_manifest("ombria")


def save(root, sensor, folder, kind, site, pixels):
    path = image_path(root, sensor, folder, kind, site)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a link to the shared archive
    Image.fromarray(pixels).save(path, compress_level=1)


@pytest.fixture(scope="module")
def shared_archive(tmp_path_factory):
    """Forty training sites and two test sites; every image has a wedge without data in its first 20 columns."""
    root = tmp_path_factory.mktemp("data") / "ombria"
    image = np.random.default_rng(0).integers(1, 255, (256, 256, 4), dtype=np.uint8)
    image[:, :20, 0], image[:, :20, 1:] = 255, 0
    mask = np.where(np.arange(256)[:, None] < 64, 255, 0).repeat(256, 1).astype(np.uint8)
    pixels = {("s1", kind): image[..., 0] for kind in ("before", "after")} | {("s1", "mask"): mask}
    pixels |= {("s2", kind): image[..., 1:] for kind in ("before", "after")}
    for (sensor, kind), values in pixels.items():
        save(root, sensor, "train", kind, "0001", values)
        first = image_path(root, sensor, "train", kind, "0001")
        for number in [*range(2, 41), 51, 52]:
            path = image_path(root, sensor, "test" if number > 50 else "train", kind, f"{number:04}")
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(first, path)
    return root


@pytest.fixture
def archive(shared_archive, tmp_path):
    """A copy of the shared archive that a test may damage."""
    return shutil.copytree(shared_archive, tmp_path / "ombria", copy_function=os.link)


def opened(root, split="train", sensors=MANIFEST.sensors, **options):
    modalities = {name: MANIFEST.sensors.get(name) for name in sensors}
    return Ombria(root, split, modalities, MANIFEST.classes, **options)


def test_a_sample_holds_both_sensors_and_the_flood(archive):
    data = opened(archive, dates=("after",))
    sample = data[0]
    assert sample["s1"].shape == (1, 256, 256)
    assert sample["s2"].shape == (3, 256, 256)
    assert sample["s1"].dtype == sample["s2"].dtype == np.float32
    assert sample["s2"].flags.c_contiguous
    assert sample["id"] == f"train/{sample['place']}/after"
    stored = np.asarray(Image.open(image_path(archive, "s2", "train", "after", sample["place"])))
    np.testing.assert_array_equal(sample["s2"], stored.transpose(2, 0, 1))  # band order B11, B08, B03 is kept
    assert (data.name, data.split, data.classes) == ("ombria", "train", ("dry", "flood"))


def test_labels_exist_after_the_flood_only_and_ignore_the_wedge(archive):
    data = opened(archive)
    before, after = data[0], data[1]
    assert (before["place"], before["id"][-6:], after["id"][-5:]) == (after["place"], "before", "after")
    assert "label" not in before
    assert not after["valid"][:, :20].any()
    assert after["valid"][:, 20:].all()
    assert (after["label"][:, :20] == 255).all()
    assert (after["label"][:64, 20:] == 1).all()
    assert (after["label"][64:, 20:] == 0).all()


def test_one_sensor_alone_keeps_the_wedge(archive):
    sample = opened(archive, sensors=("s1",))[0]
    assert "s2" not in sample
    assert not sample["valid"][:, :20].any()


def test_validation_is_whole_runs_of_training_sites(archive):
    train, validation = opened(archive).sites, opened(archive, "validation").sites
    assert not set(train) & set(validation)
    assert sorted(train + validation) == [f"{n:04}" for n in range(1, 41)]
    numbers = np.array([int(site) for site in validation])
    assert (np.diff(numbers) > 1).sum() <= 1  # two runs at most
    assert opened(archive, "test").sites == ["0051", "0052"]
    assert len(opened(archive, validation=0)) == 80
    assert opened(archive, "validation", seed=1).sites != validation
    assert opened(archive, "validation").sites == validation


def test_split_blocks_holds_back_the_share_asked_for():
    sites = [f"{n:04}" for n in range(439)]
    kept, held_back = split_blocks(sites, 0.15, seed=3)
    assert len(held_back) / 439 == pytest.approx(0.15, abs=0.01)
    assert sorted(kept + held_back) == sites
    with pytest.raises(ValueError, match="share of training sites"):
        split_blocks(sites, 0.9, seed=0)


def test_a_missing_partner_is_named(archive):
    image_path(archive, "s2", "train", "after", "0007").unlink()
    with pytest.raises(FileNotFoundError, match=r"S2_after_0007.png is missing.*1 such sites"):
        opened(archive)


def test_a_folder_without_ombria_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"OmbriaS1.*is missing.*github.com/geodrak/OMBRIA"):
        opened(tmp_path)


def test_empty_folders_are_refused(archive):
    for path in archive.glob("*/test/*/*.png"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="no OMBRIA site"):
        opened(archive, "test")


def test_no_site_left_is_refused(archive):
    with pytest.raises(ValueError, match="leaves none for 'validation'"):
        opened(archive, "validation", validation=0)


@pytest.mark.parametrize(
    ("sensor", "pixels", "message"),
    [
        ("s1", np.ones((128, 256), np.uint8), "128 × 256 pixels, expected 256 × 256"),
        ("s1", np.ones((256, 256, 3), np.uint8), "image mode RGB, expected L"),
        ("s2", np.ones((256, 256), np.uint8), "image mode L, expected RGB"),
        ("s1", np.ones((256, 256), np.uint16), "image mode I;16, expected L"),
        ("s2", np.zeros((256, 256, 3), np.uint8), "all nodata"),
    ],
)
def test_an_image_of_another_kind_is_named(archive, sensor, pixels, message):
    save(archive, sensor, "test", "before", "0051", pixels)
    with pytest.raises(ValueError, match=message) as error:
        opened(archive, "test")[0]
    assert f"{sensor.upper()}_before_0051.png" in str(error.value)


@pytest.mark.parametrize("keep", [0, 20, 3000])
def test_a_truncated_file_is_named(archive, keep):
    path = image_path(archive, "s2", "test", "before", "0051")
    start = path.read_bytes()[:keep]
    path.unlink()
    path.write_bytes(start)
    with pytest.raises(ValueError, match=r"S2_before_0051.png: cannot be read as an image.*fetch it again"):
        opened(archive, "test")[0]


def test_a_mask_with_other_values_is_named(archive):
    save(archive, "s1", "test", "mask", "0051", np.full((256, 256), 7, np.uint8))
    with pytest.raises(ValueError, match=r"S1_mask_0051.png: a flood mask holds 0 and 255, found \[7\]"):
        opened(archive, "test")[1]


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("val", {}, r"split \['val'\]; choose from"),
        ("train", {"dates": ("during",)}, r"dates \['during'\]"),
        ("train", {"dates": ()}, "dates empty"),
        ("train", {"sensors": ("s3",)}, r"sensors \['s3'\]"),
    ],
)
def test_an_unknown_choice_is_named(archive, split, options, message):
    with pytest.raises(ValueError, match=message):
        opened(archive, split, **options)


def test_open_dataset_finds_it_by_name(archive, monkeypatch):
    monkeypatch.setenv("FMLIB_DATA", str(archive.parent))
    data = open_dataset("ombria", "train", sensors=("s2",), dates=("before",))
    assert list(data.modalities) == ["s2"]
    assert find_datasets() == {"ombria": 2 * len(opened(archive).sites)}  # without those held back
    assert choose_dataset(archive.parent) == "ombria"


def test_statistics_leave_the_wedge_out(archive):
    data = opened(archive, validation=0)
    data.sites = data.sites[:3]
    images = np.concatenate([sample["s2"][:, :, 20:].reshape(3, -1) for sample in data], axis=1).astype(np.float64)
    mean, std = band_statistics(data, "s2")
    np.testing.assert_allclose(mean, images.mean(1))
    np.testing.assert_allclose(std, images.std(1))


def test_runs_without_rasterio_and_pyarrow(archive):
    (archive.parent / "bigearthnet-v2").mkdir()  # cannot be read without them, and must not stop the rest
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("rasterio", "pyarrow", "scipy", "matplotlib")))  # None: importing fails
from fmlib.data import choose_dataset, open_dataset
from fmlib.data.batches import preload
print(choose_dataset({str(archive.parent)!r}), len(preload(open_dataset("ombria", "test", {str(archive.parent)!r}))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ombria 4"


# -- the published images --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(real_data):
    if not (real_data / "ombria").is_dir():
        pytest.skip(f"no OMBRIA in {real_data}")
    return real_data / "ombria"


def test_published_images_read_as_the_manifest_says(real):
    data = opened(real, validation=0)
    sites = [int(site) for site in data.sites]
    assert not set(sites) & {int(site) for site in opened(real, "test").sites}
    held_back = opened(real, "validation")
    assert len(held_back.sites) / len(sites) == pytest.approx(0.15, abs=0.01)
    sample = data[2 * sites.index(342) + 1]  # the site with the widest wedge
    assert 1 - sample["valid"].mean() == pytest.approx(0.270, abs=0.001)
    assert (sample["s1"][0][sample["valid"]] == 255).sum() < 64  # what is left is speckle
    assert set(np.unique(sample["label"])) == {0, 1, 255}


def test_published_statistics_stand_in_the_manifest(real):
    data = opened(real, validation=0)
    data.sites = data.sites[::16]  # 28 sites: the spread between sites allows about a tenth of a deviation
    for name, sensor in MANIFEST.sensors.items():
        mean, std = band_statistics(data, name)
        np.testing.assert_allclose(mean, sensor.mean, atol=0.25 * min(sensor.std))
        np.testing.assert_allclose(std, sensor.std, rtol=0.25)
