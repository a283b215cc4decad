"""Following: numbers of attention that goes along, stays or looks everywhere; twins that only a look across labels."""

import numpy as np
import pytest
import torch

from fmlib import follow
from fmlib.attention.places import Layer, Part, Seen
from fmlib.follow import Twins, example, follow_rows, following, token_places, twin_parts
from fmlib.misalign import Displacement, displace
from fmlib.recipe_msift import build
from fmlib.shift_study import TWIN_SHIFT, twin_row, twin_runs
from fmlib.train_msift import read_params, train

GRID, SIZE = (6, 8), (24, 32)  # tokens of 4 pixels
OWN = torch.eye(48)[None].expand(2, -1, -1)


def gone(rows: int, cols: int) -> torch.Tensor:
    """Attention (2, 48, 48) of queries that each look at the token so many tokens down and to the right."""
    row, col = torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")
    target = (row + rows).clamp(0, 5) * 8 + (col + cols).clamp(0, 7)
    return torch.eye(48)[target.flatten()][None].expand(2, -1, -1)


@pytest.mark.parametrize("tokens", [(1, 0), (0, -2), (2, 3)])
def test_attention_that_follows(tokens):
    shift = (4.0 * tokens[0], 4.0 * tokens[1])
    found = following(OWN, gone(*tokens), GRID, SIZE, shift)
    assert found["distance"] == found["peak"] == pytest.approx(0, abs=1e-4)
    assert found["followed"] == pytest.approx(1, abs=1e-6)
    assert found["ignores"] == pytest.approx(np.hypot(*shift))
    assert found["queries"] == 2 * (6 - abs(tokens[0])) * (8 - abs(tokens[1]))  # others' counterparts left the image


def test_attention_that_stays_looks_everywhere_or_goes_halfway():
    stays = following(OWN, OWN, GRID, SIZE, (8, 0))
    assert stays["distance"] == stays["peak"] == stays["ignores"] == 8
    assert stays["followed"] == 0
    even = following(OWN, torch.full((2, 48, 48), 1 / 48), GRID, SIZE, (8, 0))
    assert even["distance"] == pytest.approx(even["chance"], abs=1e-4)
    even = following(torch.full((2, 48, 48), 1 / 48), torch.full((2, 48, 48), 1 / 48), GRID, SIZE, (8, 0))
    assert even["followed"] == pytest.approx(0, abs=1e-6)
    half = following(OWN, (OWN + gone(2, 0)) / 2, GRID, SIZE, (8, 0))
    assert (half["distance"], half["followed"]) == pytest.approx((4, 0.5))


def test_chance_is_the_distance_to_the_middle():
    true = token_places(GRID, SIZE) + torch.tensor([4.0, 0])
    inside = true[:, 0] < 24
    expected = (torch.tensor([12.0, 16]) - true[inside]).norm(dim=1).mean()
    assert following(OWN, OWN, GRID, SIZE, (4, 0))["chance"] == pytest.approx(float(expected))


def test_only_queries_that_are_asked_count():
    asked = torch.zeros(2, 48, dtype=torch.bool)
    asked[0, [3, 20]] = True
    mixed = gone(1, 0).clone()
    mixed[0, 20] = OWN[0, 20]
    found = following(OWN, mixed, GRID, SIZE, (4, 0), asked)
    assert (found["queries"], found["distance"]) == (2, pytest.approx(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift": (0, 0)}, "the displacement is 0"),
        ({"aligned": OWN[:, :, 1:]}, r"maps of \(2, 48, 47\) and \(2, 48, 48\), expected \(B, 48, 48\).*6 × 8 tokens"),
        ({"shift": (99, 0)}, r"left the image by \[99.0, 0.0\]"),
        ({"asked": torch.zeros(2, 48, dtype=torch.bool)}, "no query counts"),
    ],
)
def test_bad_inputs_of_following(change, message):
    given = {"aligned": OWN, "displaced": OWN, "grid": GRID, "size": SIZE, "shift": (4, 0)}
    with pytest.raises(ValueError, match=message):
        following(**given | change)


# -- of a model -----------------------------------------------------------------------------------------------------


def seeker(seeks: bool):
    """In place of `watch`: all tokens of "a" look at the brightest token of "b", or all at their own place."""

    def watch(model, images):
        bright = torch.nn.functional.avg_pool2d(images["b"], 4).flatten(2)[:, 0].argmax(1)  # (B,)
        count, side = images["b"].shape[0], images["b"].shape[2] // 4
        ids = torch.arange(side**2).expand(count, -1)
        whole = torch.eye(side**2)[bright][:, None].expand(-1, side**2, -1) if seeks else torch.eye(side**2)[ids]
        layer = Layer(whole[:, None], (Part("a", ids),), (Part("b", ids),))
        grids, size = dict.fromkeys("ab", (side, side)), tuple(images["b"].shape[2:])
        return Seen({"decoder.0.cross.a": layer}, {"decoder.0.cross": ("decoder.0.cross.a",)}, (), grids, size, None)

    return watch


def bright_spot() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Two sources (1, 1, 48, 48) with a bright token in the middle, and where it is."""
    image = torch.zeros(1, 1, 48, 48)
    image[..., 24:28, 20:24] = 1
    return {"a": image, "b": image.clone()}, image[:, 0] > 0


@pytest.mark.parametrize(("seeks", "distance", "followed"), [(True, 0.0, 1.0), (False, 8.0, 0.0)])
def test_a_model_that_finds_the_object_follows_it(monkeypatch, seeks, distance, followed):
    monkeypatch.setattr(follow, "watch", seeker(seeks))
    images, asked = bright_spot()
    for crop in (None, 32):
        (row,) = follow_rows(None, images, "b", 8, crop, asked)
        assert (row["layer"], row["asks"], row["queries"]) == ("decoder.0.cross.a", "a", 4)  # one token, four ways
        assert (row["distance"], row["followed"]) == pytest.approx((distance, followed), abs=1e-4)
        assert row["ignores"] == 8


def test_an_example_shows_where_the_query_and_its_counterpart_are(monkeypatch):
    monkeypatch.setattr(follow, "watch", seeker(True))
    images, _ = bright_spot()
    found = example(None, images, "b", (8, -4), (17, 13), crop=32)  # the window starts at 8, 8
    assert found["query"] == (17.5, 13.5)  # the middle of its token
    assert found["true"] == {"aligned": (17.5, 13.5), "displaced": (25.5, 9.5)}
    assert divmod(int(found["maps"]["displaced"].argmax()), 8) == (6, 2)
    assert torch.equal(found["answers"]["displaced"], displace(images["b"], Displacement(8, -4))[0, :, 8:40, 8:40])
    assert found["names"] == ("a", "b")


# -- twins ----------------------------------------------------------------------------------------------------------


def test_twins_have_one_colour_and_the_first_does_not_tell_the_label():
    data = Twins(60, seed=3)
    sample = data[7]
    assert all(np.array_equal(sample[key], Twins(60, seed=3)[7][key]) for key in ("first", "second", "label"))
    assert not np.array_equal(sample["first"], data[8]["first"])
    here = sample["label"] != 255
    assert here.sum() == 30 * 16
    assert np.abs(sample["first"][:, here] - sample["second"][:3, here]).mean() < 0.3  # noise alone
    assert ((sample["second"][3] > 0) == sample["label"])[here].all()
    first = np.stack([x["first"][:, x["label"] == 1].mean(1) for x in map(data.__getitem__, range(60))])
    assert np.abs(first.mean(0)).max() < 0.25  # bright objects have any colour


def test_the_second_twin_is_displaced_by_whole_objects_and_real_to_the_border():
    whole, still, moved = (Twins(12, seed=1, **options) for options in ({}, {"margin": 8}, {"margin": 8, "shift": 8}))
    steps = set()
    for index in range(12):
        world, here, there = whole[index], still[index], moved[index]
        assert np.array_equal(here["second"], world["second"][:, 8:32, 8:32])
        assert all(np.array_equal(here[key], there[key]) for key in ("first", "label"))
        found = [
            (rows, cols)
            for rows in range(-8, 9)
            for cols in range(-8, 9)
            if np.array_equal(there["second"], world["second"][:, 8 - rows : 32 - rows, 8 - cols : 32 - cols])
        ]
        assert len(found) == 1
        steps |= set(found[0])
    assert steps == {-8, -4, 0, 4, 8}


@pytest.mark.parametrize("options", [{"margin": 4, "shift": 8}, {"margin": 8, "shift": 3}, {"side": 41}])
def test_twins_that_do_not_fit(options):
    with pytest.raises(ValueError, match="give multiples of 4, shift not above margin"):
        Twins(1, **options)


@pytest.mark.slow
def test_a_known_displacement_is_recovered_from_attention(tmp_path):
    run, parts = twin_runs(str(tmp_path), 500)["trained displaced"], twin_parts(TWIN_SHIFT)
    row = twin_row("", run, train(run | {"num_threads": 1}, parts), parts)
    assert row["accuracy at 8 px"] > 0.7  # at most 5/6: a third of the twins has left the image
    assert row["peak"] < 3 < row["ignores"]  # less than a token from the true place
    assert row["followed"] > 0.5


def test_a_model_of_twins_is_measured_where_objects_are(tmp_path):
    parts = twin_parts(8, 24, 8)
    options = {"preset": "tiny", "validation": "", "crop": 24, "batch_size": 8, "steps": 2}
    p = read_params(options | {"out": str(tmp_path), "num_threads": 1, "warmup": 1})
    model = train(p, parts)
    batch = parts["test"].data.batch(range(8))
    images = {name: batch[name] for name in ("first", "second")}
    (row,) = follow_rows(model, images, "second", 8, 24, batch["label"] != 255)
    assert row["layer"] == "decoder.0.cross.first"
    assert row["ignores"] == pytest.approx(8)
    assert 0 < row["queries"] < 4 * 8 * 36
    assert sum(x.numel() for x in build(p, parts["train"].data).parameters()) < 400_000
