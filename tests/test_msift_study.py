"""Studies of MsIFT: which runs they are, what their rows hold, and claims whose answers are known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import make_ombria

from fmlib import msift_study
from fmlib.compare import select
from fmlib.evaluate.metrics import confusion_scores
from fmlib.msift_study import (
    claims,
    class_rows,
    commands,
    example_maps,
    leaky_runs,
    only_msift_params,
    only_shown,
    score_rows,
    score_table,
    split_table,
    svm_rows,
    task_runs,
    train_all,
)
from fmlib.recipe_msift import answers, open_parts, read_params

QUICK = {"steps": 2, "batch_size": 4, "depth": 1, "num_threads": 1, "warmup": 1, "validate_every": 1}
WINDOWS = {"task": "pixel", "window": 7, "windows": 9, "data": "ombria"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return make_ombria(tmp_path_factory.mktemp("data"), train=8, test=3)


@pytest.fixture(scope="module")
def settings(archive, tmp_path_factory):
    return QUICK | {"data_root": str(archive), "out": str(tmp_path_factory.mktemp("runs"))}


@pytest.fixture(scope="module")
def runs(settings):
    """Maps by two models and two seeds, trained."""
    found = task_runs(settings | {"crop": 32}, "segmentation", "ombria", ["msift", "s2"], [0, 1])
    train_all(found)
    return found


# -- runs -----------------------------------------------------------------------------------------------------------


def test_runs_of_every_model_seed_and_fold():
    given = {"out": "here", "steps": 7}
    found = task_runs(given, "pixel", "houston2013", ["msift", "hsi"], [3, 4])
    assert [(r["fusion"], r["seed"], r["fold"]) for r in found] == [
        (fusion, seed, fold) for seed in (3, 4) for fusion in ("msift", "single") for fold in (0, 1)
    ]
    assert all(run["split_seed"] == run["seed"] and run["validation"] == "" for run in found)
    assert found[2]["sensors"] == ["hsi"]
    assert len({run["out"] for run in found}) == len(found)
    assert all(read_params(run).steps == 7 for run in found)
    random = leaky_runs(found, "msift")
    assert {run["scheme"] for run in random} == {"leaky_random"}
    assert len(random) == 4
    assert not {run["out"] for run in random} & {run["out"] for run in found}
    with pytest.raises(ValueError, match="nothing is known of task 'pixel' of 'vais'; choose one of pixel of"):
        task_runs(given, "pixel", "vais", ["msift"], [0])


def test_only_parameters_of_the_training_are_handed_on():
    assert only_msift_params({"lr": 0.1, "steps": 5, "fusions": ["add"], "np": np}) == {"lr": 0.1, "steps": 5}


def test_commands_are_complete():
    found = task_runs({"out": "here", "steps": 7}, "segmentation", "ombria", ["add", "s1"], [0, 1])
    rows = commands(found, 1)
    assert [row["model"] for row in rows] == ["sum", "S1 alone"]
    assert "--steps=7" in rows[0]["command"]
    assert "--fusion=add" in rows[0]["command"]
    assert """--sensors="['s1']\"""" in rows[1]["command"]
    assert rows[1]["command"].startswith("python -m fmlib.train_msift ")


def test_runs_share_what_they_read_and_are_not_run_twice(runs, monkeypatch, capsys):
    train_all(runs)
    assert capsys.readouterr().out == ""  # finished: nothing is read
    reads = []
    read = msift_study.read_parts
    monkeypatch.setattr(msift_study, "read_parts", lambda p: reads.append(p) or read(p))
    msift_study._read.cache_clear()
    kinds = [list(parts["test"].data.modalities) for _, parts in msift_study.with_parts(runs)]
    assert kinds == [["s1", "s2"], ["s2"]] * 2
    assert len(reads) == 1


# -- rows -----------------------------------------------------------------------------------------------------------


def test_rows_hold_what_the_runs_wrote(runs):
    rows = score_rows(runs)
    assert [(row["name"], row["seed"]) for row in rows] == [("msift", 0), ("s2", 0), ("msift", 1), ("s2", 1)]
    for run, row in zip(runs, rows, strict=True):
        written = json.loads(Path(run["out"], "scores.json").read_text())
        assert row["miou"] == written["test"]["miou"]
        assert row["confusion"].shape == (3, 2, 2)
        assert row["places"] == ["0001", "0002", "0003"]
    table = score_table(rows)
    assert [line["model"] for line in table] == ["MsIFT", "S2 alone"]
    mean = np.mean([row["miou"] for row in rows if row["name"] == "msift"])
    assert table[0]["mIoU"][0] == pytest.approx(mean)
    assert table[0]["parameters"] > table[1]["parameters"]


def test_folds_of_a_seed_are_counted_together(tmp_path, monkeypatch):
    found = {"0": [("a", 0, 0), ("b", 1, 1)], "1": [("c", 1, 0), ("a", 2, 2)]}
    run = {"task": "pixel", "data": "houston2013", "fusion": "msift", "seed": 5}
    for fold, samples in found.items():
        (tmp_path / fold).mkdir()
        listed = [dict(zip(("place", "label", "answer"), x, strict=True)) for x in samples]
        (tmp_path / fold / "scores.json").write_text(json.dumps({"classes": ["x", "y", "z"], "samples": listed}))
    monkeypatch.setattr(msift_study.weights, "load", lambda folder: torch.nn.Linear(3, 4))
    (row,) = score_rows([run | {"out": str(tmp_path / fold), "fold": int(fold)} for fold in found])
    assert row["places"] == ["a", "b", "c"]
    assert row["accuracy"] == 0.75
    assert row["recall"] == [1, 0.5, 1]
    assert row["confusion"][0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert row["parameters"] == 16
    classes = class_rows([row])
    assert [(line["class"], line["recall"]) for line in classes] == [("x", 1), ("y", 0.5), ("z", 1)]
    table = split_table([row], [row | {"accuracy": 1.0}])
    assert table == [{"model": "MsIFT", "whole clusters": 0.75, "single pixels at random": 1.0}]
    assert split_table([row], []) == []


def test_classes_without_samples_and_scores_without_a_number_are_left_out():
    row = msift_study.of_samples([{"place": "a", "label": 0, "answer": 0}], ["x", "y"])
    assert row["kappa"] is None
    about = {"task": "image", "model": "MsIFT", "parameters": 1, "name": "msift"}
    assert [line["class"] for line in class_rows([about | row])] == ["x"]
    assert "kappa" not in score_table([about | row])[0]


def test_maps_of_each_model_for_a_figure(runs):
    found = example_maps(runs[:2], count=2)
    assert found["ids"] == ["test/0001/after", "test/0003/after"]
    assert list(found["predictions"]) == ["MsIFT", "S2 alone"]
    assert all(maps.shape == found["truth"].shape == (2, 256, 256) for maps in found["predictions"].values())
    assert all(column["image"].shape[1] == column["modality"].in_chans for column in found["images"].values())


def test_maps_window_by_window_are_the_windows_answers(runs, settings, monkeypatch):
    monkeypatch.setitem(msift_study.ASKED, ("pixel", "ombria"), {"window": 7, "windows": 9})
    (run,) = task_runs(settings, "pixel", "ombria", ["s2"], [0])
    train_all([run])
    (of_maps,) = task_runs(settings | {"views": ["after"]}, "segmentation", "ombria", ["s2"], [0])
    train_all([of_maps | {"out": settings["out"] + "/after"}])
    found = example_maps([of_maps | {"out": settings["out"] + "/after"}], 1, run, side=6)
    image = next(iter(found["images"].values()))["image"]
    assert image.shape == (1, 3, 6, 6)
    ((_, parts),) = msift_study.with_parts([of_maps])
    whole = torch.from_numpy(parts["test"].data[1]["s2"])
    assert torch.equal(image[0], whole[:, 125:131, 125:131])
    model = msift_study.weights.load(f"{run['out']}/model")
    corner = model({"s2": whole[None, :, 122:129, 122:129]}).logits.argmax(1)
    assert found["predictions"]["S2 alone, windows"][0, 0, 0] == corner


def test_only_classes_that_are_shown_stand_in_the_legend():
    truth, maps = torch.tensor([[4, 255], [1, 1]]), np.array([[4, 4], [7, 1]])
    found = only_shown(truth, {"a": maps}, [f"class {i}" for i in range(9)])
    assert found["classes"] == ["class 1", "class 4", "class 7"]
    assert found["truth"].tolist() == [[1, 255], [0, 0]]
    assert found["predictions"]["a"].tolist() == [[1, 1], [2, 0]]
    assert only_shown(truth, {}, ["x"] * 9)["classes"] == ["x"] * 9
    assert len(only_shown(truth, {"a": maps}, ["a name " * 9] * 9)["classes"][0]) <= 40


# -- windows --------------------------------------------------------------------------------------------------------


def test_windows_are_cut_around_labelled_pixels(settings):
    p = read_params(settings | WINDOWS)
    part = open_parts(p)["test"]
    assert len(part.indices) == 3 * 9
    batch = part.data.batch(range(27))
    assert batch["s2"].shape == (27, 3, 7, 7)
    assert batch["label"].tolist() == open_parts(p)["test"].data.arrays["label"].tolist()  # the same every time
    whole = open_parts(read_params(settings | {"views": ["after"], "data": "ombria"}))["test"].data
    for i in (0, 13, 26):
        sample = part.data[i]
        image, row, col = whole[1 + 2 * (i // 9)], *map(int, sample["id"].rsplit("/", 1)[1].split("-"))
        assert sample["place"] == image["place"]
        assert sample["label"] == image["label"][row, col]
        assert np.array_equal(sample["s2"][:, 3, 3], image["s2"][:, row, col])
    assert answers(p, part.data) == ("dry", "flood")
    assert answers(read_params({"task": "image"}), whole) == ("no", "yes")
    with pytest.raises(ValueError, match=r"window=7 cuts windows .* for task 'pixel', but the task is 'segmentation'"):
        train_all([settings | WINDOWS | {"task": "segmentation", "out": settings["out"] + "/wrong"}])


def test_a_machine_on_the_same_windows(settings, monkeypatch):
    monkeypatch.setitem(msift_study.ASKED, ("pixel", "ombria"), {"window": 7, "windows": 9})
    runs = task_runs(settings, "pixel", "ombria", ["msift"], [0])
    train_all(runs)
    (network,), (machine,) = score_rows(runs), svm_rows(runs)
    assert machine["places"] == network["places"]
    assert machine["confusion"].sum() == network["confusion"].sum() == 27
    assert np.array_equal(machine["confusion"].sum(2), network["confusion"].sum(2))  # the same truth
    assert machine["accuracy"] > 0.6
    assert (machine["model"], machine["parameters"]) == ("support vector machine", None)


# -- claims ---------------------------------------------------------------------------------------------------------


def matrices(rng, right: float) -> np.ndarray:
    """Maps of 30 places (30, 2, 2), so many pixels of which are right."""
    hits = np.clip(rng.normal(right, 0.02, 30), 0, 1)
    return np.stack([[[500 * h, 500 * (1 - h)], [500 * (1 - h), 500 * h]] for h in hits])


def made(name: str, right: float, **more) -> list[dict]:
    rng, places = np.random.default_rng(0), [f"p{i:02}" for i in range(30)]
    about = {"task": "segmentation", "name": name, "model": name, "places": places} | more
    found = [about | {"seed": seed, "confusion": matrices(rng, right)} for seed in (0, 1)]
    return [row | confusion_scores(torch.from_numpy(row["confusion"])) for row in found]


def test_claims_have_the_answers_that_were_made():
    rows = made("msift", 0.9) + made("concat", 0.8) + made("s1", 0.95)
    found = claims(rows, [("msift", "concat"), ("msift", "s1"), ("msift", "msift"), ("msift", "add")])
    assert [row["verdict"] for row in found] == ["confirmed", "refuted", "undecided"]
    assert found[0]["claim"] == "msift beats concat"
    assert select(found, verdict="refuted")[0]["difference"] < 0
