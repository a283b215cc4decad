"""What MsIFT is made of: a source's way from image to feature map, the layers in which sources meet, the map head.

Shapes: B batch, C channels, H W pixels, L tokens of one source, D width, h heads.
"""

import math
from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from fmlib.layers import attention, cat_pads
from fmlib.modality import Modality

HEAD_DIM = 64  # of every attention head, whatever the width
NORMS = ("batch", "group")


def make_norm(norm: str, chans: int, momentum: float = 0.1) -> nn.Module:
    """Norm of a convnet: by the batch, as published, or each image by itself, in groups of channels."""
    return nn.BatchNorm2d(chans, momentum=momentum) if norm == "batch" else nn.GroupNorm(math.gcd(8, chans), chans)


# -- from image to feature map --------------------------------------------------------------------------------------


class LightNet(nn.Module):
    """The small convnet of MDL-RS (Hong et al., TGRS 2021), for windows of a few pixels: four maps, finest first."""

    channels = (16, 32, 128, 64)
    strides = (1, 2, 4, 4)  # pixels of the image in one of each map

    def __init__(self, in_chans: int, norm: str = "batch", momentum: float = 0.1):
        super().__init__()

        def conv(chans: int, out: int, size: int) -> list[nn.Module]:  # 1×1 is padded too: a window of 7 stays a map
            return [nn.Conv2d(chans, out, size, padding=1), make_norm(norm, out, momentum)]

        self.stages = nn.ModuleList(
            nn.Sequential(*layers)
            for layers in (
                [*conv(in_chans, 16, 3), nn.ReLU()],
                [*conv(16, 32, 1), nn.MaxPool2d(2), nn.ReLU()],
                [*conv(32, 64, 3), nn.ReLU(), *conv(64, 128, 1), nn.MaxPool2d(2), nn.ReLU()],
                [*conv(128, 128, 1), nn.ReLU(), *conv(128, 64, 1), nn.AvgPool2d(2), nn.ReLU()],
            )
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) → four maps."""
        maps = []
        for stage in self.stages:
            maps.append(x := stage(x))
        return maps


class ResNet(nn.Module):
    """A ResNet of timm without its classifier: the maps of its four stages, finest first.

    Args:
        name: e.g. ``"resnet50"``, or ``"resnet50c"`` with three 3×3 convolutions in front.
        output_stride: pixels of the image in one of the last map: 8, 16 or 32, by dilation.
        widths: channels of the four stages, before a bottleneck's expansion; None: the network's own.
        norm: ``"batch"`` or ``"group"``.
        pretrained: start from timm's ImageNet weights, which are downloaded.
    """

    def __init__(self, name: str, in_chans: int, output_stride: int, widths, norm: str, pretrained: bool):
        super().__init__()
        options = {"in_chans": in_chans, "output_stride": output_stride, "pretrained": pretrained}
        options |= {"channels": tuple(widths), "stem_width": widths[0] // 2} if widths else {}
        options |= {"norm_layer": lambda chans, **_: make_norm(norm, chans)} if norm != "batch" else {}
        self.net = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4), **options)
        self.channels, self.strides = self.net.feature_info.channels(), self.net.feature_info.reduction()

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) → four maps."""
        return self.net(x)


class FPN(nn.Module):
    """Feature pyramid (arXiv 1612.03144) with one output: the finest map, told what the coarser ones know."""

    def __init__(self, channels: tuple[int, ...], dim: int):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(chans, dim, 1) for chans in channels)
        self.out = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps, finest first → (B, dim, H, W) of the finest."""
        laterals = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        x = laterals.pop()
        while laterals:
            finer = laterals.pop()
            x = finer + F.interpolate(x, finer.shape[2:])
        return self.out(x)


class Source(nn.Module):
    """One source: clip and normalise its image by its `Modality`, extract a feature map.

    Args:
        modality: bands, valid range and statistics.
        extractor: ``"lightnet"``, ``"none"`` (the image itself, for a neck), or a ResNet of timm and its three options.
        neck_dim: channels of the feature pyramid, whose finest map is taken; 0: none, the extractor's last map.
        norm: ``"batch"`` or ``"group"``. momentum: of LightNet's batch norms.
    """

    def __init__(
        self,
        modality: Modality,
        extractor: str,
        output_stride: int,
        widths: list[int] | None,
        neck_dim: int,
        norm: str,
        pretrained: bool,
        momentum: float,
    ):
        super().__init__()
        self.modality = modality
        self.register_buffer("mean", torch.tensor(modality.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(modality.std).view(-1, 1, 1), persistent=False)
        if extractor == "none":
            self.extractor, channels, strides = None, (modality.in_chans,), (1,)
        else:
            net = (extractor, modality.in_chans, output_stride, widths, norm, pretrained)
            self.extractor = LightNet(modality.in_chans, norm, momentum) if extractor == "lightnet" else ResNet(*net)
            channels, strides = self.extractor.channels, self.extractor.strides
        if not (self.extractor or neck_dim):
            raise ValueError("extractor='none' leaves each source its own bands; bring them together: set neck_dim")
        self.neck = FPN(channels, neck_dim) if neck_dim else None
        self.channels = neck_dim or channels[-1]
        self.stride = strides[0] if neck_dim else strides[-1]

    def forward(self, image: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in physical units → map (B, channels, H / stride, W / stride), zeros where it is missing.

        Missing images do not enter the statistics of batch norm. present: (B,) bool.
        """
        if image.shape[1] != self.modality.in_chans:
            raise ValueError(
                f"sensor {self.modality.name!r}: {image.shape[1]} channels came in, but {self.modality.in_chans} were "
                f"expected: {', '.join(self.modality.bands)}"
            )
        x = (image.clamp(*self.modality.valid_range) - self.mean) / self.std
        if present is None or present.all():
            return self.features(x)
        some = self.features(x[present])
        return some.new_zeros(len(x), *some.shape[1:]).index_put((present.nonzero().squeeze(1),), some)

    def features(self, x: Tensor) -> Tensor:
        """A normalised image → its map."""
        maps = [x] if self.extractor is None else self.extractor(x)
        return maps[-1] if self.neck is None else self.neck(maps)


# -- where sources meet ---------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Multi-head attention of tokens `x` on tokens `y`, as MsIFT has it: heads of 64, no bias before, dropout after."""

    def __init__(self, dim: int, num_heads: int, drop: float, scale: float):
        super().__init__()
        inner = num_heads * HEAD_DIM
        self.num_heads, self.gain = num_heads, scale * HEAD_DIM**0.5  # `attention` itself scales by HEAD_DIM^-0.5
        self.q, self.kv = nn.Linear(dim, inner, bias=False), nn.Linear(dim, 2 * inner, bias=False)
        self.proj, self.drop = nn.Linear(inner, dim), nn.Dropout(drop)

    def forward(self, x: Tensor, y: Tensor, pad: Tensor | None = None, return_attention: bool = False):
        """x (B, N, D), y (B, M, D), pad (B, M) → tokens (B, N, D), 0 where all of y is padding; map (B, h, N, M)."""
        q = self.gain * self.q(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, h, N, d)
        k, v = self.kv(y).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, h, M, d)
        out, attn = attention(q, k, v, pad, return_attention)
        out = self.drop(self.proj(out.transpose(1, 2).flatten(2)))
        return (out if pad is None else out * ~pad.all(1)[:, None, None]), attn


class FusionLayer(nn.Module):
    """Self-attention, then a second attention, then an MLP: pre-norm, residual, every source with its own weights.

    Args:
        names: the sources.
        second: whom tokens ask in the second attention: ``"others"``, the union of all other sources' tokens under one
            softmax, all from the states before it (decoder; with two sources MsIFT's mutual cross-attention);
            ``"self"``, their own source once more (encoder, as published); ``""``, there is none.
        mlp_dim: hidden width of the MLP. drop: dropout. scale: of the scores.
    """

    def __init__(self, names: list[str], dim, num_heads, mlp_dim, drop, scale: float, second: str):
        super().__init__()

        def each(make: Callable[[], nn.Module]) -> nn.ModuleDict:
            return nn.ModuleDict({name: make() for name in names})

        self.second = second
        self.norm1, self.attn1 = each(lambda: nn.LayerNorm(dim)), each(lambda: Attention(dim, num_heads, drop, scale))
        if second:
            self.norm2 = each(lambda: nn.LayerNorm(dim))
            self.attn2 = each(lambda: Attention(dim, num_heads, drop, scale))
        self.norm3, self.mlp = each(lambda: nn.LayerNorm(dim)), each(lambda: Mlp(dim, mlp_dim, drop=drop))

    def forward(self, tokens: dict[str, Tensor], pads: dict[str, Tensor | None], return_attention: bool = False):
        """Tokens {source: (B, L, D)}, pads {source: (B, L)} → tokens, maps {"self.s1": (B, h, L, L), "cross.s1": …}."""
        own = {name: [name] for name in tokens}
        tokens, maps = self._attend(self.norm1, self.attn1, tokens, pads, own, "self", return_attention)
        if self.second:
            others = {name: [other for other in tokens if other != name] for name in tokens}
            asked, kind = (others, "cross") if self.second == "others" else (own, "self2")
            tokens, more = self._attend(self.norm2, self.attn2, tokens, pads, asked, kind, return_attention)
            maps |= more
        return {name: x + self.mlp[name](self.norm3[name](x)) for name, x in tokens.items()}, maps

    @staticmethod
    def _attend(norm, attn, tokens, pads, asked: dict[str, list[str]], kind: str, return_attention):
        """Each source asks the sources `asked`; the norm of the one who asks serves both sides, as published."""
        new, maps = dict(tokens), {}
        for name, x in tokens.items():
            answer = {other: tokens[other] for other in asked[name]}
            if answer:
                y = norm[name](torch.cat(list(answer.values()), dim=1))
                out, seen = attn[name](norm[name](x), y, cat_pads(answer, pads), return_attention)
                new[name] = x + out
                maps |= {} if seen is None else {f"{kind}.{name}": seen}
        return new, maps


class MapFusion(nn.Module):
    """The fusions that MsIFT is compared with: maps {source: (B, C, H, W)} → one map (B, C, H, W).

    Args:
        fusion: ``"add"``; ``"concat"``, 1×1 convolution of the stacked maps; ``"concat_conv"``, the same with six
            3×3 convolutions at a width of 256 between two 1×1; ``"single"``, one source as it is.
    """

    def __init__(self, fusion: str, names: list[str], channels: int, norm: str = "batch"):
        super().__init__()
        self.fusion, self.names = fusion, names
        widths = {"concat": [channels], "concat_conv": [*[min(256, channels)] * 7, channels]}.get(fusion, [])
        layers, chans = [], channels * len(names)
        for number, width in enumerate(widths):
            size = 1 if number in (0, len(widths) - 1) else 3
            conv = nn.Conv2d(chans, width, size, padding=size // 2, bias=False)
            layers += [conv, make_norm(norm, width), nn.ReLU()]
            chans = width
        self.net = nn.Sequential(*layers)

    def forward(self, maps: dict[str, Tensor], here: dict[str, Tensor]) -> Tensor:
        """Missing sources are zeros when stacked, and left out of the sum. here: {source: (B,) 0 or 1}."""
        if self.fusion in ("add", "single"):
            return total(maps, here, len(self.names))
        blank = torch.zeros_like(next(iter(maps.values())))
        return self.net(torch.cat([maps.get(name, blank) for name in self.names], dim=1))


def total(parts: dict[str, Tensor], here: dict[str, Tensor], count: int) -> Tensor:
    """Sum over sources, as large where some are missing as if all `count` were there; here: {source: (B,) 0 or 1}."""
    shape = (-1, *[1] * (next(iter(parts.values())).ndim - 1))
    known = sum(here[name] for name in parts).clamp(min=1)
    return sum(x * here[name].view(shape) for name, x in parts.items()) * (count / known).view(shape)


# -- head of maps ---------------------------------------------------------------------------------------------------


def map_head(chans: int, dim: int, classes: int, norm: str) -> nn.Module:
    """A `PSPHead`, or where `dim` is 0 a 1×1 convolution, which sees its own place alone."""
    return PSPHead(chans, dim, classes, norm) if dim else nn.Conv2d(chans, classes, 1)


class PSPHead(nn.Module):
    """Pyramid pooling (Zhao et al., arXiv 1612.01105): a map (B, C, H, W) → logits (B, classes, H, W).

    Args:
        chans: C. dim: channels of each pooled branch and of the last convolution.
        scales: sides of the pooled maps.
    """

    def __init__(
        self, chans: int, dim: int, classes: int, norm: str = "batch", scales: tuple[int, ...] = (1, 2, 3, 6), drop=0.1
    ):
        super().__init__()

        def conv(chans: int, size: int) -> list[nn.Module]:
            return [nn.Conv2d(chans, dim, size, padding=size // 2, bias=False), make_norm(norm, dim), nn.ReLU()]

        self.pools = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(scale), *conv(chans, 1)) for scale in scales)
        joined = chans + len(scales) * dim
        self.net = nn.Sequential(*conv(joined, 3), nn.Dropout2d(drop), nn.Conv2d(dim, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, classes, H, W)."""
        pooled = [F.interpolate(pool(x), x.shape[2:], mode="bilinear") for pool in self.pools]
        return self.net(torch.cat([x, *pooled], dim=1))
