"""Patches, positions and the two attention paths."""

import pytest
import torch
from sensors import generator

from fmlib.layers import Attention, Block, CrossAttention, CrossBlock, attention, patchify, sincos_positions, unpatchify


@pytest.mark.parametrize(
    ("channels", "size", "patch"), [(2, (120, 120), (8, 8)), (12, (64, 96), (16, 8)), (1, (6, 4), (3, 2))]
)
def test_patchify_round_trip(channels, size, patch):
    image = torch.randn(2, channels, *size, generator=generator())
    patches = patchify(image, patch)
    grid = (size[0] // patch[0], size[1] // patch[1])
    assert patches.shape == (2, grid[0] * grid[1], channels * patch[0] * patch[1])
    assert torch.equal(unpatchify(patches, patch, grid), image)


def test_patches_run_row_by_row_and_channel_first():
    image = torch.arange(2 * 4 * 6).float().reshape(1, 2, 4, 6)
    second = patchify(image, (2, 3))[0, 1].reshape(2, 2, 3)
    assert torch.equal(second, image[0, :, 0:2, 3:6])


def test_patchify_refuses_a_remainder():
    with pytest.raises(ValueError, match="120×121 pixels does not divide into patches of 8×8"):
        patchify(torch.zeros(1, 1, 120, 121), (8, 8))


def test_positions_tell_rows_from_columns():
    table = sincos_positions(16, (3, 5)).reshape(3, 5, 16)
    assert torch.equal(table[0, :, 8:], table[2, :, 8:].roll(0)) is False  # rows differ in the second half
    assert torch.equal(table[0, 1, :8], table[2, 1, :8])  # one column: the same first half
    assert torch.equal(table[1, 0, 8:], table[1, 4, 8:])  # one row: the same second half
    assert len(table.reshape(15, 16).unique(dim=0)) == 15
    assert table[0, 1, 0].item() == pytest.approx(0.841471, abs=1e-6)  # sin(1 · 10000^0)
    with pytest.raises(ValueError, match="divisible by 4"):
        sincos_positions(6, (2, 2))


@pytest.mark.parametrize("padded", [False, True])
def test_explicit_attention_equals_fused(padded):
    q, k, v = torch.randn(3, 2, 4, 7, 8, generator=generator()).unbind(0)
    pad = torch.rand(2, 7, generator=generator()) < 0.4 if padded else None
    fused, none = attention(q, k, v, pad)
    explicit, maps = attention(q, k, v, pad, return_attention=True)
    assert none is None
    assert torch.allclose(fused, explicit, atol=1e-5)
    assert torch.allclose(maps.sum(-1), torch.ones(2, 4, 7), atol=1e-5)
    if padded:
        assert maps.masked_select(pad[:, None, None]).eq(0).all()


def test_a_sample_without_keys_gets_zeros_and_clean_gradients():
    q = torch.randn(2, 1, 3, 4, generator=generator(), requires_grad=True)
    pad = torch.tensor([[True] * 5, [False] * 5])
    k = torch.randn(2, 1, 5, 4, generator=generator(1))
    for explicit in (False, True):
        x, _ = attention(q, k, k, pad, explicit)
        assert x[0].eq(0).all()
        assert x[1].ne(0).all()
        x.sum().backward()
        assert q.grad.isfinite().all()


def test_padding_changes_nothing():
    layer = Attention(16, 4)
    x = torch.randn(1, 5, 16, generator=generator())
    noise = torch.randn(1, 3, 16, generator=generator(1))
    pad = torch.tensor([[False] * 5 + [True] * 3])
    assert torch.allclose(layer(x)[0], layer(x, torch.cat([x, noise], 1), pad)[0], atol=1e-6)


def test_block_can_compute_only_the_last_tokens():
    block, x = Block(16, 4), torch.randn(2, 9, 16, generator=generator())
    assert torch.allclose(block(x)[0][:, 5:], block(x, queries=4)[0], atol=1e-6)


def test_cross_attention_of_three_sensors_spans_the_union_of_the_others():
    layer = CrossAttention(["a", "b", "c"], 16, 4)
    tokens = {n: torch.randn(2, k, 16, generator=generator(k)) for n, k in (("a", 3), ("b", 5), ("c", 4))}
    taken, maps = layer(tokens, {}, return_attention=True)
    assert maps["a"].shape == (2, 4, 3, 9)
    assert taken["b"].shape == (2, 5, 16)
    alone, nothing = layer({"a": tokens["a"]}, {}, return_attention=True)
    assert alone["a"].eq(0).all()
    assert nothing == {}


def test_directions_have_weights_of_their_own():
    layer = CrossAttention(["s1", "s2"], 8, 2)
    x = torch.randn(1, 3, 8, generator=generator())
    taken, _ = layer({"s1": x, "s2": x}, {})
    assert not torch.allclose(taken["s1"], taken["s2"])


def test_cross_block_parameters_match_the_published_counts():
    """Fus-MAE's XAttnEncoder has 2.37 M parameters at width 384 and 9.45 M at 768."""
    for width, heads, millions in ((384, 6, 2.37), (768, 12, 9.45)):
        block = CrossBlock(["s1", "s2"], width, heads, 4.0, shared_mlp=True)
        assert sum(p.numel() for p in block.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width 10 does not divide into 4 heads"):
        Attention(10, 4)
