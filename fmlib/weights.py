"""Checkpoints: a folder with `model.safetensors` and `config.json` from which `load` rebuilds the model."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import fmlib
from fmlib.files import write_beside, write_json
from fmlib.modality import Modality
from fmlib.models.baselines import InfoNCE, SmallResNet
from fmlib.models.dino import DINO
from fmlib.models.fusmae import FusMAE
from fmlib.models.maefuse import MaeFuse
from fmlib.models.msift import MsIFT

_CLASSES = {c.__name__: c for c in (FusMAE, InfoNCE, DINO, SmallResNet, MaeFuse, MsIFT)}


def save(model: nn.Module, folder: str | Path, dtype: torch.dtype = torch.float32, **notes) -> Path:
    """Write a model so that `load` rebuilds it; both files are written beside and renamed.

    Args:
        model: has `config` (its constructor's arguments) and `modalities`.
        folder: made if need be.
        dtype: of the stored weights; half precision halves the file.
        notes: further plain values for ``config.json``, e.g. ``step=500``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model": type(model).__name__,
        "arguments": model.config,
        "modalities": [m.to_dict() for m in model.modalities.values()],
        "versions": {"fmlib": fmlib.__version__, "torch": torch.__version__},
    } | notes
    weights = {
        k: v.detach().to("cpu", dtype if v.is_floating_point() else v.dtype) for k, v in model.state_dict().items()
    }
    write_beside(folder / "model.safetensors", lambda path: save_file(weights, path))
    write_json(folder / "config.json", config)
    return folder


def load(folder: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """Rebuild a model from a checkpoint folder, in evaluation mode.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: unreadable weights, or keys and shapes that do not fit, each of them named.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is no checkpoint: {name} is missing; give the folder that `save` wrote")
    config = json.loads((folder / "config.json").read_text())
    model = _CLASSES[config["model"]]([Modality(**m) for m in config["modalities"]], **config["arguments"])
    try:
        weights = load_file(folder / "model.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{folder / 'model.safetensors'} is damaged ({error}); copy or train it again") from error
    load_strictly(model, {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}, str(folder))
    return model.to(device).eval()


def load_strictly(model: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Load weights that fit exactly; otherwise name every missing, unexpected and misshapen key."""
    own = model.state_dict()
    faults = {
        "missing": sorted(set(own) - set(weights)),
        "unexpected": sorted(set(weights) - set(own)),
        "of another shape": sorted(
            f"{k} {tuple(weights[k].shape)} for {tuple(own[k].shape)}"
            for k in set(own) & set(weights)
            if own[k].shape != weights[k].shape
        ),
    }
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in faults.items() if keys)
        raise ValueError(f"the weights in {source} do not fit {type(model).__name__}: {listed}")
    model.load_state_dict(weights)


def digest(model: nn.Module) -> str:
    """SHA-256 of all weights and their names: equal for equal weights, wherever they lie."""
    found = hashlib.sha256()
    for key, x in sorted(model.state_dict().items()):
        found.update(key.encode() + x.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
