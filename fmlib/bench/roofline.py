"""How near the main operators of a step come to what the machine can do (roofline: Williams, Waterman, Patterson 2009).

An operator that does many operations a byte is held up by arithmetic, one that does few by memory. Both limits are
measured in the same run: by one large matrix product and by one large copy.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmlib.bench.step import Step, device_name, in_turn, large_copy, large_product, working_type
from fmlib.layers import Attention, attention
from fmlib.recipe import TrainParams, pick_device


class Operator(NamedTuple):
    """An operator at the shapes of a model: a function, its floating-point operations, the bytes it has to move."""

    name: str
    run: Callable
    flop: int
    bytes: int


def bench_roofline(params: TrainParams, seconds: float = 3.0) -> dict:
    """Arithmetic intensity and rate of the main operators of a step's forward pass, beside the machine's limits.

    Args:
        params: as for training with method ``"mae"``; only the manifest of `data` is read.
        seconds: time for all measurements, which take turns.

    Returns:
        {"device", "precision", "matrix_tflop_per_s", "memory_gb_per_s", "operators": [{"name", "flop_per_byte",
        "tflop_per_s", "limit_tflop_per_s", "share" of that limit}]}. Bytes are what comes in and goes out once, at
        the least; an operator whose data stay in a cache can be above its limit.
    """
    device = pick_device(params.device)
    dtype = working_type(params, device)
    (product, work), (copy, moved) = large_product(device, dtype), large_copy(device)
    operators = _operators(Step(params, device), dtype)
    with torch.no_grad():
        matrix, memory, *times = in_turn([product, copy, *(o.run for o in operators)], device, seconds)
    matrix, memory = work / matrix, moved / memory
    rows = []
    for operator, time in zip(operators, times, strict=True):
        intensity, rate = operator.flop / operator.bytes, operator.flop / time
        limit = min(matrix, intensity * memory)
        row = {"name": operator.name, "flop_per_byte": intensity, "tflop_per_s": rate / 1e12}
        rows.append(row | {"limit_tflop_per_s": limit / 1e12, "share": rate / limit})
    machine = {"device": device_name(device), "precision": str(dtype).removeprefix("torch.")}
    return machine | {"matrix_tflop_per_s": matrix / 1e12, "memory_gb_per_s": memory / 1e9, "operators": rows}


def _operators(step: Step, dtype: torch.dtype) -> list[Operator]:
    """Matrix products, attention both ways, a norm and the optimiser at the shapes of one step."""
    block, decoder = step.model.blocks[0], next(iter(step.model.decoders.values()))
    late = decoder.blocks[-1]
    linear = {
        "encoder: keys and values": block.attn.kv,
        "encoder MLP, in": block.mlp.fc1,
        "encoder MLP, out": block.mlp.fc2,
        "decoder MLP, in": late.mlp.fc1,
        "decoder: prediction": next(iter(decoder.heads.values())),
    }
    attentions = {"encoder attention": block.attn, "decoder attention": late.attn}
    seen = _inputs(step, [*linear.values(), *attentions.values(), block.norm2])
    found = [_product(name, seen[layer][0], layer, dtype) for name, layer in linear.items()]
    for name, layer in attentions.items():
        found += _attentions(name, layer, *seen[layer], dtype)
    return [*found, _norm(*seen[block.norm2]), _update(step.optimizer)]


def _inputs(step: Step, layers: list[nn.Module]) -> dict[nn.Module, list[Tensor]]:
    """The tensors that come into some layers in a step."""
    seen: dict[nn.Module, list[Tensor]] = {}

    def note(layer: nn.Module, given: tuple) -> None:
        seen[layer] = [x.detach() for x in given if torch.is_tensor(x)]

    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    step(step.eager)
    for handle in handles:
        handle.remove()
    return seen


def _product(name: str, x: Tensor, layer: nn.Linear, dtype: torch.dtype) -> Operator:
    x, weight, bias = (t.detach().to(dtype) for t in (x, layer.weight, layer.bias))
    rows = x.numel() // layer.in_features
    flop = 2 * rows * layer.in_features * layer.out_features
    moved = x.nbytes + weight.nbytes + rows * layer.out_features * x.element_size()
    return Operator(name, lambda: F.linear(x, weight, bias), flop, moved)


def _attentions(name: str, layer: Attention, x: Tensor, y: Tensor, dtype: torch.dtype) -> list[Operator]:
    """Softmax(q kᵀ) v, fused and step by step; step by step, the map goes to memory and back twice."""
    heads = layer.num_heads
    shapes = [(len(t), heads, t.shape[1], layer.q.out_features // heads) for t in (x, y, y)]
    q, k, v = (torch.randn(shape, device=x.device).to(dtype) for shape in shapes)
    flop, map_bytes = 4 * q.numel() * k.shape[2], q.nbytes // q.shape[3] * k.shape[2]
    moved = 2 * q.nbytes + k.nbytes + v.nbytes
    return [
        Operator(f"{name}, fused", lambda: attention(q, k, v), flop, moved),
        Operator(f"{name}, explicit", lambda: attention(q, k, v, return_attention=True), flop, moved + 4 * map_bytes),
    ]


def _norm(x: Tensor) -> Operator:
    """Mean, deviation, scale and shift: seven operations a value."""
    return Operator("layer norm", lambda: F.layer_norm(x, x.shape[-1:]), 7 * x.numel(), 2 * x.nbytes)


def _update(optimizer: torch.optim.Optimizer) -> Operator:
    """About fifteen operations a weight; weight, gradient and two moments are read, all but the gradient written."""
    count = sum(p.numel() for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
    return Operator("AdamW update", optimizer.step, 15 * count, 7 * 4 * count)
