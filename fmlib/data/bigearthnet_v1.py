"""BigEarthNet version 1 with radar (BigEarthNet-MM): pairs of Sentinel-1 and Sentinel-2 patches of 1.2 km.

On disk, one single-band GeoTIFF a band and one JSON file a patch (arXiv 2105.07921):
``BigEarthNet-v1.0/<patch>/<patch>_{<band>.tif,labels_metadata.json}`` and
``BigEarthNet-S1-v1.0/<patch>/<patch>_{VV.tif,VH.tif,labels_metadata.json}``. Beside them the official lists of pairs,
``train.csv``, ``val.csv`` and ``test.csv``: lines "S2 name,S1 name", no header.
"""

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from tqdm import tqdm

from fmlib.data.bigearthnet_patches import DTYPES, check_options, choose_rows, multi_hot, read_files
from fmlib.data.corine import to_classes
from fmlib.data.paths import draw
from fmlib.data.raster import check_footprints, lonlat
from fmlib.data.sample import Raw, to_sample
from fmlib.modality import Modality
from fmlib.progress import watched

FOLDERS = {"s1": "BigEarthNet-S1-v1.0", "s2": "BigEarthNet-v1.0"}
LISTS = {"official": "{}.csv", "seco": "bigearthnet-{}.txt"}
STEMS = {"train": "train", "validation": "val", "test": "test"}
SNOW_CLOUD = ("patches_with_seasonal_snow.csv", "patches_with_cloud_and_shadow.csv")
SHARES = {"validation": 0.15, "test": 0.15}
COLUMNS = ("patch_id", "s1_name", "tile")
BATCH = 1000  # JSON files a task


class BigEarthNetV1:
    """Patches of BigEarthNet version 1.

    A sample is as of version 2 (`fmlib.data.bigearthnet.BigEarthNetV2`), with ``"time"`` of the optical image. Files
    name classes of CORINE's level 3; they are mapped to the 19 classes, or kept if they are among `classes`. Version 1
    has no reference maps and no nodata tag.

    With the official lists nothing but names is read on opening. Without them, every JSON file is: only the radar's
    names its optical partner. Patches without any of the classes are then left out, and tiles are drawn for the splits
    by a hash of their name; neighbouring tiles overlap a little, so that is no benchmark.

    Args:
        root: folder that holds the two image folders and the lists. Lists of patches with snow, cloud or shadow
            (``patches_with_seasonal_snow.csv``, ``patches_with_cloud_and_shadow.csv``) are used if they are there.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        modalities: sensors to read, ``"s1"``, ``"s2"`` or both; their bands are read in the order given.
        classes: class names, in label order.
        size: side of every returned image in pixels; None is the native 10 m grid of 120.
        resample: how bands are brought to `size`: ``"nearest"``, ``"bilinear"`` or ``"area"``.
        on_missing: as for version 2: ``"error"``, ``"skip"`` or ``"keep"``.
        lists: ``"official"``, or ``"seco"`` for ``bigearthnet-{train,val,test}.txt`` of Seasonal Contrast, one S2 name
            a line; their partners are found in the JSON files. State which with every number.
        shares: split to share of the tiles, where there are no lists; default: 15 % for validation and test each.
        name: name of the data set.

    Raises:
        FileNotFoundError: a list or the images are missing, or patches are and `on_missing` is ``"error"``.
        ValueError: unknown option, split, sensor or label; a damaged file.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        modalities: dict[str, Modality],
        classes: tuple[str, ...],
        size: int | None = None,
        resample: str = "nearest",
        on_missing: str = "error",
        lists: str = "official",
        shares: dict[str, float] | None = None,
        name: str = "bigearthnet-v1",
    ):
        check_options(modalities, resample=resample, on_missing=on_missing, lists=lists)
        if split not in STEMS:
            raise ValueError(f"BigEarthNet: split {split!r} is not one of {tuple(STEMS)}")
        self.root, self.split, self.name = Path(root), split, name
        self.modalities, self.classes = dict(modalities), tuple(classes)
        self.size, self.resample = size, resample
        pairs = read_pairs(self.root, split, lists, SHARES if shares is None else shares, self.classes)
        names = {kind: pairs["s1_name" if kind == "s1" else "patch_id"].combine_chunks() for kind in self.modalities}
        there = {kind: find_patches(self.root, kind, names[kind]) for kind in self.modalities}
        rows = choose_rows(pairs["patch_id"], there, on_missing, FOLDERS, f"{split} patches", self.root)
        pairs = pairs.filter(pa.array(rows))
        self.patches, self.s1_names = pairs["patch_id"].combine_chunks(), pairs["s1_name"].combine_chunks()
        self.there = {kind: found[rows] for kind, found in there.items()}

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> dict:
        return to_sample(self.read(index), self.modalities, self.size, self.resample)

    @cached_property
    def labels(self) -> np.ndarray:
        """(N, classes) uint8, 1 where a patch has the class; read when first asked for, from one small file a patch."""
        notes = read_notes([self.files(index)["label"][0] for index in range(len(self))], "labels")
        return self._multi_hot(self.patches, notes)

    def read(self, index: int) -> Raw:
        """One pair as its files store it; raises if they do not cover the same ground."""
        raw, footprints = Raw({}, {"id": self.patches[index].as_py()}, self.files(index)), {}
        for kind in (kind for kind in self.modalities if kind in raw.files):
            files = dict(zip(self.modalities[kind].bands, raw.files[kind], strict=True))
            bands, nodata, ground = read_files(files, DTYPES[kind])
            raw.bands[kind], footprints = list(bands.values()), footprints | ground
            if nodata is not None:
                raw.nodata[kind] = nodata
        check_footprints(footprints, tolerance=5.0)  # metres: half a pixel
        note = read_note(raw.files["label"][0])
        raw.extras["label"] = self._multi_hot(self.patches[index : index + 1], [note])[0].astype(np.float32)
        raw.extras.update(place=note.tile, time=note.time, lonlat=lonlat(next(iter(footprints.values()))))
        return raw

    def files(self, index: int) -> dict[str, tuple[Path, ...]]:
        """The files of one pair: each sensor's, and under ``"label"`` the JSON file that holds its labels."""
        names = {"s2": self.patches[index].as_py(), "s1": self.s1_names[index].as_py()}
        kinds = [kind for kind in self.modalities if self.there[kind][index]]
        files = {
            kind: tuple(self._file(kind, names[kind], f"{band}.tif") for band in self.modalities[kind].bands)
            for kind in kinds
        }
        source = "s2" if "s2" in kinds else "s1"
        return files | {"label": (self._file(source, names[source], "labels_metadata.json"),)}

    def _file(self, kind: str, patch: str, ending: str) -> Path:
        return self.root / FOLDERS[kind] / patch / f"{patch}_{ending}"

    def _multi_hot(self, names: pa.Array, notes: list["Note"]) -> np.ndarray:
        labels = [to_classes(note.labels, self.classes) for note in notes]
        return multi_hot(names, pa.array(labels, pa.list_(pa.string())), self.classes)


# -- which pairs ------------------------------------------------------------------------------------------------------


def read_pairs(root: Path, split: str, lists: str, shares: dict[str, float], classes: tuple[str, ...]) -> pa.Table:
    """Names of the pairs of a split, columns patch_id and s1_name (null where there is none); see `BigEarthNetV1`."""
    files = {name: root / LISTS[lists].format(stem) for name, stem in STEMS.items()}
    listed = lists == "seco" or any(path.is_file() for path in files.values())
    if listed and not files[split].is_file():
        raise FileNotFoundError(f"{files[split]} is missing: it lists the {split} patches; fetch it")
    if listed and lists == "official":
        pairs = _read_names(files[split], ["patch_id", "s1_name"])
    elif listed:
        names = _read_names(files[split], ["patch_id"])["patch_id"].combine_chunks()
        pairs = find_pairs(root, classes)
        pairs = pairs.filter(pc.is_in(pairs["patch_id"], value_set=names))
    else:
        pairs = find_pairs(root, classes)
        drawn = [draw(tile, shares) == split for tile in pairs["tile"].to_pylist()]
        pairs = pairs.filter(pa.array(drawn, pa.bool_()))
    for path in (root / name for name in SNOW_CLOUD):
        if path.is_file():
            unwanted = _read_names(path, ["patch_id"])["patch_id"].combine_chunks()
            pairs = pairs.filter(pc.invert(pc.is_in(pairs["patch_id"], value_set=unwanted)))
    if not len(pairs):
        raise FileNotFoundError(f"{root}: no pair falls to {split!r} among those on disk; put the official lists there")
    return pairs


def _read_names(path: Path, columns: list[str]) -> pa.Table:
    convert = csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()))
    try:
        return csv.read_csv(path, csv.ReadOptions(column_names=columns), convert_options=convert)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: expected lines of {len(columns)} names and no header ({error})") from error


def find_pairs(root: Path, classes: tuple[str, ...]) -> pa.Table:
    """All patches on disk that have any of the classes: columns patch_id, s1_name and tile, sorted by patch_id."""
    radar, optical = (list_patches(root, kind) for kind in ("s1", "s2"))
    if not radar and not optical:
        raise FileNotFoundError(f"{root} has no patch in {' or '.join(FOLDERS.values())}; extract the archives there")
    rows = [(note.partner, name, note) for name, note in zip(radar, _notes_of(root, "s1", radar), strict=True)]
    alone = sorted(set(optical) - {patch for patch, _, _ in rows})
    rows += [(name, None, note) for name, note in zip(alone, _notes_of(root, "s2", alone), strict=True)]
    rows = sorted((patch, s1, note.tile) for patch, s1, note in rows if to_classes(note.labels, classes))
    return pa.table({key: pa.array([row[i] for row in rows], pa.string()) for i, key in enumerate(COLUMNS)})


def list_patches(root: Path, kind: str) -> list[str]:
    """Names of the patch folders of a sensor, sorted; none where its folder is absent."""
    base = Path(root) / FOLDERS[kind]
    return sorted(entry.name for entry in os.scandir(base) if entry.is_dir()) if base.is_dir() else []


def find_patches(root: Path, kind: str, names: pa.Array) -> np.ndarray:
    """Which patches have a folder on disk, (N,) bool."""
    return pc.is_in(names, value_set=pa.array(list_patches(root, kind), pa.string())).to_numpy(zero_copy_only=False)


# -- one JSON file a patch --------------------------------------------------------------------------------------------


class Note(NamedTuple):
    """What a patch's JSON file says: classes of level 3, acquisition, tile, and for radar the optical partner."""

    labels: list[str]
    time: str
    tile: str
    partner: str | None


def read_note(path: Path) -> Note:
    """Read the JSON file of a patch of either sensor.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged or lacks a key.
    """
    try:
        data = json.loads(path.read_bytes())
        if "corresponding_s2_patch" in data:
            tile = "T" + path.parent.name.split("_")[-3]  # S1A_…_33UUP_61_39
            return Note(data["labels"], data["acquisition_time"], tile, data["corresponding_s2_patch"])
        tile = data["tile_source"].split("_")[-2]  # S2A_…_T33UUP_20170613T101608.SAFE
        return Note(data["labels"], data["acquisition_date"].replace(" ", "T"), tile, None)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; extract the archive again") from error
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{path}: not the JSON file of a BigEarthNet patch ({error!r}); extract it again") from error


def read_notes(paths: list[Path], what: str) -> list[Note]:
    """Read many of them in threads, with a bar where a person watches."""
    parts = [paths[first : first + BATCH] for first in range(0, len(paths), BATCH)]
    notes: list[Note] = []
    with ThreadPoolExecutor(16) as pool, tqdm(total=len(paths), unit="file", desc=what, disable=not watched()) as bar:
        for part in pool.map(lambda part: [read_note(path) for path in part], parts):
            notes += part
            bar.update(len(part))
    return notes


def _notes_of(root: Path, kind: str, names: Iterable[str]) -> list[Note]:
    paths = [root / FOLDERS[kind] / name / f"{name}_labels_metadata.json" for name in names]
    return read_notes(paths, f"pairs ({kind})")
