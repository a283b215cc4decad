"""Houston 2013 as whole images with a map or regions of labels, in every packaging."""

import numpy as np
import pytest
import rasterio
from houston_rows import COLS, IMAGES, LABELS, ROWS, SENSORS, opened, save, write_rows
from rasterio.transform import from_origin

from fmlib.data.houston_files import SCENES, cut_windows
from fmlib.data.houston_roi import clusters_of_map, read_roi


def write_roi(path, labels, npts=None, first=1):
    counts = [int((labels == k).sum()) for k in range(1, 16)]
    lines = ["; ENVI Output of ROIs (4.8)", "; Number of ROIs: 15", "; File Dimension: 70 x 40"]
    for number, count in enumerate(counts):
        lines += [";", f"; ROI name: class {number}", "; ROI rgb value: {0, 205, 0}", f"; ROI npts: {npts or count}"]
    lines += [";    ID     X    Y"]
    for number in range(1, 16):
        points = zip(*np.nonzero(labels == number), strict=True)
        lines += [f"{i:7} {col + first:5} {row + first:5}" for i, (row, col) in enumerate(points, 1)] + [""]
    path.write_text("\r\n".join(lines))


def write_image(path, pixels, driver="GTiff"):
    path.parent.mkdir(parents=True, exist_ok=True)
    size = {"count": len(pixels), "height": ROWS, "width": COLS, "dtype": pixels.dtype}
    grid = {"crs": "EPSG:32615", "transform": from_origin(271_460, 3_290_891, 2.5, 2.5)}
    with rasterio.open(path, "w", driver=driver, **size, **grid) as file:
        file.write(pixels)


DN = np.round(IMAGES["hsi"] * 40000).astype(np.uint16)
DSM = (20 + 30 * IMAGES["lidar"][:1]).astype(np.float32)


@pytest.mark.parametrize(
    "names", [*SCENES, "ENVI"], ids=lambda names: names if isinstance(names, str) else names["hsi"]
)
def test_whole_images_give_the_same_pixels_in_every_packaging(tmp_path, names):
    envi, names = names == "ENVI", SCENES[-2] if names == "ENVI" else names
    for name, pixels in (("hsi", DN), ("lidar", DSM)):
        path = tmp_path / names[name]
        if path.suffix == ".mat":
            save(path, np.moveaxis(pixels, 0, -1).squeeze(), "houston")
        else:
            write_image(path.with_name(path.name + ("" if envi else ".tif")), pixels, "ENVI" if envi else "GTiff")
    label = tmp_path / names["label"]["train"]
    save(label, LABELS) if label.suffix == ".mat" else write_roi(label, LABELS)
    data = opened(tmp_path, scheme="published")
    assert data.modalities["lidar"].bands == ("P21",)
    assert data.modalities["lidar"].mean == SENSORS["lidar"].mean[-1:]
    place, low, high = np.nonzero(LABELS), DN.min((1, 2)).astype(float), DN.max((1, 2)).astype(float)
    stretched = (DN - low[:, None, None]) / (high - low)[:, None, None]
    np.testing.assert_allclose(data.windows["hsi"], cut_windows(stretched, *place, 7), atol=1e-6)
    np.testing.assert_array_equal(data.labels, LABELS[place] - 1)
    np.testing.assert_array_equal(data.clusters, clusters_of_map(LABELS).number)
    assert opened(tmp_path, window=11)[0]["lidar"].shape == (1, 11, 11)


def test_whole_images_and_rows_give_the_same_folds(tmp_path):
    rows = write_rows(tmp_path / "rows")
    for name, pixels in (("HSI", DN), ("LiDAR", DSM)):
        save(tmp_path / f"{name}.mat", np.moveaxis(pixels, 0, -1).squeeze())
    save(tmp_path / "TRLabel.mat", LABELS)
    np.testing.assert_array_equal(opened(rows, "test", seed=2).numbers, opened(tmp_path, "test", seed=2).numbers)


def test_windows_are_reflected_at_the_edge_of_the_image():
    image = np.arange(12).reshape(1, 3, 4)
    window = cut_windows(image, np.array([0]), np.array([3]), 3)[0, 0]
    np.testing.assert_array_equal(window, [[6, 7, 6], [2, 3, 2], [6, 7, 6]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"npts": 3}, r"15 regions of 45 points in its head, \d+ points below; expected 15"),
        ({"first": 9}, "points beyond the image"),
        ({"first": 0}, "points beyond the image"),
    ],
)
def test_regions_of_another_image_are_refused(tmp_path, options, message):
    labels = LABELS.copy()
    labels[0, 0] = 1
    write_roi(tmp_path / "roi.txt", labels, **options)
    with pytest.raises(ValueError, match=message):
        read_roi(tmp_path / "roi.txt", LABELS.shape, 15)


def test_images_that_do_not_fit_are_refused(tmp_path):
    save(tmp_path / "HSI.mat", np.moveaxis(DN, 0, -1))
    save(tmp_path / "LiDAR.mat", DSM[0, :, 1:])
    save(tmp_path / "TRLabel.mat", LABELS)
    with pytest.raises(ValueError, match=r"LiDAR\.mat: \(40, 69\) pixels, but another file of this packaging has"):
        opened(tmp_path)
    save(tmp_path / "LiDAR.mat", np.full((ROWS, COLS), np.nan))
    with pytest.raises(ValueError, match=r"LiDAR\.mat: holds values that are not finite"):
        opened(tmp_path)
    save(tmp_path / "TRLabel.mat", 0 * LABELS)
    with pytest.raises(ValueError, match=r"TRLabel\.mat: no pixel has a label"):
        opened(tmp_path)
    save(tmp_path / "TRLabel.mat", LABELS)
    save(tmp_path / "HSI.mat", np.moveaxis(DN[:100], 0, -1))
    save(tmp_path / "LiDAR.mat", DSM[0])
    with pytest.raises(ValueError, match=r"HSI\.mat: 100 bands, but 'hsi' has 144"):
        opened(tmp_path)
