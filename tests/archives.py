"""Small archives in published layouts, made for tests."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter


def make_ombria(root: Path, train: int = 20, test: int = 4, seed: int = 0) -> Path:
    """An OMBRIA-shaped archive in `root`/ombria whose sensors show the same smooth scene; returns `root`."""
    rng = np.random.default_rng(seed)
    for split, numbers in (("train", range(1, train + 1)), ("test", range(1, test + 1))):
        for number in numbers:
            scene = gaussian_filter(rng.standard_normal((256, 256)), 6)
            scene = np.clip(128 + 60 * scene / scene.std(), 1, 254)
            for date in ("before", "after"):
                radar = np.clip(scene * rng.gamma(20, 1 / 20, scene.shape), 1, 254)
                optical = np.stack([scene, 255 - scene, 0.5 * scene + 60], -1)
                _write(root, "S1", split, date, number, radar)
                _write(root, "S2", split, date, number, np.clip(optical + rng.normal(0, 3, optical.shape), 1, 254))
            for sensor in ("S1", "S2"):
                _write(root, sensor, split, "mask", number, np.where(scene > 150, 255, 0))
    return root


def _write(root, sensor, split, kind, number, values):
    folder = root / "ombria" / f"Ombria{sensor}" / split / kind.upper()
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(folder / f"{sensor}_{kind}_{number:04d}.png", compress_level=1)
