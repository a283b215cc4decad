"""Radar: power and decibels, speckle, the difference of two polarisations."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from ..data.statistics import valid_pixels
from ..modality import Modality

POLARISATIONS = (("VV", "VH"), ("HH", "HV"))  # co- and cross-polarised
_DECIBELS = {  # unit → decibels
    "dB": lambda values: values,
    "linear power": lambda values: 10 * np.log10(values),
    "linear amplitude": lambda values: 20 * np.log10(values),
}


def is_radar(modality: Modality) -> bool:
    """Does a sensor have a polarised band, or a band in decibels?"""
    return modality.unit == "dB" or any(band.upper() in names for band in modality.bands for names in POLARISATIONS)


def to_power(image: np.ndarray, modality: Modality) -> np.ndarray:
    """Linear power of a SAR image.

    Args:
        image: any shape, in the unit of `modality`.
        modality: its sensor. Decibels become ``10^(x/10)``; other units stay as they are, so that looks estimated
            from them describe the stored values and not the sensor.

    Returns:
        Power, same shape, float64.
    """
    image = np.asarray(image, dtype=np.float64)
    return 10 ** (image / 10) if modality.unit == "dB" else image


# -- speckle ------------------------------------------------------------------------------------------------------


def equivalent_number_of_looks(power: np.ndarray | Sequence[np.ndarray], window: int = 9) -> float:
    """Estimate the number of looks of multiplicative speckle.

    The image is cut into windows. Where the ground is homogeneous a window's mean²/variance estimates the number of
    looks; texture only lowers it. The most frequent value over all windows is returned (the mode of a kernel density
    of its logarithm), as in automatic ENL estimation (Anfinsen et al., IEEE TGRS 47(11), 2009). Pixels that are
    correlated, as in resampled products, raise the estimate.

    Args:
        power: linear power, not decibels: an image (H, W), or several (N, H, W), or a list of images of any sizes.
        window: side of a window in pixels.

    Returns:
        Equivalent number of looks, at least 0.

    Raises:
        ValueError: negative values (decibels?), or too small an image.
    """
    images = power if isinstance(power, Sequence) else [power]
    looks = np.concatenate([_window_looks(image, window)[2] for image in images])
    looks = np.log(looks[np.isfinite(looks) & (looks > 0)])
    if len(looks) < 10 or np.ptp(looks) == 0:
        raise ValueError(f"only {len(looks)} usable windows of {window} × {window} pixels; give more or larger images")
    density = stats.gaussian_kde(looks)
    grid = np.linspace(*np.percentile(looks, (1, 99)), 400)
    return float(np.exp(grid[density(grid).argmax()]))


def homogeneous_window(power: np.ndarray, looks: float, window: int = 32) -> tuple[int, int, int]:
    """Find the window of an image whose mean²/variance comes nearest to a number of looks.

    Args:
        power: (H, W) linear power.
        looks: number of looks expected of homogeneous ground.
        window: side of the window in pixels.

    Returns:
        Row and column of its first pixel, and its side.
    """
    rows, cols, found = _window_looks(power, min(window, *power.shape[-2:]))
    far = np.where(np.isfinite(found), np.abs(np.log(np.maximum(found, 1e-12) / looks)), np.inf)
    best = int(far.argmin())
    return int(rows[best]), int(cols[best]), min(window, *power.shape[-2:])


def _window_looks(power, window: int):
    """Row, column and mean²/variance of every window; windows overlap by half."""
    power = np.asarray(power, dtype=np.float64)
    if np.nanmin(power) < 0:
        raise ValueError(
            f"power below 0 (lowest {np.nanmin(power):g}): these look like decibels; convert with quality.to_power"
        )
    if min(power.shape[-2:]) < window:
        raise ValueError(f"images of {power.shape[-2:]} pixels are smaller than a window of {window}; shrink it")
    step = max(window // 2, 1)
    views = np.lib.stride_tricks.sliding_window_view(power, (window, window), axis=(-2, -1))[..., ::step, ::step, :, :]
    index = np.indices(views.shape[:-2]).reshape(views.ndim - 2, -1)
    mean, variance = views.mean(axis=(-2, -1)).ravel(), views.var(axis=(-2, -1), ddof=1).ravel()
    looks = np.divide(mean**2, variance, out=np.full_like(mean, np.nan), where=variance > 0)
    return index[-2] * step, index[-1] * step, looks


# -- polarisations ------------------------------------------------------------------------------------------------


def polarisations(samples: Sequence[Mapping], modalities: Mapping[str, Modality]) -> dict[str, dict[str, np.ndarray]]:
    """Decibels of every radar sensor that has a co- and a cross-polarised band.

    Args:
        samples: as a data set yields them.
        modalities: its sensors; linear power and amplitude are converted, other units are left out: a stretch to
            8 bit has forgotten the decibels.

    Returns:
        Title of each such sensor to ``{"VV": (n,), "VH": (n,)}``: the same pixels of both bands, those with data.
    """
    found = {}
    for key, modality in modalities.items():
        pair = next((pair for pair in POLARISATIONS if set(pair) <= set(modality.bands)), None)
        images = [valid_pixels(sample, key)[modality.index(*pair)] for sample in samples if pair and key in sample]
        if images and modality.unit in _DECIBELS:
            with np.errstate(divide="ignore", invalid="ignore"):  # power 0 or below has no decibels
                values = _DECIBELS[modality.unit](np.concatenate(images, axis=1))
            found[modality.title] = dict(zip(pair, values[:, np.isfinite(values).all(axis=0)], strict=True))
    return found
