"""From files to samples: what every reader returns, and the one way from there to images in physical units."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fmlib.data.resample import resample
from fmlib.modality import CONVERSIONS, Modality


@dataclass(frozen=True, eq=False)
class Raw:
    """One sample as its files store it.

    Args:
        bands: sensor to one (rows, cols) array a band, in the order of `Modality.bands`, in the stored type and at
            the native size of each band. A sensor that the sample lacks is absent.
        extras: ``"id"``, and where they are known ``"label"``, ``"map"`` (H, W), ``"valid"`` (H, W) bool, ``"place"``,
            ``"lonlat"`` (2,) degrees, ``"time"``.
        files: sensor, ``"label"`` or ``"map"`` to the files it was read from.
        nodata: sensor to the nodata tag of its files, where they have one.
    """

    bands: dict[str, Sequence[np.ndarray]]
    extras: dict
    files: dict[str, tuple[Path, ...]]
    nodata: dict[str, float] = field(default_factory=dict)


def to_sample(
    raw: Raw, modalities: dict[str, Modality], size: int | tuple[int, int] | None = None, method: str = "nearest"
) -> dict:
    """Turn stored bands into a sample: no-data rule, unit, one grid a sensor.

    Args:
        raw: the sample as stored.
        modalities: sensors to return; their `stored_unit`, `nodata` and `on_nodata` say how to read the values.
        size: side of every image, or (rows, cols); None: the largest native size among each sensor's bands.
        method: how bands are resampled, see `fmlib.data.resample`; maps and labels are always resampled by nearest.

    Returns:
        Sensor to (C, rows, cols) float32 in its unit, with the extras. ``"valid"`` (rows, cols) is added where a
        sensor's rule is to fill: False where any sensor had no data.

    Raises:
        ValueError: values that the rule refuses, or an image that `Modality.check` refuses; the file is named.
    """
    sample, valid = {}, [raw.extras["valid"]] if "valid" in raw.extras else []
    for name, modality in modalities.items():
        if name not in raw.bands:
            continue
        bands = raw.bands[name]
        grid = size or (max(band.shape[0] for band in bands), max(band.shape[1] for band in bands))
        layers, missing = [], []
        for channel, band in enumerate(bands):
            source = raw.files[name][min(channel, len(raw.files[name]) - 1)]
            values, absent = clean(band, modality, channel, raw.nodata.get(name), str(source))
            layers.append(resample(values, grid, method))
            missing.append(absent)
        sample[name] = np.stack(layers)
        modality.check(sample[name], str(raw.files[name][0]))
        if modality.on_nodata == "mean":
            valid.append(~np.logical_or.reduce([resample(absent, grid) > 0 for absent in missing]))
    extras = {key: _to_grid(key, value, size) for key, value in raw.extras.items() if key != "valid"}
    if valid:
        largest = size or max(mask.shape for mask in valid)
        extras["valid"] = np.logical_and.reduce([resample(mask, largest) > 0 for mask in valid])
    return sample | extras


def _to_grid(key: str, value, size):
    if size is None or key not in ("label", "map") or np.ndim(value) != 2:
        return value
    return resample(value, size).astype(value.dtype)


def clean(
    band: np.ndarray, modality: Modality, channel: int, tag: float | None, source: str
) -> tuple[np.ndarray, np.ndarray]:
    """Apply a sensor's no-data rule to one band and bring it to the sensor's unit.

    Args:
        band: (rows, cols) stored values.
        modality: its sensor.
        channel: which of its bands.
        tag: the file's own no-data value, or None.
        source: where it was read, named in errors.

    Returns:
        (rows, cols) float32 in the sensor's unit, and a (rows, cols) bool mask of the pixels without data.

    Raises:
        ValueError: all pixels are without data, or some are and the rule does not fill them.
    """
    values, name = band.astype(np.float32), f"{modality.name!r} band {modality.bands[channel]}"
    tagged = np.isin(values, [np.float32(x) for x in (*modality.nodata, tag) if x is not None])
    if modality.stored_unit != modality.unit:
        values = CONVERSIONS[modality.stored_unit, modality.unit](np.where(tagged, np.nan, values)).astype(np.float32)
    broken = ~np.isfinite(values)
    if (tagged | broken).all():
        raise ValueError(f"{source}: every value of {name} is no data; drop this sample")
    missing = broken if modality.on_nodata == "keep" else tagged | broken
    if missing.any():
        if modality.on_nodata != "mean":
            kinds = [
                f"{n} {what}" for n, what in ((broken.sum(), "not finite"), ((missing & ~broken).sum(), "nodata")) if n
            ]
            raise ValueError(
                f"{source}: of {band.size} values of {name} {' and '.join(kinds)}; drop this sample, or set "
                'on_nodata = "mean" in the manifest to fill and mark them'
            )
        values = np.where(missing, np.float32(modality.mean[channel]), values)
    return values, missing
