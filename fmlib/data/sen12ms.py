"""SEN12MS: Sentinel-1 and Sentinel-2 patches of four seasons with land cover from MODIS.

On disk: ``<season>/{s1,s2,lc}_<scene>/<season>_{s1,s2,lc}_<scene>_p<patch>.tif``, e.g. ``ROIs1158_spring/s1_1/…``
(mediatum.ub.tum.de/1474000). Labels and lists of splits are those of github.com/schmitt-muc/SEN12MS.
"""

import pickle
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fmlib.data.folders import Folders
from fmlib.data.sample import Raw, to_sample
from fmlib.modality import Modality

LABELS = ("single", "multi", "map", "none")
COVER = ("label", "LCCS land cover", "LCCS land use", "LCCS surface hydrology")  # bands of the lc files; IGBP is first
NO_CLASS = 255
THRESHOLD = 0.1  # share of a patch from which a class counts as one of several
PROBABILITIES = "IGBP_probability_labels.pkl"
DAMAGED = "ROIs1868_summer_146_202"  # radar unusable; missing from the published training list

# Simplified IGBP (Schmitt and Wu, 2021): class number of each of the 17 codes, counted from 1.
SIMPLIFIED = (0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 5, 7, 8, 9)

# Scenes of the published test list (splits/SEN12MS_holdOutScenes.txt).
HOLD_OUT = {
    "ROIs1158_spring": (15, 17, 63, 97, 124, 146),
    "ROIs1868_summer": (15, 19, 43, 72, 79, 104, 131),
    "ROIs1970_fall": (30, 35, 39, 47, 61, 120, 141, 144),
    "ROIs2017_winter": (32, 64, 107, 135, 146),
}


class Sen12MS:
    """Patches of SEN12MS.

    A sample is ``{"s1": (2, 256, 256), "s2": (12, 256, 256), "label": …, "id": "ROIs1158_spring_1_30", "place":
    "ROIs1158_spring_1", "lonlat": (2,)}``. Labels are shares of the ten simplified IGBP classes, from the toolbox's
    ``IGBP_probability_labels.pkl`` where it is there (in the folder, or in ``labels`` or ``splits`` there), else
    counted in the land-cover file.

    The test split is the published list, ``test_list.txt`` or ``.pkl``, where it is there, else the patches of its 26
    scenes; with ``train_list.txt`` only what it names is used to train. Validation is whole training scenes.

    Args:
        labels: ``"single"`` is the class that covers most (int64), ``"multi"`` a float32 vector of those that cover a
            tenth or more, ``"map"`` the (256, 256) uint8 classes (255: none), ``"none"`` no label.
        lists: split → list; a file of the toolbox's name that is not there is looked for in ``splits``.
        root, split, modalities, classes, paths, file_bands, place, shares, size, resample, on_missing, name: as for
            `Folders`; the path of ``"label"`` leads to the land-cover files.

    Raises:
        FileNotFoundError: no files, or incomplete patches and `on_missing` is ``"error"``.
        ValueError: unknown option; a file, list or label that does not fit.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        modalities: dict[str, Modality],
        classes: tuple[str, ...],
        paths: dict[str, str | Sequence[str]],
        file_bands: dict[str, Sequence[str]] | None = None,
        place: str | Sequence[str] = ("season", "scene"),
        lists: dict[str, str | Sequence[str]] | None = None,
        shares: dict[str, float] | None = None,
        labels: str = "single",
        size: int | tuple[int, int] | None = None,
        resample: str = "nearest",
        on_missing: str = "error",
        name: str = "sen12ms",
    ):
        if labels not in LABELS:
            raise ValueError(f"{name}: labels {labels!r} is not one of {LABELS}")
        if len(classes) != max(SIMPLIFIED) + 1:
            raise ValueError(f"{name}: {len(classes)} classes, expected the 10 of the simplified IGBP scheme")
        self.root, self.labels = Path(root), labels
        published = self.root, ("", "labels", "splits")
        self.probabilities = _first(PROBABILITIES, *published) if labels in ("single", "multi") else None
        uses_cover = labels != "none" and not self.probabilities
        paths = {key: path for key, path in paths.items() if key != "label" or uses_cover}
        file_bands = {**(file_bands or {}), **({"label": COVER} if uses_cover else {})}
        codes = {str(code): number for code, number in enumerate(SIMPLIFIED, 1)} | {"0": NO_CLASS, "255": NO_CLASS}
        lists = find_lists(self.root, lists or {})
        options = {"size": size, "resample": resample, "on_missing": on_missing, "name": name}
        self.folders = Folders(
            root, split, modalities, classes, paths, file_bands, None, lists, shares, place, codes, **options
        )
        self.folders = self.folders.select(np.flatnonzero(self.folders.ids != DAMAGED.encode()))
        self.split, self.name, self.size, self.resample = split, name, size, resample
        self.modalities, self.classes = self.folders.modalities, self.folders.classes
        self.cover = self._published_cover() if self.probabilities else None

    def _published_cover(self) -> np.ndarray:
        """(N, 10) share of each patch that each class covers, from the toolbox's table."""
        table = read_pickle(self.probabilities, dict)
        names = [s2_name(identity.decode()) for identity in self.folders.ids]
        if lacking := [name for name in names if name not in table]:
            raise ValueError(
                f"{self.probabilities}: no label for {len(lacking):,} patches, first {lacking[0]}; fetch the toolbox's "
                "file again, or remove it to count labels in the land-cover files"
            )
        values = [np.asarray(table[name], np.float64) for name in names]
        if wrong := {value.shape for value in values} - {(len(SIMPLIFIED),)}:
            raise ValueError(f"{self.probabilities}: {wrong.pop()} values a patch, expected {len(SIMPLIFIED)}")
        return np.stack(values) @ np.eye(len(self.classes))[list(SIMPLIFIED)]

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> dict:
        return to_sample(self.read(index), self.modalities, self.size, self.resample)

    def files(self, index: int) -> dict[str, tuple[Path, ...]]:
        """The files of one patch: one a sensor, and that of its label."""
        return self.folders.files(index) | ({"label": (self.probabilities,)} if self.probabilities else {})

    def read(self, index: int) -> Raw:
        """One patch as its files store it."""
        raw = self.folders.read(index)
        raw.files.update(self.files(index))
        if self.labels in ("single", "multi") and "label" in raw.files:
            cover = class_cover(raw.extras["label"]) if self.cover is None else self.cover[index]
            raw.extras["label"] = to_label(cover, self.labels)
        return raw


def class_cover(classes: np.ndarray) -> np.ndarray:
    """(10,) share of a (rows, cols) map of class numbers that each class covers."""
    return np.bincount(classes.ravel(), minlength=NO_CLASS + 1)[: max(SIMPLIFIED) + 1] / classes.size


def to_label(cover: np.ndarray, labels: str) -> np.ndarray:
    """The class that covers most, () int64 (255 where there is none), or all of a tenth or more, (10,) float32."""
    if labels == "multi":
        return (cover >= THRESHOLD).astype(np.float32)
    return np.int64(cover.argmax() if cover.any() else NO_CLASS)


def s2_name(identity: str) -> str:
    """Name of a patch's optical file, which the published lists and labels go by."""
    season, scene, patch = identity.rsplit("_", 2)
    return f"{season}_s2_{scene}_p{patch}.tif"


def find_lists(root: Path, lists: dict) -> dict[str, list[str] | str]:
    """Lists of the splits: those given, else the toolbox's where they lie, else for test its scenes."""
    found = dict(lists)
    for split in ("train", "test"):
        names = f"{split}_list.txt", f"{split}_list.pkl"
        if lists.get(split, names[0]) == names[0]:
            folders = ("", "splits", "splits/split_lists_pkl")
            path = _first(names[0], root, folders) or _first(names[1], root, folders)
            found[split] = path and (read_pickle(path, list) if path.suffix == ".pkl" else path)
    scenes = [f"{season}_{scene}" for season, numbers in HOLD_OUT.items() for scene in numbers]
    return {split: names for split, names in {**found, "test": found["test"] or scenes}.items() if names is not None}


def _first(name: str, root: Path, folders: Sequence[str]) -> Path | None:
    return next((path for folder in folders if (path := root / folder / name).is_file()), None)


class _Unpickler(pickle.Unpickler):
    """Reads arrays, numbers, texts, lists and dicts; everything else might run code and is refused."""

    def find_class(self, module: str, name: str):
        try:
            return _ADMITTED[module.split(".")[0], name]
        except KeyError:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, no array, number, text, list or dict") from None


class _Type:
    """Stands in for a pickled NumPy type, whose own way of reading its state can be made to break memory."""

    def __init__(self, text: str, *_):
        if not re.fullmatch("[biuf][1248]", text):
            raise pickle.UnpicklingError(f"it holds values of type {text!r}, which are no plain numbers")
        self.text, self.order = text, "="

    def __setstate__(self, state: tuple):
        if state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"it holds numbers in the byte order {state[1]!r}")
        self.order = state[1]

    def numbers(self, data: bytes | bytearray, shape: tuple[int, ...], order: str) -> np.ndarray:
        """An array from its bytes; their count must fit."""
        if not isinstance(data, bytes | bytearray):
            raise pickle.UnpicklingError("it holds an array without bytes")
        return np.frombuffer(bytes(data), self.order + self.text).reshape(shape, order=order)


class _Array:
    """Stands in for a pickled NumPy array; `numpy.asarray` takes it for one."""

    def __init__(self, *_):
        self.numbers = np.empty(0)  # the state follows

    def __setstate__(self, state: tuple):
        _, shape, kind, fortran, data = state
        self.numbers = kind.numbers(data, shape, "F" if fortran else "C")

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.numbers.astype(dtype or self.numbers.dtype)


_ADMITTED = {  # what pickled arrays call
    ("numpy", "ndarray"): _Array,
    ("numpy", "_reconstruct"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy", "_frombuffer"): lambda data, kind, shape, order: kind.numbers(data, shape, order),
    ("numpy", "scalar"): lambda kind, data: kind.numbers(data, (), "C").item(),
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # how protocol 2 writes bytes
}


def read_pickle(path: Path, kind: type):
    """Read a published pickle without running anything in it; `numpy.asarray` takes its arrays.

    Raises:
        ValueError: it is damaged, holds something else than arrays, numbers, texts, lists and dicts, or is not `kind`.
    """
    try:
        with open(path, "rb") as file:
            value = _Unpickler(file).load()
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"{path}: refused or damaged ({error}); fetch the published file again") from error
    if not isinstance(value, kind):
        raise ValueError(f"{path}: holds a {type(value).__name__}, expected a {kind.__name__}; fetch it again")
    return value
