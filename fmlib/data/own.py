"""Data of one's own: any folder of images, described by ten lines of TOML beside them."""

import tomllib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from fmlib.data.folders import Folders
from fmlib.data.paths import SPLIT
from fmlib.data.statistics import band_statistics
from fmlib.modality import Modality

SHARES = {"validation": 0.15, "test": 0.15}  # where nothing is said
MEASURED = 256  # samples that statistics are measured on
SENSOR = {"path": '"sar/{id}.tif"', "bands": '["VV", "VH"]', "unit": '"dB"', "valid_range": "[-40, 10]"}  # examples
LABELS = {"path": '"label/{id}.png"', "classes": '["dry", "water"]'}
TABLES = ("sensors", "labels", "shares", "lists", "split_folders")
WORDS = ("place", "on_missing")


def open_folder(toml: str | Path, split: str = "train", sensors: Sequence[str] | None = None, **options) -> Folders:
    """Open a folder of images that a TOML file beside them describes.

    A table a sensor says where its files are and what they hold::

        [sensors.sar]
        path = "sar/{id}.tif"
        bands = ["VV", "VH"]
        unit = "dB"
        valid_range = [-40, 10]

    A sensor may also have ``file_bands``, as in `Folders`, and every other field of `Modality`. Without ``mean`` and
    ``std`` they are measured on up to 256 training samples, and a warning gives them. ``[labels]`` may hold ``path``,
    ``classes`` and ``codes``; ``[shares]``, ``[lists]``, ``[split_folders]``, ``place`` and ``on_missing`` are those of
    `Folders`.
    Where nothing is said of splits, 15 % of the samples are held back for validation and as many for test.

    Args:
        toml: the file; paths in it start from its folder.
        split: e.g. ``"train"``.
        sensors: which to read; default: all.
        options: of `Folders`, e.g. ``size=256``.

    Returns:
        The data set, named like the file.

    Raises:
        FileNotFoundError: there is no such file, or no images, or incomplete samples.
        ValueError: a key that is missing, unknown or wrong; the file, the key and the fix are named.
    """
    toml = Path(toml)
    try:
        table = _read(toml)
        chosen = _choose(table["sensors"], sensors)
        modalities = {name: _modality(name, entry) for name, entry in chosen.items()}
        options = {"name": toml.stem} | _options(table) | options
        classes = tuple(table.get("labels", {}).get("classes", ()))
        data = Folders(toml.parent, split, modalities, classes, **options)
        unmeasured = [name for name, entry in chosen.items() if "mean" not in entry]
        if unmeasured:
            train = data if split == "train" else Folders(toml.parent, "train", modalities, classes, **options)
        for name in unmeasured:
            data.modalities[name] = _measure(train, name, toml)
        return data
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{toml}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{toml}: {error}") from error


def _read(toml: Path) -> dict:
    if not toml.is_file():
        raise FileNotFoundError("there is no such file; it describes the images beside it, see open_folder")
    try:
        table = tomllib.loads(toml.read_text(encoding="utf-8"))
    except ValueError as error:  # neither TOML nor UTF-8
        raise ValueError(f"not valid TOML ({error}); texts stand in quotes, lists in brackets") from error
    _check_keys(table, {"sensors": "a table [sensors.sar]"}, (*TABLES, *WORDS), "")
    if wrong := [key for key in TABLES if not isinstance(table.get(key, {}), dict)]:
        raise ValueError(f"{wrong[0]} is no table; write [{wrong[0]}] on a line of its own")
    return table


def _choose(entries: dict, sensors: Sequence[str] | None) -> dict:
    if unknown := [name for name in sensors or () if name not in entries]:
        raise ValueError(f"no sensor {unknown}; it describes {tuple(entries)}")
    return {name: entries[name] for name in sensors or entries}


def _modality(name: str, entry: dict) -> Modality:
    """The sensor; without statistics, the middle of its range stands in for them."""
    known = {field.name for field in fields(Modality)} - {"name"}
    if not isinstance(entry, dict):
        raise ValueError(f"sensors.{name} is no table; write [sensors.{name}] on a line of its own")
    _check_keys(entry, SENSOR, known | {"path", "file_bands"}, f"sensors.{name}")
    if ("mean" in entry) != ("std" in entry):
        raise ValueError(f"sensors.{name} has one of mean and std; give both, or neither to have them measured")
    for key in ("bands", "valid_range"):
        if not isinstance(entry[key], list) or not entry[key]:
            raise ValueError(f"sensors.{name}.{key} is {entry[key]!r}, not a list; write e.g. {key} = {SENSOR[key]}")
    try:
        middle, bands = sum(entry["valid_range"]) / 2, len(entry["bands"])
        statistics = {"mean": [middle] * bands, "std": [1.0] * bands}
        return Modality(name=name, **statistics | {key: entry[key] for key in entry if key in known})
    except (TypeError, ValueError) as error:
        raise ValueError(f"sensors.{name}: {error}") from error


def _options(table: dict) -> dict:
    """What the file says to `Folders`."""
    sensors, labels = table["sensors"], table.get("labels", {})
    options = {key: table[key] for key in ("shares", "lists", "split_folders", *WORDS) if key in table}
    options["paths"] = {name: entry["path"] for name, entry in sensors.items()}
    options["file_bands"] = {name: entry["file_bands"] for name, entry in sensors.items() if "file_bands" in entry}
    if labels:
        _check_keys(labels, LABELS, (*LABELS, "codes"), "labels")
        options |= {"paths": options["paths"] | {"label": labels["path"]}, "label_codes": labels.get("codes")}
    if not {"shares", "lists", "split_folders"} & set(table) and SPLIT not in str(options["paths"]):
        options["shares"] = SHARES
    return options


def _measure(train: Folders, name: str, toml: Path) -> Modality:
    """A sensor with the statistics of some training samples, and a warning that gives them."""
    rows = np.sort(np.random.default_rng(0).permutation(len(train))[:MEASURED])
    mean, std = band_statistics(train.select(rows, sensors=(name,)), name)
    numbers = ("mean", mean), ("std", std)
    lines = "\n".join(f"{key} = {[float(f'{value:.5g}') for value in values]}" for key, values in numbers)
    warnings.warn(
        f"{toml}: sensors.{name} has no mean and std; measured on {len(rows)} training samples. To keep them, write "
        f"under [sensors.{name}]:\n{lines}",
        stacklevel=3,
    )
    return train.modalities[name].replace(mean=mean, std=std)


def _check_keys(table: dict, required: dict[str, str], allowed: Iterable[str], where: str) -> None:
    for key, example in required.items():
        if key not in table:
            raise ValueError(f"{where or 'it'} lacks {key}; add {f'{key} = {example}' if where else example}")
    if unknown := sorted(set(table) - set(allowed)):
        raise ValueError(f"{where or 'it'} has unknown {unknown}; known are {', '.join(sorted(allowed))}")
