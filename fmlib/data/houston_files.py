"""Files of Houston 2013 in each of the packagings that circulate, as windows around labelled pixels.

Windows in rows: ``HSI_TrSet.mat``, ``LiDAR_TrSet.mat``, ``TrLabel.mat`` and their ``Te`` partners (MDL-RS). Whole
images as ``.mat``, under one of the names in `SCENES`. The contest's own files: GeoTIFF or ENVI images, with regions of
interest as text.
"""

import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fmlib.data.houston_roi import Clusters, clusters_of_map, clusters_of_windows, neighbours, read_roi
from fmlib.modality import Modality

SIDE = 7  # of the windows that MDL-RS cut out
ROWS = {  # names of a packaging's files: the two sensors', and the labels' of each published part
    "hsi": {"train": "HSI_TrSet.mat", "test": "HSI_TeSet.mat"},
    "lidar": {"train": "LiDAR_TrSet.mat", "test": "LiDAR_TeSet.mat"},
    "label": {"train": "TrLabel.mat", "test": "TeLabel.mat"},
}
CONTEST = "2013_IEEE_GRSS_DF_Contest"
SCENES = tuple(
    {"hsi": hsi, "lidar": lidar, "label": {"train": train, "test": test}}
    for hsi, lidar, train, test in (
        ("HSI.mat", "LiDAR.mat", "TRLabel.mat", "TSLabel.mat"),
        ("HSI.mat", "DSM.mat", "TR.mat", "TE.mat"),
        ("data_HS_HR.mat", "data_DSM_HR.mat", "TrainImage.mat", "TestImage.mat"),
        *(
            tuple(f"{folder}{CONTEST}_{name}" for name in ("CASI", "LiDAR", "Samples_TR.txt", "Samples_VA.txt"))
            for folder in ("", "2013_DFTC/")
        ),
    )
)
IMAGES = (".tif", "", ".img", ".dat")  # endings of the contest's images: GeoTIFF, or ENVI with a .hdr beside it
ELEVATION = "P21"  # the band of the attribute profiles that is the elevation itself


class Pixels(NamedTuple):
    """Labelled pixels: windows (N, C, side, side) float32, classes (N,), clusters, and the files they came from."""

    windows: dict[str, np.ndarray]
    labels: np.ndarray
    clusters: Clusters | None
    files: dict[str, tuple[Path, ...]]


def read_pixels(
    root: Path, part: str, modalities: dict[str, Modality], classes: int, window: int = SIDE
) -> tuple[Pixels, dict[str, Modality]]:
    """Read the labelled pixels of one published part, from whichever packaging is there.

    Args:
        root: the folder.
        part: ``"train"`` or ``"test"``.
        modalities: sensors to read.
        classes: number of classes.
        window: side of the windows in pixels.

    Returns:
        The pixels, and the sensors with the bands that this packaging has.

    Raises:
        FileNotFoundError: no packaging is complete.
        ValueError: a file that does not fit.
    """
    keys = (*modalities, "label")
    rows = {key: root / ROWS[key][part] for key in keys}
    if all(path.is_file() for path in rows.values()):
        return read_rows(rows, modalities, classes, window), dict(modalities)
    for names in SCENES:
        found = {sensor: _find_image(root / names[sensor]) for sensor in modalities}
        found["label"] = root / names["label"][part]
        if all(path.is_file() for path in found.values()):
            return read_scene(found, modalities, classes, window)
    scenes = ([*map(names.get, modalities), names["label"][part]] for names in SCENES)
    expected = "; or ".join(", ".join(names) for names in ([path.name for path in rows.values()], *scenes))
    raise FileNotFoundError(
        f"no {part} pixels of Houston 2013 in {root}: expected {expected}; data_manifests/houston2013.toml says how to "
        "get them"
    )


def _find_image(path: Path) -> Path:
    endings = IMAGES if not path.suffix else ("",)
    return next((found for end in endings if (found := path.with_name(path.name + end)).is_file()), path)


# -- windows in rows ------------------------------------------------------------------------------------------------


def read_rows(files: dict[str, Path], modalities: dict[str, Modality], classes: int, window: int) -> Pixels:
    """Read MDL-RS's rows: a window a pixel, band after band and pixels column by column, or the pixel alone."""
    labels = _class_numbers(read_mat(files["label"]).reshape(-1), classes, files["label"])
    if (labels < 0).any():
        raise ValueError(f"{files['label']}: holds 0, but every row needs a class from 1 to {classes}")
    clusters, windows = _rebuild(files["label"], len(labels)), {}
    for sensor, modality in modalities.items():
        values = _to_windows(files[sensor], len(labels))
        if values.shape[1] != modality.in_chans:
            raise ValueError(
                f"{files[sensor]}: {values[0].size} values a row, expected {modality.in_chans} (a pixel) or "
                f"{modality.in_chans * SIDE**2} (a window of 7 × 7) for {sensor!r}"
            )
        windows[sensor] = _to_side(values, clusters, window, files[sensor]).astype(np.float32)
    return Pixels(windows, labels, clusters, {key: (path,) for key, path in files.items()})


def _to_windows(path: Path, count: int) -> np.ndarray:
    """Rows as (N, C, 7, 7), or (N, C, 1, 1) where they hold the pixel alone."""
    rows = read_mat(path)
    if rows.ndim != 2 or len(rows) != count:
        raise ValueError(f"{path}: {rows.shape} values, but there are {count} labels; take both from one packaging")
    side = 1 if rows.shape[1] % SIDE**2 else SIDE
    return rows.reshape(count, -1, side, side).swapaxes(2, 3)


def _rebuild(label: Path, count: int) -> Clusters | None:
    """Clusters from the windows of LiDAR, else of the other sensor, asked for or not; None without windows."""
    part = next(part for part, name in ROWS["label"].items() if name == label.name)
    for path in (label.with_name(ROWS[sensor][part]) for sensor in ("lidar", "hsi")):
        if path.is_file() and (windows := _to_windows(path, count)).shape[-1] == SIDE:
            return clusters_of_windows(windows, str(path))
    return None


def _to_side(values: np.ndarray, clusters: Clusters | None, window: int, path: Path) -> np.ndarray:
    """Windows of the wanted side: cut, or put together from the cluster's pixels."""
    if window > SIDE:
        raise ValueError(f"{path}: holds windows of 7 × 7 pixels at most, but window={window}; use the whole images")
    if values.shape[-1] >= window:
        cut = (values.shape[-1] - window) // 2
        return values[:, :, cut : cut + window, cut : cut + window]
    if clusters is None:
        raise ValueError(
            f"{path}: holds single pixels, and no file says which are neighbours; add LiDAR_TrSet.mat with windows "
            "(1,029 values a row, from HSI_LiDAR_CNN), or use window=1"
        )
    return np.moveaxis(values[:, :, 0, 0][neighbours(clusters, window)], -1, 1)


# -- whole images ---------------------------------------------------------------------------------------------------


def read_scene(
    files: dict[str, Path], modalities: dict[str, Modality], classes: int, window: int
) -> tuple[Pixels, dict[str, Modality]]:
    """Read labelled pixels of whole images, each band stretched to 0..1."""
    images = {sensor: read_image(files[sensor]) for sensor in modalities}
    shapes = {sensor: image.shape[1:] for sensor, image in images.items()}
    shape = next(iter(shapes.values()))
    path = files["label"]
    labels = read_roi(path, shape, classes) if path.suffix == ".txt" else read_mat(path)
    for key, other in (*shapes.items(), ("label", labels.shape)):
        if other != shape:
            raise ValueError(f"{files[key]}: {other} pixels, but another file of this packaging has {shape}")
    place, windows, sensors = np.nonzero(labels), {}, {}
    for sensor, image in images.items():
        sensors[sensor] = _only_elevation(modalities[sensor]) if len(image) == 1 else modalities[sensor]
        if len(image) != sensors[sensor].in_chans:
            raise ValueError(f"{files[sensor]}: {len(image)} bands, but {sensor!r} has {modalities[sensor].in_chans}")
        windows[sensor] = _stretch(cut_windows(image, *place, window), image)
    numbers = _class_numbers(labels[place], classes, path)
    return Pixels(windows, numbers, clusters_of_map(labels), {key: (path,) for key, path in files.items()}), sensors


def _only_elevation(modality: Modality) -> Modality:
    """The LiDAR sensor of a single elevation image."""
    if ELEVATION not in modality.bands:
        return modality
    (at,) = modality.index(ELEVATION)
    changes = {"mean": modality.mean[at : at + 1], "std": modality.std[at : at + 1], "groups": (), "rgb": ()}
    return modality.replace(bands=(ELEVATION,), **changes)


def cut_windows(image: np.ndarray, rows: np.ndarray, cols: np.ndarray, side: int) -> np.ndarray:
    """Windows around pixels, reflected at the image's edge.

    Args:
        image: (C, rows, cols).
        rows, cols: (N,) the pixels.
        side: of the windows, odd.

    Returns:
        (N, C, side, side).
    """
    down, across = (sliding_window_view(np.pad(np.arange(n), side // 2, mode="reflect"), side) for n in image.shape[1:])
    return image[:, down[rows][:, :, None], across[cols][:, None, :]].swapaxes(0, 1)


def _stretch(windows: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Each band from its lowest to its highest value in the image, as 0..1 float32."""
    low, high = (limit.astype(np.float64)[:, None, None] for limit in (image.min((1, 2)), image.max((1, 2))))
    return ((windows - low) / np.where(high > low, high - low, 1)).astype(np.float32)


def read_image(path: Path) -> np.ndarray:
    """A whole image, (C, rows, cols): GeoTIFF, ENVI, or ``.mat`` of (rows, cols) or (rows, cols, C)."""
    if path.suffix == ".mat":
        array = read_mat(path)
        return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as source:  # lists the folder, unlike read_raster: ENVI's header is a file beside it
            return source.read()
    except RasterioError as error:
        raise ValueError(f"{path}: cannot be read ({error}): truncated, or ENVI without its .hdr; fetch it") from error


def read_mat(path: Path) -> np.ndarray:
    """The array of a MATLAB file: the one called like the file, else its only one.

    Returns:
        The array with MATLAB's axes, two or more.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: MATLAB 7.3, and h5py is not installed.
        ValueError: truncated or no MATLAB file; several arrays, none called like the file.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found = loadmat(path)
    except NotImplementedError:  # MATLAB 7.3, which is HDF5
        found = _read_hdf5(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; fetch it again") from None
    except (OSError, ValueError, TypeError, LookupError, zlib.error, MatReadError) as error:
        raise ValueError(f"{path}: cannot be read as MATLAB ({error}): truncated or no MATLAB; fetch it") from error
    arrays = {key: a for key, a in found.items() if isinstance(a, np.ndarray) and a.dtype.kind in "biuf" and a.ndim > 1}
    if path.stem not in arrays and len(arrays) != 1:
        raise ValueError(f"{path}: holds {sorted(arrays) or 'no array'}, expected one array, or one named {path.stem}")
    return arrays.get(path.stem, next(iter(arrays.values())))


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    try:
        import h5py
    except ModuleNotFoundError as error:
        message = f"{path}: MATLAB 7.3 (HDF5) needs h5py: install it, or save the file again with -v7"
        raise ModuleNotFoundError(message, name="h5py") from error
    try:
        with h5py.File(path) as file:  # MATLAB's axes come in reverse
            return {key: entry[()].T for key, entry in file.items() if isinstance(entry, h5py.Dataset)}
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as MATLAB 7.3 ({error}): truncated; fetch it again") from error


def _class_numbers(stored: np.ndarray, classes: int, path: Path) -> np.ndarray:
    """Class numbers of labels counted from 1; -1 where the label is 0."""
    if wrong := sorted(set(np.unique(stored).tolist()) - set(range(classes + 1))):
        raise ValueError(f"{path}: labels {wrong[:5]}, expected 0 (none) and 1 to {classes}")
    if not stored.size:
        raise ValueError(f"{path}: no pixel has a label; is it the label image of this packaging?")
    return stored.astype(np.int64) - 1
