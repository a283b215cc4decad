"""Planted overlaps are found, unrelated images are not."""

import numpy as np
import pytest
from held import Made

from fmlib.data import open_dataset
from fmlib.evaluate import find_leaks, touching_places
from fmlib.evaluate.leaks import SIDES

SIDE = 64
OPPOSITE = {"right": "left", "left": "right", "above": "below", "below": "above"}


def ground(seed, side=SIDE):
    """Rough ground seen by both sensors, (2, ·, ·) and (12, ·, ·); bands differ in level far more than within."""
    rng = np.random.default_rng(seed)
    levels = {"s1": np.array([-12.0, -19.0]), "s2": np.arange(12) * 500.0}
    return {n: (rng.normal(size=(len(v), side, side)) + v[:, None, None]).astype(np.float32) for n, v in levels.items()}


def part(images: list, prefix: str):
    return Made([x | {"id": f"{prefix}{i}", "place": f"{prefix}{i}"} for i, x in enumerate(images)])


def halves(side: str, seed: int = 0):
    """Two images of which the second lies on `side` of the first, one pixel further, seen with a little noise."""
    whole, rng = ground(seed, 2 * SIDE), np.random.default_rng(seed + 1)
    first = {name: x.copy() for name, x in ground(seed + 2).items()}
    second = {name: x.copy() for name, x in ground(seed + 3).items()}
    mine, other = {"right": (-1, 0), "left": (0, -1), "above": (0, -1), "below": (-1, 0)}[side]
    for name, image in whole.items():
        line = image[:, 0, :SIDE]
        noisy = line + rng.normal(0, 0.3, line.shape).astype(np.float32)
        for x, where, values in ((first, mine, line), (second, other, noisy)):
            if side in ("right", "left"):
                x[name][:, :, where] = values
            else:
                x[name][:, where, :] = values
    return first, second


def test_unrelated_images_share_nothing():
    first, second = (part([ground(s) for s in seeds], n) for n, seeds in (("a", range(20)), ("b", range(20, 40))))
    assert find_leaks(first, second) == []


@pytest.mark.parametrize("side", SIDES)
def test_touching_images_are_found_on_every_side_and_in_both_orders(side):
    first, second = halves(side)
    others = [ground(seed) for seed in range(50, 55)]
    [row] = find_leaks(part([*others, first], "a"), part([second], "b"))
    assert (row["kind"], row["side"], row["first"], row["second"]) == ("touching", side, "a5", "b0")
    assert 0.85 < row["correlation"] < 1
    [row] = find_leaks(part([second], "b"), part([first], "a"))
    assert row["side"] == OPPOSITE[side]
    assert touching_places([row]) == {"a0"}


def test_edges_that_only_one_sensor_shares_do_not_touch():
    first, second = halves("right")
    second["s1"] = ground(9)["s1"]
    assert find_leaks(part([first], "a"), part([second], "b")) == []
    [row] = find_leaks(part([first], "a"), part([second], "b"), sensors=["s2"])
    assert row["side"] == "right"
    del second["s1"]  # what is missing does not speak against it
    rows = find_leaks(part([first, first], "a"), part([second, ground(8)], "b"))
    assert [(row["second"], row["side"]) for row in rows] == [("b0", "right")] * 2


def test_copies_are_found_in_each_sensor_but_blank_images_are_none():
    images = [ground(seed) for seed in range(3)]
    blank = {"s1": np.zeros((2, SIDE, SIDE), np.float32)}
    again = {"s1": ground(7)["s1"], "s2": images[1]["s2"].copy()}
    rows = find_leaks(part([*images, blank], "a"), part([again, blank], "b"), threshold=1)
    assert [(r["kind"], r["sensor"], r["first"], r["second"]) for r in rows] == [("copy", "s2", "a1", "b0")]
    again["s2"][0, 0, 0] += 1
    assert find_leaks(part(images, "a"), part([again], "b"), threshold=1) == []


def test_equal_names_are_found():
    first = Made([ground(0) | {"id": "x/1", "place": "site 1"}, ground(1) | {"id": "x/2", "place": "site 2"}])
    second = Made([ground(2) | {"id": "x/1", "place": "site 9"}, ground(3) | {"id": "y/2", "place": "site 2"}])
    rows = find_leaks(first, second)
    assert [(r["kind"], r["first"], r["second"]) for r in rows] == [("id", "x/1", "x/1"), ("place", "x/2", "y/2")]
    assert touching_places(rows) == {"site 2"}


def test_more_than_half_of_ombrias_test_sites_touch_a_training_site(real_data):
    """The published parts, by the images before the flood, which show the ground without it."""
    parts = [open_dataset("ombria", split, real_data, dates=("before",), validation=0) for split in ("train", "test")]
    rows = find_leaks(*parts)
    assert {row["kind"] for row in rows} == {"touching"}
    assert 36 <= len(touching_places(rows)) <= 44
    gaps = [abs(int(row["first_place"]) - int(row["second_place"])) for row in rows]
    assert np.mean(np.array(gaps) <= 20) > 0.95  # neighbours carry neighbouring numbers, which the detector cannot see
