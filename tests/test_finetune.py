"""Fine-tuning: which layer learns how fast, what is chosen, and what stays as it was."""

import dataclasses

import numpy as np
import pytest
import torch
from held import hold, make_samples, weights
from sensors import generator, two_sensors

from fmlib.data.subsets import label_fraction
from fmlib.evaluate import FinetuneParams, finetune
from fmlib.evaluate.features import as_views
from fmlib.evaluate.finetune import _augmented, make_classifier, make_optimizer
from fmlib.models.baselines import InfoNCE, SmallResNet
from fmlib.models.fusmae import FusMAE, fusmae

QUICK = FinetuneParams(epochs=4, warmup=1, batch_size=8, lr=2e-3)


def model_of(fusion="xaed"):
    torch.manual_seed(0)
    return fusmae("nano", two_sensors(), img_size=32, fusion=fusion).eval()


def made(count, seed=0, task="single", **options):
    data = hold(make_samples(count, seed=seed, task=task, **options))
    return data, np.arange(count)


@pytest.mark.parametrize(("task", "score"), [("single", "accuracy"), ("multi", "ap_micro"), ("segmentation", "miou")])
def test_each_task_is_learned(task, score):
    params = dataclasses.replace(QUICK, task=task, epochs=8, crop=16 if task == "segmentation" else 0)
    parts = [made(16, seed=s, task=task) for s in range(3)]
    result = finetune(model_of(), *parts, params=params)
    assert result.scores[score] > 0.85
    assert len(result.log) == 8
    assert result.chosen == max(result.log, key=lambda row: row[score])
    assert result.outputs.shape == {"single": (16, 2), "multi": (16, 2), "segmentation": (16, 2, 2)}[task]


def test_the_encoder_is_tuned_but_not_the_model_given():
    model = model_of()
    before = weights(model)
    result = finetune(model, made(16), made(8, seed=1), params=QUICK)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training
    tuned = result.model.encoder.state_dict()
    moved = {name for name in before if not torch.equal(tuned[name], before[name])}
    assert {"embed.s1.proj.weight", "early_fusion.cross.attn.s1.q.weight", "blocks.0.attn.q.weight"} <= moved
    assert not any(name.startswith(("decoders.", "late_fusion.")) for name in moved)  # no part of the encoder


@pytest.mark.parametrize("fusion", ["xaed", "xad"])
def test_layers_learn_at_their_own_rates(fusion):
    """Head 1, last block and norm ½, and half of that at each layer below; the early fusion is a layer of its own."""
    data, indices = made(4)
    params = dataclasses.replace(QUICK, layer_decay=0.5, epochs=10, warmup=2)
    classifier = make_classifier(model_of(fusion), data, as_views(indices), ["s1", "s2"], params)
    optimizer, schedule = make_optimizer(classifier, params, steps=5)
    names = {p: name for name, p in classifier.named_parameters()}
    group = {names[p]: g for g in optimizer.param_groups for p in g["params"]}
    assert set(group) == set(names.values())
    blocks = len(classifier.encoder.blocks)
    stem = 0.5 ** (blocks + (2 if fusion == "xaed" else 1))
    expected = {"head.weight": 1, "encoder.norm.weight": 0.5, "encoder.embed.s2.proj.weight": stem}
    expected |= {f"encoder.blocks.{i}.mlp.fc1.weight": 0.5 ** (blocks - i) for i in range(blocks)}
    expected |= {"encoder.cls_token": stem, "encoder.embed.s1.sensor": stem}
    if fusion == "xaed":
        expected["encoder.early_fusion.cross.attn.s1.q.weight"] = 2 * stem
    assert {name: group[name]["lr_scale"] for name in expected} == expected
    decayed = {name for name, g in group.items() if g["weight_decay"]}
    assert not any(name.endswith(("bias", "cls_token", "sensor")) or ".norm" in name for name in decayed)
    assert {"head.weight", "encoder.blocks.0.attn.q.weight"} <= decayed
    schedule.step_update(10)  # warm-up is over
    rates = {name: group[name]["lr"] for name in expected}
    assert rates == {name: pytest.approx(params.lr * scale) for name, scale in expected.items()}
    schedule.step_update(50)
    assert max(g["lr"] for g in optimizer.param_groups) == pytest.approx(0, abs=1e-9)


def test_from_scratch_all_layers_learn_at_one_rate():
    data, indices = made(4)
    params = dataclasses.replace(QUICK, layer_decay=1.0)
    classifier = make_classifier(model_of(), data, as_views(indices), ["s1"], params)
    optimizer, _ = make_optimizer(classifier, params, 1)
    assert {g["lr_scale"] for g in optimizer.param_groups} == {1.0}
    classifier.encoder.blocks = torch.nn.ModuleList()
    with pytest.raises(ValueError, match="FusMAE has no `blocks` to decay by layer"):
        make_optimizer(classifier, QUICK, 1)


def test_baselines_are_tuned_too():
    """Of a model around an encoder that encoder, by layer; a convnet at one rate for all layers."""
    around = InfoNCE(two_sensors(), img_size=32, embed_dim=64, depth=2, num_heads=4)
    tuned = finetune(around, made(16), made(8, seed=1), params=QUICK).model
    assert isinstance(tuned.encoder, FusMAE)
    assert not torch.equal(tuned.encoder.blocks[0].attn.q.weight, around.encoder.blocks[0].attn.q.weight)
    convnet = SmallResNet(two_sensors(), img_size=32)
    with pytest.raises(ValueError, match="SmallResNet has no `blocks` to decay by layer"):
        finetune(convnet, made(8), made(8), params=QUICK)
    scratch = dataclasses.replace(QUICK, layer_decay=1.0, pool="cls")
    assert finetune(convnet, made(16), made(16, seed=1), params=scratch).chosen["accuracy"] > 0.85


def test_fine_tuning_follows_from_its_seed():
    parts = [made(12, seed=s) for s in range(3)]
    params = dataclasses.replace(QUICK, epochs=2, crop=16)
    first, again = (finetune(model_of(), *parts, params=params) for _ in range(2))
    assert first.log == again.log
    assert torch.equal(first.outputs, again.outputs)
    other = finetune(model_of(), *parts, params=dataclasses.replace(params, seed=1))
    assert not torch.equal(first.outputs, other.outputs)


def test_a_sensor_not_shown_does_not_matter():
    samples = make_samples(12)
    changed = [s | {"s2": -s["s2"]} for s in samples]
    params = dataclasses.replace(QUICK, epochs=1)
    found = [
        finetune(model_of(), (hold(x), range(12)), (hold(x), range(12)), (hold(x), range(12)), ["s1"], params).outputs
        for x in (samples, changed)
    ]
    assert torch.equal(*found)


def test_labels_may_be_few_and_views_several():
    """A quarter of the labels, two views a sample whose features are joined."""
    data, _ = made(32)
    pairs = np.arange(32).reshape(16, 2)[:, ::-1]  # the label is that of the last view, here always class 0
    few = pairs[label_fraction(16, 0.25)]
    assert len(few) == 4
    result = finetune(model_of(), (data, few), (data, pairs[:4]), params=dataclasses.replace(QUICK, epochs=2))
    assert result.model.head.in_features == 2 * 128
    assert result.chosen["accuracy"] == 1.0


def test_views_sensors_and_maps_are_cut_and_turned_alike():
    """An image of its own coordinates shows where each pixel came from."""
    ramp = torch.arange(64.0).view(1, 1, 8, 8).repeat(5, 1, 1, 1)
    present = {"s1": torch.ones(5, dtype=torch.bool)}
    views = [({"s1": ramp, "s2": ramp + 100}, present), ({"s1": ramp + 200}, present)]
    params = FinetuneParams("segmentation", crop=4, rotate=True)
    (first, second), label = _augmented(views, ramp[:, 0].byte(), params, generator())
    assert label.shape == (5, 4, 4)
    assert label.dtype == torch.uint8
    for image, offset in ((first[0]["s1"], 0), (first[0]["s2"], 100), (second[0]["s1"], 200)):
        assert torch.equal(image[:, 0] - offset, label.float())
    assert len({tuple(x.flatten().tolist()) for x in label}) > 1


def test_bad_requests_are_named():
    bare = hold([{k: v for k, v in s.items() if k != "label"} for s in make_samples(4)])
    with pytest.raises(ValueError, match=r"not all of \['000'\] have a label"):
        finetune(model_of(), (bare, range(4)), (bare, range(4)), params=QUICK)
    with pytest.raises(ValueError, match="task is 'regression'; choose one of single, multi, segmentation"):
        FinetuneParams("regression")
    with pytest.raises(ValueError, match="pool='dense' has no one answer"):
        FinetuneParams("single", pool="dense")
