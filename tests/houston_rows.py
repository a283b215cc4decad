"""Small files in the layouts of Houston 2013."""

import numpy as np
from scipy.io import savemat

from fmlib.data.houston import Houston2013
from fmlib.data.houston_files import cut_windows
from fmlib.manifest import load_manifest

MANIFEST = load_manifest("houston2013")
SENSORS, CLASSES = MANIFEST.sensors, MANIFEST.classes
ROWS, COLS = 40, 70


def scene():
    """Images, and a label map of 30 rectangles: two clusters a class."""
    rng = np.random.default_rng(0)
    images = {name: rng.random((sensor.in_chans, ROWS, COLS)) for name, sensor in SENSORS.items()}
    labels = np.zeros((ROWS, COLS), np.uint8)
    for number in range(30):
        row, col = 1 + 8 * (number // 7), 1 + 10 * (number % 7)
        labels[row : row + 2 + number % 3, col : col + 3 + number % 4] = 1 + number % 15
    return images, labels


IMAGES, LABELS = scene()


def save(path, array, name=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {name or path.stem: array}, do_compression=True)


def write_rows(root, part="Tr", spectra=True, labels=LABELS):
    """The layout of MDL-RS: windows band after band, their pixels column by column."""
    place = np.nonzero(labels)
    for name, file in (("hsi", "HSI"), ("lidar", "LiDAR")):
        windows = cut_windows(IMAGES[name], *place, 7).swapaxes(2, 3)
        rows = IMAGES[name][:, *place].T if name == "hsi" and spectra else windows.reshape(len(windows), -1)
        save(root / f"{file}_{part}Set.mat", rows)
    save(root / f"{part}Label.mat", labels[place][:, None])
    return root


def opened(root, split="train", sensors=SENSORS, **options):
    return Houston2013(root, split, {name: SENSORS.get(name) for name in sensors}, CLASSES, **options)
