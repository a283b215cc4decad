"""Fus-MAE: masked autoencoder that fuses sensors by cross-attention (Chan-To-Hing and Veeravalli, arXiv 2401.02764).

Read it top to bottom, in the order of the paper: the sensors' projections, the early fusion that replaces the first
encoder block (section 3.1), the shared encoder, the cross-attention decoder (section 3.2), the loss.

    fusion="none"   no fusion: shared blocks, each sensor alone (with `joint_attention`: MultiMAE's encoder)
    fusion="stack"  channel stacking: one token for all sensors' channels at a place
    fusion="xad"    cross-attention in the decoder                 (paper: XAD)
    fusion="xae"    cross-attention in the encoder
    fusion="xaed"   cross-attention in the encoder and the decoder (paper: XAE&D)

Shapes: B batch, C channels, H W pixels, L patches, K kept slots, R removed slots, D width.  Mask: 0 keep, 1 remove.
"""

import torch
from torch import Tensor, nn

from fmlib.layers import Block, CrossBlock, Pair, any_visible, cat_pads, to_pair
from fmlib.masking import Masks, keep_all
from fmlib.modality import Modality
from fmlib.models.mae import Decoder, Encoded, Output, Reconstruction, SensorEmbed, check_choices, initialise

FUSIONS = ("none", "stack", "xad", "xae", "xaed")
TARGETS = ("none", "patch", "group")
QUERIES = ("latent", "grid")

_WIDTHS = ("embed_dim", "depth", "num_heads", "decoder_embed_dim", "decoder_depth", "decoder_num_heads")
PRESETS = {
    name: dict(zip(_WIDTHS, sizes, strict=True))
    for name, sizes in {
        "nano": (128, 4, 4, 96, 1, 4),  # for two CPU cores
        "tiny": (192, 12, 3, 128, 2, 4),  # ViT-Ti
        "small": (384, 12, 6, 192, 4, 6),  # ViT-S
        "base": (768, 12, 12, 256, 4, 8),  # ViT-B
        "large": (1024, 24, 16, 512, 8, 16),  # ViT-L
    }.items()
}


class FusMAE(nn.Module):
    """Fus-MAE for any number of sensors.

    Args:
        modalities: the sensors in a fixed order; names, bands, statistics and patch sizes come from them.
        img_size: height and width in pixels (int or pair) at pretraining; other sizes work later.
        fusion: where sensors meet, see the top of this file.
        embed_dim, depth, num_heads: encoder width, number of blocks (the cross-attention one included), heads.
        decoder_embed_dim, decoder_depth, decoder_num_heads: the same for the light decoders.
        mlp_ratio: hidden width of an MLP over its width.
        norm_target: ``"none"`` predicts normalised images, ``"patch"`` each patch by its own mean and deviation (MAE),
            ``"group"`` the same within each group of bands (`Modality.groups`).
        decoder_queries: who asks in the decoder's cross-attention. ``"latent"``: the sensor's visible latents, as
            Fus-MAE is described. ``"grid"``: its visible *and* mask tokens (MultiMAE's way), so that a removed patch
            sees the other sensors directly and a sensor with no visible patch at all can be predicted from them.
        joint_attention: whether the shared blocks attend over all sensors' tokens together; default: unless
            ``fusion="none"``.
        pos_temperature: of the sine-cosine positions (`fmlib.layers.sincos_positions`); MAE's is 10,000.
        cross_queries: sensors that ask the others in cross-attention; default: all of them (Fus-MAE: both directions).
            One direction only, as CROMA (arXiv 2311.00566), where radar queries optical: ``["s1"]``.
        cross_shared: whether the directions share the weights of their cross-attention (Fus-MAE: each has its own).
    """

    def __init__(
        self,
        modalities: list[Modality],
        img_size: int | Pair = 120,
        fusion: str = "xaed",
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        decoder_embed_dim: int = 192,
        decoder_depth: int = 4,
        decoder_num_heads: int = 6,
        mlp_ratio: float = 4.0,
        norm_target: str = "patch",
        decoder_queries: str = "latent",
        joint_attention: bool | None = None,
        pos_temperature: float = 30,
        cross_queries: list[str] | None = None,
        cross_shared: bool = False,
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__", "modalities")}
        super().__init__()
        check_choices(fusion=(fusion, FUSIONS), norm_target=(norm_target, TARGETS))
        check_choices(decoder_queries=(decoder_queries, QUERIES))
        if (cross_queries or cross_shared) and fusion in ("none", "stack"):
            raise ValueError(f"cross_queries and cross_shared need cross-attention; fusion={fusion!r} has none")
        self.config, self.modalities = config, {m.name: m for m in modalities}
        self.fusion, self.decoder_queries = fusion, decoder_queries
        self.joint_attention = fusion != "none" if joint_attention is None else joint_attention
        names, img_size = list(self.modalities), to_pair(img_size)
        cross = {"queries": cross_queries, "shared": cross_shared}

        # encoder
        sensor = (img_size, embed_dim, norm_target, pos_temperature)
        self.embed = nn.ModuleDict({m.name: SensorEmbed(m, *sensor) for m in modalities})
        self.grids = {name: embed.grid for name, embed in self.embed.items()}
        early = fusion in ("xae", "xaed")
        self.early_fusion = CrossBlock(names, embed_dim, num_heads, mlp_ratio, True, **cross) if early else None
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio) for _ in range(depth - early))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)

        # decoder
        late, grid_asks = fusion in ("xad", "xaed"), decoder_queries == "grid"
        dim, heads = (decoder_embed_dim, decoder_num_heads) if grid_asks else (embed_dim, num_heads)
        self.late_fusion = CrossBlock(names, dim, heads, mlp_ratio, False, **cross) if late else None
        sizes = {name: embed.proj.in_features for name, embed in self.embed.items()}
        outputs = {"stack": sizes} if fusion == "stack" else {name: {name: size} for name, size in sizes.items()}
        light = (embed_dim, decoder_embed_dim, decoder_depth, decoder_num_heads, mlp_ratio, pos_temperature)
        decoders = {key: Decoder(out, self.grids[next(iter(out))], *light) for key, out in outputs.items()}
        self.decoders = nn.ModuleDict(decoders)
        self.apply(initialise)

    # -- encoder (section 3.1) ------------------------------------------------------------------------------------

    def patches(self, images: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Pair]]:
        """Images {sensor: (B, C, H, W)} → normalised patches {sensor: (B, L, C·p·q)} and every sensor's grid."""
        if not images or set(images) - set(self.modalities):
            raise ValueError(f"sensors {list(images)} came in; give at least one of {list(self.modalities)}, no others")
        grids = {name: self.embed[name].grid_of(image.shape[2:]) for name, image in images.items()}
        return {name: self.embed[name].patches(image) for name, image in images.items()}, self.grids | grids

    def forward_encoder(self, patches, grids, masks: Masks, return_attention=False, cls_layers: int = 1) -> Encoded:
        """Visible patches in, tokens of every sensor of `masks` out."""
        tokens, pads, attn = {}, {}, {}
        for name, mask in masks.items():
            if name in patches:
                tokens[name] = self.embed[name](patches[name], mask.ids_keep, grids[name])
            elif mask.ids_keep.shape[1]:
                raise ValueError(f"the masks keep patches of {name!r}, but its image is missing; remove all of them")
            else:  # nothing to see, but to be predicted
                tokens[name] = self.cls_token.new_zeros(len(mask.mask), 0, self.cls_token.shape[-1])
            pads[name] = mask.pad_keep
        if self.fusion == "stack":
            tokens, pads = {"stack": _stack(tokens, masks)}, {}
        if self.early_fusion is not None:
            tokens, maps = self.early_fusion(tokens, pads, return_attention=return_attention)
            attn |= {f"early.{name}": a for name, a in maps.items() if a is not None}
        cls, seen = [], []
        for names in self._attending_together(tokens):
            group, c, maps = self._shared_blocks({n: tokens[n] for n in names}, pads, return_attention, cls_layers)
            suffix = "" if self.joint_attention else f".{names[0]}"
            attn |= {f"blocks.{i}{suffix}": a for i, a in enumerate(maps)}
            tokens = tokens | group
            cls.append(c)
            seen.append(any_visible(group, pads))
        cls, seen = torch.stack(cls), torch.stack(seen)[..., None]  # (groups, B, D), (groups, B, 1)
        return Encoded(tokens, (cls * seen).sum(0) / seen.sum(0), attn)

    def _attending_together(self, tokens: dict[str, Tensor]) -> list[list[str]]:
        return [list(tokens)] if self.joint_attention else [[name] for name, x in tokens.items() if x.shape[1]]

    def _shared_blocks(self, tokens, pads, return_attention, cls_layers=1):
        """Self-attention over [class token, all given tokens]: tokens, last class tokens (B, cls_layers·D), maps."""
        cls = self.cls_token.expand(len(next(iter(tokens.values()))), -1, -1)
        x, pad, maps = torch.cat([cls, *tokens.values()], dim=1), cat_pads({"cls": cls} | tokens, pads), []
        last = [x[:, 0]]
        for block in self.blocks:
            x, attn = block(x, pad, return_attention)
            maps += [] if attn is None else [attn]
            last = [*last, x[:, 0]][-cls_layers:]
        _, *parts = self.norm(x).split([1, *(t.shape[1] for t in tokens.values())], dim=1)
        return dict(zip(tokens, parts, strict=True)), self.norm(torch.stack(last, dim=1)).flatten(1), maps

    def encode(
        self,
        images: dict[str, Tensor],
        masks: Masks | None = None,
        present: dict[str, Tensor] | None = None,
        return_attention: bool = False,
        cls_layers: int = 1,
    ) -> Encoded:
        """Features of any non-empty subset of the sensors.

        Args:
            images: {sensor: (B, C, H, W)} in physical units.
            masks: what to leave out; default: nothing.
            present: {sensor: (B,) bool}, False where a sample lacks a sensor.
            return_attention: compute attention step by step and return its maps.
            cls_layers: of how many last blocks the class tokens are joined, (B, cls_layers·D).
        """
        if not 1 <= cls_layers <= max(len(self.blocks), 1):
            raise ValueError(f"cls_layers is {cls_layers}, but this encoder has {len(self.blocks)} shared blocks")
        patches, grids = self.patches(images)
        if masks is None:
            batch, device = next((len(x), x.device) for x in images.values())
            masks = keep_all({name: grids[name] for name in images}, batch, present)
            masks = {name: mask.to(device) for name, mask in masks.items()}
        return self.forward_encoder(patches, grids, masks, return_attention, cls_layers)

    # -- decoder (section 3.2) ------------------------------------------------------------------------------------

    def forward_decoder(self, tokens: dict[str, Tensor], masks: Masks, grids: dict[str, Pair], return_attention=False):
        """Tokens {sensor: (B, K, D)} → removed patches {sensor: (B, R, C·p·q)}, maps of attention."""
        if self.fusion == "stack" and any(mask.present is not None for mask in masks.values()):
            raise ValueError("channel stacking cannot reconstruct samples that lack a sensor; leave them out")
        maps = {}
        pads = {name: masks[name].pad_keep for name in tokens if name in masks}
        if self.late_fusion is not None and self.decoder_queries == "latent":
            tokens, maps = self.late_fusion(tokens, pads, return_attention=return_attention)
        first = next(iter(masks))  # of channel stacking: all sensors share one mask and one grid
        mask_of = {key: masks.get(key, masks[first]) for key in tokens}
        x = {k: self.decoders[k].tokens(t, mask_of[k], grids.get(k, grids[first])) for k, t in tokens.items()}
        if self.late_fusion is not None and self.decoder_queries == "grid":
            visible = {name: x[name][:, : t.shape[1]] for name, t in tokens.items()}
            x, maps = self.late_fusion(x, pads, visible, return_attention)
        pred, attn = {}, {f"late.{name}": a for name, a in maps.items() if a is not None}
        for key, grid_tokens in x.items():
            patches, maps = self.decoders[key](grid_tokens, mask_of[key], return_attention)
            pred |= patches
            attn |= {f"decoder.{i}.{key}": a for i, a in enumerate(maps)}
        return {name: p for name, p in pred.items() if name in masks}, attn

    def predict(self, images: dict[str, Tensor], masks: Masks):
        """Images → patches {sensor: (B, L, C·p·q)}, predictions {sensor: (B, R, C·p·q)} of the removed ones, grids."""
        patches, grids = self.patches(images)
        tokens = self.forward_encoder(patches, grids, masks).tokens
        return patches, self.forward_decoder(tokens, masks, grids)[0], grids

    # -- loss -----------------------------------------------------------------------------------------------------

    def forward_loss(self, patches, pred: dict[str, Tensor], masks: Masks) -> dict[str, Tensor]:
        """Each sensor's mean squared error over its removed patches (mask: 0 keep, 1 remove)."""
        return {n: self.embed[n].loss(patches[n], pred[n], masks[n]) for n in pred if n in patches}

    def forward(self, images: dict[str, Tensor], masks: Masks) -> Output:
        """Reconstruct what the masks remove.

        Args:
            images: {sensor: (B, C, H, W)} in physical units.
            masks: one `SensorMask` a sensor (`fmlib.masking.draw_masks`), 0 keep, 1 remove.

        Returns:
            loss (the sensors' losses summed), pred (removed patches as targets, in the order of `ids_remove`), mask.
        """
        patches, pred, _ = self.predict(images, masks)
        losses = self.forward_loss(patches, pred, masks)
        return Output(sum(losses.values()), pred, {name: mask.mask for name, mask in masks.items()})

    def losses(self, images: dict[str, Tensor], masks: Masks, pred: dict[str, Tensor]) -> dict[str, Tensor]:
        """Parts of the loss, which is their sum, from images {sensor: (B, C, H, W)} and what `forward` predicted."""
        return self.forward_loss(self.patches(images)[0], pred, masks)

    def attention_maps(self, images: dict[str, Tensor], masks: Masks) -> dict[str, Tensor]:
        """All maps of one pass {layer: (B, h, N, M)}: early fusion, shared blocks, late fusion, decoders.

        See `Encoded`. In "late.s1" S1's tokens ask and the other sensors' visible tokens answer; in "decoder.0.s1" S1
        is alone, its removed patches behind the visible ones. `fmlib.attention` places them on the sensors' grids.
        """
        patches, grids = self.patches(images)
        encoded = self.forward_encoder(patches, grids, masks, return_attention=True)
        return encoded.attn | self.forward_decoder(encoded.tokens, masks, grids, return_attention=True)[1]

    @torch.no_grad()
    def reconstruct(self, images: dict[str, Tensor], masks: Masks) -> Reconstruction:
        """Predictions as images in physical units: the target's normalisation undone, visible patches pasted.

        Each patch is put back on its own true mean and deviation (as all MAE pictures do when `norm_target` is on).
        """
        patches, pred, grids = self.predict(images, masks)
        images = {n: self.embed[n].paste(patches[n], pred[n], masks[n], grids[n]) for n in pred if n in patches}
        alone, pasted = ({n: pair[i] for n, pair in images.items()} for i in (0, 1))
        return Reconstruction(alone, pasted, {name: m.mask.unflatten(1, grids[name]) for name, m in masks.items()})


def fusmae(preset: str, modalities: list[Modality], **options) -> FusMAE:
    """A Fus-MAE of a preset size (nano, tiny, small, base, large); `options` as in `FusMAE`."""
    check_choices(preset=(preset, tuple(PRESETS)))
    return FusMAE(modalities, **PRESETS[preset] | options)


# -- parts --------------------------------------------------------------------------------------------------------


def _stack(tokens: dict[str, Tensor], masks: Masks) -> Tensor:
    """Channel stacking: one linear projection of stacked channels is the sum of the sensors' projections."""
    tokens = {name: x for name, x in tokens.items() if x.shape[1]}
    first, *others = (masks[name].ids_keep for name in tokens)
    for other in others:
        _check_equal(first, other, "channel stacking needs equal masks of all sensors; draw with strategy='consistent'")
    here = {name: masks[name].present for name in tokens}
    return sum(x if here[name] is None else x * here[name][:, None, None] for name, x in tokens.items())


def _check_equal(first: Tensor, other: Tensor, message: str) -> None:
    """Raise ValueError unless both are equal; on a GPU the card itself stops, so that no step waits for the answer."""
    if first.shape != other.shape or (first.device.type == "cpu" and not torch.equal(first, other)):
        raise ValueError(message)
    if first.device.type != "cpu":
        torch._assert_async((first == other).all(), message)
