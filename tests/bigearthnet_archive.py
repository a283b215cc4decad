"""A small BigEarthNet version 2 archive, made for tests: values tell sensor, band and patch."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from rasterio import Affine

from fmlib.data.bigearthnet import BigEarthNetV2, patch_folder
from fmlib.data.bigearthnet_patches import COARSE
from fmlib.manifest import load_manifest

MANIFEST = load_manifest("bigearthnet-v2")
S2_BANDS = MANIFEST.sensors["s2"].bands
ALWAYS = ("id", "label", "lonlat", "place")
TILE, SCENE = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP", "S1A_IW_GRDH_1SDV_20170613T165043"
PATCHES = [f"{TILE}_{col}_48" for col in (70, 71, 72, 73)]
S1_NAMES = [f"{SCENE}_33UUP_{col}_48" for col in (70, 71, 72, 73)]


def write(path, band, nodata=None, crs="EPSG:32633", origin=(384000, 5342400)):
    """One band, or (bands, rows, cols), as a GeoTIFF of a 1,200 m patch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    stack = np.atleast_3d(band.T).T
    count, rows, cols = stack.shape
    transform = Affine(1200 / cols, 0, origin[0], 0, -1200 / rows, origin[1])
    profile = {"height": rows, "width": cols, "count": count, "dtype": stack.dtype, "crs": crs, "transform": transform}
    with rasterio.open(path, "w", driver="GTiff", nodata=nodata, **profile) as file:
        file.write(stack)


def row(index, split="train", labels=("Pastures", "Marine waters"), snow=False):
    return {
        "patch_id": PATCHES[index],
        "labels": list(labels),
        "split": split,
        "country": "Austria",
        "s1_name": S1_NAMES[index],
        "s2v1_name": f"S2A_MSIL2A_20170613T101031_7{index}_48",
        "contains_seasonal_snow": snow,
        "contains_cloud_or_shadow": False,
    }


def s1_path(root, index, band):
    return patch_folder(root, "s1", S1_NAMES[index]) / f"{S1_NAMES[index]}_{band}.tif"


def s2_path(root, index, band):
    return patch_folder(root, "s2", PATCHES[index]) / f"{PATCHES[index]}_{band}.tif"


def map_path(root, index):
    return patch_folder(root, "map", PATCHES[index]) / f"{PATCHES[index]}_reference_map.tif"


def make_archive(root: Path) -> Path:
    """Patches 0 and 1 for training, 2 for validation, 3 under snow; pixel values tell band and patch."""
    for index in range(4):
        origin = (300000 + (70 + index) * 1200, 5342400)
        ramp = np.linspace(0, 0.5, 120 * 120, dtype=np.float32).reshape(120, 120)
        for band, level in (("VV", -10.25), ("VH", -20.25)):
            write(s1_path(root, index, band), ramp + level + index, origin=origin)
        for number, band in enumerate(S2_BANDS):
            side = COARSE.get(band, 120)
            pixels = 1000 * (number + 1) + np.arange(side * side).reshape(side, side) % side + index
            write(s2_path(root, index, band), pixels.astype(np.uint16), nodata=0, origin=origin)
        codes = np.full((120, 120), 231, np.uint16)  # pastures
        codes[:60], codes[:5], codes[5] = 523, 335, 0  # sea; glacier, which is no class; nodata
        write(map_path(root, index), codes, nodata=0, origin=origin)
    rows = [row(0), row(1, labels=["Urban fabric"]), row(2, "validation")]
    pq.write_table(pa.Table.from_pylist(rows), root / "metadata.parquet")
    snow = pa.Table.from_pylist([row(3, snow=True)])
    pq.write_table(snow, root / "metadata_for_patches_with_snow_cloud_or_shadow.parquet")
    return root


def opened(root, split="train", sensors=("s1", "s2"), classes=MANIFEST.classes, **options):
    modalities = {name: MANIFEST.sensors[name] for name in sensors}
    return BigEarthNetV2(root, split, modalities, classes, **options)
