"""The radar: backscatter of a landscape in VV and VH, and speckle."""

import numpy as np
from scipy import ndimage

from fmlib.scenes.biomes import CROPS
from fmlib.scenes.landscape import CELL, Landscape
from fmlib.scenes.parcels import coarse, fractal
from fmlib.scenes.sensors import ROOFS, WATERS, is_cover, lookup, to_pixels

LOOKS = 4.4  # equivalent number of looks of a Sentinel-1 IW GRD image (product specification)
INCIDENCE = np.radians(39.0)  # middle of the swath
NOISE = 10**-3.2  # noise-equivalent backscatter, linear
RESPONSE = (
    1.4  # pixels: standard deviation of the impulse response; speckle of neighbours then correlates by 0.77, as in
)
# the patches of BigEarthNet, whose images were resampled to 10 m
WOODY = ("broadleaf", "conifer", "orchard", "olive", "shrub", "heath", "vine")


def backscatter(rng: np.random.Generator, land: Landscape, look: float) -> np.ndarray:
    """Backscatter without speckle on the 10 m grid.

    Args:
        rng: source of randomness.
        land: the landscape, (rows, cols) cells.
        look: direction in which the radar looks, radians clockwise from east; 0.2 ascending, about 2.94 descending.

    Returns:
        (2, rows / 2, cols / 2) float32, sigma nought of VV and VH, linear.
    """
    shape = land.cover.shape
    depth = lookup("depth", land)
    plants = np.where(is_cover(land, *WOODY), np.maximum(land.green, 0.8), land.green) * (1 - 0.45 * land.dry)
    through = np.exp(-2 * depth * plants * land.volume)  # two-way transmissivity of the vegetation
    soil = _soil_db(land, look)
    texture = 0.45 * coarse(rng, shape, 1.2, 50, 4) + 0.5 * fractal(rng, shape, 0.6, 16, 1.5) * (depth > 0)
    structure = 1.8 * ((land.parcel * 9176 % 1021) / 1021 - 0.5)  # stems, leaves, row spacing: nothing optical shows it
    texture = texture + structure * (depth > 0) + _facing_db(land, look)
    texture[is_cover(land, *WATERS)] = 0
    wind = rng.normal(0, 2.5) + 0.35 * coarse(rng, shape, 1.3, 150)
    corner = _corner_db(rng, land, look)
    seen = []
    for name, under, sea in (("vv", soil, 1.0), ("vh", soil - 11.5, 0.3)):
        full = lookup(name, land) + sea * wind * is_cover(land, *WATERS) + corner
        power = 10 ** (full / 10) * np.where(depth > 0, 1 - through, 1)
        power = power + 10 ** (under / 10) * np.where(depth > 0, through, 0)
        seen.append(to_pixels(power * 10 ** (texture / 10)))
    power_blur = RESPONSE / np.sqrt(2)  # the squared response
    return ndimage.gaussian_filter(np.stack(seen).astype(np.float32), (0, power_blur, power_blur)) + np.float32(NOISE)


def _soil_db(land, look):
    """VV of bare soil: moisture, roughness, and rows that lie across the look direction."""
    off = np.mod(land.rows - look + np.pi / 2 + np.pi / 2, np.pi) - np.pi / 2
    rows = 3.0 * np.exp(-((off / np.radians(14)) ** 2)) * is_cover(land, *CROPS)
    return -17.2 + 6.5 * land.moisture + land.rough + rows


def _facing_db(land, look):
    """Gain of slopes and of the edges of woods that face the radar, loss of those turned away."""
    top = land.elevation + 0.35 * ndimage.gaussian_filter(land.height, 1.5)
    south, east = np.gradient(top, CELL)
    rise = np.arctan(np.cos(look) * east + np.sin(look) * south)
    local = np.clip(INCIDENCE - rise, np.radians(9), np.radians(88))
    return np.clip(10 * np.log10(np.sin(INCIDENCE) / np.sin(local)) + 4 * rise, -5, 6)


def _corner_db(rng, land, look):
    """Double bounce of buildings: strong where a wall faces the radar, very uneven from house to house."""
    roof = is_cover(land, *ROOFS)
    off = np.mod(land.axis - look + np.pi / 4, np.pi / 2) - np.pi / 4
    facing = 6 * np.exp(-((off / np.radians(12)) ** 2)) - 1.5
    return np.where(roof, facing + 4.5 * rng.standard_normal(roof.shape, dtype=np.float32), 0)


def speckle(rng: np.random.Generator, shape: tuple[int, ...], looks: float = LOOKS) -> np.ndarray:
    """Multiplicative speckle of mean 1 and variance 1 / looks, with the correlation of a radar image.

    Each look is the squared magnitude of a complex Gaussian field blurred by the impulse response. Looks that overlap,
    as in Sentinel-1 GRD images, count for less than one: here the last look has a smaller weight, so that the
    equivalent number of looks, mean² / variance, is exact.

    Args:
        rng: source of randomness.
        shape: (..., rows, cols).
        looks: equivalent number of looks, above 1.

    Returns:
        Array of the given shape, linear power, float32.

    Raises:
        ValueError: looks of 1 or below.
    """
    if looks <= 1:
        raise ValueError(f"looks must be above 1, got {looks}; a Sentinel-1 GRD image has about {LOOKS}")
    full = int(np.ceil(looks)) - 1  # looks of weight 1
    last = (full - np.sqrt(full**2 - (looks - 1) * (looks * full - full**2))) / (looks - 1)
    blur = (0,) * (len(shape) - 2) + (RESPONSE, RESPONSE)
    kernel = np.zeros(33)
    kernel[16] = 1
    gain = np.sum(ndimage.gaussian_filter1d(kernel, RESPONSE) ** 2)  # of the variance, in rows and again in columns
    total = np.zeros(shape, np.float32)
    for weight in (*[1.0] * full, last):
        for _ in range(2):  # real and imaginary part
            part = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), blur, mode="wrap")
            total += np.float32(weight / (2 * gain**2)) * part**2
    return total / np.float32(full + last)
