"""Sources out of place: rows of displaced tests, losses whose order is known, attention of models in a table."""

import numpy as np
import pytest
import torch
from archives import make_ombria
from test_msift_study import made

from fmlib.compare import select
from fmlib.follow import NUMBERS, twin_parts
from fmlib.msift_study import train_all
from fmlib.shift_study import (
    TWIN_SHIFT,
    TWIN_SHIFTS,
    displaced_rows,
    follow_table,
    judge_loss,
    moved_maps,
    shift_claims,
    shift_runs,
    twin_example,
    twin_row,
    twin_runs,
)
from fmlib.train_msift import train

QUICK = {"steps": 2, "batch_size": 4, "depth": 1, "num_threads": 1, "warmup": 1, "validation": "", "crop": 32}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = make_ombria(tmp_path_factory.mktemp("data"), train=6, test=3)
    settings = QUICK | {"data_root": str(root), "out": str(tmp_path_factory.mktemp("runs"))}
    found = shift_runs(settings, "ombria", ["msift", "concat", "s1"], [0], [0, 8])
    train_all(found)
    return found


def test_a_sensor_alone_is_trained_once_and_aligned(runs):
    kinds = [(run["fusion"], run["shift_train"]) for run in runs]
    assert kinds == [("msift", 0), ("concat", 0), ("single", 0), ("msift", 8), ("concat", 8)]
    assert len({run["out"] for run in runs}) == len(runs)


def test_rows_of_every_amount(runs):
    rows = displaced_rows(runs[:3], [0, 6], "s2", crop=64)
    assert [(row["name"], row["amount"], row["kind"]) for row in rows] == [
        (name, amount, "shift") for name in ("msift", "concat", "s1") for amount in (0, 6)
    ]
    still, moved, alone = (select(rows, name=name, amount=a)[0] for name, a in (("msift", 0), ("msift", 6), ("s1", 6)))
    assert still["confusion"].sum() == 3 * 64 * 64
    assert moved["confusion"].sum() == 4 * 3 * 64 * 64
    assert not np.array_equal(moved["confusion"], 4 * still["confusion"])
    assert alone["miou"] == select(rows, name="s1", amount=0)[0]["miou"]
    turned = displaced_rows(runs[:1], [0, 10], "s2", "angle", crop=64)
    assert turned[0]["miou"] == still["miou"]
    assert turned[1]["confusion"].sum() == 2 * 3 * 64 * 64


def lost(name: str, right: float, after: float, shift_train: float = 0.0) -> list[dict]:
    """Scores at no shift and at 16 pixels."""
    return made(name, right, amount=0, shift_train=shift_train) + made(name, after, amount=16, shift_train=shift_train)


def test_losses_are_compared_not_scores():
    rows = lost("msift", 0.8, 0.78) + lost("concat", 0.95, 0.85) + lost("add", 0.7, 0.69) + lost("single", 0.8, 0.78)
    judge = lambda other: judge_loss(rows, {"name": "msift"}, {"name": other}, 16)  # noqa: E731
    assert judge("concat")["verdict"] == "confirmed"  # although it is better at any shift
    assert judge("add")["verdict"] == "refuted"
    assert judge("single")["verdict"] == "undecided"
    found = judge("concat")
    assert found["low"] < found["difference"] < found["high"]
    assert found["difference"] == pytest.approx(found["worse"] - found["better"])
    before, after = (np.mean([row["miou"] for row in select(rows, name="concat", amount=a)]) for a in (0, 16))
    assert found["worse"] == pytest.approx(before - after)
    assert found == judge("concat")
    with pytest.raises(ValueError, match="different seeds"):
        judge_loss(rows[:-1], {"name": "msift"}, {"name": "single"}, 16)


def test_claims_about_shifts():
    rows = lost("msift", 0.9, 0.8) + lost("concat", 0.9, 0.7) + lost("s1", 0.6, 0.6)
    rows += lost("msift", 0.9, 0.88, 16.0) + lost("concat", 0.93, 0.9, 16.0)
    found = {row["claim"]: row["verdict"] for row in shift_claims(rows, 16)}
    assert found == {
        "MsIFT loses less than concatenation at 16 px, trained aligned": "confirmed",
        "MsIFT is better than concatenation at 16 px, trained aligned": "confirmed",
        "MsIFT loses less than concatenation at 16 px, trained with shifts up to 16 px": "confirmed",
        "MsIFT is better than concatenation at 16 px, trained with shifts up to 16 px": "refuted",
        "training with shifts helps MsIFT at 16 px": "confirmed",
    }


def test_maps_as_they_are_and_moved(runs):
    found = moved_maps(runs[:3], "s2", 5, 64)
    assert list(found["images"]) == ["Sentinel-1 (8 bit)", "Sentinel-2 (8 bit)", "Sentinel-2 (8 bit), moved 5 px"]
    names = ["MsIFT", "MsIFT, moved 5 px", "concatenation", "concatenation, moved 5 px", "S1 alone"]
    assert list(found["predictions"]) == names
    still, moved = (column["image"] for column in list(found["images"].values())[1:])
    assert torch.equal(moved[:, :, 5:], still[:, :, :-5])
    assert found["truth"].shape == found["predictions"]["MsIFT"].shape == (2, 64, 64)


def test_attention_of_every_msift_in_a_table(runs):
    table = follow_table(runs, "s2", 16, 64, samples=2)
    assert [(row["model"], row["shift_train"], row["layer"]) for row in table] == [
        ("MsIFT", shift, "decoder.0.cross.s1") for shift in (0, 8)
    ]
    assert table[0]["ignores"] == pytest.approx(16)
    assert all(np.isfinite(row[key]) for row in table for key in NUMBERS)


def test_twins_without_and_with_displacement(tmp_path):
    parts, found = twin_parts(TWIN_SHIFT, 24, 8), twin_runs(str(tmp_path), 2)
    assert list(found) == list(TWIN_SHIFTS)
    name, run = "trained displaced", found["trained displaced"] | {"num_threads": 1}
    model = train(run, parts)
    row = twin_row(name, run, model, parts)
    assert row["model"] == name
    assert row["ignores"] == pytest.approx(TWIN_SHIFT)
    assert 0 <= row["accuracy at 0 px"] <= 1
    shown = twin_example(model, parts)
    assert shown["names"] == ("first", "second")
    assert shown["true"]["displaced"] == (shown["query"][0] + TWIN_SHIFT, shown["query"][1])
    assert shown["true"]["displaced"][0] < 24
    label = parts["test"].data[0]["label"][8:32, 8:32]
    row, col = (int(place) // 4 * 4 for place in shown["query"])
    assert (label[row : row + 4, col : col + 4] != 255).any()
