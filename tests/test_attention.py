"""Attention maps: placed on the right patches of the right sensor, and what is computed from them has known answers."""

import math

import pytest
import torch
from sensors import generator, images, sensor, two_sensors
from torch import nn

from fmlib import attention
from fmlib.attention.places import CLS, Layer, Part, Seen
from fmlib.masking import draw_masks, keep_all
from fmlib.misalign import Displacement, displace
from fmlib.modality import Modality
from fmlib.models.fusmae import FusMAE
from fmlib.models.maefuse import MaeFuse
from fmlib.models.msift import MsIFT

SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 4, "decoder_embed_dim": 16, "decoder_depth": 2}
SMALL |= {"decoder_num_heads": 2, "img_size": 32}
NARROW = {"embed_dim": 32, "depth": 2, "num_heads": 1, "mlp_dim": 48, "head_dim": 8, "num_classes": 3, "neck_dim": 16}
NARROW |= {"extractor": "resnet10t", "widths": [8, 8, 16, 16], "img_size": 32}


def fusmae(modalities=None, **options) -> FusMAE:
    torch.manual_seed(0)
    return FusMAE(modalities or two_sensors(), **SMALL | {"decoder_queries": "grid"} | options).eval()


def maefuse(**options) -> MaeFuse:
    torch.manual_seed(0)
    grey = Modality("grey", ("grey",), "digital number", (0, 255), (127.5,), (60.0,), (8, 8))
    sizes = {k: v for k, v in SMALL.items() if k != "img_size"} | {"img_size": 32}
    return MaeFuse([grey], **sizes | options).eval()


def msift(modalities=None, **options) -> MsIFT:
    torch.manual_seed(0)
    return MsIFT(modalities or two_sensors(), **NARROW | {"task": "segmentation", "patch_size": 2} | options).eval()


def masks_for(model, batch=3, strategy="independent", ratio=0.5, **options):
    return draw_masks(model.grids, batch, strategy, ratio, generator=generator(), **options)


def hand_made(grid=(2, 2), **layers) -> Seen:
    """What was seen, by hand: layer=(map (h, N, M), sensors that ask, sensors that answer), all patches in order."""
    ids = torch.arange(grid[0] * grid[1])[None]
    made = {
        name: Layer(weights[None], tuple(Part(n, ids) for n in asks), tuple(Part(n, ids) for n in answers))
        for name, (weights, asks, answers) in layers.items()
    }
    names = dict.fromkeys(part.sensor for layer in made.values() for part in (*layer.queries, *layer.keys))
    stages = {name: (name,) for name in made}
    return Seen(made, stages, tuple(stages), dict.fromkeys(names, grid), (8 * grid[0], 8 * grid[1]), None)


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


# -- rollout and relevance --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("discard", [0.0, 0.5])
def test_rollout_of_identity_is_the_identity(residual, discard):
    eye = torch.eye(8).expand(3, 8, 8)
    seen = hand_made(a=(eye, ["s1", "s2"], ["s1", "s2"]), b=(eye, ["s1", "s2"], ["s1", "s2"]))
    flow = attention.rollout(seen, residual=residual, discard=discard)
    assert torch.equal(flow.map[0, 0], torch.eye(8))


def test_rollout_multiplies_layers_of_both_sensors():
    one, two = (torch.rand(4, 4, generator=generator(i)).softmax(1) for i in range(2))
    seen = hand_made(a=(one[None], ["s1"], ["s2"]), b=(two[None], ["s1"], ["s1"]))
    flow = attention.rollout(seen, residual=False)
    looks = attention.look_back(seen, flow, "s1", 2)
    assert torch.allclose(looks["s2"].flatten(), (two @ one)[2], atol=1e-6)
    assert looks["s1"].abs().sum() == 0
    half = attention.rollout(seen)
    own = (0.5 * (two + torch.eye(4)) @ (0.5 * torch.eye(4)))[2]
    assert torch.allclose(attention.look_back(seen, half, "s1", 2)["s1"].flatten(), own, atol=1e-6)
    only = attention.rollout(seen, stages=["b"], residual=False)
    assert torch.allclose(attention.look_back(seen, only, "s1", 2)["s1"].flatten(), two[2], atol=1e-6)


def test_rollout_discards_what_is_least_looked_at():
    weights = torch.tensor([[0.4, 0.3, 0.2, 0.1]] * 4)[None]
    flow = attention.rollout(hand_made(a=(weights, ["s1"], ["s1"])), residual=False, discard=0.5)
    assert torch.allclose(flow.map[0, 0, 0], torch.tensor([4 / 7, 3 / 7, 0, 0]))
    with pytest.raises(ValueError, match="discard is 1"):
        attention.rollout(hand_made(a=(weights, ["s1"], ["s1"])), discard=1)
    with pytest.raises(ValueError, match=r"tokens do not pass through \['late'\]; choose of a"):
        attention.rollout(hand_made(a=(weights, ["s1"], ["s1"])), stages=["late"])


@pytest.mark.parametrize("fusion", ["xaed", "none"])
def test_rollout_of_a_model_crosses_only_where_it_does(fusion):
    model = fusmae(fusion=fusion)
    seen = attention.watch(model, images(two_sensors()), masks_for(model))
    flow = attention.rollout(seen, sample=1)
    assert torch.allclose(flow.rows().sum(-1), torch.ones(()), atol=1e-5)
    kept = int(masks_for(model)["s1"].ids_keep[1, 0])
    looks = attention.look_back(seen, flow, "s1", kept)
    assert (looks["s2"].nansum() > 0).item() is (fusion == "xaed")


def test_relevance_is_the_positive_part_of_gradient_times_attention():
    weights = torch.rand(2, 4, 4, generator=generator()).softmax(-1).requires_grad_()
    seen = hand_made(a=(weights, ["s1"], ["s2"]))
    slope = torch.randn(2, 4, 4, generator=generator(1))
    found = attention.relevance(seen, (seen.layers["a"].map[0] * slope).sum())
    expected = (weights * slope).clamp(min=0).mean(0)
    looks = attention.look_back(seen, found, "s1", 3)
    assert torch.allclose(looks["s2"].flatten(), expected[3], atol=1e-6)
    assert looks["s1"].eq(0).all()


def test_relevance_of_a_removed_patch_lies_on_visible_ones():
    model = fusmae()
    masks = masks_for(model, 1)
    seen = attention.watch(model, images(two_sensors(), batch=1), masks, explicit=True)
    patch = int(masks["s1"].ids_remove[0, 0])
    found = attention.relevance(seen, seen.output["s1"][0, 0].square().sum())
    looks = attention.look_back(seen, found, "s1", patch)
    assert looks["s1"].nansum() > 0
    assert looks["s2"].nansum() > 0
    assert looks["s2"].nan_to_num().flatten()[masks["s2"].mask[0].bool()].eq(0).all()
    with pytest.raises(ValueError, match="call watch\\(…, explicit=True\\)"):
        attention.relevance(attention.watch(model, images(two_sensors(), batch=1), masks), torch.zeros(()))


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_even_attention_is_its_own_baseline():
    seen = hand_made((2, 3), a=(torch.full((2, 6, 12), 1 / 12), ["s1"], ["s1", "s2"]))
    rows = attention.measure(seen)
    assert len(rows) == 4
    for row in rows:
        assert row["share"] == pytest.approx(0.5)
        assert row["entropy"] == pytest.approx(math.log2(6))
        assert all(row[key] == pytest.approx(row[f"even_{key}"]) for key in ("share", "distance", "entropy"))


def test_attention_to_ones_own_place_has_no_distance_and_no_entropy():
    weights = torch.cat([0.25 * torch.eye(6), 0.75 * torch.eye(6).roll(1, 1)], 1)[None]  # S2: the next patch
    rows = attention.measure(hand_made((1, 6), a=(weights, ["s1"], ["s1", "s2"])))
    own, other = ({row["key"]: row for row in rows}[key] for key in ("s1", "s2"))
    assert (own["share"], own["distance"], own["entropy"]) == pytest.approx((0.25, 0, 0))
    assert (other["share"], other["entropy"]) == pytest.approx((0.75, 0))
    assert other["distance"] == pytest.approx((5 * 8 + 40) / 6)  # the last looks at the first


def test_chunks_and_padding_change_nothing():
    model, x = fusmae(), images(two_sensors())
    masks = masks_for(model, strategy="dirichlet", ratio=0.6)
    seen = attention.watch(model, x, masks)
    whole, parts = attention.measure(seen), attention.measure(seen, chunk=3)
    singles = [attention.measure(attention.watch(model, {n: v[i : i + 1] for n, v in x.items()},
               {n: m[i : i + 1] for n, m in masks.items()}), ["late.s1"]) for i in range(3)]  # fmt: skip
    for a, b in zip(whole, parts, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    late = [row for row in whole if row["layer"] == "late.s1"]
    for head, row in enumerate(late):
        mean = sum(rows[head]["distance"] for rows in singles) / 3  # all 16 patches ask in each
        assert row["distance"] == pytest.approx(mean, abs=1e-3)
    assert torch.allclose(
        attention.offset_map(seen, "late.s1", "s1", "s2"),
        attention.offset_map(seen, "late.s1", "s1", "s2", chunk=2),
        atol=1e-6,
        equal_nan=True,
    )


@pytest.mark.parametrize(("down", "right"), [(0, 0), (16, 0), (-8, 24)])
def test_a_search_by_content_peaks_where_the_content_went(down, right):
    still = torch.randn(2, 3, 64, 64, generator=generator())
    moved = displace(still, Displacement(down, right))
    before, seen = (attention.search_by_content(still, x, (8, 8)) for x in (still, moved))
    row, col = 3 + down // 8, 3 + right // 8
    looks = attention.look(seen, "content", "still", 3 * 8 + 3, sample=1)["moved"][0]
    assert divmod(int(looks.argmax()), 8) == (row, col)
    offsets = attention.offset_map(seen, "content", "still", "moved")[0].nan_to_num()
    assert divmod(int(offsets.argmax()), 15) == (7 + down // 8, 7 + right // 8)
    if (down, right) != (0, 0):
        [row] = attention.followed(before, seen, "moved", down, right)
        assert row["followed"] == pytest.approx(1, abs=0.05)
        [row] = attention.followed(before, before, "moved", down, right)
        assert row["followed"] == 0


def test_a_displaced_sensor_that_asks_goes_the_other_way():
    image = torch.randn(1, 3, 64, 64, generator=generator())
    moved = displace(image, Displacement(0, 16))
    before, after = (attention.search_by_content(x, image, (8, 8)) for x in (image, moved))
    [row] = attention.followed(before, after, "still", 0, 16)  # the asking sensor is the displaced one here
    assert (row["query"], row["key"]) == ("still", "moved")
    assert row["followed"] == pytest.approx(1, abs=0.05)


def test_what_followed_is_told_of_each_head_of_each_layer_that_crosses():
    model, x = fusmae(), images(two_sensors())
    moved = x | {"s2": displace(x["s2"], Displacement(0, 8))}
    before, after = (attention.watch(model, shown) for shown in (x, moved))
    rows = attention.followed(before, after, "s2", right=8)
    pairs = {(row["layer"], row["query"], row["key"]) for row in rows}
    assert pairs == {
        *(
            (f"{stage}.{query}", query, key)
            for stage in ("early", "late")
            for query, key in (("s1", "s2"), ("s2", "s1"))
        ),
        *((f"blocks.{i}", query, key) for i in range(2) for query, key in (("s1", "s2"), ("s2", "s1"))),
    }
    assert len([row for row in rows if row["layer"] == "early.s1"]) == 4
    parts = attention.followed(before, after, "s2", right=8, chunk=3)
    assert [row["followed"] for row in rows] == pytest.approx([row["followed"] for row in parts], abs=1e-4)


def test_offsets_count_pairs_not_places():
    """Even attention is even at every offset, though far offsets have few pairs."""
    seen = hand_made((3, 3), a=(torch.full((1, 9, 9), 1 / 9), ["s1"], ["s2"]))
    assert torch.allclose(attention.offset_map(seen, "a", "s1", "s2"), torch.tensor(1 / 9))
    with pytest.raises(ValueError, match="'s2' does not look at 's1'"):
        attention.offset_map(seen, "a", "s2", "s1")
    uneven = seen._replace(grids={"s1": (3, 3), "s2": (1, 9)})
    with pytest.raises(ValueError, match=r"offsets need equal grids; 's1' has \(3, 3\), 's2' \(1, 9\)"):
        attention.offset_map(uneven, "a", "s1", "s2")


def test_queries_are_the_odd_patch_and_a_plain_one():
    image = torch.randn(2, 32, 32, generator=generator()) * 0.01
    image[:, 8:16, 16:24] += 3
    picked = attention.pick_queries({"s1": image}, (4, 4), {"s1": sensor("s1", 2)})
    assert picked["object"] == 1 * 4 + 2
    assert picked["background"] != picked["object"]


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
