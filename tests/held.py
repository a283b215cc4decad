"""Small data sets in memory, made for tests."""

import numpy as np
import torch
from sensors import two_sensors

from fmlib.data.batches import Preloaded, preload


class Made:
    """Samples of two sensors whose labels show in the images."""

    name, split = "made", "train"

    def __init__(self, samples: list[dict], classes=("a", "b"), modalities=None):
        self.samples, self.classes = samples, classes
        self.modalities = {m.name: m for m in modalities or two_sensors()}

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def hold(samples: list[dict], **options) -> Preloaded:
    """These samples, preloaded."""
    return preload(Made(samples, **options), progress=False)


def make_samples(count: int, side: int = 32, seed: int = 0, task: str = "single", signal: float = 3.0) -> list[dict]:
    """Noise of two sensors, brighter in both by `signal` where the class is 1; `task` as for fine-tuning."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        label = make_label(rng, number, side, task)
        bright = np.repeat(label, side // 2) if task == "multi" else np.broadcast_to(label, (side, side))
        bright = np.where(bright == 255, 0, bright) * signal
        images = {name: rng.normal(size=(chans, side, side)) + bright for name, chans in (("s1", 2), ("s2", 12))}
        sample = {name: image.astype(np.float32) for name, image in images.items()}
        samples.append(sample | {"label": label, "id": f"{number:03}", "place": f"p{number // 2}"})
    return samples


def make_label(rng, number: int, side: int, task: str) -> np.ndarray:
    """A class in turn, two that hold one half of the image each, or a map whose halves differ."""
    if task == "single":
        return np.int64(number % 2)
    if task == "multi":
        return np.array([number % 2, number // 2 % 2], np.float32)
    flood = np.zeros((side, side), np.uint8)
    cut = 8 * rng.integers(1, side // 8)
    (flood if number % 2 else flood.T)[:cut] = 1
    flood[-4:, -4:] = 255
    return flood


def weights(model) -> dict[str, torch.Tensor]:
    """A copy of a model's weights."""
    return {name: value.clone() for name, value in model.state_dict().items()}
