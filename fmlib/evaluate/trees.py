"""Gradient-boosted trees on pixels: what a careful hour without any network gives.

Each pixel is described by its bands and their means over 7×7 pixels, of every date and sensor; scikit-learn's
histogram-based trees decide from that. Most deep models for floods are compared with much less.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fmlib.evaluate.features import read_views, shown_sensors
from fmlib.evaluate.metrics import IGNORE, confusion, confusion_scores
from fmlib.evaluate.presets import Protocol
from fmlib.evaluate.protocol import draws, more_scores, shown


@dataclass(frozen=True)
class TreeParams:
    """Settings of the trees; scikit-learn's defaults elsewhere."""

    pixels: int = 300_000  # drawn from the training part
    window: int = 7  # side of the means, pixels
    max_iter: int = 100  # trees


def tree_rows(protocol: Protocol, splits: dict, params: TreeParams | None = None) -> list[dict]:
    """Maps by trees for each set of sensors, share of labels and seed of a protocol; rows as of `run_protocol`.

    Raises:
        ValueError: the protocol has no maps.
    """
    if protocol.task != "segmentation":
        raise ValueError(f"trees decide pixel by pixel; the protocol {protocol.name!r} is of task {protocol.task!r}")
    params, rows = params or TreeParams(), []
    seen = {part: shown(protocol, splits[part]) for part in ("train", "test")}
    for sensors in protocol.sensors:
        names = shown_sensors(splits["train"], splits["train"], sensors)
        for fraction, seed, chosen in draws(protocol, torch.zeros(len(seen["train"]), 1, 1)):
            rng = np.random.default_rng(seed)
            trees = fit_trees(splits["train"], seen["train"][chosen], names, params, rng)
            matrices, places = judge_trees(trees, splits["test"], seen["test"], names, params)
            about = {"protocol": protocol.name, "data": protocol.data, "split": protocol.test, "method": "trees"}
            about |= {
                "sensors": "+".join(sensors),
                "tested": "+".join(sensors),
                "pool": "pixels",
                "task": protocol.task,
            }
            about |= {"fraction": fraction, "seed": seed, "labels": len(chosen), "chosen": asdict(params)}
            rows.append(about | confusion_scores(matrices) | more_scores(protocol, matrices, None, places))
    return rows


def fit_trees(data, indices: np.ndarray, names: list[str], params: TreeParams, rng: np.random.Generator):
    """Trees fitted on pixels drawn evenly from the views of some places."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    x, y = [], []
    for row in indices:
        features, labels, _ = pixel_features(data, row[None], names, params.window)
        known = np.flatnonzero(labels != IGNORE)
        drawn = rng.choice(known, min(len(known), max(params.pixels // len(indices), 1)), replace=False)
        x.append(features[drawn])
        y.append(labels[drawn])
    trees = HistGradientBoostingClassifier(max_iter=params.max_iter, random_state=int(rng.integers(2**31)))
    return trees.fit(np.concatenate(x), np.concatenate(y))


def judge_trees(trees, data, indices: np.ndarray, names: list[str], params: TreeParams) -> tuple[Tensor, list[str]]:
    """Confusion matrices (N, classes, classes) of whole images, and their places."""
    found, places = [], []
    for row in indices:
        features, labels, place = pixel_features(data, row[None], names, params.window)
        pred = torch.as_tensor(trees.predict(features)[None])
        found.append(confusion(pred, torch.as_tensor(labels[None]), len(data.classes)))
        places += place
    return torch.cat(found), places


def pixel_features(data, row: np.ndarray, names: list[str], window: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Every pixel's bands and their means over a window (H·W, F), labels (H·W,), and the place, of one row of views."""
    views, label, place, _ = read_views(data, row, names, "cpu")
    bands = torch.cat([images[name] for images, _ in views for name in names], 1)
    around = F.pad(bands, [window // 2] * 4, mode="reflect")
    means = F.avg_pool2d(around, window, stride=1)
    return torch.cat([bands, means], 1)[0].flatten(1).T.numpy(), label[0].flatten().numpy(), place
