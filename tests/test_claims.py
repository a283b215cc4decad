"""Claims: confirmed where one model is better everywhere, refuted the other way round, undecided where it is chance."""

import numpy as np
import pytest

from fmlib.evaluate import at_places, judge_claim, select, worst_places

PLACES = [str(number) for number in range(30)]


def row(name: str, seed: int, hits: np.ndarray) -> dict:
    """A row whose test samples have so many of 100 pixels right, half of each class."""
    wrong = 100 - hits
    matrix = np.stack([hits / 2, wrong / 2, wrong / 2, hits / 2], -1).reshape(-1, 2, 2)
    return {"name": name, "seed": seed, "confusion": matrix.tolist(), "miou": 0.0}


@pytest.fixture
def rows():
    rng, found = np.random.default_rng(0), []
    for seed in range(3):
        base = rng.integers(40, 80, 30)  # places differ much more than models
        found += [
            row("low", seed, base),
            row("high", seed, base + 5),
            row("same", seed, base + rng.integers(-8, 9, 30)),
        ]
    return found


def test_a_small_difference_that_is_everywhere_is_confirmed(rows):
    found = judge_claim(rows, {"name": "high"}, {"name": "low"}, PLACES)
    assert found["verdict"] == "confirmed"
    assert found["difference"] == pytest.approx(found["better"] - found["worse"])
    assert 0 < found["low"] <= found["difference"] <= found["high"] < 0.1
    back = judge_claim(rows, {"name": "low"}, {"name": "high"}, PLACES)
    assert back["verdict"] == "refuted"
    assert back["low"] == pytest.approx(-found["high"])
    assert judge_claim(rows, {"name": "low"}, {"name": "low"}, PLACES)["difference"] == 0


def test_chance_is_undecided(rows):
    found = judge_claim(rows, {"name": "same"}, {"name": "low"}, PLACES)
    assert found["verdict"] == "undecided"
    assert found["low"] < 0 < found["high"]


def test_samples_of_one_place_move_together():
    """Thirty samples of ten places, alike within a place, tell less than thirty places would."""
    base, change = np.full(30, 60), np.repeat(np.random.default_rng(0).integers(-9, 10, 10), 3)
    rows = [row("a", 0, base + change), row("b", 0, base)]
    by_place, alone = (
        judge_claim(rows, {"name": "a"}, {"name": "b"}, places)
        for places in ([str(number // 3) for number in range(30)], PLACES)
    )
    width = {name: found["high"] - found["low"] for name, found in (("place", by_place), ("alone", alone))}
    assert width["place"] > 1.3 * width["alone"]


def test_scores_are_the_iou_of_summed_counts():
    one = row("a", 0, np.array([50, 100]))
    [found] = at_places([one], ["x", "y"], {"x alone": {"x"}, "nowhere": {"z"}})
    assert found["where"] == "x alone"
    assert found["miou"] == pytest.approx(25 / 75)
    assert at_places([one], ["x", "y"], {"both": {"x", "y"}})[0]["miou"] == pytest.approx(75 / 125)
    assert worst_places(one, 1) == [0]


def test_what_cannot_be_compared_is_refused(rows):
    with pytest.raises(ValueError, match=r"no row with maps has \{'name': 'none'\}"):
        judge_claim(rows, {"name": "none"}, {"name": "low"}, PLACES)
    with pytest.raises(ValueError, match="has seeds"):
        judge_claim(rows[1:], {"name": "high"}, {"name": "low"}, PLACES)
    assert len(select(rows, name="low", seed=1)) == 1
