"""From paths to samples: patterns with fields, files joined on them, and the split of each sample."""

import csv
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fmlib.data.pictures import ENDINGS

FIELD = re.compile(r"\{([a-zA-Z_]\w*)\}")
SPLIT = "{split}"  # in a pattern: the split's folder
Listing = Callable[[str], tuple[list[str], list[str]]]


class Found(NamedTuple):
    """Files of one sensor: the pattern that led to them, its fields, and values of these → path below the root."""

    pattern: str
    fields: tuple[str, ...]
    files: dict[tuple[str, ...], str]


class Index(NamedTuple):
    """Samples found: what each is called, its place, and for every sensor its file, "" where it has none."""

    ids: list[str]
    places: list[str]
    columns: dict[str, list[str]]


def list_folders(root: Path) -> Listing:
    """A function from a folder, relative to `root`, to the names of its folders and of its files.

    Each folder is listed once; names that start with a dot are left out.
    """

    @cache
    def listing(folder: str) -> tuple[list[str], list[str]]:
        folders, files = [], []
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        (folders if entry.is_dir() else files).append(entry.name)  # costs no look at the file
        except (FileNotFoundError, NotADirectoryError):
            pass
        return folders, files

    return listing


def find_all(root: Path, patterns: dict[str, Sequence[str]], folder: str) -> dict[str, Found]:
    """Files of every sensor.

    Args:
        root: the data set's folder.
        patterns: sensor (or ``"label"``, ``"map"``) → path patterns, of which the first with any match counts.
        folder: what stands in ``{split}``.
    """
    listing, found = list_folders(root), {}
    for key, choices in patterns.items():
        for pattern in choices:
            files = find_files(pattern.replace(SPLIT, folder), listing)
            if files or pattern == choices[-1]:
                fields = tuple(dict.fromkeys(FIELD.findall(pattern.replace(SPLIT, ""))))
                found[key] = Found(pattern, fields, files)
                break
    return found


def compile_pattern(pattern: str) -> list[re.Pattern]:
    """One expression for each depth of a path pattern, the last for whole paths; its groups are the fields.

    Raises:
        ValueError: unpaired braces, or an absolute path.
    """
    expressions, text, known = [], "", set()
    for part in pattern.split("/"):
        for token in re.split(r"(\{[a-zA-Z_]\w*\}|\*)", part):
            name = FIELD.fullmatch(token)
            if not name and (set(token) & set("{}\\") or not part):
                raise ValueError(f"path {pattern!r}: write it from the data's folder, with '/' and fields like {{id}}")
            field = name and (f"(?P={name[1]})" if name[1] in known else f"(?P<{name[1]}>[^/]+)")
            text += field or ("[^/]*" if token == "*" else re.escape(token))
            known |= {name[1]} if name else set()
        expressions.append(re.compile(text))
        text += "/"
    return expressions


def find_files(pattern: str, listing: Listing) -> dict[tuple[str, ...], str]:
    """Files that match a pattern.

    Args:
        pattern: a path whose fields in braces match anything but "/", a field that comes again the same; ``*``
            matches anything but "/".
        listing: of `list_folders`.

    Returns:
        Values of the fields → the file's path.

    Raises:
        ValueError: two files with equal fields; both are named.
    """
    *folders, expression = compile_pattern(pattern)
    bases = [""]
    for part, matches in zip(pattern.split("/"), folders, strict=False):
        if FIELD.search(part) or "*" in part:
            inner = (base + name for base in bases for name in listing(base)[0])
            bases = [f"{path}/" for path in inner if matches.fullmatch(path)]
        else:
            bases = [f"{base}{part}/" for base in bases]
    found, endings = {}, ENDINGS if pattern.endswith(("}", "*")) else ("",)  # leaves out side-car files
    for path in (base + name for base in bases for name in listing(base)[1]):
        if (match := expression.fullmatch(path)) and path.lower().endswith(endings):
            if (values := match.groups()) in found:
                raise ValueError(
                    f"{found[values]} and {path} are the same sample by {pattern!r}; remove one, or give what tells "
                    "them apart a field, e.g. {season} instead of *"
                )
            found[values] = path
    return found


def join(found: dict[str, Found], place: Sequence[str] = (), partial: Iterable[str] = ()) -> Index:
    """Samples, sorted: files whose fields agree; a field that a pattern lacks is not joined on.

    Args:
        found: sensor (or ``"label"``, ``"map"``) → its files.
        place: fields that make a place; none: each sample is one.
        partial: those whose files need not belong to a sample, if their pattern lacks a field.

    Raises:
        ValueError: no pattern has all fields; no such field; two samples of one name.
    """
    full = max((one.fields for one in found.values()), key=len)
    for key, one in found.items():
        if not full or set(one.fields) - set(full):
            raise ValueError(f"path of {key!r} has the fields {one.fields}, another {full}: one must have all of them")
    if lacking := sorted(set(place) - set(full)):
        raise ValueError(f"place: no field {lacking} in the paths; they have {full}")
    by_folder = [key for key, one in found.items() if SPLIT in one.pattern] or list(found)
    makers = [key for key in by_folder if key not in partial or found[key].fields == full]
    samples = sorted(_samples({key: found[key] for key in makers}, full))
    ids = ["_".join(filter(None, sample)) for sample in samples]
    if len(set(ids)) < len(ids):
        known = {}
        one, two = next((known[i], s) for i, s in zip(ids, samples, strict=True) if known.setdefault(i, s) != s)
        raise ValueError(f"{one} and {two} would both be called {'_'.join(one)!r}: rename one, or join fields into one")
    places = ["_".join(_project(sample, full, tuple(place))) for sample in samples] if place else ids
    return Index(ids, places, {key: _column(one, samples, full) for key, one in found.items()})


def _column(one: Found, samples: list[tuple[str, ...]], full: tuple[str, ...]) -> list[str]:
    values = samples if one.fields == full else (_project(sample, full, one.fields) for sample in samples)
    return [one.files.get(of, "") for of in values]


def _samples(makers: dict[str, Found], full: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Values of all fields, for each sample; "" where no file has one."""
    samples = set()
    for one in sorted(makers.values(), key=lambda one: -len(one.fields)):
        if one.fields == full:
            samples |= one.files.keys()
            continue
        known = {_project(sample, full, one.fields) for sample in samples}
        for values in one.files.keys() - known:
            own = dict(zip(one.fields, values, strict=True))
            samples.add(tuple(own.get(name, "") for name in full))
    return samples


def _project(sample: tuple[str, ...], full: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Values of some of a sample's fields."""
    return tuple(sample[full.index(name)] for name in names)


def read_list(path: Path) -> list[str]:
    """First column of a text or CSV file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it lists a split; fetch it, or open the data with lists={{}}")
    try:
        rows = csv.reader(path.read_text(encoding="utf-8-sig").splitlines())
        return [row[0].strip() for row in rows if row and row[0].strip()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as text ({error}); save it as UTF-8") from error


def stem(name: str) -> str:
    """A listed name without folders and ending; what follows another dot belongs to the name."""
    base, ending = os.path.splitext(name.replace("\\", "/").rpartition("/")[2])
    return base if ending.lower() in ENDINGS else base + ending


def rows_of(names: set[str], columns: Iterable[Sequence[str]], places: Sequence[str]) -> dict[str, set[int]]:
    """Samples that names stand for: a name is that of a file without ending, else that of a place.

    Raises:
        ValueError: a name that two files of one sensor have.
    """
    rows, found = {}, {}
    for column in columns if names else ():
        paths = {}
        for row, path in enumerate(column):
            if (name := path.rpartition("/")[2].rpartition(".")[0]) in names:
                if paths.setdefault(name, path) != path:
                    raise ValueError(f"{name!r} in a list of a split is both {paths[name]} and {path}; rename one")
                found.setdefault(name, set()).add(row)
    for row, place in enumerate(places):
        if place in names and place not in found:
            rows.setdefault(place, set()).add(row)
    return found | rows


def assign_splits(
    lists: dict[str, Sequence[str]], shares: dict[str, float], columns: Sequence[list[str]], places: list[str]
) -> tuple[list[str], dict[str, list[str]]]:
    """The split of each sample.

    Args:
        lists: split → names in its list; with one for train, a sample that none names is in no split ("").
        shares: split → share of the training places drawn for it by a hash of the place, which never changes.
        columns: for each sensor, the file of each sample ("": none).
        places: of each sample.

    Returns:
        The split of each sample, and for each list the names that stand for none.

    Raises:
        ValueError: a sample in two lists; a name that stands for two files.
    """
    splits = ["" if "train" in lists else "train"] * len(places)
    rows, absent, taken = rows_of({stem(name) for names in lists.values() for name in names}, columns, places), {}, {}
    for split, names in lists.items():
        names = [stem(name) for name in names]
        if len(names) > 1 and names[0] not in rows and _is_header(*lists[split][:2]):
            names = names[1:]
        absent[split] = [name for name in names if name not in rows]
        for row in {row for name in names for row in rows.get(name, ())}:
            if taken.setdefault(row, split) != split:
                path = next(column[row] for column in columns if column[row])
                raise ValueError(f"{path} is in the lists of {taken[row]!r} and of {split!r}; keep it in one")
            splits[row] = split
    drawn = {place: draw(place, shares) for place in set(places)}
    for row, place in enumerate(places):
        if splits[row] == "train":
            splits[row] = drawn[place]
    return splits, absent


def _is_header(first: str, second: str) -> bool:
    """Is the first line of a list, which names no file, a heading? Names of files have an ending, or digits."""
    return Path(first).suffix != Path(second).suffix or not any(map(str.isdigit, first))


def draw(place: str, shares: dict[str, float]) -> str:
    """The split that a place is drawn for: by a hash of its name, so that more files never move it."""
    if min(shares.values(), default=0) < 0 or sum(shares.values()) > 1 + 1e-9:
        raise ValueError(f"shares: {shares} are not parts of one; what they leave is train")
    position = int.from_bytes(hashlib.sha256(place.encode()).digest()[:8], "big") / 2**64
    for split in sorted(shares):
        position -= shares[split]
        if position < 0:
            return split
    return "train"
