"""MsIFT beside other fusions in three tasks: the runs behind notebook 07, and their rows.

A run is a dict of `fmlib.train_msift.MsiftParams`. A row has the settings of a model and seed and what it scored on the
test part, with its confusion matrix of each test place, so that claims can be judged on places.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from functools import lru_cache
from itertools import product
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fmlib import weights
from fmlib.compare import command
from fmlib.evaluate.claims import judge_claim, select
from fmlib.models.msift import FUSIONS, IGNORE
from fmlib.recipe_msift import MsiftParams, Part, answers, read_batch, read_params, read_parts, seen_parts
from fmlib.resume import finished
from fmlib.tables import pivot
from fmlib.train_msift import matrix_scores, train

MADE = {"label": "map", "coarse": True}  # BigEarthNet's classes are too many for a lesson of minutes
ASKED = {  # task, data set → what is asked of its labels, and what training images are
    ("pixel", "synthetic"): MADE | {"window": 7, "windows": 24},
    ("pixel", "houston2013"): {"validation": "", "rotate": True, "band_noise": 0.2},  # few windows: none are held back
    ("image", "synthetic"): MADE | {"asked_class": 2, "crop": 48, "patch_size": 2},
    ("image", "ombria"): {"views": ["before", "after"], "crop": 128},
    ("segmentation", "synthetic"): MADE | {"crop": 48, "patch_size": 2},
    ("segmentation", "ombria"): {"views": ["before", "after"], "crop": 128},
}
FOLDS = {"houston2013": 2}  # of data sets without a test part of their own: each sample is tested once
TITLES = {
    "msift": "MsIFT",
    "add": "sum",
    "concat": "concatenation",
    "concat_conv": "concatenation, convolutions",
    "svm": "support vector machine",
}
SCORES = {"accuracy": "accuracy", "class_accuracy": "mean recall", "kappa": "kappa", "miou": "mIoU"}
DEFAULTS = asdict(MsiftParams())
SPLIT = ("data", "data_root", "validation", "test", "views", "scheme", "fold", "split_seed", "held_back")
SPLIT += ("label", "coarse")  # all parameters that decide what is read


def only_msift_params(values: dict) -> dict:
    """Those of `values` that are parameters of `fmlib.train_msift`: how a notebook hands on its own."""
    return {f.name: values[f.name] for f in fields(MsiftParams) if f.name in values}


def task_runs(settings: dict, task: str, data: str, models: Sequence[str], seeds: Sequence[int]) -> list[dict]:
    """Runs of every model and seed, and fold where a data set has folds.

    Args:
        settings: what all runs share; their folders lie in ``settings["out"]``.
        task, data: a key of `ASKED`.
        models: fusions, or names of sensors, which then stand alone.
        seeds: each deals the folds, too.
    """
    if (task, data) not in ASKED:
        known = ", ".join(f"{task} of {name}" for task, name in ASKED)
        raise ValueError(f"nothing is known of task {task!r} of {data!r}; choose one of {known}")
    base, runs = ASKED[task, data] | settings | {"task": task, "data": data}, []
    for seed, model, fold in product(seeds, models, range(FOLDS.get(data, 1))):
        chosen = {"fusion": model} if model in FUSIONS else {"fusion": "single", "sensors": [model]}
        chosen |= {"fold": fold, "split_seed": seed} if data in FOLDS else {}
        out = f"{settings['out']}/{task}/{model}-{seed}" + (f"-{fold}" if data in FOLDS else "")
        runs.append(base | chosen | {"seed": seed, "out": out})
    return runs


def leaky_runs(runs: Sequence[dict], name: str) -> list[dict]:
    """The runs of one model with single pixels dealt to the folds, which lets windows of the test into training."""
    mine = [run for run in runs if about_run(run)["name"] == name]
    return [run | {"scheme": "leaky_random", "out": f"{run['out']}-leaky"} for run in mine]


def train_all(runs: Sequence[dict]) -> None:
    """Train models one after another in this process; runs that follow each other share the data they read.

    Finished runs are not run again, and one that was interrupted goes on where it stopped.
    """
    todo = [run for run in runs if not finished(read_params(run))]
    for number, (p, parts) in enumerate(with_parts(todo), 1):
        print(f"{number} of {len(todo)}: {p.out}", flush=True)
        train(p, parts)


def with_parts(runs: Sequence[dict]) -> Iterator[tuple[MsiftParams, dict[str, Part]]]:
    """Each run's parameters and data."""
    for p in map(read_params, runs):
        yield p, seen_parts(p, _read(json.dumps({key: getattr(p, key) for key in SPLIT})))


@lru_cache(2)
def _read(split: str) -> dict[str, Part]:
    """Splits stay in memory for runs that share them, whatever their sensors and windows."""
    return read_parts(read_params(json.loads(split)))


def commands(runs: Sequence[dict], seed: int) -> list[dict]:
    """The command lines of the runs of one seed, the first fold's: {"task", "model", "command"}."""
    return [
        {"task": run["task"], "model": about_run(run)["model"], "command": command("train_msift", run, DEFAULTS)}
        for run in runs
        if run["seed"] == seed and run.get("fold", 0) <= 0
    ]


# -- rows -----------------------------------------------------------------------------------------------------------


def score_rows(runs: Sequence[dict]) -> list[dict]:
    """What trained models scored on the test part; the folds of a seed are counted together.

    Returns:
        Rows with ``"task", "data", "name", "model" (its title), "sensors", "seed"``, ``"parameters"`` (their number),
        scores of `matrix_scores`, ``"classes"``, ``"places"`` and ``"confusion"`` (P, C, C), one matrix a place.
    """
    groups: dict[tuple, list[dict]] = {}
    for run in runs:
        groups.setdefault((run["task"], run["data"], about_run(run)["name"], run["seed"]), []).append(run)
    rows = []
    for group in groups.values():
        found = [json.loads((Path(run["out"]) / "scores.json").read_text()) for run in group]
        samples = [sample for scores in found for sample in scores["samples"]]
        size = sum(x.numel() for x in weights.load(f"{group[0]['out']}/model").parameters())
        rows.append(about_run(group[0]) | {"parameters": size} | of_samples(samples, found[0]["classes"]))
    return rows


def svm_rows(runs: Sequence[dict], strength: float = 100.0) -> list[dict]:
    """A support vector machine on the same windows: the middle pixel of every source, and its window's mean and spread.

    Args:
        runs: of one model, for their splits; task pixel.
        strength: C of the machine; its kernel is Gaussian, on standardised features.

    Returns:
        Rows as of `score_rows`.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    samples: dict[int, list[dict]] = {}
    for p, parts in with_parts(runs):
        (x, y), (test, true) = (_pixel_features(parts[part].data) for part in ("train", "test"))
        found = make_pipeline(StandardScaler(), SVC(C=strength)).fit(x, y).predict(test)
        places = [extra["place"] for extra in parts["test"].data.extras]
        keys = ("place", "label", "answer")
        answered = (dict(zip(keys, row, strict=True)) for row in zip(places, true, found, strict=True))
        samples.setdefault(p.seed, []).extend(answered)
    about = about_run(runs[0]) | {"name": "svm", "model": TITLES["svm"], "parameters": None}
    classes = answers(p, parts["test"].data)
    return [about | {"seed": seed} | of_samples(found, classes) for seed, found in samples.items()]


def _pixel_features(data) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for name in data.modalities:
        windows = data.arrays[name].astype(np.float32)  # (N, C, side, side)
        middle = windows.shape[-1] // 2
        found += [windows[:, :, middle, middle], windows.mean((2, 3)), windows.std((2, 3))]
    return np.concatenate(found, 1), data.arrays["label"]


def about_run(run: dict) -> dict:
    """What a row says of its run."""
    sensors = run.get("sensors") or []
    name = sensors[0] if run["fusion"] == "single" else run["fusion"]
    title = TITLES.get(name, f"{name.upper()} alone")
    about = {"task": run["task"], "data": run["data"], "name": name, "model": title, "seed": run["seed"]}
    return about | {"shift_train": run.get("shift_train", 0.0)}


def of_samples(samples: Sequence[dict], classes: Sequence[str]) -> dict:
    """Scores of what was found in samples, and the confusion matrix of each place."""
    places = sorted({sample["place"] for sample in samples})
    number = {place: i for i, place in enumerate(places)}
    matrices = np.zeros((len(places), len(classes), len(classes)))
    for sample in samples:
        if "confusion" in sample:
            matrices[number[sample["place"]]] += sample["confusion"]
        elif sample["label"] is not None:
            matrices[number[sample["place"]], sample["label"], sample["answer"]] += 1
    scores = matrix_scores(torch.from_numpy(matrices).sum(0))
    return scores | {"classes": list(classes), "places": places, "confusion": matrices}


def score_table(rows: Sequence[dict]) -> list[dict]:
    """Mean and spread over seeds of every score, a line a task and model, for `fmlib.tables.Table`."""
    by, table = ("task", "model", "parameters"), {}
    for score, title in SCORES.items():
        known = [row for row in rows if row[score] is not None]
        for line in pivot(known, by, lambda _, title=title: title, score):
            table.setdefault(tuple(line[key] for key in by), {}).update(line)
    return list(table.values())


def split_table(rows: Sequence[dict], leaky: Sequence[dict]) -> list[dict]:
    """Accuracy of the models that were also tested on single pixels dealt at random, under both splits."""
    names = {row["name"] for row in leaky}
    both = [row | {"split": "whole clusters"} for row in rows if row["name"] in names]
    both += [row | {"split": "single pixels at random"} for row in leaky]
    return pivot(both, ("model",), lambda row: row["split"], "accuracy")


def class_rows(rows: Sequence[dict], score: str = "recall") -> list[dict]:
    """One row a class that occurs, with its score: for a table of classes."""
    return [
        row | {"class": name, score: value}
        for row in rows
        for name, value in zip(row["classes"], row[score], strict=True)
        if value is not None
    ]


def claims(rows: Sequence[dict], pairs: Sequence[tuple[str, str]]) -> list[dict]:
    """For every task, does one model score better than another?  Rows of `judge_claim` with ``"task"``, ``"claim"``."""
    found = []
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = select(rows, task=task)
        names = {row["name"]: row["model"] for row in mine}
        for a, b in ((a, b) for a, b in pairs if a in names and b in names):
            judged = judge_claim(mine, {"name": a}, {"name": b}, mine[0]["places"])
            found.append({"task": task, "claim": f"{names[a]} beats {names[b]}"} | judged)
    return found


# -- maps -----------------------------------------------------------------------------------------------------------


def example_maps(runs: Sequence[dict], count: int = 3, windows: dict | None = None, side: int = 0) -> dict:
    """Test samples, evenly spaced, and what each model made of them, as `fmlib.viz.segmentation_gallery` takes them.

    Args:
        runs: of maps, trained, each model once.
        count: of samples.
        windows: a run of task pixel on the same data, to classify every pixel from the window around it.
        side: of the middle that is shown, in pixels; 0: all. Windows take about 2 ms a pixel.
    """
    found, images = {}, {}
    for run, (p, parts) in zip(runs, with_parts(runs), strict=True):
        part, model = parts["test"], weights.load(f"{p.out}/model")
        rows = np.linspace(0, len(part.indices) - 1, count).round().astype(int)
        batch = read_batch(part, rows, list(model.modalities), "cpu")
        side = side or batch.labels.shape[1]
        with torch.no_grad():
            found[about_run(run)["model"]] = middle(model(batch.images, batch.present).logits.argmax(1), side)
        images |= {name: (modality, batch.images[name]) for name, modality in model.modalities.items()}
    if windows:
        whole = {name: image for name, (_, image) in images.items()}
        found[f"{about_run(windows)['model']}, windows"] = _window_maps(windows, whole, side)
    shown = {m.title: {"image": middle(image, side), "modality": m} for m, image in images.values()}
    maps = only_shown(middle(batch.labels, side), found, part.data.classes)
    return maps | {"images": shown, "ids": batch.ids}


def only_shown(truth: Tensor, predictions: dict, classes: Sequence[str]) -> dict:
    """Maps with the classes that occur in them numbered anew, if they are three or more, for a short legend."""
    predictions = {name: torch.as_tensor(maps) for name, maps in predictions.items()}
    present = torch.cat([maps.flatten().long() for maps in (truth, *predictions.values())]).unique()
    present = [number for number in present.tolist() if number != IGNORE]
    present = present if len(present) > 2 else list(range(len(classes)))  # two classes are drawn in another way
    number = torch.full((IGNORE + 1,), IGNORE)
    number[present] = torch.arange(len(present))
    found = {"truth": number[truth.long()], "classes": [shorten(classes[i], 40, placeholder=" …") for i in present]}
    return found | {"predictions": {name: number[maps.long()] for name, maps in predictions.items()}}


def middle(x: Tensor, side: int) -> Tensor:
    """The central window of images or maps (…, H, W)."""
    top, left = ((size - side) // 2 for size in x.shape[-2:])
    return x[..., top : top + side, left : left + side]


def _window_maps(run: dict, images: dict[str, Tensor], side: int) -> np.ndarray:
    """The middle of images (B, C, H, W), every pixel classified from the window around it: (B, side, side)."""
    from fmlib.predict_scene import classify

    p, model = read_params(run), weights.load(f"{run['out']}/model")

    def scores(windows: dict[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            return model({name: torch.from_numpy(x) for name, x in windows.items()}).logits.numpy()

    margin = p.window // 2  # of real ground, reflected where the image ends
    padded = {n: F.pad(images[n], [margin] * 4, mode="reflect") for n in model.modalities}
    seen = {n: middle(x, side + 2 * margin).numpy() for n, x in padded.items()}
    valid = np.ones((side + 2 * margin,) * 2, bool)
    count = len(next(iter(seen.values())))
    return np.stack([classify(scores, {n: x[i] for n, x in seen.items()}, valid, p.window) for i in range(count)])
