import json

import numpy as np
import pytest
from rasterio.warp import transform_geom
from rasters import write

from fmlib.data import READERS, open_dataset
from fmlib.data.spacenet6 import BORDERS, SpaceNet6, rasterise, read_orientations, split_of
from fmlib.manifest import load_manifest

MANIFEST = load_manifest("spacenet6")
PATHS = {key: choices[0] for key, choices in MANIFEST.options["paths"].items()}
SIDE, PIXEL, TOP = 30, 15.0, 5_000_000.0  # tiles of 450 m, as published, of fewer pixels
UTM = "EPSG:32631"
STRIPS = ("20190804111224_20190804111453", "20190822070610_20190822070846")


def rectangle(left, rows, cols):
    """A footprint over whole pixels of the tile that begins at `left`."""
    west, east = (left + PIXEL * edge for edge in cols)
    north, south = (TOP - PIXEL * edge for edge in rows)
    ring = [[west, north], [east, north], [east, south], [west, south], [west, north]]
    return {"type": "Polygon", "coordinates": [ring]}


def collection(polygons, crs="urn:ogc:def:crs:EPSG::32631"):
    named = {"crs": {"type": "name", "properties": {"name": crs}}} if crs else {}
    features = [{"type": "Feature", "properties": {}, "geometry": polygon} for polygon in polygons]
    return json.dumps({"type": "FeatureCollection", **named, "features": features})


def write_tile(root, strip, tile, left, polygons=None):
    rng = np.random.default_rng(tile)
    sar = rng.uniform(1, 90, (4, SIDE, SIDE)).astype(np.float32)
    sar[:, :3] = 0  # no data
    optical = rng.integers(1, 1500, (4, SIDE, SIDE)).astype(np.uint16)
    for key, pixels in (("sar", sar), ("optical", optical)):
        path = root / PATHS[key].format(strip=strip, tile=tile)
        write(path, pixels, left=left, pixel=PIXEL, crs=UTM)
    path = root / PATHS["label"].format(strip=strip, tile=tile)
    path.parent.mkdir(parents=True, exist_ok=True)
    polygons = [rectangle(left, (2, 8), (20, 29))] if polygons is None else polygons
    path.write_text(collection(polygons))
    return sar, optical


@pytest.fixture
def tiles(tmp_path):
    """Tiles side by side from west to east, alternately of two strips."""
    root = tmp_path / "spacenet6"
    for tile in range(10):
        write_tile(root, STRIPS[tile % 2], tile, 592_000.0 + 450 * tile)
    path = root / "train/AOI_11_Rotterdam/SummaryData/SAR_orientations.txt"
    path.parent.mkdir()
    path.write_text(f"{STRIPS[0]} 0\n{STRIPS[1]} 1\n")
    return root


def opened(root, split="train", sensors=MANIFEST.sensors, **options):
    modalities = {name: MANIFEST.sensors[name] for name in sensors}
    return SpaceNet6(root, split, modalities, MANIFEST.classes, MANIFEST.options["paths"], **options)


def test_a_sample_holds_both_sensors_and_the_buildings(tiles):
    sar, optical = write_tile(tiles, STRIPS[0], 0, 592_000.0)
    sample = opened(tiles)[0]
    np.testing.assert_array_equal(sample["optical"], optical)
    np.testing.assert_array_equal(sample["sar"][:, 3:], sar[:, 3:])
    assert not sample["valid"][:3].any()
    assert sample["valid"][3:].all()
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[2:8, 20:29] = 1
    np.testing.assert_array_equal(sample["label"], expected)
    assert (sample["id"], sample["place"]) == (f"{STRIPS[0]}_0", "592E_4999N")
    assert sample["lonlat"].shape == (2,)
    files = opened(tiles).files(0)
    assert files.keys() == {"sar", "optical", "label"}
    assert all(path.is_file() for (path,) in files.values())


def test_splits_share_no_ground(tiles):
    grounds = {}
    for split in ("train", "validation", "test"):
        data = opened(tiles, split)
        lefts = [592_000 + 450 * int(data[index]["id"].rpartition("_")[2]) for index in range(len(data))]
        grounds[split] = (min(lefts), max(lefts) + 450)
    assert grounds["train"][1] <= BORDERS[0] <= grounds["validation"][0]
    assert grounds["validation"][1] <= BORDERS[1] <= grounds["test"][0]
    assert split_of(594_000, 594_450, BORDERS) is None
    assert split_of(594_370, 594_820, BORDERS) == "validation"  # begins on the border
    assert split_of(593_920, 594_370, BORDERS) == "train"  # ends on it


def test_tiles_seen_from_the_south_are_turned(tiles):
    plain, turned = opened(tiles), opened(tiles, turn=True)
    for index in (0, len(plain) - 1):  # one of each strip
        steps = {STRIPS[0]: 1, STRIPS[1]: -1}[plain[index]["id"].rpartition("_")[0]]
        for key in ("sar", "optical", "label", "valid"):
            expected = plain[index][key][..., ::steps, ::steps]
            np.testing.assert_array_equal(turned[index][key], expected)
    path = tiles / "train/AOI_11_Rotterdam/SummaryData/SAR_orientations.txt"
    path.write_text(f"{STRIPS[0]} 0\n")
    with pytest.raises(ValueError, match=r"SAR_orientations\.txt: strip '20190822070610_.*' is not in it"):
        opened(tiles, turn=True)[len(plain) - 1]
    path.write_text("strip north\n")
    with pytest.raises(ValueError, match="'strip north', expected a strip and 0"):
        read_orientations(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"SAR_orientations\.txt is missing.*turn=False"):
        opened(tiles, turn=True)


def test_one_sensor_alone_has_the_same_split_and_label(tiles):
    for name in MANIFEST.sensors:
        data = opened(tiles, "validation", sensors=(name,))
        assert len(data) == len(opened(tiles, "validation"))
        assert data[0].keys() >= {name, "label"}
        assert data[0]["label"].sum() == 54


def test_open_dataset_finds_it_by_name(tiles, monkeypatch):
    monkeypatch.setitem(READERS, "spacenet6", ("spacenet6", "SpaceNet6"))
    data = open_dataset("spacenet6", "test", tiles.parent, sensors=("optical",), size=15)
    assert data[0]["optical"].shape == (4, 15, 15)
    assert data[0]["label"].shape == (15, 15)
    (tiles / "train/AOI_11_Rotterdam").rename(tiles / "AOI_11_Rotterdam")  # unpacked one folder higher
    assert len(open_dataset("spacenet6", "test", tiles.parent)) == len(data)


def test_a_missing_partner_is_named(tiles):
    (tiles / PATHS["label"].format(strip=STRIPS[0], tile=2)).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 10 .* not complete.*lacks 'label'"):
        opened(tiles)
    assert len(opened(tiles, on_missing="skip")) == 4
    with pytest.raises(FileNotFoundError, match="no file under"):
        opened(tiles / "elsewhere")


def test_no_tile_in_a_split_is_refused(tiles):
    with pytest.raises(ValueError, match=r"none of 10 tiles .* lie from 592,000 to 596,500 m east.*change borders"):
        opened(tiles, "test", borders=(600_000, 700_000))
    with pytest.raises(ValueError, match="split 'val'"):
        opened(tiles, "val")


# -- footprints -----------------------------------------------------------------------------------------------------


@pytest.fixture
def raster(tmp_path):
    write(tmp_path / "tile.tif", np.ones((1, SIDE, SIDE), np.float32), left=592_000.0, pixel=PIXEL, crs=UTM)
    return tmp_path / "tile.tif"


def test_polygons_in_degrees_are_reprojected(tmp_path, raster):
    polygon, path = rectangle(592_000.0, (2, 8), (20, 29)), tmp_path / "b.geojson"
    path.write_text(collection([polygon]))
    expected = rasterise(path, raster)
    path.write_text(collection([transform_geom(UTM, "EPSG:4326", polygon)], crs=None))
    np.testing.assert_array_equal(rasterise(path, raster), expected)
    path.write_text(collection([transform_geom(UTM, "OGC:CRS84", polygon)], crs="urn:ogc:def:crs:OGC:1.3:CRS84"))
    np.testing.assert_array_equal(rasterise(path, raster), expected)
    path.write_text(collection([polygon], crs=None))  # metres without a name
    np.testing.assert_array_equal(rasterise(path, raster), expected)


def test_holes_several_parts_and_empty_features(tmp_path, raster):
    outer, hole = rectangle(592_000.0, (2, 12), (2, 12)), rectangle(592_000.0, (5, 8), (5, 8))
    other = rectangle(592_000.0, (20, 22), (20, 22))
    several = {
        "type": "MultiPolygon",
        "coordinates": [outer["coordinates"] + hole["coordinates"], other["coordinates"]],
    }
    empty = {"type": "Polygon", "coordinates": []}
    path = tmp_path / "b.geojson"
    path.write_text(collection([several, empty, None]))
    label = rasterise(path, raster)
    assert label.sum() == 100 - 9 + 4
    assert not label[5:8, 5:8].any()
    path.write_text(collection([]))
    assert not rasterise(path, raster).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as GeoJSON .*truncated"),
        ('{"type": "Feature"}', "cannot be read as GeoJSON"),
        ("[1, 2]", "cannot be read as GeoJSON"),
        (collection([rectangle(592_000.0, (2, 8), (2, 8))])[:150], "cannot be read as GeoJSON"),
        (collection([rectangle(592_000.0, (2, 8), (2, 8))], crs="EPSG:0"), "cannot be read as GeoJSON"),
        (collection([rectangle(700_000.0, (2, 8), (2, 8))]), "polygons .* lie from 700030 .*not the same ground"),
    ],
)
def test_footprints_that_do_not_fit_are_named(tmp_path, raster, text, message):
    path = tmp_path / "b.geojson"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        rasterise(path, raster)
    assert "b.geojson" in str(error.value)
