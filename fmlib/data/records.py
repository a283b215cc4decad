"""Packed records: a data set as a few large files of fixed-size records, each read with one call of the system.

A folder of records holds `records.json` (fields, sensors, shards with checksums, where it came from), `index.npy` (one
row a sample: id, place, which sensors it has, labels) and shards of raw bytes. Bands keep their stored type and native
size, so every value is that of the source, bit by bit. `fmlib.data.pack` writes them; reading needs NumPy and torch.
"""

import json
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor
from torch.utils.data import get_worker_info

from fmlib.data.batches import STACKED, send
from fmlib.data.sample import Raw, merge_valid, to_image, to_sample
from fmlib.modality import Modality

FORMAT = 1
HEADER, INDEX = "records.json", "index.npy"
KEYS = {"format", "name", "split", "classes", "modalities", "options", "count", "shards"}
KEYS |= {"fields", "arrays", "small", "nodata"}  # of a record
SAME = ("size", "resample", "storage")  # options that change neither samples nor stored values


class Records:
    """A packed data set; samples equal those of the data set it was packed from.

    Args:
        folder: that `fmlib.data.pack.pack` wrote.
        modalities: sensors and bands to read; default: all, as they were when packed.
        size, resample: as for every reader, see `fmlib.data.sample.to_sample`.

    Raises:
        FileNotFoundError: no records there, or a shard is missing.
        ValueError: a damaged header or index, or a shard of another size than it should have; a sensor or band
            that is not there.
    """

    def __init__(
        self,
        folder: str | Path,
        modalities: dict[str, Modality] | None = None,
        size: int | tuple[int, int] | None = None,
        resample: str = "nearest",
    ):
        self.folder, self.size, self.resample = Path(folder), size, resample
        self.header = read_header(self.folder)
        self.modalities = modalities or {m["name"]: Modality(**m) for m in self.header["modalities"]}
        self._groups = {name: self._fields_of(modality) for name, modality in self.modalities.items()}
        self.classes, self.name, self.split = tuple(self.header["classes"]), self.header["name"], self.header["split"]
        self.dtype = record_dtype(self.header)
        self.index = read_index(self.folder, self.header)
        self.starts = np.cumsum([0, *(shard["rows"] for shard in self.header["shards"])])
        check_shards(self.folder, self.header, self.dtype)
        self._files: list[BinaryIO] = []  # opened by each process for itself

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> dict:
        return to_sample(self.read(index), self.modalities, self.size, self.resample)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_files": []}  # open files stay with their process

    def _fields_of(self, modality: Modality) -> list[tuple[str, list[int], list[int]]]:
        """Fields that hold a sensor's bands: name, places in the field, channels in the image."""
        fields = [f for f in self.header["fields"] if f["sensor"] == modality.name]
        if lacking := sorted(set(modality.bands) - {band for f in fields for band in f["bands"]}):
            raise ValueError(f"{self.folder}: no {lacking} of {modality.name!r} in these records; pack again with them")
        wanted = [(f["name"], [band for band in f["bands"] if band in modality.bands], f["bands"]) for f in fields]
        return [(key, [all_.index(b) for b in some], modality.index(*some)) for key, some, all_ in wanted if some]

    @property
    def nbytes(self) -> int:
        """Size of all records on disk, in bytes."""
        return len(self) * self.dtype.itemsize

    @property
    def labels(self) -> np.ndarray | None:
        """(N, …) labels of all samples, known without reading a record; None where labels are maps or absent."""
        return self.index["label"] if "label" in self.index.dtype.names else None

    def read(self, index: int) -> Raw:
        """One sample as it was stored; its arrays are copies."""
        row, record, bands = self.index[index], np.empty(1, self.dtype), {}
        self._fill(record.view(np.uint8)[None], [index])
        record = record[0]
        for name, groups in self._groups.items():
            if row[f"has_{name}"]:
                layers = {
                    c: record[key][k] for key, places, channels in groups for k, c in zip(places, channels, strict=True)
                }
                bands[name] = [layers[channel] for channel in sorted(layers)]
        files = {name: (self.folder / f"{text(row['id'])}",) for name in bands}
        extras = {key: record[key] for key in self.header["arrays"] if row[f"has_{key}"]}
        return Raw(bands, extras | self._notes(row), files, dict(self.header["nodata"]))

    def stored_batch(self, indices, device: torch.device | str = "cpu") -> dict:
        """Records as they are stored, for `assemble` to turn into images.

        Args:
            indices: (B,) sample numbers.
            device: where they are wanted; all their bytes travel in one piece, to CUDA from pinned memory.

        Returns:
            Field to tensor (B, …) of the stored type, ``"present"``, and what samples are called.
        """
        indices = np.asarray(indices)
        rows = self.index[indices]
        records = _memory(len(indices), self.dtype.itemsize, torch.device(device))
        self._fill(records.numpy(), indices)
        records = records.to(device, non_blocking=True)
        batch = {key: self._field(records, key) for groups in self._groups.values() for key, _, _ in groups}
        for key in STACKED:
            if f"has_{key}" in rows.dtype.names and rows[f"has_{key}"].all():
                in_index = key in rows.dtype.names
                batch[key] = send(rows[key].copy("C"), device) if in_index else self._field(records, key).contiguous()
        present = {name: torch.from_numpy(rows[f"has_{name}"].copy()) for name in self.modalities}
        ids, places = text(rows["id"]), text(rows["place"])
        return batch | {"present": present, "id": ids, "place": places}

    def assemble(self, batch: dict) -> dict:
        """Turn a stored batch into the batch that `collate` makes of these samples, on whatever device it lies.

        Args:
            batch: of `stored_batch`.

        Returns:
            Sensor to (B, C, rows, cols) float32 in its unit, zeros where a sample lacks it, and all else that
            `collate` gives.
        """
        stored = {key for groups in self._groups.values() for key, _, _ in groups}
        out, missing = {key: value for key, value in batch.items() if key not in stored | {"valid"}}, []
        for name, modality in self.modalities.items():
            groups = [(channels, _pick(batch[key], places)) for key, places, channels in self._groups[name]]
            image, absent = to_image(groups, modality, self.size, self.resample, self.header["nodata"].get(name))
            there = batch["present"][name].to(image.device)
            out[name] = image.where(there[:, None, None, None], 0)
            if absent is not None:
                missing.append(absent & there[:, None, None])
        valid = merge_valid(batch.get("valid"), missing, self.size)
        return out if valid is None else out | {"valid": valid}

    def batch(self, indices, device: torch.device | str = "cpu") -> dict:
        """The batch of these samples, assembled on a device; `Preloaded.batch` has the same form."""
        return self.assemble(self.stored_batch(indices, device))

    def _notes(self, row: np.void) -> dict:
        notes = {key: text(row[key]) for key in ("id", "place", "time") if key in row.dtype.names and row[key]}
        small = [key for key in self.header["small"] if row[f"has_{key}"]]
        return notes | {key: row[key].copy() for key in small}

    def _fill(self, rows: np.ndarray, indices) -> None:
        """Read records into (B, record size) bytes.

        Reading leaves no pages behind in this process, as a memory map would: a long epoch takes no more memory.
        """
        files, size = self._open(), self.dtype.itemsize
        shards = np.searchsorted(self.starts, indices, side="right") - 1
        offsets = (np.asarray(indices) - self.starts[shards]) * size
        for row, shard, offset in zip(rows, shards, offsets, strict=True):
            if os.preadv(files[shard].fileno(), [row], offset) != size:
                raise ValueError(f"{files[shard].name} became shorter while it was read; run fmlib data verify")

    def _field(self, records: Tensor, key: str) -> Tensor:
        """A field of records (B, record size), (B, …) of its own type, where it lies."""
        field, start = self.dtype.fields[key][:2]
        values = records[:, start : start + field.itemsize].view(torch.from_numpy(np.empty(0, field.base)).dtype)
        return values.view(len(records), *field.shape)

    def _open(self) -> list[BinaryIO]:
        if not self._files:
            paths = (self.folder / shard["file"] for shard in self.header["shards"])
            self._files = [open(path, "rb", buffering=0) for path in paths]  # noqa: SIM115  # closed with this object
        return self._files


def _memory(rows: int, size: int, device: torch.device) -> Tensor:
    """Memory (rows, size) for bytes: pinned on their way to CUDA, shared in a worker, which hands it over as it is.

    Pinned memory is kept and used again, which spares its page faults.
    """
    if get_worker_info() is None:
        return torch.empty(rows, size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(rows * size), 0, (rows, size))


def _pick(bands: Tensor, places: list[int]) -> Tensor:
    return bands if places == list(range(bands.shape[1])) else bands[:, places]


def text(value) -> str | list[str]:
    """UTF-8 bytes of an index as text, one or many."""
    return value.decode() if isinstance(value, bytes) else [item.decode() for item in value.tolist()]


def find_records(folder: Path, split: str, options: dict) -> Path | None:
    """Records of a split beside its files that were packed with these very options; None if there are none."""
    path = Path(folder) / "records" / split
    if not (path / HEADER).is_file():
        return None
    packed, asked = read_header(path)["options"], packed_options(options)
    if packed.pop("on_missing", "error") not in ("error", asked.pop("on_missing", "error")):
        return None  # samples may be left out that were asked for
    return path if packed == asked else None


def packed_options(options: dict) -> dict:
    """What of a reader's options decides which samples and values are stored, as JSON holds it."""
    return json.loads(json.dumps({k: v for k, v in sorted(options.items()) if k not in SAME}))


def record_dtype(header: dict) -> np.dtype:
    """The NumPy type of one record; aligned, so that torch can view every field."""
    fields = [(entry["name"], entry["dtype"], tuple(entry["shape"])) for entry in header["fields"]]
    fields += [(key, entry["dtype"], tuple(entry["shape"])) for key, entry in header["arrays"].items()]
    return np.dtype(fields, align=True)


def read_header(folder: Path) -> dict:
    """The contents of `records.json`.

    Raises:
        FileNotFoundError: it is missing: no records, or packing has not finished.
        ValueError: it is damaged, incomplete or of another format.
    """
    path = Path(folder) / HEADER
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: no packed records, or packing was interrupted; run the same fmlib data pack again"
        )
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']!r}, this version reads {FORMAT}")
        if missing := sorted(KEYS - set(header)):
            raise ValueError(f"lacks {missing}")
        _check_header(header)
    except Exception as error:  # any JSON may stand there, and every use of it may fail in its own way
        raise ValueError(f"{path} is damaged ({error}); pack again") from error
    return header


def _check_header(header: dict) -> None:
    kinds = {"name": str, "split": str, "classes": list, "options": dict, "arrays": dict, "small": dict, "nodata": dict}
    if wrong := [key for key, kind in kinds.items() if not isinstance(header[key], kind)]:
        raise ValueError(f"{wrong} of another type")
    stored = {(entry["sensor"], band) for entry in header["fields"] for band in entry["bands"]}
    wanted = {(m.name, band) for m in (Modality(**entry) for entry in header["modalities"]) for band in m.bands}
    if not stored or stored != wanted:
        raise ValueError(f"fields do not hold {sorted(wanted ^ stored)[:3]}")
    if any(len(entry["bands"]) != entry["shape"][0] or len(entry["shape"]) != 3 for entry in header["fields"]):
        raise ValueError("a field's shape does not fit its bands")
    if record_dtype(header).itemsize < 1 or sum(shard["rows"] for shard in header["shards"]) != header["count"]:
        raise ValueError("rows of the shards do not add up to count")
    if any(Path(shard["file"]).name != shard["file"] for shard in header["shards"]):
        raise ValueError("a shard lies outside the folder")
    for key, entry in header["small"].items():
        np.dtype([(key, entry["dtype"], tuple(entry["shape"]))])
    for tag in header["nodata"].values():
        float(tag)


def read_index(folder: Path, header: dict) -> np.ndarray:
    """The structured array of `index.npy`, one row a sample.

    Raises:
        ValueError: it is missing, damaged, or does not fit the header.
    """
    path = Path(folder) / INDEX
    try:
        with open(path, "rb") as file:
            index = npy.read_array(file, allow_pickle=False)
    except Exception as error:  # the header is a Python literal: damage raises whatever its parser raises
        raise ValueError(f"{path} is damaged ({error}); pack again") from error
    needed = {"id", "place", *(f"has_{entry['name']}" for entry in header["modalities"])}
    needed |= {f"has_{key}" for key in (*header["arrays"], *header["small"])} | set(header["small"])
    if index.shape != (header["count"],) or not needed <= set(index.dtype.names or ()):
        raise ValueError(f"{path} is damaged ({index.shape} rows of {index.dtype.names}); pack again")
    return index


def check_shards(folder: Path, header: dict, dtype: np.dtype) -> None:
    """Raise unless every shard is there and of its full size; checksums are `verify`'s to compare."""
    for shard in header["shards"]:
        path, expected = Path(folder) / str(shard["file"]), shard["rows"] * dtype.itemsize
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; run the same fmlib data pack again: it makes only what lacks")
        if path.stat().st_size != expected:
            raise ValueError(
                f"{path} is torn: {path.stat().st_size:,} bytes, expected {expected:,}; remove it and run the same "
                "fmlib data pack again"
            )
