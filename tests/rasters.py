"""Small pictures and GeoTIFFs made for tests."""

import numpy as np
import rasterio
from PIL import Image
from rasterio.transform import from_origin

SIDE = 16


def write(path, pixels, left=500000.0, names=(), pixel=10.0, crs="EPSG:32633"):
    """A picture or GeoTIFF of (C, rows, cols) pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".tif":
        Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(path)
        return
    options = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    grid = {"transform": from_origin(left, 5000000, pixel, pixel), "crs": crs}
    with rasterio.open(path, "w", driver="GTiff", **options, **grid) as file:
        file.write(pixels)
        for number, name in enumerate(names, 1):
            file.set_band_description(number, name)


def radar(rng, side=SIDE, bands=2):
    return rng.normal(-12, 3, (bands, side, side)).astype(np.float32)


def colour(rng, rows=SIDE, cols=SIDE):
    return rng.integers(1, 255, (3, rows, cols), dtype=np.uint8)


def write_pairs(root, count=12):
    """Pairs of radar and colour, and a mask of each."""
    rng = np.random.default_rng(0)
    for number in range(count):
        write(root / f"sar/{number:02}.tif", radar(rng))
        write(root / f"rgb/{number:02}.png", colour(rng))
        write(root / f"label/{number:02}.png", rng.integers(0, 2, (1, SIDE, SIDE), dtype=np.uint8))
    return root
