"""Reading GeoTIFFs as they are stored, and where on the ground they lie."""

import math
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.warp import transform

warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)  # plain pictures: their footprint says so


class Footprint(NamedTuple):
    """Ground a raster covers: coordinate reference system and bounds in its unit."""

    crs: str
    left: float
    bottom: float
    right: float
    top: float


class Raster(NamedTuple):
    """A GeoTIFF as it is stored: (C, rows, cols) pixels, nodata tag, names of the bands, and the ground it covers."""

    pixels: np.ndarray
    nodata: float | None
    descriptions: tuple[str | None, ...]
    footprint: Footprint


def read_raster(path: str | Path) -> Raster:
    """Read all bands of a raster in their stored type.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: truncated, or not a raster.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing; fetch or extract it again")
    try:
        # The folder listing that GDAL makes for side-car files costs more than reading a small band.
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), rasterio.open(path) as source:
            footprint = Footprint(str(source.crs), *source.bounds)
            return Raster(source.read(), source.nodata, source.descriptions, footprint)
    except RasterioError as error:
        raise ValueError(f"{path}: cannot be read ({error}): truncated or no GeoTIFF; extract it again") from error


def read_band(path: str | Path, shape: tuple[int, int], dtype: str) -> tuple[np.ndarray, float | None, Footprint]:
    """Read a raster that must be a single band of known size and type.

    Args:
        path: the GeoTIFF.
        shape: (rows, cols) it must have.
        dtype: stored type it must have, e.g. ``"float32"``.

    Returns:
        (rows, cols) array of that type, its nodata tag, and the ground it covers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: truncated or not a raster; wrong size, band count or type.
    """
    pixels, nodata, _, footprint = read_raster(path)
    if len(pixels) != 1:
        raise ValueError(f"{path}: {len(pixels)} bands, expected a file of one band; split it, or check the layout")
    if pixels.shape[1:] != tuple(shape):
        raise ValueError(f"{path}: {pixels.shape[1:]} pixels, expected {tuple(shape)}; extract it again, uncropped")
    if pixels.dtype != dtype:
        hint = "decibels must not be cut to integers" if dtype == "float32" else "no scaling must have been applied"
        raise ValueError(f"{path}: stored as {pixels.dtype}, expected {dtype}; {hint}: use the published file")
    return pixels[0], nodata, footprint


def check_footprints(footprints: dict[str, Footprint], tolerance: float) -> None:
    """Raise unless all rasters cover the same ground.

    Args:
        footprints: file path to `Footprint`.
        tolerance: greatest difference of a bound, in the unit of the coordinates.

    Raises:
        ValueError: two of them differ; both are named.
    """
    (first, expected), *others = footprints.items()
    for path, footprint in others:
        if footprint.crs != expected.crs:
            raise ValueError(
                f"{path} is in {footprint.crs}, but {first} is in {expected.crs}: they are not one patch; "
                "check the pairing, or reproject one of them"
            )
        apart = max(abs(a - b) for a, b in zip(footprint[1:], expected[1:], strict=True))
        if apart > tolerance:
            raise ValueError(
                f"{path} covers {footprint[1:]}, but {first} covers {expected[1:]}, {apart:g} apart: they are not one "
                "patch; check the pairing"
            )


def lonlat(footprint: Footprint) -> np.ndarray:
    """Longitude and latitude of a footprint's centre, (2,) degrees (WGS 84); NaN where it has no reference system."""
    if footprint.crs == "None":
        return np.full(2, np.nan)
    x, y = (footprint.left + footprint.right) / 2, (footprint.bottom + footprint.top) / 2
    return np.concatenate(transform(footprint.crs, "EPSG:4326", [x], [y]))


def tile_origin(tile: str) -> tuple[int, int, int]:
    """EPSG code and north-west corner (x, y in metres) of a Sentinel-2 tile, from its MGRS name, e.g. ``"33UUP"``.

    The corner of the 100 km square, moved outwards to a multiple of 60 m; northern hemisphere.
    """
    zone, band, column, row = int(tile[:2]), *tile[2:]
    east = 1 + ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")[zone % 3].index(column)
    north = ("ABCDEFGHJKLMNPQRSTUV".index(row) - 5 * (zone % 2 == 0)) % 20
    lowest = ("NPQRSTUVWX".index(band) * 8) * 1.106  # of the latitude band, in 100 km
    north += 20 * math.ceil((lowest - north - 1) / 20)
    return 32600 + zone, east * 100_000 // 60 * 60, -(-(north + 1) * 100_000 // 60) * 60
