"""Fus-MAE: every fusion, any sensors, gradients where they must and must not flow, the loss's exact meaning."""

import pytest
import torch
from sensors import generator, images, sensor, two_sensors
from small_fusmae import SMALL, build, draw

from fmlib.layers import Attention, gather_tokens
from fmlib.masking import draw_masks, keep_all, masks_from_arrays
from fmlib.models.fusmae import FUSIONS, PRESETS, FusMAE, fusmae


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("queries", ["latent", "grid"])
@pytest.mark.parametrize(
    ("chans", "patch", "size"),
    [((2, 12), (8, 8), (32, 32)), ((1, 3), (8, 4), (16, 24)), ((4, 4, 1), (8, 8), (24, 16))],
)
def test_forward_and_backward(fusion, queries, chans, patch, size):
    modalities = [sensor(f"s{i}", c, patch) for i, c in enumerate(chans)]
    model = build(modalities, size, fusion=fusion, decoder_queries=queries)
    masks = draw(model)
    loss, pred, mask = model(images(modalities, size), masks)
    loss.backward()
    assert loss.isfinite()
    for m in modalities:
        assert pred[m.name].shape == (3, masks[m.name].ids_remove.shape[1], m.in_chans * patch[0] * patch[1])
        assert torch.equal(mask[m.name], masks[m.name].mask)
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("strategy", ["dirichlet", "sensor", "independent"])
@pytest.mark.parametrize("fusion", ["none", "xad", "xae", "xaed"])
def test_ragged_masks_train(strategy, fusion):
    model = build(fusion=fusion)
    loss, *_ = model(images(two_sensors()), draw(model, strategy=strategy, sensor_drop=0.5))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_sample_does_not_depend_on_its_batch():
    """Padding for ragged masks must not leak: each sample alone gives what it gives in the batch."""
    for fusion in ("none", "xaed"):
        model, x = build(fusion=fusion, decoder_queries="grid").eval(), images(two_sensors(), batch=6)
        masks = draw(model, batch=6, strategy="dirichlet")
        together = model.reconstruct(x, masks).pasted
        for b in range(6):
            grids = {n: m.mask[b : b + 1].unflatten(1, model.grids[n]) for n, m in masks.items()}
            alone = model.reconstruct({n: v[b : b + 1] for n, v in x.items()}, masks_from_arrays(grids)).pasted
            for name in x:
                assert torch.allclose(together[name][b], alone[name][0], atol=1e-4)


def test_removed_patches_are_never_seen():
    model, x = build(fusion="xaed").eval(), images(two_sensors())
    masks = draw(model)
    hidden = {
        n: m.mask.unflatten(1, model.grids[n]).repeat_interleave(8, 1).repeat_interleave(8, 2) for n, m in masks.items()
    }
    changed = {n: v + 5 * torch.randn(v.shape, generator=generator(9)) * hidden[n][:, None] for n, v in x.items()}
    before, after = model(x, masks).pred, model(changed, masks).pred
    assert all(torch.equal(before[n], after[n]) for n in x)


def test_loss_is_the_mean_over_removed_patches_of_each_sensor():
    model, x = build(fusion="xad", norm_target="none"), images(two_sensors())
    masks = draw(model)
    loss, pred, _ = model(x, masks)
    patches, _ = model.patches(x)
    by_hand = sum((pred[n] - gather_tokens(patches[n], masks[n].ids_remove)).square().mean() for n in x)
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_normalised_targets_have_mean_0_and_deviation_1():
    m = sensor("s2", 4, groups=(("s2_0", "s2_1"), ("s2_2", "s2_3")))
    x = {"s2": torch.randn(2, 4, 32, 32, generator=generator()) * torch.tensor([1.0, 1, 5, 5]).view(1, 4, 1, 1) + 3}
    for norm_target, groups in (("patch", [[0, 1, 2, 3]]), ("group", [[0, 1], [2, 3]])):
        embed = build([m], norm_target=norm_target).embed["s2"]
        patches = embed.patches(x["s2"])
        mean, std = embed.target_stats(patches)
        target = ((patches - mean) / std).unflatten(-1, (4, -1))
        for group in groups:
            assert target[:, :, group].mean((2, 3)).abs().max() < 1e-4
            assert target[:, :, group].std((2, 3), unbiased=False).sub(1).abs().max() < 1e-3


def test_a_sensor_without_a_target_is_safe():
    model, x = build(fusion="xaed"), images(two_sensors())
    masks = keep_all(model.grids, 3)
    loss, pred, _ = model(x, masks)
    assert loss.item() == 0
    assert pred["s1"].shape[1] == 0
    half = keep_all(model.grids, 3) | {"s2": draw(model)["s2"]}
    assert model(x, half).loss.item() > 0


def test_missing_samples_have_no_part_in_the_loss():
    model, x = build(fusion="xaed"), images(two_sensors())
    present = {"s1": torch.tensor([True, False, True]), "s2": torch.ones(3, dtype=torch.bool)}
    masks = draw(model, present=present)
    before = model(x, masks).loss
    x["s1"][1] = 7.0
    after = model(x, masks).loss
    assert torch.equal(before, after)
    after.backward()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_encode_takes_any_subset(fusion):
    model, x = build(fusion=fusion).eval(), images(two_sensors())
    for names in (["s1"], ["s2"], ["s1", "s2"]):
        encoded = model.encode({n: x[n] for n in names})
        assert encoded.cls.shape == (3, 32)
        assert set(encoded.tokens) == ({"stack"} if fusion == "stack" else set(names))
        assert all(t.shape == (3, 16, 32) for t in encoded.tokens.values())
        assert encoded.attn == {}
    one, both = model.encode({"s2": x["s2"]}).cls, model.encode(x).cls
    assert not torch.allclose(one, both)
    absent = model.encode(x, present={"s1": torch.zeros(3, dtype=torch.bool)}).cls
    assert torch.allclose(absent, one, atol=1e-5)  # missing in every sample is the same as not given


@pytest.mark.parametrize("fusion", ["xad", "xaed", "none"])
@pytest.mark.parametrize("queries", ["latent", "grid"])
def test_attention_maps_change_nothing_and_sum_to_one(fusion, queries):
    model, x = build(fusion=fusion, decoder_queries=queries).eval(), images(two_sensors())
    plain, mapped = model.encode(x), model.encode(x, return_attention=True)
    assert torch.allclose(plain.cls, mapped.cls, atol=1e-5)
    masks = draw(model)
    maps = model.attention_maps(x, masks)
    kept = masks["s1"].ids_keep.shape[1]
    if fusion == "xaed":
        assert maps["early.s1"].shape == (3, 4, kept, kept)
        assert maps["blocks.0"].shape == (3, 4, 1 + 2 * kept, 1 + 2 * kept)
    if fusion != "none":
        assert maps["late.s2"].shape == (3, 4, kept if queries == "latent" else 16, kept)
    for attn in maps.values():
        assert torch.allclose(attn.sum(-1), torch.ones(attn.shape[:-1]), atol=1e-5)


def test_only_grid_queries_see_across_without_own_patches():
    """A sensor with no visible patch can be predicted from the other only if its mask tokens ask."""
    hidden = {"s1": torch.ones(3, 4, 4), "s2": torch.zeros(3, 4, 4)}
    for queries, sees in (("latent", False), ("grid", True)):
        model, x = build(fusion="xad", decoder_queries=queries).eval(), images(two_sensors())
        before = model(x, masks_from_arrays(hidden)).pred["s1"]
        x["s2"] = x["s2"].flip(0)
        assert torch.allclose(before, model(x, masks_from_arrays(hidden)).pred["s1"]) is not sees
        only = model.forward_encoder(*model.patches({"s2": x["s2"]}), masks_from_arrays(hidden))
        assert only.tokens["s1"].shape[1] == 0  # S1's image need not even be there


def test_reconstruction_undoes_what_the_target_did():
    m = sensor("s1", 2).replace(mean=(-12.0, -19.0), std=(5.0, 6.0), valid_range=(-60, 40))
    x = {"s1": torch.randn(2, 2, 32, 32, generator=generator()) * 5 - 15}
    for norm_target in ("none", "patch", "group"):
        model = build([m], fusion="none", norm_target=norm_target)
        masks = draw(model, 2)
        patches = model.embed["s1"].patches(x["s1"])
        mean, std = model.embed["s1"].target_stats(patches)
        perfect = gather_tokens((patches - mean) / std, masks["s1"].ids_remove)
        alone, pasted = model.embed["s1"].paste(patches, perfect, masks["s1"], model.grids["s1"])
        assert torch.allclose(pasted, x["s1"], atol=1e-3)  # perfect predictions give the image back, in dB
        visible = masks["s1"].mask.unflatten(1, (4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2) == 0
        assert alone.isnan().all(1).eq(visible).all()
        out = model.reconstruct(x, masks)
        assert torch.allclose(out.pasted["s1"][:, 0][visible], x["s1"][:, 0][visible], atol=1e-4)


def test_other_image_sizes_work():
    model = build(fusion="xaed").eval()
    x = images(two_sensors(), (48, 40))
    assert model.encode(x).tokens["s1"].shape == (3, 30, 32)
    masks = draw_masks(model.patches(x)[1], 3, generator=generator())
    assert model.reconstruct(x, masks).pasted["s2"].shape == (3, 12, 48, 40)


def test_values_out_of_range_are_clipped():
    model = build(fusion="xaed").eval()
    x = images(two_sensors())
    x["s1"][0, 0, 0, 0] = 1e6
    clipped = {n: v.clamp(-10, 10) for n, v in x.items()}
    assert torch.equal(model.encode(x).cls, model.encode(clipped).cls)


def test_sizes_follow_the_papers_family():
    """The encoder of ViT-S with the cross-attention block has 22.2 M parameters at patch 8."""
    model = fusmae("small", two_sensors(), fusion="xae")
    encoder = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("decoders"))
    assert encoder / 1e6 == pytest.approx(22.2, abs=0.1)
    assert set(PRESETS) == {"nano", "tiny", "small", "base", "large"}


def test_keys_start_as_copies_of_the_queries():
    """So that a token first attends to what is most like itself, see `fmlib.models.mae.initialise`."""
    layers = [m for m in FusMAE(two_sensors(), 32, "xaed", **SMALL).modules() if isinstance(m, Attention)]
    assert layers
    for layer in layers:
        assert torch.equal(layer.kv.weight[: layer.q.out_features], layer.q.weight)
        assert not torch.equal(layer.kv.weight[layer.q.out_features :], layer.q.weight)


def test_ten_steps_give_the_recorded_loss():
    """Golden loss: a change that should not alter results leaves these numbers as they are."""
    torch.manual_seed(0)
    model = FusMAE(two_sensors(), 32, "xaed", **SMALL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    x, losses = images(two_sensors(), batch=8), []
    for step in range(10):
        loss, *_ = model(x, draw(model, 8, 0.75, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2.2603428, rel=1e-4)
    assert losses[-1] == pytest.approx(2.0124855, rel=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build(fusion="xead"), "fusion is 'xead'; choose one of none, stack, xad, xae, xaed"),
        (lambda: build(norm_target="pixel"), "norm_target is 'pixel'"),
        (lambda: fusmae("huge", two_sensors()), "preset is 'huge'; choose one of nano, tiny"),
        (lambda: build(fusion="xad", cross_queries=["s3"]), r"\['s3'\] cannot query .* the sensors are s1, s2"),
        (lambda: build(fusion="none", cross_shared=True), "need cross-attention; fusion='none' has none"),
        (lambda: build(fusion="stack", cross_queries=["s1"]), "need cross-attention; fusion='stack' has none"),
        (lambda: build().encode({}), "give at least one of"),
        (lambda: build().encode({"s3": torch.zeros(1, 2, 32, 32)}), r"sensors \['s3'\] came in"),
        (lambda: build().encode({"s1": torch.zeros(1, 3, 32, 32)}), "'s1': 3 channels came in, but 2 were expected"),
        (lambda: build().encode({"s1": torch.zeros(1, 2, 33, 32)}), "33×32 pixels does not divide into patches of 8×8"),
    ],
)
def test_bad_input_says_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_stack_refuses_masks_that_differ():
    model = build(fusion="stack")
    with pytest.raises(ValueError, match="draw with strategy='consistent'"):
        model(images(two_sensors()), draw(model, strategy="independent"))


def test_a_mask_that_keeps_patches_of_no_image():
    model, x = build(fusion="xaed"), images(two_sensors())
    with pytest.raises(ValueError, match="keep patches of 's1', but its image is missing"):
        model({"s2": x["s2"]}, draw(model))
