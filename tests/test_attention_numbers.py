"""What is computed from attention maps: rollout, relevance, distances and what followed have known answers."""

import math

import pytest
import torch
from sensors import generator, images, sensor, two_sensors
from watched import fusmae, hand_made, masks_for

from fmlib import attention
from fmlib.misalign import Displacement, displace

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
