"""Run a model once and keep what it looked at: one way for Fus-MAE, MaeFuse and MsIFT.

    seen = watch(model, images, masks)
    look(seen, "late.s1", "s1", patch=27)["s2"]  # (h, rows, cols)

No hooks: the models hand their maps out themselves. Maps are lazy (`fmlib.layers.LazyMap`), so that all layers of a
large image fit in memory and any row is there in a millisecond.
"""

import torch
from torch import Tensor, nn

from fmlib.attention.places import CLS, Layer, Part, Seen
from fmlib.masking import Masks, keep_all
from fmlib.models.fusmae import FusMAE
from fmlib.models.maefuse import MaeFuse
from fmlib.models.msift import MsIFT


def watch(
    model: nn.Module,
    images: dict[str, Tensor],
    masks: Masks | None = None,
    present: dict[str, Tensor] | None = None,
    explicit: bool = False,
) -> Seen:
    """Run a model and keep its attention.

    Args:
        model: a `FusMAE`, `MaeFuse` or `MsIFT`, in evaluation mode.
        images: {sensor: (B, C, H, W)} in physical units, of any size that the model takes.
        masks: of a `FusMAE`; default: nothing is removed.
        present: {sensor: (B,) bool}, False where a sample lacks a sensor; with `masks` it stands in them.
        explicit: keep whole maps that gradients flow through, for `relevance`; default: lazy ones, without gradients.

    Returns:
        The layers by name (as in the model's own maps), and its output: predicted patches, picture, or logits.

    Raises:
        ValueError: a model in training mode, without attention, or whose maps are not of patches.
    """
    ways = {FusMAE: _watch_fusmae, MaeFuse: _watch_maefuse, MsIFT: _watch_msift}
    way = next((way for kind, way in ways.items() if isinstance(model, kind)), None)
    if way is None:
        known = ", ".join(kind.__name__ for kind in ways)
        raise ValueError(f"a {type(model).__name__} cannot be watched; give one of {known}")
    if model.training:
        raise ValueError("the model is in training mode, its dropout would blur the maps; call model.eval() first")
    if masks is not None and way is not _watch_fusmae:
        raise ValueError(f"a {type(model).__name__} takes no masks; leave them out")
    with torch.set_grad_enabled(explicit):
        return way(model, images, masks, present, True if explicit else "lazy")


# -- Fus-MAE ----------------------------------------------------------------------------------------------------------


def _watch_fusmae(model: FusMAE, images, masks, present, how) -> Seen:
    patches, grids = model.patches(images)
    if masks is None:
        batch, device = next((len(x), x.device) for x in images.values())
        masks = keep_all({name: grids[name] for name in images}, batch, present)
        masks = {name: mask.to(device) for name, mask in masks.items()}
    encoded = model.forward_encoder(patches, grids, masks, how)
    pred, late = model.forward_decoder(encoded.tokens, masks, grids, how)
    first = next(iter(masks))
    mask_of = {key: masks.get(key, masks[first]) for key in encoded.tokens}
    layers = {}
    for name, attn in (encoded.attn | late).items():
        queries, keys = _fusmae_parts(model, name, mask_of)
        if sum(part.ids.shape[1] for part in queries):  # a decoder with nothing to predict asks nothing
            layers[name] = Layer(attn, queries, keys)
    grids = {key: grids.get(key, grids[first]) for key in mask_of}
    size = max(tuple(image.shape[2:]) for image in images.values())
    stages = _stages(layers, mask_of)
    return Seen(layers, stages, tuple(stages), grids, size, pred)


def _fusmae_parts(model: FusMAE, layer: str, masks: Masks) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Rows and columns of a layer, see `FusMAE.attention_maps`."""
    kept = {name: Part(name, mask.ids_keep, mask.pad_keep) for name, mask in masks.items()}
    removed = {name: Part(name, mask.ids_remove, mask.pad_remove) for name, mask in masks.items()}
    kind, _, rest = layer.partition(".")
    name = rest.rpartition(".")[2]
    if kind == "blocks":
        group, number = ([kept[name]], list(kept).index(name)) if name in kept else (list(kept.values()), 0)
        first = next(iter(masks.values())).ids_restore[:, :1]
        cls = Part(CLS, torch.full_like(first, number))  # sensors that are encoded alone have one each
        return ((cls, *group),) * 2
    own = (kept[name], removed[name])
    if kind == "decoder":
        last = int(rest.partition(".")[0]) == len(model.decoders[name].blocks) - 1
        return (own[1:] if last else own), own
    others = tuple(part for other, part in kept.items() if other != name and part.ids.shape[1])
    return (own if kind == "late" and model.decoder_queries == "grid" else own[:1]), others


# -- MaeFuse ----------------------------------------------------------------------------------------------------------


def _watch_maefuse(model: MaeFuse, images, masks, present, how) -> Seen:
    if present is not None or model.released:
        why = "attends over the batch, not over patches" if model.released else "needs both images"
        raise ValueError(f"this MaeFuse {why}; its maps cannot be placed")
    fused = model(images, return_attention=how)
    height, width = images["ir"].shape[2:]
    grid = tuple(-(-side // p) for side, p in zip((height, width), model.patch_size, strict=True))
    ids = torch.arange(grid[0] * grid[1], device=images["ir"].device).expand(len(images["ir"]), -1)
    part = {name: (Part(name, ids),) for name in ("ir", "vi", "fused")}
    parts = {"cfm.ir": ("ir", "vi"), "cfm.vi": ("vi", "ir"), "mfm.ir": ("fused", "ir"), "mfm.vi": ("fused", "vi")}
    layers = {name: Layer(attn, *(part[side] for side in parts[name])) for name, attn in fused.attn.items()}
    stages = _stages(layers, part)
    size = tuple(n * p for n, p in zip(grid, model.patch_size, strict=True))
    # MFM takes its answers from the images themselves, not from what CFM made of them: the last stage is the path
    return Seen(layers, stages, tuple(stages)[-1:], dict.fromkeys(part, grid), size, fused.image)


# -- MsIFT ------------------------------------------------------------------------------------------------------------


def _watch_msift(model: MsIFT, images, masks, present, how) -> Seen:
    if model.fusion != "msift":
        raise ValueError(f"an MsIFT with fusion={model.fusion!r} joins maps without attention; train fusion='msift'")
    pred = model(images, present, return_attention=how)
    with torch.no_grad():  # for their sizes alone
        maps, here = model.maps(images, present or {})
    grids = {name: tuple(side // model.patch_size for side in x.shape[2:]) for name, x in maps.items()}
    parts = {name: _source_parts(model, name, number, grids, here) for number, name in enumerate(grids)}
    layers = {}
    for name, attn in pred.attn.items():
        *_, kind, source = name.split(".")
        others = [part for other, some in parts.items() if other != source for part in some]
        layers[name] = Layer(attn, parts[source], tuple(others) if kind == "cross" else parts[source])
    size = max(tuple(image.shape[2:]) for image in images.values())
    stages = _stages(layers, grids)
    return Seen(layers, stages, tuple(stages), grids, size, pred.logits)


def _source_parts(model: MsIFT, name: str, number: int, grids, here) -> tuple[Part, ...]:
    """A source's class token, if there is one, and its patches."""
    count = grids[name][0] * grids[name][1]
    lacking = (here[name] == 0)[:, None]
    ids = torch.arange(count, device=lacking.device).expand(len(lacking), -1)
    pads = (None, None) if not lacking.any() else (lacking, lacking.expand(-1, count))
    cls = (Part(CLS, torch.full_like(ids[:, :1], number), pads[0]),) if model.fuse.prefix else ()
    return (*cls, Part(name, ids, pads[1]))


def _stages(layers: dict[str, Layer], sensors) -> dict[str, tuple[str, ...]]:
    """Layers that differ only in the sensor at the end of their names are parallel."""
    stages: dict[str, list[str]] = {}
    for name in layers:
        stem, _, last = name.rpartition(".")
        stages.setdefault(stem if last in sensors else name, []).append(name)
    return {stage: tuple(names) for stage, names in stages.items()}
