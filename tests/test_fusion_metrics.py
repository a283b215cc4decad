"""Fusion metrics: answers known by hand, what holds for all, published values."""

import csv
import math

import numpy as np
import pytest
import torch
from fusion_images import FUSED, IR, VI, picture
from PIL import Image

from fmlib import fusion_metrics
from fmlib.fusion_metrics import (
    CONVENTIONS,
    METRICS,
    ag,
    cc,
    en,
    fmi,
    luma,
    mi,
    ms_ssim,
    mse,
    n_abf,
    nlpd,
    psnr,
    q_abf,
    scd,
    score,
    sd,
    sf,
)
from fmlib.score_fusion import read_grey

RNG = np.random.default_rng(0)


# ---- known by hand ----------------------------------------------------------------------------------------------


def test_errors_and_decibels():
    dark, grey, white = (np.full((4, 5), value) for value in (0, 51, 255))
    assert mse(dark, white, grey).item() == pytest.approx((0.2**2 + 0.8**2) / 2)
    assert psnr(dark, white, grey).item() == pytest.approx(-10 * math.log10(0.34))
    for convention in CONVENTIONS[1:]:
        shifted = psnr(dark, white, grey, convention).item()
        assert shifted == pytest.approx(20 * math.log10(255 / math.sqrt(0.34)))
    assert psnr(grey, grey, grey).item() == math.inf


def test_correlations():
    ramp = np.arange(20.0).reshape(4, 5)
    assert cc(ramp, 2 * ramp + 3, ramp).item() == pytest.approx(1)
    assert cc(ramp, 200 - ramp, ramp).item() == pytest.approx(0)
    other = np.where(np.arange(20).reshape(4, 5) % 2, 30.0, 10.0)
    assert scd(ramp, other, ramp + other).item() == pytest.approx(2)
    assert torch.isnan(scd(ramp, other, ramp)), "fused − ir is flat"
    assert torch.isnan(cc(ramp, np.full((4, 5), 7), ramp)), "one source is flat"


def test_information_of_levels():
    levels = np.repeat([0, 64, 128, 192], 8).reshape(4, 8)
    assert en(levels).item() == pytest.approx(2)
    assert en(levels > 100).item() == pytest.approx(1)
    assert en(np.full((4, 8), 9)).item() == 0
    assert mi(levels, levels, levels).item() == pytest.approx(4)
    assert mi(levels, levels.T.reshape(4, 8), np.full((4, 8), 9)).item() == pytest.approx(0)


def test_the_toolbox_cannot_tell_white_from_nearly_white_in_joint_histograms():
    levels = np.repeat([254, 255], 8).reshape(4, 4)
    assert mi(levels, levels, levels).item() == pytest.approx(2)
    assert mi(levels, levels, levels, "toolbox").item() == pytest.approx(4), "H(x) + H(f) − 0, twice"


def test_contrast_and_sharpness():
    ramp = np.add.outer(3 * np.arange(6), 4 * np.arange(7))
    assert sf(ramp).item() == pytest.approx(5)
    assert sf(ramp, "toolbox").item() == pytest.approx(5 / 255)
    assert sf(ramp, "toolbox-2023").item() == pytest.approx(5)
    assert ag(ramp).item() == pytest.approx(math.sqrt(12.5) * 42 / 30)
    board = np.array([[0, 200], [200, 0]])
    assert sd(board).item() == pytest.approx(100)
    assert sd(board, "toolbox").item() == pytest.approx(math.sqrt(255 / 2)), "d is 0 and 100, d² stops at 255"
    assert sd(np.array([[10, 12], [14, 12]]), "toolbox").item() == pytest.approx(1), "d is 0, 0, 2, 0"


def test_fusing_an_image_with_itself():
    for convention in CONVENTIONS:
        found = {name: value.item() for name, value in score(*[picture(180, 176)] * 3, convention).items()}
        equal = 0.9994 / (1 + math.exp(-7.5)) * 0.9879 / (1 + math.exp(-4.4))
        best = {"CC": 1, "MSE": 0, "PSNR": math.inf, "Nabf": 0, "NLPD": 0, "SSIM": 1, "MS-SSIM": 1, "FMI": 1}
        best |= {"Qabf": equal} if convention == "standard" else {}
        best |= {"VIF": 2} if convention != "toolbox" else {}
        best |= {"MI": 2 * found["EN"]} if convention == "standard" else {}
        for name, value in best.items():
            assert found[name] == pytest.approx(value, abs=1e-6), (convention, name)
        assert math.isnan(found["SCD"])


def test_nlpd_of_flat_images():
    """Only the last band, one pixel, differs: z / σ; the mean is over six bands."""
    grey, dark = np.full((17, 17), 127.5), np.zeros((17, 17))
    assert nlpd(grey, dark, dark).item() == pytest.approx(0.5 / 0.2782 / 6 / 2)


def test_artefacts_are_edges_that_no_source_has():
    flat, step = np.full((20, 20), 90), np.where(np.arange(20) < 10, 90, 150) * np.ones((20, 1), int)
    assert n_abf(step, flat, flat).item() == 0, "lost, not made up"
    kept = math.sqrt(0.9999 / (1 + math.exp(9.5)) * 0.9995 / (1 + math.exp(11)))  # of edges that are not there
    assert n_abf(flat, flat, step).item() == pytest.approx(2 / 20 * (1 - kept))
    assert n_abf(flat, flat, step, "toolbox-2023").item() == 0, "looks for artefacts in the infrared image"
    assert n_abf(step, flat, flat, "toolbox-2023").item() > 0


def test_q_abf_of_a_lost_edge():
    step, flat = np.where(np.arange(8) < 4, 0, 100) * np.ones((8, 1), int), np.zeros((8, 8), int)
    lost = q_abf(step, step, flat).item()  # G = 0; the fused angle counts as π/2, the vertical edge's is 0
    assert lost < 1e-3 < q_abf(step, step, step).item()
    assert torch.isnan(q_abf(flat, flat, step)), "no edge to keep"


# ---- what holds for all -----------------------------------------------------------------------------------------


def test_a_batch_scores_as_its_images_do():
    big = np.stack([picture(176, 180, seed) for seed in range(3)])
    ir, vi = picture(176, 180, 8), picture(176, 180, 9)
    for convention in CONVENTIONS:
        together = score(ir, torch.tensor(vi), big, convention)
        for number, image in enumerate(big):
            alone = score(ir, vi, image, convention)
            for name in METRICS:
                assert together[name].shape == (3,)
                assert together[name].dtype == torch.float64
                assert together[name][number].item() == pytest.approx(alone[name].item(), abs=1e-12), name


def test_sources_are_equals():
    a, b, f = (picture(176, 180, seed) for seed in (1, 2, 3))
    for convention in CONVENTIONS:
        one, other = score(a, b, f, convention), score(b, a, f, convention)
        for name in METRICS:
            if (name, convention) != ("Nabf", "toolbox-2023"):
                assert one[name].item() == pytest.approx(other[name].item(), abs=1e-12), (convention, name)


def test_noise_is_told_from_a_good_fusion():
    a, b = picture(176, 180, 1), picture(176, 180, 2)
    good = (a + b.astype(int) + 1) // 2
    bad = RNG.integers(0, 256, a.shape)
    found = {True: score(a, b, good), False: score(a, b, bad)}
    for name, metric in METRICS.items():
        if metric.sources:  # noise is sharp and full of information
            assert (found[True][name] > found[False][name]).item() == metric.higher, name


def test_conventions_differ_where_they_say():
    differ = {"PSNR", "MI", "SF", "SD", "VIF", "Qabf", "Nabf", "SSIM", "MS-SSIM", "FMI"}
    a, b = picture(176, 180, 1), picture(176, 180, 2)
    a, b = (np.where(image > 250, RNG.integers(254, 256, image.shape), image) for image in (a, b))
    one, other = score(a, b, (a + b) // 2), score(a, b, (a + b) // 2, "toolbox")
    assert {name for name in METRICS if abs(one[name] - other[name]).item() > 1e-9} == differ


def test_the_toolbox_reads_files_of_8_bits():
    halves = np.clip(FUSED + 0.4, 0, 255)
    assert sd(halves, "toolbox").item() == sd(FUSED, "toolbox").item()
    assert mse(IR, VI, halves).item() != mse(IR, VI, FUSED).item()


def test_flat_images_have_documented_scores():
    flat = np.full((176, 176), 100)
    found = {name: value.item() for name, value in score(flat, flat, flat).items()}
    assert {name for name, value in found.items() if math.isnan(value)} == {"CC", "SCD", "VIF"}
    assert [found[name] for name in ("EN", "MI", "SF", "SD", "AG", "Nabf", "NLPD")] == [0] * 7
    assert found["SSIM"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"fused": FUSED[:-1]}, r"fused has 47 × 56 pixels, but ir has 48 × 56; bring the fused"),
        ({"ir": np.dstack([IR] * 3)}, r"ir has shape \(48, 56, 3\), expected grey .* luma of colour"),
        ({"vi": np.stack([VI] * 2), "fused": np.stack([FUSED] * 3)}, r"batches of \[2, 3\] images"),
        ({"vi": np.where(VI > 99, np.nan, VI)}, r"vi: \d+ values are not finite"),
        ({"fused": FUSED * 257.0}, r"fused runs from .* expected 0 … 255; bring it to 8 bits"),
        ({"fused": FUSED / 255.0}, r"fused runs from .* looks like 0 … 1; multiply it by 255"),
        ({"ir": IR[:1], "vi": VI[:1], "fused": FUSED[:1]}, r"ir has 1 × 56 pixels; needed are 2 a side"),
        ({"fused": FUSED[None][:0]}, r"fused has shape \(0, 48, 56\), expected grey"),
        ({"ir": IR[None, None]}, r"ir has shape \(1, 1, 48, 56\), expected grey"),
    ],
)
def test_bad_images(images, message):
    with pytest.raises(ValueError, match=message):
        cc(**{"ir": IR, "vi": VI, "fused": FUSED, **images})


def test_bad_words():
    with pytest.raises(ValueError, match=r"convention 'matlab' is not one of standard, toolbox, toolbox-2023"):
        sd(FUSED, "matlab")
    with pytest.raises(ValueError, match=r"no metric SCC; there are CC, SCD"):
        score(IR, VI, FUSED, metrics=["SCC"])
    with pytest.raises(ValueError, match=r"needed are 176 a side"):
        ms_ssim(IR, VI, FUSED)
    with pytest.raises(ValueError, match=r"feature 'wavelet' is not one of"):
        fmi(IR, VI, FUSED, feature="wavelet")


def test_luma_is_matlabs():
    rgb = np.array([[[255, 0, 0, 9]], [[0, 255, 0, 9]], [[0, 0, 255, 9]]], np.uint8)
    assert luma(rgb).tolist() == [[76, 150, 29, 9]]
    with pytest.raises(ValueError, match=r"luma of float64\[3, 1, 4\]; expected uint8"):
        luma(rgb / 255)


def test_every_metric_says_range_and_direction():
    for name, metric in METRICS.items():
        text = metric.function.__doc__
        assert ("higher is" if metric.higher else "lower is") in text, name
        assert "…" in text, name
    assert set(fusion_metrics.__all__) >= {"score", "METRICS", "CONVENTIONS"}


# ---- published values -------------------------------------------------------------------------------------------


def published(real_data) -> list[tuple[str, str, str, float]]:
    path = real_data / "fusion-metrics" / "published_values.csv"
    if not path.is_file():
        pytest.skip(f"no published values at {path}")
    with open(path, encoding="utf-8") as file:
        return [(row["metric"], row["image"], row["method"], float(row["value"])) for row in csv.DictReader(file)]


def test_published_values(real_data):
    """11 metrics of all published images, in the arithmetic of the program that printed them."""
    values = published(real_data)
    names, images, methods = (sorted({row[key] for row in values}) for key in range(3))
    found = {}
    for image in images:
        ir, vi = (read_grey(real_data / "tno" / kind / f"{image}.png") for kind in ("ir", "vi"))
        fused = np.stack([read_grey(real_data / "fusion-metrics" / name / f"{image}.png") for name in methods])
        found[image] = score(ir, vi, fused, "toolbox", names)
    assert len(values) == len(names) * len(images) * len(methods) >= 165
    for name, image, method, value in values:
        score_of_it = found[image][name][methods.index(method)].item()
        assert score_of_it == pytest.approx(value, abs=1e-8), (name, image, method)


def test_sound_arithmetic_on_a_published_image(real_data):
    """Values of SeAFusion's image 01 without the toolbox's overflows and shifts."""
    published(real_data)
    folders = (real_data / "tno" / "ir", real_data / "tno" / "vi", real_data / "fusion-metrics" / "SeAFusion")
    ir, vi, fused = (read_grey(folder / "01.png") for folder in folders)
    expected = {"EN": 7.17102, "SF": 12.80257, "SD": 48.14901, "VIF": 0.63139, "AG": 5.02725, "CC": 0.35527}
    expected |= {"SCD": 1.81051, "Qabf": 0.47394, "Nabf": 0.06652, "NLPD": (0.74404 + 0.54963) / 2}
    for name, value in score(ir, vi, fused, metrics=list(expected)).items():
        assert value.item() == pytest.approx(expected[name], abs=6e-6), name
    assert n_abf(ir, vi, fused, "toolbox-2023").item() == pytest.approx(0.00803, abs=6e-6)


def test_colour_is_scored_by_its_luma(real_data):
    published(real_data)
    path = real_data / "fusion-metrics" / "SeAFusion" / "01.png"
    with Image.open(path) as image:
        assert image.mode == "RGB"
        assert (read_grey(path) == luma(np.asarray(image).transpose(2, 0, 1))).all()
