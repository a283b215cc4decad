"""Judging frozen features: nearest neighbours, and a linear layer whose settings are chosen on the validation part.

The test part is scored once, with the settings that did best on the validation part; the record of the sweep is
returned with the scores. Everything random follows from the seed.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmlib.data.batches import batch_indices
from fmlib.evaluate.features import standardise
from fmlib.evaluate.metrics import IGNORE, multi_label_scores, single_label_scores

OPTIMIZERS = ("lbfgs", "adamw", "sgd")
CHOSEN_BY = {"single": "accuracy", "multi": "ap_micro", "segmentation": "miou"}
Part = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ProbeParams:
    """How a head is fitted on frozen features, and which settings are tried."""

    optimizer: str = "lbfgs"  # lbfgs: full batch to convergence, linear heads only; or adamw, sgd (momentum 0.9)
    lrs: tuple[float, ...] = (1e-3, 1e-2)  # learning rates tried; lbfgs takes none
    weight_decays: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # tried; for lbfgs the penalty on weights² / 2
    epochs: int = 50  # at most so many iterations with lbfgs
    batch_size: int = 256  # not for lbfgs
    standardise: bool = True  # features by the training part's mean and deviation
    balance: bool = False  # weigh each class by the inverse of its share in the training part (single label, pixels)
    seed: int = 0  # first weights and order of batches

    def __post_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")

    def settings(self) -> list[dict]:
        """The settings to try, in their order."""
        lrs = (1.0,) if self.optimizer == "lbfgs" else self.lrs
        return [{"lr": lr, "weight_decay": decay} for lr, decay in itertools.product(lrs, self.weight_decays)]


class ProbeResult(NamedTuple):
    """What a probe found.

    scores of the test part ({} without one); sweep, a row {"lr", "weight_decay", score…} for each setting, on the
    validation part; chosen, the best of these rows; outputs of the test part, (N, classes) logits, or confusion
    matrices (N, classes, classes) of maps, for intervals; head, which takes standardised features; class_shares of the
    training part.
    """

    scores: dict
    sweep: list[dict]
    chosen: dict
    outputs: Tensor | None
    head: nn.Module
    class_shares: list[float]


def knn(
    train: Tensor, labels: Tensor, test: Tensor, k: int = 20, temperature: float = 0.07, classes: int | None = None
) -> Tensor:
    """Votes of the nearest neighbours, weighted by exp(cosine / temperature) (Wu et al., arXiv 1805.01978).

    Args:
        train: (N, F). labels: (N,) class numbers, or (N, classes) 0 or 1. test: (M, F).
        k: neighbours that vote, at most N. classes: number of classes; default: the highest label and one.

    Returns:
        (M, classes) shares of the votes, 0 to 1; argmax for one label, scores of average precision for several.
    """
    votes = labels.float() if labels.ndim == 2 else F.one_hot(labels.long(), classes or -1).float()
    train, k = F.normalize(train, dim=-1), min(k, len(train))
    found = []
    for part in F.normalize(test, dim=-1).split(1024):
        cosine, index = (part @ train.T).topk(k)
        found.append(((cosine / temperature).softmax(1)[..., None] * votes[index]).sum(1))
    return torch.cat(found)


def linear_probe(
    train: Part,
    validation: Part,
    test: Part | None = None,
    params: ProbeParams | None = None,
    classes: int | None = None,
) -> ProbeResult:
    """A linear layer on frozen features.

    Labels (N,) are class numbers (cross-entropy; 255 does not count), labels (N, classes) are 0 or 1 (binary
    cross-entropy, the mean over classes). Rows may as well be patches of dense features, see `patch_rows`: classes are
    then as unequal as on the ground, `class_shares` says how unequal, and `balance` evens them out in the loss.

    Args:
        train, validation, test: (features (N, F), labels).
        params: default: `ProbeParams()`.
        classes: number of classes of single labels; default: the highest label anywhere and one.
    """
    params, parts = params or ProbeParams(), [_labelled(part) for part in (train, validation, test) if part]
    task = "multi" if parts[0][1].ndim == 2 else "single"
    labels = [y for _, y in parts]
    classes = labels[0].shape[1] if task == "multi" else classes or max(int(y[y != IGNORE].max()) for y in labels) + 1
    shares = class_shares(parts[0][1], classes)

    def score(head: nn.Module, x: Tensor, y: Tensor) -> tuple[dict, Tensor]:
        logits = torch.cat([head(some) for some in x.split(8192)])
        return (single_label_scores(logits, y) if task == "single" else multi_label_scores(logits.sigmoid(), y)), logits

    def head() -> nn.Module:
        linear = nn.Linear(train[0].shape[-1], classes)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        return linear

    loss = loss_of(task, shares if params.balance else None)
    return sweep(head, parts, loss, score, CHOSEN_BY[task], shares, params)


def patch_rows(x: Tensor, maps: Tensor) -> Part:
    """Dense features as rows of patches, each with the class of most of its labelled pixels.

    Args:
        x: (N, rows, cols, F). maps: (N, H, W) class numbers, 255: none.

    Returns:
        Features (P, F) and labels (P,) of the patches that have a labelled pixel.
    """
    counts = patch_counts(maps, x.shape[1:3], int(maps[maps != IGNORE].max()) + 1)
    use = counts.any(-1)
    return x[use], counts.argmax(-1)[use]


def patch_counts(maps: Tensor, grid: Sequence[int], classes: int) -> Tensor:
    """Pixels of each class in each patch: maps (N, H, W) → (N, rows, cols, classes); pixels of 255 do not count."""
    pixels = maps.unflatten(1, (grid[0], -1)).unflatten(3, (grid[1], -1))  # (N, rows, p, cols, q)
    return torch.stack([(pixels == number).sum((2, 4)) for number in range(classes)], -1)


# -- shared with segmentation and fine-tuning -------------------------------------------------------------------------


def class_shares(labels: Tensor, classes: int) -> list[float]:
    """Share of the labelled samples or pixels that each class has; of several labels, how often each is given."""
    if labels.ndim == 2 and labels.is_floating_point():
        return labels.mean(0).tolist()
    counts = torch.bincount(labels[labels != IGNORE].long(), minlength=classes)
    return (counts / counts.sum()).tolist()


def loss_of(task: str, shares: list[float] | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a task; with class shares each class weighs the inverse of its share, classes that lack weigh 0."""
    if task == "multi":
        return lambda logits, labels: F.binary_cross_entropy_with_logits(logits, labels.float())
    weight = None if shares is None else torch.tensor([1 / (share * len(shares)) if share else 0.0 for share in shares])

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        weights = weight if weight is None else weight.to(logits)
        total = F.cross_entropy(logits, labels.long(), weights, ignore_index=IGNORE, reduction="sum")
        known = labels[labels != IGNORE].long()
        count = len(known) if weights is None else weights[known].sum()
        return total / max(count, 1e-12)  # 0 where nothing is labelled, not NaN

    return cross_entropy


def sweep(
    make_head, parts: list[Part], loss, score, by: str, shares: list[float], params: ProbeParams, fit_head=None
) -> ProbeResult:
    """Fit a head with each setting, choose on the validation part, score the test part once.

    Args:
        make_head: makes a head, which goes to where the features are. parts: training, validation, perhaps test part.
        score: (head, x, y) → (scores, outputs). by: the score to choose by, higher is better.
        fit_head: default: `fit_lbfgs` or `fit`, by the optimizer.
    """
    fit_head = fit_head or (fit_lbfgs if params.optimizer == "lbfgs" else fit)
    if params.standardise:
        features = standardise(*(x for x, _ in parts))
        parts = [(x, y) for x, (_, y) in zip(features, parts, strict=True)]
    rows, heads = [], []
    for setting in params.settings():
        head = seeded(make_head, params.seed).to(parts[0][0].device)
        fit_head(head, *parts[0], loss, params, **setting)
        with torch.no_grad():
            rows.append(setting | score(head.eval(), *parts[1])[0])
        heads.append(head)
    chosen = max(range(len(rows)), key=lambda number: or_lowest(rows[number][by]))
    with torch.no_grad():
        scores, outputs = score(heads[chosen], *parts[2]) if len(parts) > 2 else ({}, None)
    return ProbeResult(scores, rows, rows[chosen], outputs, heads[chosen], shares)


def or_lowest(score: float) -> float:
    """A score to choose by; one that is NaN (no positives, say) comes last."""
    return -math.inf if math.isnan(score) else score


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A module whose first weights follow from the seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def fit_lbfgs(head: nn.Module, x: Tensor, y: Tensor, loss, params: ProbeParams, lr: float, weight_decay: float) -> None:
    """Minimise the mean loss + weight_decay · ‖weights‖² / 2 over all samples at once: convex for one layer."""
    optimizer = torch.optim.LBFGS(head.parameters(), lr, max_iter=params.epochs, line_search_fn="strong_wolfe")
    weights = [p for p in head.parameters() if p.ndim > 1]

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(head(x), y) + weight_decay / 2 * sum(p.square().sum() for p in weights)
        value.backward()
        return value

    optimizer.step(closure)


def fit(head: nn.Module, x: Tensor, y: Tensor, loss, params: ProbeParams, lr: float, weight_decay: float) -> None:
    """Minimise the loss by batches, the learning rate falling to 0 by a cosine."""
    if params.optimizer == "sgd":
        optimizer = torch.optim.SGD(head.parameters(), lr, momentum=0.9, weight_decay=weight_decay)
    else:
        optimizer = torch.optim.AdamW(head.parameters(), lr, weight_decay=weight_decay)
    steps = params.epochs * len(batch_indices(len(x), params.batch_size, 0, params.seed))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(params.epochs):
        for rows in batch_indices(len(x), params.batch_size, epoch, params.seed):
            optimizer.zero_grad()
            loss(head(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()


def _labelled(part: Part) -> Part:
    x, y = part
    if y is None or len(x) != len(y):
        raise ValueError(f"{len(x)} features, but {'no' if y is None else len(y)} labels; every sample needs one")
    if not (y != IGNORE).any():
        raise ValueError(f"none of {len(y)} samples has a label other than {IGNORE}")
    return x, y.float() if y.ndim == 2 else y.long()
