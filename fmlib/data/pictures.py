"""Files of any kind as bands: GeoTIFF, PNG, JPEG, BMP and NPY; their bands by name, their codes as classes."""

import re
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from fmlib.data.raster import Footprint, Raster, check_footprints, read_raster
from fmlib.modality import Modality

GEOTIFF, PICTURES = (".tif", ".tiff"), (".png", ".jpg", ".jpeg", ".bmp")
ENDINGS = (*GEOTIFF, *PICTURES, ".npy")
PLAIN = {"1": 1, "L": 1, "I": 1, "I;16": 1, "I;16B": 1, "RGB": 3}  # Pillow's mode → channels
WITH_ALPHA = {"LA": 1, "RGBA": 3}
BAND = re.compile(r"[HV]{2}|B\d{1,2}A?")  # what looks like the name of a radar or an optical band
LOWEST, HIGHEST = -(2**15), 2**16 - 1  # class codes: everything that 8 or 16 bits can hold
NO_CLASS, UNKNOWN = 255, -1


def read_image(path: Path, channels: tuple[int, ...] = (1,), palette: bool = False) -> Raster:
    """Read all bands of a file in their stored type; the ending says what kind it is.

    Args:
        path: a file with one of `ENDINGS`.
        channels: numbers of bands it may have.
        palette: take the numbers of a palette picture as they are, for class codes.

    Returns:
        The raster; its footprint has the reference system ``"None"`` where the file has none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: truncated, of another kind, or not of that many bands.
    """
    kind = Path(path).suffix.lower()
    if kind in GEOTIFF:
        raster = read_raster(path)
        _expect(path, raster.pixels, channels)
        return raster
    if kind not in ENDINGS:
        raise ValueError(f"{path}: files end in one of {', '.join(ENDINGS)}; convert it")
    pixels = read_npy(path, channels) if kind == ".npy" else read_picture(path, channels, palette)
    rows, cols = pixels.shape[1:]
    return Raster(pixels, None, (None,) * len(pixels), Footprint("None", 0, 0, cols, rows))


def read_picture(path: Path, channels: tuple[int, ...] = (1,), palette: bool = False) -> np.ndarray:
    """Read a PNG, JPEG or BMP of 8 bits, or a grey PNG of 16.

    A grey picture is repeated where three bands are wanted; a colour picture whose three channels are equal serves
    where one is.

    Returns:
        (C, rows, cols) uint8 or uint16, C one of `channels`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: truncated; a palette; alpha that is not opaque; 16-bit colour; not of that many bands.
    """
    try:
        with Image.open(path) as image:
            deep, mode, pixels = "16B" in str(image.tile), image.mode, np.asarray(image)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all that Pillow may raise
        raise ValueError(f"{path}: cannot be read as a picture ({error}): truncated or no picture; fetch it") from error
    pixels = _channels(path, mode, deep, palette, pixels.reshape(*pixels.shape[:2], -1))
    if len(pixels) not in channels and len(pixels) == 1 and 3 in channels:
        return np.repeat(pixels, 3, 0)
    if len(pixels) not in channels and 1 in channels and (pixels == pixels[:1]).all():
        return pixels[:1]
    return _expect(path, pixels, channels)


def _channels(path: Path, mode: str, deep: bool, palette: bool, pixels: np.ndarray) -> np.ndarray:
    """(rows, cols, C) as Pillow gives it to (C, rows, cols), alpha left out."""
    if mode in WITH_ALPHA:
        if (pixels[..., -1] != 255).any():
            raise ValueError(f"{path}: mode {mode}, partly transparent: what lies below is no data; save it without")
        pixels = pixels[..., :-1]
    elif mode not in PLAIN and not (palette and mode == "P"):
        raise ValueError(f"{path}: mode {mode}{' (palette)' if mode == 'P' else ''}; save it as grey (L) or RGB")
    if deep and pixels.shape[-1] == 3:
        raise ValueError(f"{path}: 16-bit colour, which Pillow cuts to 8 bits; save it as GeoTIFF or NPY")
    if mode in ("1", "I"):  # one bit; 16 bits in Pillow before 11
        pixels = pixels.astype(np.uint8 if mode == "1" else np.uint16)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def read_npy(path: Path, channels: tuple[int, ...] = (1,)) -> np.ndarray:
    """Read an array of numbers: (rows, cols), (C, rows, cols) or (rows, cols, C), told apart by the band count.

    Returns:
        (C, rows, cols) of the stored type, C one of `channels`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: truncated, Python objects, not of that many bands, or both ways of reading it fit.
    """
    try:
        with open(path, "rb") as file:
            pixels = npy.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged header may raise anything
        raise ValueError(f"{path}: cannot be read as NPY ({error}); save it again with numpy.save") from error
    if pixels.dtype.kind not in "biuf" or pixels.ndim not in (2, 3) or not pixels.size:
        raise ValueError(f"{path}: {pixels.dtype}{list(pixels.shape)}, expected real numbers (rows, cols) or (C, …)")
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.ndim == 2:
        return _expect(path, pixels[None], channels)
    first, last = pixels.shape[0] in channels, pixels.shape[2] in channels
    if first and last:
        raise ValueError(f"{path}: shape {pixels.shape} may be (C, rows, cols) or (rows, cols, C); crop it to tell")
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if last else _expect(path, pixels, channels)


def _expect(path: Path, pixels: np.ndarray, channels: tuple[int, ...]) -> np.ndarray:
    if len(pixels) not in channels:
        expected = " or ".join(map(str, sorted(set(channels))))
        raise ValueError(
            f"{path}: {len(pixels)} bands, expected {expected}; name all bands of the file in file_bands, or correct "
            "the sensor's bands"
        )
    return pixels


def read_sensor(path: Path, modality: Modality, stored: tuple[str, ...] | None = None) -> Raster:
    """Read one sensor's file, its bands in the sensor's order.

    Args:
        path: the file.
        modality: the sensor.
        stored: names of all bands that its files may hold, in their order; a file with the sensor's bands alone
            is taken too.

    Raises:
        ValueError: another number of bands, or names in the file that contradict; the file and the fix are named.
    """
    choices = [names for names in (stored, modality.bands) if names]
    raster = read_image(path, tuple(map(len, choices)))
    names = next(names for names in choices if len(names) == len(raster.pixels))
    check_descriptions(raster.descriptions, names, path)
    if tuple(names) == modality.bands:
        return raster
    return raster._replace(pixels=raster.pixels[[names.index(band) for band in modality.bands]])


def check_descriptions(descriptions: tuple[str | None, ...], names: tuple[str, ...], path: Path) -> None:
    """Raise if a file calls its bands by other names than it should; descriptions that name no band say nothing."""
    expected = [_plain(name) for name in names]
    said = [_plain(text or "") for text in descriptions]
    if not any(text in expected or BAND.fullmatch(text) for text in said):
        return
    for number, (text, name) in enumerate(zip(said, expected, strict=True)):
        if text and text != name:
            raise ValueError(
                f"{path}: band {number + 1} is described as {descriptions[number]!r}, expected {names[number]!r} of "
                f"{tuple(names)}; give the order of the file ({', '.join(map(str, descriptions))}) in file_bands"
            )


def _plain(name: str) -> str:
    """Upper case, and B1 for B01."""
    return re.sub(r"^B0+(?=\d)", "B", name.strip().upper())


def check_grids(images: dict[str, Raster], size=None) -> None:
    """Raise unless images show the same ground: by their footprints where all have one, else by equal sizes.

    Args:
        images: file path to raster.
        size: that they will be brought to, if any; plain pictures may then differ in size.

    Raises:
        ValueError: another reference system; bounds more than half a pixel apart; another size.
    """
    located = {path: image for path, image in images.items() if image.footprint.crs != "None"}
    if len(located) > 1:
        check_footprints({path: image.footprint for path, image in located.items()}, _half_pixel(located.values()))
    shapes = {image.pixels.shape[1:]: path for path, image in images.items()}
    if len(shapes) > 1 and len(located) < len(images) and size is None:
        (one, first), (two, second), *_ = shapes.items()
        raise ValueError(
            f"{second} has {two[0]} × {two[1]} pixels, but {first} has {one[0]} × {one[1]}: nothing says that they "
            "show the same; check the pairing, or give a size to bring both to"
        )


def _half_pixel(images) -> float:
    """Half of the finest pixel's shorter side, in the unit of the coordinates."""
    sides = []
    for _, left, bottom, right, top in (image.footprint for image in images):
        sides.append((right - left, top - bottom))
    shapes = [image.pixels.shape[:0:-1] for image in images]
    return 0.5 * float((np.abs(sides) / shapes).min())


def class_table(codes: dict[str, int] | None, classes: int) -> np.ndarray:
    """A table from stored code to class number, for `to_classes`.

    Args:
        codes: stored code → class number (255: none); ``"*"`` stands for all others; None: codes are class numbers.
        classes: how many there are; 0: any number is one.

    Returns:
        (65536 + 32768 + 2,) int16: class number, or -1 where a code is unknown; ends stand for all beyond.

    Raises:
        ValueError: a key that is no whole number of 16 bits, or a class number that is none.
    """
    codes = {str(number): number for number in range(classes or NO_CLASS)} | {"255": 255} if codes is None else codes
    table = np.full(HIGHEST - LOWEST + 3, codes.get("*", UNKNOWN), np.int16)
    for code, number in codes.items():
        if code != "*" and not (re.fullmatch(r"-?\d+", code) and LOWEST <= int(code) <= HIGHEST):
            raise ValueError(f"label_codes: {code!r} is no whole number from {LOWEST} to {HIGHEST}, nor '*'")
        if number != NO_CLASS and number not in range(classes or NO_CLASS):
            raise ValueError(f"label_codes: {code!r} = {number} is no class: there are {classes}, counted from 0")
        if code != "*":
            table[int(code) - LOWEST + 1] = number
    return table


def to_classes(stored: np.ndarray, table: np.ndarray, path: Path) -> np.ndarray:
    """Class numbers of stored codes.

    Args:
        stored: (rows, cols) codes.
        table: of `class_table`.
        path: the file, named in the error.

    Returns:
        (rows, cols) uint8; 255 where there is no class.

    Raises:
        ValueError: a code that has no class.
    """
    with np.errstate(invalid="ignore"):  # NaN is no code: found below
        codes = stored.astype(np.int64)
    classes = table[np.clip(codes, LOWEST - 1, HIGHEST + 1) - LOWEST + 1]
    if (wrong := (classes == UNKNOWN) | (codes != stored)).any():
        raise ValueError(
            f"{path}: code {stored[wrong][0]} is none of the known class codes; add it to label_codes (255 for none; "
            '"*" = 255 covers all others)'
        )
    return classes.astype(np.uint8)
