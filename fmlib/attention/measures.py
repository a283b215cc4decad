"""Numbers of attention maps: the share a sensor gets, how far and how widely queries look, where keys lie to them.

All work through the queries in chunks, so that no map is ever whole in memory.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fmlib.attention.places import CLS, Layer, Part, Seen, spans, there
from fmlib.layers import Pair


def measure(seen: Seen, layers: Sequence[str] = (), chunk: int = 256) -> list[dict]:
    """Share, distance and entropy of each head, between each pair of sensors; means over queries and samples.

    Args:
        seen: from `watch`. layers: names of those to take; default: all.
        chunk: queries at a time.

    Returns:
        One row a layer, head and pair: {"layer", "stage", "head", "query", "key" (sensors),
        "share": of the query's attention that this sensor's patches get, 0 to 1 (class tokens get the rest),
        "distance": in pixels between the query and what it looks at in this sensor, weighted by attention,
        "entropy": of the attention within this sensor, in bits,
        "even_share", "even_distance", "even_entropy": the same if all keys got equal attention}.
    """
    rows, stage_of = [], {name: stage for stage, names in seen.stages.items() for name in names}
    for name in layers or seen.layers:
        layer = seen.layers[name]
        for query, key in dict.fromkeys((q.sensor, k.sensor) for q in layer.queries for k in layer.keys):
            if CLS not in (query, key):
                pair = {"layer": name, "stage": stage_of[name], "query": query, "key": key}
                rows += [pair | found for found in _measure_pair(layer, seen, query, key, chunk)]
    return rows


def _measure_pair(layer: Layer, seen: Seen, query: str, key: str, chunk: int) -> list[dict]:
    keys, columns = _joined(layer.keys, key)
    answers = torch.cat([there(part) for part in layer.keys], dim=1)  # (B, M)
    even = (answers / answers.sum(1, keepdim=True).clamp(min=1))[:, None, None]  # (B, 1, 1, M)
    centres = {name: _centres(seen.grids[name], seen.size).to(keys.ids.device) for name in (query, key)}
    sums = count = 0
    for part, weights in _chunks(layer, query, chunk):  # weights (B, h, n, M)
        far = (centres[query][part.ids][:, :, None] - centres[key][keys.ids][:, None]).norm(dim=-1)[:, None]
        both = [_numbers(w.expand_as(weights)[..., columns], far) for w in (weights, even)]  # each 3 × (B, h, n)
        valid = there(part)[:, None] & (both[1][0][:, :1] > 0)  # (B, 1, n): asks, and this sensor has keys
        sums = sums + torch.stack([(x * valid).sum((0, 2)) for xs in both for x in xs])  # (6, h)
        count += int(valid.sum())
    names = ("share", "distance", "entropy")
    names += tuple(f"even_{name}" for name in names)
    means = (sums / count).T.tolist() if count else []
    return [{"head": head} | dict(zip(names, values, strict=True)) for head, values in enumerate(means)]


def _numbers(weights: Tensor, far: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Share, distance and entropy of weights (B, h, n, K) at distances (B, 1, n, K): (B, h, n) each."""
    share = weights.sum(-1)
    p = weights / share.clamp(min=1e-30)[..., None]
    return share, (p * far).sum(-1), -(p * p.clamp(min=1e-30).log2()).sum(-1)


def offset_map(seen: Seen, layer: str, asks: str, answers: str, chunk: int = 256) -> Tensor:
    """Mean attention by where a key lies from the query: does a head look at the same place, beside it, anywhere?

    Args:
        seen: from `watch`. layer: name of one of its layers.
        asks, answers: sensors with equal grids of R × C patches.

    Returns:
        (h, 2R − 1, 2C − 1): mean weight of a key that lies so many rows and columns of patches down and right; the
        middle is the query's own place. NaN where no pair of tokens lies so.

    Raises:
        ValueError: unequal grids, or the one does not look at the other in this layer.
    """
    found, (rows, cols) = seen.layers[layer], seen.grids[asks]
    if seen.grids[answers] != (rows, cols):
        raise ValueError(f"offsets need equal grids; {asks!r} has {(rows, cols)}, {answers!r} {seen.grids[answers]}")
    if (asks, answers) not in ((q.sensor, k.sensor) for q in found.queries for k in found.keys):
        raise ValueError(f"in layer {layer!r} {asks!r} does not look at {answers!r}")
    keys, columns = _joined(found.keys, answers)
    bins = (2 * rows - 1) * (2 * cols - 1)
    sums = counts = torch.zeros(1, bins, device=keys.ids.device)
    for part, weights in _chunks(found, asks, chunk):
        down, right = (at(keys.ids, cols)[:, None] - at(part.ids, cols)[..., None] for at in (_row, _column))
        place = ((down + rows - 1) * (2 * cols - 1) + right + cols - 1).flatten()  # of B·n·K pairs
        valid = (there(part)[..., None] & there(keys)[:, None]).to(weights)[None]  # (1, B, n, K)
        picked = weights[..., columns].transpose(0, 1) * valid  # (h, B, n, K)
        sums, counts = (
            total + x.new_zeros(len(x), bins).index_add(1, place, x.flatten(1))
            for total, x in ((sums, picked), (counts, valid))
        )
    return (sums / counts.where(counts > 0, torch.nan)).unflatten(1, (2 * rows - 1, 2 * cols - 1))


def followed(before: Seen, after: Seen, moved: str, down: float = 0, right: float = 0, chunk: int = 256) -> list[dict]:
    """Does attention follow an image that is displaced, or does it stay at the place?

    Args:
        before, after: two passes of one model, from `watch`: with all images in place, and with one displaced.
        moved: its sensor. down, right: how far, in pixels.

    Returns:
        One row a layer, head and pair of sensors that the displaced one is of: {"layer", "stage", "head", "query",
        "key", "followed": share of the way that the middle of a query's attention went along, 0 where it stayed, 1
        where it went with the content}; the mean over queries whose content did not leave the image.
    """
    rows, stage_of = [], {name: stage for stage, names in before.stages.items() for name in names}
    for name, layer in before.layers.items():
        pairs = dict.fromkeys((q.sensor, k.sensor) for q in layer.queries for k in layer.keys)
        for query, key in (pair for pair in pairs if moved in pair and CLS not in pair and pair[0] != pair[1]):
            asks = _joined(layer.queries, query)[0]
            way = torch.tensor((down, right), dtype=torch.float, device=asks.ids.device) * (1 if key == moved else -1)
            size = torch.tensor(before.size, device=way.device)
            goal = _centres(before.grids[query], before.size).to(way.device)[asks.ids] + way  # (B, N, 2)
            stayed = ((goal > 0) & (goal < size)).all(-1) & there(asks)
            middles = [_middles(seen.layers[name], seen, query, key, chunk) for seen in (before, after)]
            share = (middles[1] - middles[0]) @ way / (way @ way)  # (B, h, N)
            means = (share * stayed[:, None]).sum((0, 2)) / stayed.sum()
            about = {"layer": name, "stage": stage_of[name], "query": query, "key": key}
            rows += [about | {"head": head, "followed": mean} for head, mean in enumerate(means.tolist())]
    return rows


def _middles(layer: Layer, seen: Seen, query: str, key: str, chunk: int) -> Tensor:
    """Middle of what each query looks at in a sensor, in pixels (B, h, N, 2)."""
    keys, columns = _joined(layer.keys, key)
    places = _centres(seen.grids[key], seen.size).to(keys.ids.device)[keys.ids]  # (B, K, 2)
    parts = [weights[..., columns] for _, weights in _chunks(layer, query, chunk)]
    return torch.cat([(w @ places[:, None]) / w.sum(-1, keepdim=True).clamp(min=1e-30) for w in parts], dim=2)


# -- parts ------------------------------------------------------------------------------------------------------------


def _chunks(layer: Layer, sensor: str, chunk: int) -> Iterator[tuple[Part, Tensor]]:
    """A sensor's queries, so many at a time, and their rows (B, h, n, M)."""
    queries, numbers = _joined(layer.queries, sensor)
    for some in torch.arange(len(numbers), device=numbers.device).split(chunk):
        yield Part(sensor, queries.ids[:, some], queries.pad[:, some]), layer.rows(numbers[some])


def _joined(parts: tuple[Part, ...], sensor: str) -> tuple[Part, Tensor]:
    """All rows (or columns) of a sensor as one part, and their numbers."""
    mine = [(part, span) for part, span in spans(parts) if part.sensor == sensor]
    ids, here = (torch.cat(x, dim=1) for x in zip(*((part.ids, there(part)) for part, _ in mine), strict=True))
    numbers = torch.cat([torch.arange(span.start, span.stop, device=ids.device) for _, span in mine])
    return Part(sensor, ids, ~here), numbers


def _row(ids: Tensor, cols: int) -> Tensor:
    return ids // cols


def _column(ids: Tensor, cols: int) -> Tensor:
    return ids % cols


def _centres(grid: Pair, size: Pair) -> Tensor:
    """(L, 2) middles of patches in pixels of an image of `size`."""
    rows, cols = ((torch.arange(n) + 0.5) * side / n for n, side in zip(grid, size, strict=True))
    return torch.cartesian_prod(rows, cols)
