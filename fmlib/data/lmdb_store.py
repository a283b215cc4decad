"""Patches in an LMDB environment: key = patch name in UTF-8, value = safetensors dictionary of its bands.

This is the layout that rico-hdl, the tool of BigEarthNet's authors, writes (github.com/rsim-tu-berlin/rico-hdl), and
that ConfigILM reads.
"""

import os
import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save
from tqdm import tqdm

from fmlib.progress import watched

BATCH = 512  # patches a transaction

SLACK = (
    2**20
)  # bytes a healthy file may be shorter than its last page number says: pages freed before they were written


class LmdbStore:
    """Read-only access to such an environment.

    Each process opens the environment for itself, when it first needs it: nothing open is pickled or inherited.

    Args:
        folder: holds data.mdb.

    Raises:
        FileNotFoundError: there is no data.mdb.
        ValueError: it is truncated, no LMDB environment, or holds pickled objects; pickles are never loaded.
    """

    def __init__(self, folder: str | Path):
        self.file = Path(folder).resolve() / "data.mdb"  # one spelling: an environment opens once
        if not self.file.is_file():
            raise FileNotFoundError(f"{self.file} is missing; give the folder that an encoder wrote")
        self._refuse_pickles()

    def there(self, names: Iterable[str]) -> np.ndarray:
        """Which names are keys of the environment, (N,) bool; half a second for a million."""
        with _environment(self.file).begin(buffers=True) as transaction:
            cursor = transaction.cursor()
            return np.fromiter((cursor.set_key(name.encode()) for name in names), bool)

    def read(self, name: str) -> dict[str, np.ndarray]:
        """The arrays stored under a name, by band.

        Raises:
            KeyError: no such key.
            ValueError: the value is damaged, or no safetensors dictionary.
        """
        with _environment(self.file).begin() as transaction:
            value = transaction.get(name.encode())
        if value is None:
            raise KeyError(f"{self.file} has no key {name}")
        try:
            return load(value)
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(
                f"{self.file}: key {name} is no safetensors dictionary ({error}); write or fetch the archive again"
            ) from error

    def _refuse_pickles(self) -> None:
        with _environment(self.file).begin() as transaction, transaction.cursor() as cursor:
            value = cursor.value() if cursor.first() else b""
        if (
            value[:1] == b"\x80" and value[8:9] != b"{"
        ):  # a pickle's protocol mark; safetensors: 8 bytes of size, then {
            raise ValueError(
                f"{self.file} holds pickled objects, as encoders of BigEarthNet version 1 wrote them; loading pickles "
                "can run any code, so it is not done: encode the GeoTIFFs of version 2 (rico-hdl or write_lmdb)"
            )


# -- one environment a file and process: LMDB forbids to open one twice, or to use one across a fork ------------------

_opened: dict[Path, tuple[tuple, lmdb.Environment]] = {}
_lock = threading.Lock()


def _environment(file: Path) -> lmdb.Environment:
    status = os.stat(file)
    state = status.st_ino, status.st_size, status.st_mtime_ns
    with _lock:
        known, environment = _opened.get(file, (None, None))
        if known != state:
            if environment is not None:
                environment.close()
            environment = _open(file, status.st_size)
            _opened[file] = state, environment
    return environment


def close_all() -> None:
    """Close what this process has open: pages of a mapped file never leave the system's cache."""
    with _lock:
        for _, environment in _opened.values():
            environment.close()
        _opened.clear()


def _open(file: Path, size: int) -> lmdb.Environment:
    try:
        # readahead: patches are drawn at random; lock: nobody writes, and the folder may be read-only.
        options = {"readonly": True, "lock": False, "readahead": False, "meminit": False, "subdir": False}
        environment = lmdb.open(str(file), max_spare_txns=16, **options)
    except lmdb.Error as error:
        raise ValueError(
            f"{file}: cannot be opened as LMDB ({error}); write or fetch it again, unless other code has it open here"
        ) from error
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if size + SLACK < expected:  # reading past the end of a mapped file would kill the process
        environment.close()
        raise ValueError(f"{file}: truncated, {size:,} of {expected:,} bytes; write or fetch it again")
    return environment


def _forget() -> None:
    """In a child process: let go of what the parent had open."""
    global _lock
    _lock = threading.Lock()
    for _, environment in _opened.values():
        environment.close()
    _opened.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


# -- writing ---------------------------------------------------------------------------------------------------------


def write_lmdb(dataset, path: str | Path, progress: bool = True) -> Path:
    """Write a BigEarthNet version 2 data set as such an environment, every value as it is stored.

    It is written beside its final name and renamed when it is complete.

    Args:
        dataset: an opened `fmlib.data.bigearthnet.BigEarthNetV2`; what it leaves out (patches of other splits, bands,
            sensors, maps) is left out here.
        path: folder to make; ``Encoded-BigEarthNet`` beside the metadata is where the reader finds it.
        progress: show a bar where a person watches.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder is there.
        ValueError: a file that does not fit the layout; nothing is left behind.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} is there; remove it, or write to another folder")
    rows = {kind: np.flatnonzero(dataset.there[kind]).tolist() for kind in dataset.kinds}
    todo = sorted((dataset.key(kind, row), kind, row) for kind in dataset.kinds for row in rows[kind])
    # All patches of a sensor take equal room; a value fills whole pages, and the tree above them comes on top.
    room = sum(2 * len(rows[kind]) * len(_encode(dataset, kind, rows[kind][0])) for kind in dataset.kinds if rows[kind])
    beside = path.with_name(f"{path.name}.{os.getpid()}.writing")
    beside.mkdir(parents=True)
    try:
        with lmdb.open(str(beside), map_size=room + 2**24, lock=False, sync=False) as environment:
            _put_all(environment, dataset, todo, progress)
            environment.sync(True)
        os.rename(beside, path)
    except BaseException:
        shutil.rmtree(beside)
        raise
    return path


def _put_all(environment: lmdb.Environment, dataset, todo: list[tuple[str, str, int]], progress: bool) -> None:
    bar = tqdm(total=len(todo), unit="patch", desc="LMDB", disable=not (progress and watched()))
    with ThreadPoolExecutor() as pool, bar:  # threads: GDAL reads without Python's lock
        for first in range(0, len(todo), BATCH):
            part = todo[first : first + BATCH]
            values = pool.map(lambda entry: _encode(dataset, *entry[1:]), part)
            with environment.begin(write=True) as transaction:
                for (key, _, _), value in zip(part, values, strict=True):
                    transaction.put(key.encode(), value)
            bar.update(len(part))


def _encode(dataset, kind: str, row: int) -> bytes:
    return save({band: np.ascontiguousarray(pixels) for band, pixels in dataset.stored(kind, row).bands.items()})
