"""Fusion metrics against their definitions written out pixel by pixel, and against other libraries."""

import math

import numpy as np
import pytest
import torch
from fusion_images import FUSED, IR, VI, picture
from scipy.fft import dctn
from scipy.ndimage import correlate
from scipy.signal import convolve2d

from fmlib.fusion_metrics import fmi, ms_ssim, q_abf, ssim, vif
from fmlib.fusion_metrics.features import _dct


def sobel(x: np.ndarray, row: int, col: int) -> tuple[float, float]:
    """Strength and angle at one pixel; the filter's columns are summed first, as MATLAB does."""
    weights = {"x": ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)), "y": ((1, 2, 1), (0, 0, 0), (-1, -2, -1))}
    slope = {"x": 0.0, "y": 0.0}
    for key, kernel in weights.items():
        for j in range(3):
            for i in range(3):
                r, c = row + 1 - i, col + 1 - j
                if 0 <= r < x.shape[0] and 0 <= c < x.shape[1]:
                    slope[key] += kernel[i][j] * x[r, c]
    strength = math.sqrt(slope["x"] ** 2 + slope["y"] ** 2)
    return strength, math.pi / 2 if slope["x"] == 0 else math.atan(slope["y"] / slope["x"])


@pytest.mark.parametrize(("convention", "scale"), [("toolbox", 255), ("toolbox-2023", 1)])
def test_q_abf_as_the_toolbox_loops(convention, scale):
    a, b, f = (image[:24, :28] / np.float64(scale) for image in (IR, VI, FUSED))
    kept = total = 0.0
    for place in np.ndindex(a.shape):
        g_f, angle_f = sobel(f, *place)
        for source in (a, b):
            g, angle = sobel(source, *place)
            ratio = g_f / g if g > g_f else g_f if g == g_f else g / g_f
            alike = 1 - abs(angle - angle_f) / (math.pi / 2)
            quality = 0.9994 / (1 + math.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + math.exp(-22 * (alike - 0.8)))
            kept, total = kept + quality * g, total + g
    found = q_abf(IR[:24, :28], VI[:24, :28], FUSED[:24, :28], convention).item()
    assert found == pytest.approx(kept / total, abs=1e-12)


def gaussian_window() -> np.ndarray:
    x = np.arange(-5, 6)
    window = np.exp(-np.add.outer(x**2, x**2) / (2 * 1.5**2))
    return window / window.sum()


def test_mef_ssim_patch_by_patch():
    """The wanted patch, made and compared: what `ssim` derives from the sources' statistics."""
    a, b, f = (image[:20, :22].astype(float) for image in (IR, VI, FUSED))
    window, scores = gaussian_window(), []
    for row, col in np.ndindex(10, 12):
        patches = [image[row : row + 11, col : col + 11] for image in (a, b, f)]
        centred = [patch - patch.mean() for patch in patches[:2]]
        lengths = [np.linalg.norm(patch) for patch in centred]
        alike = (np.linalg.norm(sum(centred)) + 2.2e-16) / (sum(lengths) + 2.2e-16)
        power = min(10, math.tan(math.pi / 2 * min(alike, 1 - 2.2e-16)))
        shares = [((length + 0.001) / 11) ** power + 2.2e-16 for length in lengths]
        wanted = sum(
            share / sum(shares) * patch / (length + 0.001)
            for share, patch, length in zip(shares, centred, lengths, strict=True)
        )
        if np.linalg.norm(wanted):
            wanted = wanted / np.linalg.norm(wanted) * (max(lengths) + 0.001)
        x, y = wanted - (window * wanted).sum(), patches[2] - (window * patches[2]).sum()
        c2 = 7.65**2
        scores.append((2 * (window * x * y).sum() + c2) / ((window * (x * x + y * y)).sum() + c2))
    found = ssim(a.astype(np.uint8), b.astype(np.uint8), f.astype(np.uint8), "toolbox").item()
    assert found == pytest.approx(np.mean(scores), abs=1e-9)


def window_information(a: np.ndarray, f: np.ndarray) -> float:
    """FMI of one pair of 3 × 3 windows, the joint distribution from Fréchet's bounds cell by cell."""
    if (a == f).all():
        return 1.0
    p, q = ((x - x.min()) / np.ptp(x) if np.ptp(x) else np.ones(9) for x in (a.flatten("F"), f.flatten("F")))
    p, q = p / p.sum(), q / q.sum()
    rho = 0.0 if ((p - p.mean()) * (q - q.mean())).sum() == 0 else np.corrcoef(p, q)[0, 1]
    up_p, up_q = np.r_[0, p.cumsum()], np.r_[0, q.cumsum()]
    bound = np.minimum.outer(up_p, up_q) if rho >= 0 else np.maximum(np.add.outer(up_p, up_q) - 1, 0)
    place = np.arange(1, 10)
    spread = [math.sqrt(max(0, (x * place**2).sum() - (x * place).sum() ** 2)) for x in (p, q)]
    share = 0.0
    if rho and min(spread) > 0:
        share = rho / ((bound - np.outer(up_p, up_q))[1:, 1:].sum() / math.prod(spread))
    joint = share * np.diff(np.diff(bound, axis=0), axis=1) + (1 - share) * np.outer(p, q)

    def bits(x):
        x = x[x != 0]
        return -(x * np.log2(np.abs(x))).sum()

    shared = bits(p) + bits(q) - bits(joint)
    return 0.0 if shared == 0 or bits(p) + bits(q) == 0 else 2 * shared / (bits(p) + bits(q))


def test_fmi_window_by_window():
    a, b, f = (image[:12, 12:26].astype(float) for image in (IR, VI, FUSED))
    places = [(slice(row, row + 3), slice(col, col + 3)) for row, col in np.ndindex(10, 12)]
    expected = np.mean([window_information(source[at], f[at]) for source in (a, b) for at in places])
    assert fmi(a, b, f).item() == pytest.approx(expected, abs=1e-9)


def test_fmi_of_edges_and_cosines():
    step = np.where(np.arange(16) < 8, 20, 200) * np.ones((12, 1), int)
    assert fmi(step, step, 255 - step, feature="edge").item() == pytest.approx(1), "the same edges"
    assert fmi(step, step, np.full_like(step, 9), feature="edge").item() < 1
    assert fmi(IR, VI, FUSED, "toolbox").item() == fmi(IR, VI, FUSED, feature="edge").item()
    assert fmi(IR, VI, IR, feature="dct").item() > fmi(IR, VI, FUSED, feature="dct").item() > 0
    np.testing.assert_allclose(
        _dct(torch.tensor(IR).double()[None])[0], dctn(IR.astype(float), norm="ortho"), atol=1e-9
    )


# ---- against other libraries ------------------------------------------------------------------------------------


def similarity(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Mean SSIM, and its part of contrast and structure, by SciPy's plain convolution."""

    def mean(image):
        return convolve2d(image, gaussian_window(), "valid")

    (c1, c2), mean_x, mean_y = (2.55**2, 7.65**2), mean(x), mean(y)
    structure = (2 * (mean(x * y) - mean_x * mean_y) + c2) / (mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2 + c2)
    return (structure * (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)).mean(), structure.mean()


def test_ssim_and_ms_ssim_against_scipy():
    a, b = picture(177, 180, 1), picture(177, 180, 2)
    f = (a + 2.0 * b) // 3
    expected = np.mean([similarity(f, source.astype(float))[0] for source in (a, b)])
    assert ssim(a, b, f).item() == pytest.approx(expected, abs=1e-9)
    scores = []
    for source in (a, b):
        x, y, parts = f, source.astype(float), []
        for level in range(5):
            parts.append(similarity(x, y)[level < 4])
            x, y = (correlate(np.pad(image, 1, "edge"), np.ones((2, 2)) / 4)[2::2, 2::2] for image in (x, y))
        scores.append(np.prod(np.array(parts) ** [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]))
    assert ms_ssim(a, b, f).item() == pytest.approx(np.mean(scores), abs=1e-9)


def test_vif_against_torchmetrics():
    from torchmetrics.functional.image import visual_information_fidelity

    a, b, f = (picture(70, 90, seed) for seed in (1, 2, 3))
    for fused in (f, (a + b.astype(int)) // 2):
        x, y, z = (torch.tensor(image).double()[None, None] for image in (a, b, fused))
        expected = sum(visual_information_fidelity(z, source).item() for source in (x, y))
        assert vif(a, b, fused).item() == pytest.approx(expected, abs=1e-6)
