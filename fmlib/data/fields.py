"""What goes where in packed records: fields of a record, columns of the index."""

import numpy as np

from fmlib.data.records import FORMAT, packed_options
from fmlib.data.sample import Raw

LOOKED_AT = 64  # samples from which the fields are found
INDEXED = 1024  # bytes of an array above which it goes into the records instead of the index
NOTES = ("id", "place", "time")  # texts of a sample


def plan(dataset, options: dict, shard_size: int) -> dict:
    """The header of the records to be: fields found from the first samples, everything else from the data set."""
    if not len(dataset):
        raise ValueError(f"{dataset.name}/{dataset.split} is empty; nothing to pack")
    fields, arrays, small, nodata = {}, {}, {}, {}
    for index in range(min(LOOKED_AT, len(dataset))):
        raw = dataset.read(index)
        for name in raw.bands.keys() - fields.keys():
            fields[name] = _group(name, raw.bands[name], dataset.modalities[name].bands)
        for key, value in raw.extras.items():
            if key not in NOTES:
                value = np.asarray(value)
                place = arrays if value.nbytes > INDEXED else small
                place.setdefault(key, {"dtype": value.dtype.str, "shape": list(value.shape)})
        nodata |= raw.nodata
    if lacking := sorted(set(dataset.modalities) - set(fields)):
        raise ValueError(f"none of the first {LOOKED_AT} samples has {lacking}; open the data set without them")
    return {
        "format": FORMAT,
        "name": dataset.name,
        "split": dataset.split,
        "classes": list(dataset.classes),
        "modalities": [modality.to_dict() for modality in dataset.modalities.values()],
        "fields": [field for name in dataset.modalities for field in fields[name]],
        "arrays": arrays,
        "small": small,
        "nodata": nodata,
        "options": packed_options(options),
        "count": len(dataset),
        "shard_size": shard_size,
    }


def _group(sensor: str, bands, names: tuple[str, ...]) -> list[dict]:
    """Bands of one native size and type make one field."""
    groups: dict[tuple, list[str]] = {}
    for name, band in zip(names, bands, strict=True):
        groups.setdefault((band.shape, band.dtype.str), []).append(name)
    return [
        {
            "name": f"{sensor}_{shape[0]}x{shape[1]}_{dtype[1:]}",
            "sensor": sensor,
            "bands": members,
            "dtype": dtype,
            "shape": [len(members), *shape],
        }
        for (shape, dtype), members in groups.items()
    ]


def fill(record: np.ndarray, raw: Raw, header: dict) -> np.ndarray:
    """Put one sample into a record; what it lacks is 0 there."""
    record[...] = np.zeros((), record.dtype)
    identity = raw.extras["id"]
    for field in header["fields"]:
        if field["sensor"] in raw.bands:
            bands = dict(zip(_bands_of(header, field["sensor"]), raw.bands[field["sensor"]], strict=True))
            for place, band in enumerate(field["bands"]):
                _check(identity, f"{field['sensor']} {band}", bands[band], field["shape"][1:], field["dtype"])
                record[field["name"]][place] = bands[band]
    for key, array in header["arrays"].items():
        if key in raw.extras:
            _check(identity, key, raw.extras[key], array["shape"], array["dtype"])
            record[key] = raw.extras[key]
    if unknown := sorted(raw.extras.keys() - {*NOTES, *header["arrays"], *header["small"]}):
        raise ValueError(
            f"{identity}: has {unknown}, which none of the first {LOOKED_AT} samples had; report this reader"
        )
    if {name: tag for name, tag in raw.nodata.items() if header["nodata"].get(name) != tag and tag == tag}:
        raise ValueError(f"{identity}: nodata tag {raw.nodata}, earlier samples {header['nodata']}; make them equal")
    return record


def _check(identity: str, what: str, value: np.ndarray, shape: list, dtype: str) -> None:
    if list(value.shape) != list(shape) or value.dtype.str != dtype:
        raise ValueError(
            f"{identity}: {what} is {value.dtype.str}{list(value.shape)}, in the first samples {dtype}{list(shape)}; "
            "records have one size and type: bring the files to one, or read them without packing"
        )


def _bands_of(header: dict, sensor: str) -> list[str]:
    return next(entry["bands"] for entry in header["modalities"] if entry["name"] == sensor)


def index_row(raw: Raw, header: dict) -> dict:
    """The row of the index: texts, small arrays, and what the sample has."""
    row = {
        "id": raw.extras["id"],
        "place": raw.extras.get("place", raw.extras["id"]),
        "time": raw.extras.get("time", ""),
    }
    row = {key: str(value).encode() for key, value in row.items()}
    for key, entry in header["small"].items():
        row[key] = np.asarray(raw.extras.get(key, np.zeros(entry["shape"])), entry["dtype"]).reshape(entry["shape"])
    there = {f"has_{key}": key in raw.extras for key in (*header["small"], *header["arrays"])}
    return row | there | {f"has_{entry['name']}": entry["name"] in raw.bands for entry in header["modalities"]}
