"""Made images that fusion metrics are tested on."""

import numpy as np


def picture(height=48, width=56, seed=0) -> np.ndarray:
    """Smooth shapes with flat parts, black and white among them, as in real images."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(-60, 320, (height // 8 + 1, width // 8 + 1))
    fine = np.kron(coarse, np.ones((8, 8)))[:height, :width]
    noise = rng.normal(0, 6, fine.shape) * (np.arange(width) > width // 3)
    return np.clip(np.round(fine + noise), 0, 255).astype(np.uint8)


IR, VI, FUSED = (
    picture(seed=1),
    picture(seed=2),
    ((picture(seed=1) + picture(seed=2).astype(int)) // 2).astype(np.uint8),
)
