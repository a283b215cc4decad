"""Fetching data sets: downloads that resume, get their names only once verified, and are unpacked."""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm.auto import tqdm

import fmlib
from fmlib.manifest import Manifest
from fmlib.unpack import ARCHIVES, bytes_bar, disk_is_full, import_zstandard, unpack_archive

CHUNK = 2**16  # bytes read at once; at most so many are lost when a connection drops
TIMEOUT = 60  # seconds without a byte until a connection counts as dropped
WAITS = (2, 10, 30, 120, 300)  # seconds before each retry; they start anew once a file has grown
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP answers that may be better next time


def fetch(
    manifest: Manifest, root: str | Path | None = None, only: str = "", unpack: bool = True, progress: bool = True
) -> list[Path]:
    """Download the files of a data set, verify them, and unpack its archives.

    Call it again after any failure: it goes on where it stopped, and leaves alone what is there and verified. An
    archive may be deleted once unpacked: ``<archive>.unpacked`` beside it remembers it. Delete that to start anew.

    Args:
        manifest: the data set; its archives are unpacked into its folder, and merged with what lies there.
        root: folder that holds all data sets; default: `fmlib.manifest.data_root`.
        only: fetch only the files whose path contains this.
        unpack: unpack .tar (plain, gz, bz2, xz, zst) and .zip.
        progress: print a line a file, and show bars where a person watches.

    Returns:
        Paths of the files, in the manifest's order; an archive that was deleted after unpacking is among them.

    Raises:
        ValueError: the files cannot be fetched by program, `only` fits none, or a file is not what was published.
        OSError: no room on the disk, or the server cannot be reached; what was received is kept for the next call.
        ImportError: an archive needs the package zstandard.
    """
    folder = manifest.root(root)
    entries = _choose(manifest, folder, only, unpack)
    folder.mkdir(parents=True, exist_ok=True)
    todo = [entry for entry in entries if not _is_unpacked(entry, folder)]
    states = {entry["path"]: _state(entry, folder, progress) for entry in todo}
    here = {path for path, state in states.items() if state.startswith(("verified", "no checksum"))}
    _check_space(folder, sum(_space(entry, folder, entry["path"] in here, unpack) for entry in todo))
    for entry in todo:
        path, digest = folder / entry["path"], _checksum(entry)[1]
        if states[entry["path"]].startswith("wrong"):
            print(f"{path} is there with a {states[entry['path']]}; fetching it anew")
        if entry["path"] not in here:
            digest = _download(entry, path, manifest.home, progress)
        if unpack and path.name.endswith(ARCHIVES):
            unpack_archive(path, folder, progress)
            _mark_unpacked(entry, path, digest)
    if progress and (idle := len(entries) - len(todo) + len(here)):
        print(f"{manifest.name}: {idle} of {len(entries)} files were here already")
    return [folder / entry["path"] for entry in entries]


def verify(manifest: Manifest, root: str | Path | None = None) -> list[dict]:
    """Compare the files on disk with what was published.

    Args:
        manifest: the data set.
        root: folder that holds all data sets; default: `fmlib.manifest.data_root`.

    Returns:
        One row a file: ``path``, ``state`` and ``bytes`` (on disk, 0 if absent). The state is ``"verified"``,
        ``"missing"``, ``"unpacked (archive removed)"``, ``"wrong size"``, ``"wrong checksum"`` or
        ``"no checksum published (N bytes)"``.
    """
    folder, rows = manifest.root(root), []
    for entry in manifest.files:
        path, state = folder / entry["path"], _state(entry, folder, progress=True)
        if state == "missing" and _is_unpacked(entry, folder):
            state = "unpacked (archive removed)"
        rows.append({"path": entry["path"], "state": state, "bytes": _size(path)})
    return rows


def _choose(manifest: Manifest, folder: Path, only: str, unpack: bool) -> list[dict]:
    """The wanted entries, once it is certain that all of them can be fetched."""
    entries = [entry for entry in manifest.files if only in entry["path"]]
    by_hand = f"{manifest.how}\nhome: {manifest.home}\nterms: {manifest.terms}\nfolder: {folder}"
    if manifest.access != "direct" or not manifest.files:
        raise ValueError(f"{manifest.name} cannot be fetched by program (access: {manifest.access}). {by_hand}")
    if not entries:
        paths = ", ".join(entry["path"] for entry in manifest.files)
        raise ValueError(f"{manifest.name}: no file's path contains {only!r}; the files are {paths}")
    for entry in entries:
        if urlsplit(url := entry.get("url", "none")).scheme not in ("http", "https"):
            raise ValueError(f"{entry['path']} of {manifest.name} has no http address (given: {url}). {by_hand}")
    if unpack and any(entry["path"].endswith(".zst") for entry in entries):
        import_zstandard()  # better missing now than after a night's download
    return entries


def _space(entry: dict, folder: Path, here: bool, unpack: bool) -> int:
    """Bytes a file will take, as far as they are known: what it lacks, and at least its size again unpacked."""
    path = folder / entry["path"]
    size = _size(path) if here else entry.get("bytes", 0)
    lacks = 0 if here else max(0, size - _size(_beside(path, ".part")))
    return lacks + (size if unpack and path.name.endswith(ARCHIVES) else 0)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{folder}: {_amount(needed)} needed, {_amount(free)} free on its disk; make room, set FMLIB_DATA to a "
            "larger disk, or fetch file by file (only=...) and delete each archive once unpacked"
        )


def _state(entry: dict, folder: Path, progress: bool) -> str:
    path, (kind, expected) = folder / entry["path"], _checksum(entry)
    if not path.is_file():
        return "missing"
    if _size(path) != entry.get("bytes", _size(path)):
        return "wrong size"
    if expected is None:
        return f"no checksum published ({_size(path)} bytes)"
    return "verified" if _hash(path, kind, progress).hexdigest() == expected else "wrong checksum"


def _checksum(entry: dict) -> tuple[str, str | None]:
    """Kind and value of a published checksum; without one, sha256 and None."""
    return ("md5", entry["md5"]) if "md5" in entry and "sha256" not in entry else ("sha256", entry.get("sha256"))


def _hash(path: Path, kind: str, progress: bool):
    digest = hashlib.new(kind, usedforsecurity=False)
    if path.is_file():
        with open(path, "rb") as file, bytes_bar(f"check {path.name}", _size(path), 0, progress) as bar:
            while chunk := file.read(16 * CHUNK):
                digest.update(chunk)
                bar.update(len(chunk))
    return digest


def _is_unpacked(entry: dict, folder: Path) -> bool:
    marker, (kind, expected) = _beside(folder / entry["path"], ".unpacked"), _checksum(entry)
    recorded = json.loads(marker.read_text()).get(kind) if marker.is_file() else None
    # an archive published anew has another checksum; without a sum of the same kind there is no telling
    return marker.is_file() and (expected is None or recorded in (expected, None))


def _mark_unpacked(entry: dict, path: Path, digest: str | None) -> None:
    part = _beside(path, ".unpacked.part")
    part.write_text(json.dumps({"path": entry["path"], "bytes": _size(path), _checksum(entry)[0]: digest}) + "\n")
    os.replace(part, _beside(path, ".unpacked"))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _amount(size: int) -> str:
    return tqdm.format_sizeof(size, "B")  # in powers of 1000, as archives are described


class _Part:
    """The beginning of a file on disk, and its running checksum."""

    def __init__(self, path: Path, kind: str, progress: bool):
        self.path, self.kind = path, kind
        self.size, self.digest = _size(path), _hash(path, kind, progress)

    def restart(self) -> None:
        self.path.unlink(missing_ok=True)
        self.size, self.digest = 0, hashlib.new(self.kind, usedforsecurity=False)


def _download(entry: dict, path: Path, home: str, progress: bool) -> str:
    """Download one file, and give it its name once it is verified; returns its checksum."""
    start, (kind, expected) = time.monotonic(), _checksum(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(_beside(path, ".part"), kind, progress)
    resumed = f", resumed at {_amount(part.size)}" if part.size else ""
    try:
        _receive_all(entry, part, progress)
    except OSError as error:
        if not disk_is_full(error):
            raise
        kept = f"{_amount(_size(part.path))} are kept in {part.path.name}"
        raise OSError(f"{path}: the disk is full; {kept}: make room, then fetch again to go on") from error
    digest = part.digest.hexdigest()
    if digest != (expected or digest):
        part.restart()
        raise ValueError(
            f"{path}: {kind} expected {expected}, got {digest}; the download is deleted: fetch again, and if it "
            f"happens again, the published file has changed or the address gives another: see {home}"
        )
    os.replace(part.path, path)
    if expected is None:
        print(f"{path}: no checksum is published, so damage cannot be told; record this one: sha256 = {digest!r}")
    if progress:
        result = f"{kind} verified" if expected else "not verified"
        print(f"fetched {path.name}: {_amount(part.size)} in {time.monotonic() - start:.0f} s{resumed}, {result}")
    return digest


def _receive_all(entry: dict, part: _Part, progress: bool) -> None:
    """Receive until the part is whole, through dropped connections."""
    size, failures, furthest = entry.get("bytes"), 0, part.size
    while part.size != size:  # never equal where the size is unknown
        try:
            return _receive(entry, part, progress)
        except ConnectionError as error:
            failures = 1 if part.size > furthest else failures + 1
            furthest = max(furthest, part.size)
            if failures > len(WAITS):
                kept = f"{_amount(part.size)} are kept in {part.path.name}: fetch again later to go on"
                raise OSError(f"{entry['url']}: {error}, {failures} times in a row; {kept}") from error
            time.sleep(WAITS[failures - 1])


def _receive(entry: dict, part: _Part, progress: bool) -> None:
    """Append what the part lacks; a server that only sends whole files replaces it."""
    with _request(entry["url"], part) as response:
        if response.status == 200:
            part.restart()
        total = _total(response, part.size)
        size = entry.get("bytes", total)
        if total not in (size, None):
            raise ValueError(
                f"{entry['url']} gives {total} bytes, the manifest says {size}: the published file has changed, or "
                "this is a page; open the address in a browser, and correct the manifest"
            )
        _check_space(part.path.parent, (size or 0) - part.size)
        with open(part.path, "ab") as file, bytes_bar(part.path.stem, size, part.size, progress) as bar:
            for chunk in _chunks(response):
                file.write(chunk)
                part.digest.update(chunk)
                part.size += len(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if part.size < (size or 0):
        raise ConnectionError(f"the connection closed after {part.size} of {size} bytes")
    if not part.size == _size(part.path) == (size or part.size):
        sizes = f"{part.size} bytes received, {_size(part.path)} written, {size or 'unknown'} expected"
        part.restart()
        raise ValueError(f"{part.path}: {sizes}; it is deleted: see that no other fetch runs, and fetch again")


def _request(url: str, part: _Part):
    """Ask for what a part lacks."""
    headers = {"User-Agent": f"fmlib/{fmlib.__version__}"} | ({"Range": f"bytes={part.size}-"} if part.size else {})
    try:
        return urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and part.size:  # no such range: the part is not of this file
            part.restart()
            return _request(url, part)
        if error.code in PASSING:
            raise ConnectionError(f"answered {error.code} {error.reason}") from error
        raise OSError(f"{url} answered {error.code} {error.reason}; open it in a browser: it may have moved") from error
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"no connection ({error})") from error


def _total(response, start: int) -> int | None:
    """Size of the whole file, if the server tells it; the answer must begin at `start`."""
    if response.status == 200:
        length = response.headers.get("Content-Length")
        return length and int(length)
    match = re.fullmatch(rf"bytes {start}-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if match is None:
        answer = f"{response.status} with Content-Range {response.headers.get('Content-Range')}"
        raise ValueError(f"{response.url}, asked from byte {start}, answered {answer}; delete the .part to start anew")
    return None if match[1] == "*" else int(match[1])


def _chunks(response) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK):
            yield chunk
    except (OSError, HTTPException) as error:  # told apart from errors of the disk
        raise ConnectionError(f"the connection dropped ({error})") from error
