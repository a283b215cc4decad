"""Scores against scikit-learn's, and intervals on data whose truth is known."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn

from fmlib.evaluate import (
    accuracies,
    average_precision,
    batch_averaged_micro_ap,
    bootstrap,
    bootstrap_matrices,
    confusion,
    confusion_scores,
    mean_ious,
    multi_label_scores,
    single_label_scores,
    summarise,
)


def random_labels(count=200, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, classes)) < np.linspace(0.05, 0.6, classes)).astype(np.int64)
    return torch.from_numpy(rng.normal(size=(count, classes)) + labels), torch.from_numpy(labels)


@pytest.mark.parametrize("digits", [6, 1, 0])  # 1 and 0: many ties
def test_average_precision_is_scikit_learns(digits):
    scores, labels = random_labels()
    scores = scores.round(decimals=digits)
    found = average_precision(scores, labels)
    truth = {k: sklearn.average_precision_score(labels, scores, average=k) for k in ("macro", "micro")}
    assert found["macro"] == pytest.approx(truth["macro"], abs=1e-6)
    assert found["micro"] == pytest.approx(truth["micro"], abs=1e-6)
    each = sklearn.average_precision_score(labels, scores, average=None)
    assert found["classes"] == pytest.approx(each.tolist(), abs=1e-6)


def test_only_the_order_of_scores_counts():
    """Large logits, which a sigmoid in single precision would make equal, keep their order."""
    scores, labels = random_labels()
    scores = scores.float()
    found = average_precision(scores, labels)
    assert average_precision(scores * 10 + 100, labels) == found
    assert average_precision(scores * 1e-4, labels) == found


def test_a_class_without_positives_is_left_out_of_the_mean():
    scores, labels = random_labels()
    labels[:, 2] = 0
    found = average_precision(scores, labels)
    assert np.isnan(found["classes"][2])
    others = [0, 1, 3, 4]
    each = sklearn.average_precision_score(labels[:, others], scores[:, others], average=None)
    assert found["macro"] == pytest.approx(each.mean(), abs=1e-6)
    assert found["micro"] == pytest.approx(sklearn.average_precision_score(labels, scores, average="micro"), abs=1e-6)
    assert np.isnan(average_precision(scores, labels * 0)["micro"])


def test_several_labels_a_sample():
    scores, labels = random_labels()
    found = multi_label_scores(scores.sigmoid(), labels)
    hard = (scores.sigmoid() >= 0.5).long()
    for kind in ("micro", "macro"):
        assert found[f"f1_{kind}"] == pytest.approx(sklearn.f1_score(labels, hard, average=kind), abs=1e-6)
    assert found["ap_macro"] == pytest.approx(average_precision(scores, labels)["macro"])


def test_the_batch_average_is_another_number():
    """By hand for two batches; it moves with the order of the samples, the whole set's does not."""
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.6]])
    labels = torch.tensor([[1], [0], [0], [1]])
    assert batch_averaged_micro_ap(scores, labels, 2) == pytest.approx((1 + 1 / 2) / 2)
    assert average_precision(scores, labels)["micro"] == pytest.approx((1 + 2 / 4) / 2)
    order = [0, 3, 1, 2]
    assert batch_averaged_micro_ap(scores[order], labels[order], 2) == pytest.approx(1)  # the second has no positives
    assert average_precision(scores[order], labels[order])["micro"] == pytest.approx(0.75)
    scores, labels = random_labels(count=512)
    whole = average_precision(scores, labels)["micro"]
    assert batch_averaged_micro_ap(scores, labels, 512) == pytest.approx(whole)
    assert batch_averaged_micro_ap(scores, labels, 8) > whole + 0.01  # small batches flatter


def test_confusion_scores_are_scikit_learns_and_ignore_255():
    rng = np.random.default_rng(0)
    labels, pred = (torch.from_numpy(rng.integers(0, 4, (6, 20, 30))) for _ in range(2))
    pred = torch.where(torch.rand(pred.shape, generator=torch.Generator().manual_seed(0)) < 0.5, labels, pred)
    labels[:, :5] = 255
    matrix = confusion(pred.byte(), labels.byte(), 4)
    assert matrix.shape == (6, 4, 4)
    known = (labels != 255).flatten()
    true, guess = labels.flatten()[known], pred.flatten()[known]
    assert (matrix.sum(0).numpy() == sklearn.confusion_matrix(true, guess)).all()
    found = confusion_scores(matrix)
    assert found["iou"] == pytest.approx(sklearn.jaccard_score(true, guess, average=None).tolist())
    assert found["miou"] == pytest.approx(sklearn.jaccard_score(true, guess, average="macro"))
    assert found["miou"] == mean_ious(matrix.sum(0).numpy())
    assert found["f1_macro"] == pytest.approx(sklearn.f1_score(true, guess, average="macro"))
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(true, guess))
    assert found["class_accuracy"] == pytest.approx(sklearn.balanced_accuracy_score(true, guess))
    other = torch.where(labels == 255, 3 - pred, pred)  # whatever is said where nothing is known
    assert torch.equal(confusion(other, labels, 4), matrix)
    with pytest.raises(ValueError, match="differ in shape"):
        confusion(pred[:, :2], labels, 4)


def test_mean_iou_is_over_the_set_not_the_images():
    """An image that is nearly all dry counts by its pixels, not as one image in two."""
    labels = torch.tensor([[0] * 9 + [1], [1] * 10])
    pred = torch.tensor([[0] * 10, [1] * 10])
    matrix = confusion(pred, labels, 2)
    assert mean_ious(matrix.sum(0).numpy()) == pytest.approx((9 / 10 + 10 / 11) / 2)
    assert mean_ious(matrix.sum(0).numpy()) != pytest.approx(mean_ious(matrix.numpy()).mean())
    assert confusion_scores(matrix[1])["miou"] == 1  # a class that neither occurs nor is predicted does not count
    assert np.isnan(confusion_scores(matrix[1])["iou"][0])


def test_one_label_a_sample():
    logits = torch.tensor([[2.0, 1, 0], [0, 2, 1], [2, 0, 1], [0, 1, 2]])
    found = single_label_scores(logits, torch.tensor([0, 1, 1, 255]))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["class_accuracy"] == pytest.approx((1 + 1 / 2) / 2)


def simulate(rng, places=20, each=5, spread=1.0):
    """Scores of samples whose place matters: places differ by `spread`, samples within one by as much; true mean 0."""
    of_place = rng.normal(0, spread, places).repeat(each)
    return of_place + rng.normal(0, spread, places * each), np.arange(places).repeat(each).astype(str)


def test_intervals_cover_the_truth_at_their_level():
    """Drawn by place an interval holds the truth nearly as often as it says; drawn by sample much less often."""
    rng, hits = np.random.default_rng(0), {"place": 0, "sample": 0}
    runs = 150
    for run in range(runs):
        values, places = simulate(rng)
        for how, groups in (("place", places), ("sample", np.arange(len(values)).astype(str))):
            found = bootstrap(lambda rows, v=values: v[rows].mean(), groups, n=100, level=0.9, seed=run)
            assert found["low"] < found["score"] < found["high"]
            hits[how] += found["low"] < 0 < found["high"]
    assert 0.8 <= hits["place"] / runs <= 0.96
    assert hits["sample"] / runs < 0.75


def test_an_interval_follows_from_its_seed_and_moves_whole_places():
    values = np.arange(6.0)
    places = ["a", "a", "b", "b", "c", "c"]
    seen = []
    first = bootstrap(lambda rows: seen.append(rows) or values[rows].mean(), places, n=50)
    assert first == bootstrap(lambda rows: values[rows].mean(), places, n=50)
    assert first["score"] == 2.5
    for rows in seen:
        assert all((rows == 2 * place).sum() == (rows == 2 * place + 1).sum() for place in range(3))


@pytest.mark.parametrize(("score", "name"), [(mean_ious, "miou"), (accuracies, "accuracy")])
def test_all_draws_at_once_give_the_same_interval(score, name):
    matrices = torch.randint(0, 50, (12, 3, 3), generator=torch.Generator().manual_seed(0))
    places = [f"p{number // 2}" for number in range(12)]
    one_by_one = bootstrap(lambda rows: confusion_scores(matrices[rows])[name], places, n=200, seed=3)
    assert bootstrap_matrices(score, matrices, places, n=200, seed=3) == pytest.approx(one_by_one, abs=1e-12)


def test_spread_over_seeds():
    rows = [{"run": "a", "miou": value} for value in (0.5, 0.7)] + [{"run": "b", "miou": 0.4}]
    first, second = summarise(rows, ["run"], "miou")
    assert (first["miou"], first["std"], first["runs"]) == (pytest.approx(0.6), pytest.approx(0.02**0.5), 2)
    assert (second["miou"], second["std"], second["runs"]) == (0.4, 0.0, 1)
