"""Fusing pictures: no seams, colours and sizes kept, folders that go on, bad files that do not stop them."""

import numpy as np
import pytest
import rasterio
import torch
from fusion_files import picture
from PIL import Image
from rasterio.transform import from_origin
from test_maefuse import build

from fmlib.fuse import fuse_folder, fuse_pair
from fmlib.fuse_strips import Pixels, fuse_strips, ramps
from fmlib.models.maefuse import Fused, luma

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


class Mean(torch.nn.Module):
    """The mean of both lumas, smoothed: a fusion that sees 3 × 3 pixels and so cannot tell a window from an image."""

    released, patch_size = False, (8, 8)

    def __init__(self, smooth: bool = False, img_size: int = 1000, grid: float = 0.0):
        super().__init__()
        self.img_size = (img_size, img_size)
        self.weight, self.smooth, self.grid = torch.nn.Parameter(torch.zeros(())), smooth, grid
        self.seen = []

    def forward(self, images):
        mean = (images["ir"] + images["vi"]) / 2
        self.seen.append(tuple(mean.shape))
        mean = torch.nn.functional.avg_pool2d(mean, 3, 1, 1, count_include_pad=False) if self.smooth else mean
        places = [torch.arange(n) % 8 - 3.5 for n in mean.shape[2:]]  # in each patch: a slope, so that borders show
        return Fused(mean + self.grid * (places[0][:, None] + places[1]), None, {})


def pair(size=(70, 90), dtype=np.uint8, bands=3):
    return picture((1, *size), 1, dtype), picture((bands, *size), 2, dtype)


@pytest.mark.parametrize(("size", "tile", "overlap"), [(100, 32, 8), (100, 33, 0), (7, 3, 2), (64, 32, 16), (1, 5, 2)])
def test_weights_of_windows_sum_to_one(size, tile, overlap):
    total, windows = torch.zeros(size), ramps(size, tile, overlap)
    for where, weight in windows:
        total[where] += weight
        assert len(weight) == min(tile, size)
    assert torch.allclose(total, torch.ones(size))
    assert [where.stop for where, _ in windows][-1] == size
    jumps = [(weight[0], weight[-1]) for _, weight in windows[1:-1]]
    assert all(max(first, last) < 0.5 for first, last in jumps) or overlap == 0


def test_tiles_equal_the_whole_image():
    ir, vi = pair(dtype=np.float32)
    whole = fuse_pair(Mean(), ir, vi)
    for tile, overlap, batch in ((32, 8, 1), (17, 5, 3), (64, 0, 2), (500, 32, 1)):
        assert np.allclose(fuse_pair(Mean(), ir, vi, tile, overlap, batch), whole, atol=1e-3)


def test_tiles_equal_the_whole_image_away_from_seams():
    """What a window's border spoils has no weight a few pixels inside, and little on the way."""
    ir, vi = (image.astype(np.float32) for image in pair((60, 60)))
    whole, tiled = (fuse_pair(Mean(smooth=True), ir, vi, tile, 12) for tile in (None, 36))
    apart = np.abs(whole - tiled).max(0)
    seam = slice(60 - 36 - 1, 36 + 1)  # rows and columns that two windows share
    outside = np.ones((60, 60), bool)
    outside[seam], outside[:, seam] = False, False
    assert apart[outside].max() < 1e-3
    assert apart.max() < 0.02 * np.ptp(whole)


def test_one_window_is_the_whole_image_of_the_real_network():
    model, (ir, vi) = build(), pair((40, 24))
    assert np.array_equal(fuse_pair(model, ir, vi, tile=64), fuse_pair(model, ir, vi, tile=0))
    assert fuse_pair(model, ir, vi, tile=16, overlap=8, batch=2).shape == vi.shape


def test_passes_take_away_the_grid_of_patches_and_nothing_else():
    ir, vi = (40 + image.astype(np.float32) / 2 for image in pair((64, 90)))
    without = fuse_pair(Mean(), ir, vi)
    left = [np.abs(fuse_pair(Mean(grid=2), ir, vi, passes=n) - without).max() for n in (1, 2, 4, 8)]
    assert left == pytest.approx([14, 6, 2, 0], abs=1e-3)
    for options in ({"passes": 3}, {"passes": 2, "tile": 24, "overlap": 8, "batch": 2}):
        assert np.allclose(fuse_pair(Mean(), ir, vi, **options), without, atol=1e-3)
    assert fuse_pair(build(), *pair((5, 3)), passes=2).shape == (3, 5, 3)


def test_windows_are_of_the_training_size_by_default():
    model, (ir, vi) = Mean(img_size=32), pair((70, 90))
    fuse_pair(model, ir, vi, overlap=8)
    assert set(model.seen) == {(1, 1, 32, 32)}
    fuse_pair(model, ir, vi, tile=0)
    assert model.seen[-1] == (1, 1, 70, 90)


def test_windows_have_a_size_of_their_own_and_rows_come_out_in_order():
    """Memory: no more than a window goes through the network, and no more than a strip of windows is held."""
    model, height = Mean(), 1000
    ir, vi = Pixels(np.zeros((height, 40), np.uint8), "ir"), Pixels(np.full((height, 40), 200, np.uint8), "vi")
    tops, rows = zip(*((top, strip.shape[1]) for top, strip in fuse_strips(model, ir, vi, 32, 8)), strict=True)
    assert set(model.seen) == {(1, 1, 32, 32)}
    assert max(rows) <= 32
    assert list(tops) == [sum(rows[:i]) for i in range(len(rows))]
    assert sum(rows) == height


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(50, 40), (1, 50, 40), (3, 50, 40)])
def test_a_visible_image_whose_luma_stays_comes_back_as_it_was(dtype, shape):
    vi = picture(shape, 3, dtype)
    ir = luma(torch.from_numpy(vi.astype(np.float32)).reshape(1, -1, 50, 40))[0, 0].numpy().astype(dtype)
    back = fuse_pair(Mean(), ir, vi)
    assert back.dtype == dtype
    assert back.shape == shape
    assert np.abs(back.astype(float) - vi).max() <= 1  # the infrared was cut to whole numbers


def test_colour_stays_and_luma_is_the_fused_one():
    ir, vi = (np.clip(image, 100, 150).astype(np.float32) for image in pair())
    fused = fuse_pair(Mean(), ir, vi)
    before, after = (luma(torch.from_numpy(image)[None])[0].numpy() for image in (vi, fused))
    assert np.allclose(after, (before + ir) / 2, atol=1e-3)
    assert np.allclose(fused - after, vi - before, atol=1e-3)  # Cb and Cr are multiples of B − Y and R − Y


def test_depths_may_differ():
    ir, vi = pair()
    deep = fuse_pair(Mean(), ir.astype(np.uint16) * 257, vi)
    assert np.array_equal(deep, fuse_pair(Mean(), ir, vi))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 3)])
def test_smallest_sizes(size):
    ir, vi = pair(size)
    for tile in (None, 0, 2):
        assert fuse_pair(build(), ir, vi, tile, overlap=1).shape == (3, *size)


def test_released_weights_go_the_released_way():
    """Squeezed to the training size and back: colours blur, sizes do not count, and pixels are cut, not rounded."""
    model, (ir, vi) = build(released=True), pair((70, 50))
    vi[:, ::2] = 255 - vi[:, ::2]  # stripes too fine for 32 pixels
    fused = fuse_pair(model, ir, vi)
    assert (fused.dtype, fused.shape) == (np.uint8, vi.shape)
    rows = np.abs(np.diff(fused.astype(int), axis=1)).mean()
    assert rows < 0.3 * np.abs(np.diff(vi.astype(int), axis=1)).mean()
    model.decoder.head.weight.data.zero_()
    model.decoder.head.bias.data.fill_((100.9 - 127.5) / 60)  # a picture that is 100.9 everywhere
    grey = np.full((70, 50), 128, np.uint8)
    assert (fuse_pair(model, grey, grey) == 100).all()
    assert (fuse_pair(model, grey, grey, tile=32, overlap=8) == 101).all()  # our own way, with the same weights


def test_bad_arrays_are_named():
    ir, vi = pair()
    cases = {
        "infrared of 70 × 89 pixels and visible of 70 × 90 pixels": (ir[..., :-1], vi, {}),
        r"visible: shape \(70, 90, 3\); expected \(H, W\), \(1, H, W\) or": (ir, vi.transpose(1, 2, 0), {}),
        "visible: float64 values; expected uint8": (ir, vi.astype(float), {}),
        "values from 0 to .*; scale floats": (ir, vi.astype(np.float32) * 10, {}),
        "infrared: values from nan": (np.full((1, 70, 90), np.nan, np.float32), vi, {}),
        "windows of 16 pixels cannot overlap by 16": (ir, vi, {"tile": 16, "overlap": 16}),
        "windows of -3 pixels": (ir, vi, {"tile": -3}),
        "passes is 0; each window is fused once or more": (ir, vi, {"passes": 0}),
    }
    for message, (a, b, options) in cases.items():
        with pytest.raises(ValueError, match=message):
            fuse_pair(Mean(), a, b, **options)


# -- files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    """Two folders of three pairs, a damaged one, one without partner, one of two sizes."""
    ir, vi = tmp_path / "ir", tmp_path / "vi"
    for folder, bands in ((ir, 1), (vi, 3)):
        folder.mkdir()
        for i, name in enumerate(("a.png", "b.jpg", "c.bmp", "damaged.png", "sizes.png")):
            pixels = picture((bands, 40, 33 + (bands == 3 and name == "sizes.png")), i).transpose(1, 2, 0)
            Image.fromarray(pixels.squeeze()).save(folder / name)
    (vi / "damaged.png").write_bytes((vi / "damaged.png").read_bytes()[:200])
    (ir / "alone.png").write_bytes((ir / "a.png").read_bytes())
    (vi / "notes.txt").write_text("no picture")
    return ir, vi, tmp_path / "out"


def test_a_folder_goes_through_and_names_what_failed(folders):
    ir, vi, out = folders
    model = build()
    report = fuse_folder(ir, vi, out, model)
    assert [path.name for path in report.fused] == ["a.png", "b.png", "c.png"]
    assert set(report.failed) == {"alone", "damaged", "sizes"}
    assert "alone" in report.failed["alone"]
    assert "damaged.png: cannot be read as a picture" in report.failed["damaged"]
    assert "sizes.png of 40 × 33 pixels and" in report.failed["sizes"]
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "c.png", "fused_by.json"]  # and no parts
    read = {name: np.asarray(Image.open(folder / "a.png")) for name, folder in (("ir", ir), ("vi", vi))}
    expected = fuse_pair(model, read["ir"], read["vi"].transpose(2, 0, 1)).transpose(1, 2, 0)
    assert np.array_equal(np.asarray(Image.open(out / "a.png")), expected)


def test_a_second_call_goes_on(folders):
    ir, vi, out = folders
    fuse_folder(ir, vi, out, build())
    (out / "b.png").unlink()
    before = (out / "a.png").stat().st_mtime_ns
    report = fuse_folder(ir, vi, out, build())
    assert ([path.name for path in report.fused], [path.name for path in report.kept]) == (
        ["b.png"],
        ["a.png", "c.png"],
    )
    assert (out / "a.png").stat().st_mtime_ns == before


def test_results_of_other_weights_are_not_taken_for_these(folders):
    ir, vi, out = folders
    model = build()
    fuse_folder(ir, vi, out, model)
    with torch.no_grad():
        next(model.parameters()).add_(0.5)
    with pytest.raises(ValueError, match="out holds 3 pictures fused with other weights; choose another folder or"):
        fuse_folder(ir, vi, out, model)
    with pytest.raises(ValueError, match="fused with other weights, tile, overlap;"):
        fuse_folder(ir, vi, out, model, tile=16, overlap=4)
    (out / "fused_by.json").unlink()
    with pytest.raises(ValueError, match="fused with unknown weights"):
        fuse_folder(ir, vi, out, model)
    one = ir / "a.png", vi / "a.png", out
    assert fuse_folder(*one, model).fused == [out / "a.png"]  # of two files, the result is always made anew


def test_two_files_make_one(folders, tmp_path):
    ir, vi, out = folders
    assert fuse_folder(ir / "a.png", vi / "a.png", out, build()).fused == [out / "a.png"]
    for name in ("fused.jpg", "fused.npy", "fused.tif"):
        assert fuse_folder(ir / "a.png", vi / "a.png", tmp_path / name, build()).fused == [tmp_path / name]
    assert fuse_folder(ir / "a.png", vi / "a.png", tmp_path / "v1.0", build()).fused == [tmp_path / "v1.0" / "a.png"]
    report = fuse_folder(ir / "a.png", vi / "a.png", tmp_path / "fused.gif", build())
    assert "results end in one of .tif" in report.failed["a"]


def write_tif(path, pixels, left=500_000):
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": pixels.dtype}
    with rasterio.open(path, "w", **profile, crs="EPSG:32633", transform=from_origin(left, 5_000_000, 10, 10)) as out:
        out.write(pixels)


def test_geotiffs_of_16_bits_stay_what_and_where_they_are(tmp_path):
    ir, vi = pair((90, 70), np.uint16)
    write_tif(tmp_path / "ir.tif", ir)
    write_tif(tmp_path / "vi.tif", vi)
    report = fuse_folder(tmp_path / "ir.tif", tmp_path / "vi.tif", tmp_path / "out", build(), tile=32, overlap=8)
    assert report.failed == {}
    with rasterio.open(tmp_path / "out" / "vi.tif") as fused, rasterio.open(tmp_path / "vi.tif") as source:
        assert (fused.crs, fused.transform, fused.dtypes) == (source.crs, source.transform, source.dtypes)
        assert np.array_equal(fused.read(), fuse_pair(build(), ir, vi, tile=32, overlap=8))
    write_tif(tmp_path / "ir.tif", ir, left=600_000)
    report = fuse_folder(tmp_path / "ir.tif", tmp_path / "vi.tif", tmp_path / "out2", build())
    assert "they are not one patch" in report.failed["vi"]


def test_a_16_bit_picture_stays_one(tmp_path):
    ir, vi = picture((30, 30), 1, np.uint16), picture((30, 30), 2, np.uint16)
    for name, pixels in (("ir", ir), ("vi", vi)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    fuse_folder(tmp_path / "ir.png", tmp_path / "vi.png", tmp_path / "fused.png", build())
    with Image.open(tmp_path / "fused.png") as image:
        assert np.array_equal(np.asarray(image).astype(np.uint16), fuse_pair(build(), ir, vi))


def test_bad_folders_are_named(folders, tmp_path):
    ir, vi, out = folders
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="none is not there; give two files, or two folders"):
        fuse_folder(tmp_path / "none", vi, out, build())
    with pytest.raises(ValueError, match="one is a folder, the other is not"):
        fuse_folder(ir / "a.png", vi, out, build())
    with pytest.raises(ValueError, match=r"no file in .* has the same name"):
        fuse_folder(ir, empty, out, build())
    with pytest.raises(ValueError, match=r"a\.png would overwrite its source"):
        fuse_folder(ir, vi, vi, build())
    with pytest.raises(ValueError, match="windows of 16 pixels cannot overlap by 20"):
        fuse_folder(ir, vi, out, build(), tile=16, overlap=20)
    with pytest.raises(FileNotFoundError, match="nowhere is no file"):
        fuse_folder(ir, vi, out, tmp_path / "nowhere")
    Image.new("L", (4, 4)).save(ir / "a.bmp")
    with pytest.raises(ValueError, match=r"a.bmp and .*a.png have one name; keep one"):
        fuse_folder(ir, vi, out, build())
