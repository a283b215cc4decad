"""Packing: write any data set as records, in parallel; a killed packing goes on where it stopped.

Each shard is written beside its final name and renamed, with a note of its checksum and of the files it was made from.
`records.json` comes last: without it the folder does not open.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fmlib.data.fields import fill, index_row, plan
from fmlib.data.records import HEADER, INDEX, read_header, record_dtype
from fmlib.data.sample import to_sample

SHARD_SIZE = 4096  # records


def pack(
    dataset, folder: str | Path, options: dict | None = None, shard_size: int = SHARD_SIZE, workers: int | None = None
) -> Path:
    """Write a data set as packed records; see `fmlib.data.records` for what lies in the folder.

    Shards that are there, whole, and made from files that have not changed since are kept.

    Args:
        dataset: any reader of `fmlib.data`: `read(index)` gives one sample as stored.
        folder: of the records; made if need be.
        options: with which the data set was opened; those asked for later must be the same.
        shard_size: records a shard.
        workers: processes; 0: this one; None: one a core.

    Returns:
        The folder.

    Raises:
        ValueError: a sample that cannot be read, or that does not fit the fields of the first ones; it is named.
        OSError: no room; what is finished stays, and the same call goes on from there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    header = plan(dataset, options or {}, shard_size)
    _check_room(folder, header)
    parts = [range(first, min(first + shard_size, len(dataset))) for first in range(0, len(dataset), shard_size)]
    (folder / HEADER).unlink(missing_ok=True)
    todo = [number for number, rows in enumerate(parts) if not _finished(dataset, folder, number, rows, header)]
    counted = _work(dataset, folder, header, {number: parts[number] for number in todo}, workers)
    interactive = sys.stderr.isatty()
    kept = len(dataset) - sum(len(parts[number]) for number in todo)
    bar = {"total": len(dataset), "initial": kept, "unit": "sample", "desc": folder.name, "disable": not interactive}
    with tqdm(**bar) as progress:
        for count in counted:
            progress.update(count)
    _finish(folder, header, len(parts))
    if not interactive:
        print(f"packed {len(dataset):,} samples of {dataset.name}/{dataset.split} into {folder} ({kept:,} were there)")
    return folder


# -- one shard ------------------------------------------------------------------------------------------------------


def _work(dataset, folder: Path, header: dict, parts: dict[int, range], workers: int | None) -> Iterator[int]:
    """Write shards; yields the number of samples as they are done."""
    workers = min(os.cpu_count() or 1 if workers is None else workers, len(parts))
    if workers < 2:
        for number, rows in parts.items():
            yield from _write_shard(dataset, folder, header, number, rows)
        return
    context = get_context("spawn")  # safe whatever threads this process has
    with ProcessPoolExecutor(workers, context, initializer=_share, initargs=(dataset, folder, header)) as pool:
        futures = [pool.submit(_write_shared, number, rows) for number, rows in parts.items()]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _share(dataset, folder: Path, header: dict) -> None:
    global _shared
    _shared = dataset, folder, header


def _write_shared(number: int, rows: range) -> int:
    return sum(_write_shard(*_shared, number, rows))


def _write_shard(dataset, folder: Path, header: dict, number: int, rows: range) -> Iterator[int]:
    shard, note, index = _names(folder, number)
    record, table = np.zeros((), record_dtype(header)), []
    beside, digest, sources = shard.with_suffix(".writing"), hashlib.sha256(), hashlib.sha256()
    with open(beside, "wb") as file:
        for row in rows:
            raw = dataset.read(row)
            to_sample(raw, dataset.modalities)  # refuses now what training would trip over later
            data = fill(record, raw, header).tobytes()
            file.write(data)
            digest.update(data)
            _add_files(sources, row, raw.files)
            table.append(index_row(raw, header))
            yield 1
    os.replace(beside, shard)
    _write(index, lambda file: np.save(file, _stack(table)))
    entry = {"file": shard.name, "rows": len(rows), "sha256": digest.hexdigest()}
    state = {"shard": entry, "sources": sources.hexdigest(), "plan": _plan_key(header)}
    _write(note, lambda file: file.write(json.dumps(state).encode()))


def _stack(rows: list[dict]) -> np.ndarray:
    """A structured array of index rows."""
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    out = np.zeros(len(rows), [(key, column.dtype, column.shape[1:]) for key, column in columns.items()])
    for key, column in columns.items():
        out[key] = column
    return out


# -- resuming and finishing -----------------------------------------------------------------------------------------


def _finished(dataset, folder: Path, number: int, rows: range, header: dict) -> bool:
    """Is a shard there, whole, of the same plan, and made from files that have not changed since?"""
    shard, note, index = _names(folder, number)
    if not (shard.is_file() and note.is_file() and index.is_file()):
        return False
    state = json.loads(note.read_text(encoding="utf-8"))
    whole = shard.stat().st_size == len(rows) * record_dtype(header).itemsize and state["shard"]["rows"] == len(rows)
    return whole and state["plan"] == _plan_key(header) and state["sources"] == source_key(dataset, rows)


def source_key(dataset, rows: range) -> str:
    """Checksum of the names, sizes and times of the files that some samples come from."""
    sources = hashlib.sha256()
    for row in rows:
        _add_files(sources, row, dataset.files(row))
    return sources.hexdigest()


def _add_files(sources, row: int, files: dict[str, tuple[Path, ...]]) -> None:
    for path in sorted({path for paths in files.values() for path in paths}):
        state = os.stat(path)
        sources.update(f"{row} {path.name} {state.st_size} {state.st_mtime_ns}\n".encode())


def _plan_key(header: dict) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _finish(folder: Path, header: dict, count: int) -> None:
    states = [json.loads(_names(folder, number)[1].read_text(encoding="utf-8")) for number in range(count)]
    parts = [np.load(_names(folder, number)[2]) for number in range(count)]
    names = [
        (key, np.result_type(*(part.dtype[key].base for part in parts)), parts[0].dtype[key].shape)
        for key in parts[0].dtype.names
    ]
    _write(folder / INDEX, lambda file: np.save(file, np.concatenate([part.astype(names) for part in parts])))
    header = header | {
        "shards": [state["shard"] for state in states],
        "sources": [state["sources"] for state in states],
    }
    _write(folder / HEADER, lambda file: file.write(json.dumps(header, indent=1, ensure_ascii=False).encode()))


def _names(folder: Path, number: int) -> tuple[Path, Path, Path]:
    """Shard, its note, and its part of the index."""
    return tuple(folder / f"shard-{number:05}.{ending}" for ending in ("bin", "json", "npy"))


def _write(path: Path, write) -> None:
    beside = path.with_name(path.name + ".writing")
    with open(beside, "wb") as file:
        write(file)
    os.replace(beside, path)


def _check_room(folder: Path, header: dict) -> None:
    there = sum(path.stat().st_size for path in folder.glob("shard-*.bin"))
    needed, free = header["count"] * record_dtype(header).itemsize - there, shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"{folder}: the records take {needed / 2**30:.1f} GiB more, but {free / 2**30:.1f} GiB are free")


def verify(folder: str | Path, dataset=None) -> list[dict]:
    """Compare every shard with its checksum, and with its source where that is given.

    Args:
        folder: of the records.
        dataset: the data set they were packed from; None: checksums only.

    Returns:
        One row a shard: ``file``, ``rows``, ``state``.
    """
    folder, header = Path(folder), read_header(folder)
    rows, first = [], 0
    for shard, sources in zip(header["shards"], header["sources"], strict=True):
        with open(folder / shard["file"], "rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == shard["sha256"]
        state = "verified" if same else "wrong checksum: remove it and pack again"
        if same and dataset is not None and sources != source_key(dataset, range(first, first + shard["rows"])):
            state = "its source has changed: pack again"
        rows.append({"file": shard["file"], "rows": shard["rows"], "state": state})
        first += shard["rows"]
    return rows
