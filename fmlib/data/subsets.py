"""Fewer labels: nested, stratified subsets of a training split."""

import numpy as np

RARE = 0.01  # share of samples below which a set of classes is grouped by its rarest class


def label_fraction(labels: np.ndarray | int, fraction: float, seed: int = 0) -> np.ndarray:
    """Draw a share of the samples, each class in its proportion; smaller shares lie inside larger ones.

    Every sample gets a position in one seeded order, and the subset is the head of it: the samples of each stratum are
    shuffled and spread evenly over the order. A stratum is a set of classes that occur together or, where that set is
    rare, the rarest class in it.

    Args:
        labels: (N,) class numbers, or (N, classes) 0/1; or N alone, for labels that are maps.
        fraction: share to keep, above 0 up to 1.
        seed: chooses the order; the same seed gives nested subsets.

    Returns:
        (n,) sample numbers, sorted, without repetition; at least one.

    Raises:
        ValueError: a fraction out of range, or no samples.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is the share of labels kept, above 0 up to 1; got {fraction}")
    strata = np.zeros(labels, int) if isinstance(labels, int | np.integer) else _strata(np.asarray(labels))
    if not len(strata):
        raise ValueError("no labels to draw from")
    rng = np.random.default_rng(seed)
    position = np.empty(len(strata))
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        position[members] = (np.arange(len(members)) + rng.random()) / len(members)
    order = np.argsort(position, kind="stable")
    return np.sort(order[: max(1, round(fraction * len(order)))])


def _strata(labels: np.ndarray) -> np.ndarray:
    """(N,) number of each sample's stratum."""
    if labels.ndim == 1:
        return np.unique(labels, return_inverse=True)[1]
    hot = labels > 0
    sets, members, sizes = np.unique(hot, axis=0, return_inverse=True, return_counts=True)
    members = members.reshape(-1)
    counts = hot.sum(0)
    rarest = np.where(sets, counts, counts.max() + 1).argmin(1)  # (sets,) rarest class of each set
    stratum = np.where(sizes >= RARE * len(hot), labels.shape[1] + np.arange(len(sets)), rarest)
    return stratum[members]
