"""Small weight files in the names of Meta's MAE and of MaeFuse's authors, and small pictures."""

import numpy as np
import torch
from PIL import Image

from fmlib.layers import sincos_positions

DIM, DEPTH, HEADS, PATCH, LIGHT = 32, 2, 2, 16, 16


def blocks(prefix: str, dim: int, depth: int) -> dict:
    """Tensors of transformer blocks."""
    sizes = {"norm1.weight": (dim,), "norm1.bias": (dim,), "norm2.weight": (dim,), "norm2.bias": (dim,)}
    sizes |= {"attn.qkv.weight": (3 * dim, dim), "attn.qkv.bias": (3 * dim,), "attn.proj.weight": (dim, dim)}
    sizes |= {"attn.proj.bias": (dim,), "mlp.fc1.weight": (4 * dim, dim), "mlp.fc1.bias": (4 * dim,)}
    sizes |= {"mlp.fc2.weight": (dim, 4 * dim), "mlp.fc2.bias": (dim,)}
    return {f"{prefix}.{i}.{name}": noise(*size) for i in range(depth) for name, size in sizes.items()}


def noise(*size) -> torch.Tensor:
    return 0.2 * torch.randn(size)


def positions(dim: int, side: int, class_token: bool) -> torch.Tensor:
    table = sincos_positions(dim, (side, side))
    return torch.cat([torch.zeros(int(class_token), dim), table])[None]


def mae_encoder(side: int = 4, class_token: bool = True) -> dict:
    """`mae_pretrain_vit_*.pth`, on images of 16·side pixels."""
    torch.manual_seed(0)
    found = {"cls_token": noise(1, 1, DIM)} if class_token else {}
    found |= {"pos_embed": positions(DIM, side, class_token), "patch_embed.proj.weight": noise(DIM, 3, PATCH, PATCH)}
    found |= {"patch_embed.proj.bias": noise(DIM)} | blocks("blocks", DIM, DEPTH)
    return found | {"norm.weight": 1 + noise(DIM), "norm.bias": noise(DIM)}


def mae_decoder(side: int = 4, class_token: bool = True, depth: int = 2) -> dict:
    """What `…_full.pth` and `mae_visualize_…` have besides."""
    torch.manual_seed(1)
    values = 3 * PATCH**2
    found = {"mask_token": noise(1, 1, LIGHT)} if class_token else {}
    found |= {"decoder_pos_embed": positions(LIGHT, side, class_token), "decoder_embed.weight": noise(LIGHT, DIM)}
    found |= {"decoder_embed.bias": noise(LIGHT)} | blocks("decoder_blocks", LIGHT, depth)
    found |= {"decoder_norm.weight": 1 + noise(LIGHT), "decoder_norm.bias": noise(LIGHT)}
    return found | {"decoder_pred.weight": noise(values, LIGHT), "decoder_pred.bias": noise(values)}


def fusion_layer(side: int = 4) -> dict:
    """The fusion layer as MaeFuse's authors name it."""
    torch.manual_seed(2)
    found = {"pos_embed": positions(DIM, side, False)}
    for name in ("cross_model", "merge_model"):
        found |= {f"{name}.in_proj_weight": noise(3 * DIM, DIM), f"{name}.in_proj_bias": noise(3 * DIM)}
        found |= {f"{name}.out_proj.weight": noise(DIM, DIM), f"{name}.out_proj.bias": noise(DIM)}
    found |= {"fc1.weight": noise(4 * DIM, DIM), "fc1.bias": noise(4 * DIM), "fc2.weight": noise(DIM, 4 * DIM)}
    return found | {"fc2.bias": noise(DIM), "ln.weight": 1 + noise(DIM), "ln.bias": noise(DIM)}


def released(side: int = 4) -> dict:
    """A whole MaeFuse as released: encoder and decoder are model1., the fusion layer is model2."""
    first = mae_encoder(side, False) | mae_decoder(side, False)
    return {f"model1.{k}": v for k, v in first.items()} | {f"model2.{k}": v for k, v in fusion_layer(side).items()}


def write(path, weights: dict, **more):
    """Save as training scripts do."""
    torch.save({"model": weights, **more}, path)
    return path


def picture(shape: tuple, seed: int = 0, dtype=np.uint8) -> np.ndarray:
    """Smooth random pixels (…, rows, cols)."""
    rough = np.random.default_rng(seed).integers(0, 256, (*shape[:-2], 4, 4), dtype=np.uint8)
    planes = [np.asarray(Image.fromarray(plane).resize(shape[:-3:-1], 3)) for plane in rough.reshape(-1, 4, 4)]
    return np.stack(planes).reshape(shape).astype(dtype) * (257 if dtype == np.uint16 else 1)
