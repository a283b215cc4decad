"""SpaceNet 6: radar and optical tiles of Rotterdam at half a metre, with footprints of buildings.

On disk: ``train/AOI_11_Rotterdam/{SAR-Intensity,PS-RGBNIR,geojson_buildings}/SN6_Train_AOI_11_Rotterdam_<kind>_<strip>
_tile_<n>.{tif,geojson}``, and ``SummaryData/SAR_orientations.txt`` beside these folders (s3://spacenet-dataset).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.features import bounds, rasterize
from rasterio.warp import transform_geom

from fmlib.data.folders import Folders
from fmlib.data.sample import Raw, to_sample
from fmlib.modality import Modality

SPLITS = ("train", "validation", "test")
BORDERS = (
    594_370.0,
    595_310.0,
)  # eastings in metres; the eastern one is that of CosmiQ's baseline, a fifth of the area
ORIENTATIONS = "SummaryData/SAR_orientations.txt"
NORTH, SOUTH = "0", "1"  # in it: where radar looked from


class SpaceNet6:
    """Tiles with both sensors and their buildings.

    A sample is ``{"sar": (4, 900, 900), "optical": (4, 900, 900), "label": (900, 900) uint8, "valid": (900, 900) bool,
    "id": "20190804111224_20190804111453_8679", "place": "593E_5747N", "lonlat": (2,)}``. Labels are 0 background and 1
    building, where the middle of a pixel lies inside a footprint. A place is a kilometre square.

    Splits are strips of the map from west to east, cut from the published training tiles, since the published test has
    radar alone. A tile that reaches over a border between strips is in none, so no two splits share ground.

    Args:
        root: folder that holds the unpacked archive.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        modalities: ``sar``, ``optical`` or both.
        classes: names of labels 0 and 1.
        paths: sensor and ``"label"`` → pattern, or several, as for `Folders`; fields ``{strip}`` and ``{tile}``.
        borders: eastings where validation and test begin, in metres.
        turn: turn tiles that radar saw from the south by 180 degrees, all sensors and the label, so that every roof
            leans the same way.
        size: side of every returned image in pixels, or (rows, cols); None: as they are.
        resample: how images are brought to `size`: ``"nearest"``, ``"bilinear"`` or ``"area"``.
        on_missing: a tile that lacks a file is an ``"error"``; ``"skip"`` leaves it out.
        name: name of the data set.

    Raises:
        FileNotFoundError: no files, or a tile that lacks one.
        ValueError: unknown option; no tile in a split; on reading, a file that does not fit.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        modalities: dict[str, Modality],
        classes: tuple[str, ...],
        paths: dict[str, str | Sequence[str]],
        borders: tuple[float, float] = BORDERS,
        turn: bool = False,
        size: int | tuple[int, int] | None = None,
        resample: str = "nearest",
        on_missing: str = "error",
        name: str = "spacenet6",
    ):
        if split not in SPLITS or on_missing not in ("error", "skip"):
            raise ValueError(f"{name}: split {split!r}, on_missing {on_missing!r}; choose from {SPLITS}, error or skip")
        options = {"size": size, "resample": resample, "on_missing": on_missing, "name": name}
        tiles = Folders(root, "train", modalities, classes, paths, **options)
        grounds = [_ground(next(iter(tiles.files(i).values()))[0]) for i in range(len(tiles))]
        rows = [i for i, ground in enumerate(grounds) if split_of(ground.left, ground.right, borders) == split]
        if not rows:
            west, east = min(ground.left for ground in grounds), max(ground.right for ground in grounds)
            raise ValueError(
                f"{name}: none of {len(tiles):,} tiles in {root} is in {split!r}; they lie from {west:,.0f} to "
                f"{east:,.0f} m east, and validation and test begin at {borders}: change borders"
            )
        self.tiles, self.images = tiles.select(rows), tiles.select(rows, modalities)
        self.places = [_place(grounds[i]) for i in rows]
        self.root, self.split, self.name, self.size, self.resample = Path(root), split, name, size, resample
        self.modalities, self.classes = tiles.modalities, tiles.classes
        self.orientations = read_orientations(self._beside(ORIENTATIONS)) if turn else None

    def _beside(self, name: str) -> Path:
        """A file beside the folders of images."""
        return next(iter(self.tiles.files(0).values()))[0].parent.parent / name

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> dict:
        return to_sample(self.read(index), self.modalities, self.size, self.resample)

    def files(self, index: int) -> dict[str, tuple[Path, ...]]:
        """The files of one tile: one a sensor, and that of its buildings."""
        return self.tiles.files(index)

    def read(self, index: int) -> Raw:
        """One tile as its files store it, with its buildings as a map, turned where that was asked for."""
        raw, files = self.images.read(index), self.files(index)
        (first,), (buildings,) = next(iter(raw.files.values())), files["label"]
        label = rasterise(buildings, first)
        bands, strip = dict(raw.bands), raw.extras["id"].rpartition("_")[0]
        if self.orientations is not None and self._from_south(strip):
            label = np.ascontiguousarray(label[::-1, ::-1])
            bands = {sensor: image[:, ::-1, ::-1] for sensor, image in bands.items()}
        return Raw(bands, {**raw.extras, "place": self.places[index], "label": label}, files, raw.nodata)

    def _from_south(self, strip: str) -> bool:
        if strip not in self.orientations:
            path = self._beside(ORIENTATIONS)
            raise ValueError(f"{path}: strip {strip!r} is not in it; fetch it again, or use turn=False")
        return self.orientations[strip] == SOUTH


def split_of(left: float, right: float, borders: tuple[float, float]) -> str | None:
    """The split of a tile from its western and eastern bound; None where it reaches over a border."""
    first, last = sum(left >= border for border in borders), sum(right > border for border in borders)
    return SPLITS[first] if first == last else None


def read_orientations(path: Path) -> dict[str, str]:
    """Where radar looked from in each strip: "0" the north, "1" the south.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row that is not a strip and 0 or 1.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it says which tiles to turn; fetch it, or use turn=False")
    rows = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if wrong := [row for row in rows if len(row) != 2 or row[1] not in (NORTH, SOUTH)]:
        raise ValueError(f"{path}: {' '.join(wrong[0])!r}, expected a strip and 0 (north) or 1 (south)")
    return dict(rows)


def rasterise(path: Path, raster: Path) -> np.ndarray:
    """Draw polygons of a GeoJSON file on the grid of a raster.

    Args:
        path: the polygons, in the reference system the file names; in the raster's if it names none and they are too
            far out for degrees, which are the standard's default.
        raster: a georeferenced file.

    Returns:
        (rows, cols) uint8, 1 where the middle of a pixel lies inside a polygon.

    Raises:
        ValueError: no GeoJSON, or polygons that lie elsewhere.
    """
    with rasterio.open(raster) as source:
        shape, transform, crs, ground = source.shape, source.transform, source.crs, source.bounds
    shapes, own = read_polygons(path, crs)
    if not shapes:
        return np.zeros(shape, np.uint8)
    if own != crs:
        shapes = [transform_geom(own, crs, polygon) for polygon in shapes]
    boxes = np.array([bounds(polygon) for polygon in shapes])
    west, south, east, north = *boxes[:, :2].min(0), *boxes[:, 2:].max(0)
    if west > ground.right or east < ground.left or south > ground.top or north < ground.bottom:
        raise ValueError(
            f"{path}: its polygons ({own}) lie from {west:.0f} to {east:.0f} east, {raster} from {ground.left:.0f} to "
            f"{ground.right:.0f}: not the same ground; check the pairing and the reference system"
        )
    return rasterize(shapes, out_shape=shape, transform=transform, dtype="uint8")


def read_polygons(path: Path, default: CRS) -> tuple[list[dict], CRS]:
    """Polygons of a GeoJSON file, without empty ones, and their reference system.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: truncated, or no collection of features; an unknown reference system.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
        shapes = [feature["geometry"] for feature in table["features"]]
        shapes = [shape for shape in shapes if shape and shape["coordinates"]]
        named = (table.get("crs") or {}).get("properties", {}).get("name")
        degrees = all(np.abs(bounds(shape)).max() <= 180 for shape in shapes)
        return shapes, CRS.from_user_input(named) if named else CRS.from_epsg(4326) if degrees else default
    except FileNotFoundError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RasterioError) as error:
        raise ValueError(f"{path}: cannot be read as GeoJSON ({error}): truncated? fetch it again") from error


def _ground(path: Path):
    """Bounds of a file, without reading its pixels."""
    try:
        with rasterio.open(path) as source:
            return source.bounds
    except RasterioError as error:
        raise ValueError(f"{path}: cannot be read ({error}): truncated or no GeoTIFF; extract it again") from error


def _place(ground) -> str:
    """The kilometre square of a tile's middle."""
    east, north = (ground.left + ground.right) / 2, (ground.bottom + ground.top) / 2
    return f"{east // 1000:.0f}E_{north // 1000:.0f}N"
