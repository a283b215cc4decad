"""Regions of interest of Houston 2013: the contest's text, and clusters rebuilt from windows that overlap.

Labelled pixels come in clusters, drawn by hand around one object, and the windows around neighbours share most of
their values. A split that parts a cluster tests on what it was trained on: `deal` keeps clusters whole.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class Clusters(NamedTuple):
    """Clusters of N labelled pixels, numbered in the order of their first pixel.

    `number` (N,) is each pixel's cluster, `position` (N, 2) its row and column relative to the cluster's first pixel,
    and `certain` (N,) bool False where windows without relief leave the positions in a cluster open.
    """

    number: np.ndarray
    position: np.ndarray
    certain: np.ndarray


def clusters_of_windows(windows: np.ndarray, source: str = "windows") -> Clusters:
    """Rebuild clusters from windows: two pixels are neighbours where their windows, moved by one pixel, are equal.

    Args:
        windows: (N, C, side, side), side 3 or more.
        source: where they were read, named in the error.

    Raises:
        ValueError: no two windows overlap, so the values cannot be windows around neighbours.
    """
    links = {i: [] for i in range(len(windows))}
    for step in ((1, 0), (0, 1)):
        for i, j in _overlaps(windows, axis=2 + step[1]):
            links[i].append((j, step))
            links[j].append((i, (-step[0], -step[1])))
    if not any(links.values()):
        raise ValueError(
            f"{source}: no two windows overlap; rows must hold band after band, {windows.shape[2]} × "
            f"{windows.shape[3]} pixels each, around neighbouring pixels"
        )
    number, position = np.full(len(windows), -1), np.zeros((len(windows), 2), int)
    for first in range(len(windows)):
        if number[first] < 0:
            number[first] = number.max() + 1
            _walk(first, links, number, position)
    return Clusters(number, position, ~np.isin(number, _contradicted(links, number, position)))


def _overlaps(windows: np.ndarray, axis: int) -> list[tuple[int, int]]:
    """Pairs of pixels of which the second follows the first along an axis of the windows."""
    starts = {}
    for j, start in enumerate(_without(windows, axis, -1)):
        starts.setdefault(start.tobytes(), []).append(j)
    ends = (end.tobytes() for end in _without(windows, axis, 0))
    return [(i, j) for i, end in enumerate(ends) for j in starts.get(end, ()) if i != j]


def _without(windows: np.ndarray, axis: int, place: int) -> np.ndarray:
    return np.ascontiguousarray(np.delete(windows, place, axis))


def _walk(first: int, links: dict, number: np.ndarray, position: np.ndarray) -> None:
    """Give all pixels linked to the first its cluster number, and positions by the way they were reached."""
    reached = [first]
    for i in reached:
        for j, step in links[i]:
            if number[j] < 0:
                number[j], position[j] = number[i], position[i] + step
                reached.append(j)


def _contradicted(links: dict, number: np.ndarray, position: np.ndarray) -> list[int]:
    """Clusters in which two ways lead to one pixel at different positions, or to two pixels at one."""
    wrong = {number[i] for i in links for j, step in links[i] if tuple(position[j] - position[i]) != step}
    _, where, times = np.unique(np.c_[number, position], axis=0, return_inverse=True, return_counts=True)
    return sorted(wrong | set(number[times[where.reshape(-1)] > 1]))


def clusters_of_map(labels: np.ndarray) -> Clusters:
    """Clusters of a label map: labelled pixels that touch along an edge.

    Args:
        labels: (rows, cols), 0 where there is no label.

    Returns:
        Clusters of the labelled pixels, in the order of `numpy.nonzero`.
    """
    from scipy.ndimage import label

    place = np.stack(np.nonzero(labels), axis=1)
    found = label(labels > 0)[0][tuple(place.T)]
    first, number = np.unique(found, return_index=True, return_inverse=True)[1:]
    number = np.argsort(np.argsort(first))[number.reshape(-1)]
    return Clusters(number, place - place[np.sort(first)][number], np.ones(len(place), bool))


def neighbours(clusters: Clusters, side: int) -> np.ndarray:
    """The pixels of a cluster that stand for each pixel's window, for values known at labelled pixels only.

    Windows are reflected at the edge of the box around a cluster; a gap in the box is filled by the nearest pixel.
    Where positions are not certain, the pixel stands for its whole window.

    Args:
        clusters: of N pixels.
        side: of the window in pixels, odd.

    Returns:
        (N, side, side) pixel numbers, of the same cluster as the pixel in the middle.
    """
    count = len(clusters.number)
    index = np.broadcast_to(np.arange(count)[:, None, None], (count, side, side)).copy()
    for number in np.unique(clusters.number[clusters.certain]):
        members = np.flatnonzero(clusters.number == number)
        place = clusters.position[members] - clusters.position[members].min(0)
        box = np.moveaxis(np.indices(place.max(0) + 1), 0, -1)  # (rows, cols, 2)
        nearest = members[((box[:, :, None] - place) ** 2).sum(-1).argmin(-1)]
        windows = sliding_window_view(np.pad(nearest, side // 2, mode="reflect"), (side, side))
        index[members] = windows[tuple(place.T)]
    return index


def deal(labels: np.ndarray, clusters: np.ndarray, shares: tuple[float, ...], seed: int) -> np.ndarray:
    """Deal whole clusters into parts of about the given shares, class by class.

    Each class's clusters come from the largest to the smallest, each to the part that lacks most; the first ones go to
    different parts, so a class is in every part if it has clusters enough, else in those of the largest shares.

    Args:
        labels: (N,) class of each pixel.
        clusters: (N,) number of its cluster; one that mixes classes counts as its commonest.
        shares: of the pixels that each part should get.
        seed: chooses the order among equals.

    Returns:
        (N,) number of each pixel's part.
    """
    rng, shares = np.random.default_rng(seed), np.asarray(shares)
    clusters = np.unique(clusters, return_inverse=True)[1].reshape(-1)
    counts = np.zeros((clusters.max() + 1, labels.max() + 1), int)
    np.add.at(counts, (clusters, labels), 1)
    sizes, kinds, part = counts.sum(1), counts.argmax(1), np.zeros(len(counts), int)
    for kind in np.unique(kinds):
        order, filled = rng.permutation(len(shares)), np.zeros(len(shares))
        order = order[np.argsort(-shares[order], kind="stable")]
        own = rng.permutation(np.flatnonzero(kinds == kind))
        for cluster in own[np.argsort(-sizes[own], kind="stable")]:
            part[cluster] = order[(filled / shares)[order].argmin()]
            filled[part[cluster]] += sizes[cluster]
    return part[clusters]


def read_roi(path: Path, shape: tuple[int, int], classes: int) -> np.ndarray:
    """Read regions of interest that ENVI exported as text: ``ID X Y`` a pixel, one region a class.

    Args:
        path: the text file.
        shape: (rows, cols) of the image they were drawn on.
        classes: how many regions it must hold.

    Returns:
        (rows, cols) uint8: class counted from 1, and 0 where there is none.

    Raises:
        ValueError: another number of regions or points than it says, or points beyond the image.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    counts = [int(count) for count in re.findall(r"^; ROI npts: *(\d+)", text, re.MULTILINE)]
    points = [line.split()[1:3] for line in text.splitlines() if line.strip() and not line.startswith(";")]
    if len(counts) != classes or sum(counts) != len(points):
        raise ValueError(
            f"{path}: {len(counts)} regions of {sum(counts)} points in its head, {len(points)} points below; expected "
            f"{classes} regions and as many points as the head says (truncated?): fetch it again"
        )
    try:
        cols, rows = np.array(points, int).reshape(-1, 2).T - 1  # ENVI counts pixels from 1
    except ValueError as error:
        raise ValueError(f"{path}: a line is not 'ID X Y' ({error}); export the regions as text again") from error
    if len(rows) and (min(rows.min(), cols.min()) < 0 or rows.max() >= shape[0] or cols.max() >= shape[1]):
        raise ValueError(f"{path}: points beyond the image of {shape} pixels; these regions belong to another image")
    labels = np.zeros(shape, np.uint8)
    labels[rows, cols] = np.repeat(np.arange(1, classes + 1), counts)
    return labels
