"""Attention maps: placed on the right patches of the right sensor, and what cannot be watched says why."""

import pytest
import torch
from sensors import generator, images, sensor, two_sensors
from torch import nn
from watched import fusmae, maefuse, masks_for, msift

from fmlib import attention
from fmlib.attention.places import CLS
from fmlib.masking import draw_masks, keep_all

# -- placed on the grids ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["none", "stack", "xad", "xae", "xaed"])
@pytest.mark.parametrize("strategy", ["consistent", "dirichlet"])
@pytest.mark.parametrize("queries", ["latent", "grid"])
def test_rows_sum_to_1_and_the_model_answers_as_ever(fusion, strategy, queries):
    if fusion == "stack" and strategy != "consistent":
        pytest.skip("channel stacking has one mask for all sensors")
    model, x = fusmae(fusion=fusion, decoder_queries=queries), images(two_sensors(), (32, 48))
    masks = draw_masks({"s1": (4, 6), "s2": (4, 6)}, 3, strategy, 0.5, generator=generator())
    plain = model(x, masks).pred
    for explicit in (False, True):
        seen = attention.watch(model, x, masks, explicit=explicit)
        assert all(torch.allclose(seen.output[name], plain[name], atol=1e-5) for name in plain)
        for layer in seen.layers.values():
            rows = layer.rows()
            assert rows.shape[2:] == tuple(sum(p.ids.shape[1] for p in side) for side in (layer.queries, layer.keys))
            answered = torch.cat([attention.places.there(part) for part in layer.keys], 1).any(1)
            assert torch.allclose(rows.sum(-1)[answered], torch.ones(()), atol=1e-5)


def test_lazy_maps_are_the_explicit_ones_and_take_less_memory():
    model = fusmae(img_size=96)
    x, masks = images(two_sensors(), (96, 96)), keep_all(model.grids, 3)
    lazy, explicit = (attention.watch(model, x, masks, explicit=e) for e in (False, True))
    assert lazy.layers.keys() == explicit.layers.keys()
    for name, layer in lazy.layers.items():
        whole = explicit.layers[name].map
        assert torch.allclose(layer.rows(), whole, atol=1e-5)
        assert torch.allclose(layer.rows(slice(3, 5)), whole[:, :, 3:5], atol=1e-5)
        assert (layer.map.q.numel() + layer.map.k.numel()) * 8 < whole.numel()
    assert not lazy.layers["early.s1"].map.q.requires_grad
    assert explicit.layers["early.s1"].map.requires_grad


def test_maps_lie_where_the_masks_say():
    model, x = fusmae(), images(two_sensors())
    masks = masks_for(model)
    seen, maps = attention.watch(model, x, masks), model.attention_maps(x, masks)
    assert set(maps) == set(seen.layers)
    keep = {name: mask.ids_keep[1] for name, mask in masks.items()}
    joint = attention.between(seen, "blocks.1", "s1", "s2", sample=1)  # (h, 16, 16)
    own = maps["blocks.1"][1, :, 1 : 1 + len(keep["s1"]), 1 + len(keep["s1"]) :]  # behind the class token
    assert torch.allclose(joint[:, keep["s1"]][:, :, keep["s2"]], own, atol=1e-6)
    late = attention.between(seen, "late.s2", "s2", "s1", sample=1)
    order = torch.cat([keep["s2"], masks["s2"].ids_remove[1]])
    assert torch.allclose(late[:, order][:, :, keep["s1"]], maps["late.s2"][1], atol=1e-6)


def test_removed_patches_are_never_keys_and_ask_only_in_the_decoder():
    model, x = fusmae(), images(two_sensors())
    masks = masks_for(model, strategy="dirichlet", ratio=0.6)  # ragged: some slots are padding
    seen = attention.watch(model, x, masks)
    for sample in range(3):
        removed = {name: mask.mask[sample].bool() for name, mask in masks.items()}
        for stage in ("early", "blocks.0", "late"):
            for layer in seen.stages[stage]:
                for patch in range(16):
                    looks = attention.look(seen, layer, "s1", patch, sample)
                    for name, weights in looks.items():
                        assert torch.equal(weights.isnan()[0].flatten(), removed[name])
                    if stage != "late":
                        assert not (looks and removed["s1"][patch])
        assert attention.look(seen, "late.s1", "s1", int(removed["s1"].nonzero()[0]), sample)


def test_one_sensor_alone_looks_at_no_other():
    model, x = fusmae(), images(two_sensors())
    seen = attention.watch(model, {"s1": x["s1"]})
    assert not [name for name in seen.layers if name.startswith(("early", "late"))]
    assert {(row["query"], row["key"]) for row in attention.measure(seen)} == {("s1", "s1")}
    assert set(attention.look(seen, "blocks.0", "s1", 5)) == {"s1"}
    with pytest.raises(ValueError, match=r"in layer 'blocks.0' 's1' does not look at 's2'; the keys are of cls, s1"):
        attention.between(seen, "blocks.0", "s1", "s2")


def test_a_missing_sensor_is_never_looked_at():
    model, x = fusmae(), images(two_sensors())
    present = {"s2": torch.tensor([True, False, True])}
    for watched in (model, msift()):
        seen = attention.watch(watched, x, present=present)
        name = next(name for name in seen.layers if name in ("late.s1", "early.s1", "decoder.0.cross.s1"))
        for sample, there in enumerate(present["s2"]):
            assert attention.look(seen, name, "s1", 3, sample)["s2"].isnan().all().item() is not there.item()
            assert bool(attention.look(seen, name, "s2", 3, sample)) is False


def test_three_sensors_answer_together():
    three = [sensor("s1", 2), sensor("s2", 12), sensor("dem", 1)]
    seen = attention.watch(fusmae(three), images(three))
    looks = attention.look(seen, "early.dem", "dem", 0)
    assert set(looks) == {"s1", "s2"}
    assert torch.allclose(sum(x.flatten(1).sum(1) for x in looks.values()), torch.ones(4), atol=1e-5)
    across = attention.look_across(seen, "early", {"here": 0}, head=2)["here"]
    assert torch.equal(across["dem"]["s2"], looks["s2"][2])
    assert torch.allclose(
        attention.look_across(seen, "early", {"here": 0})["here"]["dem"]["s1"], looks["s1"].mean(0), atol=1e-6
    )


def test_maefuse_is_placed_at_any_size_and_mfm_is_its_path():
    model = maefuse()
    x = {name: 255 * torch.rand(1, 1, 24, 37, generator=generator()) for name in ("ir", "vi")}
    seen = attention.watch(model, x)
    assert seen.grids["fused"] == (3, 5)
    assert seen.size == (24, 40)  # with the mirrored border
    assert seen.path == ("mfm",)
    whole = model(x, return_attention=True).attn["cfm.ir"]
    assert torch.allclose(attention.look(seen, "cfm.ir", "ir", 7)["vi"].flatten(1), whole[0, :, 7], atol=1e-6)
    across = attention.look_across(seen, "mfm", {"here": 7})["here"]
    assert set(across["fused"]) == {"ir", "vi"}
    flow = attention.rollout(seen, residual=False)
    total = {n: x.sum() for n, x in attention.look_back(seen, flow, "fused", 7).items()}
    assert float(total["ir"] + total["vi"]) == pytest.approx(1, abs=1e-5)


def test_msift_has_class_tokens_and_grids_of_its_own():
    model = msift(task="image", patch_size=4, as_published=False)
    seen = attention.watch(model, images(two_sensors(), (32, 64)))
    assert seen.grids == {"s1": (2, 4), "s2": (2, 4)}
    assert list(seen.stages)[:2] == ["encoder.0.self", "encoder.1.self"]
    looks = attention.look(seen, "decoder.1.cross.s1", "s1", 5)
    assert set(looks) == {"s2"}
    cls = attention.look(seen, "decoder.1.cross.s1", CLS, 0)["s2"]  # S1's class token
    assert cls.shape == (1, 2, 4)
    whole = model(images(two_sensors(), (32, 64)), return_attention=True).attn["decoder.1.cross.s1"][0]
    assert torch.allclose(cls.flatten(), whole[0, 0, 1:], atol=1e-6)
    assert attention.look(seen, "decoder.1.cross.s1", CLS, 1) == {}  # that is S2's
    flow = attention.rollout(seen)
    assert torch.allclose(flow.rows().sum(-1), torch.ones(()), atol=1e-5)


# -- bad input --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_watched_says_why():
    x = images(two_sensors())
    pictures = {"ir": torch.zeros(1, 1, 32, 32), "vi": torch.zeros(1, 1, 32, 32)}
    cases = [
        (nn.Linear(2, 2), x, {}, "a Linear cannot be watched; give one of FusMAE, MaeFuse, MsIFT"),
        (fusmae().train(), x, {}, "call model.eval"),
        (msift(), x, {"masks": masks_for(fusmae())}, "a MsIFT takes no masks"),
        (msift(fusion="add"), x, {}, "joins maps without attention"),
        (maefuse(released=True), pictures, {}, "attends over the batch"),
    ]
    for model, given, options, message in cases:
        with pytest.raises(ValueError, match=message):
            attention.watch(model, given, **options)
    seen = attention.watch(fusmae(), x)
    with pytest.raises(ValueError, match=r"no layer 'late' was seen; choose one of early.s1"):
        attention.look(seen, "late", "s1", 0)
    with pytest.raises(ValueError, match=r"no stage 'late.s1' was seen; choose one of early, blocks.0"):
        attention.look_across(seen, "late.s1", {"here": 0})
