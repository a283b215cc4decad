"""Do two parts of a data set overlap?  A score on test images that touch training images says little of a new place.

Looks for equal ids and places, for exact copies of images, and, where there are no coordinates, for images that lie
edge to edge: the last columns of the one and the first of the other then show all but the same ground.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

THRESHOLD = 0.85  # correlation of touching edges; measured on OMBRIA's images before the flood
SIDES = {"right": ("right", "left"), "left": ("left", "right"), "below": ("bottom", "top"), "above": ("top", "bottom")}
EDGES = {
    "right": np.s_[:, :, -1],
    "left": np.s_[:, :, 0],
    "bottom": np.s_[:, -1, :],
    "top": np.s_[:, 0, :],
}


def find_leaks(first, second, sensors: Sequence[str] | None = None, threshold: float = THRESHOLD) -> list[dict]:
    """What two parts of a data set share.

    Args:
        first, second: data sets, e.g. training and test part. Open them with one date, the calmest, if there are more.
        sensors: whose edges must match, all of them; default: all. One sensor's smooth edges may match by chance; on
            OMBRIA asking both leaves out nearly all pairs whose numbers are far apart. Copies are looked for in each.
        threshold: correlation above which edges touch, 0 to 1; 1 looks for no edges.

    Returns:
        A row {"kind", "first", "second", "first_place", "second_place"} for each find, with ids; `kind` is ``"id"``,
        ``"place"``, ``"copy"`` (then also ``"sensor"``) or ``"touching"`` (then also ``"side"``: where `second` lies,
        seen from `first`, and ``"correlation"``, the lowest of the sensors').
    """
    a, b = list(_look(first)), list(_look(second))
    rows = [*_equal(a, b, "id"), *_equal(a, b, "place"), *_copies(a, b)]
    return rows + (touching_edges(a, b, sensors or list(first.modalities), threshold) if threshold < 1 else [])


def touching_places(rows: Sequence[dict], kinds: Sequence[str] = ("place", "copy", "touching")) -> set[str]:
    """Places of the second part that overlap with the first, from the rows of `find_leaks`.

    Scores of the samples of these places, and of all others, are to be given apart.
    """
    return {row["second_place"] for row in rows if row["kind"] in kinds}


def touching_edges(
    first: Sequence[dict], second: Sequence[dict], sensors: Sequence[str], threshold: float = THRESHOLD
) -> list[dict]:
    """Pairs of images that lie edge to edge.

    Args:
        first, second: samples {"id", "place", "edges": {sensor: {side: (C, length)}}}.

    Returns:
        Rows as in `find_leaks`; two images that match on several sides, as copies may, have a row for each.
    """
    sensors = [name for name in sensors if all(any(name in s["edges"] for s in part) for part in (first, second))]
    rows = []
    for side, (of_first, of_second) in SIDES.items() if sensors else ():
        each = [_unit(first, name, of_first) @ _unit(second, name, of_second).T for name in sensors]
        lowest = np.fmin.reduce(each)  # (N, M); NaN only where two samples have no sensor in common
        for i, j in np.argwhere(lowest > threshold).tolist():
            rows.append(_row("touching", first[i], second[j]) | {"side": side, "correlation": float(lowest[i, j])})
    return rows


def _unit(samples: Sequence[dict], sensor: str, edge: str) -> np.ndarray:
    """(N, C · length) edges, each band without its mean, all of length 1; 0 where an edge is one value, NaN where none.

    Without their means, because bands differ in level everywhere, which would make any two edges alike.
    """
    none = np.full_like(next(s["edges"][sensor][edge] for s in samples if sensor in s["edges"]), np.nan)
    lines = np.stack([s["edges"][sensor][edge] if sensor in s["edges"] else none for s in samples]).astype(np.float64)
    lines = (lines - lines.mean(2, keepdims=True)).reshape(len(lines), -1)
    length = np.linalg.norm(lines, axis=1, keepdims=True)
    return lines / np.where(length < 1e-9, np.inf, length)


def _look(data):
    """Of each sample its names, its edges, and a hash of each image that is not one value everywhere."""
    for index in range(len(data)):
        sample = data[index]
        images = {name: sample[name] for name in data.modalities if name in sample}
        edges = {name: {edge: image[at].copy() for edge, at in EDGES.items()} for name, image in images.items()}
        hashes = {name: _hash(image) for name, image in images.items() if image.min() != image.max()}
        yield {"id": sample["id"], "place": sample.get("place", sample["id"]), "edges": edges, "hashes": hashes}


def _hash(image: np.ndarray) -> str:
    image = np.ascontiguousarray(image, np.float32)
    return hashlib.blake2b(str(image.shape).encode() + image.tobytes(), digest_size=16).hexdigest()


def _equal(first, second, key: str) -> list[dict]:
    found: dict[str, dict] = {}
    for sample in first:
        found.setdefault(sample[key], sample)
    return [_row(key, found[sample[key]], sample) for sample in second if sample[key] in found]


def _copies(first, second) -> list[dict]:
    found: dict[tuple, list[dict]] = {}
    for sample in first:
        for entry in sample["hashes"].items():
            found.setdefault(entry, []).append(sample)
    return [
        _row("copy", other, sample) | {"sensor": entry[0]}
        for sample in second
        for entry in sample["hashes"].items()
        for other in found.get(entry, ())
    ]


def _row(kind: str, first: dict, second: dict) -> dict:
    names = {"first": first["id"], "second": second["id"]}
    return {"kind": kind} | names | {"first_place": first["place"], "second_place": second["place"]}
