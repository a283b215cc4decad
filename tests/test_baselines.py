"""Baselines: they train by the same loop, resume exactly, load strictly, and their losses mean what they say."""

import math

import pytest
import torch
from archives import make_ombria
from safetensors.torch import load_file
from sensors import generator, images, sensor, two_sensors

from fmlib.evaluate import reconstruction_error
from fmlib.manifest import load_manifest
from fmlib.masking import draw_masks, keep_all
from fmlib.models.baselines import InfoNCE, SmallResNet, info_nce
from fmlib.models.dino import DINO
from fmlib.resume import read_log, read_validation
from fmlib.train import build, read_params, train
from fmlib.weights import load, save

SMALL = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 4}
QUICK = {"data": "ombria", "preset": "nano", "img_size": 32, "patch_size": 8, "batch_size": 8, "steps": 12, "lr": 0.02}
QUICK |= {"warmup": 2, "log_every": 3, "save_every": 4, "validate_every": 6, "validation_samples": 4, "num_threads": 1}
STACK = {"fusion": "stack", "mask_strategy": "consistent"}
METHODS = {
    "one sensor": {"sensors": ["s1"], "fusion": "none"},
    "channel stack": STACK,
    "multimae": {"fusion": "none", "joint_attention": True, "mask_strategy": "dirichlet"},
    "infonce": {"method": "infonce", "fusion": "none"},
    "dino": {"method": "dino", "mask_ratio": 0.0, "sensor_drop": 0.5, "teacher_momentum": 0.9, **STACK},
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return make_ombria(tmp_path_factory.mktemp("data"))


def params(archive, out, name, **options) -> dict:
    return QUICK | {"data_root": str(archive), "out": str(out)} | METHODS[name] | options


def weights(out):
    return load_file(out / "model" / "model.safetensors")


def small(kind, modalities=None, **options):
    """A small model of each class, for images of 32 pixels."""
    torch.manual_seed(0)
    modalities = modalities or two_sensors()
    if kind == "resnet":
        return SmallResNet(modalities, 32, "resnet10t")
    if kind == "infonce":
        return InfoNCE(modalities, 16, **SMALL | options)
    return DINO(modalities, **{"steps": 10, "prototypes": 64} | SMALL | options)


# -- all of them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_each_learns(name, archive, tmp_path):
    """Its loss falls; of DINO's, what the student lacks of the teacher: a few alike images hold no classes to find."""
    options = {"norm_target": "none", "lr": {"infonce": 0.1, "dino": 0.01}.get(name, 0.02), "mask_ratio": 0.5}
    options |= METHODS["dino"] if name == "dino" else {}
    train(params(archive, tmp_path, name, steps=30, **options))
    log, learned = read_log(tmp_path), "divergence" if name == "dino" else "loss"
    assert log[-1][learned] < 0.8 * log[0][learned]
    checked = read_validation(tmp_path)
    assert checked[-1][learned] < checked[0][learned]
    parts = {"one sensor": {"s1"}, "infonce": {"s1-s2"}, "dino": {"entropy", "divergence"}}.get(name, {"s1", "s2"})
    assert set(log[-1]) - {"step", "loss", "lr", "samples_per_s", "waited", "time", "validation"} == parts
    assert set(log[-1]["validation"]) == parts


@pytest.mark.parametrize("name", METHODS)
def test_each_resumes_exactly(name, archive, tmp_path, monkeypatch):
    """A run that breaks off at step 10, after the checkpoint of step 8, ends as one that never did, bit by bit."""
    train(params(archive, tmp_path / "whole", name))
    steps, scheduler_step = [], torch.optim.AdamW.step

    def breaks(optimizer, *args, **kwargs):
        steps.append(1)
        if len(steps) == 10:
            raise KeyboardInterrupt
        return scheduler_step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", breaks)
    with pytest.raises(KeyboardInterrupt):
        train(params(archive, tmp_path / "broken", name))
    assert not (tmp_path / "broken" / "model").exists()
    train(params(archive, tmp_path / "broken", name))
    assert len(steps) == 10 + 4  # steps 9 to 12 again
    whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert [k for k in whole | broken if not torch.equal(whole[k], broken[k])] == []


@pytest.mark.parametrize("name", ["infonce", "dino"])
def test_parts_of_a_batch_and_bf16(name, archive, tmp_path):
    """Both run: a batch in four parts, each with both views of its samples, and half precision."""
    train(params(archive, tmp_path / "parts", name, steps=2, accumulate=4))
    train(params(archive, tmp_path / "bf16", name, steps=2, precision="bf16"))
    for run in ("parts", "bf16"):
        assert all(v.isfinite().all() for v in weights(tmp_path / run).values())


@pytest.mark.parametrize("kind", ["infonce", "dino", "resnet"])
def test_saved_loaded_and_refused(kind, tmp_path):
    model = small(kind).eval()
    save(model, tmp_path)
    again = load(tmp_path)
    assert type(again) is type(model)
    assert again.config == model.config
    x = images(two_sensors())
    assert torch.equal(again.encode(x).cls, model.encode(x).cls)
    state = model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in again.state_dict().items())
    other = small(kind, [sensor("s1", 2), sensor("s2", 3)])
    (tmp_path / "other").mkdir()
    (save(other, tmp_path / "other") / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=f"do not fit {type(model).__name__}: of another shape: "):
        load(tmp_path / "other")


@pytest.mark.parametrize("kind", ["infonce", "dino", "resnet"])
def test_encode_takes_any_subset(kind):
    model, x = small(kind).eval(), images(two_sensors())
    tokens, dim = (1, 512) if kind == "resnet" else (16, 32)
    features = {}
    for names in (("s1",), ("s2",), ("s1", "s2")):
        encoded = model.encode({n: x[n] for n in names})
        assert set(encoded.tokens) == (set(names) if kind == "infonce" else {"stack"})
        assert all(t.shape == (3, tokens, dim) for t in encoded.tokens.values())
        assert encoded.cls.shape == (3, dim)
        assert ("stack" in encoded.tokens) is (model.fusion == "stack")
        features[names] = encoded.cls
    assert not torch.allclose(features["s1",], features["s2",])
    assert not torch.allclose(features["s1", "s2"], features["s2",])
    present = {"s1": torch.tensor([True, False, True]), "s2": torch.ones(3, dtype=torch.bool)}
    x["s1"][1] = 5.0  # whatever stands in for a missing image
    some = model.encode(x, present=present).cls
    assert torch.allclose(some[0], features["s1", "s2"][0], atol=1e-5)
    assert torch.allclose(some[1], features["s2",][1], atol=1e-5)
    with pytest.raises(ValueError, match="give at least one of"):
        model.encode({})


@pytest.mark.parametrize("kind", ["infonce", "dino"])
def test_values_held_for_missing_images_do_not_matter(kind):
    model, x = small(kind).eval(), images(two_sensors(), batch=4)
    present = {"s1": torch.tensor([True, False, True, True]), "s2": torch.tensor([True, True, True, False])}
    strategy = "consistent" if kind == "dino" else "independent"
    masks = draw_masks(model.grids, 4, strategy, 0.5, generator=generator(), present=present)
    before = model(x, masks).loss
    x["s1"][1], x["s2"][3] = 9.0, -9.0
    assert torch.equal(before, model(x, masks).loss)
    before.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# -- InfoNCE ------------------------------------------------------------------------------------------------------


def test_info_nce_by_hand():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    b = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    rows = [[0.6, 0.0], [0.8, 1.0]]  # cosines, a down, b across
    s = 2.0

    def cross_entropy(logits, right):
        return math.log(sum(math.exp(s * x) for x in logits)) - s * logits[right]

    forth = (cross_entropy(rows[0], 0) + cross_entropy(rows[1], 1)) / 2
    back = (cross_entropy([rows[0][0], rows[1][0]], 0) + cross_entropy([rows[0][1], rows[1][1]], 1)) / 2
    assert info_nce(a, b, s).item() == pytest.approx((forth + back) / 2, rel=1e-6)
    assert info_nce(a, b, s).item() == pytest.approx(info_nce(b, a, s).item(), rel=1e-6)


def test_a_perfect_match_beats_a_shuffled_one():
    a = torch.nn.functional.normalize(torch.randn(8, 16, generator=generator()), dim=-1)
    perfect, shuffled = info_nce(a, a, 10.0), info_nce(a, a.roll(1, 0), 10.0)
    assert perfect < 0.1 < math.log(8) < shuffled
    assert info_nce(a, a, 0.0).item() == pytest.approx(math.log(8))  # no temperature, no opinion
    assert info_nce(a[:0], a[:0], 10.0) == 0
    precise = info_nce(a, a.roll(1, 0), 100.0).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert info_nce(a, a.roll(1, 0), 100.0).item() == pytest.approx(precise, rel=1e-5)


def test_each_pair_counts_the_samples_that_have_both():
    three = [sensor("s1", 2), sensor("s2", 12), sensor("dem", 1)]
    model, x = small("infonce", three).eval(), images(three, batch=4)
    present = {"dem": torch.tensor([True, True, False, False])}
    masks = draw_masks(model.grids, 4, mask_ratio=0.5, generator=generator(), present=present)
    loss, pred, _ = model(x, masks)
    parts = model.losses(x, masks, pred)
    assert list(parts) == ["s1-s2", "s1-dem", "s2-dem"]
    assert loss.item() == pytest.approx(sum(parts.values()).item(), rel=1e-6)
    scale = model.log_scale.exp()
    assert scale.item() == pytest.approx(1 / 0.07)
    assert torch.allclose(parts["s1-dem"], info_nce(pred["s1"][:2], pred["dem"][:2], scale))
    assert torch.allclose(parts["s1-s2"], info_nce(pred["s1"], pred["s2"], scale))
    assert torch.allclose(pred["s1"].norm(dim=-1), torch.ones(4), atol=1e-5)
    nobody = draw_masks(model.grids, 4, generator=generator(), present={"dem": torch.zeros(4, dtype=torch.bool)})
    assert model.losses(x, nobody, model(x, nobody).pred)["s2-dem"] == 0


def test_the_temperature_is_learned_and_bounded():
    model, x = small("infonce"), images(two_sensors(), batch=4)
    masks = keep_all(model.grids, 4)
    model(x, masks).loss.backward()
    assert model.log_scale.grad.abs() > 0
    pred = model(x, masks).pred
    model.log_scale.data.fill_(20.0)
    assert torch.allclose(model.losses(x, masks, pred)["s1-s2"], info_nce(pred["s1"], pred["s2"], 100.0))


def test_contrast_needs_two_sensors():
    with pytest.raises(ValueError, match=r"needs two sensors or more, got \['s1'\]"):
        small("infonce", [sensor("s1", 2)])


# -- the others ---------------------------------------------------------------------------------------------------


def test_resnet_stacks_normalised_bands_and_zeros_for_the_missing():
    s1 = sensor("s1", 2).replace(mean=(-10.0, -20.0), std=(4.0, 5.0), valid_range=(-50, 0))
    model = small("resnet", [s1, sensor("s2", 3)])
    x = {"s1": torch.full((2, 2, 32, 32), -30.0)}
    x["s1"][0, 0, 0, 0] = 1e6  # clipped to 0
    stacked = model.stack(x)
    assert stacked.shape == (2, 5, 32, 32)
    assert stacked[0, 0, 0, 0] == 10 / 4
    assert stacked[1, :2, 0, 0].tolist() == [-20 / 4, -10 / 5]
    assert stacked[:, 2:].eq(0).all()
    assert model.stack(x, {"s1": torch.tensor([False, True])})[0].eq(0).all()
    coarse = model.stack(x | {"s2": torch.ones(2, 3, 16, 16)})
    assert coarse[:, 2:].eq(1).all()
    with pytest.raises(ValueError, match="a convnet sees whole images"):
        model.encode(x, keep_all(model.grids, 2))


def test_resnet_has_a_coarse_grid_and_trains():
    torch.manual_seed(0)
    model = SmallResNet(two_sensors(), 64)
    assert model.grids == {"s1": (2, 2), "s2": (2, 2)}
    assert model.encode(images(two_sensors(), (64, 64))).tokens["stack"].shape == (3, 4, 512)
    assert model.encode(images(two_sensors(), (96, 80))).tokens["stack"].shape == (3, 9, 512)
    assert model.grid_of((96, 80)) == (3, 3)
    model.encode(images(two_sensors(), (64, 64))).cls.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_stack_misses_a_sensor_gracefully():
    """Channel stacking encodes samples that lack a sensor, and refuses to reconstruct them."""
    model = build(read_params(QUICK | STACK), load_manifest("ombria").sensors).eval()
    x = images(list(model.modalities.values()), batch=2)
    present = {"s1": torch.tensor([True, False])}
    both, alone = model.encode(x, present=present).cls, model.encode({"s2": x["s2"]}).cls
    assert torch.allclose(both[1], alone[1], atol=1e-5)
    assert not torch.allclose(both[0], alone[0], atol=1e-3)
    masks = draw_masks(model.grids, 2, "consistent", generator=generator(), present=present)
    with pytest.raises(ValueError, match="cannot reconstruct samples that lack a sensor"):
        reconstruction_error(model, x, masks)
