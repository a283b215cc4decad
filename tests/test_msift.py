"""MsIFT: three tasks, every fusion, any sources; published sizes; what may and what must not reach an answer."""

import pytest
import torch
from sensors import generator, images, sensor, two_sensors

from fmlib import weights
from fmlib.models.msift import FUSIONS, TASKS, MsIFT, msift
from fmlib.models.msift_parts import Attention, LightNet

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 1, "mlp_dim": 48, "head_dim": 8, "num_classes": 3, "neck_dim": 16}
WAYS = {
    "pixel": {"extractor": "lightnet", "img_size": 7, "patch_size": 1},
    "image": {"extractor": "resnet10t", "widths": [8, 8, 16, 16], "img_size": 32, "patch_size": 4},
    "segmentation": {"extractor": "resnet10t", "widths": [8, 8, 16, 16], "img_size": 32, "patch_size": 2},
}
SIDES = {"pixel": 7, "image": 32, "segmentation": 32}


def build(task="segmentation", modalities=None, **options) -> MsIFT:
    torch.manual_seed(0)
    return MsIFT(modalities or two_sensors(), task, **SMALL | WAYS[task] | options)


def shown(task, modalities=None, batch=3, seed=0):
    return images(modalities or two_sensors(), (SIDES[task],) * 2, batch, seed)


def labels(task, batch=3):
    shape = (batch, 32, 32) if task == "segmentation" else (batch,)
    return torch.randint(0, 3, shape, generator=generator(1))


def cut_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.Dropout2d):
            module.p = 0.0
    return model


def count(*modules) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


# -- shapes and gradients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("chans", [(2,), (1, 3), (4, 4, 1)])
@pytest.mark.parametrize(("as_published", "norm"), [(True, "batch"), (False, "group")])
def test_shapes_and_gradients(task, fusion, chans, as_published, norm):
    modalities = [sensor(f"s{i}", c) for i, c in enumerate(chans[:1] if fusion == "single" else chans)]
    model = build(task, modalities, fusion=fusion, as_published=as_published, norm=norm)
    pred = model(shown(task, modalities))
    shape = (3, 3, 32, 32) if task == "segmentation" else (3, 3)
    assert all(logits.shape == shape for logits in pred.stages.values())
    assert pred.logits is list(pred.stages.values())[-1]
    losses = model.losses(pred, labels(task))
    sum(losses.values()).backward()
    alone = [f".attn2.{m.name}." for m in modalities] if len(modalities) == 1 else []  # nobody to ask
    idle = [n for n, p in model.named_parameters() if p.grad is None and not ("decoder" in n and alone)]
    assert idle == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_loss_has_the_stages_of_the_paper():
    stages = {task: list(build(task)(shown(task)).stages) for task in TASKS}
    assert stages["pixel"] == stages["image"] == ["s1", "s2", "encoder", "decoder"]
    assert stages["segmentation"] == ["cnn", "encoder", "decoder"]
    model = build("image", aux=False)
    assert list(model.losses(model(shown("image")), labels("image"))) == ["decoder"]
    assert list(build(fusion="concat")(shown("segmentation")).stages) == ["fused"]


def test_the_loss_is_the_mean_over_what_is_labelled():
    model, y = build(), labels("segmentation")
    pred = model(shown("segmentation"))
    y[:, :5] = 255
    expected = torch.nn.functional.cross_entropy(pred.logits, y, ignore_index=255)
    assert torch.allclose(model.losses(pred, y)["decoder"], expected)
    assert all(loss == 0 for loss in model.losses(pred, torch.full_like(y, 255)).values())


@pytest.mark.parametrize("task", TASKS)
def test_other_sizes_than_in_training(task):
    for as_published in (True, False):
        model = build(task, as_published=as_published).eval()
        side = {"pixel": 9, "image": 64, "segmentation": 64}[task]
        logits = model(images(two_sensors(), (side, side))).logits
        assert logits.shape == ((3, 3, side, side) if task == "segmentation" else (3, 3))


def test_sources_of_different_resolution_meet():
    both = {"s1": torch.randn(2, 2, 32, 32), "s2": torch.randn(2, 12, 16, 16)}
    for fusion in FUSIONS[:-1]:
        assert build(fusion=fusion)(both).logits.shape == (2, 3, 32, 32)
    assert build("image", patch_size=2)(both).logits.shape == (2, 3)


# -- published sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "chans", "classes", "transformer", "whole"),
    [
        ("pixel", (144, 21), 15, 5.27e6, 6.72e6),
        ("image", (3, 3), 6, 33.7e6, 89.7e6),
        ("segmentation", (4, 4), 2, 16.8e6, 23.9e6),  # the sheet's 23.9 M are without extractors and head
    ],
)
def test_published_configurations_have_their_size(task, chans, classes, transformer, whole):
    with torch.device("meta"):
        modalities = [sensor(name, c) for name, c in zip(("a", "b"), chans, strict=True)]
        model = msift("paper", modalities, task, num_classes=classes)
    assert count(model.fuse.encoder, model.fuse.decoder) == pytest.approx(transformer, rel=0.01)
    if task == "segmentation":
        assert count(model.fuse, model.restore) == pytest.approx(whole, rel=0.01)
        assert model.stride == 8
        assert model.fuse.grid == (56, 56)
    else:  # the published pyramids have three more output convolutions each, which nothing uses
        dim = model.config["neck_dim"]
        assert count(model) + 2 * 3 * (9 * dim * dim + dim) == pytest.approx(whole, rel=0.01)


def test_small_ones_are_small_and_see_each_image_by_itself_with_group_norm():
    for task, most in (("pixel", 1e6), ("image", 3e6), ("segmentation", 3e6)):
        model = cut_dropout(msift("small", two_sensors(), task, img_size=SIDES[task], norm="group")).train()
        assert count(model) < most
        assert "BatchNorm2d" not in {type(module).__name__ for module in model.modules()}
        x = images(two_sensors(), (SIDES[task],) * 2)
        alone = model({name: image[:1] for name, image in x.items()}).logits
        assert torch.allclose(model(x).logits[:1], alone, atol=1e-4)


@pytest.mark.parametrize("fusion", ["msift", "concat"])
def test_without_convnet_and_pyramid_no_place_knows_of_far_ones_but_through_attention(fusion):
    options = {"extractor": "none", "neck_dim": 8, "patch_size": 4, "head_dim": 0, "img_size": 32, "num_heads": 1}
    model = MsIFT(two_sensors(), fusion=fusion, embed_dim=32, depth=1, mlp_dim=32, **options).eval()
    assert model.stride == 1
    x = images(two_sensors(), (32, 32))
    before = model(x).logits
    assert before.shape == (3, 2, 32, 32)
    x["s1"] = x["s1"].clone()
    x["s1"][..., :4, :4] += 5
    moved = (model(x).logits - before).abs().amax((0, 1)) > 1e-6
    assert moved[:4, :4].any()
    assert moved[8:, 8:].any() == (fusion == "msift")


def test_the_image_itself_needs_a_neck():
    with pytest.raises(ValueError, match="set neck_dim"):
        MsIFT(two_sensors(), extractor="none")


def test_quirks_of_the_published_code():
    published, clean = build(), build(as_published=False)
    assert published.fuse.encoder[0].second == "self"
    assert clean.fuse.encoder[0].second == ""
    q, k = torch.randn(2, 1, 5, 32, generator=generator()).unbind(0)
    for model, scale in ((published, 32**-0.5), (clean, 64**-0.5)):
        attn: Attention = model.fuse.decoder[0].attn2["s1"]
        _, seen = attn(q, k, return_attention=True)
        scores = scale * attn.q(q) @ attn.kv(k)[..., :64].transpose(1, 2)
        assert torch.allclose(seen[:, 0], scores.softmax(-1), atol=1e-6)
    assert published.fuse.pos.requires_grad
    assert [n for n, _ in clean.named_parameters() if "pos" in n] == []
    momenta = [m.momentum for m in build("pixel").modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert set(momenta) == {0.9}


def test_lightnet_keeps_a_window_a_map():
    maps = LightNet(5)(torch.randn(2, 5, 7, 7))
    assert [tuple(x.shape[1:]) for x in maps] == [(16, 7, 7), (32, 4, 4), (128, 3, 3), (64, 3, 3)]


# -- who sees whom --------------------------------------------------------------------------------------------------


def test_sources_meet_in_the_decoder_alone():
    model, x = cut_dropout(build()), {n: v.requires_grad_() for n, v in shown("segmentation").items()}
    maps, here = model.maps(x, {})
    stages, _ = model.fuse(maps, here)
    for stage, crosses in (("cnn", False), ("encoder", False), ("decoder", True)):
        for name, other in (("s1", "s2"), ("s2", "s1")):
            grads = torch.autograd.grad(
                stages[stage][name].square().sum(), x[other], retain_graph=True, allow_unused=True
            )
            assert (grads[0] is not None and grads[0].abs().sum() > 0) == crosses
    nothing = build(decoder_depth=0)
    assert len(nothing.fuse.decoder) == 0


def test_both_sources_are_updated_from_the_same_states():
    """The second source asks what the first was before its own update, as published."""
    layer = build().fuse.decoder[0].eval()
    tokens = {name: torch.randn(2, 6, 32, generator=generator(i)) for i, name in enumerate(("s1", "s2"))}
    pads = dict.fromkeys(tokens)
    there, _ = layer(tokens, pads)
    back, _ = layer(dict(reversed(tokens.items())), pads)
    assert all(torch.allclose(there[name], back[name], atol=1e-6) for name in tokens)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("fusion", ["msift", "add", "concat"])
def test_names_do_not_matter(task, fusion):
    """Exchange two sources of one kind, weights and images alike: the answer is the same."""
    pair = [sensor("a", 3), sensor("b", 3)]
    model, other = build(task, pair, fusion=fusion).eval(), build(task, pair, fusion=fusion).eval()
    swap = {"a": "b", "b": "a"}
    state = {".".join(swap.get(part, part) for part in key.split(".")): x for key, x in model.state_dict().items()}
    if fusion == "concat":  # whose first convolution stacks them
        first = state["fuse.net.0.weight"]
        state["fuse.net.0.weight"] = torch.cat(first.chunk(2, dim=1)[::-1], dim=1)
    other.load_state_dict(state)
    x = shown(task, pair)
    swapped = {swap[name]: image for name, image in x.items()}
    assert torch.allclose(model(x).logits, other(swapped).logits, atol=1e-5)
    assert not torch.allclose(model(x).logits, model(swapped).logits, atol=1e-3)


# -- missing sources ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("fusion", ["msift", "add", "concat", "concat_conv"])
def test_a_sample_that_lacks_a_source_is_as_if_alone(task, fusion):
    model, x = build(task, fusion=fusion).eval(), shown(task, batch=4)
    present = {"s1": torch.tensor([True, True, False, True]), "s2": torch.tensor([True, False, True, True])}
    together = model(x, present).logits
    assert torch.allclose(together[0], model({n: v[:1] for n, v in x.items()}).logits[0], atol=1e-5)
    for row, name in ((1, "s1"), (2, "s2")):
        alone = model({name: x[name][row : row + 1]}).logits[0]
        assert torch.allclose(together[row], alone, atol=1e-5)
        other = "s2" if name == "s1" else "s1"
        changed = x | {other: x[other].index_fill(0, torch.tensor(row), 7.0)}
        assert torch.equal(model(changed, present).logits[row], together[row])  # what is missing cannot matter


def test_missing_sources_do_not_train():
    model, x = cut_dropout(build("image")), shown("image", batch=4)
    present = {"s1": torch.ones(4, dtype=torch.bool), "s2": torch.tensor([True, True, False, True])}
    y = labels("image", 4)
    losses = model.losses(model(x, present), y, present)
    known = present["s2"]
    own = model.losses(model({n: v[known] for n, v in x.items()}), y[known])["s2"]
    assert torch.allclose(losses["s2"], own, atol=1e-5)  # batch norm saw three images, the loss counts three
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# -- attention ------------------------------------------------------------------------------------------------------


def test_attention_maps():
    model, x = build("image").eval(), shown("image")
    pred = model(x, return_attention=True)
    assert torch.allclose(pred.logits, model(x).logits, atol=1e-5)
    assert "encoder.1.self2.s2" in pred.attn
    seen = pred.attn["decoder.1.cross.s1"]
    assert seen.shape == (3, 1, 5, 5)  # 2 × 2 tokens behind the class token
    assert torch.allclose(seen.sum(-1), torch.ones(3, 1, 5), atol=1e-5)
    three = build("segmentation", [*two_sensors(), sensor("dem", 1)], as_published=False)
    attn = three(shown("segmentation", three.modalities.values()), return_attention=True).attn
    assert attn["decoder.0.cross.dem"].shape == (3, 1, 16, 32)  # the union of the others' tokens
    assert not [layer for layer in attn if "self2" in layer]
    assert model(x).attn == {}


# -- checkpoints, repetition, bad input -----------------------------------------------------------------------------


def test_a_checkpoint_rebuilds_it(tmp_path, monkeypatch):
    monkeypatch.setitem(weights._CLASSES, "MsIFT", MsIFT)
    model = build("image").eval()
    again = weights.load(weights.save(model, tmp_path))
    assert torch.equal(again(shown("image")).logits, model(shown("image")).logits)
    assert again.config == model.config


@pytest.mark.parametrize(
    ("as_published", "first", "last"), [(True, 3.3519087, 2.9493060), (False, 3.6034708, 3.1275125)]
)
def test_the_golden_loss(as_published, first, last):
    """Ten steps from a fixed seed: a change that should not alter results leaves these numbers as they are."""
    model = cut_dropout(build(as_published=as_published))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    x, losses = shown("segmentation"), []
    for _ in range(10):
        loss = sum(model.losses(model(x), (x["s2"][:, 0] > 0).long()).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(first, rel=1e-4)
    assert losses[-1] == pytest.approx(last, rel=5e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MsIFT(two_sensors(), "video"), "task is 'video'; choose one of pixel, image, segmentation"),
        (lambda: build(fusion="sum"), "fusion is 'sum'; choose one of msift, add, concat, concat_conv, single"),
        (lambda: build(norm="layer"), "norm is 'layer'; choose one of batch, group"),
        (lambda: build(fusion="single"), r"one source, but \['s1', 's2'\] were given"),
        (lambda: msift("huge", two_sensors()), "preset is 'huge'; choose one of paper, small"),
        (lambda: build()({}), r"sensors \[\] came in; give at least one of \['s1', 's2'\]"),
        (lambda: build()({"s3": torch.zeros(1, 1, 32, 32)}), r"sensors \['s3'\] came in"),
        (lambda: build()({"s1": torch.zeros(1, 3, 32, 32)}), "'s1': 3 channels came in, but 2 were expected: s1_0"),
        (
            lambda: build()(images(two_sensors(), (36, 32))),
            r"'s1': an image of \(36, 32\) pixels .* multiples of 8",
        ),
    ],
)
def test_bad_input_says_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()
