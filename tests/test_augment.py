import pytest
import torch

from fmlib.data.augment import augment, center_crop


def coordinates(size, batch, scale=1):
    """(B, 2, H, W): row and column of every pixel's centre on the finest grid."""
    rows, cols = (torch.arange(side // scale) * scale + (scale - 1) / 2 for side in size)
    grid = torch.stack(torch.meshgrid(rows, cols, indexing="ij"))
    return grid.expand(batch, -1, -1, -1)


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def test_sensors_keep_the_same_ground():
    images = {"s2": coordinates((120, 96), 50), "thermal": coordinates((120, 96), 50, scale=2)}
    out = augment(images, (40, 24), drawn())
    assert out["s2"].shape == (50, 2, 40, 24)
    assert out["thermal"].shape == (50, 2, 20, 12)
    halved = torch.nn.functional.avg_pool2d(out["s2"], 2)
    torch.testing.assert_close(halved, out["thermal"])


def test_crops_and_flips_differ_between_samples_and_reach_everywhere():
    out = augment({"s2": coordinates((12, 12), 4000)}, 10, drawn())["s2"]
    rows, cols = out[:, 0, :, 0], out[:, 1, 0, :]
    for line in (rows, cols):
        flipped = line[:, 0] > line[:, -1]
        assert 0.45 < flipped.float().mean() < 0.55
        starts = line.amin(1)
        assert starts.unique().tolist() == [0, 1, 2]
        assert ((line.diff(dim=1).abs()) == 1).all()  # whole pixels in order
    row_flips, col_flips = rows[:, 0] > rows[:, -1], cols[:, 0] > cols[:, -1]
    assert 0.2 < (row_flips & col_flips).float().mean() < 0.3  # drawn apart


def test_without_a_crop_only_flips_happen():
    image = torch.arange(18.0).reshape(1, 2, 3, 3).expand(64, -1, -1, -1)
    out = augment({"s1": image}, None, drawn())["s1"]
    expected = {tuple(image[0].flip(axes).flatten().tolist()) for axes in ([], [1], [2], [1, 2])}
    assert {tuple(sample.flatten().tolist()) for sample in out} == expected


def test_the_generator_decides():
    images = {"s1": torch.rand(8, 2, 20, 20)}
    state = torch.random.get_rng_state()
    first, again, other = (augment(images, 12, drawn(seed))["s1"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())  # the global generator is left alone


def test_a_mask_rides_along():
    images = {"s1": coordinates((20, 20), 4), "label": coordinates((20, 20), 4)[:, :1].to(torch.uint8)}
    out = augment(images, 8, drawn())
    assert out["label"].dtype == torch.uint8
    torch.testing.assert_close(out["label"].float(), out["s1"][:, :1])


def test_rotation_reaches_all_eight_symmetries_and_keeps_sensors_together():
    image = torch.arange(9.0).reshape(1, 1, 3, 3).expand(400, -1, -1, -1)
    out = augment({"s1": image, "s2": image.repeat_interleave(2, 2).repeat_interleave(2, 3)}, 6, drawn(), rotate=True)
    found = {tuple(sample.flatten().tolist()) for sample in out["s1"]}
    turns = [image[0].rot90(k, (1, 2)) for k in range(4)]
    assert found == {tuple(turn.flatten().tolist()) for turn in turns + [turn.flip(1) for turn in turns]}
    assert torch.equal(out["s2"][:, :, ::2, ::2], out["s1"])
    with pytest.raises(ValueError, match="cannot be rotated"):
        augment({"s1": image}, (2, 3), drawn(), rotate=True)


def test_rotation_leaves_the_other_draws_as_they_are():
    image = torch.rand(50, 1, 9, 9)
    plain, turned = (augment({"s1": image}, 6, drawn(), rotate=rotate)["s1"] for rotate in (False, True))
    same = (plain == turned).flatten(1).all(1)
    swapped = (plain.transpose(2, 3) == turned).flatten(1).all(1)
    assert (same | swapped).all()
    assert 15 < same.sum() < 35


def test_center_crop_is_central_for_every_sensor():
    images = {"s2": coordinates((120, 120), 2), "thermal": coordinates((120, 120), 2, scale=3)}
    out = center_crop(images, 60)
    assert out["s2"][0, 0, :, 0].tolist() == list(range(30, 90))
    assert out["thermal"].shape == (2, 2, 20, 20)
    assert out["thermal"].mean() == out["s2"].mean()


@pytest.mark.parametrize(
    ("sizes", "crop", "message"),
    [
        ((120, 120), 121, "does not fit into an image of"),
        ((120, 120), 0, "does not fit"),
        ((120, 50), 60, "'b' has .*do not divide"),
        ((120, 20), 50, "no whole number of pixels of 'b' .each is 6 wide"),
    ],
)
def test_a_crop_that_does_not_fit_is_refused(sizes, crop, message):
    images = {name: torch.zeros(1, 1, size, size) for name, size in zip("ab", sizes, strict=True)}
    with pytest.raises(ValueError, match=message):
        augment(images, crop, drawn())
    with pytest.raises(ValueError, match=message):
        center_crop(images, crop)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_images_on_another_device_get_the_same_crops():
    images = {"s1": torch.rand(8, 2, 20, 20)}
    moved = {name: image.cuda() for name, image in images.items()}
    assert torch.equal(augment(moved, 12, drawn())["s1"].cpu(), augment(images, 12, drawn())["s1"])
