"""Is the data read right? Each check gives rows of one table: what was found, what was expected, and a verdict."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..modality import Modality
from .values import clipped, dead_bands, exact_copies, may_be_flat, without_data

AS_EXPECTED, LOOK, NOT_APPLICABLE = "as expected", "look at this", "not applicable"

NDVI = {"water": (-1.0, 0.15), "forest": (0.5, 1.0)}  # of the median: surface reflectance, growing season
FEWEST = 500  # pixels that a verdict on a cover needs
DIFFERENCE = (4.0, 12.0)  # dB, co- less cross-polarised, median over land
ORDERED = 0.95  # share of pixels in which the co-polarised band is the stronger one
BACKSCATTER = (-30.0, -3.0)  # dB, of the median
SHARED = 1.1  # information of true pairs over that of wrong ones, each at its peak
SHIFT, BROAD = 1, 0.95  # pixel; information at no shift over that of the peak, above which the peak tells no place
OFFSET, SPREAD = 1.0, 3.0  # of the mean, in the manifest's deviations; of the deviation, as a ratio either way
FEW, FEW_OFFSET, FEW_SPREAD = 8, 3.0, 100.0  # limits below so many samples, which find wrong units alone
EMPTY, CLIPPED = 0.05, 0.01  # shares of pixels
FAST = 10.0  # MB/s: 12 patches of 14 bands and 120 × 120 pixels


def _row(check: str, found: str, expected: str, good: bool | None) -> dict:
    """One row of the table; `good` is None where the check does not apply."""
    verdict = NOT_APPLICABLE if good is None else AS_EXPECTED if good else LOOK
    return {"check": check, "found": found, "expected": expected, "verdict": verdict}


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _percent(share: float) -> str:
    text = f"{100 * share:.3g}" if 0.0005 <= share <= 0.9995 or share in (0, 1) else f"{100 * share:.1g}"
    return ("100" if share > 0.9995 else "0" if share == 0 else text) + " %"


def _listed(texts: Sequence, most: int = 3) -> str:
    return ", ".join(map(str, texts[:most])) + (f" and {len(texts) - most} more" if len(texts) > most else "")


# -- radiometry -----------------------------------------------------------------------------------------------------


def check_ndvi(indices: Mapping[str, Mapping[str, np.ndarray]]) -> list[dict]:
    """Is water without and forest full of vegetation? Finds swapped bands, and offsets left in the values.

    Args:
        indices: of `ndvi_by_cover`.

    Returns:
        A row for each sensor and cover. Where neither cover is known, one that asks whether vegetation (above 0.2) is
        commoner than its mirror image (below −0.2), as it is on all land.
    """
    if not indices:
        return [_row("NDVI", "no sensor has a red and a near-infrared band", "–", None)]
    rows = []
    for title, covers in indices.items():
        known = [cover for cover in NDVI if len(covers.get(cover, ())) >= FEWEST]
        rows += [_cover_row(title, cover, covers[cover]) for cover in known]
        rows += [] if known else [_mirror_row(title, covers["everything"])]
    return rows


def _cover_row(title: str, cover: str, values: np.ndarray) -> dict:
    low, high = NDVI[cover]
    expected = f"below {high:g}" if cover == "water" else f"above {low:g} in the growing season"
    median = float(np.median(values))
    return _row(f"NDVI of {cover}, {title}", f"median {_number(median)}", expected, low <= median <= high)


def _mirror_row(title: str, values: np.ndarray) -> dict:
    green, mirror = np.mean(values > 0.2), np.mean(values < -0.2)
    found = f"{_percent(green)} above 0.2, {_percent(mirror)} below −0.2"
    told = max(green, mirror) >= 0.01  # else cloud, bare ground or sea: nothing to judge by
    return _row(f"NDVI, {title}", found, "more above 0.2 than below −0.2", bool(green > mirror) if told else None)


def check_polarisations(decibels: Mapping[str, Mapping[str, np.ndarray]]) -> list[dict]:
    """Are VV and VH in order, and in decibels? Finds swapped bands, linear power, and amplitudes taken for power.

    Args:
        decibels: of `polarisations`.

    Returns:
        Two rows a sensor: their difference, and the level of each.
    """
    if not decibels:
        return [_row("polarisations", "no sensor has both VV and VH (or HH and HV) with a known scale", "–", None)]
    rows = []
    for title, bands in decibels.items():
        (co, a), (cross, b) = bands.items()
        difference, ordered = float(np.median(a - b)), float(np.mean(a > b))
        low, high = DIFFERENCE
        found = f"median {_number(difference, 1)} dB; above 0 in {_percent(ordered)}"
        expected = f"{low:g} to {high:g} dB over land; above 0 in {ORDERED:.0%} or more"
        good = low <= difference <= high and ordered >= ORDERED
        rows.append(_row(f"{co} less {cross}, {title}", found, expected.replace("%", " %"), good))
        medians = [float(np.median(values)) for values in (a, b)]
        found = ", ".join(f"{name} {_number(m, 1)}" for name, m in zip(bands, medians, strict=True)) + " dB"
        low, high = BACKSCATTER
        good = all(low <= median <= high for median in medians)
        rows.append(_row(f"median level, {title}", found, f"{_number(low, 0)} to {_number(high, 0)} dB", good))
    return rows


def check_statistics(table: Sequence[Mapping]) -> list[dict]:
    """Do measured means and deviations resemble those that the model normalises with?

    Args:
        table: rows of `compare_with_manifest`.

    Returns:
        A row a sensor, which tells of its worst band. Few places differ from many, so the limits are wide: a mean
        within a deviation of the manifest's, a deviation within a factor of three; wider below eight samples.
    """
    rows = []
    for title in dict.fromkeys(row["sensor"] for row in table):
        bands = [row for row in table if row["sensor"] == title]
        offset, moved = max((abs(r["mean"] - r["manifest mean"]) / r["manifest std"], r["band"]) for r in bands)
        ratio, spread = max((_ratio(r["std"], r["manifest std"]), r["band"]) for r in bands)
        found = f"mean off by up to {_number(offset)} deviations ({moved}), deviation by a factor of up to "
        found += f"{_number(ratio)} ({spread})"
        few = bands[0]["samples"] < FEW
        furthest, widest = (FEW_OFFSET, FEW_SPREAD) if few else (OFFSET, SPREAD)
        expected = f"below {furthest:g}, below a factor of {widest:g}" + few * f" (few samples: {bands[0]['samples']})"
        rows.append(_row(f"mean and deviation, {title}", found, expected, offset < furthest and ratio < widest))
    return rows


def _ratio(a: float, b: float) -> float:
    return max(a, b) / max(min(a, b), 1e-12)


# -- alignment ------------------------------------------------------------------------------------------------------


def check_alignment(shifts: np.ndarray, maps: Mapping[str, Mapping[str, np.ndarray]]) -> list[dict]:
    """Do the sensors lie over each other? Finds shifted, turned and mistaken partners.

    Args:
        shifts: (S,) in pixels.
        maps: of `information_maps`.

    Returns:
        Two rows for each two sensors: where the information of true pairs is greatest, and whether it is more than
        wrong pairs share.
    """
    if not maps:
        return [_row("alignment", "fewer than two sensors, or two pairs without holes", "–", None)]
    rows = []
    for names, kinds in maps.items():
        true, wrong = (kinds[kind].mean(axis=0) for kind in ("true pair", "wrong pair"))
        row, col = (int(shifts[i]) for i in np.unravel_index(true.argmax(), true.shape))
        ratio, there = true.max() / max(wrong.max(), 1e-12), true[shifts == 0, shifts == 0][0] / max(true.max(), 1e-12)
        shared = bool(ratio >= SHARED)
        found = f"row {row:+d}, column {col:+d}; no shift has {_percent(there)} of it".replace("-", "−").replace(
            "+0", "0"
        )
        expected = f"0, 0 (± {SHIFT} pixel), or {_percent(BROAD)} of it at no shift"
        good = max(abs(row), abs(col)) <= SHIFT or bool(there >= BROAD)
        rows.append(_row(f"best shift, {names}", found, expected, good if shared else None))  # else it is by chance
        text = f"{_number(ratio)} × that of wrong pairs ({_number(true.max(), 3)} and {_number(wrong.max(), 3)})"
        rows.append(_row(f"shared information, {names}", text, f"{SHARED:g} × or more", shared))
    return rows


# -- pixels and files -------------------------------------------------------------------------------------------------


def check_pixels(samples: Sequence[Mapping], modalities: Mapping[str, Modality]) -> list[dict]:
    """Are there missing sensors, pixels without data, clipped values?

    Args:
        samples: as a data set yields them.
        modalities: its sensors.

    Returns:
        A row on missing sensors, one on missing pixels, and one a sensor on clipped values.
    """
    count, empty = len(samples), without_data(samples)
    lacking = sum(any(key not in sample for key in modalities) for sample in samples)
    rows = [_row("samples that lack a sensor", f"{lacking} of {count}", "0", lacking == 0)]
    found = f"{_percent(empty.mean())}, in {int((empty > 0).sum())} of {count} samples"
    rows.append(_row("pixels without data", found, f"below {_percent(EMPTY)}", bool(empty.mean() < EMPTY)))
    for key, modality in modalities.items():
        if any(key in sample for sample in samples):
            shares = clipped(samples, key, modality)
            found = f"{_percent(shares.max())} ({modality.bands[shares.argmax()]})"
            low, high = (f"{end:g}".replace("-", "−") for end in modality.valid_range)
            check = f"values beyond {low}…{high} {modality.unit}, or cut off, {modality.title}"
            rows.append(_row(check, found, f"below {_percent(CLIPPED)}", bool(shares.max() < CLIPPED)))
    return rows


def check_copies(samples: Sequence[Mapping], modalities: Mapping[str, Modality]) -> list[dict]:
    """Are there images twice, bands without a picture, bands twice?

    Args:
        samples: as a data set yields them.
        modalities: its sensors.

    Returns:
        A row on each of the three, over all sensors.
    """
    copies, constant, equal = [], [], []
    for key, modality in modalities.items():
        copies += [f"{other} = {one} ({modality.title})" for one, other in exact_copies(samples, key)]
        flat, twins = dead_bands(samples, key, modality)
        constant += [] if may_be_flat(modality) else flat
        equal += [f"{twin} ({modality.title})" for twin in twins]
    checks = {"exact copies of images": copies, "bands of one value": constant, "bands that equal another": equal}
    return [_row(check, _listed(found) or "none", "none", not found) for check, found in checks.items()]


def check_speed(speed: Mapping[str, Mapping[str, float]]) -> list[dict]:
    """Is reading fast enough to train on?

    Args:
        speed: of `read_twice`.

    Returns:
        One row; the verdict is on the second read, in which no disk is waited for.
    """
    rates = [f"{name} {rate['samples/s']:.3g} samples/s, {rate['MB/s']:.3g} MB/s" for name, rate in speed.items()]
    expected = f"{FAST:g} MB/s or more a process; else pack it: fmlib data pack"
    return [_row("reading", "; ".join(rates), expected, speed["second read"]["MB/s"] >= FAST)]


def count_verdicts(table: Sequence[Mapping]) -> dict[str, int]:
    """How many rows have each verdict."""
    return {verdict: sum(row["verdict"] == verdict for row in table) for verdict in (AS_EXPECTED, LOOK, NOT_APPLICABLE)}
