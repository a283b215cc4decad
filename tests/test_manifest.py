import re
import subprocess
import sys

import pytest

from fmlib import manifest as module
from fmlib.manifest import list_manifests, load_manifest

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")


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


@pytest.mark.parametrize("name", list_manifests())
def test_every_manifest_is_whole(name):
    manifest = load_manifest(name)
    assert manifest.name == name
    assert set(manifest.splits) == {"train", "validation", "test"}
    assert len(set(manifest.classes)) == len(manifest.classes) >= 2
    assert manifest.traps
    assert all((manifest.home, manifest.licence, manifest.terms, manifest.citation))
    for sensor, modality in manifest.sensors.items():
        assert modality.name == sensor
        assert manifest.statistics[sensor]
        low, high = modality.valid_range
        assert all(low < mean < high for mean in modality.mean)
    for entry in manifest.files:
        assert re.fullmatch("[0-9a-f]{32}", entry["md5"])
        assert entry["url"].endswith(entry["path"])


def test_the_three_data_sets_are_described():
    assert {"bigearthnet-v2", "ombria", "synthetic"} <= set(list_manifests())


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
    with pytest.raises(ValueError, match=r"no data set 'ombra'.*bigearthnet-v2, ombria, synthetic"):
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
        ("files = []", 'files = [{path = "a", url = "b"}]', r"files: missing \['md5'\]"),
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


def test_needs_only_numpy_and_the_standard_library():
    code = (
        "import sys, fmlib.manifest; print(*[m for m in ('torch', 'rasterio', 'pyarrow', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
