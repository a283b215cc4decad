"""What Fus-MAE is measured against, besides masked autoencoders: contrastive learning across sensors, and a convnet.

    InfoNCE         pretrained by `fmlib.train` with method="infonce"
    SmallResNet     trained from scratch with labels, by `fmlib.evaluate`

Other baselines need no class of their own.  `FusMAE` with one sensor is a plain MAE, with fusion="stack" the
channel-stack MAE, with fusion="none", joint_attention=True and Dirichlet masks MultiMAE's encoder (arXiv 2204.01678).
A model as `fmlib.train.build` makes it, or a run of no steps, gives random features.  `DINO` is in `dino.py`.

Shapes: B batch, C channels, H W pixels, K kept slots, D width, P width of the projection.  Mask: 0 keep, 1 remove.
"""

import math
from itertools import combinations

import timm
import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from fmlib.layers import Pair, to_pair
from fmlib.masking import Masks
from fmlib.modality import Modality
from fmlib.models.fusmae import FusMAE
from fmlib.models.mae import Encoded, Output, check_choices, initialise

REDUCTIONS = (4, 8, 16, 32)  # of a ResNet's four stages


def make_encoder(modalities: list[Modality], fusion: str, **options) -> FusMAE:
    """`FusMAE` without the parts that only reconstruct; `options` as there."""
    encoder = FusMAE(modalities, fusion=fusion, **options)
    encoder.decoders, encoder.late_fusion = nn.ModuleDict(), None
    return encoder


class InfoNCE(nn.Module):
    """Contrastive learning across sensors: two sensors' images of one place are to look alike, all others not.

    CLIP's loss (arXiv 2103.00020), over every pair of sensors; a random part of the tokens is left out, which augments
    and saves time, as in FLIP (arXiv 2212.00794) and CROMA (arXiv 2311.00566). Each sensor goes through Fus-MAE's
    encoder alone. Its features are the mean of its tokens, as in CROMA; the class token is not trained on its own.

    The other samples of a batch are the negatives: with `accumulate`, those of a part of it.

    Args:
        modalities: two sensors or more.
        projection_dim: width in which sensors are compared.
        encoder: sizes of the encoder, as for `FusMAE`.
    """

    def __init__(self, modalities: list[Modality], projection_dim: int = 128, **encoder):
        super().__init__()
        if len(modalities) < 2:
            raise ValueError(f"contrastive learning needs two sensors or more, got {[m.name for m in modalities]}")
        self.config = {"projection_dim": projection_dim} | encoder
        self.encoder = make_encoder(modalities, "none", **encoder)
        self.fusion, self.modalities, self.grids = "none", self.encoder.modalities, self.encoder.grids
        dim = self.encoder.cls_token.shape[-1]
        self.heads = nn.ModuleDict({m.name: Mlp(dim, dim, projection_dim) for m in modalities})
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # of the inverse temperature, CLIP's start
        self.heads.apply(initialise)

    def forward(self, images: dict[str, Tensor], masks: Masks) -> Output:
        """Compare the sensors of each sample by what the masks keep of them.

        Args:
            images: {sensor: (B, C, H, W)} in physical units.
            masks: one `SensorMask` a sensor, 0 keep, 1 remove.

        Returns:
            loss (the sensor pairs' losses summed), pred {sensor: (B, P)} of length 1, mask {sensor: (B, L)}.
        """
        patches, grids = self.encoder.patches(images)
        tokens = self.encoder.forward_encoder(patches, grids, masks).tokens
        pooled = {name: _mean(x, masks[name].pad_keep) for name, x in tokens.items()}
        pred = {name: F.normalize(self.heads[name](x).float(), dim=-1) for name, x in pooled.items()}
        loss = sum(self.losses(images, masks, pred).values())
        return Output(loss, pred, {name: mask.mask for name, mask in masks.items()})

    def losses(self, images: dict[str, Tensor], masks: Masks, pred: dict[str, Tensor]) -> dict[str, Tensor]:
        """Loss of each pair of sensors, over the samples of which both are seen; their sum is the whole."""
        scale = self.log_scale.exp().clamp(max=100)
        seen = {name: (mask.mask == 0).any(1) for name, mask in masks.items()}  # (B,) each
        both = {(a, b): seen[a] & seen[b] for a, b in combinations(pred, 2)}
        return {f"{a}-{b}": info_nce(pred[a][rows], pred[b][rows], scale) for (a, b), rows in both.items()}

    def encode(self, images, masks=None, **options) -> Encoded:
        """Features of any non-empty subset of the sensors; arguments as in `FusMAE.encode`."""
        return self.encoder.encode(images, masks, **options)


def info_nce(a: Tensor, b: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE (CLIP, arXiv 2103.00020, figure 3): row i of `a` is to find row i of `b`, and the reverse.

    Args:
        a, b: (B, P) of length 1.
        scale: inverse temperature.

    Returns:
        Mean cross-entropy of both directions, (); 0 where there is no row.
    """
    if not len(a):
        return a.sum() + b.sum()
    with torch.autocast(a.device.type, enabled=False):  # cosines in bf16, times 100, would be off by 0.4
        logits = scale * a @ b.T
    same = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2


class SmallResNet(nn.Module):
    """A ResNet (arXiv 1512.03385) on the stacked bands of all sensors, to be trained from scratch.

    Each sensor is clipped and normalised by its `Modality`; a sensor that is missing, for a sample or for all, is zeros
    after that, the mean of what is normal. Sensors of fewer pixels are enlarged to those of the largest.

    Args:
        modalities: the sensors in a fixed order; their bands are stacked.
        img_size: height and width in pixels (int or pair) that `grids` is told for; other sizes work.
        backbone: name of a ResNet in timm.
        reduction: pixels a side of a place in its feature map: 4, 8, 16 or 32; stages that reduce further are left out.
    """

    def __init__(
        self, modalities: list[Modality], img_size: int | Pair = 120, backbone: str = "resnet18", reduction: int = 32
    ):
        super().__init__()
        check_choices(reduction=(reduction, REDUCTIONS))
        self.config = {"img_size": img_size, "backbone": backbone, "reduction": reduction}
        self.reduction = reduction
        self.fusion, self.modalities = "stack", {m.name: m for m in modalities}
        in_chans = sum(m.in_chans for m in modalities)
        last = {"features_only": True, "out_indices": (1 + REDUCTIONS.index(reduction),)}
        self.backbone = timm.create_model(backbone, pretrained=False, in_chans=in_chans, **last)
        self.grids = dict.fromkeys(self.modalities, self.grid_of(to_pair(img_size)))
        for m in modalities:
            for key in ("mean", "std"):
                values = torch.tensor(getattr(m, key)).view(-1, 1, 1)
                self.register_buffer(f"{m.name}_{key}", values, persistent=False)

    def grid_of(self, size: Pair) -> Pair:
        """Rows and columns of the last feature map for images of `size` pixels."""
        return -(-size[0] // self.reduction), -(-size[1] // self.reduction)

    def encode(self, images, masks=None, present=None, return_attention=False, cls_layers: int = 1) -> Encoded:
        """Features of any non-empty subset of the sensors.

        Args:
            images: {sensor: (B, C, H, W)} in physical units.
            masks: must be None: a convnet sees whole images.
            present: {sensor: (B,) bool}, False where a sample lacks a sensor.
            return_attention, cls_layers: for the interface's sake; it has no attention and one feature vector.

        Returns:
            tokens {"stack": (B, rows·cols, D)} of the last feature map, cls (B, D) their mean.
        """
        if masks is not None:
            raise ValueError("a convnet sees whole images; leave `masks` out, and mark missing sensors with `present`")
        (features,) = self.backbone(self.stack(images, present))  # (B, D, rows, cols)
        tokens = features.flatten(2).transpose(1, 2)
        return Encoded({"stack": tokens}, tokens.mean(1), {})

    def stack(self, images: dict[str, Tensor], present: dict[str, Tensor] | None = None) -> Tensor:
        """Images {sensor: (B, C, H, W)} in physical units → all bands normalised (B, ΣC, H, W), zeros for no sensor."""
        if not images or set(images) - set(self.modalities):
            raise ValueError(f"sensors {list(images)} came in; give at least one of {list(self.modalities)}, no others")
        first = next(iter(images.values()))
        size = tuple(max(image.shape[axis] for image in images.values()) for axis in (2, 3))
        bands = []
        for name, modality in self.modalities.items():
            x = first.new_zeros(len(first), modality.in_chans, *size)
            if name in images:
                clipped = images[name].clamp(*modality.valid_range)
                x = (clipped - getattr(self, f"{name}_mean")) / getattr(self, f"{name}_std")
                x = x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear")
            here = (present or {}).get(name)
            bands.append(x if here is None else x * here.to(x)[:, None, None, None])
        return torch.cat(bands, dim=1)


def _mean(tokens: Tensor, pad: Tensor | None) -> Tensor:
    """Mean over the tokens (B, K, D) that are no padding: (B, D), zeros where there is none."""
    if pad is None:
        return tokens.sum(1) / max(tokens.shape[1], 1)
    keep = (~pad).unsqueeze(-1).to(tokens)
    return (tokens * keep).sum(1) / keep.sum(1).clamp(min=1)
