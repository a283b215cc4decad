"""Supervised training of MsIFT: it learns all three tasks, repeats itself, survives a kill, and scores what it says."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from archives import make_ombria
from msift_parts import open_corners, params, scores_of
from safetensors.torch import load_file
from sensors import sensor

from fmlib import train_msift
from fmlib.data import open_dataset
from fmlib.data.batches import preload
from fmlib.evaluate.metrics import confusion_scores
from fmlib.recipe_msift import Part, build, make_optimizer, stack_views, task_labels
from fmlib.train import NonFiniteLoss
from fmlib.train_msift import MsiftParams, main, open_parts, predict, read_log, read_params, train


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return make_ombria(tmp_path_factory.mktemp("data"), train=8, test=3)


@pytest.fixture(scope="module")
def parts(archive):
    return open_corners(archive)


class Windows:
    """Windows (N, C, 7, 7) of two sources whose classes only both together tell."""

    name, split, classes = "windows", "made", ("a", "b", "c")

    def __init__(self, count: int, seed: int):
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(3, size=count)
        self.images = {name: rng.normal(size=(count, c, 7, 7)).astype(np.float32) for name, c in (("h", 5), ("l", 2))}
        self.images["h"][self.labels == 1, 0] += 2
        self.images["l"][self.labels == 2, 1] += 2
        self.modalities = {"h": sensor("h", 5), "l": sensor("l", 2)}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        sample = {name: x[index] for name, x in self.images.items()}
        return sample | {"label": self.labels[index], "id": f"w{index}", "place": f"p{index // 4}"}


def windows() -> dict[str, Part]:
    counts = {"train": 96, "validation": 32, "test": 40}
    data = {part: preload(Windows(count, seed), progress=False) for seed, (part, count) in enumerate(counts.items())}
    return {part: Part(x, np.arange(len(x))[:, None]) for part, x in data.items()}


def weights(out) -> dict:
    return load_file(out / "model" / "model.safetensors")


def same(a, b) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a | b)


# -- it learns ------------------------------------------------------------------------------------------------------


def test_it_learns_maps_and_leaves_what_it_says(parts, tmp_path):
    p = params(tmp_path, steps=24, validate_every=8, batch_size=8)
    model, scores = train(p, parts), scores_of(tmp_path)
    assert {"model", "params.json", "log.jsonl", "state.pt", "scores.json"} == {f.name for f in tmp_path.iterdir()}
    log = read_log(tmp_path)
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    assert set(log[0]["stages"]) == {"cnn", "encoder", "decoder"}
    checked = {r["step"]: r["validation"]["miou"] for r in log if "validation" in r}
    assert list(checked) == [8, 16, 24]
    assert checked[scores["step"]] == max(checked.values()) == scores["validation"]["miou"]
    assert scores["test"]["miou"] > 0.55  # all dry is below 0.5
    assert scores["test"]["miou_low"] <= scores["test"]["miou"] <= scores["test"]["miou_high"]
    assert not model.training


def test_scores_follow_from_what_was_found_in_each_sample(parts, tmp_path):
    model = train(params(tmp_path), parts)
    scores = scores_of(tmp_path)
    matrices = torch.tensor([sample["confusion"] for sample in scores["samples"]])
    assert [sample["id"] for sample in scores["samples"]] == [f"test/000{i}/after" for i in (1, 2, 3)]
    assert (matrices.sum((1, 2)) == 64 * 64).all()
    assert confusion_scores(matrices)["iou"] == scores["test"]["iou"]
    again = predict(model, parts["test"], read_params(params(tmp_path)))
    assert torch.equal(again.confusion, matrices)
    true, answer = matrices.sum((0, 2)) / matrices.sum(), matrices.sum((0, 1)) / matrices.sum()
    chance = float(true @ answer)
    assert scores["test"]["kappa"] == pytest.approx((scores["test"]["accuracy"] - chance) / (1 - chance), abs=1e-6)


def test_windows_that_a_reader_holds_are_its_samples(tmp_path, real_data):
    p = read_params({"data": "houston2013", "data_root": str(real_data), "task": "pixel", "fold": 1, "split_seed": 3})
    part = open_parts(replace(p, validation=""))["test"]
    data = open_dataset("houston2013", "test", real_data, fold=1, seed=3)
    assert len(part.data) == len(data)
    for index in (0, 700, len(data) - 1):
        held, read = part.data[index], data[index]
        assert held.keys() == read.keys()
        assert all(np.array_equal(held[key], read[key]) for key in read)


def test_it_learns_windows_from_both_sources(tmp_path):
    options = {"task": "pixel", "views": [], "crop": 0, "steps": 40, "batch_size": 16, "validate_every": 20}
    for fusion, sensors in (("msift", None), ("single", ["h"])):
        data = windows()
        if sensors:
            for part in data.values():
                part.data.modalities = {name: part.data.modalities[name] for name in sensors}
        train(params(tmp_path / fusion, fusion=fusion, **options), data)
    both, one = (scores_of(tmp_path / fusion)["test"] for fusion in ("msift", "single"))
    assert both["accuracy"] > 0.9
    assert one["accuracy"] < 0.85
    found = scores_of(tmp_path / "msift")["samples"]
    assert np.mean([s["label"] == s["answer"] for s in found]) == pytest.approx(both["accuracy"])
    assert found[5] == {"id": "w5", "place": "p1"} | {k: found[5][k] for k in ("label", "answer")}


def test_images_are_flooded_or_not(parts, tmp_path):
    p = read_params(params(tmp_path, task="image", crop=0, asked_share=0.3))
    train(p, parts)
    maps = parts["test"].data.arrays["label"][parts["test"].indices[:, -1]]
    expected = [(y == 1).sum() / (y != 255).sum() > 0.3 for y in maps]
    assert [s["label"] for s in scores_of(tmp_path)["samples"]] == expected
    some = torch.tensor([[[1, 0], [255, 255]], [[1, 0], [0, 0]], [[255, 255], [255, 255]]])
    assert task_labels(p, some).tolist() == [1, 0, 255]


# -- it repeats itself ----------------------------------------------------------------------------------------------


def test_the_seed_decides_bit_by_bit(parts, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(params(tmp_path / name, seed=seed), parts)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_killed_at_any_step_it_ends_the_same(parts, tmp_path, monkeypatch):
    """With dropout, displacements, running statistics and the best step so far."""
    options = {"steps": 9, "save_every": 3, "validate_every": 2, "shift_train": 3.0, "optimizer": "sgd", "lr": 0.05}
    train(params(tmp_path / "whole", **options), parts)
    step = train_msift.train_step
    for last in (2, 4, 7):

        def dies(p, model, optimizer, batch, number, last=last):
            if number == last:
                raise KeyboardInterrupt
            return step(p, model, optimizer, batch, number)

        monkeypatch.setattr(train_msift, "train_step", dies)
        with pytest.raises(KeyboardInterrupt):
            train(params(tmp_path / "killed", **options), parts)
    monkeypatch.setattr(train_msift, "train_step", step)
    train(params(tmp_path / "killed", **options), parts)
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    assert scores_of(tmp_path / "killed") == scores_of(tmp_path / "whole")
    logs = [[(r["step"], r["loss"]) for r in read_log(tmp_path / name)] for name in ("killed", "whole")]
    assert logs[0] == logs[1]


def test_a_finished_run_is_not_run_again(parts, tmp_path):
    train(params(tmp_path), parts)
    written = {f: (tmp_path / f).stat().st_mtime_ns for f in ("state.pt", "scores.json", "model/model.safetensors")}
    model = train(params(tmp_path), parts)
    assert written == {f: (tmp_path / f).stat().st_mtime_ns for f in written}
    assert same(weights(tmp_path), model.state_dict())
    with pytest.raises(ValueError, match=r"other parameters \(fusion was 'msift', is 'add'\)"):
        train(params(tmp_path, fusion="add"), parts)


def test_without_validation_the_last_step_counts(parts, tmp_path):
    some = {part: parts[part] for part in ("train", "test")}
    train(params(tmp_path, validation=""), some)
    assert scores_of(tmp_path)["step"] == 6
    assert scores_of(tmp_path)["validation"] == {}
    state = torch.load(tmp_path / "state.pt", weights_only=True)["model"]
    assert all(torch.equal(x, state[f"now.{key}"]) for key, x in weights(tmp_path).items())


# -- data and displacement ------------------------------------------------------------------------------------------


def test_dates_are_stacked_as_bands(archive, parts):
    s2 = open_dataset("ombria", "train", archive).modalities["s2"]
    stacked = stack_views(s2, ["before", "after"])
    assert stacked.bands[:4] == ("before B11", "before B08", "before B03", "after B11")
    assert stacked.rgb == ("after B11", "after B08", "after B03")
    assert stacked.mean == s2.mean * 2
    assert stacked.groups[-1] == ("after B03",)
    assert stack_views(s2, ["after"]) is s2
    part = parts["train"]
    batch = train_msift.read_batch(part, slice(0, 2), ["s2"], "cpu")
    before, after = (part.data.arrays["s2"][part.indices[:2, view]] for view in (0, 1))
    assert np.array_equal(batch.images["s2"], np.concatenate([before, after], 1))


# -- parameters -----------------------------------------------------------------------------------------------------


def test_published_recipes(parts):
    for task, given in train_msift.PUBLISHED.items():
        p = read_params(given | {"steps": 1000})
        assert (p.task, p.preset) == (task, "paper")
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
        optimizer, scheduler = make_optimizer(model, p)
        assert optimizer.defaults["momentum"] == 0.9
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, p.weight_decay]
        rates = []
        for step in (0, 500, 1000):
            scheduler.step_update(step)
            rates.append(optimizer.param_groups[0]["lr"] / p.lr)
        middle, end = (0.5**0.9 * 0.99 + 0.01, 0.01) if task == "segmentation" else (0.5, 0.0)
        assert rates == pytest.approx([1, middle, end], abs=1e-6)


def test_options_reach_the_model(parts):
    p = read_params(params("x", fusion="msift", as_published=True, aux=False, crop=96))
    config = build(p, parts["train"].data).config
    assert (config["as_published"], config["aux"], config["img_size"], config["depth"]) == (True, False, 96, 1)
    assert build(read_params({"preset": "small"}), parts["train"].data).config["as_published"] is False


def test_command_line(archive, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(params(tmp_path / "run", data_root=str(archive), validation="")))
    main([str(tmp_path / "p.json"), "--steps=1", "--views=['after']", "--sensors=['s1']", "--fusion=single"])
    written = json.loads((tmp_path / "run" / "params.json").read_text())
    assert (written["views"], written["sensors"], written["fusion"]) == (["after"], ["s1"], "single")
    assert load_file(tmp_path / "run/model/model.safetensors")["sources.s1.extractor.net.conv1.0.weight"].shape[1] == 1
    assert read_params({}) == MsiftParams()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusoin": "add"}, "no parameter 'fusoin'; did you mean 'fusion'"),
        ({"task": "video"}, "task is 'video'; choose one of pixel, image, segmentation"),
        ({"batch_size": 1}, "batch_size 1 at least 2"),
        ({"steps": 0}, "steps 0 must be at least 1"),
        ({"optimizer": "lamb"}, "optimizer is 'lamb'; choose one of adamw, sgd"),
        ({"schedule": "step"}, "schedule is 'step'; choose one of cosine, poly"),
        ({"fusion": "single"}, r"one source, but \['s1', 's2'\] were given"),
        ({"shift_train": 3.0, "shift_sensor": "dem"}, "'dem' cannot be displaced: the images are of s1, s2"),
        ({"sensors": ["s1"], "shift_sensor": "s2"}, r"shift_sensor 's2' is not among sensors=\['s1'\]"),
    ],
)
def test_bad_parameters_say_what_to_do(parts, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train(params(tmp_path) | options, parts)


def test_samples_without_labels_are_named(parts, tmp_path):
    before = {part: Part(data, indices[:, :1]) for part, (data, indices) in parts.items()}
    with pytest.raises(ValueError, match=r"not all of \['train/.*before'.* have a label.*`views`"):
        train(params(tmp_path, views=["before"]), before)


def test_broken_numbers_stop_it_and_name_the_samples(parts, tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"at step \d+ of .*its samples: train/\d+/after"):
        train(params(tmp_path, lr=1e30, clip_grad=0.0, log_every=1, warmup=0, validation="", steps=20), parts)
