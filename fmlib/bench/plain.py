"""Fus-MAE's loss computed without care for speed: what `fmlib bench train --against plain` measures against.

The mathematics are those of `FusMAE.forward`, with its very weights, done the way MAE and MultiMAE are usually written:
every patch is projected and then most are thrown away, attention is a product, a softmax and a product, tokens are put
back into image order, and the decoder works on all of them to its last layer before the visible ones are left out of
the loss. Each of these can be done the fast way alone (`FAST`), which says what it gives.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fmlib.layers import gather_tokens
from fmlib.masking import Masks
from fmlib.models.fusmae import FusMAE
from fmlib.models.mae import Output

GATHER_FIRST, MASKED_ONLY, FUSED = FAST = ("gathered before projection", "only removed predicted", "fused attention")


def plain_loss(model: FusMAE, images: dict[str, Tensor], masks: Masks, fast: Sequence[str] = ()) -> Tensor:
    """The loss that ``model(images, masks)`` gives, up to rounding.

    Args:
        images: {sensor: (B, C, H, W)} in physical units, none missing.
        masks: of all sensors, each sample with as many visible patches as the others.
        fast: those of `FAST` that are done the fast way all the same.

    Raises:
        ValueError: channel stacking, or masks with padding.
    """
    if model.fusion == "stack" or any(m.pad_keep is not None or m.pad_remove is not None for m in masks.values()):
        raise ValueError("the plain way knows no channel stacking and no padded masks; set sensor_drop=0")
    patches, grids = model.patches(images)
    explicit, tokens = FUSED not in fast, {}
    for name, embed in model.embed.items():
        if GATHER_FIRST in fast:
            tokens[name] = embed(patches[name], masks[name].ids_keep, grids[name])
        else:
            every = embed.proj(patches[name]) + embed.pos(_all_ids(masks[name]), grids[name]) + embed.sensor
            tokens[name] = gather_tokens(every, masks[name].ids_keep)
    if model.early_fusion is not None:
        tokens, _ = model.early_fusion(tokens, {}, return_attention=explicit)
    for names in model._attending_together(tokens):
        tokens |= model._shared_blocks({name: tokens[name] for name in names}, {}, return_attention=explicit)[0]
    if MASKED_ONLY in fast:
        pred, _ = model.forward_decoder(tokens, masks, grids, return_attention=explicit)
        return sum(model.forward_loss(patches, pred, masks).values())
    pred = _decode(model, tokens, masks, grids, explicit)
    return sum(_masked_mse(model, name, patches[name], pred[name], masks[name].mask) for name in patches)


class Plain(nn.Module):
    """A model whose loss is computed by `plain_loss`; stands where the model stands in a training step."""

    def __init__(self, model: FusMAE, fast: Sequence[str] = ()):
        super().__init__()
        self.model, self.fast = model, fast

    def forward(self, images: dict[str, Tensor], masks: Masks) -> Output:
        loss = plain_loss(self.model, images, masks, self.fast)
        return Output(loss, {}, {name: mask.mask for name, mask in masks.items()})


def _decode(model: FusMAE, tokens: dict[str, Tensor], masks: Masks, grids, explicit: bool) -> dict[str, Tensor]:
    """Predictions (B, L, C·p·q) of all patches in image order."""
    if model.late_fusion is not None and model.decoder_queries == "latent":
        tokens, _ = model.late_fusion(tokens, {}, return_attention=explicit)
    x = {}
    for name, latent in tokens.items():
        decoder, mask = model.decoders[name], masks[name]
        hidden = decoder.mask_token.expand(*mask.ids_remove.shape, -1)
        x[name] = gather_tokens(_joined(decoder.embed(latent), hidden), mask.ids_restore)  # unshuffle
        x[name] = x[name] + decoder.pos(_all_ids(mask), grids[name])
    if model.late_fusion is not None and model.decoder_queries == "grid":
        visible = {name: gather_tokens(x[name], masks[name].ids_keep) for name in x}
        x, _ = model.late_fusion(x, {}, visible, return_attention=explicit)
    pred = {}
    for name, decoder in model.decoders.items():
        for block in decoder.blocks:
            x[name], _ = block(x[name], return_attention=explicit)
        pred[name] = decoder.heads[name](decoder.norm(x[name]))
    return pred


def _masked_mse(model: FusMAE, name: str, patches: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
    mean, std = model.embed[name].target_stats(patches)
    error = (pred.float() - (patches - mean) / std).square().mean(-1)  # (B, L)
    return (error * mask).sum() / mask.sum()


def _joined(visible: Tensor, hidden: Tensor) -> Tensor:
    return torch.cat([visible, hidden.to(visible.dtype)], dim=1)


def _all_ids(mask) -> Tensor:
    return torch.arange(mask.mask.shape[1], device=mask.mask.device).expand(len(mask.mask), -1)
