"""BigEarthNet version 2: Sentinel-1 and Sentinel-2 patches of 1.2 km with 19 land-cover classes.

On disk, one single-band GeoTIFF a band (rsim-tu-berlin/bigearthnet-pipeline, arXiv 2407.03653):
``BigEarthNet-S2/<tile>/<patch>/<patch>_<band>.tif``, ``BigEarthNet-S1/<scene>/<patch>/<patch>_{VV,VH}.tif``,
``Reference_Maps/<tile>/<patch>/<patch>_reference_map.tif``, and ``metadata.parquet`` with labels, split and pairing.
Or the same values in one LMDB environment, as `fmlib.data.lmdb_store` describes: ``Encoded-BigEarthNet/data.mdb`` with
the patch names (and ``<patch>_reference_map``) as keys, beside the same ``metadata.parquet``.
"""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fmlib.data.bigearthnet_patches import (
    DTYPES,
    Stored,
    check_arrays,
    check_options,
    choose_rows,
    multi_hot,
    patch_footprint,
    read_files,
)
from fmlib.data.corine import class_of_code
from fmlib.data.raster import check_footprints, lonlat
from fmlib.data.sample import Raw, to_sample
from fmlib.modality import Modality

METADATA = "metadata.parquet"
SNOW_CLOUD = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
COLUMNS = ["patch_id", "labels", "split", "s1_name", "contains_seasonal_snow", "contains_cloud_or_shadow"]
FOLDERS = {"s1": "BigEarthNet-S1", "s2": "BigEarthNet-S2", "map": "Reference_Maps"}
FIELDS = {"s1": 3, "s2": 2, "map": 2}  # trailing fields of a patch name that its scene or tile does not have
NODATA = {"s2": 0.0, "map": 0.0}  # tags of the published files, which an LMDB environment does not hold


class BigEarthNetV2:
    """Patches of BigEarthNet version 2, or of any archive in its layout.

    A sample is ``{"s1": (2, size, size), "s2": (12, size, size), "label": (19,), "id": S2 patch name}``: float32
    decibels, float32 scaled reflectance, and a float32 multi-hot vector in the order of `classes`. ``"map"``, if asked
    for, is (size, size) uint8 class indices, 255 where a pixel has none of the classes.

    Args:
        root: folder that holds metadata.parquet and the three image folders, or a folder with data.mdb
            (``Encoded-BigEarthNet``, but any name will do).
        split: ``"train"``, ``"validation"`` or ``"test"``, as metadata.parquet has it.
        modalities: sensors to read, ``"s1"``, ``"s2"`` or both; their bands are read in the order given.
        classes: class names, in label order.
        size: side of every returned image in pixels; None is the native 10 m grid of 120.
        resample: how bands are brought to `size`: ``"nearest"``, ``"bilinear"`` or ``"area"``.
        on_missing: a patch whose folder is absent is an ``"error"``; ``"skip"`` leaves out every patch that is not
            complete; ``"keep"`` leaves the absent sensor out of the sample, as long as the patch has anything.
        exclude_snow_cloud: leave out patches with seasonal snow, cloud or shadow; False reads their table too.
        with_map: also read the reference map.
        storage: ``"tiff"``, ``"lmdb"``, or ``"auto"``: GeoTIFFs where one of their folders is there, else LMDB. Samples
            are the same.
        name: name of the data set.

    Raises:
        FileNotFoundError: no metadata, or patches are absent and `on_missing` is ``"error"``.
        ValueError: unknown option, split, sensor or label; on reading, a file that does not fit the layout.
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
        exclude_snow_cloud: bool = True,
        with_map: bool = False,
        storage: str = "auto",
        name: str = "bigearthnet-v2",
    ):
        check_options(modalities, resample=resample, on_missing=on_missing, storage=storage)
        self.root, self.split, self.name = Path(root), split, name
        self.modalities, self.classes = dict(modalities), tuple(classes)
        self.size, self.resample = size, resample
        self.kinds = (*self.modalities, "map") if with_map else tuple(self.modalities)
        table = read_metadata(self.root, split, exclude_snow_cloud)
        self.store = open_store(self.root, storage)
        there = {kind: self._find(kind, table) for kind in self.kinds}
        again = f"the archives and encode them again into {self.store.file.parent.name}" if self.store else ""
        homes = dict.fromkeys(FOLDERS, again) if self.store else FOLDERS
        rows = choose_rows(table["patch_id"], there, on_missing, homes, f"{split} patches", self.root)
        table = table.filter(pa.array(rows))
        self.patches, self.s1_names = table["patch_id"], table["s1_name"]  # Arrow: no Python object a name
        self.there = {kind: found[rows] for kind, found in there.items()}
        self.labels = multi_hot(self.patches, table["labels"].combine_chunks(), self.classes)
        self.class_of_code = class_of_code(self.classes) if with_map else None

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> dict:
        return to_sample(self.read(index), self.modalities, self.size, self.resample)

    def read(self, index: int) -> Raw:
        """One patch as its files store it; raises if they do not cover the same ground."""
        raw, footprints = Raw({}, {"id": self.patches[index].as_py()}, self.files(index), {}), {}
        for kind in raw.files:
            bands, nodata, ground = self.stored(kind, index)
            footprints |= ground
            if kind == "map":
                raw.extras["map"] = self.class_of_code[next(iter(bands.values()))]
                continue
            raw.bands[kind] = list(bands.values())
            if nodata is not None:
                raw.nodata[kind] = nodata
        check_footprints(footprints, tolerance=5.0)  # metres: half a pixel
        tile = raw.extras["id"].split("_")[-3]  # …_T33UUP_75_43
        raw.extras.update(label=self.labels[index].astype(np.float32), place=tile)
        raw.extras["lonlat"] = lonlat(next(iter(footprints.values())))
        return raw

    def files(self, index: int) -> dict[str, tuple[Path, ...]]:
        """The files of one patch: sensor or ``"map"`` to one a band, or to the one that holds all patches."""
        kinds = [kind for kind in self.kinds if self.there[kind][index]]
        if self.store is not None:
            return dict.fromkeys(kinds, (self.store.file,))
        return {kind: tuple(self._band_files(kind, index).values()) for kind in kinds}

    def key(self, kind: str, index: int) -> str:
        """Name of a patch in an LMDB environment; `kind` is ``"s1"``, ``"s2"`` or ``"map"``."""
        return self._patch(kind, index) + ("_reference_map" if kind == "map" else "")

    def stored(self, kind: str, index: int) -> Stored:
        """The bands of one sensor of a patch, or the codes of its map under ``"Data"``, at their native size."""
        if self.store is None:
            return read_files(self._band_files(kind, index), DTYPES[kind])
        key, bands = self.key(kind, index), ("Data",) if kind == "map" else self.modalities[kind].bands
        source = f"{self.store.file}: key {key}"
        images = check_arrays(self.store.read(key), bands, DTYPES[kind], source)
        return Stored(images, NODATA.get(kind), {source: patch_footprint(self._patch(kind, index))})

    def _patch(self, kind: str, index: int) -> str:
        return (self.s1_names if kind == "s1" else self.patches)[index].as_py()

    def _band_files(self, kind: str, index: int) -> dict[str, Path]:
        patch = self._patch(kind, index)
        folder = patch_folder(self.root, kind, patch)
        if kind == "map":
            return {"Data": folder / f"{patch}_reference_map.tif"}
        return {band: folder / f"{patch}_{band}.tif" for band in self.modalities[kind].bands}

    def _find(self, kind: str, table: pa.Table) -> np.ndarray:
        names = table["s1_name" if kind == "s1" else "patch_id"].combine_chunks()
        if self.store is None:
            return find_patches(self.root, kind, names)
        ending = "_reference_map" if kind == "map" else ""
        return self.store.there(name + ending for name in names.to_pylist())


def patch_folder(root: Path, kind: str, patch: str) -> Path:
    """Folder of a patch: `kind` is ``"s1"``, ``"s2"`` or ``"map"``, `patch` the name it has there."""
    return Path(root) / FOLDERS[kind] / patch.rsplit("_", FIELDS[kind])[0] / patch


def open_store(root: Path, storage: str):
    """The LMDB environment under a root, or None where GeoTIFFs are to be read; see `BigEarthNetV2`."""
    if storage == "tiff" or (storage == "auto" and any((root / folder).is_dir() for folder in FOLDERS.values())):
        return None
    found = [path for path in sorted(root.glob("*/data.mdb")) if path.parent.suffix != ".writing"]
    if not found and storage == "auto":
        return None
    if len(found) != 1:
        raise FileNotFoundError(
            f"{root}: {len(found)} folders hold data.mdb, expected one (such as Encoded-BigEarthNet); encode the "
            "GeoTIFFs with rico-hdl or fmlib.data.lmdb_store.write_lmdb, or leave one there"
        )
    from fmlib.data.lmdb_store import LmdbStore  # the only part that needs lmdb

    return LmdbStore(found[0].parent)


def read_metadata(root: Path, split: str, exclude_snow_cloud: bool = True) -> pa.Table:
    """Rows of one split.

    Returns:
        Arrow table with patch_id, labels and s1_name, in the published order.

    Raises:
        FileNotFoundError: a metadata file is missing.
        ValueError: a file is damaged or lacks a column, or the split has no rows.
    """
    rows = pc.field("split") == split
    if exclude_snow_cloud:
        rows = rows & ~pc.field("contains_seasonal_snow") & ~pc.field("contains_cloud_or_shadow")
    files = [METADATA] if exclude_snow_cloud else [METADATA, SNOW_CLOUD]
    table = pa.concat_tables([_read_parquet(Path(root) / file, rows) for file in files]).combine_chunks()
    if not len(table):
        raise ValueError(
            f"{Path(root) / METADATA}: no rows of split {split!r}; BigEarthNet has train, validation and test"
        )
    return table


def _read_parquet(path: Path, rows: pc.Expression) -> pa.Table:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: it lists patches, labels and splits; fetch it from zenodo.org/records/10891137"
        )
    try:
        if missing := sorted(set(COLUMNS) - set(pq.read_schema(path).names)):
            raise ValueError(f"{path}: lacks the columns {missing}; fetch version 2's file")
        return pq.read_table(path, columns=["patch_id", "labels", "s1_name"], filters=rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: cannot be read as Parquet ({error}); fetch it again") from error


def find_patches(root: Path, kind: str, names: pa.Array) -> np.ndarray:
    """Which patches have a folder on disk.

    Lists each scene or tile folder once instead of asking for every patch.

    Args:
        kind: ``"s1"``, ``"s2"`` or ``"map"``.
        names: (N,) patch names, as they are for this kind.

    Returns:
        (N,) bool.
    """
    base = Path(root) / FOLDERS[kind]
    if not base.is_dir():
        return np.zeros(len(names), bool)
    scenes = [entry.path for entry in os.scandir(base) if entry.is_dir()]
    found = pa.array([entry.name for scene in scenes for entry in os.scandir(scene)], pa.string())
    return pc.is_in(names, value_set=found).to_numpy(zero_copy_only=False)
