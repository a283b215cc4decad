"""Opens a folder of radar and colour pictures."""

from fmlib.data.folders import Folders
from fmlib.modality import Modality

SAR = Modality("sar", ("VV", "VH"), "dB", (-40, 10), (-12, -18), (4, 4))
RGB = Modality("rgb", ("R", "G", "B"), "digital number", (0, 255), (120,) * 3, (60,) * 3)
SENSORS = {"sar": SAR, "rgb": RGB}
PATHS = {"sar": "sar/{id}.tif", "rgb": "rgb/{id}.png"}


def opened(root, split="train", sensors=("sar", "rgb"), classes=(), paths=PATHS, **options):
    return Folders(root, split, {name: SENSORS[name] for name in sensors}, classes, paths, **options)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
