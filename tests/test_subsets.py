from itertools import pairwise

import numpy as np
import pytest

from fmlib.data.subsets import label_fraction


@pytest.fixture(scope="module")
def hot():
    """20,000 samples of 8 classes that overlap; the rarest has about 100 positives."""
    rng = np.random.default_rng(0)
    return rng.random((20_000, 8)) < np.array([0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.005])


@pytest.mark.parametrize("seed", [0, 1])
def test_smaller_shares_lie_inside_larger_ones(hot, seed):
    subsets = [label_fraction(hot, share, seed) for share in (0.01, 0.1, 0.5, 1)]
    assert [len(subset) for subset in subsets] == [200, 2000, 10_000, 20_000]
    for small, large in pairwise(subsets):
        assert set(small.tolist()) < set(large.tolist())
    assert subsets[-1].tolist() == list(range(20_000))


def test_every_class_keeps_its_proportion_better_than_by_chance(hot):
    shares = hot.mean(0)
    drawn = np.array([hot[label_fraction(hot, 0.01, seed)].mean(0) for seed in range(20)])
    chance = np.array([hot[np.random.default_rng(seed).permutation(20_000)[:200]].mean(0) for seed in range(20)])
    assert abs(drawn - shares).mean() < 0.8 * abs(chance - shares).mean()
    rare = (drawn[:, -1] * 200).round()  # about one positive of the rarest class in each
    assert rare.min() >= 0
    assert rare.max() <= 3
    np.testing.assert_allclose(hot[label_fraction(hot, 0.1)].mean(0), shares, atol=0.012)


def test_single_labels_are_drawn_to_within_one():
    labels = np.repeat(np.arange(4), (1000, 500, 100, 10))
    picked = labels[label_fraction(labels, 0.1, seed=3)]
    assert len(picked) == 161
    np.testing.assert_allclose(np.bincount(picked), (100, 50, 10, 1), atol=1)


def test_without_labels_the_order_alone_decides():
    first, again, other = (label_fraction(100, 0.2, seed) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()
    assert len(set(first.tolist())) == 20


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
def test_a_share_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match="above 0 up to 1"):
        label_fraction(10, fraction)


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(ValueError, match="no labels"):
        label_fraction(0, 0.5)
