"""The grid of a comparison: every model can be built and scored by the commands that the report prints."""

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import make_ombria

from fmlib import ablations, compare, evaluate, recipe
from fmlib.data import preload
from fmlib.evaluate import command
from fmlib.evaluate.trees import TreeParams, tree_rows
from fmlib.manifest import load_manifest
from fmlib.params import parse_setting
from fmlib.tables import pivot
from fmlib.weights import save

TINY = {
    "models": ["xaed", "random"],
    "tuned": ["random", "resnet"],
    "seeds": 1,
    "fractions": [1.0],
    "img_size": 32,
    "train_crop": 64,
    "steps": 2,
    "batch_size": 8,
    "warmup": 1,
    "tune_steps": 2,
    "trees": False,
    "jobs": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_ombria(tmp_path_factory.mktemp("data"), train=16, test=3)


@pytest.fixture(scope="module")
def compared(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    p = compare.read_params(TINY | {"data_root": str(root), "out": str(out)})
    return p, compare.compare(p)


def test_every_contender_can_be_trained():
    p = compare.read_params({"models": list(compare.CONTENDERS), "tuned": [], "seeds": 1})
    for run in compare.pretrainings(p):
        params = recipe.read_params(run)
        recipe.check(params)
        model = recipe.build(params, load_manifest("ombria").sensors)
        assert set(model.grids) == set(model.modalities)
    assert set(compare.TITLES) == set(compare.CONTENDERS) | {"trees"}
    budgets = {(run["steps"], run["batch_size"]) for run in compare.pretrainings(p) if run["steps"]}
    assert len(budgets) == 1  # all see as many samples


def test_a_comparison_scores_every_model_in_every_way(compared):
    p, rows = compared
    linear = [(r["name"], r["task"], r["sensors"], r["tested"]) for r in rows if r["method"] == "linear"]
    sets = [("s1", "s1"), ("s2", "s2"), ("s1+s2", "s1+s2"), ("s1+s2", "s1"), ("s1+s2", "s2")]
    want = [(name, task, *some) for name in p.models for some in sets for task in ("segmentation", "single")]
    assert sorted(linear) == sorted(want)
    assert {r["name"] for r in rows if r["method"] == "finetuned"} == {"random", "resnet"}
    assert all(0 <= row["score"] <= 1 for row in rows)
    assert json.loads((Path(p.out) / "rows.json").read_text()) == rows


def test_trees_see_what_pixels_show(root):
    protocol = replace(evaluate.OMBRIA, fractions=(0.5,), seeds=(0, 1), sensors=(("s1",), ("s1", "s2")))
    splits = {part: preload(data, progress=False) for part, data in evaluate.open_splits(protocol, root).items()}
    rows = tree_rows(protocol, splits, TreeParams(pixels=2000, max_iter=10))
    assert [(r["sensors"], r["seed"], r["labels"]) for r in rows] == [
        (s, k, 6) for s in ("s1", "s1+s2") for k in (0, 1)
    ]
    assert rows[2]["miou"] > max(0.9, rows[0]["miou"])  # the mask is a threshold of the optical image
    assert rows[2]["miou"] != rows[3]["miou"]  # other sites were labelled
    assert np.array(rows[0]["confusion"]).sum() == 3 * 256 * 256
    with pytest.raises(ValueError, match="trees decide pixel by pixel"):
        tree_rows(replace(protocol, task="multi"), splits)


def test_it_goes_on_where_it_stopped(compared, monkeypatch):
    p, rows = compared
    monkeypatch.setattr("fmlib.launch._start", lambda *_: pytest.fail("nothing is left to run"))
    assert compare.score(compare.probes(p)) == [row for row in rows if row["method"] == "linear"]
    other = replace(p, train_crop=32)
    with pytest.raises(ValueError, match="train_crop was 64, is 32"):
        compare.score(compare.probes(other))


def test_the_printed_commands_are_the_runs(compared):
    p, _ = compared
    found = compare.commands(p)
    assert {row["what"] for row in found} == {"pretrain", "probe", "fine-tune"}
    line = next(row["command"] for row in found if row["what"] == "probe")
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "fmlib.evaluate"]
    defaults = asdict(command.EvaluateParams())
    read = dict(parse_setting(word[2:], defaults, command.TYPES) for word in words[3:])
    assert command.read_params(read) == command.read_params(compare.probes(p)[0])


def test_claims_name_what_was_there(compared):
    p, rows = compared
    found = compare.claims(p, rows, ["1", "2", "3"])
    words = [row["claim"] for row in found]
    assert words == [
        "Fus-MAE XAE&D: s1+s2 beats s1",
        "Fus-MAE XAE&D: s1+s2 beats s2",
        "pretraining helps with 100% of the labels (linear)",
    ]
    assert all(row["low"] <= row["high"] and row["verdict"] in ("refuted", "undecided", "confirmed") for row in found)


def test_a_missing_sensor_changes_only_its_own_test(compared):
    """The head is the same; only the test with a sensor missing scores otherwise."""
    _, rows = compared
    both = [r for r in rows if (r["name"], r["sensors"], r["task"]) == ("random", "s1+s2", "segmentation")]
    assert len({json.dumps(r["chosen"]) for r in both if r["method"] == "linear"}) == 1
    scores = {r["tested"]: r["miou"] for r in both if r["method"] == "linear"}
    assert len(set(scores.values())) == 3


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match="model xead"):
        compare.read_params({"models": ["xead"]})
    with pytest.raises(ValueError, match="stepz"):
        compare.read_params({"stepz": 3})
    with pytest.raises(ValueError, match="set `model`"):
        command.read_params({"methods": ["linear"]})
    with pytest.raises(ValueError, match="no question"):
        ablations.question_runs(compare.CompareParams(), ["colour"])


def test_ablations_change_one_thing_each():
    p = compare.read_params({"seeds": 1})
    runs = ablations.question_runs(p, list(ablations.QUESTIONS))
    base, trained = compare.pretrainings(p, ["xaed"])[0], ablations.trainable(runs)
    assert [run["out"] for run in runs].count(trained[0]["out"]) == len(ablations.QUESTIONS)  # the design
    assert len(trained) == len(runs) - len(ablations.QUESTIONS) + 1 == len({run["out"] for run in trained})
    for run in trained:
        assert len([key for key in run if key != "out" and run[key] != base.get(key, object)]) <= 1
        recipe.check(recipe.read_params(run))
    grid = ablations.mask_runs(p, ["xad", "xaed"], ["independent", "disjoint"], [0.5, 0.75])
    assert len(grid) == 8


def test_reconstruction_rows_have_every_band(root, tmp_path):
    p = compare.read_params(TINY | {"data_root": str(root), "out": str(tmp_path)})
    run = ablations.mask_runs(p, ["xaed"], ["independent"], [0.75])[0]
    params = recipe.read_params(run | {"steps": 0})
    save(recipe.build(params, load_manifest("ombria").sensors), f"{run['out']}/model")
    images = {"s1": torch.rand(4, 1, 32, 32) * 255, "s2": torch.rand(4, 3, 32, 32) * 255}
    rows = ablations.reconstruction_rows([run], images)
    assert [(r["sensor"], r["band"]) for r in rows] == [
        *(("s1", band) for band in ("all", "VV")),
        *(("s2", band) for band in ("all", "B11", "B08", "B03")),
    ]
    assert rows[0]["error"] == pytest.approx(rows[1]["error"])
    low, high = (pick(r["error"] for r in rows[3:]) for pick in (min, max))
    assert low <= rows[2]["error"] <= high


def test_pivot_gives_mean_and_spread():
    rows = [{"model": "a", "x": "p", "v": 1.0}, {"model": "a", "x": "p", "v": 3.0}, {"model": "b", "x": "q", "v": 2.0}]
    assert pivot(rows, ("model",), lambda row: row["x"], "v") == [
        {"model": "a", "p": [2.0, pytest.approx(2**0.5)], "q": None},
        {"model": "b", "p": None, "q": 2.0},
    ]
