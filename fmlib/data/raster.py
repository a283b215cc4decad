"""Reading single-band GeoTIFFs, and bringing bands of different pixel size onto one grid."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from rasterio.errors import RasterioError

MODES = {"nearest": "nearest-exact", "bilinear": "bilinear"}  # nearest-exact: by pixel centre


class Footprint(NamedTuple):
    """Ground a raster covers: coordinate reference system and bounds in its unit."""

    crs: str
    left: float
    bottom: float
    right: float
    top: float


def read_band(path: str | Path, shape: tuple[int, int], dtype: str) -> tuple[np.ndarray, Footprint]:
    """Read one single-band raster as it is stored.

    Args:
        path: the GeoTIFF.
        shape: (rows, cols) it must have.
        dtype: stored type it must have, e.g. ``"float32"``.

    Returns:
        (rows, cols) array of that type, and the ground it covers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: truncated or not a raster; wrong size, band count or type; values that are not finite; all nodata.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing; extract its archive again")
    try:
        # The folder listing that GDAL makes for side-car files costs more than reading a small band.
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), rasterio.open(path) as source:
            _check_layout(source, path, shape, dtype)
            band, nodata = source.read(1), source.nodata
            footprint = Footprint(str(source.crs), *source.bounds)
    except RasterioError as error:
        raise ValueError(f"{path}: cannot be read ({error}): truncated or no GeoTIFF; extract it again") from error
    _check_values(band, nodata, path)
    return band, footprint


def _check_layout(source, path, shape, dtype) -> None:
    if source.count != 1:
        raise ValueError(f"{path}: {source.count} bands, expected a file of one band; split it, or check the layout")
    if source.shape != tuple(shape):
        raise ValueError(f"{path}: {source.shape} pixels, expected {tuple(shape)}; extract it again, uncropped")
    if source.dtypes[0] != dtype:
        hint = "decibels must not be cut to integers" if dtype == "float32" else "no scaling must have been applied"
        raise ValueError(f"{path}: stored as {source.dtypes[0]}, expected {dtype}; {hint}: use the published file")


def _check_values(band, nodata, path) -> None:
    if band.dtype.kind == "f" and not np.isfinite(band).all():
        count = int((~np.isfinite(band)).sum())
        raise ValueError(f"{path}: {count} of {band.size} values are not finite; mask or fill them, or drop the patch")
    if nodata is not None and (band == nodata).all():
        raise ValueError(f"{path}: every value is nodata ({nodata:g}); drop the patch")


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


def resample(band: np.ndarray, size: int | tuple[int, int], method: str = "nearest") -> np.ndarray:
    """Bring a band onto a grid of another size over the same ground.

    Pixel centres are aligned, so a band keeps its place on the ground. Bilinear averages when it shrinks.

    Args:
        band: (rows, cols).
        size: side of the wanted grid, or (rows, cols).
        method: ``"nearest"`` (keeps measured values) or ``"bilinear"`` (smooth, lowers the deviation).

    Returns:
        (rows, cols) float32 of the wanted size.

    Raises:
        ValueError: unknown method.
    """
    if method not in MODES:
        raise ValueError(f"resampling method {method!r} is not one of {tuple(MODES)}")
    size = (size, size) if isinstance(size, int) else tuple(size)
    image = torch.from_numpy(band.astype(np.float32))
    if tuple(image.shape) != size:
        smooth = method == "bilinear"
        image = F.interpolate(image[None, None], size=size, mode=MODES[method], antialias=smooth)[0, 0]
    return image.numpy()
