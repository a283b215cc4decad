"""DINO: two views with sensors dropped, a teacher that follows, and a loss that does not collapse."""

import math

import pytest
import torch
from sensors import generator, images, sensor, two_sensors

from fmlib.masking import draw_masks, keep_all
from fmlib.models.dino import DINO, two_views
from fmlib.train import make_optimizer, read_params, train_step

SMALL = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 4}


def small(modalities=None, **options) -> DINO:
    """For images of 32 pixels."""
    torch.manual_seed(0)
    return DINO(modalities or two_sensors(), **{"steps": 10, "prototypes": 64} | SMALL | options)


def dino_batch(model, samples=4, same=False, ratio=0.0):
    """Views and masks for a batch; with `same`, one constant image for all."""
    x = images(two_sensors(), batch=2 * samples)
    x = {n: torch.full_like(v, 0.3) for n, v in x.items()} if same else x
    return x, draw_masks(model.grids, 2 * samples, "consistent", ratio, generator=generator())


def test_the_teacher_learns_nothing_and_follows_exactly():
    model = small(steps=4, momentum=0.9)
    x, masks = dino_batch(model, ratio=0.5)
    assert all(torch.equal(s, t) for s, t in zip(model.student.parameters(), model.teacher.parameters(), strict=True))
    optimizer, _ = make_optimizer(model, read_params({"batch_size": 4, "lr": 1.0, "warmup": 0}))
    for step in range(4):
        before = [t.clone() for t in model.teacher.parameters()]
        train_step(read_params({"batch_size": 4, "clip_grad": 0.0}), model, optimizer, x, masks)
        momentum = 1 - 0.1 * (1 + math.cos(math.pi * step / 4)) / 2  # DINO's cosine from 0.9 to 1
        for old, slow, fast in zip(before, model.teacher.parameters(), model.student.parameters(), strict=True):
            assert torch.allclose(slow, momentum * old + (1 - momentum) * fast, atol=1e-6)
        assert all(t.grad is None for t in model.teacher.parameters())
        assert all((t - old).abs().max() > 0 for t, old in zip(model.teacher.parameters(), before, strict=True))
    assert model.step == 4
    model.encode(x).cls.sum().backward()  # but whoever fine-tunes it later gets them
    assert model.encoder.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0


def test_the_loss_compares_each_view_with_the_other():
    model = small().eval()
    masks = keep_all(model.grids, 2)
    target = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    logits = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    parts = model.losses({}, masks, {"student": logits, "teacher": target})
    log_p = [[x - math.log(sum(map(math.exp, row))) for x in row] for row in logits.tolist()]
    cross = -(0.2 * log_p[0][0] + 0.8 * log_p[0][1] + 0.9 * log_p[1][0] + 0.1 * log_p[1][1]) / 2
    entropy = -sum(p * math.log(p) for p in (0.9, 0.1, 0.2, 0.8)) / 2
    assert parts["entropy"].item() == pytest.approx(entropy, rel=1e-5)
    assert (parts["entropy"] + parts["divergence"]).item() == pytest.approx(cross, rel=1e-5)


def test_centring_takes_away_what_all_samples_share():
    """On one constant image a sharpened teacher would elect one prototype; the centre takes its lead away.

    So the answer for all cannot be one prototype. (The other collapse, to no answer at all, is kept off by sharpening.)
    """
    model = small(center_momentum=0.5)
    x, masks = dino_batch(model, same=True)
    first = model(x, masks).pred["teacher"]
    assert first.max() > 10 / 64  # no centre yet: the target is sharp
    for _ in range(25):
        last = model(x, masks).pred["teacher"]
    assert torch.allclose(last, torch.full_like(last, 1 / 64), atol=1e-3)
    center = model.center.clone()
    model.eval()(x, masks)
    assert torch.equal(model.center, center)  # evaluation moves nothing


def test_sharpening_keeps_answers_apart():
    model = small(center_momentum=0.5)
    x, masks = dino_batch(model)
    for _ in range(25):
        pred = model(x, masks).pred
    parts = model.losses(x, masks, pred)
    assert parts["entropy"] < 0.95 * math.log(64)
    softer = small(center_momentum=0.5, teacher_temperature=1.0)
    for _ in range(25):
        pred = softer(x, masks).pred
    assert softer.losses(x, masks, pred)["entropy"] > 0.99 * math.log(64)


def test_views_are_windows_of_the_sample_alike_in_all_sensors():
    both = [sensor("s1", 1), sensor("s2", 1)]
    ramp = torch.linspace(-1, 1, 64).expand(64, 64) + 10 * torch.arange(3.0).view(3, 1, 1, 1)  # (3, 1, 64, 64)
    x = {"s1": ramp, "s2": ramp[..., ::2, ::2]}  # S2 has pixels twice as large
    present = {"s1": torch.ones(3, dtype=torch.bool), "s2": torch.tensor([True, True, False])}
    modalities = {m.name: m for m in both}
    views, here = two_views(x, present, modalities, generator(), jitter=0.0)
    assert views["s1"].shape == (6, 1, 64, 64)
    assert torch.allclose(views["s1"].mean((1, 2, 3)).round(decimals=-1), torch.tensor([0.0, 0, 10, 10, 20, 20]))
    halved = torch.nn.functional.avg_pool2d(views["s1"], 2)
    assert (halved - views["s2"]).abs().max() < 0.05
    assert here["s2"].tolist() == [True, True, True, True, False, False]
    spread = views["s1"].amax((1, 2, 3)) - views["s1"].amin((1, 2, 3))
    assert ((spread > 2 * 0.4**0.5 - 0.1) & (spread <= 2.001)).all()  # windows of 40 % to 100 % of the area
    assert len(spread.unique()) == 6
    again, _ = two_views(x, present, modalities, generator(), jitter=0.0)
    assert torch.equal(views["s1"], again["s1"])
    brighter, _ = two_views(x, present, modalities, generator(), jitter=0.4)
    assert (brighter["s1"] - views["s1"]).abs().amax((1, 2, 3)).min() > 0


def test_a_view_lacks_one_sensor_about_so_often_and_never_all():
    x = images(two_sensors(), batch=400, size=(8, 8))
    present = {n: torch.ones(400, dtype=torch.bool) for n in x}
    _, here = two_views(x, present, {m.name: m for m in two_sensors()}, generator(), sensor_drop=0.5)
    both = torch.stack(list(here.values())).sum(0)
    assert both.min() == 1
    assert (both == 1).float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert here["s1"].float().mean().item() == pytest.approx(0.75, abs=0.06)
