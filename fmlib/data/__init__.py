"""Data sets: one reader an on-disk layout, each yielding the same sample.

A sample is ``{"s1": float32 (C, H, W) in physical units, …, "label": …, "id": str}``; a sensor it lacks is absent from
the dict. Readers import what they need (rasterio, pyarrow) only when their layout is opened.
"""

from importlib import import_module
from pathlib import Path

from fmlib.data.augment import center_crop
from fmlib.data.batches import collate, preload
from fmlib.data.records import Records, find_records
from fmlib.manifest import Manifest, data_root, list_manifests, load_manifest
from fmlib.modality import Modality

__all__ = ["center_crop", "choose_dataset", "collate", "find_datasets", "open_dataset", "preload"]

MIN_PAIRS = 64  # fewer make no batch worth pretraining on
PREFERRED = ("bigearthnet-v2", "ombria", "synthetic")

READERS = {  # layout → module of `fmlib.data`, and its reader
    "bigearthnet-v1": ("bigearthnet_v1", "BigEarthNetV1"),
    "bigearthnet-v2": ("bigearthnet", "BigEarthNetV2"),
    "folders": ("folders", "Folders"),
    "grey": ("grey", "Grey"),
    "houston2013": ("houston", "Houston2013"),
    "ombria": ("ombria", "Ombria"),
    "sen12ms": ("sen12ms", "Sen12MS"),
    "spacenet6": ("spacenet6", "SpaceNet6"),
    "ssl4eo-s12": ("ssl4eo", "SSL4EO"),
    "vais": ("vais", "Vais"),
}


def open_dataset(
    name: str | Path,
    split: str,
    root: str | Path | None = None,
    sensors: tuple[str, ...] | None = None,
    records: bool | None = None,
    **options,
):
    """Open a data set by the name of its manifest, or one's own by the TOML file that describes it.

    Args:
        name: e.g. ``"ombria"``, see `fmlib.manifest.list_manifests`; or a path that ends in ``.toml``, see
            `fmlib.data.own.open_folder`.
        split: one of the manifest's splits, e.g. ``"train"``.
        root: folder that holds all data sets; default: FMLIB_DATA, else `data/`.
        sensors: which of its sensors to read; default: all.
        records: read packed records (True), the original files (False), or records where `fmlib data pack` has made
            them with these same options, else the files (None). The samples are the same.
        options: passed to the reader, e.g. ``size=120`` or ``dates=("after",)``.

    Returns:
        A map-style data set with `modalities`, `classes`, `name` and `split`.

    Raises:
        FileNotFoundError: it is not on disk; the message says where it was looked for.
        ValueError: unknown name, split, sensor or layout.
    """
    if str(name).endswith(".toml"):
        from fmlib.data.own import open_folder

        return open_folder(name, split, sensors, **options)
    manifest = load_manifest(name)
    if split not in manifest.splits:
        raise ValueError(f"{name}: no split {split!r}; it has {tuple(manifest.splits)}")
    if unknown := [sensor for sensor in sensors or () if sensor not in manifest.sensors]:
        raise ValueError(f"{name}: no sensor {unknown}; it has {tuple(manifest.sensors)}")
    folder = manifest.root(root)
    if not folder.is_dir():
        raise FileNotFoundError(f"{name} is not at {folder}; {_how_to_get(manifest, root)}")
    modalities = {sensor: manifest.sensors[sensor] for sensor in sensors or manifest.sensors}
    options = {**manifest.options, **options}
    packed = None if records is False else find_records(folder, split, options)
    if packed:
        return Records(packed, modalities, **{key: options[key] for key in ("size", "resample") if key in options})
    if records:
        raise FileNotFoundError(f"no records of {name}/{split} with these options in {folder}; fmlib data pack {name}")
    return _reader(manifest)(folder, split, modalities, manifest.classes, name=name, **options)


def sensors_of(name: str | Path) -> dict[str, Modality]:
    """The sensors of a data set, by name (its images need not be there) or TOML file, as for `open_dataset`."""
    if str(name).endswith(".toml"):
        return open_dataset(name, "train").modalities
    return load_manifest(str(name)).sensors


def find_datasets(root: str | Path | None = None) -> dict[str, int]:
    """Data sets that are under a root and can be read here.

    Args:
        root: folder that holds all data sets; default: FMLIB_DATA, else `data/`.

    Returns:
        For each one found, the number of complete samples of its training split.
    """
    counts = {name: look(load_manifest(name), root)[0] for name in list_manifests()}
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
        f"{manifest.root(root)}: {count} pairs{f' ({why})' if why else ''}"
        for manifest in map(load_manifest, PREFERRED)
        for count, why in [look(manifest, root)]
    )
    raise FileNotFoundError(
        f"no data set with {MIN_PAIRS} or more complete training pairs under {Path(root or data_root())} ({looked}). "
        f"Set FMLIB_DATA to the folder that holds one, or: {_how_to_get(load_manifest('synthetic'), root)}"
    )


def look(manifest: Manifest, root: str | Path | None = None, split: str = "train") -> tuple[int, str]:
    """What of a data set lies under a root.

    Args:
        manifest: the data set.
        root: folder that holds all data sets; default: FMLIB_DATA, else `data/`.
        split: of which samples are counted.

    Returns:
        Number of its complete samples, and why it is 0 where it is.
    """
    if not manifest.root(root).is_dir():
        return 0, "not here"
    if manifest.layout not in READERS:
        return 0, "no reader for it yet"
    try:
        return len(open_dataset(manifest.name, split, root, on_missing="skip")), ""
    except ModuleNotFoundError as error:
        return 0, f"not looked at: install {error.name}"
    except (FileNotFoundError, ValueError) as error:
        return 0, str(error)


def _reader(manifest: Manifest):
    if manifest.layout not in READERS:
        raise ValueError(
            f"{manifest.name}: no reader for the layout {manifest.layout!r}; there are {', '.join(READERS)}"
        )
    module, reader = READERS[manifest.layout]
    return getattr(import_module(f"fmlib.data.{module}"), reader)


def _how_to_get(manifest: Manifest, root: str | Path | None) -> str:
    if manifest.name == "synthetic":
        return f"make scenes: fmlib scenes {manifest.root(root)}"
    return f"fetch it from {manifest.home} (licence: {manifest.licence}), or set FMLIB_DATA to the folder it is in"
