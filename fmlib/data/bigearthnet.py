"""BigEarthNet version 2: Sentinel-1 and Sentinel-2 patches of 1.2 km with 19 land-cover classes.

On disk, one single-band GeoTIFF a band (rsim-tu-berlin/bigearthnet-pipeline, arXiv 2407.03653):
``BigEarthNet-S2/<tile>/<patch>/<patch>_<band>.tif``, ``BigEarthNet-S1/<scene>/<patch>/<patch>_{VV,VH}.tif``,
``Reference_Maps/<tile>/<patch>/<patch>_reference_map.tif``, and ``metadata.parquet`` with labels, split and pairing.
"""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fmlib.data.raster import check_footprints, lonlat, read_band
from fmlib.data.resample import MODES
from fmlib.data.sample import Raw, to_sample
from fmlib.modality import Modality

METADATA = "metadata.parquet"
SNOW_CLOUD = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
COLUMNS = ["patch_id", "labels", "split", "s1_name", "contains_seasonal_snow", "contains_cloud_or_shadow"]
FOLDERS = {"s1": "BigEarthNet-S1", "s2": "BigEarthNet-S2", "map": "Reference_Maps"}
DTYPES = {"s1": "float32", "s2": "uint16", "map": "uint16"}
FIELDS = {"s1": 3, "s2": 2, "map": 2}  # trailing fields of a patch name that its scene or tile does not have
SIZE = 120  # pixels a side at 10 m
COARSE = dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 60) | dict.fromkeys(("B01", "B09"), 20)
NO_CLASS = 255
ON_MISSING = ("error", "skip", "keep")

# CORINE land cover 2018, level 3: its codes and the class they belong to. Codes not listed belong to none.
CLC_CODES = {
    "Urban fabric": (111, 112),
    "Industrial or commercial units": (121,),
    "Arable land": (211, 212, 213),
    "Permanent crops": (221, 222, 223, 241),
    "Pastures": (231,),
    "Complex cultivation patterns": (242,),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (243,),
    "Agro-forestry areas": (244,),
    "Broad-leaved forest": (311,),
    "Coniferous forest": (312,),
    "Mixed forest": (313,),
    "Natural grassland and sparsely vegetated areas": (321, 333),
    "Moors, heathland and sclerophyllous vegetation": (322, 323),
    "Transitional woodland, shrub": (324,),
    "Beaches, dunes, sands": (331,),
    "Inland wetlands": (411, 412),
    "Coastal wetlands": (421, 422),
    "Inland waters": (511, 512),
    "Marine waters": (521, 522, 523),
}


class BigEarthNetV2:
    """Patches of BigEarthNet version 2, or of any archive in its layout.

    A sample is ``{"s1": (2, size, size), "s2": (12, size, size), "label": (19,), "id": S2 patch name}``: float32
    decibels, float32 scaled reflectance, and a float32 multi-hot vector in the order of `classes`. ``"map"``, if asked
    for, is (size, size) uint8 class indices, 255 where a pixel has none of the classes.

    Args:
        root: folder that holds metadata.parquet and the three image folders.
        split: ``"train"``, ``"validation"`` or ``"test"``, as metadata.parquet has it.
        modalities: sensors to read, ``"s1"``, ``"s2"`` or both; their bands are read in the order given.
        classes: class names, in label order.
        size: side of every returned image in pixels; None is the native 10 m grid of 120.
        resample: how bands are brought to `size`: ``"nearest"``, ``"bilinear"`` or ``"area"``.
        on_missing: a patch whose folder is absent is an ``"error"``; ``"skip"`` leaves out every patch that is not
            complete; ``"keep"`` leaves the absent sensor out of the sample, as long as the patch has anything.
        exclude_snow_cloud: leave out patches with seasonal snow, cloud or shadow; False reads their table too.
        with_map: also read the reference map.
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
        name: str = "bigearthnet-v2",
    ):
        _check_options(modalities, resample, on_missing)
        self.root, self.split, self.name = Path(root), split, name
        self.modalities, self.classes = dict(modalities), tuple(classes)
        self.size, self.resample = size, resample
        self.kinds = (*self.modalities, "map") if with_map else tuple(self.modalities)
        table = read_metadata(self.root, split, exclude_snow_cloud)
        there = {kind: find_patches(self.root, kind, _names(table, kind)) for kind in self.kinds}
        rows = _choose_rows(table, there, on_missing, self.root, split)
        table = table.filter(pa.array(rows))
        self.patches, self.s1_names = table["patch_id"], table["s1_name"]  # Arrow: no Python object a name
        self.there = {kind: found[rows] for kind, found in there.items()}
        self.labels = multi_hot(table, self.classes)
        self.class_of_code = _class_of_code(self.classes) if with_map else None

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> dict:
        return to_sample(self.read(index), self.modalities, self.size, self.resample)

    def read(self, index: int) -> Raw:
        """One patch as its files store it; raises if they do not cover the same ground."""
        raw, footprints = Raw({}, {"id": self.patches[index].as_py()}, {}), {}
        for kind in self.kinds:
            if self.there[kind][index]:
                self._read(kind, index, raw, footprints)
        check_footprints(footprints, tolerance=5.0)  # metres: half a pixel
        tile = raw.extras["id"].split("_")[-3]  # …_T33UUP_75_43
        raw.extras.update(label=self.labels[index].astype(np.float32), place=tile)
        raw.extras["lonlat"] = lonlat(next(iter(footprints.values())))
        return raw

    def _read(self, kind: str, index: int, raw: Raw, footprints: dict) -> None:
        patch = (self.s1_names if kind == "s1" else self.patches)[index].as_py()
        folder = patch_folder(self.root, kind, patch)
        bands = ("reference_map",) if kind == "map" else self.modalities[kind].bands
        files = {band: folder / f"{patch}_{band}.tif" for band in bands}
        images = []
        for band, path in files.items():
            side = COARSE.get(band, SIZE)
            image, nodata, footprints[str(path)] = read_band(path, (side, side), DTYPES[kind])
            images.append(image)
        raw.files[kind] = tuple(files.values())
        if kind == "map":
            raw.extras["map"] = self.class_of_code[images[0]]
            return
        raw.bands[kind] = images
        if nodata is not None:
            raw.nodata[kind] = nodata


def patch_folder(root: Path, kind: str, patch: str) -> Path:
    """Folder of a patch: `kind` is ``"s1"``, ``"s2"`` or ``"map"``, `patch` the name it has there."""
    return Path(root) / FOLDERS[kind] / patch.rsplit("_", FIELDS[kind])[0] / patch


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


def multi_hot(table: pa.Table, classes: tuple[str, ...]) -> np.ndarray:
    """Labels of all rows.

    Returns:
        (N, classes) uint8, 1 where the patch has the class.

    Raises:
        ValueError: a label is not among the classes; it and its patch are named.
    """
    labels = table["labels"].combine_chunks()
    rows = pc.list_parent_indices(labels).to_numpy()
    index = pc.index_in(pc.list_flatten(labels), value_set=pa.array(classes))
    if index.null_count:
        at = int(pc.is_null(index).to_numpy(zero_copy_only=False).argmax())
        patch, label = table["patch_id"][int(rows[at])], pc.list_flatten(labels)[at]
        raise ValueError(
            f"patch {patch}: label {label.as_py()!r} is not among the {len(classes)} classes of the manifest; "
            "correct the label or the manifest"
        )
    hot = np.zeros((len(table), len(classes)), np.uint8)
    hot[rows, index.to_numpy()] = 1
    return hot


def _names(table: pa.Table, kind: str) -> pa.Array:
    return table["s1_name" if kind == "s1" else "patch_id"].combine_chunks()


def _choose_rows(table: pa.Table, there: dict, on_missing: str, root: Path, split: str) -> np.ndarray:
    complete = np.logical_and.reduce(list(there.values()))
    if on_missing == "error" and not complete.all():
        first = table["patch_id"][int((~complete).argmax())]
        folders = " and ".join(FOLDERS[kind] for kind, found in there.items() if not found.all())
        raise FileNotFoundError(
            f"{(~complete).sum():,} of {len(table):,} {split} patches are not complete under {root}, first {first}; "
            f"extract {folders}, or use on_missing='skip' (complete patches only) or 'keep' (missing sensors left out)"
        )
    rows = complete if on_missing != "keep" else np.logical_or.reduce(list(there.values()))
    if not rows.any():
        raise FileNotFoundError(
            f"none of the {len(table):,} {split} patches is usable under {root}; extract "
            f"{', '.join(FOLDERS[kind] for kind in there)} there"
        )
    return rows


def _class_of_code(classes: tuple[str, ...]) -> np.ndarray:
    table = np.full(2**16, NO_CLASS, np.uint8)  # every uint16 code has an entry
    for index, name in enumerate(classes):
        if name not in CLC_CODES:
            raise ValueError(f"class {name!r} has no CORINE codes, so a map cannot show it; open without with_map")
        table[list(CLC_CODES[name])] = index
    return table


def _check_options(modalities: dict, resample: str, on_missing: str) -> None:
    if not modalities or (set(modalities) - {"s1", "s2"}):
        raise ValueError(f"BigEarthNet has the sensors 's1' and 's2', not {sorted(modalities)}")
    for what, given, known in (("resample", resample, tuple(MODES)), ("on_missing", on_missing, ON_MISSING)):
        if given not in known:
            raise ValueError(f"BigEarthNet: {what} {given!r} is not one of {known}")
