"""Samples to look at: drawn at random, whole or as they come; what is known of them, and of their data set."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np

from ..manifest import list_manifests, load_manifest


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
    return list(islice((sample for sample in samples if complete(sample, dataset.modalities)), count))


def complete(sample: Mapping, sensors: Iterable[str]) -> bool:
    """Has a sample all these sensors, and no pixel without data?"""
    return all(name in sample for name in sensors) and bool(np.all(sample.get("valid", True)))


def read_twice(dataset, count: int, seed: int = 0) -> tuple[list[dict], dict[str, dict[str, float]]]:
    """Draw samples at random, as they come, and say how fast they were read, in this process alone.

    Args:
        dataset: a map-style data set with `modalities`.
        count: number wanted.
        seed: of the draw.

    Returns:
        At most `count` samples, and for the ``"first read"`` and the ``"second read"`` of the same ones
        ``{"samples/s", "MB/s"}``, megabytes of float32 images. Whether the first came from the disk or from the
        system's memory is not known; the second came from memory if they fit there.
    """
    order = np.random.default_rng(seed).permutation(len(dataset))[:count].tolist()
    speed = {}
    for name in ("first read", "second read"):
        start = time.perf_counter()
        samples = [dataset[index] for index in order]
        seconds = max(time.perf_counter() - start, 1e-9)
        size = sum(sample[key].nbytes for sample in samples for key in dataset.modalities if key in sample)
        speed[name] = {"samples/s": len(samples) / seconds, "MB/s": size / seconds / 1e6}
    return samples, speed


# -- what is known of them ------------------------------------------------------------------------------------------


def describe(dataset) -> list[dict]:
    """What there is to know of a data set before looking at it: one row a fact, the first its title.

    Terms and traps come from its manifest; data of one's own have none.
    """
    rows = {"title": dataset.name, f"samples ({dataset.split})": f"{len(dataset):,}"}
    manifest = _manifest(dataset)
    if manifest:
        rows |= {"title": manifest.title, "terms": manifest.terms}
    rows |= {m.title: f"{', '.join(m.bands)} in {m.unit}" for m in dataset.modalities.values()}
    if manifest:
        rows |= {f"trap {number}": trap for number, trap in enumerate(manifest.traps, 1)}
    return [{"what": what, "here": text} for what, text in rows.items()]


def _manifest(dataset):
    """The manifest of a data set, if it has one: data of one's own may be called like a published set."""
    manifest = load_manifest(dataset.name) if dataset.name in list_manifests() else None
    same = manifest and all(manifest.sensors.get(key) == modality for key, modality in dataset.modalities.items())
    return manifest if same else None


def class_counts(dataset, samples: Sequence[Mapping]) -> tuple[np.ndarray, str]:
    """Count classes in the whole split where its labels are known without reading images, else in the samples read.

    Args:
        dataset: a data set; its attribute `labels`, if it is an array, has one row a sample.
        samples: those read.

    Returns:
        (classes,) counts, and what was counted, e.g. ``"samples, of 29 in the whole split"``.
    """
    labels, what = getattr(dataset, "labels", None), f"samples, of {len(dataset):,} in the whole split"
    if not isinstance(labels, np.ndarray) or len(labels) != len(dataset):
        labels = [sample["label"] for sample in samples if "label" in sample]
        kind = "pixels" if labels and np.ndim(labels[0]) == 2 else "samples"
        what = f"{kind}, of {len(labels)} samples read that have a label"
    return count_labels(labels, dataset.classes), what


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


def coordinates(samples: Sequence[Mapping], most: int = 6) -> dict[str, np.ndarray]:
    """Where samples lie, by place.

    Args:
        samples: with ``"lonlat"``, degrees, and ``"place"`` where they have one; those without coordinates are left
            out.
        most: places named; with more, those with the fewest samples share one entry.

    Returns:
        Place to (n, 2) longitude and latitude; most samples first, empty where no sample says where it lies.
    """
    located = [(s.get("place", s["id"]), s["lonlat"]) for s in samples if np.isfinite(s.get("lonlat", np.nan)).all()]
    counts = Counter(place for place, _ in located).most_common()
    named = [place for place, _ in counts[: most if len(counts) <= most else most - 1]]
    rest = f"{len(counts) - len(named)} other places"
    found = {}
    for place in [*named, rest]:
        where = [lonlat for name, lonlat in located if (name if name in named else rest) == place]
        found |= {str(place): np.stack(where)} if where else {}
    return found
