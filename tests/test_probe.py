"""Neighbours and linear probes on features whose answer is known."""

import dataclasses

import pytest
import torch
from held import hold, make_samples, weights
from sensors import generator, two_sensors
from sklearn.linear_model import LogisticRegression

from fmlib.evaluate import ProbeParams, extract, knn, linear_probe, patch_rows
from fmlib.evaluate.probe import loss_of
from fmlib.models.fusmae import fusmae

ADAMW = ProbeParams("adamw", lrs=(5e-2,), weight_decays=(1e-3,), epochs=20, batch_size=32)
SGD = ProbeParams("sgd", lrs=(0.1,), weight_decays=(0.0,), epochs=20, batch_size=32)
SCALES = 10.0 ** torch.arange(-3, 5)


def separable(count=120, classes=3, seed=0):
    """Features of classes far apart, whose scales differ by orders of magnitude, and class numbers."""
    labels = torch.arange(count) % classes
    x = torch.randn(count, 8, generator=generator(seed)) * 0.1
    x[:, :classes] += torch.nn.functional.one_hot(labels, classes)
    return x * SCALES, labels


def noise(count=300, classes=3, seed=0):
    g = generator(seed)
    return torch.randn(count, 8, generator=g), torch.randint(classes, (count,), generator=g)


@pytest.mark.parametrize("params", [ProbeParams(), ADAMW, SGD], ids=lambda p: p.optimizer)
def test_what_can_be_separated_is(params):
    result = linear_probe(separable(), separable(seed=1), separable(seed=2), params)
    assert result.scores["accuracy"] == result.scores["class_accuracy"] == 1.0
    assert result.outputs.shape == (120, 3)
    assert result.class_shares == pytest.approx([1 / 3] * 3)
    several = [(x, torch.nn.functional.one_hot(y, 3)) for x, y in (separable(seed=s) for s in range(3))]
    scores = linear_probe(*several, params).scores
    assert scores["ap_macro"] == pytest.approx(1)
    assert scores["f1_micro"] > 0.9


@pytest.mark.parametrize("params", [ProbeParams(), ADAMW], ids=lambda p: p.optimizer)
def test_random_labels_give_chance(params):
    parts = [noise(900, seed=s) for s in range(3)]
    assert linear_probe(*parts, params).scores["accuracy"] == pytest.approx(1 / 3, abs=0.06)
    several = [(x, (torch.rand(900, 4, generator=generator(9 + s)) < 0.3).float()) for s, (x, _) in enumerate(parts)]
    assert linear_probe(*several, params).scores["ap_macro"] == pytest.approx(0.3, abs=0.05)


def test_lbfgs_finds_the_minimum_scikit_learn_finds():
    x, y = noise()
    x = x + torch.nn.functional.one_hot(y, 8)
    params = ProbeParams(weight_decays=(0.01,), epochs=200, standardise=False)
    head = linear_probe((x, y), (x, y), params=params).head
    theirs = LogisticRegression(C=1 / (0.01 * len(x)), max_iter=1000).fit(x.numpy(), y.numpy())
    torch.testing.assert_close(
        head.weight.detach().double(), torch.from_numpy(theirs.coef_).double(), atol=2e-3, rtol=0
    )


def test_settings_are_chosen_on_the_validation_part_alone():
    """Test labels turned round leave the choice, the sweep and the head as they were."""
    train, validation = noise(60), noise(60, seed=1)
    validation = (validation[0], validation[0].argmax(1) % 3)
    params = ProbeParams("adamw", lrs=(1e-4, 1e-2, 1.0), weight_decays=(0.0, 0.1), epochs=5, batch_size=20)
    first = linear_probe(train, validation, noise(60, seed=2), params)
    second = linear_probe(train, validation, (noise(60, seed=2)[0], 2 - noise(60, seed=2)[1]), params)
    assert len(first.sweep) == 6
    assert {(row["lr"], row["weight_decay"]) for row in first.sweep} == {
        (lr, d) for lr in params.lrs for d in params.weight_decays
    }
    assert first.chosen == max(first.sweep, key=lambda row: row["accuracy"])
    assert (first.sweep, first.chosen) == (second.sweep, second.chosen)
    assert torch.equal(first.head.weight, second.head.weight)
    assert first.scores != second.scores
    assert linear_probe(train, validation, params=params).scores == {}


def test_a_probe_follows_from_its_seed():
    parts = [noise(seed=s) for s in range(3)]
    before = torch.get_rng_state()
    first, again = (linear_probe(*parts, ADAMW) for _ in range(2))
    assert torch.equal(first.outputs, again.outputs)
    other = linear_probe(*parts, dataclasses.replace(ADAMW, seed=1))
    assert not torch.equal(first.outputs, other.outputs)
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_without_a_class_do_not_count():
    """Neither in the fit, nor in the scores; outputs keep their place, for intervals by place."""
    x, y = separable()
    x, spoilt = x / SCALES, y.clone()
    spoilt[::2] = 255
    other = torch.where((spoilt == 255)[:, None], x.flip(0), x)  # nonsense where nothing is known
    params = ProbeParams(standardise=False)
    one = linear_probe((x, spoilt), (x, spoilt), (x, spoilt), params)
    two = linear_probe((other, spoilt), (x, spoilt), (x, spoilt), params)
    assert torch.allclose(one.head.weight, two.head.weight, atol=1e-6)
    assert len(one.outputs) == 120
    assert one.scores["accuracy"] == 1
    with pytest.raises(ValueError, match="none of 120 samples has a label other than 255"):
        linear_probe((x, y * 0 + 255), (x, y))
    with pytest.raises(ValueError, match="120 features, but 60 labels"):
        linear_probe((x, y[:60]), (x, y))


def test_balance_lifts_a_rare_class():
    """One class in twenty, overlapping: unweighted it is hardly ever said, weighted its recall is near the other's."""
    g = generator()
    parts = []
    for _ in range(3):
        y = (torch.arange(1000) % 20 == 0).long()
        parts.append((torch.randn(1000, 1, generator=g) + y[:, None] * 1.5, y))
    plain, even = (linear_probe(*parts, ProbeParams(weight_decays=(1e-4,), balance=b)) for b in (False, True))
    assert plain.class_shares == pytest.approx([0.95, 0.05])
    assert plain.scores["recall"][1] < 0.35
    assert abs(even.scores["recall"][1] - even.scores["recall"][0]) < 0.25
    assert even.scores["class_accuracy"] > plain.scores["class_accuracy"] + 0.1
    assert plain.scores["accuracy"] > even.scores["accuracy"]


def test_neighbours_vote():
    (x, y), (z, w) = separable(), separable(seed=1)
    votes = knn(x / SCALES, y, z / SCALES)
    assert (votes.argmax(1) == w).all()
    torch.testing.assert_close(votes.sum(1), torch.ones(120))
    several = knn(x / SCALES, torch.nn.functional.one_hot(y, 3), z / SCALES)
    torch.testing.assert_close(several, votes)
    a, b = noise(900), noise(900, seed=1)
    assert (knn(*a, b[0]).argmax(1) == b[1]).float().mean().item() == pytest.approx(1 / 3, abs=0.06)


def test_votes_are_weighted_by_cosine():
    """By hand: neighbours at cosine 1 and 0.6; the third is beyond k. The length of a feature does not matter."""
    train = torch.tensor([[2.0, 0], [0.6, 0.8], [-1, 0]])
    votes = knn(train, torch.tensor([0, 1, 2]), torch.tensor([[5.0, 0]]), k=2, temperature=0.2)
    near, far = torch.tensor(1 / 0.2).exp(), torch.tensor(0.6 / 0.2).exp()
    torch.testing.assert_close(votes[0], torch.stack([near, far, torch.zeros(())]) / (near + far))
    assert knn(train, torch.tensor([0, 1, 1]), train, k=99, classes=5).shape == (3, 5)


def test_patches_take_the_class_of_most_of_their_pixels():
    maps = torch.zeros(1, 4, 6, dtype=torch.uint8)
    maps[0, :2, :2] = torch.tensor([[1, 1], [255, 0]])
    maps[0, :2, 2:4] = 255
    maps[0, 2:, 4:] = 2
    x = torch.arange(6.0).view(1, 2, 3, 1)
    rows, labels = patch_rows(x, maps)
    assert rows.flatten().tolist() == [0, 2, 3, 4, 5]  # the second has no labelled pixel
    assert labels.tolist() == [1, 0, 0, 0, 2]


def test_the_loss_ignores_255_in_value_and_gradient():
    logits = torch.randn(2, 3, 4, 4, generator=generator(), requires_grad=True)
    labels = torch.randint(3, (2, 4, 4), generator=generator())
    labels[0] = 255
    value = loss_of("segmentation")(logits, labels)
    torch.testing.assert_close(value, torch.nn.functional.cross_entropy(logits[1:], labels[1:]))
    value.backward()
    assert (logits.grad[0] == 0).all()
    assert (logits.grad[1] != 0).all()
    assert loss_of("segmentation")(logits, labels * 0 + 255) == 0  # not NaN
    shares = [0.5, 0.25, 0.25]
    weighted = loss_of("single", shares)(logits[1:], labels[1:])
    torch.testing.assert_close(
        weighted, torch.nn.functional.cross_entropy(logits[1:], labels[1:], torch.tensor([2.0, 4, 4]))
    )


def test_a_probe_leaves_the_backbone_as_it_was():
    model = fusmae("nano", two_sensors(), img_size=32).eval()
    before = weights(model)
    parts = [extract(model, hold(make_samples(16, seed=s))) for s in range(2)]
    result = linear_probe(*[(f.x, f.labels) for f in parts])
    assert result.chosen["accuracy"] == 1.0  # brightness is easily seen
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_unknown_optimizers_are_refused():
    with pytest.raises(ValueError, match="optimizer is 'adam'; choose one of lbfgs, adamw, sgd"):
        ProbeParams("adam")
