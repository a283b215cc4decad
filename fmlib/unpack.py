"""Unpacking archives: nothing half-made under a final name, and nothing outside the folder."""

import errno
import os
import shutil
import tarfile
import time
import zipfile
from pathlib import Path

from tqdm.auto import tqdm
from tqdm.utils import CallbackIOWrapper

from fmlib.progress import watched

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")
CHUNK = 2**16  # bytes read at once


def unpack_archive(archive: Path, folder: Path, progress: bool = True) -> None:
    """Unpack into a folder of its own, then move what came out into place, into the folders that are there.

    Args:
        archive: file whose name ends in one of `ARCHIVES`.
        folder: where to; files of the same names are replaced, and counted in the line that is printed.
        progress: print a line, and show a bar where a person watches.

    Raises:
        ValueError: the archive is damaged, or a member would land outside the folder; nothing is left of it.
        OSError: the disk is full; nothing is left of what was unpacked.
    """
    start, size, beside = time.monotonic(), archive.stat().st_size, folder / f".{archive.name}.unpacking"
    shutil.rmtree(beside, ignore_errors=True)  # left by a killed run
    beside.mkdir()
    try:
        with open(archive, "rb") as file, bytes_bar(f"unpack {archive.name}", size, 0, progress) as bar:
            count = _extract(CallbackIOWrapper(bar.update, file), archive.name, beside)
        replaced = _move(beside, folder)
    except Exception as error:  # each format has exceptions of its own
        full = isinstance(error, OSError) and disk_is_full(error)
        advice = "make room, then fetch again" if full else "if it is damaged, delete it and fetch again"
        raise (OSError if full else ValueError)(f"{archive} cannot be unpacked: {error}; {advice}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    if progress:
        note = f", {replaced} of them in place of older ones" if replaced else ""
        print(f"unpacked {archive.name}: {count} files{note} in {time.monotonic() - start:.0f} s")


def _extract(file, name: str, folder: Path) -> int:
    """Extract an archive read from a binary file; returns the number of files."""
    if name.endswith(".zip"):
        with zipfile.ZipFile(file) as archive:
            return _extract_zip(archive, folder)
    if name.endswith(".zst"):
        zstd = import_zstandard().ZstdDecompressor(max_window_size=2**31)  # as archives made with --long need
        stream = zstd.stream_reader(file, read_across_frames=True)
        with stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            return _extract_tar(archive, folder)
    with tarfile.open(fileobj=file) as archive:
        return _extract_tar(archive, folder)


def _extract_tar(archive: tarfile.TarFile, folder: Path) -> int:
    count = 0
    while member := archive.next():
        archive.extract(member, folder, filter="data")
        count += not member.isdir()
        archive.members.clear()  # else millions of members fill the memory
    while block := archive.fileobj.read(CHUNK):  # tarfile takes a damaged header for the end
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"damaged after {count} files")
    return count


def _extract_zip(archive: zipfile.ZipFile, folder: Path) -> int:
    for member in archive.infolist():
        if not (folder / member.filename).resolve().is_relative_to(folder.resolve()):
            raise zipfile.BadZipFile(f"{member.filename!r} would land outside the folder")
        archive.extract(member, folder)
    return sum(not member.is_dir() for member in archive.infolist())


def _move(source: Path, target: Path) -> int:
    """Move what a folder holds into another, into the folders there; returns how many files it replaced."""
    replaced = 0
    for path in list(source.iterdir()):
        place = target / path.name
        if path.is_dir() and not path.is_symlink() and place.is_dir():
            replaced += _move(path, place)
        else:
            replaced += place.is_file()
            os.replace(path, place)
    return replaced


def import_zstandard():
    """The package that reads .tar.zst, or an ImportError that says how to get it."""
    try:
        import zstandard
    except ImportError as error:
        advice = "pip install zstandard, or fetch with unpack=False and use tar --zstd -xf"
        raise ImportError(f".tar.zst needs a package: {advice}") from error
    return zstandard


def bytes_bar(name: str, total: int | None, done: int, progress: bool) -> tqdm:
    """A bar that counts bytes, hidden unless a person watches."""
    hidden = not (progress and watched())
    return tqdm(total=total, initial=done, desc=name, unit="B", unit_scale=True, leave=False, disable=hidden)


def disk_is_full(error: OSError) -> bool:
    """Whether an error says that a disk, or a quota on it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
