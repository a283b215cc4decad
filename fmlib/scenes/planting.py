"""What grows on each parcel of a landscape, in what state, and how tall it stands."""

import numpy as np
from scipy import ndimage

from fmlib.scenes.biomes import BLOOM, COVER, COVERS, CROPS, drought, grow, leaves
from fmlib.scenes.parcels import coarse, fractal, moments
from fmlib.scenes.sensors import WATERS, is_cover

COVER_OF = {
    111: "garden", 112: "garden", 121: "yard", 221: "vine", 222: "orchard", 223: "olive", 231: "grass", 244: "grass",
    311: "broadleaf", 312: "conifer", 321: "grass", 322: "heath", 323: "shrub", 324: "shrub", 331: "sand", 332: "rock",
    333: "alpine_grass", 411: "reed", 412: "bog", 421: "saltmarsh", 511: "river", 512: "lake", 523: "sea",
}  # fmt: skip
TREES = ("broadleaf", "conifer")
# Green cover of what is not a crop: mean, and spread from parcel to parcel.
COVERAGE = {
    "grass": (0.93, 0.05), "orchard": (0.75, 0.1), "vine": (0.5, 0.12), "olive": (0.4, 0.1), "broadleaf": (0.95, 0.03),
    "conifer": (0.9, 0.06), "shrub": (0.68, 0.13), "heath": (0.75, 0.1), "bog": (0.7, 0.12), "reed": (0.8, 0.1),
    "saltmarsh": (0.6, 0.12), "alpine_grass": (0.5, 0.2), "garden": (0.75, 0.1),
}  # fmt: skip
HEIGHTS = {
    "wheat": 0.7, "rape": 1.2, "maize": 2.0, "sunflower": 1.6, "orchard": 4, "olive": 4, "broadleaf": 17, "conifer": 18,
    "shrub": 2.5, "reed": 2, "red_roof": 7, "grey_roof": 9, "white_roof": 9, "garden": 2,
}  # fmt: skip


def plant(rng: np.random.Generator, land) -> None:
    """Give each parcel a cover, a state of growth, a soil and a colour of its own."""
    count = int(land.parcel.max()) + 1
    code = np.zeros(count, np.int64)
    code[land.parcel] = land.code
    cover = np.array([COVER[COVER_OF.get(int(c), "grass")] for c in code], np.uint8)
    crops = np.array([COVER[name] for name in land.biome.crops])
    weights = np.array(list(land.biome.crops.values())) * rng.lognormal(0, 0.7, len(crops))
    choice = crops[rng.choice(len(crops), count, p=weights / weights.sum())]
    luck = rng.random(count)
    cover = np.where((code == 211) | ((code == 242) & (luck < 0.55)) | ((code == 243) & (luck < 0.45)), choice, cover)
    cover = np.where((code == 242) & (luck > 0.82), COVER["orchard"], cover)
    cover = np.where((code == 243) & (luck > 0.72), COVER["broadleaf"], cover).astype(np.uint8)
    green, dry, bloom, volume = _grown(rng, land, cover, code)
    tone = rng.normal(0, 1, (3, count)) * np.array([0.10, 0.09, 0.09])[:, None]
    wet = np.clip(rng.normal(rng.uniform(0.05, 0.65), 0.15, count), 0, 1)
    ploughed = np.abs(rng.normal(0, 1, count))
    x, y = land.x.ravel(), land.y.ravel()
    axis = moments(x, y, land.parcel.ravel(), count)[2]
    land.cover = cover[land.parcel]
    for name, values in (("green", green), ("dry", dry), ("bloom", bloom), ("volume", volume), ("rows", axis)):
        setattr(land, name, values[land.parcel].astype(np.float32))
    land.rough = (2.2 * ploughed)[land.parcel].astype(np.float32)
    land.moisture = wet[land.parcel].astype(np.float32)
    land.tone = tone[:, land.parcel].astype(np.float32)
    _vary_inside(rng, land)


def _grown(rng, land, cover, code):
    """Green cover, dryness, bloom and plant matter of each parcel at the day of the scene."""
    count = len(cover)
    green, dry, bloom = np.zeros(count), np.zeros(count), np.zeros(count)
    volume = rng.lognormal(0, 0.25, count)
    late = (land.biome.latitude - 48) * 1.3
    day = land.day - late + rng.normal(0, 7, count)
    for name in CROPS:
        here = cover == COVER[name]
        green[here], dry[here] = grow(name, day[here])
        if name == "rape":
            bloom[here] = np.clip(np.minimum(day[here] - BLOOM[0], BLOOM[1] - day[here]) / 4, 0, 1)
    bare = np.isin(cover, [COVER[name] for name in CROPS]) & (green < 0.12)
    stubble = bare & (rng.random(count) < 0.5)
    green[stubble], dry[stubble] = rng.uniform(0.3, 0.75, stubble.sum()), 1.0
    volume[stubble] = 0.15
    summer, (crown, autumn) = drought(land.day, land.biome.latitude), leaves(land.day, land.biome.latitude)
    winter = 0.84 + 0.16 * np.clip(np.sin((land.day - 60) / 365 * 2 * np.pi) + 0.6, 0, 1)
    for name, (mean, spread) in COVERAGE.items():
        here = cover == COVER[name]
        green[here] = np.clip(rng.normal(mean, spread, here.sum()), 0.05, 1)
        if name in ("grass", "alpine_grass", "garden", "reed", "bog", "saltmarsh"):
            green[here] *= winter
            dry[here] = np.clip(summer * (0.5 if name == "garden" else 1) + rng.normal(0.05, 0.1, here.sum()), 0, 1)
        if name == "broadleaf" and land.biome.latitude > 42:
            green[here] *= crown
            dry[here] = np.clip(autumn + rng.normal(0, 0.08, here.sum()), 0, 1)
        if name in ("vine", "orchard", "shrub", "heath"):
            green[here] *= 0.55 + 0.45 * crown
            dry[here] = np.clip(0.5 * summer + 0.3 * autumn + rng.normal(0, 0.05, here.sum()), 0, 1)
    mown = (code == 231) & (rng.random(count) < 0.25) & (winter > 0.9)
    green[mown] *= rng.uniform(0.55, 0.8, mown.sum())
    volume[mown] *= 0.4
    return green, dry, bloom, volume


def _vary_inside(rng, land) -> None:
    """Soil patches, wet hollows and rows within parcels."""
    shape = land.cover.shape
    patches, hollow = coarse(rng, shape, 1.3, 60, 5), coarse(rng, shape, 1.6, 120)
    open_cover = 4 * land.green * (1 - land.green) + 0.25
    land.green = np.clip(land.green + 0.07 * patches * open_cover, 0, 1)
    land.dry = np.clip(land.dry + 0.08 * patches * (land.dry > 0.05), 0, 1)
    land.moisture = np.clip(land.moisture + 0.1 * hollow, 0, 1)
    land.tone[0] += 0.03 * fractal(rng, shape, 1.2, 80, 1) - 0.05 * hollow
    across = np.cos(land.rows) * land.y - np.sin(land.rows) * land.x
    number = land.parcel.astype(np.float32)
    stripes = np.sin(np.float32(2 * np.pi) * across / (18 + 3 * (number % 7)) + number)
    strength = np.where(land.parcel % 3 == 0, np.float32(0.05), np.float32(0.012))
    field = is_cover(land, *CROPS, "grass", "vine", "orchard")
    land.tone[0] += strength * stripes * field
    land.green = np.clip(land.green - strength * (stripes > 0.6) * field, 0, 1)


def mix_covers(rng: np.random.Generator, land, shore: np.ndarray) -> None:
    """Mix covers inside natural zones: stands, glades, scattered trees, scree, banks."""
    shape = land.cover.shape
    fine, patch = fractal(rng, shape, 0.9, 30, 1.5), coarse(rng, shape, 1.4, 60, 5)
    crown = leaves(land.day, land.biome.latitude)[0] if land.biome.latitude > 42 else 1.0
    tree = {"broadleaf": {"green": 0.95 * crown, "dry": 0.1}, "conifer": {"green": 0.9, "dry": 0.0}}
    code, luck = land.code, (land.parcel * 40503 % 1009) / 1009
    blend = 0.55 * fine + 0.9 * patch + 2.2 * (luck - 0.5)
    land.paint((code == 313) & (blend > 0), "conifer", **tree["conifer"])
    land.paint((code == 313) & (blend <= 0), "broadleaf", **tree["broadleaf"])
    land.paint((code == 312) & (blend > 1.9), "broadleaf", **tree["broadleaf"])
    land.paint((code == 311) & (blend < -2.2) & (land.biome.latitude > 42), "conifer", **tree["conifer"])
    own = (
        "conifer"
        if 312 in land.biome.forest and max(land.biome.forest, key=land.biome.forest.get) == 312
        else "broadleaf"
    )
    few = fractal(rng, shape, 0.35, 12, 0.7)
    land.paint((code == 244) & (few > 1.25 + 0.5 * patch), "broadleaf", **tree["broadleaf"])
    land.paint((code == 243) & (fine + 0.6 * patch > 1.5), "broadleaf", **tree["broadleaf"])
    land.paint((code == 324) & (few + 0.8 * patch + 2 * (luck - 0.5) > 1.1), own, **tree[own])
    land.paint(np.isin(code, (322, 323, 412)) & (few > 1.9 + patch), own, **tree[own])
    land.paint((code == 231) & (few > 2.9), "broadleaf", **tree["broadleaf"])
    cleared = (code == 324) & (luck > 0.7)
    land.green[cleared] *= 0.55
    land.volume[cleared] *= 0.4
    high = land.elevation + 90 * patch + 60 * fine
    land.paint((code == 333) & (fine + patch > 0.2), "rock", green=0.0)
    land.paint((code == 321) & (high > 1700), "alpine_grass")
    land.paint((code == 332) & (high > 2560) | (code == 333) & (high > 2700), "snow", green=0.0)
    pool = np.isin(code, (412, 411, 421)) & (fine + 0.9 * patch > 1.7)
    land.paint(pool, "lake" if land.biome.base > 20 else "sea", green=0.0)
    land.moisture[np.isin(code, (412, 411, 421))] = 0.85
    dune = (code == 331) & (shore > 12) & (patch + fine > 0.9)
    land.paint(dune, "heath", green=0.5)
    land.moisture[code == 331] = np.clip(1 - shore[code == 331] / 15, 0.05, 1)


def raise_heights(rng: np.random.Generator, land) -> None:
    """Heights of trees and buildings, with crowns and stands of different age."""
    table = np.array([HEIGHTS.get(name, 0.0) for name in COVERS], np.float32)
    woods = is_cover(land, *TREES)
    age = 0.55 + 0.75 * ((land.parcel * 7919 % 997) / 997)
    crowns = fractal(rng, land.cover.shape, 0.5, 8, 0.8)
    land.height = table[land.cover] * np.where(woods, age * (1 + 0.2 * crowns), 1).astype(np.float32)
    land.height[is_cover(land, *CROPS)] *= 0.5
    land.tone[0] -= np.where(woods, 0.22 * (age - 0.9) - 0.10 * crowns, 0).astype(np.float32)
    land.volume = np.where(woods, land.volume * np.clip(age, 0.6, 1.2), land.volume).astype(np.float32)
    water = is_cover(land, *WATERS)
    land.green[water], land.tone[:, water] = 0.0, land.tone[:, water] * 0.2
    land.height = ndimage.gaussian_filter(land.height, 0.5)
