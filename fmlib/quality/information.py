"""Information that two images share, and where it is greatest as one is moved over the other."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import ndimage

from ..data.resample import resample
from ..modality import Modality
from .samples import complete

LARGEST = 256  # pixels: of a larger image the middle is enough to see a shift


def mutual_information(a: np.ndarray, b: np.ndarray, bins: int = 8, sigma: float = 2.0) -> float:
    """Normalised mutual information of two images, ``2 I(a, b) / (H(a) + H(b))``.

    Both are smoothed first, because speckle hides what the sensors share, and cut at their own quantiles, so that
    the result does not change with a monotonic change of units such as power against decibels.

    Args:
        a, b: (H, W), any units.
        bins: number of grey levels.
        sigma: of the Gaussian smoothing, in pixels; 0 leaves it out.

    Returns:
        0 (independent) to 1 (each determines the other). Independent images come out near
        ``(bins − 1)² / (2 n ln bins)``, with n the number of independent pixels left after smoothing, not at 0.

    Raises:
        ValueError: different shapes.
    """
    return _information(*_levels(a, b, bins, sigma), bins)


def mutual_information_against_shift(
    a: np.ndarray, b: np.ndarray, max_shift: int = 8, step: int = 1, axis: int = 1, bins: int = 8, sigma: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Normalised mutual information as one image is moved over the other.

    Args:
        a, b: (H, W).
        max_shift: greatest shift in pixels.
        step: between shifts in pixels.
        axis: 0 shifts along rows, 1 along columns.
        bins, sigma: see `mutual_information`.

    Returns:
        Shifts (S,) and information (S,); every shift is measured on equally many pixels. The peak stands where ``b``
        moved back by the shift lies over ``a``: ``b = np.roll(a, 3)`` peaks at 3.
    """
    a, b = (np.moveaxis(levels, axis, -1) for levels in _levels(a, b, bins, sigma))
    _check_shift(max_shift, a.shape[-1:])
    shifts = _shifts(max_shift, step)
    length = a.shape[-1] - 2 * max_shift
    middle = a[:, max_shift : max_shift + length]
    moved = (b[:, max_shift + s : max_shift + s + length] for s in shifts)
    return shifts, np.array([_information(middle, other, bins) for other in moved])


def mutual_information_map(
    a: np.ndarray, b: np.ndarray, max_shift: int = 8, step: int = 1, bins: int = 8, sigma: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Normalised mutual information as one image is moved over the other in both directions.

    Args:
        a, b, max_shift, step, bins, sigma: see `mutual_information_against_shift`.

    Returns:
        Shifts (S,), and information (S, S) by shift along rows and along columns: ``b = np.roll(a, (2, 3), (0, 1))``
        peaks at row shift 2 and column shift 3.
    """
    a, b = _levels(a, b, bins, sigma)
    _check_shift(max_shift, a.shape)
    shifts = _shifts(max_shift, step)
    rows, cols = (length - 2 * max_shift for length in a.shape)
    middle = a[max_shift : max_shift + rows, max_shift : max_shift + cols]
    found = np.empty((len(shifts), len(shifts)))
    for i, j in np.ndindex(found.shape):
        top, left = max_shift + shifts[i], max_shift + shifts[j]
        found[i, j] = _information(middle, b[top : top + rows, left : left + cols], bins)
    return shifts, found


def information_curves(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], max_shift: int = 8, step: int = 1
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Mutual information against shift of true pairs and, as the floor, of wrong ones.

    Args:
        first, second: N images (H, W) of two sensors, in the same order; sizes may differ.
        max_shift, step: see `mutual_information_against_shift`.

    Returns:
        Shifts (S,), and ``{"true pair": (N, S), "wrong pair": (N, S)}``; the wrong partner is that of a sample half
        the list away, so that neighbours in the list, which may show one place, are not paired.
    """
    return _true_and_wrong(first, second, lambda a, b: mutual_information_against_shift(a, b, max_shift, step))


def information_maps(
    samples: Sequence[Mapping],
    modalities: Mapping[str, Modality],
    max_shift: int = 8,
    sigma: float = 1.0,
    most: int = 12,
) -> tuple[np.ndarray, dict[str, dict[str, np.ndarray]]]:
    """Mutual information of the first sensor with each other, as one is moved over the other in both directions.

    Args:
        samples: as a data set yields them; pairs without holes are used, since holes that both sensors share would
            seem to lie over each other whatever the images do.
        modalities: sensors; of each the first band of its picture is taken.
        max_shift: in pixels.
        sigma: of the smoothing, in pixels: the less, the sharper the peak, and the more it is hidden by speckle.
        most: pairs used.

    Returns:
        Shifts (S,), and for each two sensors, ``"Sentinel-1 and Sentinel-2"``, a dict of ``"true pair"``
        and ``"wrong pair"``, (N, S, S) each. Two sensors with fewer than two pairs are left out.
    """
    found, (first, *others) = {}, modalities.values()
    for other in others:
        pairs = [sample for sample in samples if complete(sample, (first.name, other.name))][:most]
        if len(pairs) >= 2:
            images = ([pair[m.name][m.index(m.rgb[0])[0]] for pair in pairs] for m in (first, other))
            found[f"{first.title} and {other.title}"] = _true_and_wrong(
                *images, lambda a, b: mutual_information_map(a, b, max_shift, sigma=sigma)
            )[1]
    return _shifts(max_shift, 1), found


def _true_and_wrong(first, second, measure: Callable) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Measure true pairs and wrong ones; all images are cut to one size around their middles."""
    if len(second) < 2:
        raise ValueError("one pair has no wrong partner; give at least two samples")
    second = [b if b.shape == a.shape else resample(b, a.shape) for a, b in zip(first, second, strict=True)]
    size = [min(LARGEST, *(image.shape[axis] for image in first)) for axis in (0, 1)]
    first, second = ([_middle(image, size) for image in images] for images in (first, second))
    away = len(second) // 2
    partners = {"true pair": second, "wrong pair": [*second[away:], *second[:away]]}
    found = {kind: [measure(a, b) for a, b in zip(first, others, strict=True)] for kind, others in partners.items()}
    return found["true pair"][0][0], {kind: np.stack([values for _, values in all_]) for kind, all_ in found.items()}


def _middle(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    top, left = ((length - wanted) // 2 for length, wanted in zip(image.shape, size, strict=True))
    return image[top : top + size[0], left : left + size[1]]


def _shifts(max_shift: int, step: int) -> np.ndarray:
    return np.arange(-(max_shift // step) * step, max_shift + 1, step)


def _check_shift(max_shift: int, shape: Sequence[int]) -> None:
    if min(shape) <= 2 * max_shift:
        raise ValueError(
            f"max_shift is {max_shift}, but the images are {min(shape)} pixels long; shift by less than half"
        )


def _levels(a, b, bins: int, sigma: float) -> list[np.ndarray]:
    """Smooth both images and cut them into `bins` equally frequent grey levels."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"shapes {a.shape} and {b.shape}; give two images (H, W) of one shape")
    smooth = [ndimage.gaussian_filter(x, sigma) if sigma else x for x in (a, b)]
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    return [np.searchsorted(np.quantile(x, inner), x, side="right") for x in smooth]


def _information(a, b, bins: int) -> float:
    joint = np.bincount((a * bins + b).ravel(), minlength=bins * bins).reshape(bins, bins) / a.size
    both, one, other = map(_entropy, (joint, joint.sum(axis=1), joint.sum(axis=0)))
    return float(2 * (one + other - both) / (one + other)) if one + other > 0 else 0.0


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
