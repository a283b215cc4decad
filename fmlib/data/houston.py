"""Houston 2013: hyperspectral and LiDAR windows around labelled pixels (IEEE GRSS Data Fusion Contest 2013).

`fmlib.data.houston_files` lists the packagings that are read.
"""

from pathlib import Path

import numpy as np

from fmlib.data.houston_files import SIDE, Pixels, read_pixels
from fmlib.data.houston_roi import Clusters, deal
from fmlib.data.sample import Raw, check_choice, to_sample
from fmlib.modality import Modality

SCHEMES = ("clusters", "published", "leaky_random")
SPLITS = ("train", "validation", "test")


class Houston2013:
    """Windows around labelled pixels, one sample a pixel.

    A sample is ``{"hsi": (144, 7, 7), "lidar": (21, 7, 7), "label": int64, "id": "train/0012", "place":
    "train/0003"}``; its place is the cluster of labelled pixels it belongs to. `windows` holds the same as arrays for
    fast training: sensor to (N, C, 7, 7) float32, and `labels` (N,). Bands are stretched to 0..1 over the whole image,
    as MDL-RS stores them.

    Where the files hold spectra alone, a window is put together from the pixels of the same cluster, see
    `fmlib.data.houston_roi.neighbours`. Read from whole images, LiDAR has one band, the elevation.

    Args:
        root: folder that holds the files of one packaging.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        modalities: ``hsi``, ``lidar`` or both.
        classes: class names, in label order.
        scheme: ``"clusters"`` deals whole clusters of the published training pixels into folds; ``"published"``
            takes the published parts; ``"leaky_random"`` deals single training pixels, so that windows of the test
            overlap windows of the training: only to show what that does to a score.
        folds: how many, for the first and the last scheme; three classes have two clusters, so more than two folds
            leave them out of some.
        fold: the one that is tested on.
        seed: deals the clusters.
        validation: share of the training pixels held back, in whole clusters, 0 to 0.5.
        window: side in pixels, odd, up to 7 where windows are in rows.
        size, resample: bring windows to another size, as other readers do.
        on_missing: accepted as by other readers; every pixel is complete.
        name: name of the data set.

    Raises:
        FileNotFoundError: no packaging is complete; the message names what was looked for.
        ModuleNotFoundError: a MATLAB 7.3 file, and h5py is not installed.
        ValueError: unknown split, scheme or sensor; a file that does not fit.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        modalities: dict[str, Modality],
        classes: tuple[str, ...],
        scheme: str = "clusters",
        folds: int = 2,
        fold: int = 0,
        seed: int = 0,
        validation: float = 0.0,
        window: int = SIDE,
        size: int | tuple[int, int] | None = None,
        resample: str = "nearest",
        on_missing: str = "error",
        name: str = "houston2013",
    ):
        check_choice("Houston 2013", "split", (split,), SPLITS)
        check_choice("Houston 2013", "scheme", (scheme,), SCHEMES)
        check_choice("Houston 2013", "sensors", tuple(modalities), ("hsi", "lidar"))
        if not 0 <= fold < folds or folds < 2:
            raise ValueError(f"Houston 2013: fold {fold} of {folds}; give two folds or more, counted from 0")
        if not 0 <= validation <= 0.5:
            raise ValueError(f"Houston 2013: validation is a share of the training pixels, 0 to 0.5; got {validation}")
        if window < 1 or window % 2 == 0:
            raise ValueError(f"Houston 2013: window is an odd number of pixels, got {window}")
        self.root, self.split, self.name, self.classes = Path(root), split, name, tuple(classes)
        self.size, self.resample = size, resample
        self.part = "test" if (scheme, split) == ("published", "test") else "train"
        pixels, self.modalities = read_pixels(self.root, self.part, modalities, len(classes), window)
        rows = self._rows(pixels, scheme, folds, fold, seed, validation)
        self.windows = {sensor: windows[rows] for sensor, windows in pixels.windows.items()}
        for sensor, windows in self.windows.items():
            if not np.isfinite(windows).all():
                raise ValueError(f"{pixels.files[sensor][0]}: holds values that are not finite; fetch it again")
        self.labels, self.numbers, self._files = pixels.labels[rows], rows, pixels.files
        self.clusters = pixels.clusters.number[rows] if pixels.clusters else None

    def _rows(self, pixels: Pixels, scheme: str, folds: int, fold: int, seed: int, validation: float) -> np.ndarray:
        """Numbers of the split's pixels."""
        if self.part == "test":
            return np.arange(len(pixels.labels))
        groups = np.arange(len(pixels.labels))
        if scheme == "clusters" or (scheme == "published" and validation):
            groups = _clusters(pixels).number
        tested = np.zeros(len(groups), bool)
        if scheme != "published":
            tested = deal(pixels.labels, groups, (1 / folds,) * folds, seed) == fold
        if self.split == "test":
            return np.flatnonzero(tested)
        rest = np.flatnonzero(~tested)
        if not validation and self.split == "validation":
            raise ValueError("Houston 2013: validation=0 holds nothing back; give a share of the training pixels")
        if not validation:
            return rest
        held_back = deal(pixels.labels[rest], groups[rest], (1 - validation, validation), seed) == 1
        return rest[held_back == (self.split == "validation")]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return to_sample(self.read(index), self.modalities, self.size, self.resample)

    def files(self, index: int) -> dict[str, tuple[Path, ...]]:
        """The files of one pixel, which are those of all."""
        return dict(self._files)

    def read(self, index: int) -> Raw:
        """One pixel's windows and label."""
        identity = f"{self.part}/{self.numbers[index]:04}"
        place = identity if self.clusters is None else f"{self.part}/{self.clusters[index]:04}"
        extras = {"label": np.int64(self.labels[index]), "id": identity, "place": place}
        return Raw({sensor: windows[index] for sensor, windows in self.windows.items()}, extras, self.files(index))


def _clusters(pixels: Pixels) -> Clusters:
    if pixels.clusters is None:
        raise ValueError(
            f"{pixels.files['label'][0].parent}: clusters cannot be told from single pixels; add LiDAR_TrSet.mat with "
            "windows (1,029 values a row, from HSI_LiDAR_CNN), or use scheme='leaky_random' and say that it leaks"
        )
    return pixels.clusters
