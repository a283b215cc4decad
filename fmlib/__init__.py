"""The Fusion-MAE workbook's module: models, masking, data and the few functions its notebooks share."""

import os
from pathlib import Path

__version__ = "0.1.0"


def in_batch() -> bool:
    """Whether this notebook runs without anyone watching; the runner says so. True: no progress bars, no widgets."""
    return os.environ.get("FMLIB_BATCH") == "1"


def repo_path(path: str | Path) -> Path:
    """A path as seen from the root of the repository, wherever in it the notebook runs; absolute paths stay.

    The root is the nearest folder, from the working folder upwards, with a pyproject.toml; else the working folder.
    """
    here = Path.cwd()
    return next((f for f in (here, *here.parents) if (f / "pyproject.toml").is_file()), here) / path
