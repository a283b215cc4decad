"""From samples to batches: stacking samples, and reading a data set into memory."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import is_dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

STACKED = ("label", "map", "valid")  # per-sample fields that become one tensor; others stay lists
AHEAD = 2  # batches made before they are needed
COMPACT = (np.uint8, np.uint16)  # types a sensor's values may be held in, if they fit exactly


def collate(samples: list[dict], names: list[str]) -> dict:
    """Stack samples into a batch.

    Args:
        samples: as a data set yields them; sensors (C, H, W).
        names: sensors of the data set.

    Returns:
        Each sensor (B, C, H, W) float32, zeros where a sample lacks it, and left out where all samples lack it;
        ``"present"``: sensor to (B,) bool; ``"id"`` and ``"place"``: lists; ``"label"``, ``"map"`` and ``"valid"``
        stacked where every sample has one.

    Raises:
        ValueError: images of one sensor differ in shape; the samples are named.
    """
    present = {name: torch.tensor([name in sample for sample in samples]) for name in names}
    batch = {name: _stack_sensor(samples, name) for name in names if present[name].any()}
    for key in STACKED:
        if all(key in sample for sample in samples):
            batch[key] = torch.as_tensor(np.stack([sample[key] for sample in samples]))
    return batch | {"present": present} | _names(samples)


def _names(samples: list[dict]) -> dict[str, list[str]]:
    """What the samples are called and where they lie; a sample that names no place is a place of its own."""
    return {"id": [s["id"] for s in samples], "place": [s.get("place", s["id"]) for s in samples]}


def _stack_sensor(samples: list[dict], name: str) -> Tensor:
    shapes = {sample[name].shape: sample["id"] for sample in samples if name in sample}
    if len(shapes) > 1:
        raise ValueError(f"images of {name!r} differ in shape: {shapes}; crop or resample them to one size")
    empty = np.zeros(next(iter(shapes)), np.float32)
    return torch.from_numpy(np.stack([sample.get(name, empty) for sample in samples]).astype(np.float32, copy=False))


class Preloaded:
    """A data set held in memory, with the same samples as the one it was read from.

    Made by `preload`. `arrays` holds one array a field, (N, …), sensors in the smallest type that keeps every value
    exactly; `present` holds, for each field, which samples have it, (N,) bool.
    """

    def __init__(self, dataset, count: int):
        self.modalities, self.classes = dataset.modalities, dataset.classes
        self.name, self.split = dataset.name, dataset.split
        self.arrays: dict[str, np.ndarray] = {}
        self.present: dict[str, np.ndarray] = {name: np.zeros(count, bool) for name in dataset.modalities}
        self.extras: list[dict] = []

    def __len__(self) -> int:
        return len(self.extras)

    def __getitem__(self, index: int) -> dict:
        sample = {key: array[index] for key, array in self.arrays.items() if self.present[key][index]}
        sample |= {key: sample[key].astype(np.float32) for key in self.modalities if key in sample}
        return sample | self.extras[index]

    def batch(self, indices, device: torch.device | str = "cpu") -> dict:
        """The batch that `collate` makes of these samples, without going through samples.

        One difference: a sensor that all of these samples lack is zeros here, since its shape is known.

        Args:
            indices: (B,) sample numbers.
            device: where the images are wanted; they travel in the type they are held in.
        """
        indices = np.asarray(indices)
        present = {name: torch.from_numpy(self.present[name][indices]) for name in self.modalities}
        batch = {
            name: send(self.arrays[name][indices], device).float() for name in self.modalities if name in self.arrays
        }
        for key in STACKED:
            if key in self.arrays and self.present[key][indices].all():
                batch[key] = torch.from_numpy(self.arrays[key][indices])
        return batch | {"present": present} | _names([self.extras[i] for i in indices])

    @property
    def nbytes(self) -> int:
        """Memory the arrays take, in bytes."""
        return sum(array.nbytes for array in self.arrays.values())


def preload(
    dataset, workers: int = 0, progress: bool = True, max_bytes: int = 8 * 2**30, samples: int | None = None
) -> Preloaded:
    """Read a data set into memory, once.

    Args:
        dataset: map-style, all images of one sensor of one size.
        workers: threads that read; 0 reads in this one. Decoding GeoTIFF and PNG leaves Python's lock free.
        progress: show a bar in a terminal, or print one line elsewhere.
        max_bytes: most memory it may take.
        samples: read only the first so many; None reads all.

    Raises:
        MemoryError: it would take more than `max_bytes`; the message gives the size.
        ValueError: the data set is empty, or images of one sensor differ in shape.
    """
    count = len(dataset) if samples is None else min(samples, len(dataset))
    if count < 1:
        raise ValueError(
            f"{dataset.name}/{dataset.split}: nothing to preload ({len(dataset)} there, {samples} asked for)"
        )
    start, interactive = time.monotonic(), progress and sys.stderr.isatty()
    held = Preloaded(dataset, count)
    reading = tqdm(_read(dataset, count, workers), total=count, unit="sample", disable=not interactive)
    for index, sample in enumerate(reading):
        _store(held, index, sample, count, max_bytes)
    if progress and not interactive:
        seconds = time.monotonic() - start
        print(f"read {len(held)} samples of {held.name}/{held.split}: {held.nbytes / 2**20:.0f} MiB in {seconds:.1f} s")
    return held


def _read(dataset, count: int, workers: int):
    if not workers:
        yield from (dataset[index] for index in range(count))
        return
    ahead = 8 * workers  # bounds the samples waiting to be stored
    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, count, ahead):
            yield from pool.map(dataset.__getitem__, range(first, min(first + ahead, count)))


def _store(held: Preloaded, index: int, sample: dict, count: int, max_bytes: int) -> None:
    fields = [key for key in sample if key in held.modalities or key in STACKED]
    for key in fields:
        value = np.asarray(sample[key])
        dtype = _compact_type(value) if key in held.modalities else value.dtype
        if key not in held.arrays:
            _check_memory(held, key, count * value.size * dtype.itemsize, max_bytes)
            held.arrays[key] = np.zeros((count, *value.shape), dtype)
            held.present.setdefault(key, np.zeros(count, bool))
        array = held.arrays[key]
        if array.shape[1:] != value.shape:
            raise ValueError(
                f"{sample['id']}: {key!r} has shape {value.shape}, earlier samples {array.shape[1:]}; bring all to one"
            )
        if (wider := np.promote_types(array.dtype, dtype)) != array.dtype:
            _check_memory(held, key, array.size * wider.itemsize, max_bytes)
            held.arrays[key] = array.astype(wider)
        held.arrays[key][index], held.present[key][index] = value, True
    held.extras.append({key: value for key, value in sample.items() if key not in fields})


def _compact_type(image: np.ndarray) -> np.dtype:
    for dtype in COMPACT:
        if image.min() >= 0 and image.max() <= np.iinfo(dtype).max and (image.astype(dtype) == image).all():
            return np.dtype(dtype)
    return np.dtype(np.float32)


def _check_memory(held: Preloaded, key: str, needed: int, max_bytes: int) -> None:
    total = needed + sum(array.nbytes for name, array in held.arrays.items() if name != key)
    if total > max_bytes:
        raise MemoryError(
            f"{held.name}/{held.split} takes {total / 2**30:.3g} GiB or more in memory, above the limit of "
            f"{max_bytes / 2**30:.3g} GiB; raise max_bytes, take fewer samples, or read it from disk with a DataLoader"
        )


def send(array: np.ndarray, device: torch.device | str) -> Tensor:
    """An array as a tensor on a device; to CUDA from pinned memory, so that nothing waits for the copy."""
    tensor = torch.from_numpy(array)
    return (tensor.pin_memory() if torch.device(device).type == "cuda" else tensor).to(device, non_blocking=True)


def ahead(make: Callable, steps: range, device: torch.device | str = "cpu") -> Iterator[tuple]:
    """Batches made in a thread while the ones before them are used.

    On CUDA they are made on a stream of their own, so that making a batch waits for no step. Steps are started without
    waiting for their results, but never more than `AHEAD` before the card is done with them.

    Args:
        make: from a step's number to its batch.
        steps: their numbers.
        device: where the batches lie and are used.

    Yields:
        A step, its batch, and the seconds that were waited for it.
    """
    device = torch.device(device)
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def made(step: int) -> tuple:
        with torch.cuda.stream(stream) if stream else nullcontext():
            return make(step), stream.record_event() if stream else None

    with ThreadPoolExecutor(1) as pool:
        coming, started = deque((step, pool.submit(made, step)) for step in steps[:AHEAD]), deque()
        for later in chain(steps[AHEAD:], [None] * len(coming)):
            start = time.monotonic()
            step, future = coming.popleft()
            batch, ready = future.result()
            waited = time.monotonic() - start
            if later is not None:
                coming.append((later, pool.submit(made, later)))
            if stream:
                _take_over(batch, ready, torch.cuda.current_stream(device))
            yield step, batch, waited
            if stream:
                started.append(torch.cuda.current_stream(device).record_event())
                if len(started) > AHEAD:
                    started.popleft().synchronize()


def _take_over(batch, ready: torch.cuda.Event, stream: torch.cuda.Stream) -> None:
    """Let a stream wait for a batch made on another one, and the batch's memory stay until this stream is done too."""
    stream.wait_event(ready)
    for tensor in _tensors(batch):
        if tensor.device.type != "cpu":
            tensor.record_stream(stream)


def _tensors(batch) -> Iterator[Tensor]:
    """All tensors in nested dictionaries, tuples, lists and data classes."""
    if isinstance(batch, Tensor):
        yield batch
    elif is_dataclass(batch):
        yield from _tensors(vars(batch))
    elif isinstance(batch, dict | tuple | list):
        for part in batch.values() if isinstance(batch, dict) else batch:
            yield from _tensors(part)


def batch_indices(n: int, batch_size: int, epoch: int, seed: int) -> list[np.ndarray]:
    """Sample numbers of each batch of one epoch, in an order that depends on seed and epoch alone.

    Args:
        n: samples of the data set.
        batch_size: samples a batch; an incomplete last batch is dropped unless it is the only one.
        epoch, seed: choose the permutation; both 0 or above.

    Returns:
        Arrays of sample numbers, (batch_size,) each.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"n and batch_size must be 1 or more, got {n} and {batch_size}")
    order = np.random.default_rng([seed, epoch]).permutation(n)
    return [order] if n < batch_size else list(order[: n - n % batch_size].reshape(-1, batch_size))
