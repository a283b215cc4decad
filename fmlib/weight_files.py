"""Files of weights as others publish them: Meta's masked autoencoders, timm's copies, MaeFuse's released files.

Reading, sizes, and the way from their names to ours; `fmlib.convert` makes models of them.
"""

import argparse
import math
import pickle
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fmlib.layers import sincos_positions
from fmlib.modality import Modality

HEADS = {768: 12, 1024: 16, 1280: 16}  # of ViT-B, L and H, by width; weights do not tell
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of colours from 0 to 1
# Published name → ours, without the prefixes that MaeFuse has: model1. (encoder, decoder) and model2. (fusion layer).
NAMES = [
    (r"patch_embed\.proj\.(\w+)", r"encoder.embed.proj.\1"),
    (r"(blocks\.\d+\..+|norm\.\w+)", r"encoder.\1"),
    (r"decoder_(embed\.\w+|blocks\.\d+\..+|norm\.\w+)", r"decoder.\1"),
    (r"decoder_pred\.(\w+)", r"decoder.head.\1"),
    (r"cross_model\.(.+)", r"cfm.attn.shared.\1"),
    (r"merge_model\.(.+)", r"mfm.attn.\1"),
    (r"(fc[12]\.\w+)", r"mfm.mlp.\1"),
    (r"ln\.(\w+)", r"mfm.norm.\1"),
    (r"(cls_token|mask_token)", r"\1"),
]
POSITIONS = dict.fromkeys(("pos_embed", "decoder_pos_embed"), "sine and cosine, computed for each image's own grid")


class Report(NamedTuple):
    """What became of a file's tensors: names used, names dropped with the reason; and the terms they come with."""

    source: str
    used: list[str]
    dropped: dict[str, str]
    licence: str

    def __str__(self) -> str:
        reasons = {why: [name for name in self.dropped if self.dropped[name] == why] for why in self.dropped.values()}
        listed = [
            f"{names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)}: {why}" for why, names in reasons.items()
        ]
        dropped = "; ".join(listed) or "nothing"
        return f"{self.source}: {len(self.used)} tensors used; dropped {dropped}. Terms: {self.licence or 'none known'}"


# -- reading ------------------------------------------------------------------------------------------------------


def read_weights(source: str | Path) -> dict[str, Tensor]:
    """Tensors of a file by their names, without `module.` in front; of a training checkpoint, its model.

    Raises:
        FileNotFoundError: neither a file nor timm's name of a MAE.
        OSError: timm cannot fetch it.
        ValueError: truncated, or no file of weights.
    """
    path = Path(source)
    if not path.exists() and re.fullmatch(r"vit_\w+\.mae", str(source)):
        return _fetch(str(source))
    if not path.is_file():
        raise FileNotFoundError(f"{source} is no file, nor timm's name of a MAE such as vit_base_patch16_224.mae")
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # the arguments of a training run
                found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as weights ({error}); fetch it again") from error
    found = found.get("model", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} holds no tensors by name, nor under 'model'; give a state dict")
    return {re.sub(r"^(module\.)+", "", name): value for name, value in found.items()}


def _fetch(name: str) -> dict[str, Tensor]:
    try:
        return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # of the network, the hub's client or timm: many kinds
        raise OSError(
            f"{name} could not be fetched by timm ({error}); fetch its file elsewhere and give that"
        ) from error


def sift(sources: Iterable, drop: dict[str, str], licence: str) -> tuple[dict[str, Tensor], Report]:
    """Read one or several files, leave out tensors that are not needed, and say so.

    Args:
        sources: as for `read_weights`.
        drop: start of a name, without model1. or model2., → why such tensors are left out.
        licence: for the report.

    Returns:
        Position tables and all tensors that are needed, by their names without model1. and model2.; the report.
    """
    everything = {name: value for source in sources for name, value in read_weights(source).items()}
    kept, dropped = {}, {}
    for name, value in everything.items():
        plain = re.sub(r"^model[12]\.", "", name)
        why = next((why for start, why in (drop | POSITIONS).items() if plain.startswith(start)), None)
        if why is not None:
            dropped[name] = why
        if why is None or plain in POSITIONS:  # whose length tells the image's size
            kept[plain] = value
    used = [name for name in everything if name not in dropped]
    return kept, Report(" and ".join(map(str, sources)), used, dropped, licence)


def translate(found: dict[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Published names to ours; queries apart from keys and values, pixels of a patch in the order of `patchify`.

    Raises:
        ValueError: names that belong to none of the known files.
    """
    ours, unknown = {}, []
    for name, value in found.items():
        if name in POSITIONS:
            _check_positions(value, f"{source}: {name}")
            continue
        new = next((re.sub(*pair, name) for pair in NAMES if re.fullmatch(pair[0], name)), None)
        if new is None:
            unknown.append(name)
        elif new == "encoder.embed.proj.weight":
            ours[new] = value.flatten(1)  # (D, C, p, q) → (D, C·p·q)
        elif new.startswith("decoder.head."):  # its rows run row, column, channel
            chans = found["patch_embed.proj.weight"].shape[1]
            ours[new] = value.unflatten(0, (-1, chans)).transpose(0, 1).flatten(0, 1)
        elif match := re.fullmatch(r"(.+\.)(?:qkv\.|in_proj_)(weight|bias)", new):
            start, kind = match.groups()
            width = len(value) // 3
            ours |= {f"{start}q.{kind}": value[:width], f"{start}kv.{kind}": value[width:]}
        else:
            ours[new.replace("out_proj.", "proj.")] = value
    if unknown:
        raise ValueError(
            f"{source}: {', '.join(unknown[:5])}{' …' * (len(unknown) > 5)} ({len(unknown)} of {len(found)} tensors) "
            "belong neither to a MAE of Meta's nor to MaeFuse; classifiers and the names of transformers do not fit"
        )
    return ours


# -- sizes ---------------------------------------------------------------------------------------------------------


def encoder_sizes(found: dict[str, Tensor], source, num_heads: int | None) -> dict:
    """Arguments of the encoder, read off its tensors."""
    need(found, source, "patch_embed.", "blocks.0.mlp.fc1.weight")
    dim, _, *patch = found["patch_embed.proj.weight"].shape
    if not (num_heads or dim in HEADS):
        raise ValueError(f"{source}: its width, {dim}, is none of {tuple(HEADS)} and tells no heads; give num_heads")
    sizes = {"embed_dim": dim, "depth": _depth(found, "blocks"), "num_heads": num_heads or HEADS[dim]}
    sizes["mlp_ratio"] = len(found["blocks.0.mlp.fc1.weight"]) / dim
    if "pos_embed" in found:
        side = math.isqrt(found["pos_embed"].shape[1])  # with or without a class token
        sizes["img_size"] = (side * patch[0], side * patch[1])
    return sizes


def decoder_sizes(found: dict[str, Tensor], num_heads: int) -> dict:
    """Arguments of the decoder, read off its tensors."""
    sizes = {"embed_dim": len(found["decoder_embed.weight"]), "depth": _depth(found, "decoder_blocks")}
    return {f"decoder_{key}": value for key, value in (sizes | {"num_heads": num_heads}).items()}


def _depth(found: dict[str, Tensor], blocks: str) -> int:
    return len({name.split(".")[1] for name in found if name.startswith(f"{blocks}.")})


def colour(found: dict[str, Tensor]) -> Modality:
    """The sensor of ImageNet's pictures, cut into this model's patches."""
    patch = tuple(found["patch_embed.proj.weight"].shape[2:])
    mean, std = ([255 * value for value in values] for values in (MEAN, STD))
    return Modality("rgb", ("R", "G", "B"), "digital number", (0, 255), mean, std, patch)


def need(found: dict[str, Tensor], source, *starts: str) -> None:
    parts = {
        "decoder_pred.": "it holds an encoder alone and cannot reconstruct: take Meta's …_full or "
        "mae_visualize_… file, or train a decoder by fmlib.train_fusion --encoder=…",
        "cross_model.": "it has no fusion layer: give the file of that, too, or train one by fmlib.train_fusion",
        "ln.": "its fusion layer is an early one, without MLP and norm: pictures get scales; take the later file",
    }
    for start in starts:
        if not any(name.startswith(start) for name in found):
            raise ValueError(
                f"{source}: no {start}* among its tensors; {parts.get(start, 'it is no masked autoencoder')}"
            )


def _check_positions(table: Tensor, name: str) -> None:
    """Warn where a table (1, L, D) is not the one that is computed in its place."""
    side = math.isqrt(table.shape[1])
    expected = sincos_positions(table.shape[2], (side, side))
    apart = (table[0, table.shape[1] - side**2 :].float() - expected).abs().max().item()
    if apart > 0.01:
        warnings.warn(f"{name} is up to {apart:.2g} from the sine-cosine table that takes its place", stacklevel=4)
