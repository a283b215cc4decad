"""Does one model beat another?  Differences of scores with intervals, from the test samples' confusion matrices.

Two models are compared on the same test places and seed by seed, so that what both find hard cancels. Places and seeds
are drawn anew together: the interval says what other places of this kind and other runs would give.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fmlib.evaluate.metrics import mean_ious

VERDICTS = ("refuted", "undecided", "confirmed")


def select(rows: Sequence[dict], **wanted) -> list[dict]:
    """The rows that have all these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def judge_claim(
    rows: Sequence[dict], better: Mapping, worse: Mapping, places: Sequence[str], n: int = 1000, seed: int = 0
) -> dict:
    """How much better one selection of rows is than another, in mean IoU.

    Args:
        rows: of `run_protocol`, with ``"confusion"``; each selection has a row for each seed.
        better, worse: what to select, e.g. ``{"model": "xaed", "fraction": 1.0}``.
        places: of the N test samples.
        n: draws of places and seeds. seed: of the draws.

    Returns:
        ``"better"``, ``"worse"`` (mean IoU over seeds), ``"difference"``, its 95 % interval ``"low"`` and ``"high"``,
        ``"verdict"``: confirmed where the interval is above 0, refuted where it is below, undecided else.

    Raises:
        ValueError: nothing selected, or other seeds on one side than on the other.
    """
    first, second = (matrices_by_seed(rows, wanted) for wanted in (better, worse))
    if first.keys() != second.keys():
        raise ValueError(
            f"{dict(better)} has seeds {list(first)}, {dict(worse)} has {list(second)}; compare equal ones"
        )
    pair = [np.stack([matrices[key] for key in first]) for matrices in (first, second)]  # (S, N, C, C) each
    rng, draws = np.random.default_rng(seed), []
    for weights, seeds in draw_places(rng, places, len(first), n):
        high, low = (mean_ious(np.einsum("n,sncd->scd", weights, matrices[seeds])).mean() for matrices in pair)
        draws.append(high - low)
    scores = [float(mean_ious(matrices.sum(1)).mean()) for matrices in pair]
    low, high = (float(x) for x in np.quantile(draws, (0.025, 0.975)))
    found = {"better": scores[0], "worse": scores[1], "difference": scores[0] - scores[1], "low": low, "high": high}
    return found | {"verdict": VERDICTS[1 + (low > 0) - (high < 0)]}


def at_places(rows: Sequence[dict], places: Sequence[str], kinds: Mapping[str, set[str]]) -> list[dict]:
    """The rows once for each kind of test place, with the mean IoU of these places alone.

    Args:
        rows: with ``"confusion"``. places: of the N test samples.
        kinds: name → places; kinds without a place among these are left out.

    Returns:
        Rows with ``"where"``, the kind, and ``"miou"`` recomputed.
    """
    found = []
    for kind, chosen in kinds.items():
        here = np.array([place in chosen for place in places])
        scores = [float(mean_ious(np.array(row["confusion"], float)[here].sum(0))) for row in rows if here.any()]
        found += [row | {"where": kind, "miou": score} for row, score in zip(rows, scores, strict=False)]
    return found


def worst_places(row: dict, count: int) -> list[int]:
    """Numbers of the test samples with the lowest mean IoU of a row, the worst first."""
    return np.argsort(mean_ious(np.array(row["confusion"], float)), kind="stable")[:count].tolist()


def matrices_by_seed(rows: Sequence[dict], wanted: Mapping) -> dict[int, np.ndarray]:
    """Confusion matrices (N, C, C) of the samples of each seed's row that has the wanted values; ValueError: no row."""
    found = {row["seed"]: np.array(row["confusion"], float) for row in select(rows, **wanted) if "confusion" in row}
    if not found:
        raise ValueError(f"no row with maps has {dict(wanted)}")
    return dict(sorted(found.items()))


def draw_places(rng: np.random.Generator, places: Sequence[str], seeds: int, n: int):
    """How often each sample is drawn with its place (N,), and which seeds (S,), n times."""
    _, place = np.unique(np.asarray(places), return_inverse=True)
    for _ in range(n):
        drawn = np.bincount(rng.integers(place.max() + 1, size=place.max() + 1), minlength=place.max() + 1)
        yield drawn[place].astype(float), rng.integers(seeds, size=seeds)
