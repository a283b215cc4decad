"""VAIS: visible and infrared pictures of ships (Zhang et al., 2015), in pairs where there are two.

On disk: ``annotations.txt``, a row an observation of seven fields parted by spaces: visible picture, infrared picture,
fine class, basic class, number of the ship, isTrain, isNight. A picture that does not exist is the word ``null``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fmlib.data.paths import draw
from fmlib.data.pictures import read_sensor
from fmlib.data.sample import Raw, check_choice, to_sample
from fmlib.modality import Modality

ANNOTATIONS = "annotations.txt"
SENSORS = ("vi", "ir")  # in the order of their fields
NULL = "null"
SPLITS = ("train", "validation", "test")
TIMES = ("day", "night")
VALIDATION = 0.15  # share of the published training ships held back


class Observation(NamedTuple):
    """One row of the annotations: pictures that exist, class number, ship, and how it was published."""

    pictures: dict[str, str]
    label: int
    ship: str
    train: bool
    night: bool


class Vais:
    """Observations of ships, one sample each.

    A sample is ``{"ir": (1, rows, cols), "vi": (3, rows, cols), "label": int64, "id": "vi/0012.png", "place": ship}``,
    images float32 digital numbers. By night there is infrared alone, and some days have one picture too: such a sensor
    is absent from the sample. Pictures are cut around the ship and differ in size, so give a `size`.

    Args:
        root: folder that holds the annotations and the pictures they name.
        split: ``"train"`` and ``"test"`` as published, less ``"validation"``: ships drawn from the training ones by a
            hash of their numbers.
        modalities: ``ir``, ``vi`` or both.
        classes: names of the basic classes, in label order.
        unpaired: ``"keep"`` observations that lack one of these sensors, or ``"skip"`` them.
        times: ``"day"``, ``"night"`` or both.
        validation: share of the published training ships held back, 0 to 0.5.
        size: side of every returned image in pixels, or (rows, cols), without keeping the aspect; None: as they are.
        resample: how images are brought to `size`: ``"nearest"``, ``"bilinear"`` or ``"area"``.
        on_missing: a picture that is named but not there is an ``"error"``; ``"skip"`` leaves its observation out.
        name: name of the data set.

    Raises:
        FileNotFoundError: the annotations or pictures they name are missing.
        ValueError: unknown option; a row of the annotations, or a picture, that does not fit.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        modalities: dict[str, Modality],
        classes: tuple[str, ...],
        unpaired: str = "keep",
        times: Sequence[str] = TIMES,
        validation: float = VALIDATION,
        size: int | tuple[int, int] | None = None,
        resample: str = "nearest",
        on_missing: str = "error",
        name: str = "vais",
    ):
        times = (times,) if isinstance(times, str) else tuple(times)
        check_choice("VAIS", "split", (split,), SPLITS)
        check_choice("VAIS", "sensors", tuple(modalities), SENSORS)
        check_choice("VAIS", "unpaired", (unpaired,), ("keep", "skip"))
        check_choice("VAIS", "times", times, TIMES)
        check_choice("VAIS", "on_missing", (on_missing,), ("error", "skip"))
        if not 0 <= validation <= 0.5:
            raise ValueError(f"VAIS: validation is the share of training ships held back, 0 to 0.5; got {validation}")
        self.root, self.split, self.name = Path(root), split, name
        self.modalities, self.classes = dict(modalities), tuple(classes)
        self.size, self.resample = size, resample
        wanted = len(modalities) if unpaired == "skip" else 1
        self.observations = [
            observation
            for observation in read_annotations(self.root / ANNOTATIONS, self.classes)
            if split_of(observation, validation) == split
            and TIMES[observation.night] in times
            and len(observation.pictures.keys() & self.modalities.keys()) >= wanted
        ]
        self._check_pictures(on_missing)

    def _check_pictures(self, on_missing: str) -> None:
        indices = range(len(self.observations))
        absent = {i: path for i in indices for (path,) in self.files(i).values() if not path.is_file()}
        if absent and on_missing == "error":
            raise FileNotFoundError(
                f"{next(iter(absent.values()))} is missing, but {ANNOTATIONS} names it ({len(absent):,} of "
                f"{len(indices):,} observations); fetch it, or use on_missing='skip'"
            )
        self.observations = [self.observations[i] for i in indices if i not in absent]
        if not self.observations:
            raise ValueError(
                f"VAIS: no observation in {self.root} is in {self.split!r} with these options; change sensors, times "
                "or validation"
            )

    def __len__(self) -> int:
        return len(self.observations)

    def __getitem__(self, index: int) -> dict:
        return to_sample(self.read(index), self.modalities, self.size, self.resample)

    def files(self, index: int) -> dict[str, tuple[Path, ...]]:
        """The pictures of one observation: one a sensor that it has."""
        pictures = self.observations[index].pictures
        return {sensor: (self.root / pictures[sensor],) for sensor in self.modalities if sensor in pictures}

    def read(self, index: int) -> Raw:
        """One observation as its files store it."""
        observation, files = self.observations[index], self.files(index)
        bands = {sensor: read_sensor(path, self.modalities[sensor]).pixels for sensor, (path,) in files.items()}
        identity = next(observation.pictures[sensor] for sensor in SENSORS if sensor in observation.pictures)
        extras = {"label": np.int64(observation.label), "id": identity, "place": observation.ship}
        return Raw(bands, extras, files)


def split_of(observation: Observation, validation: float) -> str:
    """The split of an observation; ships are drawn for validation by a hash, so that more rows never move one."""
    return draw(observation.ship, {"validation": validation}) if observation.train else "test"


def read_annotations(path: Path, classes: tuple[str, ...]) -> list[Observation]:
    """Read the annotations, one observation a row.

    Args:
        path: the file.
        classes: names of the basic classes, in label order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row that has not seven fields, names another class or no picture, or has flags other than 0, 1.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: VAIS needs {ANNOTATIONS} and the pictures it names in one folder")
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return [_parse(line.split(), classes, f"{path}, row {n}") for n, line in enumerate(lines, 1) if line.strip()]


def _parse(fields: list[str], classes: tuple[str, ...], where: str) -> Observation:
    if len(fields) != 7:
        raise ValueError(
            f"{where}: {len(fields)} fields, expected 7: visible picture, infrared picture, fine class, basic class, "
            "ship, isTrain, isNight (truncated?)"
        )
    *names, _, kind, ship, train, night = fields
    pictures = {sensor: name.replace("\\", "/") for sensor, name in zip(SENSORS, names, strict=True) if name != NULL}
    if kind not in classes:
        raise ValueError(f"{where}: class {kind!r} is none of {classes}")
    if {train, night} - {"0", "1"} or not pictures:
        raise ValueError(f"{where}: {' '.join(fields)!r} needs a picture, and 0 or 1 for isTrain and isNight")
    return Observation(pictures, classes.index(kind), ship, train == "1", night == "1")
