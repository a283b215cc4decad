"""Data sets as data: everything known about one is read from its file in `data_manifests/`."""

import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from fmlib.modality import Modality

MANIFESTS = Path(__file__).resolve().parent.parent / "data_manifests"
TASKS = ("multi-label", "single-label", "segmentation", "fusion", "none")
ACCESS = ("direct", "git", "form", "made")
OPTIONAL = {"options"}
TEXTS = ("name", "title", "layout", "folder", "home", "licence", "terms", "citation", "access", "how", "task")
KINDS = dict.fromkeys(TEXTS, str) | dict.fromkeys(("classes", "files", "traps"), list)
KINDS |= dict.fromkeys(("splits", "sensors", "options"), dict)


@dataclass(frozen=True)
class Manifest:
    """One data set: where it is from, on what terms, how it lies on disk, and what its sensors measure.

    Args:
        name: key of the data set, and name of its TOML file.
        title: name for figures and tables.
        layout: which reader of `fmlib.data` opens it.
        folder: its folder under the data root.
        home: web address it is published at, or the command that makes it.
        licence: name of the licence, or ``"none stated"``.
        terms: what the licence asks for, in a sentence.
        citation: the publication to cite.
        access: ``"direct"`` (its files can be fetched), ``"git"`` (a repository to clone), ``"form"`` (behind a
            registration or a hosting service's page), or ``"made"`` (by this project).
        how: what to do to get it, in a sentence or two.
        task: one of `TASKS`.
        classes: class names; a label's index is the place in this order.
        splits: name of each split, and how it was made.
        sensors: one `Modality` a sensor, in the order models see them.
        statistics: for each sensor, where its mean and std come from.
        files: published files, each ``{path}``, and ``url``, ``bytes``, ``md5`` or ``sha256`` where they are known.
        traps: what to know before trusting a number measured on it.
        options: arguments for the reader, e.g. the patterns of its files' paths.
    """

    name: str
    title: str
    layout: str
    folder: str
    home: str
    licence: str
    terms: str
    citation: str
    access: str
    how: str
    task: str
    classes: tuple[str, ...]
    splits: dict[str, str]
    sensors: dict[str, Modality]
    statistics: dict[str, str]
    files: tuple[dict, ...]
    traps: tuple[str, ...]
    options: dict

    def root(self, path: str | Path | None = None) -> Path:
        """Folder of this data set.

        Args:
            path: folder that holds all data sets; default: `data_root`.
        """
        return Path(path or data_root()) / self.folder


def data_root() -> Path:
    """Folder that holds all data sets: the environment variable FMLIB_DATA, else `data/`."""
    return Path(os.environ.get("FMLIB_DATA") or "data")


def list_manifests() -> list[str]:
    """Names of the data sets that have a manifest, sorted."""
    return sorted(path.stem for path in MANIFESTS.glob("*.toml"))


def load_manifest(name: str) -> Manifest:
    """Read the manifest of a data set.

    Args:
        name: as `list_manifests` gives it, e.g. ``"ombria"``.

    Returns:
        The manifest, its sensors as `Modality` records.

    Raises:
        ValueError: no such manifest, or its file is not TOML, lacks a key, has an unknown one, or contradicts itself.
    """
    path = MANIFESTS / f"{name}.toml"
    if name not in list_manifests():
        raise ValueError(f"no data set {name!r}: {MANIFESTS} describes {', '.join(list_manifests()) or 'none'}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # neither TOML nor UTF-8
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    return parse(table, path)


def parse(table: dict, path: Path) -> Manifest:
    """The manifest that a TOML file's table describes; raises ValueError, naming `path`, if it is not whole."""
    keys = {field.name for field in fields(Manifest)} - {"statistics"}  # written beside each sensor's numbers
    _check_keys(table, required=keys - OPTIONAL, allowed=keys, where=str(path))
    for key, kind in KINDS.items():
        _check_kind(table.get(key, kind()), kind, f"{path}: {key}")
    if table["name"] != path.stem:
        raise ValueError(f"{path}: name is {table['name']!r}, but the file is called {path.stem!r}; make them equal")
    for key, known in (("task", TASKS), ("access", ACCESS)):
        if table[key] not in known:
            raise ValueError(f"{path}: {key} {table[key]!r} is not one of {known}")
    for entry in table["files"]:
        _check_kind(entry, dict, f"{path}: files")
        _check_keys(entry, {"path"}, {"path", "url", "bytes", "md5", "sha256"}, f"{path}: files")
    sensors = {name: _sensor(name, entry, path) for name, entry in table["sensors"].items()}
    statistics = {name: entry["statistics"] for name, entry in table["sensors"].items()}
    lists = {key: tuple(table[key]) for key in ("classes", "files", "traps")}
    return Manifest(**{"options": {}, **table, **lists, "sensors": sensors, "statistics": statistics})


def _sensor(name: str, entry: dict, path: Path) -> Modality:
    allowed = {field.name for field in fields(Modality)} - {"name"} | {"statistics"}
    _check_kind(entry, dict, f"{path}: sensors.{name}")
    required = {"title", "bands", "unit", "valid_range", "mean", "std", "statistics"}
    _check_keys(entry, required, allowed, f"{path}: sensors.{name}")
    try:
        return Modality(name=name, **{key: value for key, value in entry.items() if key != "statistics"})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: sensors.{name}: {error}") from error


def _check_kind(value, kind: type, where: str) -> None:
    texts = value if kind is list and not where.endswith("files") else ()
    if not isinstance(value, kind) or any(not isinstance(text, str) for text in texts):
        names = {str: "a text", list: "a list of texts", dict: "a table"}
        raise ValueError(f"{where} is {value!r}, expected {names[kind]}; data_manifests/README.md describes each key")


def _check_keys(table: dict, required: set, allowed: set, where: str) -> None:
    if missing := sorted(required - table.keys()):
        raise ValueError(f"{where}: missing {missing}; data_manifests/README.md describes each key")
    if unknown := sorted(table.keys() - allowed):
        raise ValueError(f"{where}: unknown {unknown}; allowed are {sorted(allowed)}")
