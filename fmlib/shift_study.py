"""MsIFT and other fusions with one source out of place: the runs behind notebook 08, their rows, and their claims."""

from collections.abc import Sequence

import numpy as np
import torch

from fmlib import weights
from fmlib.data import center_crop
from fmlib.evaluate.claims import VERDICTS, draw_places, judge_claim, matrices_by_seed, select
from fmlib.evaluate.metrics import IGNORE, mean_ious
from fmlib.follow import NUMBERS, example, follow_rows
from fmlib.misalign import Displacement, misalign
from fmlib.models.msift import FUSIONS, MsIFT
from fmlib.msift_study import TITLES, about_run, middle, of_samples, only_shown, task_runs, with_parts
from fmlib.recipe_msift import MsiftParams, Part, answers, read_batch, read_params
from fmlib.tables import pivot
from fmlib.train_msift import predict_displaced

TWIN_SHIFT = 8  # pixels
TWIN_SHIFTS = {"trained aligned": 0, "trained displaced": TWIN_SHIFT}
TWINS = {"preset": "tiny", "validation": "", "crop": 24, "batch_size": 16, "lr": 2e-3, "warmup": 20, "aux": False}


def shift_runs(
    settings: dict, data: str, models: Sequence[str], seeds: Sequence[int], largest: Sequence[float]
) -> list[dict]:
    """Runs of maps, each trained with one source displaced by up to so many pixels; a sensor alone, by none."""
    runs = []
    for shift in largest:
        some = [model for model in models if model in FUSIONS or not shift]
        given = settings | {"shift_train": float(shift), "out": f"{settings['out']}/{shift:g}"}
        runs += task_runs(given, "segmentation", data, some, seeds)
    return runs


def displaced_rows(
    runs: Sequence[dict], amounts: Sequence[float], sensor: str, kind: str = "shift", crop: int | None = None
) -> list[dict]:
    """What trained models score with one sensor out of place.

    Args:
        amounts, kind: how far and in which way, see `fmlib.misalign.all_ways`.
        sensor: which sensor. A model that does not know it is scored once, and is the same everywhere.
        crop: side of the central window that is looked at after moving, in pixels.

    Returns:
        Rows as of `score_rows`, with ``"kind"`` and ``"amount"``, all directions counted together.
    """
    rows = []
    for run, (p, parts) in zip(runs, with_parts(runs), strict=True):
        model, part = weights.load(f"{p.out}/model"), parts["test"]
        blind = sensor not in model.modalities
        for amount in amounts[:1] if blind else amounts:
            found = predict_displaced(model, part, p, amount, sensor, kind, crop)
            samples = ({"place": a, "confusion": b.numpy()} for a, b in zip(found.places, found.confusion, strict=True))
            scores = of_samples(list(samples), answers(p, part.data))
            same = amounts if blind else [amount]
            rows += [about_run(run) | {"kind": kind, "amount": value} | scores for value in same]
    return rows


def judge_loss(
    rows: Sequence[dict], better: dict, worse: dict, amount: float, still: float = 0, n: int = 1000, seed: int = 0
) -> dict:
    """Does one selection of rows lose less mean IoU than another by a displacement?  As `judge_claim`, of losses.

    Args:
        rows: of `displaced_rows`. better, worse: what to select, e.g. ``{"name": "msift", "shift_train": 0.0}``.
        amount: of the displacement. still: the amount it is compared with. n: draws. seed: of the draws.

    Returns:
        ``"better"``, ``"worse"`` (losses, means over seeds), ``"difference"`` (what the first loses less), its 95 %
        interval ``"low"`` and ``"high"`` over places and seeds, ``"verdict"``.
    """
    found = [[matrices_by_seed(rows, wanted | {"amount": a}) for a in (still, amount)] for wanted in (better, worse)]
    seeds = list(found[0][0])
    if any(list(matrices) != seeds for pair in found for matrices in pair):
        raise ValueError(f"{better} and {worse} have different seeds; compare equal ones")
    stacks = [[np.stack(list(matrices.values())) for matrices in pair] for pair in found]  # (S, P, C, C) each

    def losses(places: np.ndarray, chosen) -> list[float]:
        scores = [[mean_ious(np.einsum("n,sncd->scd", places, x[chosen])).mean() for x in pair] for pair in stacks]
        return [float(before - after) for before, after in scores]

    rng, names = np.random.default_rng(seed), select(rows, **better)[0]["places"]
    drawn = np.array([losses(*draw) for draw in draw_places(rng, names, len(seeds), n)])
    low, high = np.quantile(drawn[:, 1] - drawn[:, 0], (0.025, 0.975)).tolist()
    first, second = losses(np.ones(len(names)), slice(None))
    about = {"better": first, "worse": second, "difference": second - first, "low": low, "high": high}
    return about | {"verdict": VERDICTS[1 + (low > 0) - (high < 0)]}


def shift_claims(rows: Sequence[dict], amount: float) -> list[dict]:
    """What is said of MsIFT out of place, put to the test; rows with their ``"claim"`` and ``"measure"``."""
    found, trained = [], list(dict.fromkeys(row["shift_train"] for row in rows if row["name"] == "msift"))
    for shift in trained:
        how = f"trained with shifts up to {shift:g} px" if shift else "trained aligned"
        mine = select(rows, shift_train=shift)
        for name in dict.fromkeys(row["name"] for row in mine if row["name"] in FUSIONS and row["name"] != "msift"):
            pair = {"name": "msift", "shift_train": shift}, {"name": name, "shift_train": shift}
            words = f"MsIFT loses less than {TITLES[name]} at {amount:g} px, {how}"
            found.append({"claim": words, "measure": "loss of mIoU"} | judge_loss(mine, *pair, amount))
            words = f"MsIFT is better than {TITLES[name]} at {amount:g} px, {how}"
            at = [{**one, "amount": amount} for one in pair]
            found.append({"claim": words, "measure": "mIoU"} | judge_claim(mine, *at, mine[0]["places"]))
    if len(trained) > 1:
        pair = [{"name": "msift", "shift_train": shift, "amount": amount} for shift in (max(trained), min(trained))]
        words = f"training with shifts helps MsIFT at {amount:g} px"
        found.append({"claim": words, "measure": "mIoU"} | judge_claim(rows, *pair, rows[0]["places"]))
    return found


# -- what attention does --------------------------------------------------------------------------------------------


def moved_maps(runs: Sequence[dict], sensor: str, shift: float, crop: int, count: int = 2) -> dict:
    """Test samples, evenly spaced, and the maps of each model as they are and with one sensor moved down.

    Args:
        runs: trained, each model once, the first with all sensors. sensor, shift, crop: as for `displaced_rows`.
        count: of samples.

    Returns:
        What `fmlib.viz.segmentation_gallery` takes.
    """
    found, images = {}, {}
    for run, (p, parts) in zip(runs, with_parts(runs), strict=True):
        model, part = weights.load(f"{p.out}/model"), parts["test"]
        rows = np.linspace(0, len(part.indices) - 1, count).round().astype(int)
        batch = read_batch(part, rows, list(model.modalities), "cpu")
        for title, rows_down in (("", 0), (f", moved {shift:g} px", shift)):
            if rows_down and sensor not in model.modalities:
                continue
            seen = misalign(batch.images, sensor, Displacement(rows_down)) if rows_down else batch.images
            seen = center_crop(seen, crop)
            with torch.no_grad():
                found[about_run(run)["model"] + title] = model(seen, batch.present).logits.argmax(1)
            for name in seen if not rows_down else [sensor]:
                modality = model.modalities[name]
                images.setdefault(modality.title + title, {"image": seen[name], "modality": modality})
    maps = only_shown(middle(batch.labels, crop), found, part.data.classes)
    return maps | {"images": images, "ids": batch.ids}


def follow_table(runs: Sequence[dict], sensor: str, distance: float, crop: int, samples: int = 32) -> list[dict]:
    """`follow_rows` in the last layer of every MsIFT among the runs: mean and spread over seeds, for a table.

    Args:
        sensor, distance, crop: as for `follow_rows`. samples: of the test part.
    """
    mine, rows = [run for run in runs if run["fusion"] == "msift"], []
    for run, (p, parts) in zip(mine, with_parts(mine), strict=True):
        model = weights.load(f"{p.out}/model")
        batch = read_batch(parts["test"], slice(0, samples), list(model.modalities), "cpu")
        rows.append(about_run(run) | follow_rows(model, batch.images, sensor, distance, crop)[-1])
    by, lines = ("model", "shift_train", "layer"), {}
    for key in NUMBERS:
        for line in pivot(rows, by, lambda _, key=key: key, key):
            lines.setdefault(tuple(line[name] for name in by), {}).update(line)
    return list(lines.values())


def twin_runs(out: str, steps: int, seed: int = 0) -> dict[str, dict]:
    """Runs on `fmlib.follow.twin_parts`, without and with displacements in training."""
    shared = TWINS | {"steps": steps, "seed": seed}
    about = lambda shift: {"data": f"twins, up to {shift} px", "out": f"{out}/{shift}-{seed}"}  # noqa: E731
    return {name: shared | about(shift) for name, shift in TWIN_SHIFTS.items()}


def twin_row(name: str, run: dict, model: MsIFT, parts: dict[str, Part]) -> dict:
    """What a model of twins scores aligned and displaced, and where its last layer's objects look, displaced."""
    p, part = read_params(run), parts["test"]
    scores = {f"accuracy at {amount} px": _accuracy(model, part, p, amount) for amount in (0, TWIN_SHIFT)}
    batch = read_batch(part, slice(None), list(model.modalities), "cpu")
    row = follow_rows(model, batch.images, "second", TWIN_SHIFT, p.crop, batch.labels != IGNORE)[-1]
    return {"model": name} | scores | {key: row[key] for key in NUMBERS}


def _accuracy(model: MsIFT, part: Part, p: MsiftParams, amount: float) -> float:
    return predict_displaced(model, part, p, amount, "second", crop=p.crop).scores["accuracy"]


def twin_example(model: MsIFT, parts: dict[str, Part]) -> dict:
    """An object near the middle of a test image that asks, as `fmlib.viz.followed_query` takes it."""
    crop = TWINS["crop"]
    batch = read_batch(parts["test"], slice(0, 1), list(model.modalities), "cpu")
    label = center_crop({"label": batch.labels[:, None]}, crop)["label"][0, 0]
    objects = (label != IGNORE).nonzero()
    query = objects[(objects - crop // 2 + TWIN_SHIFT // 2).abs().sum(1).argmin()]  # its twin stays in the image
    found = example(model, batch.images, "second", (TWIN_SHIFT, 0), tuple(query.tolist()), crop)
    return found | {"modalities": model.modalities}
