"""Maps from dense features."""

import dataclasses

import pytest
import torch
from held import hold, make_samples
from sensors import generator, two_sensors

from fmlib.evaluate import DenseHead, Features, ProbeParams, dense_probe, extract, predict_maps
from fmlib.evaluate.metrics import confusion, mean_ious
from fmlib.models.fusmae import fusmae

ADAMW = ProbeParams("adamw", lrs=(1e-2,), weight_decays=(1e-4,), epochs=15, batch_size=8)


def blocks(count=24, seed=0, noise=0.1, scale=4):
    """Dense features 8×8 that carry the class of their patch among six others, and the maps."""
    g = generator(seed)
    coarse = torch.randint(3, (count, 2, 2), generator=g).repeat_interleave(4, 1).repeat_interleave(4, 2)
    x = torch.randn(count, 8, 8, 6, generator=g)
    x[..., :3] = x[..., :3] * noise + torch.nn.functional.one_hot(coarse, 3)
    maps = coarse.repeat_interleave(scale, 1).repeat_interleave(scale, 2).byte()
    names = [str(i) for i in range(count)]
    return Features(x, maps, names, names)


@pytest.mark.parametrize(("head", "params"), [("linear", None), ("linear", ADAMW), ("decoder", ADAMW)])
def test_maps_are_found_where_features_hold_them(head, params):
    result = dense_probe(blocks(), blocks(seed=1), blocks(seed=2), head, 3, params)
    assert result.scores["miou"] > 0.85  # bilinear: not all of a border's pixels
    assert result.outputs.shape == (24, 3, 3)
    assert mean_ious(result.outputs.sum(0).numpy()) == result.scores["miou"]


def test_shuffled_maps_give_chance():
    parts = [blocks(seed=s)._replace(labels=blocks(seed=s + 9).labels) for s in range(3)]
    scores = dense_probe(*parts, classes=3).scores
    assert scores["miou"] < 0.3
    assert scores["accuracy"] == pytest.approx(1 / 3, abs=0.12)


@pytest.mark.parametrize(("head", "params"), [("linear", None), ("decoder", ADAMW)])
def test_pixels_of_255_count_neither_in_the_fit_nor_in_the_score(head, params):
    """Whatever class stands under the ignored pixels before they are ignored, the outcome is the same."""
    results = []
    for wrong in (0, 2):
        train, validation = (blocks(8, seed=s) for s in range(2))
        for part in (train, validation):
            part.labels[:, :12] = 255
        if head == "linear":
            train.x[:, :3] = wrong  # three rows of tokens that only ignored pixels see
        kept = params or ProbeParams(weight_decays=(1e-3,), standardise=False)
        results.append(dense_probe(train, validation, None, head, 3, kept))
    first, second = (list(r.head.parameters()) for r in results)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(first, second, strict=True))
    assert results[0].chosen == results[1].chosen
    assert results[0].outputs is None
    assert sum(results[0].class_shares) == pytest.approx(1)


def test_ignored_pixels_have_no_gradient():
    head, part = DenseHead(6, 3, (4, 4)), blocks(2)
    logits = head(part.x)
    logits.retain_grad()
    part.labels[0] = 255
    from fmlib.evaluate.probe import loss_of

    loss_of("segmentation")(logits, part.labels).backward()
    assert (logits.grad[0] == 0).all()
    assert (logits.grad[1] != 0).any()


@pytest.mark.parametrize("head", ["linear", "decoder"])
def test_heads_take_any_grid(head):
    net = DenseHead(6, 3, (8, 4), head)
    assert net(torch.zeros(2, 5, 7, 6)).shape == (2, 3, 40, 28)
    maps = predict_maps(net, torch.zeros(5, 2, 3, 6), batch_size=2)
    assert (maps.shape, maps.dtype) == ((5, 16, 12), torch.uint8)


def test_the_two_ways_to_fit_a_linear_head_agree():
    """By pixels with AdamW and by patches with L-BFGS: nearly the same maps."""
    parts = [blocks(seed=s, noise=0.6) for s in range(3)]
    longer = dataclasses.replace(ADAMW, lrs=(3e-2,), epochs=40)
    scores = [dense_probe(*parts, "linear", 3, params).scores["miou"] for params in (None, longer)]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)


def test_whole_images_of_a_model_made_for_smaller_ones():
    model = fusmae("nano", two_sensors(), img_size=32, fusion="xad").eval()
    data = [hold(make_samples(8, side=64, seed=s, task="segmentation")) for s in range(2)]
    train, validation = (extract(model, some, pool="dense") for some in data)
    result = dense_probe(train, validation)
    assert result.chosen["miou"] > 0.9
    maps = predict_maps(result.head, train.x)
    assert maps.shape == (8, 64, 64)
    assert confusion(maps, train.labels, 2).sum() == (train.labels != 255).sum()


def test_bad_parts_are_named():
    part = blocks(4)
    with pytest.raises(ValueError, match="maps need dense features and label maps"):
        dense_probe(part._replace(x=part.x.mean((1, 2))), part)
    with pytest.raises(ValueError, match="maps of 30×32 pixels do not divide into 8×8 tokens"):
        dense_probe(part._replace(labels=part.labels[:, :30]), part)
    with pytest.raises(ValueError, match="head='decoder' is fitted by batches"):
        dense_probe(part, part, head="decoder", params=ProbeParams())
    with pytest.raises(ValueError, match="head is 'unet'; choose one of linear, decoder"):
        DenseHead(6, 3, (4, 4), "unet")
