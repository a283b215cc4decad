"""What every masked autoencoder of the workbook is made of: a sensor's way in, the light decoder, the masked loss.

Shapes: B batch, C channels, H W pixels, L patches, K kept slots, R removed slots, D width.  Mask: 0 keep, 1 remove.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmlib.layers import Attention, Block, Pair, Positions, cat_pads, gather_tokens, patchify, unpatchify
from fmlib.masking import SensorMask
from fmlib.modality import Modality


class Output(NamedTuple):
    """What `forward` returns: loss (), predictions, mask {sensor: (B, L)}.

    A masked autoencoder predicts removed patches {sensor: (B, R, C·p·q)}, other methods what their classes say.
    """

    loss: Tensor
    pred: dict[str, Tensor]
    mask: dict[str, Tensor]


class Encoded(NamedTuple):
    """What `encode` returns.

    tokens {sensor: (B, K, D)} after the last norm, one entry "stack" for channel stacking; cls (B, D), the mean over
    sensors where each is encoded alone; attn {layer: (B, h, N, M)}, empty unless asked for.  Tokens of a map run
    [class token, first sensor, second sensor, …]; "early.s1" is what S1's tokens look at in the other sensors.
    """

    tokens: dict[str, Tensor]
    cls: Tensor
    attn: dict[str, Tensor]


class Reconstruction(NamedTuple):
    """Images {sensor: (B, C, H, W)} in physical units: predicted patches alone, and pasted among the visible ones."""

    pred: dict[str, Tensor]
    pasted: dict[str, Tensor]
    mask: dict[str, Tensor]


class SensorEmbed(nn.Module):
    """One sensor's way in: normalise, cut into patches, keep the visible ones, project, add place and sensor."""

    def __init__(
        self, modality: Modality, img_size: Pair, embed_dim: int, norm_target: str = "patch", temperature: float = 30
    ):
        super().__init__()
        self.norm_target = norm_target
        self.modality, self.patch_size = modality, modality.patch_size
        self.grid = self.grid_of(img_size)
        self.proj = nn.Linear(modality.in_chans * self.patch_size[0] * self.patch_size[1], embed_dim)
        self.sensor = nn.Parameter(torch.zeros(embed_dim))  # modality embedding
        self.register_buffer("mean", torch.tensor(modality.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(modality.std).view(-1, 1, 1), persistent=False)
        self.pos = Positions(embed_dim, self.grid, temperature)
        groups = modality.groups if norm_target == "group" else (modality.bands,)
        self.register_buffer("group_mean", _group_mean(modality, groups), persistent=False)

    def grid_of(self, size: Pair) -> Pair:
        """Rows and columns of patches of an image of `size` pixels."""
        return size[0] // self.patch_size[0], size[1] // self.patch_size[1]

    def patches(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in physical units → normalised patches (B, L, C·p·q)."""
        if image.shape[1] != self.modality.in_chans:
            raise ValueError(
                f"sensor {self.modality.name!r}: {image.shape[1]} channels came in, but {self.modality.in_chans} were "
                f"expected: {', '.join(self.modality.bands)}"
            )
        return patchify((image.clamp(*self.modality.valid_range) - self.mean) / self.std, self.patch_size)

    def images(self, patches: Tensor, grid: Pair) -> Tensor:
        """The inverse of `patches`: (B, L, C·p·q) → (B, C, H, W) in physical units."""
        return unpatchify(patches, self.patch_size, grid) * self.std + self.mean

    def forward(self, patches: Tensor, ids_keep: Tensor, grid: Pair) -> Tensor:
        """Visible tokens (B, K, D): patches (B, L, C·p·q) are gathered before they are projected."""
        return self.proj(gather_tokens(patches, ids_keep)) + self.pos(ids_keep, grid) + self.sensor

    def target_stats(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation that normalise patches (…, C·p·q) as targets, each (…, C·p·q)."""
        if self.norm_target == "none":
            return torch.zeros_like(patches), torch.ones_like(patches)
        x = patches.unflatten(-1, (self.modality.in_chans, -1))  # (…, C, p·q)
        mean = self.group_mean @ x.mean(-1, keepdim=True)
        std = (self.group_mean @ (x - mean).square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return mean.expand_as(x).flatten(-2), std.expand_as(x).flatten(-2)

    def loss(self, patches: Tensor, pred: Tensor, mask: SensorMask) -> Tensor:
        """Mean squared error over removed patches (mask: 0 keep, 1 remove), times `mask.share`.

        Padding slots, and samples that lack this sensor, do not count; the loss is 0 where there is no target.

        Args:
            patches: (B, L, C·p·q) normalised, from `patches`.
            pred: (B, R, C·p·q) predictions in the order of `mask.ids_remove`.
        """
        target = gather_tokens(patches, mask.ids_remove)  # (B, R, C·p·q)
        mean, std = self.target_stats(target)
        error = (pred.float() - (target - mean) / std).square().mean(-1)  # (B, R)
        if mask.pad_remove is None and mask.present is None:
            return error.mean() * mask.share if error.numel() else pred.sum()
        counts = torch.ones_like(error)
        if mask.pad_remove is not None:
            counts = counts.masked_fill(mask.pad_remove, 0)
        if mask.present is not None:
            counts = counts * mask.present[:, None]
        return (error * counts).sum() / counts.sum().clamp(min=1) * mask.share

    def paste(self, patches: Tensor, pred: Tensor, mask: SensorMask, grid: Pair) -> tuple[Tensor, Tensor]:
        """Predictions as images (B, C, H, W) in physical units: alone (visible patches NaN), and among the visible."""
        mean, std = self.target_stats(patches)
        index = mask.ids_remove.unsqueeze(-1).expand_as(pred)
        guess = patches.scatter(1, index, pred.to(patches)) * std + mean
        removed = mask.mask.bool().unsqueeze(-1)
        alone, pasted = guess.masked_fill(~removed, torch.nan), torch.where(removed, guess, patches)
        return self.images(alone, grid), self.images(pasted, grid)


class Decoder(nn.Module):
    """A light decoder: visible latents and mask tokens in, removed patches out."""

    def __init__(
        self, outputs: dict[str, int], grid: Pair, dim, embed_dim, depth, num_heads, mlp_ratio, temperature: float = 30
    ):
        super().__init__()
        self.embed = nn.Linear(dim, embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(embed_dim))
        self.pos = Positions(embed_dim, grid, temperature)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.heads = nn.ModuleDict({name: nn.Linear(embed_dim, size) for name, size in outputs.items()})

    def tokens(self, latent: Tensor, mask: SensorMask, grid: Pair) -> Tensor:
        """Latents (B, K, D) and a mask token for each removed patch: (B, K + R, decoder width).

        Attention does not care about order and every token carries its place, so nothing is unshuffled.
        """
        visible = self.embed(latent) + self.pos(mask.ids_keep, grid)
        return torch.cat([visible, self.mask_token + self.pos(mask.ids_remove, grid)], dim=1)

    def forward(self, x: Tensor, mask: SensorMask, return_attention=False) -> tuple[dict[str, Tensor], list]:
        """(B, K + R, decoder width) → {sensor: (B, R, C·p·q)}, maps; the last block computes only removed tokens."""
        K, R = mask.ids_keep.shape[1], mask.ids_remove.shape[1]
        pad = cat_pads({"keep": x[:, :K], "remove": x[:, K:]}, {"keep": mask.pad_keep, "remove": mask.pad_remove})
        maps = []
        for i, block in enumerate(self.blocks):
            x, attn = block(x, pad, return_attention, queries=R if i == len(self.blocks) - 1 else None)
            maps += [] if attn is None else [attn]
        x = self.norm(x)
        return {name: head(x) for name, head in self.heads.items()}, maps


def _group_mean(modality: Modality, groups) -> Tensor:
    """(C, C) matrix that averages over each band's group."""
    matrix = torch.zeros(modality.in_chans, modality.in_chans)
    for group in groups:
        index = torch.tensor(modality.index(*group))
        matrix[index[:, None], index] = 1 / len(group)
    return matrix


def initialise(module: nn.Module):
    """Xavier for linear layers (MAE), small normal noise for free tokens, keys that start as copies of the queries.

    With equal keys and queries a token first attends to what is most like itself, which under sine-cosine positions is
    what lies near it, in its own sensor and in others (the idea of mimetic initialisation, arXiv 2305.09828). Small
    models on small data leave the plateau of the first steps much sooner.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, Attention):
        width = module.q.out_features
        module.kv.weight.data[:width] = module.q.weight.data
    for token in ("cls_token", "mask_token", "sensor"):
        if isinstance(getattr(module, token, None), nn.Parameter):
            nn.init.normal_(getattr(module, token), std=0.02)


def check_choices(**choices):
    """Raise ValueError naming the first option whose value is not among those allowed: `name=(value, allowed)`."""
    for key, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"{key} is {value!r}; choose one of {', '.join(allowed)}")
