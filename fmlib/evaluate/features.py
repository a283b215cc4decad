"""Frozen features: what a pretrained model knows of an image before any label is seen.

A sensor that is not among `sensors` is not shown to the model at all; it is never replaced by zeros.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmlib.data.augment import center_crop
from fmlib.data.batches import collate
from fmlib.evaluate.metrics import IGNORE
from fmlib.evaluate.tiles import in_tiles

POOLS = ("cls", "mean", "sensors", "dense")


class Features(NamedTuple):
    """Features of N samples, or of N groups of views.

    x (N, F), or (N, rows, cols, F) where dense; labels (N,), (N, classes) or (N, H, W), None where a sample has none;
    places and ids, N each.
    """

    x: Tensor
    labels: Tensor | None
    places: list[str]
    ids: list[str]

    def take(self, indices) -> "Features":
        """The features of some of the samples."""
        indices = torch.as_tensor(np.asarray(indices))
        labels = None if self.labels is None else self.labels[indices]
        names = ([names[i] for i in indices.tolist()] for names in (self.places, self.ids))
        return Features(self.x[indices], labels, *names)


@torch.no_grad()
def extract(
    model: nn.Module,
    data,
    indices=None,
    sensors: Sequence[str] | None = None,
    pool: str = "cls",
    crop: int | tuple[int, int] | None = None,
    cls_layers: int = 1,
    batch_size: int = 64,
    tile: int | None = None,
) -> Features:
    """Features of a frozen model, computed on the device it is on and returned on the CPU.

    Args:
        model: in evaluation mode; has `modalities` and `encode`.
        data: a data set, best preloaded (`fmlib.data.preload`).
        indices: (N,) sample numbers; or (N, V): the features of a row's V views are joined, and the label is that of
            the last view (see `pair_views`). Default: all samples.
        sensors: which sensors are shown; default: all that model and data share.
        pool: ``"cls"``, the class token; ``"mean"`` of all tokens; ``"sensors"``, the mean of each sensor's tokens,
            joined, zeros where one sample lacks a sensor, left out where all lack it; ``"dense"``, every place's
            tokens, joined over sensors in the same way.
        crop: side of the central window in pixels of the largest sensor; None shows whole images.
        cls_layers: of how many last blocks the class tokens are joined (``"cls"`` only).
        tile: side of the windows that images are seen in, see `in_tiles`; None shows them at once.

    Raises:
        ValueError: unknown sensor or pool; samples that have none of the sensors.
    """
    assert not model.training, "evaluate in evaluation mode: call model.eval() first"
    names = shown_sensors(model, data, sensors)
    indices = as_views(range(len(data)) if indices is None else indices)
    device, parts, labels, places, ids, seen = next(model.parameters()).device, [], [], [], [], set()
    for rows in np.array_split(indices, range(batch_size, len(indices), batch_size)):
        views, label, place, identity = read_views(data, rows, names, device, crop)
        parts.append(_joined(model, views, pool, cls_layers, tile).float().cpu())
        labels, places, ids = [*labels, label], places + place, ids + identity
        seen |= {name for _, present in views for name in names if present[name].any()}
    x = torch.cat(parts)
    if pool in ("sensors", "dense") and getattr(model, "fusion", "") != "stack":  # which has one part for all sensors
        x = _without_unseen(x, names, seen, indices.shape[1])
    return Features(x, None if any(label is None for label in labels) else torch.cat(labels), places, ids)


def _joined(model: nn.Module, views: list, pool: str, cls_layers: int, tile: int | None) -> Tensor:
    """Features of several views, joined: (B, F), or (B, rows, cols, F) for ``"dense"``."""

    def run(seen: list) -> Tensor:  # channels before rows and columns
        return torch.cat([embed(model, *view, pool, cls_layers) for view in seen], -1).movedim(-1, 1)

    return (run(views) if tile is None else in_tiles(run, views, tile)).movedim(1, -1)


def embed(
    model: nn.Module, images: dict[str, Tensor], present: dict[str, Tensor], pool: str = "cls", cls_layers: int = 1
) -> Tensor:
    """Pooled features of one batch (B, F), or (B, rows, cols, F) for ``"dense"``; gradients flow.

    Args:
        images: {sensor: (B, C, H, W)} in physical units.
        present: {sensor: (B,) bool}; may name sensors that have no images here, whose part is zeros.
        pool, cls_layers: as in `extract`.
    """
    if pool not in POOLS:
        raise ValueError(f"pool is {pool!r}; choose one of {', '.join(POOLS)}")
    shown = {name: image for name, image in images.items() if present[name].any()}
    options = {} if all(present[name].all() for name in shown) else {"present": present}
    options |= {"cls_layers": cls_layers} if cls_layers > 1 else {}
    encoded = model.encode(shown, **options)
    if pool == "cls":
        return encoded.cls
    here = {name: _weight(present, name, x) for name, x in encoded.tokens.items()}
    tokens = {name: x * here[name] for name, x in encoded.tokens.items()}  # {sensor: (B, K, D)}
    if pool == "mean":
        counts = sum(here[name][:, 0] * x.shape[1] for name, x in tokens.items())
        return sum(x.sum(1) for x in tokens.values()) / counts
    if pool == "sensors":
        parts = {name: x.mean(1) for name, x in tokens.items()}
    else:
        parts = _on_grid({name: (x, _of_stack(shown, name), _patch(model, name)) for name, x in tokens.items()})
    zeros = torch.zeros_like(next(iter(parts.values())))
    return torch.cat([parts.get(name, zeros) for name in (tokens if "stack" in tokens else present)], -1)


def standardise(train: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Features (…, F) with the training part's mean 0 and deviation 1; constant features become 0."""
    flat = train.flatten(0, -2)
    mean, std = flat.mean(0), flat.std(0, correction=0)
    std = torch.where(std > 1e-6 * flat.abs().amax(0).clamp(min=1e-12), std, torch.inf)
    return tuple((x - mean) / std for x in (train, *others))


def fill_missing(x: Tensor, shown: Sequence[str], sensors: Sequence[str], train: Tensor, views: int = 1) -> Tensor:
    """Features of some sensors, placed where a head for more of them expects them, among means of the training part.

    Args:
        x: (…, views · shown · D), joined by `extract`.
        shown, sensors: the sensors in `x`, and those the head was fitted with.
        train: the features it was fitted with, (…, views · sensors · D). Where all sensors share one part, `x` is as
            wide as these, and nothing is to be filled in.

    Returns:
        As wide as `train`.
    """
    if x.shape[-1] == train.shape[-1]:
        return x
    mean = train.flatten(0, -2).mean(0).unflatten(0, (views, len(sensors), -1))
    full = mean.expand(*x.shape[:-1], *mean.shape).clone()
    full[..., [list(sensors).index(name) for name in shown], :] = x.unflatten(-1, (views, len(shown), -1))
    return full.flatten(-3)


def presence(features: Features, number: int, share: float) -> Features:
    """Dense features with maps as one answer a sample: does a class cover more than a share of the labelled pixels?

    Args:
        features: dense, with maps (N, H, W) of class numbers, 255 where a pixel has none.
        number: of the class.
        share: 0 to 1.

    Returns:
        The mean over each image's tokens, (N, F), and labels (N,): 1 yes, 0 no, 255 where nothing is labelled.
    """
    return features._replace(x=features.x.mean((1, 2)), labels=covers(features.labels, number, share))


def covers(maps: Tensor, number: int, share: float) -> Tensor:
    """Of maps (N, H, W), 255 where a pixel has no label: (N,) 1 where a class covers more than a share of what has.

    0 where it does not, 255 where nothing is labelled.
    """
    known = (maps != IGNORE).sum((1, 2))
    return ((maps == number).sum((1, 2)) > share * known).long().masked_fill(known == 0, IGNORE)


def pair_views(data, order: Sequence[str] = ("before", "after")) -> np.ndarray:
    """Sample numbers of one place on several dates, side by side, for `extract`.

    Args:
        data: its samples' ids end in "/" and the date.
        order: the dates; labels are taken from the last.

    Returns:
        (places, dates) sample numbers, places in their order.

    Raises:
        ValueError: a place lacks one of the dates.
    """
    found: dict[str, dict[str, int]] = {}
    for index in range(len(data)):
        sample = data[index]
        found.setdefault(sample["place"], {})[sample["id"].rsplit("/", 1)[-1]] = index
    for place, dates in found.items():
        if lacking := [date for date in order if date not in dates]:
            raise ValueError(f"{data.name}/{data.split}: place {place!r} lacks {lacking}; it has {list(dates)}")
    return np.array([[dates[date] for date in order] for dates in found.values()])


# -- shared with fine-tuning ----------------------------------------------------------------------------------------


def as_views(indices) -> np.ndarray:
    """Sample numbers (N,) or (N, V) as (N, V)."""
    indices = np.asarray(indices, int)
    if not indices.size:
        raise ValueError("no samples to look at; give at least one index")
    return indices[:, None] if indices.ndim == 1 else indices


def shown_sensors(model: nn.Module, data, sensors: Sequence[str] | None) -> list[str]:
    """The sensors to show, in the model's order."""
    both = [name for name in model.modalities if name in data.modalities]
    if unknown := [name for name in sensors or () if name not in both]:
        raise ValueError(f"sensors {unknown} are not known to both model and data set; they share {both}")
    return [name for name in both if sensors is None or name in sensors]


def read_views(data, rows: np.ndarray, names: list[str], device, crop=None):
    """A batch of views (B, V): [(images, present) of each view]; the last view's labels, places and ids."""
    views = []
    for column in rows.T:
        read = data.batch(column, device) if hasattr(data, "batch") else collate([data[i] for i in column], names)
        present = {name: read["present"][name].to(device) for name in names}
        if lacking := (~torch.stack(list(present.values())).any(0)).nonzero().flatten().tolist():
            raise ValueError(f"{[read['id'][i] for i in lacking[:5]]} have none of {names}; leave them out")
        images = {name: read[name].to(device) for name in names if name in read}
        views.append((images, present))
    label = read.get("label")
    views, label = _center(views, label, crop) if crop else (views, label)
    return views, label, read["place"], read["id"]


def grid_of(count: int, size: Sequence[int], patch_size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of `count` tokens of an image of `size` pixels, from the shape of a patch."""
    rows = round(math.sqrt(count * size[0] * patch_size[1] / (size[1] * patch_size[0])))
    if rows < 1 or count % rows:
        raise ValueError(f"{count} tokens do not fill a grid over an image of {tuple(size)} pixels")
    return rows, count // rows


# -- parts ----------------------------------------------------------------------------------------------------------


def _center(views, label, crop):
    views = [(center_crop(images, crop), present) for images, present in views]
    if label is not None and label.ndim == 3:
        label = center_crop({"label": label[:, None]}, crop)["label"][:, 0]
    return views, label


def _weight(present: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """(B, 1, 1): 1 where the sample has the sensor."""
    return present[name].to(x)[:, None, None] if name in present else x.new_ones(len(x), 1, 1)


def _of_stack(shown: dict[str, Tensor], name: str) -> Tensor:
    return shown.get(name, next(iter(shown.values())))  # channel stacking: all sensors share one grid


def _patch(model: nn.Module, name: str) -> tuple[int, int]:
    return model.modalities.get(name, next(iter(model.modalities.values()))).patch_size


def _on_grid(parts: dict) -> dict[str, Tensor]:
    """Tokens (B, K, D) as grids (B, rows, cols, D); coarser ones are brought to the finest, bilinearly."""
    grids = {}
    for name, (x, image, patch_size) in parts.items():
        grids[name] = x.transpose(1, 2).unflatten(2, grid_of(x.shape[1], image.shape[2:], patch_size))
    finest = tuple(max(x.shape[axis] for x in grids.values()) for axis in (2, 3))
    fit = {n: x if x.shape[2:] == finest else F.interpolate(x, finest, mode="bilinear") for n, x in grids.items()}
    return {name: x.permute(0, 2, 3, 1) for name, x in fit.items()}


def _without_unseen(x: Tensor, names: list[str], seen: set[str], views: int) -> Tensor:
    """Leave out the zeros of sensors that no sample has."""
    keep = [place for place, name in enumerate(names) if name in seen]
    return x.unflatten(-1, (views, len(names), -1))[..., keep, :].flatten(-3)
