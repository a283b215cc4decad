"""The optical and the thermal sensor: a landscape in 12 bands of Sentinel-2 (L2A), and its surface temperature."""

import math

import numpy as np
from scipy import ndimage

from fmlib.scenes.landscape import CELL, Landscape
from fmlib.scenes.parcels import coarse, fractal
from fmlib.scenes.sensors import BANDS, COVERS, ENDMEMBERS, INDEX, NATIVE, PHYSICS, is_cover, lookup, to_pixels

# How brightness in each band follows a parcel's greenness and wetness (rows 1 and 2 of `Landscape.tone`).
GREENNESS = (-0.6, -0.6, -0.2, -1.0, -0.5, 0.4, 0.6, 0.6, 0.6, 0.6, 0.0, -0.2)
WETNESS = (0.0, 0.0, 0.1, 0.0, 0.0, 0.1, 0.2, 0.2, 0.2, 0.2, -1.0, -1.3)
SKYLIGHT = (0.35, 0.3, 0.22, 0.17, 0.14, 0.12, 0.11, 0.1, 0.1, 0.1, 0.05, 0.04)  # share of light that reaches shadows
HAZE = (1.0, 0.8, 0.5, 0.35, 0.3, 0.2, 0.18, 0.15, 0.12, 0.1, 0.03, 0.02)


def sun(land: Landscape) -> tuple[float, float]:
    """Elevation and azimuth of the sun in radians at the overpass, about 10:30 local solar time."""
    tilt = np.radians(23.44) * np.sin(2 * np.pi * (land.day - 81) / 365)
    latitude, hour = np.radians(land.biome.latitude), np.radians(-20)
    height = np.sin(latitude) * np.sin(tilt) + np.cos(latitude) * np.cos(tilt) * np.cos(hour)
    return float(max(np.arcsin(height), np.radians(8))), float(np.radians(158))


def sunlight(land: Landscape) -> tuple[np.ndarray, np.ndarray]:
    """Direct light on each cell relative to flat ground, and how far it lies in a cast shadow (0..1)."""
    elevation, azimuth = sun(land)
    south, east = np.gradient(land.elevation, CELL)
    to_east, to_north, low = math.sin(azimuth), math.cos(azimuth), 1 / math.tan(elevation)
    shade = (1 + low * (south * to_north - east * to_east)) / np.sqrt(1 + south**2 + east**2)
    cast, fall = np.zeros_like(land.height), CELL * math.tan(elevation)
    for step in range(1, 1 + int(min(24 / fall, 8))):
        move = round(step * to_north), round(-step * to_east)  # shadows point away from the sun
        taller = np.roll(land.height, move, axis=(0, 1))
        cast = np.maximum(cast, np.clip((taller - step * fall - land.height) / 5, 0, 1))
    return np.clip(shade, 0.25, 1.7), cast


def reflectance(rng: np.random.Generator, land: Landscape) -> np.ndarray:
    """Surface reflectance on the 10 m grid.

    Args:
        rng: source of randomness.
        land: the landscape, (rows, cols) cells.

    Returns:
        (12, rows / 2, cols / 2) float32, reflectance × 10,000, bands in the order of `BANDS`.
    """
    shape = land.cover.shape
    noise = 0.8 * fractal(rng, shape, 0.5, 12, 0.8) + 0.6 * rng.standard_normal(shape, dtype=np.float32)
    base = land.tone[0] + lookup("texture", land) * noise
    shade, cast = sunlight(land)
    direct, haze = shade * (1 - 0.85 * cast), rng.lognormal(4.0, 0.5)
    leaf = np.array([INDEX[PHYSICS[name].leaves] for name in COVERS])
    ground = np.array([INDEX.get(PHYSICS[name].ground, INDEX["dark_soil"]) for name in COVERS])
    parts = _abundances(rng, land)
    leaves, bare = parts.pop("leaves"), parts.pop("ground")
    parts = [(INDEX[name], part) for name, part in parts.items() if part.any()]
    out = np.empty((len(BANDS), shape[0] // 2, shape[1] // 2), np.float32)
    for b in range(len(BANDS)):
        end = ENDMEMBERS[:, b]
        seen = end[leaf][land.cover] * leaves + end[ground][land.cover] * bare
        for index, part in parts:
            seen += end[index] * part
        seen *= np.exp(base + GREENNESS[b] * land.tone[1] + WETNESS[b] * land.tone[2])
        seen *= (1 - SKYLIGHT[b]) * direct + SKYLIGHT[b]
        out[b] = to_pixels(seen) + haze * HAZE[b]
    return out


def _abundances(rng, land) -> dict[str, np.ndarray]:
    """Share of each cell that each spectrum takes; "leaves" and "ground" stand for those of the cell's cover."""
    soil = np.array([PHYSICS[name].ground == "soil" for name in COVERS])[land.cover]
    parcel = (land.parcel * 7907 % 1013).astype(np.float32) / 1013 - np.float32(0.5)
    light = land.biome.soil + 0.8 * parcel + 0.1 * coarse(rng, soil.shape, 1.3, 120, 6)
    light = soil * np.clip(light, 0, 1)
    turbid = _turbidity(rng, land)
    dry, bare = 0.85 * land.dry, (1 - land.green) * (1 - 0.4 * land.moisture * soil)  # wet soil is darker
    return {
        "leaves": land.green * np.clip(1 - dry - land.bloom, 0, 1),
        "straw": land.green * dry,
        "bloom": land.green * land.bloom,
        "ground": bare * (1 - light) * (1 - turbid),
        "light_soil": bare * light,
        "turbid": bare * turbid,
    }


def _turbidity(rng, land):
    """Share of turbid water, 0..1: along shores and in plumes of the sea, and evenly in a lake or river."""
    sea, fresh = is_cover(land, "sea"), is_cover(land, "lake", "river")
    plume = 0.25 * (1 + coarse(rng, sea.shape, 1.4, 150))
    strength, near_shore, inland = rng.uniform(0, 0.5), rng.uniform(0.3, 1.6), 0.7 * rng.beta(0.8, 2.0)
    if not sea.any():
        return (fresh * inland).astype(np.float32)
    near = ndimage.uniform_filter((~(sea | fresh)).astype(np.float32), 31)
    return (sea * np.clip(strength * plume + near_shore * near, 0, 1) + fresh * inland).astype(np.float32)


def add_clouds(
    rng: np.random.Generator, cube: np.ndarray, cover: float, sun_height: float
) -> tuple[np.ndarray, np.ndarray]:
    """Put bright clouds with soft edges over an optical image, and their shadows to its north-west.

    Args:
        rng: source of randomness.
        cube: (12, rows, cols) reflectance × 10,000 on the 10 m grid.
        cover: share of the image under cloud, 0..1.
        sun_height: elevation of the sun in radians.

    Returns:
        The cloudy image, and the mask of its clouds, (rows, cols) bool.
    """
    rows, cols = cube.shape[1:]
    far = 40
    sky = fractal(rng, (rows + far, cols + far), 1.5, 70, 1.5)
    edge = np.quantile(sky[far:, :cols], 1 - cover) if cover < 1 else sky.min() - 1
    thick = 1 - np.exp(-np.clip(sky - edge, 0, None) / 0.35)
    drift = min(far, round(rng.uniform(100, 260) / np.tan(sun_height) / 10))
    aside = round(0.4 * drift)
    cloud = thick[far:, :cols]
    shadow = thick[far - (far - drift) :, aside:][:rows, :cols] if drift < far else thick[far:, aside:][:rows, :cols]
    shadow = ndimage.gaussian_filter(shadow, 1.5)
    white = np.array((7600, 7700, 7500, 7500, 7600, 7700, 7700, 7700, 7600, 6200, 4900, 3800), np.float32)
    top = white[:, None, None] * (0.75 + 0.25 * ndimage.gaussian_filter(cloud, 1))
    dark = cube * (1 - 0.65 * (1 - np.array(SKYLIGHT, np.float32))[:, None, None] * shadow)
    alpha = np.clip(1.15 * cloud, 0, 1)
    return (dark + alpha * (top - dark)).astype(np.float32), sky[far:, :cols] > edge


def sample_bands(rng: np.random.Generator, cube: np.ndarray) -> dict[str, np.ndarray]:
    """Bring each band to its native size, with detector noise, as stored.

    Args:
        rng: source of randomness.
        cube: (12, rows, cols) reflectance × 10,000 on the 10 m grid; rows and cols divisible by 6.

    Returns:
        Band name: uint16 array of 1/1, 1/2 or 1/6 of the size; 1 at least, as 0 means no data.
    """
    bands = {}
    for band, image in zip(BANDS, cube, strict=True):
        step = NATIVE[band] // 10
        mean = image.reshape(image.shape[0] // step, step, image.shape[1] // step, step).mean((1, 3))
        noise = rng.standard_normal(mean.shape, dtype=np.float32) * (8 + 0.006 * mean)
        bands[band] = np.clip(np.rint(mean + noise), 1, 65535).astype(np.uint16)
    return bands


def temperature(rng: np.random.Generator, land: Landscape) -> np.ndarray:
    """Surface temperature in the morning, as a thermal imager of about 100 m resolution sees it.

    Args:
        rng: source of randomness.
        land: the landscape, (rows, cols) cells.

    Returns:
        (rows / 2, cols / 2) float32, kelvin.
    """
    height, _ = sun(land)
    season = np.sin(height)
    air = 270 + 32 * season - 0.25 * (land.biome.latitude - 48) - 0.0065 * land.elevation + rng.normal(0, 3)
    shade, cast = sunlight(land)
    bare = (
        9 * (1 - land.green) * (1 - 0.6 * land.moisture) * np.array([PHYSICS[c].depth > 0 for c in COVERS])[land.cover]
    )
    skin = air + season * (lookup("warm", land) + bare + 3 * land.dry * land.green + 8 * (shade - 1) - 4 * cast)
    wet = is_cover(land, "lake", "river", "sea")
    skin = np.where(wet, 277 + 16 * season * np.exp(-(((land.day - 215) / 120) ** 2)), skin)
    seen = ndimage.gaussian_filter(to_pixels(skin), 3.5)
    return (seen + rng.normal(0, 0.05, seen.shape)).astype(np.float32)
