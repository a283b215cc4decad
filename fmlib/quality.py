"""Statistics that say what is in the data: speckle, information shared by two sensors, NDVI, values of each band."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np
from scipy import ndimage, stats

from .modality import Modality

PERCENTILES = (1, 50, 99)


# -- speckle ------------------------------------------------------------------------------------------------------


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


def equivalent_number_of_looks(power: np.ndarray, window: int = 9) -> float:
    """Estimate the number of looks of multiplicative speckle.

    The image is cut into windows. Where the ground is homogeneous a window's mean²/variance estimates the number of
    looks; texture only lowers it. The most frequent value over all windows is returned (the mode of a kernel density
    of its logarithm), as in automatic ENL estimation (Anfinsen et al., IEEE TGRS 47(11), 2009). Pixels that are
    correlated, as in resampled products, raise the estimate.

    Args:
        power: (H, W) or (N, H, W) linear power, not decibels.
        window: side of a window in pixels.

    Returns:
        Equivalent number of looks, at least 0.

    Raises:
        ValueError: negative values (decibels?), or too small an image.
    """
    looks = _window_looks(power, window)[2]
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


# -- information shared by two images --------------------------------------------------------------------------------


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
    length = a.shape[-1] - 2 * max_shift
    if length < 1:
        raise ValueError(
            f"max_shift is {max_shift}, but the images are {a.shape[-1]} pixels long; shift by less than half"
        )
    shifts = np.arange(-(max_shift // step) * step, max_shift + 1, step)
    middle = a[:, max_shift : max_shift + length]
    moved = (b[:, max_shift + s : max_shift + s + length] for s in shifts)
    return shifts, np.array([_information(middle, other, bins) for other in moved])


def information_curves(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], max_shift: int = 8, step: int = 1
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Mutual information against shift of true pairs and, as the floor, of wrong ones.

    Args:
        first, second: N images (H, W) of two sensors, in the same order.
        max_shift, step: see `mutual_information_against_shift`.

    Returns:
        Shifts (S,), and ``{"true pair": (N, S), "wrong pair": (N, S)}``; the wrong partner is that of a sample half
        the list away, so that neighbours in the list, which may show one place, are not paired.
    """
    away = max(len(second) // 2, 1)
    partners = {"true pair": second, "wrong pair": [*second[away:], *second[:away]]}
    if len(second) < 2:
        raise ValueError("one pair has no wrong partner; give at least two samples")
    curves = {
        kind: [mutual_information_against_shift(a, b, max_shift, step) for a, b in zip(first, others, strict=True)]
        for kind, others in partners.items()
    }
    return curves["true pair"][0][0], {kind: np.stack([c[1] for c in found]) for kind, found in curves.items()}


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
    both, one, other = (stats.entropy(p.ravel()) for p in (joint, joint.sum(axis=1), joint.sum(axis=0)))
    return float(2 * (one + other - both) / (one + other)) if one + other > 0 else 0.0


# -- bands and labels ------------------------------------------------------------------------------------------------


def ndvi(image: np.ndarray, modality: Modality) -> np.ndarray:
    """Normalised difference vegetation index, ``(NIR − red) / (NIR + red)``.

    Args:
        image: (C, H, W) reflectance, in any linear unit.
        modality: its sensor; band 8 (or ``NIR``) and band 4 (or ``red``) are looked up by name.

    Returns:
        (H, W), -1 to 1; 0 where both bands are 0.

    Raises:
        ValueError: the sensor lacks one of the two bands.
    """
    names = {"B8": 0, "NIR": 0, "B4": 1, "RED": 1}  # B08 and B8 are one band
    found = {names.get(band.upper().replace("B0", "B")): c for c, band in enumerate(modality.bands)}
    if not {0, 1} <= set(found):
        raise ValueError(f"{modality.name!r} has bands {modality.bands}; NDVI needs B8 (or NIR) and B4 (or red)")
    nir, red = (np.asarray(image[found[i]], np.float64) for i in (0, 1))
    total = nir + red
    return np.divide(nir - red, total, out=np.zeros_like(total), where=total != 0)


def band_statistics(images: Iterable[np.ndarray], modality: Modality, pixels: int = 4096) -> list[dict]:
    """Mean, standard deviation and percentiles of each band.

    Args:
        images: images (C, H, W), read one by one: an array (N, C, H, W) or a generator over a data set.
        modality: their sensor.
        pixels: of each image at most so many evenly spaced pixels enter the percentiles; mean and standard deviation
            use all. Non-finite pixels are left out of both.

    Returns:
        One row a band: ``band, mean, std, p1, p50, p99``, in the sensor's unit.
    """
    count, total, square, kept = 0, 0.0, 0.0, []
    shift = np.array(modality.mean)[:, None]  # sums of squares stay small about a value near the mean
    for image in images:
        values = np.asarray(image, np.float64).reshape(modality.in_chans, -1)
        values = values[:, np.isfinite(values).all(axis=0)]
        count, total = count + values.shape[1], total + (values - shift).sum(axis=1)
        square = square + ((values - shift) ** 2).sum(axis=1)
        kept.append(values[:, :: max(values.shape[1] // pixels, 1)])
    if count == 0:
        raise ValueError(f"no finite pixel of {modality.name!r}; give at least one image")
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0))
    quantiles = np.percentile(np.concatenate(kept, axis=1), PERCENTILES, axis=1).T  # (C, percentiles)
    columns = zip(modality.bands, mean + shift[:, 0], std, quantiles, strict=True)
    return [
        {"band": band, "mean": float(m), "std": float(s)}
        | {f"p{p}": float(v) for p, v in zip(PERCENTILES, q, strict=True)}
        for band, m, s, q in columns
    ]


def compare_with_manifest(found: Sequence[Mapping], modality: Modality) -> list[dict]:
    """Set measured band statistics beside those the model normalises with.

    Args:
        found: rows of `band_statistics`.
        modality: the sensor with its manifest's mean and std.

    Returns:
        One row a band: measured and manifest mean and std.
    """
    columns = zip(found, modality.mean, modality.std, strict=True)
    return [
        {"sensor": modality.title, "band": row["band"], "unit": modality.unit, "mean": row["mean"]}
        | {"manifest mean": mean, "std": row["std"], "manifest std": std}
        for row, mean, std in columns
    ]


def count_labels(labels: Iterable, classes: Sequence[str]) -> np.ndarray:
    """Count how often each class occurs.

    Args:
        labels: class numbers, (classes,) 0/1 vectors, or (H, W) maps of class numbers; numbers without a class, such
            as 255 for no data, are not counted.
        classes: names of the classes.

    Returns:
        (classes,) counts: samples for the first two kinds, pixels for maps.
    """
    counts = np.zeros(len(classes), dtype=np.int64)
    for label in labels:
        label = np.asarray(label)
        if label.ndim == 1:
            counts += label > 0
        else:
            known = label[(label >= 0) & (label < len(classes))]
            counts += np.bincount(known.astype(int), minlength=len(classes))
    return counts


def complete_pairs(dataset, count: int, seed: int = 0) -> list[dict]:
    """Draw samples at random that have every sensor and no pixel without data.

    Args:
        dataset: a map-style data set with `modalities`.
        count: number wanted.
        seed: of the order in which the data set is searched.

    Returns:
        At most `count` samples, fewer where the data set holds no more.
    """
    order = np.random.default_rng(seed).permutation(len(dataset))
    samples = (dataset[int(index)] for index in order)
    whole = (s for s in samples if all(n in s for n in dataset.modalities) and np.all(s.get("valid", True)))
    return list(islice(whole, count))
