"""What reaches a token over several layers: rollout, and relevance by gradients.

Both see one sample as one graph of tokens, over all sensors and class tokens: a layer of cross-attention fills the
blocks from sensor to sensor, a shared layer the whole matrix. T is the number of tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fmlib.attention.places import Layer, Part, Seen, spans, there


def rollout(
    seen: Seen, sample: int = 0, stages: Sequence[str] = (), residual: bool = True, discard: float = 0.0
) -> Layer:
    """Attention multiplied up over layers (Abnar and Zuidema, arXiv 2005.00928), the mean of the heads of each.

    Args:
        seen: from `watch`. sample: of the batch.
        stages: those to take; default: all that tokens pass through, `seen.path`.
        residual: count the path past each layer with half of the weight; leave it out where a layer has none, as
            MaeFuse's do.
        discard: share of each row's keys, the least looked at, that is set to 0; 0 to 1.

    Returns:
        One map (1, 1, T, T): how much of each token came from each other; rows sum to 1.
    """
    if not 0 <= discard < 1:
        raise ValueError(f"discard is {discard}, but must lie in 0..1, below 1 (the share of keys left out)")
    if unknown := sorted(set(stages) - set(seen.path)):
        raise ValueError(f"tokens do not pass through {unknown}; choose of {', '.join(seen.path)}")
    path = [[seen.layers[name] for name in seen.stages[stage]] for stage in stages or seen.path]
    tokens = _tokens([layer for layers in path for layer in layers], sample)
    total = None
    for layers in path:
        step = sum(_square(layer, layer.rows()[sample].mean(0), tokens, sample, discard) for layer in layers)
        asked = step.sum(1, keepdim=True)
        eye = torch.eye(len(step), dtype=step.dtype, device=step.device)
        step = torch.where(asked > 0, step / asked.clamp(min=1e-12), eye)  # who does not ask stays as it is
        step = (step + eye) / 2 if residual else step
        total = step if total is None else step @ total
    return Layer(total[None, None], tokens, tokens)


def relevance(seen: Seen, score: Tensor, sample: int = 0) -> Layer:
    """Attention weighted by what it does for a score (Chefer et al., arXiv 2103.15679): positive gradients count.

    Args:
        seen: from `watch` with ``explicit=True``.
        score: (), made from `seen.output`: e.g. a logit, or what a removed patch is predicted to be.
        sample: of the batch; the score's.

    Returns:
        One map (1, 1, T, T): how much each token matters to each other, 0 or above. The rows do not sum to 1.

    Raises:
        ValueError: maps without gradients.
    """
    names = [name for stage in seen.path for name in seen.stages[stage]]
    maps = [seen.layers[name].map for name in names]
    if not all(isinstance(attn, Tensor) and attn.requires_grad for attn in maps):
        raise ValueError("relevance needs maps that gradients flow through; call watch(…, explicit=True)")
    grads = dict(zip(names, torch.autograd.grad(score, maps, retain_graph=True, allow_unused=True), strict=True))
    tokens = _tokens([seen.layers[name] for name in names], sample)
    total = torch.eye(sum(part.ids.shape[1] for part in tokens), device=score.device)
    for stage in seen.path:
        steps = []
        for name in (name for name in seen.stages[stage] if grads[name] is not None):
            weights = (grads[name][sample] * seen.layers[name].map[sample].detach()).clamp(min=0).mean(0)
            steps.append(_square(seen.layers[name], weights, tokens, sample))
        total = total + sum(steps) @ total if steps else total
    return Layer((total - torch.eye(len(total), device=total.device))[None, None], tokens, tokens)


# -- parts ------------------------------------------------------------------------------------------------------------


def _tokens(layers: list[Layer], sample: int) -> tuple[Part, ...]:
    """Every token of one sample that asks or answers in some layer, a part a sensor, in the order of ids."""
    found: dict[str, list[Tensor]] = {}
    for layer in layers:
        for part in (*layer.queries, *layer.keys):
            found.setdefault(part.sensor, []).append(part.ids[sample][there(part)[sample]])
    return tuple(Part(sensor, torch.cat(ids).unique()[None]) for sensor, ids in found.items())


def _square(layer: Layer, weights: Tensor, tokens: tuple[Part, ...], sample: int, discard: float = 0.0) -> Tensor:
    """A layer's weights (N, M) among all tokens: (T, T), zeros elsewhere."""
    (rows, asks), (cols, answers) = (_numbers(parts, tokens, sample) for parts in (layer.queries, layer.keys))
    weights = weights[asks][:, answers]
    if discard:
        least = weights.argsort(1)[:, : int(discard * weights.shape[1])]
        weights = weights.scatter(1, least, 0)
    count = sum(part.ids.shape[1] for part in tokens)
    square = weights.new_zeros(count, count)
    square[rows[:, None], cols] = weights
    return square


def _numbers(parts: tuple[Part, ...], tokens: tuple[Part, ...], sample: int) -> tuple[Tensor, Tensor]:
    """Numbers of the rows (or columns) of a layer among all tokens, and which of its rows hold a token at all."""
    known = {part.sensor: (part.ids[0], span.start) for part, span in spans(tokens)}
    here, numbers = torch.cat([there(part)[sample] for part in parts]), []
    for part in parts:
        ids, start = known[part.sensor]
        numbers.append(torch.searchsorted(ids, part.ids[sample].contiguous()) + start)
    return torch.cat(numbers)[here], here
