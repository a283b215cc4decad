"""SSL4EO-S12: radar and optical images of 251,079 places in four seasons, without labels.

On disk (arXiv 2211.07044): ``{s1,s2a,s2c}/<place>/<product>/<band>.tif`` with a ``metadata.json``; s1 is Sentinel-1 in
decibels, s2a Sentinel-2 at the surface (L2A), s2c at the top of the atmosphere (L1C). One single-band GeoTIFF a band,
called ``B1`` to ``B12``, ``B8A``, ``VV``, ``VH``, in degrees (EPSG:4326).
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fmlib.data.paths import draw
from fmlib.data.raster import check_footprints, lonlat, read_band
from fmlib.data.resample import MODES
from fmlib.data.sample import Raw, to_sample
from fmlib.modality import Modality
from fmlib.progress import watched

DTYPES = {"s1": "float32", "s2a": "uint16", "s2c": "uint16"}
SIZE = 264  # pixels a side at 10 m
COARSE = dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 132) | dict.fromkeys(("B01", "B09", "B10"), 44)
TOLERANCE = 0.05  # of a patch's width: published grids differ by up to 1.5 %
ON_MISSING = ("error", "skip", "keep")
BATCH = 1000  # places a task


class SSL4EO:
    """Images of SSL4EO-S12, one sample a place and season: the k-th date of each sensor.

    A sample is ``{"s1": (2, 264, 264), "s2a": (12, 264, 264), "s2c": (13, 264, 264), "id": "0000200/0", "place":
    "0000200"}``, float32 decibels and scaled reflectance, with ``"lonlat"`` and ``"time"`` of its first sensor. Dates
    of the sensors differ by days to weeks.

    Every band is taken to cover the same ground, edge on edge, as published models do. The stored coordinates only
    tell places apart; using them to align bands makes it worse. On two dates of one published place, 20 m bands fit the
    10 m bands exactly by their edges, though coordinates lie 5 m apart; radar agrees best with the optical bands 0 to 2
    pixels off by edges, 1 to 4 by coordinates; and B01, B09 show everything 35 to 45 m too far north and west by edges,
    and by coordinates 25 m more.

    Args:
        root: folder that holds s1, s2a and s2c.
        split: ``"train"``, or one that `shares` names.
        modalities: the sensors to read, any of ``"s1"``, ``"s2a"``, ``"s2c"``, in the order they are returned.
        classes: empty; there are no labels.
        size: side of every returned image in pixels; None is the native 10 m grid of 264.
        resample: how bands are brought to `size`: ``"nearest"``, ``"bilinear"`` or ``"area"``.
        on_missing: a place that lacks a sensor, or has other numbers of dates, is an ``"error"``; ``"skip"`` leaves it
            out; ``"keep"`` leaves out those of its sensors that have fewer dates, as their seasons are not known.
        dates: ``"all"``, or the number of one: 0 is the earliest product of every sensor.
        shares: split to its share of the places, drawn by a hash of the place's name; default: all are for training.
        name: name of the data set.

    Raises:
        FileNotFoundError: folders are missing, or no place falls to the split.
        ValueError: unknown option or sensor; on reading, a file that does not fit the layout.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        modalities: dict[str, Modality],
        classes: tuple[str, ...] = (),
        size: int | None = None,
        resample: str = "nearest",
        on_missing: str = "error",
        dates: str | int = "all",
        shares: dict[str, float] | None = None,
        name: str = "ssl4eo-s12",
    ):
        _check_options(modalities, resample, on_missing, dates)
        self.root, self.split, self.name = Path(root), split, name
        self.modalities, self.classes = dict(modalities), tuple(classes)
        self.size, self.resample = size, resample
        self.places = find_places(self.root, split, tuple(self.modalities), shares or {})
        counts = count_products(self.root, tuple(self.modalities), self.places)  # (places, sensors)
        seasons = self._seasons(counts, on_missing)
        self.there = dict(zip(self.modalities, ((counts == seasons[:, None]) & (counts > 0)).T, strict=True))
        place = np.repeat(np.arange(len(seasons)), seasons)
        date = np.arange(len(place)) - np.repeat(np.cumsum(seasons) - seasons, seasons)
        self.samples = np.stack([place, date], 1)[date == dates if dates != "all" else slice(None)]  # (N, 2)
        if not len(self.samples):
            raise FileNotFoundError(
                f"{self.root}: no place of {split!r} is usable (dates={dates!r}, sensors {list(modalities)})"
            )

    def _seasons(self, counts: np.ndarray, on_missing: str) -> np.ndarray:
        """(places,) number of dates to use of each place; 0 leaves it out."""
        uneven = counts.min(1) != counts.max(1)
        if on_missing == "error" and uneven.any():
            first = int(uneven.argmax())
            found = ", ".join(
                f"{sensor}: {count}" for sensor, count in zip(self.modalities, counts[first], strict=True)
            )
            raise FileNotFoundError(
                f"{uneven.sum():,} of {len(counts):,} places under {self.root} lack images, first {self.places[first]} "
                f"(dates of {found}); extract the archives again, or use on_missing='skip' or 'keep'"
            )
        return np.where(uneven & (on_missing == "skip"), 0, counts.max(1))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        return to_sample(self.read(index), self.modalities, self.size, self.resample)

    def read(self, index: int) -> Raw:
        """One place in one season as its files store it; raises if they do not show the same ground."""
        place, date = self.places[self.samples[index, 0]], int(self.samples[index, 1])
        raw, footprints = Raw({}, {"id": f"{place}/{date}", "place": place}, self.files(index)), {}
        for sensor, files in raw.files.items():
            raw.bands[sensor] = []
            for band, path in zip(self.modalities[sensor].bands, files, strict=True):
                side = COARSE.get(band, SIZE)
                image, nodata, footprints[str(path)] = read_band(path, (side, side), DTYPES[sensor])
                raw.bands[sensor].append(image)
            if nodata is not None:
                raw.nodata[sensor] = nodata
        first = next(iter(footprints.values()))
        check_footprints(footprints, TOLERANCE * (first.right - first.left))
        product = next(iter(raw.files.values()))[0].parent.name
        return Raw(raw.bands, raw.extras | {"lonlat": lonlat(first), "time": acquired(product)}, raw.files, raw.nodata)

    def files(self, index: int) -> dict[str, tuple[Path, ...]]:
        """The files of one sample: sensor to one a band."""
        place, date = self.samples[index].tolist()
        files = {}
        for sensor, modality in self.modalities.items():
            if self.there[sensor][place]:
                folder = self.root / sensor / self.places[place]
                product = folder / sorted(_folders(folder), key=acquired)[date]
                files[sensor] = tuple(product / f"{band.replace('B0', 'B')}.tif" for band in modality.bands)
        return files


def find_places(root: Path, split: str, sensors: tuple[str, ...], shares: dict[str, float]) -> list[str]:
    """Places of a split that have a folder of any of the sensors, sorted."""
    for sensor in sensors:
        if not (root / sensor).is_dir():
            raise FileNotFoundError(f"{root / sensor} is missing; extract it, or open the data set without {sensor!r}")
    found = sorted({place for sensor in sensors for place in _folders(root / sensor)})
    places = [place for place in found if draw(place, shares) == split]
    if not places:
        raise FileNotFoundError(
            f"{root}: none of {len(found):,} places falls to {split!r}; only 'train' is published, so give "
            "shares of the places such as {'validation': 0.05}"
        )
    return places


def count_products(root: Path, sensors: tuple[str, ...], places: list[str]) -> np.ndarray:
    """How many products each place has of each sensor, (places, sensors); folders are listed in threads."""

    def count(part: list[str]) -> list[list[int]]:
        return [[len(_folders(root / sensor / place)) for sensor in sensors] for place in part]

    parts = [places[first : first + BATCH] for first in range(0, len(places), BATCH)]
    counts: list[list[int]] = []
    with ThreadPoolExecutor(16) as pool, tqdm(total=len(places), unit="place", disable=not watched()) as bar:
        for part in pool.map(count, parts):
            counts += part
            bar.update(len(part))
    return np.array(counts)


def acquired(product: str) -> str:
    """When a product was acquired, ISO, from its name: the first date and time in it.

    Raises:
        ValueError: there is none.
    """
    if (found := re.search(r"\d{8}T\d{6}", product)) is None:
        raise ValueError(f"{product!r} is no product name: it has no date such as 20200604T054639; check the layout")
    return datetime.strptime(found[0], "%Y%m%dT%H%M%S").isoformat()


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return [entry.name for entry in os.scandir(folder) if entry.is_dir()]


def _check_options(modalities: dict, resample: str, on_missing: str, dates: str | int) -> None:
    if not modalities or set(modalities) - set(DTYPES):
        raise ValueError(f"SSL4EO-S12 has the sensors {tuple(DTYPES)}, not {sorted(modalities)}")
    for what, given, known in (("resample", resample, tuple(MODES)), ("on_missing", on_missing, ON_MISSING)):
        if given not in known:
            raise ValueError(f"SSL4EO-S12: {what} {given!r} is not one of {known}")
    if dates != "all" and (not isinstance(dates, int) or dates < 0):
        raise ValueError(f"SSL4EO-S12: dates {dates!r} is neither 'all' nor a number from 0")
