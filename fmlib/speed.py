"""The same model, faster: compiled whole or block by block, as CUDA graphs, with matrix products in 8 bits."""

import torch
from torch import nn

from fmlib.layers import Block, CrossBlock

# default: one graph of the whole model. reduce-overhead: that as CUDA graphs, which a GPU runs without waiting for
# Python. max-autotune: with the fastest kernels, searched for minutes. blocks: each block by itself; blocks of equal
# shapes share their code, so it compiles in a fraction of the time.
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "blocks")


def compiled(model: nn.Module, mode: str = "default", dynamic: bool | None = None, **options) -> nn.Module:
    """A model that compiles itself at its first call; its weights are those of `model`.

    Args:
        mode: one of `COMPILE_MODES`. "blocks" changes `model` itself, and nothing but the speed of its blocks.
        dynamic: False compiles anew for each shape; None for any shape from the second on.
        options: further ones of `torch.compile`.
    """
    if mode != "blocks":
        return torch.compile(model, mode=None if mode == "default" else mode, dynamic=dynamic, **options)
    for module in model.modules():
        if isinstance(module, Block | CrossBlock):
            module.compile(dynamic=dynamic, **options)
    return model


def to_float8(model: nn.Module, device: torch.device) -> None:
    """Let the linear layers of a model's blocks multiply in 8 bits, forward and backward; weights stay as they are.

    Each tensor is scaled by its largest value, as it comes (Micikevicius et al., arXiv 2209.05433). Where `device` is
    no CUDA device, products are rounded as if: slow, and only good to see what 8 bits do to a loss.

    Raises:
        ModuleNotFoundError: torchao is not installed.
        RuntimeError: a CUDA device without 8-bit products.
    """
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("precision='fp8' needs torchao: pip install 'fmlib[fp8]', or take bf16") from error
    cuda = device.type == "cuda"
    if cuda and torch.cuda.get_device_capability(device) < (8, 9):
        name = torch.cuda.get_device_name(device)
        raise RuntimeError(f"precision='fp8': {name} has no 8-bit products (compute capability 8.9 or more); take bf16")
    config = Float8LinearConfig(emulate=not cuda, pad_inner_dim=cuda)  # padding: the batch decides how many tokens come
    for block in [module for module in model.modules() if isinstance(module, Block | CrossBlock)]:
        convert_to_float8_training(block, config=config)
