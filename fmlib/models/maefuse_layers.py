"""MaeFuse's fusion layer: CFM, in which two images ask each other, and MFM, which asks both again by CFM's answer.

Shapes: B batch, L tokens, D width, h heads.
"""

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from fmlib.layers import Attention, attention

SENSORS = ("ir", "vi")


class PlaceAttention(Attention):
    """Multi-head attention whose queries and keys know their places; its values do not, so that none leaks out."""

    def forward(self, x: Tensor, y: Tensor, place: Tensor, return_attention: bool = False):
        """Tokens x (B, L, D) ask tokens y (B, L, D) at place (B, L, D): answers (B, L, D), map (B, h, L, L) or None."""
        weights, biases = self.kv.weight.chunk(2), self.kv.bias.chunk(2)
        parts = self.q(x + place), F.linear(y + place, weights[0], biases[0]), F.linear(y, weights[1], biases[1])
        heads = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)  # each (B, h, L, d)
        out, attn = attention(*heads, return_attention=return_attention)
        return self.proj(out.transpose(1, 2).flatten(2)), attn


class BatchAttention(Attention):
    """What the released code does instead: attention over the batch.

    It hands batch-first tokens to an attention that expects the batch second. So each token asks the tokens at its own
    place in all images of the batch: with one pair it has a single key, and nothing to choose.
    """

    def forward(self, x: Tensor, y: Tensor, place: Tensor, return_attention: bool = False):
        """As `PlaceAttention`, but the place is that of the tokens already; map (L, h, B, B) or None."""
        out, attn = super().forward(x.transpose(0, 1), y.transpose(0, 1), return_attention=return_attention)
        return out.transpose(0, 1), attn


class CFM(nn.Module):
    """Two symmetric cross-attentions, summed: each image's tokens ask the other's; no residual, no norm.

    Args:
        shared: one set of weights for both directions, as released; else each has its own.
        attention: `PlaceAttention` or `BatchAttention`.
    """

    def __init__(self, dim: int, num_heads: int, shared: bool, attention: type[Attention]):
        super().__init__()
        self.key = {name: "shared" if shared else name for name in SENSORS}
        self.attn = nn.ModuleDict({key: attention(dim, num_heads) for key in dict.fromkeys(self.key.values())})

    def forward(self, ir: Tensor, vi: Tensor, place: Tensor, return_attention: bool = False):
        """(B, L, D) each → their sum (B, L, D) and maps."""
        from_vi, map_ir = self.attn[self.key["ir"]](ir, vi, place, return_attention)
        from_ir, map_vi = self.attn[self.key["vi"]](vi, ir, place, return_attention)
        return from_vi + from_ir, {"cfm.ir": map_ir, "cfm.vi": map_vi}


class MFM(nn.Module):
    """The guide asks both images with one set of weights; then an MLP, residual, and a norm."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, attention: type[Attention]):
        super().__init__()
        self.attn = attention(dim, num_heads)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.norm = nn.LayerNorm(dim)

    def forward(self, guide: Tensor, ir: Tensor, vi: Tensor, place: Tensor, return_attention: bool = False):
        """(B, L, D) each → fused tokens (B, L, D) and maps."""
        from_ir, map_ir = self.attn(guide, ir, place, return_attention)
        from_vi, map_vi = self.attn(guide, vi, place, return_attention)
        x = from_ir + from_vi
        return self.norm(x + self.mlp(x)), {"mfm.ir": map_ir, "mfm.vi": map_vi}


def start_as_mean(*parts: nn.Module) -> None:
    """Let CFM, MFM, or a linear layer over joined tokens begin as the mean of what they look at, where stage 1 leads.

    Values pass as they are and half of an answer comes out; the MLP adds nothing yet. From Xavier's weights the
    details of tokens took hundreds of steps to get through (mimetic initialisation, arXiv 2305.09828, has the idea).
    """
    for module in (module for part in parts for module in part.modules()):
        if isinstance(module, Attention):
            width = module.q.out_features
            nn.init.eye_(module.kv.weight.data[width:])
            module.proj.weight.data = torch.eye(width) / 2
        if isinstance(module, Mlp):
            nn.init.zeros_(module.fc2.weight)
    for part in parts:
        if isinstance(part, nn.Linear):
            part.weight.data = torch.eye(part.out_features).repeat(1, 2) / 2
