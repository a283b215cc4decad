"""MsIFT: one fusion transformer for three tasks (Zhang et al., Remote Sensing 2022, 14(16), 4062).

Read it top to bottom, in the order of the paper: each source's convnet, patch embedding and class token, the encoder,
the decoder in which every source asks the others, the heads with their auxiliary losses. The sources need not lie on
one another exactly: a token asks *all* tokens of the other source, not the one in its place.

    task="pixel"         class of the middle of a small window    (paper: PWC, LightNet)
    task="image"         class of an image                        (paper: IWC, ResNet and feature pyramid)
    task="segmentation"  class of every pixel of an image         (paper: SS, dilated ResNet, pyramid pooling)

    fusion="msift"       the fusion transformer
    fusion="add", "concat", "concat_conv", "single"               the baselines: maps joined place by place, same head

Shapes: B batch, C channels, H W pixels, L tokens of one source, D width, h heads.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from fmlib.layers import Pair, Positions, patchify, to_pair, unpatchify
from fmlib.modality import Modality
from fmlib.models.mae import check_choices
from fmlib.models.msift_parts import HEAD_DIM, NORMS, FusionLayer, MapFusion, Source, map_head, total

TASKS = ("pixel", "image", "segmentation")
FUSIONS = ("msift", "add", "concat", "concat_conv", "single")
IGNORE = 255  # label of a pixel or sample without a class

_WIDE = {"num_heads": 4, "embed_dim": 256, "mlp_dim": 1024, "drop": 0.1}
_NARROW = {"extractor": "resnet10t", "widths": [16, 32, 64, 128], "neck_dim": 32, "patch_size": 4, "head_dim": 16}
_NARROW |= {"embed_dim": 128, "num_heads": 2, "mlp_dim": 256, "depth": 2, "drop": 0.1}
_NARROW |= {"as_published": False}
PRESETS = {
    "pixel": {
        "paper": {"extractor": "lightnet", "img_size": 7, "neck_dim": 128, "patch_size": 1, "embed_dim": 128}
        | {"depth": 4, "num_heads": 4, "mlp_dim": 256, "drop": 0.3},
        "small": {"extractor": "lightnet", "img_size": 7, "neck_dim": 64, "patch_size": 1, "embed_dim": 64}
        | {"depth": 2, "num_heads": 1, "mlp_dim": 128, "drop": 0.3, "as_published": False},
    },
    "image": {
        "paper": {"extractor": "resnet50", "img_size": 224, "neck_dim": 256, "patch_size": 4, "depth": 8} | _WIDE,
        "small": _NARROW | {"img_size": 256},
    },
    "segmentation": {
        "paper": {"extractor": "resnet50c", "output_stride": 8, "img_size": 896, "patch_size": 2, "depth": 4} | _WIDE,
        "small": _NARROW | {"img_size": 128},  # for two CPU cores
    },
}


class Prediction(NamedTuple):
    """What `forward` returns.

    logits (B, classes), or (B, classes, H, W) for segmentation: the answer. stages {name: logits}: every answer that
    the loss counts, this one last: before the encoder (each source's; of maps "cnn"), after it, after the decoder; in
    evaluation, maps have the last alone. attn {layer: (B, h, N, M)}, empty unless asked for: "encoder.0.self.s1",
    "decoder.3.cross.s1" (S1's tokens ask, the other sources' answer); in classification the first is the class token.
    """

    logits: Tensor
    stages: dict[str, Tensor]
    attn: dict[str, Tensor]


class MsIFT(nn.Module):
    """Multi-source image fusion transformer for any number of sources.

    Two dates of a source are one source with twice the bands: stack them, and give a `Modality` with all of them.

    Args:
        modalities: the sources in a fixed order; bands, valid ranges and statistics come from them.
        task, fusion: see the top of this file.
        num_classes: number of classes.
        img_size: height and width in pixels (int or pair) in training; other sizes work later.
        extractor: ``"lightnet"``, ``"none"`` or a ResNet of timm; `output_stride`, `widths`, `pretrained` as there.
        neck_dim: channels of the feature pyramid, whose finest map is taken; 0: none, the extractor's last map.
        patch_size: side of a token in places of that map.
        embed_dim, depth, num_heads, mlp_dim: width, layers of the encoder, heads of 64, hidden width of the MLPs.
        decoder_depth: layers of the decoder; None: as many as the encoder's; 0: none, nothing crosses.
        drop: dropout in the transformer. head_dim: channels of the segmentation head; 0: a 1×1 convolution alone.
        norm: of the convnets: ``"batch"``, as published, or ``"group"``, which hides how bright an image is as a whole.
        aux: whether the answers before the decoder's count in the loss.
        as_published: keep what the published code does and the paper does not say: scores scaled by the width to the
            power -1/2 instead of that of a head, two self-attentions in each encoder layer, positions that start as
            normal noise and are learned (instead of fixed sines), batch norms of LightNet that all but forget what was
            before the last batch (momentum 0.9).
    """

    def __init__(
        self,
        modalities: list[Modality],
        task: str = "segmentation",
        fusion: str = "msift",
        num_classes: int = 2,
        img_size: int | Pair = 128,
        extractor: str = "resnet18",
        output_stride: int = 32,
        widths: list[int] | None = None,
        neck_dim: int = 0,
        patch_size: int = 2,
        embed_dim: int = 256,
        depth: int = 4,
        num_heads: int = 4,
        mlp_dim: int = 1024,
        decoder_depth: int | None = None,
        drop: float = 0.1,
        head_dim: int = 512,
        norm: str = "batch",
        aux: bool = True,
        as_published: bool = True,
        pretrained: bool = False,
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__", "modalities")}
        super().__init__()
        check_choices(task=(task, TASKS), fusion=(fusion, FUSIONS), norm=(norm, NORMS))
        names = [m.name for m in modalities]
        if fusion == "single" and len(names) != 1:
            raise ValueError(f"fusion='single' looks at one source, but {names} were given; give one of them")
        self.config = config | {"pretrained": False}  # a checkpoint has the weights
        self.modalities, self.task, self.fusion, self.aux = {m.name: m for m in modalities}, task, fusion, aux
        way_in = (extractor, output_stride, widths, neck_dim, norm, pretrained, 0.9 if as_published else 0.1)
        self.sources = nn.ModuleDict({m.name: Source(m, *way_in) for m in modalities})
        first = self.sources[names[0]]
        self.patch_size, self.stride, maps = patch_size, first.stride, task == "segmentation"
        if fusion == "msift":
            grid = tuple(-(-side // (self.stride * patch_size)) for side in to_pair(img_size))
            sizes = (embed_dim, depth, depth if decoder_depth is None else decoder_depth, num_heads, mlp_dim, drop)
            self.fuse = FusionTransformer(names, first.channels, grid, patch_size, not maps, as_published, *sizes)
            self.restore = nn.Linear(embed_dim, self.fuse.patch_dim) if maps else None  # feature reorganisation
            early = {} if maps else {name: nn.Linear(embed_dim, num_classes) for name in names}
            self.early_heads = nn.ModuleDict(early)
        else:
            self.fuse = MapFusion(fusion, names, first.channels, norm)
        if maps:
            self.head = map_head(first.channels, head_dim, num_classes, norm)
        else:
            dim = embed_dim if fusion == "msift" else first.channels
            self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(
        self, images: dict[str, Tensor], present: dict[str, Tensor] | None = None, return_attention: bool = False
    ) -> Prediction:
        """Classify what is there of the sources.

        Args:
            images: {source: (B, C, H, W)} in physical units; any non-empty subset of the sources.
            present: {source: (B,) bool}, False where a sample lacks a source; each sample has one at least.
            return_attention: compute attention step by step and return its maps.
        """
        maps, here = self.maps(images, present or {})
        size = tuple(max(image.shape[axis] for image in images.values()) for axis in (2, 3))
        if self.fusion != "msift":
            x = self.fuse(maps, here)
            logits = self._to_pixels(x, size) if self.task == "segmentation" else self.head(x.mean((2, 3)))
            return Prediction(logits, {"fused": logits}, {})
        tokens, attn = self.fuse(maps, here, return_attention)
        answer = self._map_answers if self.task == "segmentation" else self._class_answers
        stages = answer(tokens, here, next(iter(maps.values())).shape[2:], size)
        return Prediction(stages["decoder"], stages, attn)

    def maps(self, images: dict[str, Tensor], present: dict[str, Tensor]):
        """Images → maps {source: (B, C, H, W)} and which samples have the source {source: (B,) 0 or 1}."""
        if not images or set(images) - set(self.modalities):
            raise ValueError(f"sensors {list(images)} came in; give at least one of {list(self.modalities)}, no others")
        flags = {name: present[name].to(x.device) for name, x in images.items() if name in present}
        shown = {name: x for name, x in images.items() if name not in flags or flags[name].any()}
        maps = {name: self.sources[name](image, flags.get(name)) for name, image in shown.items()}
        here = {name: flags.get(name, x.new_ones(len(x))).to(x) for name, x in maps.items()}
        if self.task == "segmentation" or self.fusion != "msift":  # they are joined place by place
            size = tuple(max(x.shape[axis] for x in maps.values()) for axis in (2, 3))
            maps = {n: x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear") for n, x in maps.items()}
        for name, x in maps.items():
            if self.fusion == "msift" and any(side % self.patch_size for side in x.shape[2:]):
                raise ValueError(
                    f"sensor {name!r}: an image of {tuple(images[name].shape[2:])} pixels does not divide into tokens; "
                    f"give sides that are multiples of {self.patch_size * self.stride}"
                )
        return maps, here

    def _map_answers(self, tokens: dict[str, dict[str, Tensor]], here, size: Pair, pixels: Pair) -> dict[str, Tensor]:
        """Tokens of each stage {stage: {source: (B, L, D)}} → summed, made a map again, classified."""
        grid, stages = (size[0] // self.patch_size, size[1] // self.patch_size), {}
        for stage in tokens if self.training else ["decoder"]:
            x = self.restore(total(tokens[stage], here, len(self.modalities)))  # (B, L, C·p·p)
            stages[stage] = self._to_pixels(unpatchify(x, to_pair(self.patch_size), grid), pixels)
        return stages

    def _class_answers(self, tokens: dict[str, dict[str, Tensor]], here, *sizes) -> dict[str, Tensor]:
        """Class tokens of each stage → logits; before the encoder every source answers for itself."""
        stages = {name: self.early_heads[name](x[:, 0]) for name, x in tokens.pop("cnn").items()}
        for stage, parts in tokens.items():
            cls = {name: x[:, 0] for name, x in parts.items()}
            stages[stage] = self.head(total(cls, here, len(self.modalities)))
        return stages

    def _to_pixels(self, x: Tensor, size: Pair) -> Tensor:
        return F.interpolate(self.head(x), size, mode="bilinear", align_corners=False)

    def losses(self, pred: Prediction, labels: Tensor, present: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The parts that the loss is the sum of: each stage's cross-entropy, 255 not counted.

        Args:
            labels: (B,) or (B, H, W) class numbers.
            present: as for `forward`; a source that a sample lacks does not answer for it.
        """
        last = list(pred.stages)[-1]
        stages = pred.stages if self.aux else {last: pred.stages[last]}
        losses = {}
        for stage, logits in stages.items():
            lacking = ~present[stage].to(labels.device) if stage in (present or {}) else None
            losses[stage] = _cross_entropy(logits, labels if lacking is None else labels.masked_fill(lacking, IGNORE))
        return losses


class FusionTransformer(nn.Module):
    """Maps of the sources → tokens, encoder, decoder; arguments as in `MsIFT`.

    Args:
        channels: of the maps. grid: rows and columns of tokens in training.
        cls_token: whether a class token stands in front: no learned one, but the source's pooled map.
    """

    def __init__(
        self,
        names: list[str],
        channels: int,
        grid: Pair,
        patch_size: int,
        cls_token: bool,
        as_published: bool,
        embed_dim: int,
        depth: int,
        decoder_depth: int,
        num_heads: int,
        mlp_dim: int,
        drop: float,
    ):
        super().__init__()
        self.patch_size, self.patch_dim, self.grid = patch_size, channels * patch_size**2, grid
        self.prefix = int(cls_token)
        self.embed = nn.ModuleDict({name: nn.Linear(self.patch_dim, embed_dim) for name in names})
        cls = {name: nn.Sequential(nn.Linear(channels, embed_dim), nn.Dropout(drop)) for name in names}
        self.cls = nn.ModuleDict(cls if cls_token else {})
        if as_published:  # shared by the sources, so that places are comparable
            self.pos = nn.Parameter(torch.randn(1, self.prefix + grid[0] * grid[1], embed_dim))
        else:
            self.pos = Positions(embed_dim, grid, temperature=30)
        scale = embed_dim**-0.5 if as_published else HEAD_DIM**-0.5
        layer = (names, embed_dim, num_heads, mlp_dim, drop, scale)
        second = "self" if as_published else ""
        self.encoder = nn.ModuleList(FusionLayer(*layer, second) for _ in range(depth))
        self.decoder = nn.ModuleList(FusionLayer(*layer, "others") for _ in range(decoder_depth))

    def forward(self, maps: dict[str, Tensor], here: dict[str, Tensor], return_attention: bool = False):
        """Maps {source: (B, C, H, W)} → tokens {stage: {source: (B, L, D)}} at "cnn", "encoder", "decoder"; attention.

        here: {source: (B,) 0 or 1}. Before the encoder, "cnn", tokens have no positions.
        """
        tokens = {name: self._tokens(name, x) for name, x in maps.items()}
        stages, attn = {"cnn": tokens}, {}
        tokens = {name: x + self.positions(maps[name].shape[2:]) for name, x in tokens.items()}
        whole = all(flag.all() for flag in here.values())
        pads = {n: None if whole else (here[n] == 0)[:, None].expand(x.shape[:2]) for n, x in tokens.items()}
        for stage, layers in (("encoder", self.encoder), ("decoder", self.decoder)):
            for number, layer in enumerate(layers):
                tokens, seen = layer(tokens, pads, return_attention)
                attn |= {f"{stage}.{number}.{key}": a for key, a in seen.items()}
            stages[stage] = tokens
        return stages, attn

    def _tokens(self, name: str, x: Tensor) -> Tensor:
        """One source's map → embedded patches, behind its class token if there is one (B, L, D)."""
        tokens = self.embed[name](patchify(x, to_pair(self.patch_size)))
        return torch.cat([self.cls[name](x.mean((2, 3)))[:, None], tokens], dim=1) if self.prefix else tokens

    def positions(self, size: Pair) -> Tensor:
        """(1, L, D) for maps of a size; learned ones are resampled where it is another than in training."""
        grid = (size[0] // self.patch_size, size[1] // self.patch_size)
        if isinstance(self.pos, nn.Parameter):
            return resample_abs_pos_embed(self.pos, grid, self.grid, self.prefix)
        ids = torch.arange(grid[0] * grid[1], device=self.pos.table.device)
        return F.pad(self.pos(ids[None], grid), (0, 0, self.prefix, 0))


def msift(preset: str, modalities: list[Modality], task: str = "segmentation", **options) -> MsIFT:
    """An MsIFT as published for a task (``"paper"``) or for two CPU cores (``"small"``); `options` as in `MsIFT`."""
    check_choices(task=(task, TASKS), preset=(preset, ("paper", "small")))
    return MsIFT(modalities, task, **PRESETS[task][preset] | options)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over what is labelled; 0 where nothing is, not NaN."""
    loss = F.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORE, reduction="sum")
    return loss / (labels != IGNORE).sum().clamp(min=1)
