"""Carrying out a protocol of `fmlib.evaluate.presets` with one model: rows of scores."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from fmlib.data import open_dataset
from fmlib.data.subsets import label_fraction
from fmlib.evaluate.claims import worst_places
from fmlib.evaluate.features import Features, extract, fill_missing, pair_views, presence, standardise
from fmlib.evaluate.finetune import finetune
from fmlib.evaluate.leaks import find_leaks, touching_places
from fmlib.evaluate.metrics import (
    batch_averaged_micro_ap,
    bootstrap_matrices,
    confusion,
    confusion_scores,
    mean_ious,
    multi_label_scores,
    single_label_scores,
)
from fmlib.evaluate.presets import Protocol
from fmlib.evaluate.probe import ProbeParams, ProbeResult, linear_probe
from fmlib.evaluate.segmentation import dense_probe, predict_maps
from fmlib.evaluate.windows import cropped, with_labels

ANSWER_DECAYS = (1e-3, 1e-2, 1e-1, 1.0)  # penalties tried on heads that answer one question a sample


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
        "sensors", "tested" (the sensors shown in the test), "pool", "fraction", "seed", "labels" (their number),
        score…}; with maps also ``"miou_low"`` and ``"miou_high"``, the 95 % interval over the test part's places, and
        ``"confusion"``, the test samples' confusion matrices.
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


def touching(protocol: Protocol, root=None) -> set[str]:
    """Test places that overlap with training places, see `find_leaks`."""
    options = protocol.options | protocol.calm
    train, test = (open_dataset(protocol.data, split, root, **options) for split in ("train", protocol.test))
    return touching_places(find_leaks(train, test))


def scored_places(protocol: Protocol, splits: dict) -> list[str]:
    """Where the test samples of each row's ``"confusion"`` were taken."""
    return [splits["test"][index].get("place", str(index)) for index in shown(protocol, splits["test"])[:, -1].tolist()]


# -- frozen features --------------------------------------------------------------------------------------------------


def linear_rows(protocol: Protocol, model: nn.Module, splits: dict) -> list[dict]:
    """Frozen features are computed once for each set of sensors and pool, then probed with each share of labels."""
    splits, classes, rows = _small_training(protocol, splits), len(splits["train"].classes), []
    for pool in protocol.pools:
        sets = {names: _features(protocol, model, splits, names, pool) for names in _known(protocol, model)}
        for names, parts in sets.items():
            about = {"method": "linear", "sensors": "+".join(names), "pool": pool}
            tests = {"+".join(names): parts["test"]} | _with_missing(protocol, names, parts["train"], sets)
            rows += [about | row for row in _probe_rows(protocol, classes, parts["train"], parts["validation"], tests)]
    return rows


def worst_maps(protocol: Protocol, model: nn.Module, splits: dict, row: dict, count: int = 4) -> dict:
    """The test samples on which a row of `linear_rows` is worst, named as `fmlib.viz.segmentation_gallery` takes them.

    The linear head is fitted anew, with all labels.

    Args:
        model: the one that the row is of. splits: preloaded.
    """
    sensors, worst = row["sensors"].split("+"), worst_places(row, count)
    seen, classes = _small_training(protocol, splits), splits["train"].classes
    parts = _features(protocol, model, seen, sensors, "dense")
    head = dense_probe(parts["train"], parts["validation"], classes=len(classes), params=protocol.probe).head
    maps = predict_maps(head, standardise(parts["train"].x, parts["test"].take(worst).x)[1])
    test = _seen(protocol, splits["test"], protocol.crop)
    batch = test.batch(shown(protocol, test)[worst, -1])
    images = {m.title: {"image": batch[name], "modality": m} for name, m in test.modalities.items()}
    found = {"images": images, "truth": batch["label"], "predictions": {row.get("model", "model"): maps}}
    return found | {"classes": classes, "ids": batch["id"]}


def _features(protocol: Protocol, model: nn.Module, splits: dict, sensors: Sequence[str], pool: str) -> dict:
    crop = None if protocol.train_crop else protocol.crop  # else it has been done
    options = {"crop": crop, "cls_layers": protocol.cls_layers if pool == "cls" else 1, "tile": protocol.tile}
    return {
        part: extract(model, data, shown(protocol, data), sensors, pool, **options) for part, data in splits.items()
    }


def _with_missing(protocol: Protocol, sensors: tuple[str, ...], train: Features, sets: dict) -> dict[str, Features]:
    """Test features where some of the sensors that the head is fitted with are missing."""
    found, views = {}, max(len(protocol.views), 1)
    for rest in (rest for rest in sets if protocol.drop_sensors and set(rest) < set(sensors)):
        test = sets[rest]["test"]
        found["+".join(rest)] = test._replace(x=fill_missing(test.x, rest, sensors, train.x, views))
    return found


def _probe_rows(protocol: Protocol, classes: int, train: Features, validation: Features, tests: dict) -> list[dict]:
    rows = _task_rows(protocol, classes, train, validation, tests)
    if protocol.has_class and protocol.task == "segmentation":
        train, validation = (presence(part, *protocol.has_class) for part in (train, validation))
        tests = {name: presence(test, *protocol.has_class) for name, test in tests.items()}
        question = replace(protocol, task="single", probe=ProbeParams(weight_decays=ANSWER_DECAYS, balance=True))
        rows += _task_rows(question, 2, train, validation, tests)
    return rows


def _task_rows(protocol: Protocol, classes: int, train: Features, validation: Features, tests: dict) -> list[dict]:
    rows = []
    for fraction, seed, chosen in draws(protocol, train.labels):
        some, params = train.take(chosen), replace(protocol.probe, seed=seed)
        if protocol.task == "segmentation":
            result = dense_probe(some, validation, classes=classes, params=params)
        else:
            result = linear_probe(*((part.x, part.labels) for part in (some, validation)), None, params, classes)
        about = {"task": protocol.task, "fraction": fraction, "seed": seed, "labels": len(chosen)}
        about |= {"chosen": result.chosen}
        rows += [about | {"tested": name} | _judge(protocol, result, some, test) for name, test in tests.items()]
    return rows


@torch.no_grad()
def _judge(protocol: Protocol, result: ProbeResult, train: Features, test: Features) -> dict:
    """Scores of a fitted head."""
    x = standardise(train.x, test.x)[1] if protocol.probe.standardise else test.x
    if protocol.task == "segmentation":
        matrices = confusion(predict_maps(result.head, x), test.labels, result.head.classes)
        return confusion_scores(matrices) | more_scores(protocol, matrices, test.labels, test.places)
    logits = result.head(x)
    scores = single_label_scores(logits, test.labels) if protocol.task == "single" else None
    scores = scores or multi_label_scores(logits.sigmoid(), test.labels)
    return scores | more_scores(protocol, logits, test.labels, test.places)


# -- fine-tuning ------------------------------------------------------------------------------------------------------


def finetuned_rows(protocol: Protocol, model: nn.Module, splits: dict) -> list[dict]:
    """The whole encoder, fine-tuned anew for each set of sensors, pool, share of labels and seed."""
    sides = {"train": None, "validation": protocol.train_crop or protocol.crop}  # random crops come from whole images
    splits = {part: _seen(protocol, data, sides.get(part, protocol.crop)) for part, data in splits.items()}
    rows, indices = [], {part: shown(protocol, data) for part, data in splits.items()}
    labels, test_labels = (all_labels(splits[part], indices[part][:, -1]) for part in ("train", "test"))
    held_out = [(splits[part], indices[part]) for part in ("validation", "test")]
    places = scored_places(protocol, splits)
    for sensors in _known(protocol, model):
        for pool in protocol.pools:
            for fraction, seed, chosen in draws(protocol, labels):
                params = replace(protocol.finetune, seed=seed, pool=pool)
                result = finetune(model, (splits["train"], indices["train"][chosen]), *held_out, sensors, params)
                names = "+".join(sensors)
                row = {"method": "finetuned", "sensors": names, "tested": names, "pool": pool, "task": protocol.task}
                row |= {"fraction": fraction, "seed": seed, "labels": len(chosen), "chosen": result.chosen}
                rows.append(row | result.scores | more_scores(protocol, result.outputs, test_labels, places))
    return rows


# -- shared -----------------------------------------------------------------------------------------------------------


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


def _known(protocol: Protocol, model: nn.Module) -> list[tuple[str, ...]]:
    """The protocol's sets of sensors of which the model knows all."""
    return [names for names in protocol.sensors if set(names) <= set(model.modalities)]


def _small_training(protocol: Protocol, splits: dict) -> dict:
    """The parts as frozen features are taken from them: where `train_crop` is set, test images alone are whole."""
    sides = dict.fromkeys(("train", "validation"), protocol.train_crop) | {"test": protocol.crop}
    return {part: _seen(protocol, data, sides[part] if protocol.train_crop else None) for part, data in splits.items()}


def _seen(protocol: Protocol, data, side: int | None):
    """What is looked at of a part: whole images or their centre, with the labels that the protocol asks for."""
    data = data if protocol.label == "label" else with_labels(data, protocol.label)
    return cropped(data, side) if side else data


def more_scores(protocol: Protocol, outputs: Tensor, labels: Tensor, places: Sequence[str]) -> dict:
    """The compatibility number where the protocol asks for it; for maps, the interval of the mean IoU over places."""
    scores = {}
    if protocol.batch_average:
        scores["ap_micro_batch_averaged"] = batch_averaged_micro_ap(outputs, labels, protocol.batch_average)
    if protocol.task == "segmentation":
        interval = bootstrap_matrices(mean_ious, outputs, places)
        scores |= {"miou_low": interval["low"], "miou_high": interval["high"], "confusion": outputs.tolist()}
    return scores
