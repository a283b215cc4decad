"""Block noise: how much a picture shows the grid of patches that it was made from."""

import numpy as np

NEIGHBOURS = (2, 3, 4)  # bins on either side that a harmonic is compared with; next to it lies its own leakage


def spectrum(image: np.ndarray, period: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean power spectrum of the absolute differences of neighbouring pixels, along rows and columns.

    Differences, as in Wang, Bovik and Evans (Blind Measurement of Blocking Artifacts in Images, ICIP 2000), show steps
    between patches whether they go up or down; in the picture itself, steps of both signs cancel. As many lines as a
    patch has are averaged first: they share its edges, and less of the picture's own detail.

    Args:
        image: (H, W) grey values.
        period: side of a patch in pixels; the picture is cut to whole periods, so that harmonics fall on bins.

    Returns:
        Frequencies in cycles a pixel, from 0 to ½; power (2, bins) along rows and along columns, at the same
        frequencies.

    Raises:
        ValueError: a picture too small for a harmonic to have neighbours.
    """
    image = np.asarray(image, np.float64)
    side = (min(image.shape) - 1) // period * period
    if side < period * (2 * NEIGHBOURS[-1] + 1) or period < 2:
        raise ValueError(
            f"a picture of {image.shape} pixels is too small for patches of {period}: needed are periods of 2 or more, "
            f"and {2 * NEIGHBOURS[-1] + 1} of them a side"
        )
    window = np.hanning(side + 1)[:-1]
    power = []
    for steps in (np.diff(image, axis=1), np.diff(image, axis=0).T):  # (lines, places)
        lines = np.abs(steps)[: len(steps) // period * period, :side].reshape(-1, period, side).mean(1)
        waves = np.fft.rfft(window * (lines - lines.mean(1, keepdims=True)))
        power.append((np.abs(waves) ** 2).mean(0))
    return np.fft.rfftfreq(side), np.stack(power)


def block_noise(image: np.ndarray, patch_size: int) -> float:
    """How many times the power at a patch's harmonics is that of their neighbours; 1: no grid to be seen.

        exp mean over m, d, axes [ log P(m/p) − ½ log P(m/p − d/N) − ½ log P(m/p + d/N) ]

    with P the power of `spectrum`, p the patch's side, N the picture's, harmonics m = 1 … below p/2, d = 2, 3, 4.

    Args:
        image: (H, W) grey values.
        patch_size: side of a patch in pixels.

    Raises:
        ValueError: as for `spectrum`; patches of less than 3 pixels, which have no harmonic.
    """
    if patch_size < 3:
        raise ValueError(f"patches of {patch_size} pixels have no harmonic below half a cycle a pixel; needed are 3")
    frequencies, power = spectrum(image, patch_size)
    centre = np.arange(1, (patch_size + 1) // 2) * round(1 / frequencies[1]) // patch_size  # bins of harmonics
    logs = np.log(power + 1e-9)
    around = [(logs[:, centre - d] + logs[:, centre + d]) / 2 for d in NEIGHBOURS]
    return float(np.exp(np.mean(logs[:, centre] - np.mean(around, axis=0))))
