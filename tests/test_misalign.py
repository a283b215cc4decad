"""Displacing one source: exact where it can be, undone by its inverse, reflected at the border."""

import math

import pytest
import torch
from sensors import generator

from fmlib.misalign import Displacement, compass, displace, draw_displacement, misalign


def smooth(size=(40, 48), batch=2) -> torch.Tensor:
    """Waves (B, 2, H, W), long enough to be interpolated well."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    return torch.stack([torch.sin(x / 7 + b) + torch.cos(y / 9 + c) for b in range(batch) for c in range(2)]).view(
        batch, 2, *size
    )


@pytest.mark.parametrize(("rows", "cols"), [(0, 0), (3, 0), (0, -5), (-7, 11), (39, 47)])
def test_whole_pixels_are_exact(rows, cols):
    image = torch.randn(2, 3, 40, 48, generator=generator())
    moved = displace(image, Displacement(rows, cols))
    # reference: torch's reflecting pad, which reaches out to one pixel less than the image
    padded = torch.nn.functional.pad(image, (47, 47, 39, 39), mode="reflect")
    assert torch.equal(moved, padded[:, :, 39 - rows : 79 - rows, 47 - cols : 95 - cols])


def test_content_goes_where_the_displacement_says():
    image = torch.zeros(1, 1, 21, 21)
    image[0, 0, 10, 15] = 1  # five to the right of the middle
    peak = lambda d: divmod(int(displace(image, d).argmax()), 21)  # noqa: E731
    assert peak(Displacement(rows=2, cols=-3)) == (12, 12)
    assert peak(Displacement(angle=90)) == (5, 10)  # counter-clockwise: up
    assert peak(Displacement(scale=2)) == (10, 20)
    assert peak(Displacement(rows=1, angle=90)) == (6, 10)  # rotated first, then moved


def test_sub_pixels_interpolate():
    image = torch.randn(1, 1, 9, 9, generator=generator())
    half = displace(image, Displacement(cols=0.5))
    assert torch.allclose(half[..., 1:], (image[..., :-1] + image[..., 1:]) / 2, atol=1e-6)


@pytest.mark.parametrize(
    "there", [Displacement(rows=4, cols=-3), Displacement(1.3, 2.6, 7.0, 1.06), Displacement(-0.5, 3, -12, 0.95)]
)
def test_the_inverse_brings_it_back_inside_the_border(there):
    image = smooth()
    again = displace(displace(image, there), there.inverse())
    inside = (..., slice(12, -12), slice(12, -12))
    assert (again - image)[inside].abs().max() < 0.02  # twice bilinear
    assert (displace(image, there) - image)[inside].abs().max() > 0.2
    whole = Displacement(rows=4, cols=-3)
    assert torch.equal(displace(displace(image, whole), whole.inverse())[inside], image[inside])


def test_each_sample_may_have_its_own():
    image = smooth(batch=3)
    each = displace(image, Displacement(torch.tensor([0.0, 2, 0.3]), torch.tensor([1.0, 0, -4]), angle=3))
    for b, (rows, cols) in enumerate([(0, 1), (2, 0), (0.3, -4)]):
        alone = displace(image[b : b + 1], Displacement(rows, cols, 3))
        assert torch.allclose(each[b], alone[0], atol=1e-6)


def test_only_the_named_source_moves():
    batch = {"s1": smooth(), "s2": smooth()}
    moved = misalign(batch, "s2", Displacement(rows=3))
    assert moved["s1"] is batch["s1"]
    assert torch.equal(moved["s2"], displace(batch["s2"], Displacement(rows=3)))
    assert torch.equal(batch["s2"], smooth())  # what was given stays as it is
    with pytest.raises(ValueError, match=r"'dem' cannot be displaced: the images are of s1, s2"):
        misalign(batch, "dem", Displacement())


def test_far_out_and_single_pixels():
    image = torch.randn(1, 1, 5, 1, generator=generator())
    assert torch.equal(displace(image, Displacement(rows=8, cols=100)), image)  # a whole period of the reflection
    assert displace(image, Displacement(rows=1e4)).isfinite().all()


def test_random_displacements_fill_their_range():
    drawn = draw_displacement(4000, 3, generator(), angle=10, scale=0.2)
    for values, low, high in zip(drawn, (-3, -3, -10, 0.8), (3, 3, 10, 1.2), strict=True):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)
        assert math.isclose(values.mean(), (low + high) / 2, abs_tol=0.03 * (high - low))
    rows, counts = draw_displacement(7000, 3, generator(), whole=True).rows.unique(return_counts=True)
    assert rows.tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert counts.min() > 850
    assert torch.equal(draw_displacement(5, 3, generator(1)).rows, draw_displacement(5, 3, generator(1)).rows)


def test_compass():
    assert compass(0) == [Displacement()]
    assert [d[:2] for d in compass(4)] == [(4, 0), (-4, 0), (0, 4), (0, -4)]


@pytest.mark.parametrize(
    ("displacement", "message"),
    [
        (Displacement(scale=0), "scale must be above 0, got 0"),
        (Displacement(rows=torch.zeros(5)), r"rows has shape \(5,\) for 2 images"),
    ],
)
def test_bad_displacements(displacement, message):
    with pytest.raises(ValueError, match=message):
        displace(smooth(), displacement)
