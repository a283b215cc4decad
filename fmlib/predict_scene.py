"""Classify every pixel of a scene, window by window, into a georeferenced class map; memory does not grow with it."""

import colorsys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import rasterio
from numpy.lib.stride_tricks import sliding_window_view
from rasterio import DatasetReader
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from fmlib.files import write_beside

NO_CLASS = 255  # in the map: where a sensor has no data
TILE = 256  # pixels a side of what is read and written at once; a multiple of 16, as GeoTIFF asks
TAG = "CLASS_{}"  # name of a class in the map's metadata
Model = Callable[[dict[str, np.ndarray]], np.ndarray]


def predict_scene(
    model_fn: Model,
    rasters: dict[str, str | Path],
    out: str | Path,
    window: int = 7,
    classes: Sequence[str] = (),
    colors: Sequence[tuple[int, int, int]] = (),
    resampling: str | None = None,
    batch_size: int = 2048,
    tile: int = TILE,
) -> Path:
    """Classify every pixel of a scene from the window around it, and write the map as a GeoTIFF.

    At the scene's edge windows are reflected. A pixel without data in any sensor gets no class; where only its
    neighbours have none, the pixel itself stands for them.

    Args:
        model_fn: from sensor to (B, C, window, window) float32, stored values, to (B, K) scores; the highest wins.
        rasters: sensor to its file, any number of bands; the first one's grid is the map's.
        out: the map, uint8 with one band, 255 where there is no class.
        window: side in pixels, odd.
        classes: names, in the order of the scores.
        colors: red, green and blue of each class, 0 to 255; default: hues spread evenly.
        resampling: how rasters on another grid are brought to the first one's, ``"nearest"``, ``"bilinear"``,
            ``"cubic"`` or ``"average"``; None refuses them.
        batch_size: windows given to the model at once.
        tile: side of the part that is in memory at once, in pixels, a multiple of 16.

    Returns:
        Path of the map.

    Raises:
        FileNotFoundError: a raster is missing.
        ValueError: no raster, or one that cannot be read or lies on another grid; an even window; scores that do not
            fit the classes.
    """
    if not rasters or window < 1 or window % 2 == 0 or tile < 16 or tile % 16:
        raise ValueError(
            f"predict_scene: {len(rasters)} rasters, window {window}, tile {tile}; give one raster or more, an odd "
            "window and a tile of a multiple of 16"
        )
    with ExitStack() as stack:
        sources = _open(rasters, resampling, stack)
        first = next(iter(sources.values()))
        parts = (
            (part, classify(model_fn, *read_part(sources, part, window // 2), window, batch_size, len(classes)))
            for part in _parts(first.height, first.width, tile)
        )
        return write_map(Path(out), first, parts, classes, colors, tile)


def classify(
    model_fn: Model,
    images: dict[str, np.ndarray],
    valid: np.ndarray,
    window: int = 7,
    batch_size: int = 2048,
    classes: int = 0,
) -> np.ndarray:
    """Classify the pixels of images from the windows around them.

    Args:
        model_fn: as for `predict_scene`.
        images: sensor to (C, rows + window - 1, cols + window - 1), with a margin for the windows.
        valid: of the same size, bool; where all sensors have data.
        window: side in pixels, odd.
        batch_size: windows given to the model at once.
        classes: how many scores are expected; 0: any number.

    Returns:
        (rows, cols) uint8 class numbers, 255 where there are no data.

    Raises:
        ValueError: the model returns another number of scores, or some that are not finite.
    """
    side = (window, window)
    seen = sliding_window_view(valid, side)  # (rows, cols, window, window)
    views = {sensor: sliding_window_view(image, side, axis=(1, 2)) for sensor, image in images.items()}
    rows, cols = np.nonzero(seen[:, :, window // 2, window // 2])
    found = np.full(seen.shape[:2], NO_CLASS, np.uint8)
    for start in range(0, len(rows), batch_size):
        at = rows[start : start + batch_size], cols[start : start + batch_size]
        batch = {sensor: _fill(view[:, *at].swapaxes(0, 1), seen[at]) for sensor, view in views.items()}
        scores = np.asarray(model_fn(batch))
        wanted = classes or (scores.shape[1] if scores.ndim == 2 else 0)
        if scores.shape != (len(at[0]), wanted) or not 0 < wanted <= NO_CLASS or not np.isfinite(scores).all():
            raise ValueError(
                f"model_fn returned {scores.shape} for {len(at[0])} windows, expected {(len(at[0]), classes or 'K')} "
                "finite scores, one a class, at most 255"
            )
        found[at] = scores.argmax(1)
    return found


def _fill(windows: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(B, C, window, window) float32, pixels that have no data replaced by the one in the middle."""
    middle = windows.shape[-1] // 2
    return np.where(seen[:, None], windows, windows[:, :, middle, middle, None, None]).astype(np.float32, copy=False)


# -- reading --------------------------------------------------------------------------------------------------------


def _open(rasters: dict, resampling: str | None, stack: ExitStack) -> dict[str, DatasetReader]:
    """Open rasters on the first one's grid."""
    sources = {}
    for sensor, path in rasters.items():
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} is missing: it is the raster of {sensor!r}")
        try:
            source = stack.enter_context(rasterio.open(path))
        except RasterioError as error:
            raise ValueError(f"{path}: cannot be read ({error}): truncated or no raster; fetch it again") from error
        first = next(iter(sources.values()), source)
        if difference := _difference(source, first):
            source = _regrid(source, first, difference, resampling, stack)
        sources[sensor] = source
    return sources


def _difference(source: DatasetReader, first: DatasetReader) -> str:
    """How the grid of a raster differs from the first one's, in words; empty where it does not."""
    if source.crs != first.crs:
        return f"reference system {source.crs}, not {first.crs}"
    if source.shape == first.shape and source.transform.almost_equals(first.transform, 1e-6 * max(first.res)):
        return ""
    if not np.allclose(source.res, first.res):
        return f"pixels of {source.res}, not {first.res}"
    return f"{source.shape} pixels from {source.bounds[:2]}, not {first.shape} from {first.bounds[:2]}"


def _regrid(
    source: DatasetReader, first: DatasetReader, difference: str, resampling: str | None, stack: ExitStack
) -> WarpedVRT:
    if resampling is None or not (source.crs and first.crs):
        raise ValueError(
            f"{source.name} is on another grid than {first.name}: {difference}; bring both to one, or, if both are "
            "georeferenced, name a resampling, e.g. resampling='bilinear'"
        )
    if resampling not in Resampling.__members__:
        raise ValueError(f"resampling {resampling!r} is none of {', '.join(Resampling.__members__)}")
    grid = {"crs": first.crs, "transform": first.transform, "height": first.height, "width": first.width}
    # NaN, or ground that the source does not cover would read as 0; hardly a tolerance, so that parts meet seamlessly.
    exact = {"nodata": np.nan, "dtype": "float32", "tolerance": 1e-6}
    return stack.enter_context(WarpedVRT(source, resampling=Resampling[resampling], **grid, **exact))


def read_part(sources: dict[str, DatasetReader], part: Window, margin: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Read a part of a scene with a margin, reflected where the scene ends.

    Args:
        sources: sensor to its open raster, all on one grid.
        part: which pixels.
        margin: pixels around them.

    Returns:
        Sensor to (C, rows + 2 · margin, cols + 2 · margin), and where all have data, bool of the same size.
    """
    first = next(iter(sources.values()))
    top, left = max(part.row_off - margin, 0), max(part.col_off - margin, 0)
    bottom = min(part.row_off + part.height + margin, first.height)
    right = min(part.col_off + part.width + margin, first.width)
    around = Window(left, top, right - left, bottom - top)
    rows = top - part.row_off + margin, part.row_off + part.height + margin - bottom
    cols = left - part.col_off + margin, part.col_off + part.width + margin - right
    images, valid = {}, np.ones((around.height, around.width), bool)
    for sensor, source in sources.items():
        image = source.read(window=around)
        valid &= source.read_masks(window=around).all(0) & np.isfinite(image).all(0)
        images[sensor] = np.pad(image, ((0, 0), rows, cols), mode="reflect")
    return images, np.pad(valid, (rows, cols), mode="reflect")


def _parts(height: int, width: int, side: int) -> Iterator[Window]:
    for row in range(0, height, side):
        for col in range(0, width, side):
            yield Window(col, row, min(side, width - col), min(side, height - row))


# -- the map --------------------------------------------------------------------------------------------------------


def write_map(
    out: Path,
    like: DatasetReader,
    parts: Iterator[tuple[Window, np.ndarray]],
    classes: Sequence[str] = (),
    colors: Sequence[tuple[int, int, int]] = (),
    tile: int = TILE,
) -> Path:
    """Write parts of a class map as a GeoTIFF with the grid of another raster, beside its name and then renamed.

    Args:
        out: the map.
        like: the open raster whose grid it has.
        parts: windows, and their (rows, cols) uint8 class numbers.
        classes: names, kept in the band's metadata.
        colors: red, green and blue of each class, 0 to 255; default: hues spread evenly.
        tile: side of a block of the file in pixels, a multiple of 16.

    Raises:
        ValueError: another number of colours than of classes.
    """
    if colors and classes and len(colors) != len(classes):
        raise ValueError(f"{len(colors)} colours for {len(classes)} classes; give one a class, or none")
    colors = colors or _hues(len(classes))
    grid = {"crs": like.crs, "transform": like.transform, "height": like.height, "width": like.width}
    blocks = {"tiled": True, "blockxsize": tile, "blockysize": tile, "compress": "deflate"}

    def write(beside: Path) -> None:
        with rasterio.open(
            beside, "w", driver="GTiff", count=1, dtype="uint8", nodata=NO_CLASS, **grid, **blocks
        ) as file:
            file.update_tags(1, **{TAG.format(number): name for number, name in enumerate(classes)})
            if colors:
                file.write_colormap(1, dict(enumerate(colors)) | {NO_CLASS: (0, 0, 0, 0)})
            for part, found in parts:
                file.write(found, 1, window=part)

    out.parent.mkdir(parents=True, exist_ok=True)
    write_beside(out, write)
    return out


def read_map(path: str | Path) -> tuple[np.ndarray, tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Read a class map written by `predict_scene`.

    Returns:
        (rows, cols) uint8 class numbers, the names of the classes, and their colours, red, green and blue.
    """
    with rasterio.open(path) as file:
        tags = file.tags(1)
        names = tuple(tags[key] for n in range(NO_CLASS) if (key := TAG.format(n)) in tags)
        table = file.colormap(1) if names else {}
        return file.read(1), names, tuple(table[number][:3] for number in range(len(names)))


def _hues(count: int) -> list[tuple[int, int, int]]:
    return [tuple(round(255 * part) for part in colorsys.hsv_to_rgb(n / count, 0.65, 0.9)) for n in range(count)]
