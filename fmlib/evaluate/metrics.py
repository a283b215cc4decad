"""Scores of classification and segmentation, their intervals, and their spread over seeds.

Every score is taken over the whole test set at once, never averaged over batches or images; the one exception says so
in its name. Class numbers of 255 (`IGNORE`) have no label and never count.
"""

import statistics
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

IGNORE = 255  # label of a pixel or sample without a class


def confusion(pred: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Confusion matrix of each sample; their sum is that of the whole set.

    Args:
        pred: (N, …) class numbers. labels: (N, …) class numbers, 255 where there is none.

    Returns:
        (N, classes, classes) counts; rows are true classes, columns predicted ones.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    if pred.shape != labels.shape:
        raise ValueError(f"predictions {tuple(pred.shape)} and labels {tuple(labels.shape)} differ in shape")
    pairs = zip(pred.long(), labels.long(), strict=True)
    options = {"ignore_index": IGNORE, "validate_args": False}
    return torch.stack([multiclass_confusion_matrix(p.view(-1), y.view(-1), classes, **options) for p, y in pairs])


def confusion_scores(matrix: Tensor) -> dict:
    """Scores of a whole set from its summed confusion matrix.

    Args:
        matrix: (classes, classes) counts, or (N, classes, classes), which are summed first.

    Returns:
        ``"accuracy"`` (share of samples or pixels that are right), ``"class_accuracy"`` (mean recall of the classes
        that occur), ``"miou"`` and ``"f1_macro"`` (mean over the classes that occur or are predicted), and a list over
        classes for ``"iou"``, ``"f1"`` and ``"recall"``, NaN for a class that does not take part.
    """
    matrix = matrix.double().reshape(-1, *matrix.shape[-2:]).sum(0)
    hit, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    recall, iou, f1 = hit / true, hit / (true + predicted - hit), 2 * hit / (true + predicted)  # 0 / 0 is NaN
    means = {"class_accuracy": recall, "miou": iou, "f1_macro": f1}
    lists = {"iou": iou, "f1": f1, "recall": recall}
    scores = {"accuracy": float(hit.sum() / matrix.sum())} | {key: float(x.nanmean()) for key, x in means.items()}
    return scores | {key: x.tolist() for key, x in lists.items()}


def mean_ious(matrix: np.ndarray) -> np.ndarray:
    """Mean intersection over union of each matrix, over the classes that occur or are predicted: (…, C, C) → (…)."""
    hit = np.einsum("...cc->...c", matrix)
    union = matrix.sum(-1) + matrix.sum(-2) - hit
    iou = np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)
    return np.nanmean(iou, -1)


def accuracies(matrix: np.ndarray) -> np.ndarray:
    """Share of samples or pixels that are right in each matrix: (…, C, C) → (…)."""
    return np.einsum("...cc->...", matrix) / matrix.sum((-2, -1))


def single_label_scores(logits: Tensor, labels: Tensor) -> dict:
    """Top-1 accuracy, over all samples and averaged over classes, and F1; arguments (N, classes) and (N,)."""
    return confusion_scores(confusion(logits.argmax(1), labels, logits.shape[1]))


def multi_label_scores(scores: Tensor, labels: Tensor, threshold: float = 0.5) -> dict:
    """Average precision and F1 of several labels a sample.

    Args:
        scores: (N, classes) probabilities. labels: (N, classes) 0 or 1.
        threshold: probability from which a label counts as given (F1 only).

    Returns:
        ``"ap_macro"``, ``"ap_micro"``, ``"f1_macro"``, ``"f1_micro"``; macro means run over classes with positives.
    """
    from torchmetrics.functional.classification import multilabel_f1_score

    options = {"num_labels": labels.shape[1], "threshold": threshold}
    micro = multilabel_f1_score(scores.double(), labels.long(), average="micro", **options)
    each = multilabel_f1_score(scores.double(), labels.long(), average="none", **options)
    macro = each[labels.bool().any(0)].mean()
    found = average_precision(scores, labels)
    return {"ap_macro": found["macro"], "ap_micro": found["micro"], "f1_macro": float(macro), "f1_micro": float(micro)}


def average_precision(scores: Tensor, labels: Tensor) -> dict:
    """Average precision over the whole set, equal scores counted together.

    A class without positives has no average precision: it is NaN in the list and left out of the macro mean.

    Args:
        scores: (N, classes), any real numbers; only their order counts. labels: (N, classes) 0 or 1.

    Returns:
        ``"macro"`` (mean over classes), ``"micro"`` (all decisions as one class), ``"classes"`` (list).
    """
    from torchmetrics.functional.classification import binary_average_precision

    # ranks, because torchmetrics squashes scores outside 0 … 1, which makes large ones equal
    ranks = torch.unique(scores, return_inverse=True)[1].double() / max(scores.numel(), 1)
    labels, there = labels.long(), labels.bool().any(0)
    each = torch.full((labels.shape[1],), torch.nan, dtype=torch.float64)
    for number in there.nonzero().flatten().tolist():
        each[number] = binary_average_precision(ranks[:, number], labels[:, number])
    micro = binary_average_precision(ranks.flatten(), labels.flatten()) if there.any() else torch.nan
    return {"macro": float(each.nanmean()), "micro": float(micro), "classes": each.tolist()}


def batch_averaged_micro_ap(scores: Tensor, labels: Tensor, batch_size: int = 256) -> float:
    """Micro average precision of each batch, averaged over batches: how DINO-MM reports it.

    It depends on the order of the samples and on the batch size, so it serves comparison with such numbers alone.
    Batches without positives are left out.
    """
    parts = zip(scores.split(batch_size), labels.split(batch_size), strict=True)
    found = [average_precision(x, y)["micro"] for x, y in parts if y.any()]
    return statistics.fmean(found) if found else float("nan")


def bootstrap(
    score: Callable[[np.ndarray], float],
    places: Sequence[str],
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Interval of a score by drawing places anew: samples of one place resemble each other and move together.

    Args:
        score: takes sample numbers (M,), in which a sample may occur several times, and returns a number.
        places: where each of the N samples was taken.
        n: draws. level: share of the draws inside the interval.

    Returns:
        ``"score"`` of the set itself, and the percentiles ``"low"`` and ``"high"`` of the draws; draws whose score is
        NaN (no positives among them, say) are left out.

    Example:
        >>> bootstrap(lambda rows: average_precision(scores[rows], labels[rows])["macro"], features.places)
    """
    place, drawn = _draw_places(places, n, seed)
    members = [np.flatnonzero(place == number) for number in range(drawn.shape[1])]
    draws = [score(np.concatenate([members[number] for number in row])) for row in drawn]
    return {"score": float(score(np.arange(len(place))))} | _interval(draws, level)


def bootstrap_matrices(
    score: Callable[[np.ndarray], np.ndarray],
    matrices: Tensor,
    places: Sequence[str],
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """`bootstrap` of a score of the samples' summed confusion matrices: the same draws, all at once.

    Args:
        score: takes matrices (…, C, C) and returns numbers (…), e.g. `mean_ious`.
        matrices: (N, C, C), one a sample. places, n, level, seed: as for `bootstrap`.

    Returns:
        As `bootstrap`.
    """
    place, drawn = _draw_places(places, n, seed)
    sums = np.zeros((drawn.shape[1], *matrices.shape[1:]))
    np.add.at(sums, place, matrices.cpu().numpy())
    times = np.stack([np.bincount(row, minlength=len(sums)) for row in drawn])  # (n, places)
    return {"score": float(score(sums.sum(0)))} | _interval(score(np.tensordot(times, sums, 1)), level)


def _draw_places(places: Sequence[str], n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The number of each sample's place (N,), and n draws of as many places as there are (n, P)."""
    _, place = np.unique(np.asarray(places), return_inverse=True)
    count = place.max() + 1
    return place, np.random.default_rng(seed).integers(count, size=(n, count))


def _interval(draws: Sequence[float], level: float) -> dict[str, float]:
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return {"low": float(low), "high": float(high)}


def summarise(rows: Sequence[dict], by: Sequence[str], value: str = "error") -> list[dict]:
    """Mean and spread of a value over all rows that agree in `by`, in the order of their first appearance.

    Returns:
        One row a group: the keys of `by`, `value` (mean), ``"std"`` (sample standard deviation, 0 for one row),
        ``"low"`` and ``"high"`` (mean ∓ std) and ``"runs"`` (number of rows).
    """
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in by), []).append(row[value])
    out = []
    for key, values in groups.items():
        mean, std = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
        spread = {value: mean, "std": std, "low": mean - std, "high": mean + std, "runs": len(values)}
        out.append(dict(zip(by, key, strict=True)) | spread)
    return out
