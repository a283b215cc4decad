"""From files to samples: what every reader returns, and the one way from there to images in physical units.

The same functions serve one sample on a CPU and a batch of packed records on a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fmlib.data.resample import resample
from fmlib.modality import Modality

# (unit of the files, unit of the sample) → function of a tensor, see `fmlib.modality.CONVERSIONS`
_CONVERT = {
    ("linear power", "dB"): lambda power: 10 * power.log10(),
    ("linear amplitude", "dB"): lambda amplitude: 20 * amplitude.log10(),
    ("reflectance", "reflectance × 10000"): lambda reflectance: reflectance * 10000,
    ("reflectance × 10000 + 1000", "reflectance × 10000"): lambda number: number - 1000,
}


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
    sample, missing = {}, []
    for name, modality in modalities.items():
        if name not in raw.bands:
            continue
        files, tag = [_source(file, raw.extras["id"]) for file in raw.files[name]], raw.nodata.get(name)
        bands = [_to_tensor(band) for band in raw.bands[name]]
        for channel, band in enumerate(bands):
            _refuse(band, modality, channel, tag, files[min(channel, len(files) - 1)])
        groups = [((channel,), band[None]) for channel, band in enumerate(bands)]
        image, absent = to_image(groups, modality, size, method, tag)
        sample[name] = image.numpy()
        modality.check(sample[name], files[0], None if absent is None else ~absent.numpy())
        if absent is not None:
            missing.append(absent)
    extras = {key: _to_grid(key, value, size) for key, value in raw.extras.items() if key != "valid"}
    valid = torch.from_numpy(raw.extras["valid"]) if "valid" in raw.extras else None
    if not missing and any(modality.on_nodata == "mean" for modality in modalities.values()):
        missing = [torch.zeros(max(image.shape[1:] for image in sample.values()), dtype=torch.bool)]
    if (valid := merge_valid(valid, missing, size)) is not None:
        extras["valid"] = valid.numpy()
    return sample | extras


def to_image(
    groups: Sequence[tuple[Sequence[int], Tensor]],
    modality: Modality,
    size: int | tuple[int, int] | None = None,
    method: str = "nearest",
    tag: float | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Bring stored bands of one sensor to one grid, in the sensor's unit; nothing is refused here.

    Args:
        groups: channel numbers, and their (…, len(channels), rows, cols) stored values; every channel in one group.
        modality: the sensor.
        size: side of the image, or (rows, cols); None: the largest group's.
        method: of resampling.
        tag: the files' own no-data value, or None.

    Returns:
        (…, C, rows, cols) float32 image. If the sensor's rule is to fill, pixels without data hold the band's mean,
        and a (…, rows, cols) bool mask is True where any band had none; else the mask is None.
    """
    size = size or tuple(max(bands.shape[axis] for _, bands in groups) for axis in (-2, -1))
    layers, missing = [], []
    for channels, bands in groups:
        values = _convert(bands, modality)
        if modality.on_nodata == "mean":
            tagged, broken = _faults(bands, modality, tag)
            mean = torch.tensor([modality.mean[channel] for channel in channels], device=values.device)
            values = torch.where(tagged | broken, mean[:, None, None], values)
            missing.append(resample(tagged | broken, size) > 0)
        layers.append(resample(values, size, method))
    order = [channel for channels, _ in groups for channel in channels]
    image = torch.cat(layers, -3)
    if order != sorted(order):
        image = image[..., np.argsort(order).tolist(), :, :]
    return image, torch.cat(missing, -3).any(-3) if missing else None


def _convert(bands: Tensor, modality: Modality) -> Tensor:
    """Stored values in the sensor's unit, float32."""
    values = bands.float()
    return _CONVERT[modality.stored_unit, modality.unit](values) if modality.stored_unit else values


def _faults(bands: Tensor, modality: Modality, tag: float | None) -> tuple[Tensor, Tensor]:
    """Where stored values are a no-data tag, and where they are otherwise without a finite value in the unit."""
    tagged = torch.zeros(bands.shape, dtype=torch.bool, device=bands.device)
    for number in _tags(modality, tag):
        tagged |= bands == number
    if not (bands.is_floating_point() or modality.stored_unit):
        return tagged, torch.zeros_like(tagged)
    return tagged, ~_convert(bands, modality).isfinite() & ~tagged


def _tags(modality: Modality, tag: float | None) -> tuple[float, ...]:
    """Stored values that mean no data; NaN needs no tag."""
    return tuple(number for number in (*modality.nodata, tag) if number is not None and number == number)


def merge_valid(valid: Tensor | None, missing: Sequence[Tensor], size) -> Tensor | None:
    """Where every sensor has data: what a reader says, less what the sensors' rules found, on the largest grid.

    Args:
        valid: (…, rows, cols) bool, or None where the reader does not say.
        missing: (…, rows, cols) bool of each sensor whose rule is to fill.
        size: of the result; None: the largest of these.

    Returns:
        (…, rows, cols) bool; None where there is neither.
    """
    masks = [] if valid is None else [valid]
    masks += [~absent for absent in missing]
    if not masks:
        return None
    size = (size, size) if isinstance(size, int) else size or max(tuple(mask.shape[-2:]) for mask in masks)
    masks = [mask if tuple(mask.shape[-2:]) == size else resample(mask, size) > 0 for mask in masks]
    return reduce(torch.logical_and, masks)


def _refuse(band: Tensor, modality: Modality, channel: int, tag: float | None, source: str) -> None:
    """Raise if a band has no data at all, or some without that the rule does not fill."""
    if not (band.is_floating_point() or modality.stored_unit or _tags(modality, tag)):
        return  # every whole number is data
    tagged, broken = _faults(band, modality, tag)
    tags, others, name = int(tagged.sum()), int(broken.sum()), f"{modality.name!r} band {modality.bands[channel]}"
    if tags + others == band.numel():
        raise ValueError(f"{source}: every value of {name} is no data; drop this sample")
    if modality.on_nodata == "keep":
        tags = 0
    if modality.on_nodata != "mean" and tags + others:
        counts = " and ".join(f"{count} {what}" for count, what in ((others, "not finite"), (tags, "nodata")) if count)
        raise ValueError(
            f'{source}: of {band.numel()} values of {name} {counts}; drop this sample, or set on_nodata = "mean" in '
            "the manifest to fill and mark them"
        )


def _source(file: Path, identity: str) -> str:
    """A file as errors name it; one that holds many samples, with the sample."""
    return str(file) if identity in str(file) else f"{file} ({identity})"


def _to_tensor(band: np.ndarray) -> Tensor:
    """A copy as a tensor, in a type whose arithmetic torch has; every stored value is kept."""
    types = {"u2": np.int32, "u4": np.int64, "f8": np.float32}
    return torch.from_numpy(np.array(band, types.get(band.dtype.str[1:], band.dtype.newbyteorder("="))))


def _to_grid(key: str, value, size):
    if size is None or key not in ("label", "map") or np.ndim(value) != 2:
        return value
    return resample(value, size).astype(value.dtype)


def check_choice(data: str, what: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Raise ValueError unless there is something given and all of it is known; `data` and `what` name it."""
    unknown = [item for item in given if item not in known]
    if unknown or not given:
        raise ValueError(f"{data}: {what} {unknown or 'empty'}; choose from {known}")
