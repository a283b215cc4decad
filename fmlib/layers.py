"""The parts every model shares: patches, positions, attention, blocks.

Shapes: B batch, C channels, H W pixels, L tokens, K kept tokens, D width, h heads.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

Pair = tuple[int, int]


def to_pair(size) -> Pair:
    """`8` becomes `(8, 8)`; a pair stays as it is."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def patchify(image: Tensor, patch_size: Pair) -> Tensor:
    """Cut images into patches.

    Args:
        image: (B, C, H, W).
        patch_size: rows and columns of a patch; must divide H and W.

    Returns:
        (B, L, C·p·q): patches row by row, in each channel first, then row, then column.
    """
    B, C, H, W = image.shape
    p, q = patch_size
    if H % p or W % q:
        raise ValueError(f"an image of {H}×{W} pixels does not divide into patches of {p}×{q}; crop or resize it")
    return image.reshape(B, C, H // p, p, W // q, q).permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * p * q)


def unpatchify(patches: Tensor, patch_size: Pair, grid: Pair) -> Tensor:
    """Put patches (B, L, C·p·q) back together into images (B, C, H, W): the inverse of `patchify`."""
    B, (p, q), (rows, cols) = patches.shape[0], patch_size, grid
    return patches.reshape(B, rows, cols, -1, p, q).permute(0, 3, 1, 4, 2, 5).reshape(B, -1, rows * p, cols * q)


def gather_tokens(x: Tensor, ids: Tensor) -> Tensor:
    """Pick tokens ids (B, K) from x (B, L, D): (B, K, D)."""
    return x.gather(1, ids.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def sincos_positions(dim: int, grid: Pair, temperature: float = 10_000) -> Tensor:
    """Fixed 2-D sine-cosine positions (MAE, arXiv 2111.06377, appendix A.1).

    Args:
        dim: width D, a multiple of 4; one half encodes the row, the other the column.
        grid: rows and columns of patches.
        temperature: sets the longest wavelength, 2π · temperature patches. MAE's 10,000 leaves two thirds of the
            table all but constant over a grid of 8×8.

    Returns:
        (L, D), row by row.
    """
    if dim % 4:
        raise ValueError(f"sine-cosine positions need a width divisible by 4, got {dim}")
    omega = temperature ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, col = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [place.reshape(-1, 1) * omega for place in (col, row)]  # columns first, as in MAE's tables
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()


class Positions(nn.Module):
    """Sine-cosine positions of one grid, kept on the device; other grids are computed when they come."""

    def __init__(self, dim: int, grid: Pair, temperature: float = 10_000):
        super().__init__()
        self.grid, self.temperature = grid, temperature
        self.register_buffer("table", sincos_positions(dim, grid, temperature), persistent=False)

    def forward(self, ids: Tensor, grid: Pair) -> Tensor:
        """Positions (B, K, D) of patches ids (B, K) in a grid."""
        same = grid == self.grid
        fresh = None if same else sincos_positions(self.table.shape[1], grid, self.temperature).to(self.table)
        return (self.table if same else fresh)[ids]


def attention(
    q: Tensor, k: Tensor, v: Tensor, pad: Tensor | None = None, return_attention: bool | Literal["lazy"] = False
):
    """Scaled dot-product attention: fused by default, step by step when the map is asked for.

    Args:
        q: (B, h, N, d). k, v: (B, h, M, d).
        pad: (B, M) True where a key is padding. A sample whose keys are all padding gets zeros.
        return_attention: True for the map, ``"lazy"`` for a `LazyMap`, which takes little memory.

    Returns:
        The values (B, h, N, d) and, if asked for, the map (B, h, N, M) or the `LazyMap`, else None.
    """
    if return_attention is True:
        attn = attention_map(q, k, pad)
        return attn @ v, attn
    allowed, alone = _allowed(pad)
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    kept = LazyMap(q, k.contiguous(), pad) if return_attention else None  # contiguous: else it holds on to v, too
    return x if alone is None else x * alone, kept


def attention_map(q: Tensor, k: Tensor, pad: Tensor | None = None) -> Tensor:
    """How much each query (B, h, N, d) takes of each key (B, h, M, d): (B, h, N, M), rows sum to 1; pad as above."""
    scores, (allowed, alone) = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5, _allowed(pad)
    return scores.softmax(-1) if pad is None else scores.masked_fill(~allowed, -torch.inf).softmax(-1) * alone


class LazyMap(NamedTuple):
    """What an attention map is made of, in its stead: queries (B, h, N, d), keys (B, h, M, d), padding (B, M).

    A map of 1,024 tokens takes eight times the memory of these; its rows are made when they are looked at.
    """

    q: Tensor
    k: Tensor
    pad: Tensor | None

    def rows(self, which=slice(None)) -> Tensor:
        """The map's rows of some queries: (B, h, those, M)."""
        return attention_map(self.q[:, :, which], self.k, self.pad)


def _allowed(pad: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Keys that may be looked at (B, 1, 1, M); 0 for a sample without any key (B, 1, 1, 1)."""
    if pad is None:
        return None, None
    alone = ~pad.all(1)[:, None, None, None]
    return ~pad[:, None, None, :] | ~alone, alone  # a row without keys would be NaN: let it attend, then zero it


class Attention(nn.Module):
    """Multi-head attention of tokens `x` on tokens `y` (self-attention when `y` is left out)."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"width {dim} does not divide into {num_heads} heads")
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, y: Tensor | None = None, pad: Tensor | None = None, return_attention=False):
        """x (B, N, D), y (B, M, D), pad (B, M) → tokens (B, N, D), map (B, h, N, M) or None."""
        y = x if y is None else y
        q = self.q(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, h, N, d)
        k, v = self.kv(y).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, h, M, d)
        out, attn = attention(q, k, v, pad, return_attention)
        return self.proj(out.transpose(1, 2).flatten(2)), attn


class Block(nn.Module):
    """Pre-norm transformer block (ViT, arXiv 2010.11929)."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, qkv_bias: bool = True):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, pad: Tensor | None = None, return_attention=False, queries: int | None = None):
        """x (B, L, D), pad (B, L) → x, map or None; with `queries` only the last so many tokens come out."""
        y = self.norm1(x)
        start = 0 if queries is None else x.shape[1] - queries
        out, attn = self.attn(y[:, start:], y, pad, return_attention)
        x = x[:, start:] + out
        return x + self.mlp(self.norm2(x)), attn


class CrossAttention(nn.Module):
    """Every sensor attends to all tokens of the other sensors; with two sensors this is Fus-MAE's bidirectional pair.

    Each sensor has its own norm and its own query, key, value and output weights (Fus-MAE eq. 2). With more than two,
    the keys and values of a sensor's direction are the *union* of the other sensors' tokens under one softmax.

    Args:
        names: the sensors. dim, num_heads: width and heads.
        queries: those of them that ask; the others only answer, and take nothing over. Default: all.
        shared: one norm and one set of weights for all sensors and directions.
    """

    def __init__(
        self,
        names: list[str],
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        queries: list[str] | None = None,
        shared: bool = False,
    ):
        super().__init__()
        if unknown := set(queries or ()) - set(names):
            raise ValueError(f"{sorted(unknown)} cannot query in cross-attention; the sensors are {', '.join(names)}")
        self.queries = tuple(queries or names)
        self.key = {name: "shared" if shared else name for name in names}
        norms, asking = (dict.fromkeys(self.key[name] for name in some) for some in (names, self.queries))
        self.norm = nn.ModuleDict({key: nn.LayerNorm(dim, eps=1e-6) for key in norms})
        self.attn = nn.ModuleDict({key: Attention(dim, num_heads, qkv_bias) for key in asking})

    def forward(
        self,
        tokens: dict[str, Tensor],
        pads: dict[str, Tensor | None],
        context: dict[str, Tensor] | None = None,
        return_attention: bool = False,
    ):
        """Tokens of each sensor ask the context of all others.

        Args:
            tokens: {name: (B, N, D)} that ask.
            pads: {name: (B, K) or None} True where a context token is padding.
            context: {name: (B, K, D)} that answer; default: the tokens themselves.

        Returns:
            What each sensor takes over {name: (B, N, D)}, zeros where nobody answers; maps {name: (B, h, N, M)}.
        """
        asking = {name: self.norm[self.key[name]](x) for name, x in tokens.items()}
        answer = asking if context is None else {name: self.norm[self.key[name]](x) for name, x in context.items()}
        taken, maps = {}, {}
        for name, x in asking.items():
            others = {other: y for other, y in answer.items() if other != name and y.shape[1]}
            if name not in self.queries or not others or not x.shape[1]:
                taken[name] = torch.zeros_like(x)
                continue
            y, pad = torch.cat(list(others.values()), dim=1), cat_pads(others, pads)
            taken[name], maps[name] = self.attn[self.key[name]](x, y, pad, return_attention)
        return taken, maps


class CrossBlock(nn.Module):
    """Cross-attention between sensors, then an MLP, both residual.

    With `shared_mlp` it is the first block of Fus-MAE's encoder (XAttnEncoder, section 3.1): one norm and MLP after the
    sum serve all sensors. Without, it opens the decoder (section 3.2) and every sensor has its own. `cross` are further
    options of `CrossAttention`.
    """

    def __init__(self, names: list[str], dim: int, num_heads: int, mlp_ratio: float, shared_mlp: bool, **cross):
        super().__init__()
        self.cross = CrossAttention(names, dim, num_heads, **cross)
        self.key = dict.fromkeys(names, "shared") if shared_mlp else {name: name for name in names}
        keys = sorted(set(self.key.values()))
        self.norm = nn.ModuleDict({key: nn.LayerNorm(dim, eps=1e-6) for key in keys})
        self.mlp = nn.ModuleDict({key: Mlp(dim, int(dim * mlp_ratio)) for key in keys})

    def forward(self, tokens, pads, context=None, return_attention=False):
        """Arguments as in `CrossAttention`; returns the sensors' new tokens {name: (B, N, D)} and the maps."""
        taken, maps = self.cross(tokens, pads, context, return_attention)
        tokens = {name: x + taken[name] for name, x in tokens.items()}
        return {n: x + self.mlp[self.key[n]](self.norm[self.key[n]](x)) for n, x in tokens.items()}, maps


def cat_pads(tokens: dict[str, Tensor], pads: dict[str, Tensor | None]) -> Tensor | None:
    """Join the padding flags of several sensors' tokens (B, L each); None where no sensor has any."""
    if all(pads.get(name) is None for name in tokens):
        return None
    none = {name: x.new_zeros(x.shape[:2], dtype=torch.bool) for name, x in tokens.items()}
    return torch.cat([none[name] if pads.get(name) is None else pads[name] for name in tokens], dim=1)


def any_visible(tokens: dict[str, Tensor], pads) -> Tensor:
    """(B,) 1 where a sample has at least one visible token among these, else 0."""
    pad = cat_pads(tokens, pads)
    first = next(iter(tokens.values()))
    return first.new_ones(len(first)) if pad is None else (~pad.all(1)).to(first)
