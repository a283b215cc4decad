"""Faster ways through one model: compiled it computes the same, in 8 bits nearly the same, with the same weights."""

import copy
import sys
from contextlib import nullcontext

import pytest
import torch
from sensors import generator, images, two_sensors

import fmlib.train
from fmlib import weights
from fmlib.bench.step import Step
from fmlib.masking import draw_masks
from fmlib.models.fusmae import fusmae
from fmlib.recipe import build, check, read_params
from fmlib.speed import compiled, to_float8
from fmlib.train import hide, train_step

CPU = torch.device("cpu")


def made(**options):
    torch.manual_seed(0)
    return fusmae("nano", two_sensors(), img_size=32, depth=2, **options)


def shown(model):
    return images(two_sensors()), draw_masks(model.grids, 3, "independent", 0.5, generator=generator(1))


def loss_and_gradients(model, called=None):
    model.zero_grad()
    loss = (model if called is None else called)(*shown(model)).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mode", ["default", "blocks"])
def test_compiled_it_computes_the_same(mode):
    plain = made()
    model = copy.deepcopy(plain)
    fast = compiled(model, mode, dynamic=False, backend="aot_eager")
    assert (fast is model) == (mode == "blocks")
    assert list(model.state_dict()) == list(plain.state_dict())  # checkpoints have the same names
    (loss, grads), (expected, wanted) = loss_and_gradients(model, fast), loss_and_gradients(plain)
    assert torch.allclose(loss, expected, rtol=1e-5)
    assert grads.keys() == wanted.keys()
    assert all(torch.allclose(grads[name], wanted[name], rtol=1e-3, atol=1e-5) for name in wanted)


def test_blocks_are_compiled_and_nothing_else():
    model = compiled(made(), "blocks", backend="aot_eager")
    found = {name for name, module in model.named_modules() if module._compiled_call_impl is not None}
    assert found == {"early_fusion", "late_fusion", "blocks.0", "decoders.s1.blocks.0", "decoders.s2.blocks.0"}


@pytest.mark.parametrize(("mode", "given"), [("default", None), ("reduce-overhead", "reduce-overhead")])
def test_modes_reach_torch(monkeypatch, mode, given):
    asked = {}
    monkeypatch.setattr(torch, "compile", lambda model, **options: asked.update(options))
    params = read_params({"compile": True, "compile_mode": mode, "preset": "nano", "img_size": 16, "batch_size": 2})
    Step(params, CPU)
    assert asked == {"mode": given, "dynamic": False}


def test_8_bits_change_little_and_keep_the_weights(tmp_path):
    pytest.importorskip("torchao")
    plain = made()
    model = copy.deepcopy(plain)
    to_float8(model, CPU)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    assert kinds["blocks.0.mlp.fc1"] == kinds["early_fusion.cross.attn.s1.q"] == "Float8Linear"
    assert kinds["embed.s1.proj"] == kinds["decoders.s1.heads.s1"] == "Linear"  # what meets the pixels stays exact
    assert all(torch.equal(x, plain.state_dict()[name]) for name, x in model.state_dict().items())
    (loss, grads), (expected, wanted) = loss_and_gradients(model), loss_and_gradients(plain)
    assert loss != expected
    assert loss == pytest.approx(float(expected), rel=0.02)
    for name, gradient in wanted.items():
        if gradient.abs().max() > 1e-4:
            assert torch.cosine_similarity(grads[name].flatten(), gradient.flatten(), dim=0) > 0.95, name
    weights.save(model, tmp_path / "model")
    assert loss_and_gradients(weights.load(tmp_path / "model").train())[0] == expected  # read as an ordinary model


def test_8_bits_need_torchao(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fmlib\[fp8\]', or take bf16"):
        to_float8(made(), CPU)


def test_8_bits_need_a_card_that_has_them(monkeypatch):
    pytest.importorskip("torchao")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an older card")
    with pytest.raises(RuntimeError, match="an older card has no 8-bit products"):
        to_float8(made(), torch.device("cuda"))


def test_unknown_modes_are_named():
    with pytest.raises(ValueError, match="compile_mode is 'fastest'; choose one of default, reduce-overhead"):
        check(read_params({"compile_mode": "fastest"}))
    check(read_params({"precision": "fp8", "compile_mode": "blocks"}))


@pytest.mark.parametrize(("fusion", "sensor_drop"), [("xaed", 0.0), ("xaed", 0.5), ("stack", 0.0), ("none", 0.0)])
def test_a_step_never_asks_the_device_for_a_value(monkeypatch, fusion, sensor_drop):
    """A tensor on the meta device has no values: whatever would make the host wait for one is an error there."""
    monkeypatch.setattr(fmlib.train, "autocast", lambda p, device: nullcontext())  # there is none for this device
    p = read_params({"preset": "nano", "img_size": 16, "batch_size": 4, "accumulate": 2, "fusion": fusion})
    model = build(p, {m.name: m for m in two_sensors()}).to("meta")
    shown = {name: x.to("meta") for name, x in images(two_sensors(), (16, 16), batch=4).items()}
    present = dict.fromkeys(shown, torch.ones(4, dtype=torch.bool))
    shown, masks = hide(p, model, shown, present, generator(0), sensor_drop)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    loss, _ = train_step(p, model, optimizer, shown, masks)
    assert loss.device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):
        loss.item()
