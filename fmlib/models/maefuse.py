"""MaeFuse: one picture of an infrared and a visible image by a frozen MAE (Li et al., arXiv 2404.11016).

A frozen encoder makes tokens of both images; CFM lets them ask each other; CFM's answer guides MFM's second look at
both; a decoder makes a picture.  CFM and MFM are in `maefuse_layers`, the stages of training in `fmlib.train_fusion`.

    fusion="mean"     the mean of both images' tokens: nothing to train, and what alignment aims at
    fusion="cfm"      cross-attention in both directions, summed
    fusion="cfm_mfm"  CFM's sum asks both images again, then an MLP (paper: MaeFuse)
    fusion="concat"   the same with a linear layer over joined tokens in place of CFM's cross-attention

Images are grey inside: the luma of whatever comes in, 0 to 255.  What keeps colours and sizes is `fmlib.fuse`.

Shapes: B batch, C channels, H W pixels, p q those of a patch, L tokens, D width, h heads.
"""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmlib.layers import Block, Pair, Positions, to_pair
from fmlib.modality import Modality
from fmlib.models.mae import SensorEmbed, check_choices, initialise
from fmlib.models.maefuse_layers import CFM, MFM, SENSORS, BatchAttention, PlaceAttention, start_as_mean

FUSIONS = ("mean", "cfm", "cfm_mfm", "concat")
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


class Fused(NamedTuple):
    """What `forward` returns: luma (B, 1, H, W) from 0 to 255, not clipped; fused tokens (B, L, D); maps.

    Maps {layer: (B, h, L, L)} are empty unless asked for. In "cfm.ir" infrared tokens look at visible ones, in
    "mfm.ir" the guide looks at infrared ones.
    """

    image: Tensor
    tokens: Tensor
    attn: dict[str, Tensor]


class Encoder(nn.Module):
    """The encoder of a masked autoencoder, frozen, on whole images.

    Args:
        modality: the sensor it was pretrained on, of one band or three; grey is repeated to three.
        class_token: whether a class token takes part. MaeFuse leaves that of MAE out.
        others: as for `MaeFuse`.
    """

    def __init__(
        self, modality: Modality, img_size: Pair, embed_dim, depth, num_heads, mlp_ratio, pos_temperature, class_token
    ):
        super().__init__()
        self.embed = SensorEmbed(modality, img_size, embed_dim, temperature=pos_temperature)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.requires_grad_(False)

    def patches(self, luma: Tensor) -> Tensor:
        """(B, 1, H, W) from 0 to 255 → normalised patches (B, L, C·p·q): the decoder's target at stage 0."""
        return self.embed.patches(luma.expand(-1, self.embed.modality.in_chans, -1, -1))

    @torch.no_grad()
    def forward(self, luma: Tensor) -> Tensor:
        """(B, 1, H, W) from 0 to 255, whole patches → tokens (B, L, D) after the last norm."""
        patches = self.patches(luma)
        x = self.embed(patches, all_ids(patches), self.embed.grid_of(luma.shape[2:]))
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x, _ = block(x)
        return self.norm(x)[:, -patches.shape[1] :]


class Decoder(nn.Module):
    """Tokens of a whole image in, its patches out; a class token and masks have no place here."""

    def __init__(
        self, patch_values: int, grid: Pair, dim, embed_dim, depth, num_heads, mlp_ratio, pos_temperature: float
    ):
        super().__init__()
        self.embed = nn.Linear(dim, embed_dim)
        self.pos = Positions(embed_dim, grid, pos_temperature)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, patch_values)

    def forward(self, tokens: Tensor, grid: Pair) -> Tensor:
        """(B, L, D) → normalised patches (B, L, C·p·q)."""
        x = self.embed(tokens) + self.pos(all_ids(tokens), grid)
        for block in self.blocks:
            x, _ = block(x)
        return self.head(self.norm(x))


class MaeFuse(nn.Module):
    """MaeFuse on the encoder of any masked autoencoder of one image.

    Args:
        modalities: the one sensor that the encoder was pretrained on, of one band or three, its values 0 to 255.
        img_size: height and width in pixels (int or pair) at training. Others work, but what was trained on small
            images knows no places beyond them: fuse larger ones by windows (`fmlib.fuse`).
        fusion: see the top of this file.
        embed_dim, depth, num_heads: the encoder's width, number of blocks, heads; also those of CFM and MFM.
        decoder_embed_dim, decoder_depth, decoder_num_heads: the same for the decoder.
        mlp_ratio: hidden width of an MLP over its width.
        cfm_shared: one set of weights for CFM's two directions, as released.
        class_token: whether the encoder has one.
        pos_temperature: of the sine-cosine positions, as at pretraining; MAE's is 10,000.
        place_weight: of the positions that CFM and MFM add to queries and keys; 0: none. Not of the paper, but both
            images are of one grid, and so a token looks at its own place first.
        released: do as the released code does, for weights trained by it: attention over the batch, positions added
            to the tokens themselves before CFM, and in `fmlib.fuse` its way with sizes and colours.
        licence: terms that the weights bring along; stated whenever they are loaded.
    """

    def __init__(
        self,
        modalities: list[Modality],
        img_size: int | Pair = 640,
        fusion: str = "cfm_mfm",
        embed_dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 4,
        decoder_num_heads: int = 16,
        mlp_ratio: float = 4.0,
        cfm_shared: bool = True,
        class_token: bool = False,
        pos_temperature: float = 10_000,
        place_weight: float = 8.0,
        released: bool = False,
        licence: str = "",
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__", "modalities")}
        super().__init__()
        check_choices(fusion=(fusion, FUSIONS))
        modality = _the_one(modalities)
        self.config, self.modalities = config, {modality.name: modality}
        self.fusion, self.released, self.place_weight = fusion, released, place_weight
        self.patch_size = modality.patch_size
        self.img_size = to_pair(img_size)
        sizes = (self.img_size, embed_dim, depth, num_heads, mlp_ratio, pos_temperature)
        self.encoder = Encoder(modality, *sizes, class_token)
        grid = self.encoder.embed.grid
        self.pos = Positions(embed_dim, grid, pos_temperature)
        attention = BatchAttention if released else PlaceAttention
        self.cfm = CFM(embed_dim, num_heads, cfm_shared, attention) if fusion in ("cfm", "cfm_mfm") else None
        self.concat = nn.Linear(2 * embed_dim, embed_dim) if fusion == "concat" else None
        self.mfm = MFM(embed_dim, num_heads, mlp_ratio, attention) if fusion in ("cfm_mfm", "concat") else None
        light = (embed_dim, decoder_embed_dim, decoder_depth, decoder_num_heads, mlp_ratio, pos_temperature)
        self.decoder = Decoder(self.encoder.embed.proj.in_features, grid, *light)
        self.apply(initialise)
        start_as_mean(*(part for part in (self.cfm, self.concat, self.mfm) if part is not None))
        if licence:
            warnings.warn(f"these weights come with terms: {licence}", stacklevel=2)

    # -- fusion layer -------------------------------------------------------------------------------------------------

    def fuse(self, tokens: dict[str, Tensor], grid: Pair, guide_only=False, return_attention=False):
        """Two images' tokens to one's.

        Args:
            tokens: {"ir": (B, L, D), "vi": (B, L, D)} from the encoder.
            grid: rows and columns of patches.
            guide_only: stop after CFM.
            return_attention: compute attention step by step and return its maps.

        Returns:
            Fused tokens (B, L, D), maps as in `Fused`.
        """
        ir, vi = (tokens[name] for name in SENSORS)
        if self.fusion == "mean":
            return (ir + vi) / 2, {}
        place = self.pos(all_ids(ir), grid)
        if self.released:
            ir, vi = ir + place, vi + place
        if self.concat is not None:
            x, attn = self.concat(torch.cat([ir, vi], dim=-1)), {}
        else:
            x, attn = self.cfm(ir, vi, self.place_weight * place, return_attention)
        if self.mfm is not None and not guide_only:
            x, more = self.mfm(x, ir, vi, self.place_weight * place, return_attention)
            attn = attn | more
        return x, {layer: weights for layer, weights in attn.items() if weights is not None}

    # -- decoder --------------------------------------------------------------------------------------------------

    def decode(self, tokens: Tensor, grid: Pair) -> Tensor:
        """(B, L, D) → luma (B, 1, rows·p, cols·q) from 0 to 255, not clipped."""
        return luma(self.encoder.embed.images(self.decoder(tokens, grid), grid))

    def forward(self, images: dict[str, Tensor], guide_only=False, return_attention=False) -> Fused:
        """Fuse pairs.

        Args:
            images: {"ir": (B, C, H, W), "vi": (B, C, H, W)} from 0 to 255, of any one size; C 1 or 3.
            guide_only, return_attention: as in `fuse`.
        """
        padded, (H, W) = self.prepare(images)
        grid = self.encoder.embed.grid_of(padded["ir"].shape[2:])
        tokens, attn = self.fuse(self.encode(padded), grid, guide_only, return_attention)
        return Fused(self.decode(tokens, grid)[..., :H, :W], tokens, attn)

    def prepare(self, images: dict[str, Tensor]) -> tuple[dict[str, Tensor], Pair]:
        """Luma of both images, mirrored at the bottom and right to whole patches; and the size before."""
        if set(images) != set(SENSORS) or images["ir"].shape[2:] != images["vi"].shape[2:]:
            shapes = {name: tuple(image.shape) for name, image in images.items()}
            raise ValueError(f"{shapes} came in; give 'ir' and 'vi', both (B, C, H, W) and of one size")
        size = tuple(images["ir"].shape[2:])
        whole = [-(-side // p) * p for side, p in zip(size, self.patch_size, strict=True)]
        return {name: mirror(luma(image), whole) for name, image in images.items()}, size

    def encode(self, images: dict[str, Tensor]) -> dict[str, Tensor]:
        """Luma {name: (B, 1, H, W)} of whole patches → tokens {name: (B, L, D)}, without gradients."""
        return {name: self.encoder(image) for name, image in images.items()}

    @torch.no_grad()
    def reconstruct(self, image: Tensor) -> Tensor:
        """One image (B, C, H, W) through encoder and decoder: luma (B, 1, H, W). Shows what the decoder loses."""
        padded, (H, W) = self.prepare(dict.fromkeys(SENSORS, image))
        grid = self.encoder.embed.grid_of(padded["ir"].shape[2:])
        return self.decode(self.encoder(padded["ir"]), grid)[..., :H, :W]


# -- parts --------------------------------------------------------------------------------------------------------


def all_ids(tokens: Tensor) -> Tensor:
    """Numbers (B, L) of all of tokens (B, L, D)."""
    return torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)


def luma(image: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) → (B, 1, H, W): grey as it is, of colour the luma."""
    if image.shape[1] == 1:
        return image
    if image.shape[1] != 3:
        raise ValueError(f"an image of {image.shape[1]} channels came in; give grey (1) or red, green and blue (3)")
    return (image * image.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def mirror(image: Tensor, size: Pair, before: Pair = (0, 0)) -> Tensor:
    """Extend (…, H, W) at the bottom and right to `size` by mirroring, as often as a small image needs.

    before: rows and columns that are added at the top and on the left, beyond `size`.
    """
    for axis, wanted, added in zip((-2, -1), size, before, strict=True):
        here = image.shape[axis]
        ids = torch.arange(-added, wanted, device=image.device) % (2 * here)
        image = image.index_select(axis, torch.minimum(ids, 2 * here - 1 - ids))
    return image


def _the_one(modalities: list[Modality]) -> Modality:
    if len(modalities) != 1 or modalities[0].in_chans not in (1, 3):
        got = ", ".join(f"{m.name} with {m.in_chans} bands" for m in modalities) or "none"
        raise ValueError(f"MaeFuse's encoder sees one sensor, grey (1 band) or colour (3 bands); got {got}")
    modality = modalities[0]
    if modality.valid_range != (0, 255):
        raise ValueError(
            f"MaeFuse sees pictures from 0 to 255, but its encoder was pretrained on {modality.name!r}, in "
            f"{modality.unit} from {modality.valid_range[0]} to {modality.valid_range[1]}; take one of pictures"
        )
    return modality
