"""Fusions that need no training, and the grid of patches in a picture."""

import numpy as np
import pytest
from fusion_images import IR, VI, picture

from fmlib.block_noise import block_noise, spectrum
from fmlib.fusion_baselines import laplacian_pyramid, mean_image, pyramid
from fmlib.fusion_metrics import score


def test_the_mean_rounds_half_levels_up():
    ir, vi = np.array([[0, 255, 3]], np.uint8), np.array([[1, 255, 4]], np.uint8)
    assert mean_image(ir, vi).tolist() == [[1, 255, 4]]


@pytest.mark.parametrize("shape", [(48, 56), (37, 51), (3, 40)])
def test_a_picture_fused_with_itself_stays(shape):
    image = picture(48, 56)[: shape[0], : shape[1]]
    assert (laplacian_pyramid(image, image) == image).all()


def test_a_level_of_detail_lacks_what_is_smooth():
    ramp = np.add.outer(np.arange(64.0), np.arange(64.0)).astype(np.uint8)
    finest, *_, rest = pyramid(ramp, 3)
    assert [part.shape[-1] for part in pyramid(ramp, 3)] == [64, 32, 16, 8]
    assert finest[..., 8:-8, 8:-8].abs().max() < 1e-3
    assert rest[0, 0].numpy() == pytest.approx(ramp[::8, ::8], abs=6)


def test_the_stronger_detail_wins_and_brightness_is_shared():
    lines = np.full((64, 64), 100, np.uint8)
    lines[:, ::8] = 180
    fused = laplacian_pyramid(lines, np.full((64, 64), 60, np.uint8)).astype(float)
    contrast = fused[:, 32] - fused[:, 36]
    assert (contrast > 70).all(), "the mean would halve the contrast of 80"
    assert fused.mean() == pytest.approx((lines.mean() + 60) / 2, abs=3)


def test_it_keeps_more_detail_than_the_mean():
    found = {f.__name__: score(IR, VI, f(IR, VI), metrics=["AG", "SCD"]) for f in (mean_image, laplacian_pyramid)}
    for metric in ("AG", "SCD"):
        assert found["laplacian_pyramid"][metric] > found["mean_image"][metric]


def test_images_of_two_sizes():
    with pytest.raises(ValueError, match=r"\(48, 56\) and \(48, 55\) pixels cannot be fused"):
        laplacian_pyramid(IR, VI[:, 1:])


def test_published_anchor(real_data):
    """Scores near those of another 4-level pyramid on every second pair of RoadScene."""
    from fmlib.score_fusion import by_stem, read_grey

    root = real_data / "roadscene"
    if not root.is_dir():
        pytest.skip(f"no RoadScene at {root}")
    ir, vi = (by_stem(root / name) for name in ("cropinfrared", "crop_LR_visible"))
    pairs = [(read_grey(ir[stem]), read_grey(vi[stem])) for stem in sorted(ir)[::10]]
    scores = [score(a, b, laplacian_pyramid(a, b), metrics=["CC", "SCD", "Nabf"]) for a, b in pairs]
    means = {name: np.mean([s[name].item() for s in scores]) for name in scores[0]}
    assert means == pytest.approx({"CC": 0.638, "SCD": 1.482, "Nabf": 0.035}, rel=0.06)


# ---- block noise ------------------------------------------------------------------------------------------------


def texture(seed: int, side: int = 160) -> np.ndarray:
    """Noise whose power falls with the cube of its frequency, a little smoother than photographs: (side, side + 12)."""
    rng = np.random.default_rng(seed)
    shape = side, side + 12
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))
    waves = np.fft.rfft2(rng.normal(size=shape)) / np.maximum(radius, 1 / side) ** 1.5
    image = np.fft.irfft2(waves, shape)
    return 128 + 40 * image / image.std()


def with_grid(image: np.ndarray, patch: int, strength: float, seed: int = 0) -> np.ndarray:
    """Every patch brighter or darker by a level of its own."""
    rows, cols = (-(-side // patch) for side in image.shape)
    levels = np.random.default_rng(seed).normal(0, strength, (rows, cols))
    return image + levels.repeat(patch, 0).repeat(patch, 1)[: image.shape[0], : image.shape[1]]


@pytest.mark.parametrize("patch", [7, 8, 16])
def test_block_noise_sees_a_grid_and_nothing_else(patch):
    plain, faint, strong = (
        np.mean([block_noise(with_grid(texture(seed), patch, amount, seed), patch) for seed in range(6)])
        for amount in (0, 4, 10)
    )
    other = np.mean([block_noise(with_grid(texture(seed), 12, 10, seed), patch) for seed in range(6)])
    assert plain == pytest.approx(1, abs=0.15)
    assert plain + 0.1 < faint < strong
    assert strong > 2.5
    assert other < 0.6 * strong, "a grid of another period"


def test_steps_that_cancel_in_the_picture_are_seen():
    """Patch levels of random sign leave the picture's own spectrum without a line at their harmonics."""
    assert block_noise(with_grid(np.zeros((160, 160)), 8, 5), 8) > 10


def test_the_spectrum_is_that_of_steps():
    wave = 128 + 50 * np.sign(np.sin(2 * np.pi * (np.arange(161) + 0.5) / 16))  # a step every 8 pixels
    frequencies, power = spectrum(np.tile(wave, (161, 1)), 8)
    assert frequencies[power[0].argmax()] == pytest.approx(1 / 8)
    assert power[1].max() < 1e-12, "columns are flat"


def test_pictures_too_small_for_a_harmonic():
    with pytest.raises(ValueError, match=r"\(72, 300\) pixels is too small for patches of 8"):
        block_noise(np.zeros((72, 300)), 8)
    with pytest.raises(ValueError, match="patches of 2 pixels have no harmonic"):
        block_noise(np.zeros((300, 300)), 2)
