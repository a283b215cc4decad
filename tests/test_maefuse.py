"""MaeFuse's network: every fusion, any size, who sees whom, and what the released code's attention does not see."""

import pytest
import torch
from sensors import generator

from fmlib.fusion_losses import losses, picture_loss
from fmlib.modality import Modality
from fmlib.models.maefuse import FUSIONS, MaeFuse, luma, mirror

SMALL = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 4, "decoder_embed_dim": 16, "decoder_depth": 1}
SMALL |= {"decoder_num_heads": 2, "pos_temperature": 30}


def grey(patch: int = 8, bands=("grey",)) -> Modality:
    n = len(bands)
    return Modality("grey", bands, "digital number", (0, 255), (127.5,) * n, (60.0,) * n, (patch, patch))


def build(modality=None, **options) -> MaeFuse:
    torch.manual_seed(0)
    return MaeFuse([modality or grey()], **SMALL | options).eval()


def pair(size=(32, 32), batch=2, bands=1, seed=0) -> dict[str, torch.Tensor]:
    draw = generator(seed)
    return {
        "ir": 255 * torch.rand(batch, 1, *size, generator=draw),
        "vi": 255 * torch.rand(batch, bands, *size, generator=draw),
    }


def tokens(batch=3, length=16) -> dict[str, torch.Tensor]:
    draw = generator(3)
    return {name: torch.randn(batch, length, 32, generator=draw) for name in ("ir", "vi")}


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (37, 21), (16, 64)])
@pytest.mark.parametrize("bands", [1, 3])
def test_any_size_grey_or_colour(fusion, size, bands):
    model = build(grey(8, ("R", "G", "B")[:bands]), fusion=fusion)
    fused = model(pair(size, bands=3))
    assert fused.image.shape == (2, 1, *size)
    assert fused.image.isfinite().all()
    assert fused.tokens.shape[1] == -(-size[0] // 8) * -(-size[1] // 8)
    assert fused.attn == {}


def test_sizes_are_the_published_ones():
    colours = grey(16, ("R", "G", "B"))
    with torch.device("meta"):
        model = MaeFuse([colours])

    def count(*modules):
        return sum(p.numel() for module in modules for p in module.parameters())

    assert count(model.cfm, model.mfm) == 16_792_576
    assert count(model.decoder) == pytest.approx(13.53e6, rel=1e-3)
    assert count(model.encoder) == pytest.approx(303.10e6, rel=1e-4)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradients_reach_all_but_the_encoder(fusion):
    model = build(fusion=fusion).train()
    model(pair()).image.square().mean().backward()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    expected = {"mean": set(), "cfm": {"cfm"}, "cfm_mfm": {"cfm", "mfm"}, "concat": {"concat", "mfm"}}
    assert trained == expected[fusion] | {"decoder"}
    assert not any(p.requires_grad for p in model.encoder.parameters())


def test_token_attention_knows_nothing_of_the_batch():
    model, x = build(), tokens()
    together, _ = model.fuse(x, (4, 4))
    for order in ([2, 0, 1], [1]):
        some, _ = model.fuse({name: t[order] for name, t in x.items()}, (4, 4))
        assert torch.allclose(some, together[order], atol=1e-5)


def test_released_attention_depends_on_the_batch_and_on_nothing_else():
    """With one pair there is one key: neither CFM's question nor MFM's guide can change anything."""
    model, x = build(released=True), tokens()
    together, _ = model.fuse(x, (4, 4))
    alone, _ = model.fuse({name: t[:1] for name, t in x.items()}, (4, 4))
    assert (together[:1] - alone).abs().max() > 0.01
    changed = {name: t[:1].clone() for name, t in x.items()}
    changed["vi"][0, 5] += torch.arange(32)
    moved = (model.fuse(changed, (4, 4))[0] - alone).abs().amax(-1)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == [5]
    model.cfm.attn["shared"].q.weight.data.normal_(generator=generator())
    model.mfm.attn.q.weight.data.normal_(generator=generator())
    assert torch.allclose(model.fuse({name: t[:1] for name, t in x.items()}, (4, 4))[0], alone, atol=1e-6)


def test_a_token_is_seen_by_all_others():
    model, x = build(place_weight=0), tokens(1)
    before, _ = model.fuse(x, (4, 4))
    x["vi"][0, 5] += torch.arange(32)
    assert ((model.fuse(x, (4, 4))[0] - before).abs().amax(-1) > 1e-6).all()


@pytest.mark.parametrize("shared", [True, False])
def test_the_two_images_are_equal_partners_where_weights_are_shared(shared):
    model, x = build(fusion="cfm", cfm_shared=shared), tokens()
    swapped, _ = model.fuse({"ir": x["vi"], "vi": x["ir"]}, (4, 4))
    assert torch.allclose(swapped, model.fuse(x, (4, 4))[0], atol=1e-5) == shared


def test_maps_change_nothing_and_sum_to_one():
    model, x = build(), pair((24, 40))
    asked, plain = model(x, return_attention=True), model(x)
    assert torch.allclose(asked.image, plain.image, atol=1e-3)
    assert set(asked.attn) == {"cfm.ir", "cfm.vi", "mfm.ir", "mfm.vi"}
    for weights in asked.attn.values():
        assert weights.shape == (2, 4, 15, 15)
        assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 15), atol=1e-5)
    by_batch = build(released=True)(x, return_attention=True).attn["mfm.vi"]
    assert by_batch.shape == (15, 4, 2, 2)


def test_places_let_tokens_look_at_their_own_place_first():
    x = {name: torch.zeros_like(t) for name, t in tokens().items()}  # nothing but places to tell tokens apart
    for weight in (0.0, 8.0):
        _, attn = build(place_weight=weight).fuse(x, (4, 4), return_attention=True)
        own = attn["cfm.ir"].diagonal(dim1=2, dim2=3).mean().item()
        assert own == pytest.approx(1 / 16) if weight == 0 else own > 3 / 16


def test_mean_is_the_mean_and_the_guide_is_cfm():
    x = tokens()
    assert torch.equal(build(fusion="mean").fuse(x, (4, 4))[0], (x["ir"] + x["vi"]) / 2)
    whole, cfm = build(), build(fusion="cfm")
    cfm.load_state_dict({name: value for name, value in whole.state_dict().items() if not name.startswith("mfm.")})
    assert torch.equal(whole.fuse(x, (4, 4), guide_only=True)[0], cfm.fuse(x, (4, 4))[0])
    assert not torch.allclose(whole.fuse(x, (4, 4))[0], cfm.fuse(x, (4, 4))[0])


@pytest.mark.parametrize("fusion", ["cfm", "cfm_mfm", "concat"])
def test_a_new_layer_begins_as_the_mean(fusion):
    """With a single place there is nothing but it to look at. MFM ends in a norm."""
    x = tokens(length=1)
    mean, (fused, _) = (x["ir"] + x["vi"]) / 2, build(fusion=fusion).fuse(x, (1, 1))
    expected = mean if fusion == "cfm" else torch.nn.functional.layer_norm(mean, (32,))
    assert torch.allclose(fused, expected, atol=1e-5)


def test_mirroring_needs_no_room():
    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert mirror(image, (5, 7))[0, 0, :, 0].tolist() == [0, 3, 3, 0, 0]
    assert mirror(image, (5, 7))[0, 0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0]
    assert torch.equal(mirror(image, (2, 3)), image)


def test_luma_is_that_of_bt_601():
    red = torch.tensor([255.0, 0, 0]).view(1, 3, 1, 1)
    assert luma(red).item() == pytest.approx(76.245)
    assert luma(torch.full((1, 3, 1, 1), 200.0)).item() == pytest.approx(200)


def test_picture_loss_by_hand():
    """A bright square in each source: its borders are what gradient and Laplacian want."""
    zero = torch.zeros(1, 1, 5, 5)
    dot, other = zero.clone(), zero.clone()
    dot[..., 2, 2], other[..., 0, 0] = 100, 50
    parts = picture_loss(zero, dot, other)
    assert parts["intensity"].item() == pytest.approx((100 + 50) / 25)
    # Sobel responses around a dot are 2 in sum at all 8 neighbours; of the dot in the corner, two places are its own
    assert parts["gradient"].item() == pytest.approx((8 * 2 * 100 + 2 * 2 * 50) / 25)
    # Laplacian: +1 at all 8 neighbours; at the dots themselves 0 is larger than −8
    assert parts["laplacian"].item() == pytest.approx((8 * 100 + 2 * 50) / 25)
    assert all(part == 0 for part in picture_loss(dot, dot, dot).values())
    inside = picture_loss(zero, dot, other, border=False)  # the 9 pixels that have all neighbours
    by_hand = {"intensity": 100 / 9, "gradient": 8 * 2 * 100 / 9, "laplacian": 8 * 100 / 9}
    assert {key: part.item() for key, part in inside.items()} == pytest.approx(by_hand)


def test_picture_loss_of_several_sizes_is_the_mean_of_each():
    images = 200 * torch.rand(3, 2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    halved = images.unflatten(3, (16, 2)).unflatten(5, (16, 2)).mean((4, 6))
    for border in (True, False):
        whole, half, both = (picture_loss(*x, n, border) for x, n in ((images, 1), (halved, 1), (images, 2)))
        for key in whole:
            assert both[key].item() == pytest.approx((whole[key].item() + half[key].item()) / 2)


def test_brightness_costs_at_the_border_alone():
    fused, ir, vi = 200 * torch.rand(3, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for border in (True, False):
        loss, brighter = (picture_loss(image, ir, vi, border=border) for image in (fused, fused + 50))
        for part in ("gradient", "laplacian"):
            assert (brighter[part].item() == pytest.approx(loss[part].item(), rel=1e-3)) is not border


def test_alignment_aims_at_the_encoders_tokens_without_added_places():
    for released in (False, True):
        model, x = build(released=released), pair()
        tokens = model.encode(model.prepare(x)[0])
        kept = {name: value.clone() for name, value in tokens.items()}
        fused, _ = model.fuse(tokens, (4, 4))
        assert all(torch.equal(tokens[name], kept[name]) for name in kept)  # not added in place
        by_hand = (fused - (kept["ir"] + kept["vi"]) / 2).square().mean()
        assert torch.allclose(losses(model, x, "align")["alignment"], by_hand)
    assert losses(build(fusion="mean"), x, "align")["alignment"] == 0


def test_reconstruction_loss_is_of_each_image_by_itself():
    model, x = build(), pair()
    both = losses(model, x, "reconstruct")["reconstruction"]
    each = [losses(model, dict.fromkeys(x, image), "reconstruct")["reconstruction"] for image in x.values()]
    assert both.item() == pytest.approx(sum(each).item() / 2, rel=1e-5)
    error = (model.reconstruct(x["ir"]) - x["ir"]) / 60.0
    assert each[0].item() == pytest.approx(error.square().mean().item(), rel=1e-4)


def test_golden_losses():
    model, x = build(), pair()
    assert losses(model, x, "reconstruct")["reconstruction"].item() == pytest.approx(GOLDEN[0], rel=1e-4)
    assert losses(model, x, "align")["alignment"].item() == pytest.approx(GOLDEN[1], rel=1e-4)
    parts = losses(model, x, "fuse", weights=(1, 1, 2))
    assert [part.item() for part in parts.values()] == pytest.approx(GOLDEN[2:], rel=1e-4)


GOLDEN = (1.898249, 0.9091687, 69.83720, 308.5836, 1160.210)


def test_bad_input_is_named():
    two = [grey(), grey().replace(name="other")]
    with pytest.raises(ValueError, match=r"sees one sensor.*got grey with 1 bands, other with 1 bands"):
        MaeFuse(two, **SMALL)
    with pytest.raises(ValueError, match=r"one sensor, grey .* got grey with 2 bands"):
        build(grey(8, ("a", "b")))
    with pytest.raises(ValueError, match="pretrained on 'grey', in digital number from -20 to 0"):
        build(grey().replace(valid_range=(-20, 0)))
    with pytest.raises(ValueError, match="fusion is 'max'; choose one of mean, cfm"):
        build(fusion="max")
    with pytest.raises(ValueError, match=r"'ir' and 'vi', both .* of one size"):
        build()({"ir": torch.zeros(1, 1, 8, 8), "vi": torch.zeros(1, 1, 8, 9)})
    with pytest.raises(ValueError, match="2 channels came in"):
        build()({"ir": torch.zeros(1, 2, 8, 8), "vi": torch.zeros(1, 1, 8, 8)})
