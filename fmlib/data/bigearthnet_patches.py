"""What both versions of BigEarthNet share: patches of 1.2 km, one image a band, up to 19 classes each."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fmlib.data.raster import Footprint, read_band, tile_origin
from fmlib.data.resample import MODES

SIZE = 120  # pixels a side at 10 m
COARSE = dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 60) | dict.fromkeys(("B01", "B09"), 20)
DTYPES = {"s1": "float32", "s2": "uint16", "map": "uint16"}
CHOICES = {
    "resample": tuple(MODES),
    "on_missing": ("error", "skip", "keep"),
    "storage": ("auto", "tiff", "lmdb"),
    "lists": ("official", "seco"),
}


class Stored(NamedTuple):
    """A patch of one sensor: band to (rows, cols) array as stored, nodata tag, and the ground each file covers."""

    bands: dict[str, np.ndarray]
    nodata: float | None
    footprints: dict[str, Footprint]


def read_files(files: dict[str, Path], dtype: str) -> Stored:
    """Read the bands of a patch, each a GeoTIFF of its native size and of the given type."""
    bands, footprints, nodata = {}, {}, None
    for band, path in files.items():
        side = COARSE.get(band, SIZE)
        bands[band], nodata, footprints[str(path)] = read_band(path, (side, side), dtype)
    return Stored(bands, nodata, footprints)


def check_arrays(arrays: dict[str, np.ndarray], bands: tuple[str, ...], dtype: str, source: str) -> dict:
    """The bands asked for, in their order; raises if one is absent or not of its native size and type."""
    for band in bands:
        if band not in arrays:
            raise ValueError(f"{source}: no band {band}, only {sorted(arrays)}; encode the patch again")
        side = COARSE.get(band, SIZE)
        if arrays[band].shape != (side, side) or arrays[band].dtype != dtype:
            raise ValueError(
                f"{source}: band {band} is {arrays[band].dtype} {arrays[band].shape}, expected {dtype} "
                f"{(side, side)}; encode the published files, unchanged"
            )
    return {band: arrays[band] for band in bands}


def patch_footprint(patch: str) -> Footprint:
    """Ground that a patch covers, from its name alone: it ends in tile, column and row, 1,200 m each."""
    tile, column, row = patch.split("_")[-3:]
    epsg, west, north = tile_origin(tile.removeprefix("T"))
    left, top = west + 10 * SIZE * int(column), north - 10 * SIZE * int(row)
    return Footprint(f"EPSG:{epsg}", left, top - 10 * SIZE, left + 10 * SIZE, top)


def multi_hot(names: pa.Array, labels: pa.Array, classes: tuple[str, ...]) -> np.ndarray:
    """Labels of all patches.

    Args:
        names: (N,) of the patches.
        labels: (N,) lists of class names.
        classes: in label order.

    Returns:
        (N, classes) uint8, 1 where the patch has the class.

    Raises:
        ValueError: a label is not among the classes; it and its patch are named.
    """
    rows = pc.list_parent_indices(labels).to_numpy()
    index = pc.index_in(pc.list_flatten(labels), value_set=pa.array(classes))
    if index.null_count:
        at = int(pc.is_null(index).to_numpy(zero_copy_only=False).argmax())
        patch, label = names[int(rows[at])], pc.list_flatten(labels)[at]
        raise ValueError(
            f"patch {patch}: label {label.as_py()!r} is not among the {len(classes)} classes of the manifest; "
            "correct the label or the manifest"
        )
    hot = np.zeros((len(names), len(classes)), np.uint8)
    hot[rows, index.to_numpy()] = 1
    return hot


def choose_rows(
    names: pa.Array, there: dict[str, np.ndarray], on_missing: str, homes: dict[str, str], what: str, root: Path
) -> np.ndarray:
    """Which patches to keep by the rule for missing ones, (N,) bool.

    Raises:
        FileNotFoundError: some are not complete and the rule is ``"error"``, or none is left.
    """
    complete = np.logical_and.reduce(list(there.values()))
    if on_missing == "error" and not complete.all():
        lacking = " and ".join(dict.fromkeys(homes[kind] for kind, found in there.items() if not found.all()))
        raise FileNotFoundError(
            f"{(~complete).sum():,} of {len(names):,} {what} are not complete under {root}, first "
            f"{names[int((~complete).argmax())]}; extract {lacking}, or use on_missing='skip' (complete patches only) "
            "or 'keep' (missing sensors left out)"
        )
    rows = complete if on_missing != "keep" else np.logical_or.reduce(list(there.values()))
    if not rows.any():
        raise FileNotFoundError(
            f"none of the {len(names):,} {what} is usable under {root}; extract "
            f"{', '.join(dict.fromkeys(homes[kind] for kind in there))} there"
        )
    return rows


def check_options(modalities: dict, **options: str) -> None:
    """Raise for a sensor or an option that BigEarthNet does not have."""
    if not modalities or (set(modalities) - {"s1", "s2"}):
        raise ValueError(f"BigEarthNet has the sensors 's1' and 's2', not {sorted(modalities)}")
    for what, given in options.items():
        if given not in CHOICES[what]:
            raise ValueError(f"BigEarthNet: {what} {given!r} is not one of {CHOICES[what]}")
