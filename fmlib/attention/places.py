"""Where the rows and columns of attention maps lie: each is a patch of a sensor, or a class token.

Shapes: B batch, h heads, N queries, M keys, L patches of a sensor's grid, K tokens of one part.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fmlib.layers import LazyMap, Pair

CLS = "cls"  # stands for class tokens where a sensor is named


class Part(NamedTuple):
    """Some rows or columns of a map, all of one sensor.

    Args:
        sensor: its name; `CLS` for class tokens.
        ids: (B, K) patch numbers, row by row; of class tokens, which one.
        pad: (B, K) True where a slot is empty; None: none is.
    """

    sensor: str
    ids: Tensor
    pad: Tensor | None = None


class Layer(NamedTuple):
    """One attention layer: its map (B, h, N, M), whole or lazy, and what its rows and columns are."""

    map: Tensor | LazyMap
    queries: tuple[Part, ...]
    keys: tuple[Part, ...]

    def rows(self, which=slice(None)) -> Tensor:
        """The rows of some queries (B, h, those, M); they sum to 1."""
        return self.map.rows(which) if isinstance(self.map, LazyMap) else self.map[:, :, which]


class Seen(NamedTuple):
    """Everything that one pass of a model looked at.

    Args:
        layers: by name, in the order of the model.
        stages: {stage: names of its layers, which are parallel}: ``{"early": ("early.s1", "early.s2"), …}``.
        path: stages that tokens pass through, first to last.
        grids: rows and columns of patches of each sensor.
        size: height and width of the images in pixels; sensors cover the same ground.
        output: what the model answered.
    """

    layers: dict[str, Layer]
    stages: dict[str, tuple[str, ...]]
    path: tuple[str, ...]
    grids: dict[str, Pair]
    size: Pair
    output: Any


def spans(parts: tuple[Part, ...]) -> list[tuple[Part, slice]]:
    """Each part with the rows or columns that it takes."""
    ends = torch.tensor([part.ids.shape[1] for part in parts]).cumsum(0).tolist()
    return [(part, slice(end - part.ids.shape[1], end)) for part, end in zip(parts, ends, strict=True)]


def there(part: Part) -> Tensor:
    """(B, K) True where a slot holds a token."""
    return torch.ones_like(part.ids, dtype=torch.bool) if part.pad is None else ~part.pad


def look(seen: Seen, layer: str, sensor: str, patch: int, sample: int = 0) -> dict[str, Tensor]:
    """Where one patch looks.

    Args:
        seen: from `watch`. layer: name of one of its layers.
        sensor: whose patch asks; `CLS` for the class token.
        patch: its number, row by row. sample: of the batch.

    Returns:
        {sensor: (h, rows, cols)} of the sensors that answer, NaN at patches that no key stands for. Nothing where
        the patch does not ask in this layer: because it is removed, or another sensor's turn.
    """
    return _look(_named(seen, layer), seen.grids, sensor, patch, sample)


def look_back(seen: Seen, flow: Layer, sensor: str, patch: int) -> dict[str, Tensor]:
    """What reached one patch over all layers: {sensor: (rows, cols)}, as `look`.

    Args:
        seen: from `watch`. flow: from `rollout` or `relevance` of the same.
        sensor, patch: as for `look`.
    """
    return {name: weights[0] for name, weights in _look(flow, seen.grids, sensor, patch).items()}


def _look(layer: Layer, grids: dict[str, Pair], sensor: str, patch: int, sample: int = 0) -> dict[str, Tensor]:
    for part, span in spans(layer.queries):
        row = (part.ids[sample] == patch) & there(part)[sample]
        if part.sensor == sensor and row.any():
            which = span.start + int(row.nonzero()[0])
            weights = layer.rows(slice(which, which + 1))[sample]  # (h, 1, M)
            return {n: x[:, 0].unflatten(1, grids[n]) for n, x in _spread(weights, layer.keys, grids, sample).items()}
    return {}


def look_across(
    seen: Seen, stage: str, queries: dict[str, int], head: int | None = None, sample: int = 0
) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Where patches of every sensor look in one stage, as `fmlib.viz.attention_pairs` takes it.

    Args:
        seen: from `watch`. stage: one of `seen.stages`.
        queries: {what it is: number of the patch}.
        head: one of the stage's heads; None: their mean. sample: of the batch.

    Returns:
        {what it is: {sensor that asks: {sensor that answers: (rows, cols)}}}.
    """
    if stage not in seen.stages:
        raise ValueError(f"no stage {stage!r} was seen; choose one of {', '.join(seen.stages)}")
    found = {}
    for label, patch in queries.items():
        maps: dict[str, dict[str, Tensor]] = {}
        for sensor in seen.grids:
            for layer in seen.stages[stage]:
                for answers, weights in look(seen, layer, sensor, patch, sample).items():
                    maps.setdefault(sensor, {})[answers] = weights.mean(0) if head is None else weights[head]
        found[label] = maps
    return found


def between(seen: Seen, layer: str, asks: str, answers: str, sample: int = 0) -> Tensor:
    """The whole map from one sensor's patches to another's (or its own).

    Returns:
        (h, L, L'): rows and columns in the order of the grids, NaN where a patch does not ask or is no key.

    Raises:
        ValueError: in this layer, the one sensor does not look at the other.
    """
    seen_by = _named(seen, layer)
    found = []
    for part, span in spans(seen_by.queries):
        if part.sensor == asks:
            columns = _spread(seen_by.rows(span)[sample], seen_by.keys, seen.grids, sample)
            if answers in columns:
                found.append((part, columns[answers]))
    if not found:
        keys = sorted({part.sensor for part in seen_by.keys})
        raise ValueError(f"in layer {layer!r} {asks!r} does not look at {answers!r}; the keys are of {', '.join(keys)}")
    rows, cols = seen.grids[asks]
    whole = found[0][1].new_full((len(found[0][1]), rows * cols, found[0][1].shape[2]), torch.nan)
    for part, weights in found:
        here = there(part)[sample]
        whole[:, part.ids[sample][here]] = weights[:, here]
    return whole


def _named(seen: Seen, layer: str) -> Layer:
    if layer not in seen.layers:
        raise ValueError(f"no layer {layer!r} was seen; choose one of {', '.join(seen.layers)}")
    return seen.layers[layer]


def _spread(weights: Tensor, keys: tuple[Part, ...], grids: dict[str, Pair], sample: int) -> dict[str, Tensor]:
    """Columns (h, n, M) sorted by sensor and patch: {sensor: (h, n, L)}, NaN at patches that are no keys."""
    found = {}
    for part, span in spans(keys):
        if part.sensor == CLS:
            continue
        rows, cols = grids[part.sensor]
        whole = found.setdefault(part.sensor, weights.new_full((*weights.shape[:2], rows * cols), torch.nan))
        here = there(part)[sample]
        whole[..., part.ids[sample][here]] = weights[..., span][..., here]
    return found


def pick_queries(images: dict[str, Tensor], grid: Pair, modalities) -> dict[str, int]:
    """Two patches worth asking from: one that stands out of its image, and one of its background.

    Args:
        images: {sensor: (C, H, W)} of one sample, in physical units. grid: rows and columns of patches.
        modalities: the sensors; their statistics make bands comparable.

    Returns:
        {"object": the patch whose mean differs most from the image's median patch, "background": the one that differs
        least}; patches on the border do not count.
    """
    means = []
    for name, image in images.items():
        mean, std = (torch.tensor(x)[:, None, None] for x in (modalities[name].mean, modalities[name].std))
        means.append(F.adaptive_avg_pool2d((image - mean) / std, grid).flatten(1))  # (C, L)
    means = torch.cat(means)
    distance = (means - means.median(1, keepdim=True).values).square().mean(0).view(grid)
    inner = torch.ones(grid, dtype=torch.bool)
    if min(grid) > 2:
        inner[[0, -1]], inner[:, [0, -1]] = False, False
    odd = distance.masked_fill(~inner, -1).argmax()
    plain = distance.masked_fill(~inner, torch.inf).argmin()
    return {"object": int(odd), "background": int(plain)}
