import io

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from fmlib.data.pictures import (
    check_descriptions,
    check_grids,
    class_table,
    read_image,
    read_npy,
    read_picture,
    read_sensor,
    to_classes,
)
from fmlib.data.raster import Footprint, Raster
from fmlib.modality import Modality

RNG = np.random.default_rng(0)
GREY, COLOUR = RNG.integers(0, 255, (6, 8), dtype=np.uint8), RNG.integers(0, 255, (6, 8, 3), dtype=np.uint8)


def modality(*bands):
    return Modality("sensor", bands, "digital number", (0, 255), [0] * len(bands), [1] * len(bands))


def write_tif(path, pixels, names=(), transform=None, crs="EPSG:32633"):
    transform = transform or from_origin(500000, 5000000, 10, 10)
    options = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **options) as file:
        file.write(pixels)
        for number, name in enumerate(names, 1):
            if name:
                file.set_band_description(number, name)
    return path


@pytest.mark.parametrize("ending", ["png", "bmp"])
def test_pictures_keep_every_value(tmp_path, ending):
    Image.fromarray(GREY).save(tmp_path / f"grey.{ending}")
    Image.fromarray(COLOUR).save(tmp_path / f"colour.{ending}")
    np.testing.assert_array_equal(read_picture(tmp_path / f"grey.{ending}"), GREY[None])
    np.testing.assert_array_equal(read_picture(tmp_path / f"colour.{ending}", (3,)), COLOUR.transpose(2, 0, 1))


def test_jpeg_and_its_long_ending(tmp_path):
    smooth = np.tile(np.arange(0, 160, 10, np.uint8), (16, 1))
    Image.fromarray(smooth).save(tmp_path / "a.JPEG", quality=95)
    image = read_image(tmp_path / "a.JPEG")
    assert np.abs(image.pixels[0].astype(int) - smooth).max() <= 4
    assert image.footprint.crs == "None"


def test_sixteen_bits_are_kept(tmp_path):
    values = RNG.integers(0, 65535, (6, 8), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    pixels = read_picture(tmp_path / "deep.png")
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels[0], values)


def test_sixteen_bit_colour_is_refused_rather_than_cut(tmp_path):
    with rasterio.open(tmp_path / "deep.png", "w", driver="PNG", width=8, height=6, count=3, dtype="uint16") as file:
        file.write(RNG.integers(0, 65535, (3, 6, 8), dtype=np.uint16))
    with pytest.raises(ValueError, match=r"deep\.png: 16-bit colour.*save it as GeoTIFF or NPY"):
        read_picture(tmp_path / "deep.png", (3,))


def test_grey_is_repeated_and_equal_channels_serve_one_band(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    Image.fromarray(np.repeat(GREY[..., None], 3, 2)).save(tmp_path / "equal.png")
    Image.fromarray(COLOUR).save(tmp_path / "colour.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png", (3,)), np.repeat(GREY[None], 3, 0))
    np.testing.assert_array_equal(read_picture(tmp_path / "equal.png", (1,)), GREY[None])
    with pytest.raises(ValueError, match=r"colour\.png: 3 bands, expected 1"):
        read_picture(tmp_path / "colour.png", (1,))


def test_alpha_must_be_opaque(tmp_path):
    opaque = np.dstack([COLOUR, np.full((6, 8), 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "opaque.png", (3,)), COLOUR.transpose(2, 0, 1))
    opaque[0, 0, 3] = 0
    Image.fromarray(opaque).save(tmp_path / "holes.png")
    with pytest.raises(ValueError, match=r"holes\.png: mode RGBA, partly transparent"):
        read_picture(tmp_path / "holes.png", (3,))


def test_palettes_are_class_codes_but_no_image(tmp_path):
    image = Image.frombytes("P", (8, 6), (GREY % 4).tobytes())
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "p.png")
    with pytest.raises(ValueError, match=r"p\.png: mode P \(palette\); save it as grey \(L\) or RGB"):
        read_picture(tmp_path / "p.png", (3,))
    np.testing.assert_array_equal(read_picture(tmp_path / "p.png", palette=True)[0], GREY % 4)


def test_bilevel_masks_are_0_and_1(tmp_path):
    Image.fromarray(GREY > 100).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "mask.png")[0], (GREY > 100).astype(np.uint8))


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_truncated_pictures_are_named(tmp_path, ending):
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, {"jpg": "jpeg"}.get(ending, ending))
    for part in (10, 40, buffer.tell() // 2):
        (tmp_path / f"cut.{ending}").write_bytes(buffer.getvalue()[:part])
        with pytest.raises(ValueError, match=rf"cut\.{ending}: cannot be read as a picture"):
            read_picture(tmp_path / f"cut.{ending}", (3,))


@pytest.mark.parametrize("shape", [(6, 8, 12), (12, 6, 8)])
def test_npy_is_told_by_its_band_count(tmp_path, shape):
    values = RNG.normal(size=shape).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    expected = values if shape[0] == 12 else values.transpose(2, 0, 1)
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy", (12,)), expected)


def test_npy_of_one_band_or_another_byte_order(tmp_path):
    np.save(tmp_path / "a.npy", GREY.astype(">i4"))
    pixels = read_npy(tmp_path / "a.npy")
    assert pixels.shape == (1, 6, 8)
    assert pixels.dtype == np.int32


def test_npy_that_cannot_be_told_or_trusted_is_refused(tmp_path):
    np.save(tmp_path / "square.npy", np.zeros((3, 5, 3)))
    np.save(tmp_path / "objects.npy", np.array([{}, {}], object), allow_pickle=True)
    np.save(tmp_path / "complex.npy", np.zeros((4, 4), complex))
    np.save(tmp_path / "cut.npy", GREY)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-5])
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "header.npy").write_bytes((tmp_path / "complex.npy").read_bytes().replace(b"}", b"("))
    for name, message in (
        ("square", r"shape \(3, 5, 3\) may be \(C, rows, cols\) or \(rows, cols, C\)"),
        ("objects", "cannot be read as NPY.*allow_pickle"),
        ("complex", r"complex128\[4, 4\], expected real numbers"),
        ("cut", "cannot be read as NPY"),
        ("text", "cannot be read as NPY"),
        ("header", "cannot be read as NPY"),
    ):
        with pytest.raises(ValueError, match=rf"{name}\.npy: {message}"):
            read_npy(tmp_path / f"{name}.npy", (3,))
    np.save(tmp_path / "five.npy", np.zeros((5, 4, 4)))
    with pytest.raises(ValueError, match=r"five\.npy: 5 bands, expected 3; name all bands of the file in file_bands"):
        read_npy(tmp_path / "five.npy", (3,))


def test_other_endings_and_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"a\.gif: files end in one of \.tif"):
        read_image(tmp_path / "a.gif")
    for name in ("a.png", "a.npy", "a.tif"):
        with pytest.raises(FileNotFoundError, match=rf"{name}"):
            read_image(tmp_path / name)


def test_bands_are_picked_by_name(tmp_path):
    pixels = np.arange(4, dtype=np.int16)[:, None, None].repeat(3, 1).repeat(3, 2)
    path = write_tif(tmp_path / "a.tif", pixels)
    picked = read_sensor(path, modality("B11", "B02"), ("B02", "B08", "B10", "B11")).pixels
    assert picked[:, 0, 0].tolist() == [3, 0]
    with pytest.raises(ValueError, match=r"a\.tif: 4 bands, expected 2; name all bands of the file in file_bands"):
        read_sensor(path, modality("B11", "B02"))
    with pytest.raises(ValueError, match=r"a\.tif: 4 bands, expected 2 or 3"):
        read_sensor(path, modality("B11", "B02"), ("B02", "B08", "B11"))


def test_a_file_with_the_sensors_bands_alone_is_taken_too(tmp_path):
    pixels = np.arange(2, dtype=np.int16)[:, None, None].repeat(3, 1).repeat(3, 2)
    raster = read_sensor(write_tif(tmp_path / "a.tif", pixels), modality("B11", "B02"), ("B02", "B08", "B10", "B11"))
    assert raster.pixels[:, 0, 0].tolist() == [0, 1]
    swapped = read_sensor(tmp_path / "a.tif", modality("VV", "VH"), ("VH", "VV"))
    assert swapped.pixels[:, 0, 0].tolist() == [1, 0]


@pytest.mark.parametrize("said", [("VV", "VH"), ("vv", " vh"), (None, None), ("bands", "bands"), (None, "VH")])
def test_descriptions_that_agree_or_say_nothing_pass(said):
    check_descriptions(said, ("VV", "VH"), "a.tif")


def test_b1_is_b01():
    check_descriptions(("B1", "b8a", "B11"), ("B01", "B8A", "B11"), "a.tif")


@pytest.mark.parametrize("said", [("VH", "VV"), ("HH", "HV"), (None, "VV"), ("VV", "angle")])
def test_descriptions_that_contradict_are_an_error(tmp_path, said):
    path = write_tif(tmp_path / "a.tif", np.zeros((2, 3, 3), np.float32), said)
    with pytest.raises(ValueError, match=r"a\.tif: band [12] is described as .*, expected 'V.' .*in file_bands"):
        read_sensor(path, modality("VV", "VH"))


def raster(rows, cols, left=0.0, side=10.0, crs="EPSG:32633"):
    return Raster(np.zeros((1, rows, cols)), None, (None,), Footprint(crs, left, 0, left + side * cols, side * rows))


def test_ground_must_agree_to_half_the_finest_pixel():
    check_grids({"a": raster(60, 60, 4.9), "b": raster(30, 30, side=20)})
    with pytest.raises(ValueError, match=r"b covers .*but a covers .*5\.1 apart"):
        check_grids({"a": raster(60, 60, 5.1), "b": raster(30, 30, side=20)})
    with pytest.raises(ValueError, match="b is in EPSG:32634, but a is in EPSG:32633"):
        check_grids({"a": raster(6, 6), "b": raster(6, 6, crs="EPSG:32634")})


def test_tolerance_is_in_the_unit_of_the_coordinates():
    degrees = {"side": 8.98e-5, "crs": "EPSG:4326"}
    check_grids({"a": raster(9, 9, 4e-5, **degrees), "b": raster(9, 9, **degrees)})
    with pytest.raises(ValueError, match="5e-05 apart"):
        check_grids({"a": raster(9, 9, 5e-5, **degrees), "b": raster(9, 9, **degrees)})


def test_plain_pictures_must_have_one_size_unless_one_is_given():
    images = {"a": raster(6, 8, crs="None"), "b": raster(6, 9, crs="None")}
    with pytest.raises(ValueError, match=r"b has 6 × 9 pixels, but a has 6 × 8: .*give a size"):
        check_grids(images)
    check_grids(images, size=6)
    with pytest.raises(ValueError, match="b has 6 × 9 pixels, but a has 6 × 8"):
        check_grids({"a": raster(6, 8), "b": raster(6, 9, crs="None")})


def test_codes_become_classes():
    stored = np.array([[-1, 0], [1, 1]], np.int16)
    assert to_classes(stored, class_table({"-1": 255, "0": 0, "1": 1}, 2), "a").tolist() == [[255, 0], [1, 1]]
    assert to_classes(stored + 1, class_table(None, 3), "a").dtype == np.uint8
    assert to_classes(np.array([[255, 2]]), class_table(None, 3), "a").tolist() == [[255, 2]]
    assert to_classes(np.array([[70000, 7.0, -99999]]), class_table({"7": 1, "*": 255}, 2), "a").tolist() == [
        [255, 1, 255]
    ]


@pytest.mark.parametrize("code", [3, -1, 70000, 0.5, np.nan])
def test_an_unknown_code_is_named_with_its_file(code):
    with pytest.raises(ValueError, match=rf"lab\.png: code {code} is none of .*label_codes.*\"\*\" = 255"):
        to_classes(np.array([[0, code]]), class_table(None, 3), "lab.png")


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ({"water": 1}, "'water' is no whole number"),
        ({"99999": 1}, "'99999' is no whole number from -32768 to 65535"),
        ({"1": 2}, "'1' = 2 is no class: there are 2"),
        ({"*": -1}, "is no class"),
    ],
)
def test_faulty_codes_are_named(codes, message):
    with pytest.raises(ValueError, match=f"label_codes: .*{message}"):
        class_table(codes, 2)
