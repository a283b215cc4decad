"""MsIFT where sensors are displaced, in training and in test."""

import copy

import numpy as np
import pytest
import torch
from archives import make_ombria
from msift_parts import open_corners, params, scores_of

from fmlib import train_msift
from fmlib.misalign import Displacement
from fmlib.recipe_msift import Part, build
from fmlib.train_msift import predict, predict_displaced, read_params, train


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return open_corners(make_ombria(tmp_path_factory.mktemp("data"), train=8, test=3))


def test_a_displaced_source_scores_as_displaced_images_do(parts, tmp_path):
    p = read_params(params(tmp_path, steps=12))
    model, part = train(p, parts), parts["test"]
    found = [predict_displaced(model, part, p, shift) for shift in (0, 5, 30)]
    assert found[0].scores["miou"] == scores_of(tmp_path)["test"]["miou"]
    assert found[2].scores["miou"] < found[0].scores["miou"]
    up, down = (predict(model, part, p, displaced=("s2", Displacement(angle=angle))) for angle in (9, -9))
    turned = predict_displaced(model, part, p, 9, kind="angle")
    assert torch.equal(turned.confusion, up.confusion + down.confusion)
    assert (found[1].confusion.sum((1, 2)) == 4 * 64 * 64).all()  # four ways; the map stays where it is and whole
    assert found[1].places == ["0001", "0002", "0003"]


def test_the_middle_is_looked_at_after_moving(parts, tmp_path):
    """So what comes in at its border is real ground, not a reflection."""
    p = read_params(params(tmp_path))
    model, part = train(p, parts), parts["test"]
    moved = predict(model, part, p, displaced=("s2", Displacement(8, 0)), crop=32)
    assert (moved.confusion.sum((1, 2)) == 32 * 32).all()
    inside = {name: array.copy() for name, array in part.data.arrays.items()}
    inside["s2"] = np.roll(inside["s2"], 8, axis=2)
    other = copy.copy(part.data)
    other.arrays = {name: array[..., 16:48, 16:48] for name, array in inside.items()}
    assert torch.equal(predict(model, Part(other, part.indices), p).confusion, moved.confusion)


def test_a_model_without_the_displaced_source_does_not_care(parts, tmp_path):
    p = read_params(params(tmp_path, sensors=["s1"], fusion="single"))
    alone = {part: Part(copy.copy(data), indices) for part, (data, indices) in parts.items()}
    for data, _ in alone.values():
        data.modalities = {"s1": data.modalities["s1"]}
    model = train(p, alone)
    still, moved = (predict_displaced(model, alone["test"], p, shift, "s2") for shift in (0, 8))
    assert torch.equal(moved.confusion, 4 * still.confusion)


def test_displacement_in_training_moves_one_source_alone(parts, tmp_path):
    model = build(read_params(params(tmp_path)), parts["train"].data)
    plain, shifted = (
        train_msift._batch(read_params(params(tmp_path, shift_train=shift)), parts["train"], model, "cpu", 0)
        for shift in (0.0, 6.0)
    )
    assert torch.equal(plain.images["s1"], shifted.images["s1"])
    assert torch.equal(plain.labels, shifted.labels)
    assert not torch.equal(plain.images["s2"], shifted.images["s2"])
    assert set(shifted.images["s2"].unique().tolist()) <= set(range(256))  # whole pixels: no blur


def test_bands_are_off_by_one_number_a_sample(parts, tmp_path):
    model = build(read_params(params(tmp_path)), parts["train"].data)
    plain, off = (
        train_msift._batch(read_params(params(tmp_path, band_noise=amount)), parts["train"], model, "cpu", 0)
        for amount in (0.0, 0.3)
    )
    assert torch.equal(plain.labels, off.labels)
    drawn = [(off.images[n] - plain.images[n]) / model.sources[n].std / 0.3 for n in ("s1", "s2")]
    assert all(x.std((2, 3)).max() < 1e-4 for x in drawn)  # all pixels alike
    drawn = torch.cat([x.mean((2, 3)).flatten() for x in drawn])  # 4 samples of 2 + 6 bands
    assert len(drawn.unique()) == 32
    assert 0.6 < drawn.std() < 1.4


def test_a_source_can_be_left_out_when_scoring(parts, tmp_path):
    p = read_params(params(tmp_path))
    model = train(p, parts)
    alone = predict(model, parts["test"], p, sensors=["s1"])
    assert alone.places == ["0001", "0002", "0003"]
    assert not torch.equal(alone.confusion, predict(model, parts["test"], p).confusion)
