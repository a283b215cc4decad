"""Small flooded scenes and short trainings of MsIFT."""

import json

from fmlib.recipe_msift import Part
from fmlib.train_msift import open_parts, read_params

QUICK = {"views": ["before", "after"], "crop": 32, "batch_size": 4, "steps": 6, "depth": 1, "num_threads": 1}
QUICK |= {"warmup": 1, "log_every": 2, "save_every": 2, "validate_every": 2, "lr": 3e-3}


def open_corners(root) -> dict[str, Part]:
    """A corner of each picture of an archive under `root`, opened once."""
    opened = open_parts(read_params(QUICK | {"data_root": str(root)}))
    for part in opened.values():
        for name, array in part.data.arrays.items():
            part.data.arrays[name] = array[..., :64, :64]
    return {part: Part(data, indices) for part, (data, indices) in opened.items()}


def params(out, **options) -> dict:
    return QUICK | {"out": str(out)} | options


def scores_of(out) -> dict:
    return json.loads((out / "scores.json").read_text())
