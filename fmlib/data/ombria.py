"""OMBRIA: 8-bit Sentinel-1 and Sentinel-2 patches of floods, before and after, with a flood mask.

On disk: ``Ombria{S1,S2}/{train,test}/{BEFORE,AFTER,MASK}/{S1,S2}_{before,after,mask}_NNNN.png``. One number is one
site, the same for both sensors and both dates. Published at github.com/geodrak/OMBRIA.
"""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from fmlib.data.sample import Raw, check_choice, to_sample
from fmlib.modality import Modality

SIZE = 256  # pixels a side of every published image
MODES = {1: "L", 3: "RGB"}  # Pillow's names for one and three 8-bit channels
DATES = ("before", "after")
BLOCKS = 13  # runs of neighbouring site numbers that validation is drawn from
VALIDATION = 0.15  # share of the published training sites held back
IGNORE = 255  # label of a pixel without data


class Ombria:
    """Sentinel-1 and Sentinel-2 patches of flooded sites, one sample per site and date.

    A sample is ``{"s1": (1, 256, 256), "s2": (3, 256, 256), "valid": (256, 256) bool, "id": "train/0012/after",
    "place": "0012"}``, images float32 digital numbers from 0 to 255. After the flood it also has ``"label"``:
    (256, 256) uint8, 0 dry, 1 flood, 255 no data. Before the flood there is none: the mask says what the flood
    covered, not where permanent water stood, so "all dry" would be a wrong label.

    `valid` is False where all three Sentinel-2 bands are 0, the wedges that the edge of an acquisition leaves. On the
    published images every patch of 255 wider than speckle in Sentinel-1 lies inside such a wedge, so one rule serves
    both sensors.

    Validation is drawn from the training sites in runs of neighbouring numbers, because neighbouring numbers are
    mostly touching patches: drawn singly, nine validation sites in ten would touch a training site.

    Args:
        root: folder that holds OmbriaS1 and OmbriaS2.
        split: ``"train"``, ``"validation"`` or ``"test"`` (as published).
        modalities: the sensors to read, ``"s1"``, ``"s2"`` or both, in the order they are returned.
        classes: names of labels 0 and 1.
        dates: ``"before"``, ``"after"`` or both.
        size: side of every returned image in pixels; None is the native 256.
        resample: how images are brought to `size`: ``"nearest"``, ``"bilinear"`` or ``"area"``.
        on_missing: a site that lacks a file is an ``"error"``; ``"skip"`` leaves such sites out.
        validation: share of the published training sites held back for validation, 0 to 0.5.
        seed: chooses the runs held back.
        name: name of the data set.

    Raises:
        FileNotFoundError: a folder or a site's partner file is missing.
        ValueError: unknown split, sensor or date; on reading, a file that is not such an image.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        modalities: dict[str, Modality],
        classes: tuple[str, ...],
        dates: tuple[str, ...] = DATES,
        size: int | None = None,
        resample: str = "nearest",
        on_missing: str = "error",
        validation: float = VALIDATION,
        seed: int = 0,
        name: str = "ombria",
    ):
        dates = tuple(dates)
        check_choice("OMBRIA", "split", (split,), ("train", "validation", "test"))
        check_choice("OMBRIA", "dates", dates, DATES)
        check_choice("OMBRIA", "on_missing", (on_missing,), ("error", "skip"))
        check_choice("OMBRIA", "sensors", tuple(modalities), ("s1", "s2"))
        self.root, self.split, self.name = Path(root), split, name
        self.modalities, self.classes, self.dates = dict(modalities), tuple(classes), dates
        self.size, self.resample = size, resample
        self.folder = "test" if split == "test" else "train"
        self.sites = self._split_sites(find_sites(self.root, self.folder, on_missing), validation, seed)

    def _split_sites(self, sites: list[str], validation: float, seed: int) -> list[str]:
        if self.split == "test":
            return sites
        train, held_back = split_blocks(sites, validation, seed)
        chosen = train if self.split == "train" else held_back
        if not chosen:
            raise ValueError(
                f"OMBRIA: validation={validation} of {len(sites)} training sites leaves none for {self.split!r}; "
                "change the share"
            )
        return chosen

    def __len__(self) -> int:
        return len(self.sites) * len(self.dates)

    def __getitem__(self, index: int) -> dict:
        return to_sample(self.read(index), self.modalities, self.size, self.resample)

    def read(self, index: int) -> Raw:
        """One site on one date as its files store it."""
        site, date = self._site_and_date(index)
        files = self.files(index)
        s2 = read_image(self.path("s2", date, site), channels=3)  # always read: it says where there are no data
        valid = s2.any(0)
        extras = {"valid": valid, "id": f"{self.folder}/{site}/{date}", "place": site}
        if "label" in files:
            extras["label"] = np.where(valid, read_mask(*files["label"]), IGNORE).astype(np.uint8)
        bands = {name: s2 if name == "s2" else read_image(*files[name], channels=1) for name in self.modalities}
        return Raw(bands, extras, files)

    def files(self, index: int) -> dict[str, tuple[Path, ...]]:
        """The files of one sample: one a sensor, and the mask's after the flood."""
        site, date = self._site_and_date(index)
        files = {name: (self.path(name, date, site),) for name in self.modalities}
        return files | ({"label": (self.path("s1", "mask", site),)} if date == "after" else {})

    def _site_and_date(self, index: int) -> tuple[str, str]:
        return self.sites[index // len(self.dates)], self.dates[index % len(self.dates)]

    def path(self, sensor: str, kind: str, site: str) -> Path:
        """File of one site: `kind` is ``"before"``, ``"after"`` or ``"mask"``."""
        return image_path(self.root, sensor, self.folder, kind, site)


def image_path(root: Path, sensor: str, folder: str, kind: str, site: str) -> Path:
    """Where OMBRIA keeps one image, e.g. ``OmbriaS1/train/AFTER/S1_after_0012.png``."""
    sensor = sensor.upper()
    return Path(root) / f"Ombria{sensor}" / folder / kind.upper() / f"{sensor}_{kind}_{site}.png"


def find_sites(root: Path, folder: str, on_missing: str = "error") -> list[str]:
    """Sites of a published folder (``"train"`` or ``"test"``), sorted, every one complete.

    Raises:
        FileNotFoundError: a folder is missing or empty, or a site lacks one of its files and is not to be skipped.
    """
    found = {}
    for sensor, kind in (("s1", "before"), ("s1", "after"), ("s1", "mask"), ("s2", "before"), ("s2", "after")):
        place = image_path(root, sensor, folder, kind, "").parent
        if not place.is_dir():
            raise FileNotFoundError(
                f"{place} is missing: OMBRIA needs OmbriaS1 and OmbriaS2, each with {folder}/BEFORE, AFTER and MASK; "
                "clone github.com/geodrak/OMBRIA and give the folder that holds both"
            )
        pattern = re.compile(rf"{sensor.upper()}_{kind}_(\d{{4}})\.png")
        found[sensor, kind] = {match[1] for entry in place.iterdir() if (match := pattern.fullmatch(entry.name))}
    join = set.intersection if on_missing == "skip" else set.union
    sites = sorted(join(*found.values()))
    for (sensor, kind), there in found.items():
        if lacking := sorted(set(sites) - there):
            raise FileNotFoundError(
                f"{image_path(root, sensor, folder, kind, lacking[0])} is missing, but the site has other files "
                f"({len(lacking)} such sites); fetch it again or remove the site's other files"
            )
    if not sites:
        raise FileNotFoundError(f"no OMBRIA site in {root} ({folder}): names like S1_before_0001.png are expected")
    return sites


def split_blocks(sites: list[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Hold back about `share` of the sites in whole runs of neighbouring numbers.

    Returns:
        The sites kept and the sites held back, both sorted.
    """
    if not 0 <= share <= 0.5:
        raise ValueError(f"validation is the share of training sites held back, 0 to 0.5; got {share}")
    blocks = np.array_split(np.array(sites), min(BLOCKS, len(sites)))
    count = max(1, round(share * len(blocks))) if share else 0
    chosen = set(np.random.default_rng(seed).permutation(len(blocks))[:count].tolist())
    kept = [str(site) for i, block in enumerate(blocks) if i not in chosen for site in block]
    return kept, [str(site) for i, block in enumerate(blocks) if i in chosen for site in block]


def read_image(path: Path, channels: int) -> np.ndarray:
    """Read one 8-bit image of the published size.

    Returns:
        (C, 256, 256) uint8.

    Raises:
        ValueError: the file is truncated or not an image, or of another size or channel count.
    """
    try:
        with Image.open(path) as image:
            mode, pixels = image.mode, np.asarray(image)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # Pillow: truncated, unknown format, broken chunk
        raise ValueError(f"{path}: cannot be read as an image ({error}); fetch it again") from error
    if mode != MODES[channels]:
        raise ValueError(f"{path}: image mode {mode}, expected {MODES[channels]} ({channels} channels of 8 bit)")
    if pixels.shape[:2] != (SIZE, SIZE):
        raise ValueError(f"{path}: {pixels.shape[0]} × {pixels.shape[1]} pixels, expected {SIZE} × {SIZE}")
    return np.ascontiguousarray(pixels.reshape(SIZE, SIZE, channels).transpose(2, 0, 1))


def read_mask(path: Path) -> np.ndarray:
    """Read a flood mask.

    Returns:
        (256, 256) uint8, 0 dry, 1 flood.

    Raises:
        ValueError: the file holds values other than 0 and 255.
    """
    mask = read_image(path, channels=1)[0]
    if other := sorted(set(np.unique(mask).tolist()) - {0, 255}):
        raise ValueError(f"{path}: a flood mask holds 0 and 255, found {other[:5]} too; fetch it again")
    return mask // 255
