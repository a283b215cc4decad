"""Grey windows of infrared and visible pictures alike: what one encoder for both sensors is pretrained on."""

from pathlib import Path

import numpy as np
from PIL import Image

from fmlib.data.sample import Raw, to_sample
from fmlib.modality import Modality

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


class Grey:
    """Every picture of other data sets' pairs, infrared or visible, as windows of one sensor named "grey".

    A sample is ``{"grey": (1, size, size) float32 luma from 0 to 255, "id": "roadscene/FLIR_00006/vi/0,160", "place":
    "roadscene/FLIR_00006"}``. Windows stand side by side, the last of a row or column moved back to the border.

    Args:
        root: folder that holds the data sets.
        split: of theirs.
        modalities: ``{"grey": …}``.
        classes: none.
        sources: names of the data sets.
        size: side of a window in pixels; training crops it further.
        name: of this data set.

    Raises:
        FileNotFoundError: a source is not on disk.
        ValueError: a source lacks this split, or a picture is smaller than a window.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        modalities: dict[str, Modality],
        classes: tuple[str, ...] = (),
        sources: tuple[str, ...] = ("roadscene",),
        size: int = 160,
        name: str = "grey",
        on_missing: str = "error",
    ):
        from fmlib.data import open_dataset  # which imports this module's package

        self.modalities, self.classes, self.split, self.name = dict(modalities), tuple(classes), split, name
        self.size, self._last = size, (None, None)
        self.pairs = [open_dataset(source, split, root, records=False, on_missing=on_missing) for source in sources]
        self.windows = [
            (pairs, row, sensor, top, left)
            for pairs in self.pairs
            for row in range(len(pairs))
            for sensor, (path,) in pairs.files(row).items()
            for top, left in _corners(path, size)
        ]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict:
        return to_sample(self.read(index), self.modalities)

    def files(self, index: int) -> dict[str, tuple[Path, ...]]:
        """The picture that a window is cut from."""
        pairs, row, sensor, *_ = self.windows[index]
        return {"grey": pairs.files(row)[sensor]}

    def read(self, index: int) -> Raw:
        """One window, luma rounded to 8 bits."""
        pairs, row, sensor, top, left = self.windows[index]
        files = self.files(index)
        if self._last[0] != files:  # neighbouring windows are of one picture
            raw = pairs.select([row], (sensor,)).read(0)
            self._last = files, (_luma(raw.bands[sensor]), f"{pairs.name}/{raw.extras['id']}")
        image, place = self._last[1]
        window = image[top : top + self.size, left : left + self.size]
        extras = {"id": f"{place}/{sensor}/{top},{left}", "place": place}
        return Raw({"grey": [window]}, extras, files)


def _corners(path: Path, size: int) -> list[tuple[int, int]]:
    with Image.open(path) as image:
        width, height = image.size
    if min(width, height) < size:
        raise ValueError(f"{path}: {height} × {width} pixels, smaller than a window of {size}; choose a smaller size")
    tops, lefts = ([*range(0, side - size, size), side - size] for side in (height, width))
    return [(top, left) for top in tops for left in lefts]


def _luma(bands: np.ndarray) -> np.ndarray:
    """(C, rows, cols) → (rows, cols) uint8."""
    return bands[0] if len(bands) == 1 else np.rint(np.tensordot(LUMA, bands, 1)).astype(np.uint8)
