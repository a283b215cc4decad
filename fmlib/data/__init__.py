"""Data sets: one reader an on-disk layout, each yielding the same sample.

A sample is ``{"s1": float32 (C, H, W) in physical units, …, "label": …, "id": str}``; a sensor it lacks is absent from
the dict. Readers import what they need (rasterio, pyarrow) only when their layout is opened.
"""

from importlib.util import find_spec
from pathlib import Path

from fmlib.data.batches import center_crop, collate, preload
from fmlib.manifest import Manifest, data_root, list_manifests, load_manifest

__all__ = ["center_crop", "choose_dataset", "collate", "find_datasets", "open_dataset", "preload"]

MIN_PAIRS = 64  # fewer make no batch worth pretraining on
PREFERRED = ("bigearthnet-v2", "ombria", "synthetic")


def open_dataset(
    name: str, split: str, root: str | Path | None = None, sensors: tuple[str, ...] | None = None, **options
):
    """Open a data set by the name of its manifest.

    Args:
        name: e.g. ``"ombria"``; `fmlib.manifest.list_manifests` gives all.
        split: one of the manifest's splits, e.g. ``"train"``.
        root: folder that holds all data sets; default: FMLIB_DATA, else `data/`.
        sensors: which of its sensors to read; default: all.
        options: passed to the reader, e.g. ``size=120`` or ``dates=("after",)``.

    Returns:
        A map-style data set with `modalities`, `classes`, `name` and `split`.

    Raises:
        FileNotFoundError: it is not on disk; the message says where it was looked for.
        ValueError: unknown name, split, sensor or layout.
    """
    manifest = load_manifest(name)
    if split not in manifest.splits:
        raise ValueError(f"{name}: no split {split!r}; it has {tuple(manifest.splits)}")
    if unknown := [sensor for sensor in sensors or () if sensor not in manifest.sensors]:
        raise ValueError(f"{name}: no sensor {unknown}; it has {tuple(manifest.sensors)}")
    folder = manifest.root(root)
    if not folder.is_dir():
        raise FileNotFoundError(f"{name} is not at {folder}; {_how_to_get(manifest, root)}")
    modalities = {sensor: manifest.sensors[sensor] for sensor in sensors or manifest.sensors}
    return _reader(manifest)(folder, split, modalities, manifest.classes, name=name, **options)


def find_datasets(root: str | Path | None = None) -> dict[str, int]:
    """Data sets that are under a root and can be read here.

    Args:
        root: folder that holds all data sets; default: FMLIB_DATA, else `data/`.

    Returns:
        For each one found, the number of its complete sensor pairs in the training split.
    """
    counts = {name: _count_pairs(load_manifest(name), root) for name in list_manifests()}
    return {name: count for name, count in counts.items() if count}


def choose_dataset(root: str | Path | None = None) -> str:
    """Name of the best data set there is for pretraining on pairs of radar and optical images.

    BigEarthNet v2 comes first, then OMBRIA, then the made scenes; each needs 64 complete training pairs.

    Args:
        root: folder that holds all data sets; default: FMLIB_DATA, else `data/`.

    Raises:
        FileNotFoundError: none of them is there; the message says what was looked for, where, and how to get it.
    """
    found = find_datasets(root)
    for name in PREFERRED:
        if found.get(name, 0) >= MIN_PAIRS:
            return name
    looked = "; ".join(
        f"{load_manifest(name).root(root)}: {found.get(name, 0)} pairs{_lacking_packages(load_manifest(name))}"
        for name in PREFERRED
    )
    raise FileNotFoundError(
        f"no data set with {MIN_PAIRS} or more complete training pairs under {Path(root or data_root())} ({looked}). "
        f"Set FMLIB_DATA to the folder that holds one, or: {_how_to_get(load_manifest('synthetic'), root)}"
    )


def _reader(manifest: Manifest):
    if manifest.layout == "ombria":
        from fmlib.data.ombria import Ombria

        return Ombria
    if manifest.layout == "bigearthnet-v2":
        from fmlib.data.bigearthnet import BigEarthNetV2

        return BigEarthNetV2
    raise ValueError(f"{manifest.name}: no reader for the layout {manifest.layout!r}; correct its manifest")


def _count_pairs(manifest: Manifest, root: str | Path | None) -> int:
    if not manifest.root(root).is_dir() or _lacking_packages(manifest):
        return 0
    if manifest.layout == "ombria":
        from fmlib.data.ombria import count_pairs
    else:
        from fmlib.data.bigearthnet import count_pairs
    return count_pairs(manifest.root(root))


def _lacking_packages(manifest: Manifest) -> str:
    needed = ("rasterio", "pyarrow") if manifest.layout == "bigearthnet-v2" else ()
    lacking = [package for package in needed if find_spec(package) is None]
    return f" (not looked at: install {', '.join(lacking)})" if lacking else ""


def _how_to_get(manifest: Manifest, root: str | Path | None) -> str:
    if manifest.name == "synthetic":
        return f"make scenes: fmlib scenes {manifest.root(root)}"
    return f"fetch it from {manifest.home} (licence: {manifest.licence}), or set FMLIB_DATA to the folder it is in"
