"""Folders with a file a sensor, found by path patterns: published layouts, and anyone's own data.

A data set's manifest holds the patterns; for data of one's own, `fmlib.data.own` reads them from ten lines of TOML.
"""

import copy
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fmlib.data.paths import SPLIT, Index, assign_splits, find_all, join, read_list
from fmlib.data.pictures import check_grids, class_table, read_image, read_sensor, to_classes
from fmlib.data.raster import lonlat
from fmlib.data.resample import MODES
from fmlib.data.sample import Raw, to_sample
from fmlib.modality import Modality

CODES = ("label", "map")  # what patterns may lead to besides sensors: class codes, (rows, cols)
SPLITS = ("train", "validation", "test")
ON_MISSING = ("error", "skip", "keep")
ALIASES = {"val": "validation", "valid": "validation", "dev": "validation", "training": "train", "testing": "test"}


class Folders:
    """Samples whose sensors each have a file of their own: GeoTIFF, PNG, JPEG, BMP or NPY.

    A sample is each sensor's (C, rows, cols) float32, ``"id"``: the values of the patterns' fields joined by "_",
    ``"place"``, where patterns lead to them ``"label"`` and ``"map"``, (rows, cols) uint8 class numbers (255: none),
    and ``"lonlat"`` where files are georeferenced.

    Args:
        root: the data set's folder.
        split: ``"train"``, ``"validation"``, ``"test"``, or another that `lists` or `split_folders` names.
        modalities: the sensors to read.
        classes: class names, in label order.
        paths: sensor, ``"label"`` or ``"map"`` → pattern, or several, of which the first with any match counts. A field
            in braces matches anything but "/", and samples join on equal fields; ``{split}`` is the split's folder;
            ``*`` matches anything but "/".
        file_bands: sensor → names of all bands that its files hold, in their order. Of a label's or a map's bands the
            first is read.
        split_folders: split → what stands in ``{split}``, where it differs.
        lists: split → a text or CSV file in the data set's folder, or names: of files, without folder and ending, or
            of places. With a list for train, what no list names is in no split.
        shares: split → share of the training places drawn for it, by a hash of their names.
        place: field, or fields, that make a place, which shares never part; default: the sample.
        label_codes: stored code → class number (255: none), ``"*"`` for all others; default: codes are class numbers.
        size: side of every returned image in pixels, or (rows, cols); None: the native ones.
        resample: how images are brought to `size`: ``"nearest"``, ``"bilinear"`` or ``"area"``.
        on_missing: a sample that lacks a file, or a listed name without one, is an ``"error"``; ``"skip"`` leaves such
            samples out; ``"keep"`` leaves the absent sensor out of the sample.
        name: name of the data set.

    Raises:
        FileNotFoundError: no files, or incomplete samples and `on_missing` is ``"error"``.
        ValueError: an option that is unknown or contradicts another; on reading, a file that does not fit.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        modalities: dict[str, Modality],
        classes: tuple[str, ...],
        paths: dict[str, str | Sequence[str]],
        file_bands: dict[str, Sequence[str]] | None = None,
        split_folders: dict[str, str] | None = None,
        lists: dict[str, str | Sequence[str]] | None = None,
        shares: dict[str, float] | None = None,
        place: str | Sequence[str] = (),
        label_codes: dict[str, int] | None = None,
        size: int | tuple[int, int] | None = None,
        resample: str = "nearest",
        on_missing: str = "error",
        name: str = "folders",
    ):
        self.root, self.split, self.name = Path(root), split, name
        self.modalities, self.classes = dict(modalities), tuple(classes)
        self.size, self.resample = size, resample
        self.file_bands = {key: tuple(bands) for key, bands in (file_bands or {}).items()}
        self.class_of_code = class_table(label_codes, len(self.classes))
        folders, lists, shares = split_folders or {}, lists or {}, shares or {}
        _check_choice("resample", resample, MODES)
        _check_choice("on_missing", on_missing, ON_MISSING)
        _check_sensors(self.modalities, paths, self.file_bands)
        _check_splits(split, folders, lists, shares)

        base = "train" if split in (*lists, *shares) else split  # lists and shares choose from the training folder
        patterns = {key: _several(paths[key]) for key in (*self.modalities, *CODES) if key in paths}
        found = find_all(self.root, patterns, folders.get(base, base))
        _check_found(self.root, found, patterns, on_missing)
        index = join(found, _several(place), partial=CODES)
        if base == "train" or not any(SPLIT in one.pattern for one in found.values()):
            rows = self._rows_of_split(index, lists, shares, on_missing)
        else:
            rows = range(len(index.ids))  # the folder is the split
        rows = _complete(self, index, rows, on_missing)
        self.ids, self.places = (_pack(column[row] for row in rows) for column in (index.ids, index.places))
        self._paths = {key: _pack(column[row] for row in rows) for key, column in index.columns.items()}

    def _rows_of_split(self, index: Index, lists: dict, shares: dict, on_missing: str) -> list[int]:
        names = {key: read_list(self.root / one) if isinstance(one, str | Path) else one for key, one in lists.items()}
        splits, absent = assign_splits(names, shares, list(index.columns.values()), index.places)
        if on_missing == "error" and (absent := absent.get(self.split)):
            raise FileNotFoundError(
                f"the list of {self.split!r} names {len(absent):,} samples that are not under {self.root}, first "
                f"{absent[0]!r}; fetch them, or use on_missing='skip' to do without"
            )
        rows = [row for row, split in enumerate(splits) if split == self.split]
        if not rows:
            counts = ", ".join(f"{split or 'in none'} {count:,}" for split, count in Counter(splits).items())
            raise ValueError(
                f"{self.name}: no sample under {self.root} is in {self.split!r} (samples: {counts}); "
                "give this split a list, a larger share or a folder"
            )
        return rows

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        return to_sample(self.read(index), self.modalities, self.size, self.resample)

    def files(self, index: int) -> dict[str, tuple[Path, ...]]:
        """The files of one sample: one a sensor that it has, and the label's and map's."""
        names = {key: os.fsdecode(column[index]) for key, column in self._paths.items()}
        return {key: (self.root / name,) for key, name in names.items() if name}

    def read(self, index: int) -> Raw:
        """One sample as its files store it; raises if they do not show the same ground."""
        files, images = self.files(index), {}
        extras = {"id": os.fsdecode(self.ids[index]), "place": os.fsdecode(self.places[index])}
        for key, (path,) in files.items():
            names = self.file_bands.get(key)
            if key in self.modalities:
                images[key] = read_sensor(path, self.modalities[key], names)
            else:
                images[key] = read_image(path, (1, len(names)) if names else (1,), palette=True)
                extras[key] = to_classes(images[key].pixels[0], self.class_of_code, path)
        check_grids({str(files[key][0]): image for key, image in images.items()}, self.size)
        located = [image.footprint for image in images.values() if image.footprint.crs != "None"]
        if located:
            extras["lonlat"] = lonlat(located[0])
        sensors = {key: image for key, image in images.items() if key in self.modalities}
        nodata = {key: image.nodata for key, image in sensors.items() if image.nodata is not None}
        return Raw({key: image.pixels for key, image in sensors.items()}, extras, files, nodata)

    def select(self, rows: Sequence[int], sensors: Iterable[str] | None = None) -> "Folders":
        """The same data set with some of its samples; of some sensors alone, without labels, if they are named."""
        part, rows = copy.copy(self), np.asarray(rows, np.int64)
        part.ids, part.places = self.ids[rows], self.places[rows]
        part.modalities = {key: self.modalities[key] for key in sensors or self.modalities}
        kept = sensors or self._paths
        part._paths = {key: column[rows] for key, column in self._paths.items() if key in kept}
        return part


def _pack(texts: Iterable[str]) -> np.ndarray:
    """Texts as one array of bytes: no Python object a name."""
    return np.array([text.encode(errors="surrogateescape") for text in texts])


def _several(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _complete(data: Folders, index: Index, rows: Sequence[int], on_missing: str) -> list[int]:
    """Samples that have what they need."""
    lacking = {key: [row for row in rows if not column[row]] for key, column in index.columns.items()}
    incomplete = set().union(*lacking.values())
    if on_missing == "error" and incomplete:
        first = min(incomplete)
        without = " and ".join(repr(key) for key, some in lacking.items() if first in some)
        raise FileNotFoundError(
            f"{len(incomplete):,} of {len(rows):,} {data.split} samples under {data.root} are not complete, first "
            f"{index.ids[first]!r}, which lacks {without}; fetch the files, or use on_missing='skip' (complete samples "
            "only) or 'keep' (missing sensors left out)"
        )
    if on_missing == "keep":
        incomplete = set.intersection(*(set(lacking[key]) for key in data.modalities))
    complete = [row for row in rows if row not in incomplete]
    if not complete:
        raise FileNotFoundError(
            f"none of {len(rows):,} {data.split} samples under {data.root} is usable; fetch the files"
        )
    return complete


def _check_found(root: Path, found: dict, patterns: dict, on_missing: str) -> None:
    absent = [key for key, one in found.items() if not one.files]
    if absent and (on_missing != "keep" or len(absent) == len(found)):
        raise FileNotFoundError(
            f"no file under {root} fits the path of {absent[0]!r}, {' or '.join(patterns[absent[0]])}; fetch the files "
            "or correct the path, or do without (name the other sensors, or on_missing='keep')"
        )


def _check_sensors(modalities: dict, paths: dict, file_bands: dict) -> None:
    if not modalities:
        raise ValueError("sensors: none to read; name one or more")
    if lacking := sorted(set(modalities) - set(paths)):
        raise ValueError(f"paths: none for {lacking}; there are paths for {sorted(paths)}")
    if unknown := sorted(set(file_bands) - set(paths)):
        raise ValueError(f"file_bands: {unknown} have no path; there are paths for {sorted(paths)}")
    for key, modality in modalities.items():
        if lacking := [band for band in modality.bands if band not in file_bands.get(key, modality.bands)]:
            raise ValueError(f"file_bands of {key!r}: lacks {lacking}; name all bands of its files in their order")


def _check_splits(split: str, folders: dict, lists: dict, shares: dict) -> None:
    _check_choice("split", split, dict.fromkeys((*SPLITS, *lists, *folders)))
    if wrong := [name for name in (*folders, *lists) if name in ALIASES]:
        raise ValueError(f"split_folders and lists: unknown split {wrong[0]!r}; call it {ALIASES[wrong[0]]!r}")
    for name in shares:
        _check_choice("shares: split", name, dict.fromkeys((*SPLITS[1:], *lists)))
    if both := sorted(set(folders) & {*lists, *shares} - {"train"}):
        raise ValueError(f"split_folders, lists and shares: {both} has a folder and a list or share; keep one of them")
    if min(shares.values(), default=0) < 0 or sum(shares.values()) > 1 + 1e-9:
        raise ValueError(f"shares: {shares} are not parts of one; what they leave is train")


def _check_choice(what: str, given: str, known: Iterable[str]) -> None:
    if given not in known:
        raise ValueError(f"{what} {given!r} is not one of {tuple(known)}")
