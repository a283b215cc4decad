"""Published and own evaluation protocols as plain settings; `run_protocol` carries one out.

A number says which protocol, data set, split and average it comes from, and is compared with no other kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from fmlib.data import open_dataset
from fmlib.data.subsets import label_fraction
from fmlib.evaluate.features import Features, extract, pair_views
from fmlib.evaluate.finetune import FinetuneParams, finetune
from fmlib.evaluate.metrics import batch_averaged_micro_ap, bootstrap, mean_iou
from fmlib.evaluate.probe import ProbeParams, linear_probe
from fmlib.evaluate.segmentation import LINEAR, dense_probe

BOTH = (("s1",), ("s2",), ("s1", "s2"))


@dataclass(frozen=True)
class Protocol:
    """What is measured on which data, with how many labels, and how."""

    name: str
    data: str  # name of a manifest
    source: str  # where the protocol is from
    task: str  # single, multi or segmentation
    options: dict = field(default_factory=dict)  # of `open_dataset`
    validation: str = "validation"  # split that settings are chosen on; it may be the test split of protocols without
    test: str = "test"  # split that is reported
    views: tuple[str, ...] = ()  # dates of one place whose features are joined, see `pair_views`; empty: samples alone
    crop: int | None = None  # side of the central window, pixels
    sensors: tuple[tuple[str, ...], ...] = BOTH  # shown in training and test of the head; others are not shown at all
    pools: tuple[str, ...] = ("cls",)
    cls_layers: int = 1  # class tokens of so many last blocks joined
    fractions: tuple[float, ...] = (1.0,)  # shares of labels, without replacement
    seeds: tuple[int, ...] = (0,)
    probe: ProbeParams = field(default_factory=ProbeParams)
    finetune: FinetuneParams | None = None  # None: frozen features alone
    batch_average: int = 0  # batch size of the batch-averaged micro AP; 0: none
    differs: tuple[str, ...] = ()  # how this differs from its source


DINO_MM = Protocol(
    name="DINO-MM linear evaluation",
    data="bigearthnet-v1",
    source="zhu-xlab/DINO-MM: linear_dino_B14.py; arXiv 2204.05381",
    task="multi",
    options={"size": 128, "resample": "bilinear"},
    test="validation",
    crop=112,
    cls_layers=4,
    fractions=(0.01, 1.0),
    seeds=(42,),
    probe=ProbeParams("sgd", lrs=(0.01,), weight_decays=(0.0,), epochs=100, batch_size=256, standardise=False),
    batch_average=256,
    differs=(
        "one setting and the last epoch, where the source reports the best epoch on the part it tests on",
        "features of the central window in training too, where the source draws crops and flips anew in each epoch",
        "labels drawn without replacement, so 1 % holds as many images as it says",
        "an absent sensor is not shown, where the source shows zeros",
        "the official lists, where the source takes SeCo's; both report on the validation part",
    ),
)

BIGEARTHNET_V2 = Protocol(
    name="BigEarthNet v2, project",
    data="bigearthnet-v2",
    source="this workbook",
    task="multi",
    pools=("cls", "mean"),
    fractions=(0.01, 0.1, 1.0),
    seeds=(0, 1, 2),
    finetune=FinetuneParams("multi", epochs=20, warmup=3, batch_size=64, lr=1e-3, layer_decay=0.75),
    batch_average=256,
)

SEN12MS = Protocol(
    name="SEN12MS, scene classification",
    data="sen12ms",
    source="schmitt-muc/SEN12MS: single-label classes of the simplified IGBP scheme, published lists",
    task="single",
    options={"labels": "single"},
    pools=("cls", "mean"),
    fractions=(0.01, 0.1, 1.0),
    seeds=(0, 1, 2),
    finetune=FinetuneParams("single", epochs=20, warmup=3, batch_size=64, lr=1e-3, layer_decay=0.75),
    differs=("validation is whole training scenes held back, where the source has no validation list",),
)

OMBRIA = Protocol(
    name="OMBRIA floods, project",
    data="ombria",
    source="this workbook",
    task="segmentation",
    views=("before", "after"),
    pools=("dense",),
    fractions=(0.01, 0.1, 1.0),
    seeds=(0, 1, 2),
    probe=LINEAR,
    finetune=FinetuneParams("segmentation", epochs=20, batch_size=16, crop=128),
)


def run_protocol(
    protocol: Protocol, model: nn.Module, root=None, methods: Sequence[str] = ("linear", "finetuned"), splits=None
) -> list[dict]:
    """Carry out a protocol with one model.

    Args:
        model: pretrained, or with random weights for a baseline; in evaluation mode.
        root: folder that holds all data sets.
        methods: ``"linear"`` (frozen features), ``"finetuned"``.
        splits: {"train", "validation", "test": data set} already open, e.g. preloaded; default: opened from disk.

    Returns:
        One row a method, set of sensors, pool, share of labels and seed: {"protocol", "data", "split", "method",
        "sensors", "pool", "fraction", "seed", "labels" (their number), score…}; with maps also ``"miou_low"`` and
        ``"miou_high"``, the 95 % interval over the test part's places.
    """
    splits = open_splits(protocol, root) if splits is None else splits
    rows = linear_rows(protocol, model, splits) if "linear" in methods else []
    if "finetuned" in methods and protocol.finetune is not None:
        rows += finetuned_rows(protocol, model, splits)
    about = {"protocol": protocol.name, "data": protocol.data, "split": protocol.test}
    return [about | row for row in rows]


def open_splits(protocol: Protocol, root=None) -> dict:
    """The data sets of a protocol: {"train", "validation", "test"}."""
    names = {"train": "train", "validation": protocol.validation, "test": protocol.test}
    return {part: open_dataset(protocol.data, name, root, **protocol.options) for part, name in names.items()}


def linear_rows(protocol: Protocol, model: nn.Module, splits: dict) -> list[dict]:
    """Frozen features are computed once for each set of sensors and pool, then probed with each share of labels."""
    rows = []
    for sensors in protocol.sensors:
        for pool in protocol.pools:
            options = {"cls_layers": protocol.cls_layers if pool == "cls" else 1, "crop": protocol.crop}
            parts = {
                part: extract(model, data, shown(protocol, data), sensors, pool, **options)
                for part, data in splits.items()
            }
            rows += [
                {"method": "linear", "sensors": "+".join(sensors), "pool": pool} | row
                for row in _probe_rows(protocol, len(splits["train"].classes), **parts)
            ]
    return rows


def _probe_rows(protocol: Protocol, classes: int, train: Features, validation: Features, test: Features) -> list[dict]:
    rows = []
    for fraction, seed, chosen in draws(protocol, train.labels):
        some, params = train.take(chosen), replace(protocol.probe, seed=seed)
        if protocol.task == "segmentation":
            result = dense_probe(some, validation, test, classes=classes, params=params)
        else:
            parts = [(part.x, part.labels) for part in (some, validation, test)]
            result = linear_probe(*parts, params, classes)
        row = {"fraction": fraction, "seed": seed, "labels": len(chosen), "chosen": result.chosen}
        rows.append(row | result.scores | _more_scores(protocol, result.outputs, test.labels, test.places))
    return rows


def finetuned_rows(protocol: Protocol, model: nn.Module, splits: dict) -> list[dict]:
    """The whole encoder, fine-tuned anew for each set of sensors, pool, share of labels and seed."""
    rows, indices = [], {part: shown(protocol, data) for part, data in splits.items()}
    labels, test_labels = (all_labels(splits[part], indices[part][:, -1]) for part in ("train", "test"))
    held_out = [(splits[part], indices[part]) for part in ("validation", "test")]
    places = [splits["test"][index].get("place", index) for index in indices["test"][:, -1].tolist()]
    for sensors in protocol.sensors:
        for pool in protocol.pools:
            for fraction, seed, chosen in draws(protocol, labels):
                params = replace(protocol.finetune, seed=seed, pool=pool)
                result = finetune(model, (splits["train"], indices["train"][chosen]), *held_out, sensors, params)
                row = {"method": "finetuned", "sensors": "+".join(sensors), "pool": pool}
                row |= {"fraction": fraction, "seed": seed, "labels": len(chosen), "chosen": result.chosen}
                rows.append(row | result.scores | _more_scores(protocol, result.outputs, test_labels, places))
    return rows


def draws(protocol: Protocol, labels: Tensor):
    """(fraction, seed, row numbers) for each share of the labels and seed; all labels are drawn once."""
    for fraction in protocol.fractions:
        for seed in protocol.seeds if fraction < 1 else protocol.seeds[:1]:
            strata = labels.numpy() if labels.ndim < 3 else len(labels)  # maps are drawn as they come
            yield fraction, seed, label_fraction(strata, fraction, seed)


def shown(protocol: Protocol, data) -> np.ndarray:
    """(N, V) sample numbers that a protocol looks at; the label is that of the last view."""
    return pair_views(data, protocol.views) if protocol.views else np.arange(len(data))[:, None]


def all_labels(data, indices: np.ndarray) -> Tensor:
    """Labels of some samples of a data set."""
    if hasattr(data, "arrays"):  # preloaded
        return torch.as_tensor(data.arrays["label"][indices])
    return torch.as_tensor(np.stack([data[index]["label"] for index in indices.tolist()]))


def _more_scores(protocol: Protocol, outputs: Tensor, labels: Tensor, places: Sequence[str]) -> dict:
    """The compatibility number where the protocol asks for it; for maps, the interval of the mean IoU over places."""
    scores = {}
    if protocol.batch_average:
        scores["ap_micro_batch_averaged"] = batch_averaged_micro_ap(outputs, labels, protocol.batch_average)
    if protocol.task == "segmentation":
        interval = bootstrap(lambda rows: mean_iou(outputs[rows]), places)
        scores |= {"miou_low": interval["low"], "miou_high": interval["high"]}
    return scores
