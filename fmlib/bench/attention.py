"""Fused against explicit attention, and the memory of its maps: `fmlib bench attention`."""

from collections.abc import Callable, Sequence

import torch

from fmlib.bench.step import device_name, in_turn
from fmlib.layers import Attention, LazyMap, attention
from fmlib.recipe import pick_device

MIB = 2**20


def bench_attention(
    tokens: Sequence[int] = (128, 256, 512, 1024),
    heads: int = 12,
    width: int = 768,
    batch: int = 8,
    device: str = "auto",
    seconds: float = 1.0,
) -> dict:
    """Time softmax(q kᵀ) v both ways, and weigh the maps that a model of 12 layers hands out.

    Args:
        tokens: numbers of tokens to measure with.
        heads, width: of a layer; ViT-B has 12 and 768.
        batch: images at a time for the timing; maps are weighed for one image.
        device: where; auto: CUDA if there is one. On CUDA the precision is bf16, elsewhere fp32.
        seconds: time for each pair of measurements, which take turns.

    Returns:
        {"device", "heads", "width", "batch", "rows": [{"tokens", "fused_ms", "explicit_ms", "times" as fast, and as
        `map_memory`; on CUDA also "fused_peak_mib", "explicit_peak_mib"}]}.

    Raises:
        ValueError: a width that does not divide into the heads.
    """
    if width % heads:
        raise ValueError(f"width {width} does not divide into {heads} heads")
    place, rows = pick_device(device), []
    for count in tokens:
        dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
        q, k, v = torch.randn(3, batch, heads, count, width // heads, device=place).to(dtype).unbind(0)
        ways = {"fused": lambda x=(q, k, v): attention(*x), "explicit": lambda x=(q, k, v): attention(*x, None, True)}
        fused, explicit = in_turn(list(ways.values()), place, 2 * seconds)
        row = {"tokens": count, "fused_ms": 1e3 * fused, "explicit_ms": 1e3 * explicit, "times": explicit / fused}
        if place.type == "cuda":
            row |= {f"{name}_peak_mib": _peak(way, place) for name, way in ways.items()}
        rows.append(row | map_memory(count, heads, width, device=place))
    return {"device": device_name(place), "heads": heads, "width": width, "batch": batch, "rows": rows}


@torch.no_grad()
def map_memory(
    tokens: int = 1024, heads: int = 12, width: int = 768, depth: int = 12, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Memory of one image's attention maps in all layers, whole and lazy (`fmlib.layers.LazyMap`).

    Returns:
        {"maps_mib", "lazy_mib"}: what the tensors handed out keep in memory, in fp32; a view keeps all that it looks
        into.
    """
    layer, x, found = Attention(width, heads).to(device), torch.randn(1, tokens, width, device=device), {}
    for name, how in (("maps_mib", True), ("lazy_mib", "lazy")):
        attn = layer(x, return_attention=how)[1]
        tensors = [attn.q, attn.k] if isinstance(attn, LazyMap) else [attn]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        found[name] = depth * sum(storages.values()) / MIB  # every layer has its own
    return found


def _peak(function: Callable, device: torch.device) -> float:
    """MiB that a call takes at its peak, beyond what is there before."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    return (torch.cuda.max_memory_allocated(device) - before) / MIB
