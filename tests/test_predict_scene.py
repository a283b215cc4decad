import tracemalloc

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from rasters import write

from fmlib.predict_scene import NO_CLASS, predict_scene, read_map

UTM, LEFT, TOP = "EPSG:32615", 500_000.0, 5_000_000.0  # corner that rasters.write gives every file
NAMES = ("grass", "road", "roof", "water")


def scores(images):
    """Scores that depend on every pixel of a window and on its orientation."""
    total = 0
    for image in images.values():
        weights = np.random.default_rng(image.shape[1]).normal(size=(4, *image.shape[1:]))
        total = total + np.einsum("bchw,kchw->bk", image, weights)
    return total


def make(folder, rows=70, cols=90):
    rng = np.random.default_rng(0)
    images = {"hsi": rng.normal(size=(5, rows, cols)).astype(np.float32)}
    images["lidar"] = rng.integers(0, 9, (2, rows, cols)).astype(np.int16)
    for name, pixels in images.items():
        write(folder / f"{name}.tif", pixels, pixel=2.5, crs=UTM)
    return images, {name: folder / f"{name}.tif" for name in images}


def in_one_pass(images, window):
    """The same from windows cut out of the whole scene."""
    reach = window // 2
    padded = {
        name: np.pad(image, ((0, 0), (reach, reach), (reach, reach)), "reflect") for name, image in images.items()
    }
    rows, cols = images["hsi"].shape[1:]
    found = np.empty((rows, cols), np.uint8)
    for row in range(rows):
        cut = {
            name: np.stack([image[:, row : row + window, col : col + window] for col in range(cols)])
            for name, image in padded.items()
        }
        found[row] = scores(cut).argmax(1)
    return found


@pytest.mark.parametrize("window", [1, 7, 11])
@pytest.mark.parametrize("tile", [16, 32, 256])
def test_windows_across_borders_of_tiles_equal_one_pass(tmp_path, window, tile):
    images, files = make(tmp_path)
    out = predict_scene(scores, files, tmp_path / "map.tif", window, tile=tile, batch_size=100)
    np.testing.assert_array_equal(read_map(out)[0], in_one_pass(images, window))


def test_last_tiles_of_one_pixel(tmp_path):
    images, files = make(tmp_path, rows=33, cols=17)
    out = predict_scene(scores, files, tmp_path / "map.tif", tile=16)
    np.testing.assert_array_equal(read_map(out)[0], in_one_pass(images, 7))


def test_georeference_names_and_colours_come_back(tmp_path):
    _, files = make(tmp_path)
    colors = ((0, 205, 0), (255, 0, 0), (216, 191, 216), (0, 255, 255))
    out = predict_scene(scores, files, tmp_path / "maps/map.tif", classes=NAMES, colors=colors)
    with rasterio.open(files["hsi"]) as source, rasterio.open(out) as file:
        assert (file.crs, file.transform, file.shape) == (source.crs, source.transform, source.shape)
        assert (file.count, file.dtypes, file.nodata) == (1, ("uint8",), NO_CLASS)
        assert file.colormap(1)[NO_CLASS] == (0, 0, 0, 0)
    assert read_map(out)[1:] == (NAMES, colors)
    assert [path.name for path in out.parent.iterdir()] == ["map.tif"]
    predict_scene(scores, files, out, classes=NAMES)
    assert len(set(read_map(out)[2])) == 4  # colours of its own


def test_pixels_without_data_get_no_class_and_touch_no_neighbour(tmp_path):
    images, files = make(tmp_path)
    images["hsi"][:, 20, 30] = np.nan
    images["hsi"][2, 40:44, 50] = np.nan  # one band is enough
    write(files["hsi"], images["hsi"], pixel=2.5, crs=UTM)
    seen = []

    def watched(batch):
        seen.append(all(np.isfinite(image).all() for image in batch.values()))
        return scores(batch)

    found = read_map(predict_scene(watched, files, tmp_path / "map.tif", tile=32))[0]
    empty = np.zeros(found.shape, bool)
    empty[20, 30] = empty[40:44, 50] = True
    np.testing.assert_array_equal(found == NO_CLASS, empty)
    assert all(seen)
    window = {name: image[None, :, 17:24, 28:35].astype(np.float32) for name, image in images.items()}  # of (20, 31)
    for image in window.values():
        image[:, :, 3, 2] = image[:, :, 3, 3]  # its left neighbour has no data: the pixel itself stands there
    assert found[20, 31] == scores(window).argmax()


def test_a_nodata_tag_counts(tmp_path):
    _, files = make(tmp_path)
    with rasterio.open(files["lidar"], "r+") as file:
        file.nodata = -1
        pixels = file.read()
        pixels[:, :5] = -1
        file.write(pixels)
    found = read_map(predict_scene(scores, files, tmp_path / "map.tif"))[0]
    assert (found[:5] == NO_CLASS).all()
    assert (found[5:] != NO_CLASS).all()


# -- other grids ----------------------------------------------------------------------------------------------------


def coarse(folder, rows=35, cols=45, left=LEFT, nodata=None):
    """A raster of pixels twice as wide over the scene's ground."""
    pixels = np.random.default_rng(1).normal(size=(2, rows, cols)).astype(np.float32)
    path = folder / "coarse.tif"
    grid = {"crs": UTM, "transform": from_origin(left, TOP, 5.0, 5.0), "nodata": nodata}
    with rasterio.open(path, "w", driver="GTiff", count=2, height=rows, width=cols, dtype="float32", **grid) as file:
        file.write(pixels)
    return pixels, path


def test_another_grid_is_refused_without_a_word(tmp_path):
    _, files = make(tmp_path)
    message = r"coarse\.tif is on another grid than .*hsi\.tif: pixels of \(5\.0, 5\.0\), not \(2\.5, 2\.5\).*bilinear"
    with pytest.raises(ValueError, match=message):
        predict_scene(scores, files | {"dem": coarse(tmp_path)[1]}, tmp_path / "map.tif")
    write(tmp_path / "moved.tif", np.ones((1, 70, 90), np.float32), left=LEFT + 2.5, pixel=2.5, crs=UTM)
    with pytest.raises(ValueError, match=r"moved\.tif is on another grid.*from \(500002\.5, .*, not \(70, 90\)"):
        predict_scene(scores, files | {"dem": tmp_path / "moved.tif"}, tmp_path / "map.tif")
    write(tmp_path / "zone.tif", np.ones((1, 70, 90), np.float32), pixel=2.5, crs="EPSG:32616")
    with pytest.raises(ValueError, match="reference system EPSG:32616, not EPSG:32615"):
        predict_scene(scores, files | {"dem": tmp_path / "zone.tif"}, tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()


@pytest.mark.parametrize("nodata", [None, -99.0])
def test_a_coarser_sensor_is_resampled_when_asked(tmp_path, nodata):
    images, files = make(tmp_path)
    pixels, path = coarse(tmp_path, nodata=nodata)
    fine = pixels.repeat(2, 1).repeat(2, 2)
    out = predict_scene(scores, {**files, "dem": path}, tmp_path / "map.tif", resampling="nearest", tile=32)
    np.testing.assert_array_equal(read_map(out)[0], in_one_pass({**images, "dem": fine}, 7))


@pytest.mark.parametrize("method", ["bilinear", "cubic"])
def test_resampling_leaves_no_seams(tmp_path, method):
    _, files = make(tmp_path)
    files["dem"] = coarse(tmp_path, left=LEFT + 1.3)[1]
    maps = [
        read_map(predict_scene(scores, files, tmp_path / f"{tile}.tif", resampling=method, tile=tile))[0]
        for tile in (16, 256)
    ]
    np.testing.assert_array_equal(*maps)


@pytest.mark.parametrize("nodata", [None, -99.0])
def test_ground_that_a_sensor_does_not_cover_gets_no_class(tmp_path, nodata):
    _, files = make(tmp_path)
    files["dem"] = coarse(tmp_path, cols=20, nodata=nodata)[1]  # 40 of 90 columns
    found = read_map(predict_scene(scores, files, tmp_path / "map.tif", resampling="nearest"))[0]
    assert (found[:, :40] != NO_CLASS).all()
    assert (found[:, 40:] == NO_CLASS).all()


# -- what goes wrong ------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_scene(tmp_path):
    def peak(cols):
        write(tmp_path / "scene.tif", np.zeros((8, 64, cols), np.float32), pixel=2.5, crs=UTM)
        tracemalloc.start()
        predict_scene(
            lambda batch: batch["x"][:, :2, 1, 1], {"x": tmp_path / "scene.tif"}, tmp_path / "map.tif", 3, tile=64
        )
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(64)  # imports and caches
    assert peak(2048) < 1.5 * peak(64)


@pytest.mark.parametrize(
    ("model_fn", "message"),
    [
        (lambda batch: np.ones((len(batch["hsi"]), 3)), r"returned \(2048, 3\) for 2048 windows, expected \(2048, 4\)"),
        (lambda batch: np.ones(len(batch["hsi"])), r"returned \(2048,\)"),
        (lambda batch: np.full((len(batch["hsi"]), 4), np.nan), "finite scores"),
    ],
)
def test_scores_that_do_not_fit_leave_nothing_behind(tmp_path, model_fn, message):
    _, files = make(tmp_path)
    with pytest.raises(ValueError, match=message):
        predict_scene(model_fn, files, tmp_path / "maps/map.tif", classes=NAMES)
    assert not list((tmp_path / "maps").iterdir())


def test_files_and_options_that_do_not_fit_are_named(tmp_path):
    _, files = make(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.tif is missing: it is the raster of 'dem'"):
        predict_scene(scores, {"dem": tmp_path / "none.tif"}, tmp_path / "map.tif")
    (tmp_path / "short.tif").write_bytes(files["hsi"].read_bytes()[:7])
    with pytest.raises(ValueError, match=r"short\.tif: cannot be read"):
        predict_scene(scores, {"dem": tmp_path / "short.tif"}, tmp_path / "map.tif")
    with pytest.raises(ValueError, match="0 rasters, window 4"):
        predict_scene(scores, {}, tmp_path / "map.tif", window=4)
    with pytest.raises(ValueError, match="1 colours for 4 classes"):
        predict_scene(scores, files, tmp_path / "map.tif", classes=NAMES, colors=[(0, 0, 0)])
    with pytest.raises(ValueError, match="resampling 'best' is none of nearest"):
        predict_scene(scores, files | {"dem": coarse(tmp_path)[1]}, tmp_path / "map.tif", resampling="best")
