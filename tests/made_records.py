"""A data set with everything that records must keep: native sizes, gaps, labels, maps."""

from pathlib import Path

import numpy as np
from sensors import sensor

from fmlib.data.pack import pack
from fmlib.data.sample import Raw, to_sample


class Made:
    """Samples of a radar and an optical sensor with three native sizes; sample 3 lacks radar, sample 5 its map.

    Their values follow from the file that stands for each, so that a changed file is a changed source.
    """

    name, split, classes = "made", "train", ("a", "b", "c")
    size, resample = None, "nearest"

    def __init__(self, folder: Path, count: int = 23):
        self.modalities = {
            "s1": sensor("s1", 2).replace(unit="dB", mean=(-12, -19), valid_range=(-50, 10), on_nodata="mean"),
            "s2": sensor("s2", 4).replace(unit="reflectance × 10000", valid_range=(0, 10000)),
        }
        self.folder, self.count = folder, count
        folder.mkdir(exist_ok=True, parents=True)
        for index in range(count):
            if not (folder / f"{index}.txt").exists():
                (folder / f"{index}.txt").write_text(str(index))

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return to_sample(self.read(index), self.modalities, self.size, self.resample)

    def files(self, index):
        return {"s2": (self.folder / f"{index}.txt",)}

    def read(self, index):
        rng = np.random.default_rng(int((self.folder / f"{index}.txt").read_text()))
        sizes = (12, 6, 12, 3)
        bands = {"s2": [rng.integers(1, 9999, (side, side), dtype=np.uint16) for side in sizes]}
        if index != 3:
            bands["s1"] = list(rng.normal(-15, 3, (2, 12, 12)).astype(np.float32))
            bands["s1"][1][0, index % 12] = np.nan
        extras = {"id": f"patch/{index}ä", "place": f"tile{index // 4}", "lonlat": np.array([index / 7, 50.0])}
        extras["label"] = (rng.random(3) < 0.5).astype(np.float32)
        if index != 5:
            extras["map"] = rng.integers(0, 3, (40, 40), dtype=np.uint8)
        return Raw(bands, extras, self.files(index) | {"s1": self.files(index)["s2"]}, {"s2": 0.0})


def pack_made(source: Made, folder: Path) -> Path:
    return pack(source, folder / "train", {"dates": ("after",)}, shard_size=8, workers=0)
