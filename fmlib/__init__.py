"""The Fusion-MAE workbook's module: models, masking, data and the few functions its notebooks share."""

import os

__version__ = "0.1.0"


def in_batch() -> bool:
    """Whether this notebook runs without anyone watching; the runner says so. True: no progress bars, no widgets."""
    return os.environ.get("FMLIB_BATCH") == "1"
