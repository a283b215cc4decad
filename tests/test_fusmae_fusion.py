"""Where the sensors of a Fus-MAE meet: gradients flow across where the fusion says, and nowhere else."""

import pytest
import torch
from sensors import images, sensor, two_sensors
from small_fusmae import SMALL, build, draw

from fmlib.models.fusmae import FUSIONS


def cross_gradient(model, target: str, source: str) -> float:
    """How much the loss of one sensor depends on the image of the other."""
    x = {n: v.requires_grad_() for n, v in images(two_sensors()).items()}
    masks = draw(model)
    patches, grids = model.patches(x)
    pred, _ = model.forward_decoder(model.forward_encoder(patches, grids, masks).tokens, masks, grids)
    pred[target].square().sum().backward()
    return float(x[source].grad.abs().sum()) if x[source].grad is not None else 0.0


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("target", "source"), [("s1", "s2"), ("s2", "s1")])
def test_sensors_meet_only_where_they_should(fusion, target, source):
    flows = cross_gradient(build(fusion=fusion), target, source)
    assert flows == 0 if fusion == "none" else flows > 0


def test_xad_and_xae_meet_by_cross_attention_alone():
    """With the shared blocks attending inside each sensor, only the cross-attention can carry anything across."""
    for fusion in ("xad", "xae", "xaed"):
        assert cross_gradient(build(fusion=fusion, joint_attention=False), "s1", "s2") > 0
    assert cross_gradient(build(fusion="none", joint_attention=True), "s1", "s2") > 0  # MultiMAE's encoder


@pytest.mark.parametrize("fusion", ["xad", "xae", "xaed"])
@pytest.mark.parametrize("queries", ["latent", "grid"])
@pytest.mark.parametrize("shared", [False, True])
def test_one_direction_only(fusion, queries, shared):
    """As in CROMA, radar asks optical and not the reverse: gradients flow only where S1 is predicted."""
    options = {"fusion": fusion, "decoder_queries": queries, "cross_shared": shared, "joint_attention": False}
    model = build(cross_queries=["s1"], **options)
    assert cross_gradient(model, "s1", "s2") > 0
    assert cross_gradient(model, "s2", "s1") == 0
    both = build(**options)
    assert min(cross_gradient(both, "s1", "s2"), cross_gradient(both, "s2", "s1")) > 0
    maps = model.attention_maps(images(two_sensors()), draw(model))
    assert not [layer for layer in maps if layer in ("early.s2", "late.s2")]


def test_two_of_three_sensors_may_ask():
    three = [sensor("s1", 2), sensor("s2", 12), sensor("dem", 1)]
    model = build(three, fusion="xaed", joint_attention=False, cross_queries=["s1", "dem"])
    x = {n: v.requires_grad_() for n, v in images(three).items()}
    for target, pred in model(x, draw(model)).pred.items():
        grads = torch.autograd.grad(pred.sum(), x.values(), retain_graph=True, allow_unused=True)
        seen = {name for name, grad in zip(x, grads, strict=True) if grad is not None and grad.abs().sum() > 0}
        assert seen == ({"s2"} if target == "s2" else set(x))


def test_directions_that_share_weights_have_half_of_them():
    def cross(**options):
        model = build(fusion="xaed", **options)
        parts = (model.early_fusion.cross, model.late_fusion.cross)
        return [sum(p.numel() for p in part.parameters()) for part in parts]

    separate, shared, one_way = cross(), cross(cross_shared=True), cross(cross_queries=["s1"])
    assert [2 * n for n in shared] == separate
    norm = 2 * SMALL["embed_dim"]
    assert [2 * (n - 2 * norm) for n in one_way] == [n - 2 * norm for n in separate]  # the norms of both stay
