"""Values of bands: vegetation index, statistics beside the manifest's, pixels without data, copies."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from ..data.resample import resample
from ..data.statistics import band_statistics, valid_mask, valid_pixels
from ..modality import Modality

COVERS = {"water": r"\bwaters?\b", "forest": r"\bforests?\b|\btrees?\b"}  # words of class names
KEPT = 4096  # pixels of an image that enter a distribution


# -- vegetation -----------------------------------------------------------------------------------------------------


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
    found = _red_and_nir(modality)
    if not found:
        raise ValueError(f"{modality.name!r} has bands {modality.bands}; NDVI needs B8 (or NIR) and B4 (or red)")
    red, nir = (np.asarray(image[channel], np.float64) for channel in found)
    total = nir + red
    return np.divide(nir - red, total, out=np.zeros_like(total), where=total != 0)


def _red_and_nir(modality: Modality) -> tuple[int, int] | None:
    """Channels of the two bands; B08 and B8 are one band."""
    channels = {band.upper().replace("B0", "B"): channel for channel, band in enumerate(modality.bands)}
    found = [next((channels[n] for n in names if n in channels), None) for names in (("B4", "RED"), ("B8", "NIR"))]
    return None if None in found else tuple(found)


def ndvi_by_cover(
    samples: Sequence[Mapping], modalities: Mapping[str, Modality], classes: Sequence[str] = ()
) -> dict[str, dict[str, np.ndarray]]:
    """Vegetation index of forest, of water and of everything, for each sensor with a red and a near-infrared band.

    Args:
        samples: as a data set yields them. What is forest and what is water is read from the class map (``"map"`` or
            a label of two dimensions), else from labels: samples of which all classes are forests, or waters.
        modalities: its sensors.
        classes: names of the classes; forest and water are found by these words.

    Returns:
        Title of a sensor to ``{"everything": (n,), "water": (n,), "forest": (n,)}``, covers that occur.
    """
    found = {}
    for key, modality in modalities.items():
        values = {}
        for sample in samples if _red_and_nir(modality) else ():
            if key in sample:
                index = ndvi(sample[key], modality)
                valid = valid_mask(sample, index.shape)
                for cover, where in {"everything": True, **_cover(sample, index.shape, classes)}.items():
                    chosen = index[valid & where]
                    values.setdefault(cover, []).append(chosen[:: max(len(chosen) // KEPT, 1)])
        joined = {cover: np.concatenate(parts) for cover, parts in values.items()}
        if joined:
            found[modality.title] = {cover: part for cover, part in joined.items() if part.size}
    return found


def cover_examples(dataset, most: int = 4, seed: int = 0) -> list[dict]:
    """Read samples that show forest, or water, and nothing else, where the labels say so before anything is read.

    Args:
        dataset: a data set; without an attribute `labels`, (N, classes) or (N,), there are no examples.
        most: samples of each cover.
        seed: of the choice.

    Returns:
        The samples, at most `most` a cover.
    """
    labels, rng = getattr(dataset, "labels", None), np.random.default_rng(seed)
    if not isinstance(labels, np.ndarray) or len(labels) != len(dataset):
        return []
    hot = labels > 0 if labels.ndim == 2 else labels[:, None] == np.arange(len(dataset.classes))  # (N, classes)
    others = (np.delete(hot, numbers, axis=1) for numbers in _covers(dataset.classes).values())
    pure = [hot.any(axis=1) & ~other.any(axis=1) for other in others]
    return [dataset[int(index)] for rows in pure for index in rng.permutation(np.flatnonzero(rows))[:most]]


def _covers(classes: Sequence[str]) -> dict[str, list[int]]:
    """Numbers of the classes that are water, and of those that are forest."""
    return {
        cover: [number for number, name in enumerate(classes) if re.search(words, name, re.IGNORECASE)]
        for cover, words in COVERS.items()
    }


def _cover(sample: Mapping, shape: tuple[int, int], classes: Sequence[str]) -> dict[str, np.ndarray | bool]:
    """Where a sample shows each cover: (rows, cols) bool, or one bool for all of it."""
    label = np.asarray(sample.get("map", sample.get("label", 255)))
    if label.ndim == 2 and label.shape != tuple(shape):
        label = resample(label, shape)
    present = np.flatnonzero(label > 0) if label.ndim == 1 else label
    found = {}
    for cover, numbers in _covers(classes).items():
        belongs = np.isin(present, numbers)
        found[cover] = belongs if label.ndim == 2 else bool(belongs.size) and bool(belongs.all())
    return found


# -- statistics -----------------------------------------------------------------------------------------------------


def compare_with_manifest(samples: Sequence[Mapping], modalities: Mapping[str, Modality]) -> list[dict]:
    """Set measured band statistics beside those the model normalises with.

    Args:
        samples: as a data set yields them.
        modalities: its sensors with their manifest's mean and std; those that no sample has are left out.

    Returns:
        One row a band: measured and manifest mean and std, in the sensor's unit.
    """
    rows = []
    for key, modality in modalities.items():
        if count := sum(key in sample for sample in samples):
            mean, std = band_statistics(samples, key)
            columns = zip(modality.bands, mean, modality.mean, std, modality.std, strict=True)
            rows += [
                {"sensor": modality.title, "band": band, "unit": modality.unit, "samples": count}
                | {"mean": m, "manifest mean": expected, "std": s, "manifest std": spread}
                for band, m, expected, s, spread in columns
            ]
    return rows


# -- pixels without data, clipped values, copies ----------------------------------------------------------------------


def without_data(samples: Sequence[Mapping]) -> np.ndarray:
    """Share of each sample's pixels that its ``"valid"`` marks as without data, (N,); 0 where it has no such mask."""
    return np.array([1 - np.mean(sample.get("valid", True)) for sample in samples])


def clipped(samples: Sequence[Mapping], key: str, modality: Modality) -> np.ndarray:
    """Share of each band's values that normalisation clips, or that were clipped before.

    Args:
        samples: as a data set yields them.
        key, modality: one of its sensors.

    Returns:
        (C,) shares of the pixels with data: beyond the valid range, or at the band's own lowest or highest value,
        where what was cut off piles up.
    """
    values = np.concatenate([valid_pixels(sample, key) for sample in samples if key in sample], axis=1)
    if not values.size:
        return np.zeros(modality.in_chans)
    low, high = modality.valid_range
    first, last = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    piled = ((values == first) | (values == last)) & (not may_be_flat(modality))
    return ((values < low) | (values > high) | piled).mean(axis=1)


def may_be_flat(modality: Modality) -> bool:
    """Is one value over much of an image no fault of this sensor? So it is with the sea in an elevation model."""
    return modality.on_nodata == "keep" and modality.in_chans == 1


def exact_copies(samples: Sequence[Mapping], key: str) -> list[tuple[str, str]]:
    """Pairs of samples whose images of one sensor are equal to the last bit: names of the first and of the copy."""
    first, copies = {}, []
    for sample in samples:
        if key in sample:
            image = np.ascontiguousarray(sample[key])
            digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
            copies += [(first[digest], sample["id"])] if digest in first else []
            first.setdefault(digest, sample["id"])
    return copies


def dead_bands(samples: Sequence[Mapping], key: str, modality: Modality) -> tuple[list[str], list[str]]:
    """Bands that tell nothing of their own.

    Args:
        samples: as a data set yields them.
        key, modality: one of its sensors.

    Returns:
        Bands that are one value in some sample, as ``"B10 in ID"``; and bands that equal another one in all samples,
        as ``"B08 = B8A"``.
    """
    constant, equal = [], set(combinations(range(modality.in_chans), 2))
    for sample in samples:
        if key in sample:
            values = valid_pixels(sample, key)
            flat = values.min(axis=1) == values.max(axis=1) if values.size else []
            constant += [f"{modality.bands[c]} in {sample['id']}" for c in np.flatnonzero(flat)]
            equal = {(a, b) for a, b in equal if (values[a] == values[b]).all()}
    return constant, [f"{modality.bands[a]} = {modality.bands[b]}" for a, b in sorted(equal)]
