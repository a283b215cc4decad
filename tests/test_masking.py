"""Masks: exact ratios, the promised relations between sensors, never nothing to see."""

import pytest
import torch
from sensors import generator

from fmlib.masking import STRATEGIES, draw_masks, keep_all, masks_from_arrays

GRIDS = {"s1": (15, 15), "s2": (15, 15)}
OBLONG = {"s1": (8, 12), "s2": (8, 12), "dem": (8, 12)}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("block_size", [1, 3])
@pytest.mark.parametrize("grids", [GRIDS, OBLONG, {"s2": (4, 6)}])
def test_ids_and_mask_tell_the_same_story(strategy, ratio, block_size, grids):
    for name, m in draw_masks(
        grids, 6, strategy, ratio, generator=generator(), block_size=block_size, sensor_drop=0.3
    ).items():
        length = grids[name][0] * grids[name][1]
        pad_keep = torch.zeros_like(m.ids_keep).bool() if m.pad_keep is None else m.pad_keep
        pad_remove = torch.zeros_like(m.ids_remove).bool() if m.pad_remove is None else m.pad_remove
        for b in range(6):
            kept, removed = m.ids_keep[b][~pad_keep[b]], m.ids_remove[b][~pad_remove[b]]
            assert sorted([*kept.tolist(), *removed.tolist()]) == list(range(length))
            assert m.mask[b][kept].sum() == 0  # 0 keep
            assert m.mask[b][removed].all()  # 1 remove


@pytest.mark.parametrize("strategy", ["independent", "consistent", "disjoint"])
@pytest.mark.parametrize("ratio", [0.5, 0.6, 0.75])
@pytest.mark.parametrize("block_size", [1, 4])
def test_ratio_is_exact(strategy, ratio, block_size):
    masks = draw_masks(OBLONG, 5, strategy, ratio, generator=generator(), block_size=block_size)
    for m in masks.values():
        assert (m.mask.sum(1) == 96 - round(96 * (1 - ratio))).all()
        assert m.pad_keep is None


def test_restore_puts_tokens_back():
    m = draw_masks(GRIDS, 4, generator=generator())["s1"]
    shuffled = torch.cat([m.ids_keep, m.ids_remove], dim=1)
    assert (shuffled.gather(1, m.ids_restore) == torch.arange(225)).all()


def test_consistent_is_the_same_everywhere_and_independent_is_not():
    same = draw_masks(GRIDS, 8, "consistent", generator=generator())
    assert torch.equal(same["s1"].mask, same["s2"].mask)
    free = draw_masks(GRIDS, 8, "independent", generator=generator())
    both_kept = ((free["s1"].mask + free["s2"].mask) == 0).float().mean().item()
    assert both_kept == pytest.approx(0.25**2, abs=0.02)


def test_disjoint_complements():
    half = draw_masks({"s1": (4, 6), "s2": (4, 6)}, 8, "disjoint", 0.5, generator=generator())
    assert torch.equal(half["s1"].mask, 1 - half["s2"].mask)
    three = draw_masks(OBLONG, 8, "disjoint", 0.75, generator=generator())
    assert (sum(1 - m.mask for m in three.values()) <= 1).all()  # no place is kept twice
    mostly_seen = draw_masks({"s1": (4, 6), "s2": (4, 6)}, 8, "disjoint", 0.25, generator=generator())
    assert (sum(1 - m.mask for m in mostly_seen.values()) >= 1).all()  # each place is kept at least once


def test_dirichlet_spends_one_budget():
    masks = draw_masks(OBLONG, 200, "dirichlet", 0.75, generator=generator())
    kept = torch.stack([(1 - m.mask).sum(1) for m in masks.values()])  # (3, 200)
    assert (kept.sum(0) == round(3 * 96 * 0.25)).all()
    assert kept.float().mean(1).tolist() == pytest.approx([24] * 3, rel=0.15)  # no sensor is favoured
    assert kept.float().std(1).min() > 8  # but splits differ from sample to sample
    even = draw_masks(OBLONG, 200, "dirichlet", 0.75, generator=generator(), alpha=1e4)
    assert torch.stack([(1 - m.mask).sum(1) for m in even.values()]).float().std() < 1
    full = draw_masks({"s1": (2, 2), "s2": (15, 15)}, 50, "dirichlet", 0.2, generator=generator(), alpha=0.2)
    assert all((m.mask.sum(1) >= 0).all() for m in full.values())  # a small sensor fills up, the rest goes over
    assert (sum((1 - m.mask).sum(1) for m in full.values()) == round(229 * 0.8)).all()


def test_sensor_removes_one_whole():
    masks = draw_masks(GRIDS, 200, "sensor", 0.5, generator=generator())
    gone = torch.stack([m.mask.all(1) for m in masks.values()])
    assert (gone.sum(0) == 1).all()
    assert gone.float().mean(1).tolist() == pytest.approx([0.5, 0.5], abs=0.1)


def test_sensor_drop_has_its_probability():
    masks = draw_masks(GRIDS, 2000, generator=generator(), sensor_drop=0.2)
    gone = torch.stack([m.mask.all(1) for m in masks.values()])
    assert gone.any(0).float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert not gone.all(0).any()


def test_blocks_are_removed_together():
    def edges(block_size):  # neighbours that differ
        mask = draw_masks({"s1": (16, 16)}, 20, mask_ratio=0.5, generator=generator(), block_size=block_size)["s1"].mask
        return mask.unflatten(1, (16, 16)).diff(dim=1).abs().mean().item()

    assert edges(4) < 0.5 * edges(1)


def test_something_is_always_visible():
    for ratio in (1.0, 0.999):
        masks = draw_masks(GRIDS, 50, mask_ratio=ratio, generator=generator())
        assert (sum((1 - m.mask).sum(1) for m in masks.values()) >= 1).all()


def test_missing_is_not_masked():
    present = {"s1": torch.tensor([True, False, True]), "s2": torch.tensor([True, True, False])}
    for strategy in STRATEGIES:
        masks = draw_masks(GRIDS, 3, strategy, 1.0, generator=generator(), present=present)
        for name, m in masks.items():
            assert torch.equal(m.present, present[name])
            assert m.mask[~present[name]].all()  # a missing sensor shows nothing
        assert (sum((1 - m.mask).sum(1) for m in masks.values()) >= 1).all()
    with pytest.raises(ValueError, match=r"samples \[1\] of the batch have none of the sensors"):
        draw_masks(GRIDS, 2, generator=generator(), present={n: torch.tensor([True, False]) for n in GRIDS})


def test_the_generator_decides():
    first, again, other = (draw_masks(GRIDS, 4, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first["s2"].mask, again["s2"].mask)
    assert not torch.equal(first["s2"].mask, other["s2"].mask)


def test_every_patch_is_equally_likely():
    mask = draw_masks({"s1": (4, 5)}, 4000, mask_ratio=0.6, generator=generator())["s1"].mask
    assert mask.mean(0).tolist() == pytest.approx([0.6] * 20, abs=0.04)


def test_drawn_by_hand_and_kept_whole():
    drawn = torch.tensor([[[0, 1, 1], [1, 0, 1]], [[0, 0, 0], [0, 1, 1]]])
    m = masks_from_arrays({"s1": drawn})["s1"]
    assert torch.equal(m.mask, drawn.flatten(1).float())
    assert m.ids_keep[0][~m.pad_keep[0]].tolist() == [0, 4]
    whole = keep_all(GRIDS, 2)["s1"]
    assert whole.mask.sum() == 0
    assert whole.ids_keep.tolist() == [list(range(225))] * 2


def test_rows_of_a_batch():
    masks = draw_masks(GRIDS, 4, "dirichlet", generator=generator())
    part = masks["s1"][1:3]
    assert torch.equal(part.mask, masks["s1"].mask[1:3])
    assert torch.equal(part.pad_keep, masks["s1"].pad_keep[1:3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "random"}, "unknown masking strategy 'random'; choose one of independent"),
        ({"mask_ratio": 75}, r"mask_ratio is 75, but must lie in 0\.\.1"),
        ({"strategy": "consistent", "grids": {"s1": (8, 8), "s2": (4, 4)}}, "consistent masks need the same grid"),
    ],
)
def test_bad_requests_say_what_to_do(options, message):
    with pytest.raises(ValueError, match=message):
        draw_masks(**{"grids": GRIDS, "batch_size": 2, "generator": generator()} | options)
