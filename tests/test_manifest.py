import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fmlib import manifest as module
from fmlib.manifest import list_manifests, load_manifest

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
NAMES = (
    *("bigearthnet-v1", "bigearthnet-v2", "grey", "houston2013", "llvip", "m3fd", "msrs", "ombria", "roadscene"),
    *("sen12ms", "sen12ms-cr", "sen1floods11", "spacenet6", "ssl4eo-s12", "synthetic"),
    *("synthetic-grey", "synthetic-ir", "terramesh", "tno", "vais"),
)
FOLDERS = [name for name in NAMES if load_manifest(name).layout == "folders"]
# sets of which some real files are at hand
HERE = ("msrs", "roadscene", "sen12ms-cr", "sen1floods11", "terramesh", "tno")


@pytest.fixture
def broken(tmp_path, monkeypatch, repo):
    """Writes a changed copy of a manifest and points the reader at it."""

    def write(name, old, new):
        text = (repo / "data_manifests" / f"{name}.toml").read_text(encoding="utf-8")
        assert old in text
        (tmp_path / f"{name}.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
        monkeypatch.setattr(module, "MANIFESTS", tmp_path)
        return name

    return write


def test_every_data_set_is_described():
    assert tuple(list_manifests()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_manifest_is_whole(name):
    manifest = load_manifest(name)
    assert manifest.name == name
    assert manifest.folder == name or manifest.options["sources"]  # windows of other data sets
    assert set(manifest.splits) >= {"train", "validation", "test"}
    assert all(manifest.splits.values())
    assert len(set(manifest.classes)) == len(manifest.classes)
    assert bool(manifest.classes) == (manifest.task not in ("fusion", "none"))
    assert len(manifest.classes) != 1
    assert len(manifest.traps) >= 3
    assert all((manifest.title, manifest.home, manifest.licence, manifest.terms, manifest.citation, manifest.how))
    assert manifest.access in module.ACCESS
    for sensor, modality in manifest.sensors.items():
        assert modality.name == sensor
        assert manifest.statistics[sensor]
        low, high = modality.valid_range
        assert all(low < mean < high for mean in modality.mean)


@pytest.mark.parametrize("name", NAMES)
def test_files_are_addressed_and_checksums_well_formed(name):
    manifest = load_manifest(name)
    paths = [entry["path"] for entry in manifest.files]
    assert len(set(paths)) == len(paths)
    assert all(re.fullmatch("[0-9a-f]{32}", entry.get("md5", 32 * "0")) for entry in manifest.files)
    assert all(re.fullmatch("[0-9a-f]{64}", entry.get("sha256", 64 * "0")) for entry in manifest.files)
    assert all(entry.get("bytes", 1) > 0 for entry in manifest.files)
    urls = [(entry["url"], entry["path"]) for entry in manifest.files if "url" in entry]
    assert all(url.startswith("https://") and url.endswith(Path(path).name) for url, path in urls)
    if manifest.access == "direct":
        assert len(urls) == len(paths) > 0
    if manifest.access == "git":
        assert "Clone https://" in manifest.how


def test_a_checksum_stands_for_one_file():
    sums = [sum_ for name in NAMES for entry in load_manifest(name).files if (sum_ := entry.get("md5"))]
    assert len(set(sums)) == len(sums) > 40


@pytest.mark.parametrize("name", NAMES)
def test_a_number_that_was_not_measured_says_so(name):
    manifest = load_manifest(name)
    for sensor, modality in manifest.sensors.items():
        low, high = modality.valid_range
        placeholder = set(modality.mean) == {(low + high) / 2} and set(modality.std) == {(high - low) / 4}
        assert placeholder == ("placeholder" in manifest.statistics[sensor])
        if placeholder or "far too few" in manifest.statistics[sensor]:
            assert f"fmlib data stats {name}" in manifest.statistics[sensor]


@pytest.mark.parametrize("name", FOLDERS)
def test_options_of_folders_fit_the_rest_of_the_manifest(name):
    manifest = load_manifest(name)
    options, sensors = manifest.options, manifest.sensors
    patterns = {key: [value] if isinstance(value, str) else value for key, value in options["paths"].items()}
    assert set(patterns) == set(sensors) | ({"label"} if manifest.classes else set())
    assert len({len(choices) for choices in patterns.values()}) == 1  # the n-th choices belong together
    for choices in zip(*patterns.values(), strict=True):
        fields = [set(re.findall(r"{(\w+)}", choice)) for choice in choices]
        assert all(found == fields[0] for found in fields)  # else nothing joins
        assert {*options.get("place", [])} <= fields[0]
    for sensor, bands in options.get("file_bands", {}).items():
        assert [band for band in bands if band in sensors[sensor].bands] == list(sensors[sensor].bands)
    for key in ("lists", "shares", "split_folders"):
        assert set(options.get(key, {})) <= set(manifest.splits)
    assert 0 <= sum(options.get("shares", {}).values()) <= 1
    assert set(options.get("label_codes", {}).values()) - {255} <= set(range(len(manifest.classes)))


def _real_files(root, pattern):
    return sorted(root.glob(re.sub(r"{\w+}", "*", pattern)))


@pytest.mark.parametrize("name", HERE)
def test_patterns_find_the_real_files(name, real_data):
    manifest = load_manifest(name)
    if not manifest.root(real_data).is_dir():
        pytest.skip(f"no {name} under {real_data}")
    counts = {}
    for key, patterns in manifest.options["paths"].items():
        choices = [patterns] if isinstance(patterns, str) else patterns
        counts[key] = next((n for choice in choices if (n := len(_real_files(manifest.root(real_data), choice)))), 0)
    assert len(set(counts.values())) == 1
    assert min(counts.values()) >= 1


def _statistics(files):
    from PIL import Image

    pixels = [np.asarray(Image.open(file), np.float64) for file in files]
    flat = np.concatenate([image.reshape(image.shape[0] * image.shape[1], -1) for image in pixels])
    return flat.mean(0), flat.std(0)


@pytest.mark.parametrize(("name", "sensor"), [("tno", "ir"), ("tno", "vi"), ("msrs", "ir"), ("msrs", "vi")])
def test_statistics_called_measured_are_those_of_the_files(name, sensor, real_data):
    manifest = load_manifest(name)
    files = _real_files(manifest.root(real_data), f"{sensor}/{{id}}.png")
    if not files:
        pytest.skip(f"no {name} under {real_data}")
    mean, std = _statistics(files)
    np.testing.assert_allclose(manifest.sensors[sensor].mean, mean, atol=6e-4)
    np.testing.assert_allclose(manifest.sensors[sensor].std, std, atol=6e-4)


def test_statistics_of_houston_are_those_of_its_training_pixels(real_data):
    scipy_io = pytest.importorskip("scipy.io")
    manifest = load_manifest("houston2013")
    root = manifest.root(real_data)
    if not root.is_dir():
        pytest.skip(f"no houston2013 under {real_data}")
    spectra = scipy_io.loadmat(root / "HSI_TrSet.mat")["HSI_TrSet"]  # (2832, 144)
    windows = scipy_io.loadmat(root / "LiDAR_TrSet.mat")["LiDAR_TrSet"].reshape(-1, 21, 49)
    hsi, lidar = manifest.sensors["hsi"], manifest.sensors["lidar"]
    np.testing.assert_allclose([hsi.mean, hsi.std], [spectra.mean(0), spectra.std(0)], atol=6e-6)
    np.testing.assert_allclose([lidar.mean, lidar.std], [windows.mean((0, 2)), windows.std((0, 2))], atol=6e-5)


def test_roadscene_is_tested_on_the_published_list(real_data):
    names = load_manifest("roadscene").options["lists"]["test"]
    assert len(set(names)) == len(names) == 50
    root = load_manifest("roadscene").root(real_data)
    if not root.is_dir():
        pytest.skip(f"no roadscene under {real_data}")
    assert (root / "test50.txt").read_text(encoding="utf-8").split() == names
    for folder in ("cropinfrared", "crop_LR_visible"):
        assert set(names) < {file.stem for file in (root / folder).glob("*.jpg")}


def test_both_versions_of_bigearthnet_agree_in_classes_and_bands():
    one, two = load_manifest("bigearthnet-v1"), load_manifest("bigearthnet-v2")
    assert one.classes == two.classes
    assert {name: sensor.bands for name, sensor in one.sensors.items()} == {
        name: sensor.bands for name, sensor in two.sensors.items()
    }
    assert {name: sensor.groups for name, sensor in one.sensors.items()} == {
        name: sensor.groups for name, sensor in two.sensors.items()
    }
    assert {entry["path"] for entry in one.files} >= {"train.csv", "val.csv", "test.csv"}


def test_sentinel_bands_come_in_one_order_everywhere():
    radar = {name: load_manifest(name).sensors["s1"] for name in NAMES if "s1" in load_manifest(name).sensors}
    assert {name for name, sensor in radar.items() if sensor.bands != ("VV", "VH")} == {"ombria"}  # VV alone
    assert all(sensor.unit == "dB" for name, sensor in radar.items() if name != "ombria")
    for name in ("bigearthnet-v1", "sen12ms", "sen1floods11", "synthetic", "terramesh"):
        assert load_manifest(name).sensors["s2"].bands == BANDS
    for name, sensor in (("sen12ms-cr", "s2"), ("sen12ms-cr", "s2_cloudy"), ("ssl4eo-s12", "s2a")):
        assert load_manifest(name).sensors[sensor].bands == BANDS
    cirrus = load_manifest("ssl4eo-s12").sensors["s2c"].bands
    assert cirrus == (*BANDS[:10], "B10", *BANDS[10:])


def test_sen12ms_has_the_simplified_classes():
    manifest = load_manifest("sen12ms")
    assert manifest.task == "single-label"
    assert len(manifest.classes) == 10
    assert (manifest.classes[0], manifest.classes[5], manifest.classes[9]) == ("Forest", "Croplands", "Water")
    assert manifest.options["file_bands"]["s2"].index("B10") == 10
    assert manifest.sensors["s1"].on_nodata == "mean"


def test_bigearthnet_has_its_bands_and_the_original_class_order():
    manifest = load_manifest("bigearthnet-v2")
    assert manifest.sensors["s1"].bands == ("VV", "VH")
    assert manifest.sensors["s2"].bands == BANDS
    assert [len(group) for group in manifest.sensors["s2"].groups] == [4, 3, 3, 2]
    assert len(manifest.classes) == 19
    assert manifest.classes[7] == "Agro-forestry areas"  # alphabetical order would put it first
    assert manifest.task == "multi-label"


def test_synthetic_scenes_stand_in_for_bigearthnet():
    made, real = load_manifest("synthetic"), load_manifest("bigearthnet-v2")
    assert (made.layout, made.classes, made.task) == (real.layout, real.classes, real.task)
    assert {name: sensor.bands for name, sensor in made.sensors.items()} == {
        name: sensor.bands for name, sensor in real.sensors.items()
    }
    assert made.folder != real.folder


def test_root_follows_the_argument_then_the_environment(tmp_path, monkeypatch):
    manifest = load_manifest("ombria")
    monkeypatch.delenv("FMLIB_DATA", raising=False)
    assert manifest.root().as_posix() == "data/ombria"
    monkeypatch.setenv("FMLIB_DATA", str(tmp_path))
    assert manifest.root() == tmp_path / "ombria"
    assert manifest.root("elsewhere").as_posix() == "elsewhere/ombria"


def test_an_unknown_name_lists_what_exists():
    with pytest.raises(ValueError, match=r"no data set 'ombra'.*bigearthnet-v2,.* ombria,.* synthetic,"):
        load_manifest("ombra")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('licence = "none stated"', 'license = "none stated"', r"missing \['licence'\]"),
        ('task = "segmentation"', 'task = "segmentation"\ncolour = "red"', r"unknown \['colour'\]"),
        ('task = "segmentation"', 'task = "guessing"', "task 'guessing' is not one of"),
        ('name = "ombria"', 'name = "umbria"', "name is 'umbria'"),
        ("std = [52.728]", "", r"sensors.s1: missing \['std'\]"),
        ("std = [52.728]", "std = [52.728]\nsigma = 1", r"sensors.s1: unknown \['sigma'\]"),
        ("std = [52.728]", "std = [52.728, 1]", "2 values of std for 1 bands"),
        ("files = []", 'files = [{url = "a/b"}]', r"files: missing \['path'\]"),
        ("files = []", 'files = [{path = "b", crc = "0"}]', r"files: unknown \['crc'\]"),
        ('title = "OMBRIA"', "title = OMBRIA", "is not valid TOML"),
    ],
)
def test_a_faulty_manifest_is_named_with_its_fault(broken, old, new, message):
    name = broken("ombria", old, new)
    with pytest.raises(ValueError, match=message) as error:
        load_manifest(name)
    assert "ombria.toml" in str(error.value)


def test_the_readme_describes_every_key(repo):
    text = (repo / "data_manifests" / "README.md").read_text(encoding="utf-8")
    described = set(re.findall(r"`(\w+)`", text))
    keys = set(module.Manifest.__dataclass_fields__) | set(module.Modality.__dataclass_fields__)
    assert keys <= described


def test_the_readme_lists_every_data_set_and_layout(repo):
    text = (repo / "data_manifests" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", text.split("## The data sets")[1], re.M))
    assert tuple(sorted(rows)) == NAMES
    layouts = next(line for line in text.splitlines() if line.startswith("| `layout` |"))
    for name in NAMES:
        manifest = load_manifest(name)
        assert rows[name].split(" | ")[-2] == manifest.access
        assert f"`{manifest.layout}`" in layouts


def test_a_file_needs_nothing_but_its_path(broken):
    name = broken("ombria", "files = []", 'files = [{path = "a"}]')
    assert load_manifest(name).files == ({"path": "a"},)


def test_needs_only_numpy_and_the_standard_library():
    code = (
        "import sys, fmlib.manifest; print(*[m for m in ('torch', 'rasterio', 'pyarrow', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
