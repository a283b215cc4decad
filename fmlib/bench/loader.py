"""How fast patches are read: the same ones as 14 GeoTIFFs each, as LMDB with safetensors, and as packed records.

Every format ends in the same batch: bands of one native size stacked, in the stored type, ready to go to a device. So
the ratios compare storage and nothing else; they are taken in one run, formats in turn.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import torch

from fmlib.data import open_dataset
from fmlib.data.fields import fill, plan
from fmlib.data.lmdb_store import close_all, write_lmdb
from fmlib.data.pack import pack
from fmlib.data.records import Records, record_dtype
from fmlib.scenes import generate

BATCH = 64


def bench_loader(
    folder: str | Path, patches: int = 512, workers: tuple[int, ...] = (0, 2), seconds: float = 4.0, rounds: int = 3
) -> dict:
    """Time shuffled batches of BigEarthNet-shaped patches in three formats.

    Args:
        folder: for the archive (about 0.6 MB a patch); what is there already is used again.
        patches: made scenes, of which three fifths are the training split that is read.
        workers: numbers of worker processes to measure with; 0 reads in this process.
        seconds: time of each measurement.
        rounds: measurements of each kind; medians are reported.

    Returns:
        {"patches", "bytes_per_patch", "formats": {format: {"cold", "warm, 0 workers", …: {"patches_per_s", "mb_per_s"},
        "cpu_ms_per_patch"}}, "records_over": {format: ratio of warm patches/s without workers}}. "Cold" reads every
        patch once after its pages were dropped from the system's cache; directory entries stay cached.
    """
    torch.set_num_threads(1)  # else the formats that use more threads would look faster than they are
    formats = prepare(Path(folder), patches)
    size = next(iter(formats.values()))[2]
    kinds = ["cold", *(f"warm, {number} workers" for number in workers)]
    rates = {name: {kind: [] for kind in kinds} for name in formats}
    cpu = {name: [] for name in formats}
    for _ in range(rounds):
        for name, (load, files, _, count) in formats.items():
            rates[name]["cold"].append(_cold(load, files, count))
            for number in workers:
                rate, busy = _warm(load, count, number, seconds)
                rates[name][f"warm, {number} workers"].append(rate)
                cpu[name] += [1e3 * busy / rate] if number == 0 else []
    found = {
        name: {kind: _figures(statistics.median(values), size) for kind, values in by_kind.items()}
        | {"cpu_ms_per_patch": statistics.median(cpu[name]) if cpu[name] else None}
        for name, by_kind in rates.items()
    }
    warm = {name: found[name][kinds[1]]["patches_per_s"] for name in formats}
    ratios = {name: warm["records"] / rate for name, rate in warm.items() if name != "records"}
    return {"patches": formats["records"][3], "bytes_per_patch": size, "formats": found, "records_over": ratios}


def prepare(folder: Path, patches: int) -> dict[str, tuple[Callable, list[Path], int, int]]:
    """Make the archive in all formats; for each: indices → batch, its files, bytes a patch, number of patches."""
    root = generate(folder / "synthetic", patches, seed=0)
    tiff = open_dataset("synthetic", "train", folder, records=False, storage="tiff")
    if not (root / "Encoded-BigEarthNet").is_dir():
        write_lmdb(tiff, root / "Encoded-BigEarthNet", progress=False)
    encoded = open_dataset("synthetic", "train", folder, records=False, storage="lmdb")
    records = Records(pack(tiff, root / "records" / "train"))
    size, count = records.dtype.itemsize, len(records)
    tiffs = [
        path for folder_name in ("BigEarthNet-S1", "BigEarthNet-S2") for path in (root / folder_name).rglob("*.tif")
    ]
    return {
        "14 GeoTIFFs": (Stacked(tiff), tiffs, size, count),
        "LMDB + safetensors": (Stacked(encoded), [root / "Encoded-BigEarthNet" / "data.mdb"], size, count),
        "records": (Records(records.folder).stored_batch, sorted(records.folder.glob("*.bin")), size, count),
    }


class Stacked:
    """Indices → the batch that `Records.stored_batch` makes, read through any reader."""

    def __init__(self, dataset):
        self.dataset, self.header = dataset, plan(dataset, {}, 1)

    def __call__(self, indices) -> dict:
        rows = np.empty(len(indices), record_dtype(self.header))
        for place, index in enumerate(indices):
            fill(rows[place : place + 1].reshape(()), self.dataset.read(index), self.header)
        return {field["name"]: torch.from_numpy(rows[field["name"]]) for field in self.header["fields"]}


def _cold(load: Callable, files: list[Path], count: int) -> float:
    """Patches a second of one pass over all, from the disk."""
    drop_cache(files)
    return _rate(_batches(load, np.random.default_rng(0).permutation(count), 0))


def _warm(load: Callable, count: int, workers: int, seconds: float) -> tuple[float, float]:
    """Patches a second, and the share of this process's time spent on the CPU."""
    rng = np.random.default_rng(0)
    speed = _rate(_batches(load, rng.permutation(count), workers))  # also brings all pages in
    skip = 2 * workers + 1  # batches read before the clock starts
    total = max(int(speed * seconds), BATCH * (4 + 4 * workers)) // BATCH * BATCH
    batches = _batches(load, rng.integers(0, count, total + skip * BATCH), workers)
    for _ in range(skip):
        next(batches)
    start, busy = time.perf_counter(), time.process_time()
    rate = _rate(batches)
    return rate, (time.process_time() - busy) / (time.perf_counter() - start)


def _batches(load: Callable, order: np.ndarray, workers: int) -> Iterator[dict]:
    return iter(torch.utils.data.DataLoader(order.tolist(), BATCH, collate_fn=load, num_workers=workers))


def _rate(batches: Iterator[dict]) -> float:
    start, count = time.perf_counter(), 0
    for batch in batches:
        count += len(next(value for value in batch.values() if torch.is_tensor(value)))
    return count / (time.perf_counter() - start)


def drop_cache(files: list[Path]) -> None:
    """Ask the system to forget the pages of some files, so that they come from the disk again (POSIX)."""
    close_all()
    os.sync()
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _figures(rate: float, size: int) -> dict[str, float]:
    return {"patches_per_s": rate, "mb_per_s": rate * size / 1e6}


def bench_epoch(folder: str | Path, workers: int = 0) -> dict:
    """Read every record of a packed data set once, shuffled, and watch the memory.

    Args:
        folder: of packed records.
        workers: processes that read; 0: this one.

    Returns:
        {"patches", "gb", "open_s", "epoch_s", "patches_per_s", "memory_mb": resident memory of all processes, less what
        they share, at a tenth, half and the end of the epoch, "peak_memory_mb"}.
    """
    start = time.perf_counter()
    records = Records(folder)
    opened, count = time.perf_counter() - start, len(records)
    batches, seen = _batches(records.stored_batch, np.random.default_rng(0).permutation(count), workers), []
    start = time.perf_counter()
    for _ in batches:
        seen.append(_memory())
    seconds = time.perf_counter() - start
    marks = {"a tenth": seen[len(seen) // 10], "half": seen[len(seen) // 2], "the end": seen[-1]}
    return {
        "patches": count,
        "gb": records.nbytes / 1e9,
        "open_s": opened,
        "epoch_s": seconds,
        "patches_per_s": count / seconds,
        "memory_mb": marks,
        "peak_memory_mb": max(seen),
    }


def _memory() -> float:
    """Resident megabytes of this process and its children, pages shared between them counted once."""
    here = psutil.Process()
    return sum(process.memory_full_info().pss for process in [here, *here.children(recursive=True)]) / 1e6
